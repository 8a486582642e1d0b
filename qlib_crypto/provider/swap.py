"""The folder a new provider is built in, one builder at a time, and its exchange with the old one.

Beside `qlib_data/` lies `qlib_data.work/` with the lock, the provider being built (`new`) and, for an instant, the
replaced one (`old`).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qlib_crypto.errors import ConfigError, StorageError
from qlib_crypto.provider import specs
from qlib_crypto.provider.manifest import NAME
from qlib_crypto.provider.write import sync

#: What a conversion writes.
PARTS = ("calendars", "features", "instruments", specs.NAME, NAME)
#: Qlib's own caches of an older provider, which would be stale beside a new one.
_CACHES = ("calendars_cache", "features_cache", "instruments_cache", "dataset_cache")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def workplace(provider_dir: Path) -> Iterator[Path]:
    """An empty folder beside `provider_dir`, ours alone; what is left in it goes afterwards.

    Raises
    ------
    ConfigError
        When `provider_dir` holds something that no conversion wrote.
    StorageError
        When another process is building this provider.

    """
    work = provider_dir.with_name(provider_dir.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StorageError(
                f"another convert (process {lock.read().strip() or 'unknown'}) is writing {provider_dir}; "
                "wait until it has finished"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        new, old = work / "new", work / "old"
        if old.exists() and not provider_dir.exists():  # killed between the two renames of `swap`
            old.rename(provider_dir)
        _refuse_foreign(provider_dir)
        _remove(new)
        _remove(old)
        new.mkdir()
        try:
            yield new
        finally:  # what cannot be removed now goes at the next conversion
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def swap(new: Path, provider_dir: Path) -> None:
    """Put `new` in the place of `provider_dir`, which then lies in `new`; other files of the old folder are kept.

    Where the system can exchange two names at once, a reader sees the old or the new provider at every instant.
    """
    if not provider_dir.exists():
        new.rename(provider_dir)
    else:
        for path in provider_dir.iterdir():
            if path.name not in (*PARTS, *_CACHES):
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
