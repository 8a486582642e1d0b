"""One process at a time, or a line that names the one that works."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qlib_crypto.errors import StorageError


@contextmanager
def alone(lock: Path, refusal: Callable[[str], str]) -> Iterator[None]:
    """Hold a lock file, with our process id in it; whoever dies lets go of it.

    Raises
    ------
    StorageError
        Another process holds it: `refusal` of that process' id.

    """
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StorageError(refusal(file.read().strip() or "unknown")) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
