"""One daemon a lake: a lock that dies with the daemon, and one that its children hold until the last has ended."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qlib_crypto.errors import StorageError

#: Held by the daemon alone; the file names its process.
FILE = "daemon.lock"
#: Held by the daemon and inherited by its children.
CHILDREN_FILE = "daemon.children.lock"

_LOOK_S = 0.1


@contextmanager
def daemon_lock(lake_dir: Path, *, wait_s: float, stopped: Callable[[], bool] = lambda: False) -> Iterator[int]:
    """A file descriptor for the children to inherit, while the block runs the only daemon of this lake.

    Children of a daemon that was killed are waited for, `wait_s` wall seconds at most: they end themselves.

    Raises
    ------
    StorageError
        Another daemon works on this lake (the message names its process), or such children do not end.

    """
    path, children = lake_dir / FILE, lake_dir / CHILDREN_FILE
    held: list[int] = []
    try:
        try:
            lake_dir.mkdir(parents=True, exist_ok=True)
            held += [os.open(file, os.O_RDWR | os.O_CREAT, 0o644) for file in (path, children)]
        except OSError as error:
            raise StorageError(
                f"{error.filename}: {error.strerror}; check the lake's folder and its permissions"
            ) from None
        if not _taken(held[0]):
            owner = os.pread(held[0], 32, 0).decode(errors="replace").strip() or "unknown"
            raise StorageError(f"{path}: daemon {owner} works on this lake; stop that one, or give another --lake")
        os.ftruncate(held[0], 0)
        os.pwrite(held[0], f"{os.getpid()}\n".encode(), 0)
        until = time.monotonic() + wait_s
        while not _taken(held[1]):
            if time.monotonic() >= until or stopped():
                raise StorageError(f"{children}: processes of a daemon that was killed still work here; end them")
            time.sleep(_LOOK_S)
        yield held[1]
    finally:
        for file in held:
            os.close(file)


def _taken(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
