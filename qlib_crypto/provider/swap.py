"""The folder a new provider is built in, one builder at a time, and its exchange with the old one.

Beside `qlib_data/` lies `qlib_data.work/` with the lock, the provider being built (`new`) and, for an instant, the
replaced one (`old`); or what an update changes (`update_files`).
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qlib_crypto.errors import ConfigError
from qlib_crypto.lake.alone import alone
from qlib_crypto.provider import dirty, specs
from qlib_crypto.provider.manifest import NAME
from qlib_crypto.provider.update_files import CACHES, COMMIT, NEXT, apply
from qlib_crypto.provider.write import sync

#: What a conversion writes.
PARTS = ("calendars", "features", "instruments", "settlements", *specs.NAMES, dirty.NAME, NAME)
#: What nobody needs once a conversion is over.
_LEFT = ("new", "old", NEXT, "done")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def workplace(provider_dir: Path) -> Iterator[Path]:
    """The folder beside `provider_dir` that work is done in, ours alone; what is left in it goes afterwards.

    An update that was decided and not finished is finished first.

    Raises
    ------
    ConfigError
        When `provider_dir` holds something that no conversion wrote.
    StorageError
        When another process is building this provider.

    """
    work = provider_dir.with_name(provider_dir.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    with alone(
        work / "lock",
        lambda other: f"another convert (process {other}) is writing {provider_dir}; wait until it has finished",
    ):
        if (work / "old").exists() and not provider_dir.exists():  # killed between the two renames of `swap`
            (work / "old").rename(provider_dir)
        _refuse_foreign(provider_dir)
        apply(provider_dir, work, durable=True)
        for name in _LEFT:
            _remove(work / name)
        try:
            yield work
        finally:  # what cannot be removed now goes at the next conversion
            for name in _LEFT:
                shutil.rmtree(work / name, ignore_errors=True)


def unfinished(provider_dir: Path) -> bool:
    """Whether an update is being put in place, or was stopped while it was."""
    own = provider_dir.resolve()
    return (own.with_name(own.name + ".work") / COMMIT).exists()


def swap(new: Path, provider_dir: Path) -> None:
    """Put `new` in the place of `provider_dir`, which then lies in `new`; other files of the old folder are kept.

    Where the system can exchange two names at once, a reader sees the old or the new provider at every instant.
    """
    if not provider_dir.exists():
        new.rename(provider_dir)
    else:
        for path in provider_dir.iterdir():
            if path.name not in (*PARTS, *CACHES):
                copy = shutil.copytree if path.is_dir() else shutil.copy2
                copy(path, new / path.name)
        if not _exchange(new, provider_dir):
            old = new.with_name("old")
            provider_dir.rename(old)
            new.rename(provider_dir)
    sync(provider_dir.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Whether two names were exchanged in one step: Linux' `renameat2`, where the file system knows it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _refuse_foreign(provider_dir: Path) -> None:
    if provider_dir.exists() and not provider_dir.is_dir():
        raise ConfigError(f"provider {provider_dir} is a file; give --provider a folder")
    made_here = (provider_dir / NAME).exists()
    found = [name for name in PARTS if (provider_dir / name).exists()]
    if found and not made_here:
        raise ConfigError(
            f"{provider_dir} has {found[0]}/ but no {NAME}: another program made it; "
            "move it away or give --provider another folder"
        )


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
