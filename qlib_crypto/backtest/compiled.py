"""Functions compiled with numba, cached on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import numba

_njit: Callable[..., Any] = numba.njit
_config: Any = numba.config


def compiled[F: Callable[..., Any]](function: F) -> F:
    """The function, compiled when it is first called, without any freedom to reorder arithmetic.

    Without numba's reference counts (`_nrt`), which took half of the time: such a function makes no array, and returns
    none that it did not get.

    It is kept below `NUMBA_CACHE_DIR`, or the user's cache, in a folder named by the sources of this package: numba
    itself would not see that a function which another one calls has changed.
    """
    with _cached_in(_folder()):
        return cast("F", _njit(cache=True, error_model="numpy", _nrt=False)(function))


@contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        _config.CACHE_DIR = before


def inlined[F: Callable[..., Any]](function: F) -> F:
    """As `compiled`, and put into each compiled function that calls it.

    Handing a few arrays on takes as long as an order: of the bars, all that is done most of the time is one function.
    """
    with _cached_in(_folder()):
        return cast("F", _njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)(function))


def pasted[F: Callable[..., Any]](function: F) -> F:
    """As `inlined`, but before anything is compiled: for what is large and has few callers.

    What `inlined` takes is compiled alone too, and again with each caller: a minute for a bar.
    """
    return cast("F", _njit(error_model="numpy", _nrt=False, inline="always")(function))


def is_compiled() -> bool:
    """Whether some of it is in the cache already: otherwise what is called first compiles for about a minute."""
    return any(_folder().glob("*/*.nbi"))


@cache
def _folder() -> Path:
    sources = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.read_bytes())
    given = _config.CACHE_DIR
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (Path(given) if given else user / "qlib-crypto" / "numba") / sources.hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to
        folder = Path(tempfile.gettempdir()) / f"qlib-crypto-{os.getuid()}" / sources.hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
    return folder
