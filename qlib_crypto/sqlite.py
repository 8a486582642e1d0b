"""What our SQLite files share: one durable transaction at a time, and refusals of the disk in our words."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qlib_crypto.errors import StorageError

#: Between two tries at `log_ahead`.
_PAUSE_S = 0.01


def log_ahead(connection: sqlite3.Connection, busy_s: float) -> None:
    """Write-ahead logging with every commit on disk.

    SQLite waits for other connections everywhere but where two of them make a new file such a one: there `timeout` does
    not count, so it is tried for `busy_s` seconds.
    """
    end = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorname", "") != "SQLITE_BUSY" or time.monotonic() > end:
                raise
            time.sleep(_PAUSE_S)
    connection.execute("PRAGMA synchronous = FULL")


@contextmanager
def committed(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A write transaction: other writers wait; committed at the end, rolled back on any error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def storage_faults(
    what: str, path: Path, doing: str, *, damaged: str, kept: str = "", again: bool = False
) -> Iterator[None]:
    """Errors of SQLite and the disk as `StorageError`, one line.

    Parameters
    ----------
    what, path, doing
        Which file, and what could not be done with it: `hot store`, its path, `write`.
    damaged
        What to do when the file is no database any more.
    kept
        What is safe nevertheless, unless the file is damaged.
    again
        Whether the advice ends with running again.

    """
    try:
        yield
    except sqlite3.Error as error:
        advice = {
            "SQLITE_FULL": "free disk space" + (" and run again" if again else ""),
            "SQLITE_BUSY": "another process holds it; wait for that one or stop it",
            "SQLITE_NOTADB": damaged,
            "SQLITE_CORRUPT": damaged,
        }.get(getattr(error, "sqlite_errorname", ""), _check(again=again))
        safe = "" if advice is damaged else kept
        raise StorageError(f"{what} {path}: cannot {doing} ({error}); {safe}{advice}") from error
    except OSError as error:
        raise StorageError(
            f"{error.filename or path}: cannot {doing} ({error.strerror or error}); {_check(again=again)}"
        ) from error


def _check(*, again: bool) -> str:
    return "check disk space and permissions" + (", then run again" if again else "")
