"""The hot store: one SQLite file a venue for rows that are durable but not yet sealed, and the ledger of seals.

A call that stores rows is one transaction, synced to disk before it returns (WAL, `synchronous=FULL`). Several
processes may write: each waits for the others.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from qlib_crypto.errors import StorageError
from qlib_crypto.lake.tables import TABLES, Table, Values

_BUSY_S = 60.0
_KEY = ("symbol", "interval_ms", "slot_ms")

_LEDGER = """
CREATE TABLE IF NOT EXISTS ledger (
    id INTEGER PRIMARY KEY, sealed_ms INTEGER NOT NULL, file TEXT NOT NULL, rows INTEGER NOT NULL,
    added INTEGER NOT NULL, replaced INTEGER NOT NULL, content_hash TEXT NOT NULL
)"""
_MARKS = """
CREATE TABLE IF NOT EXISTS marks (
    symbol TEXT NOT NULL, interval_ms INTEGER NOT NULL, mark_ms INTEGER NOT NULL, PRIMARY KEY (symbol, interval_ms)
) WITHOUT ROWID"""

_DAMAGED = "the file is damaged: move it away, sealed files stay; then back-fill the days that were not sealed"


class Held(NamedTuple):
    """What the hot store holds of one symbol and interval: number of rows, first and last slot."""

    symbol: str
    interval_ms: int
    rows: int
    first_ms: int
    last_ms: int


class Sealed(NamedTuple):
    """A line of the ledger: which file was written when, how many rows it has, are new, or were replaced by better."""

    sealed_ms: int
    file: str
    rows: int
    added: int
    replaced: int
    content_hash: str


class HotStore:
    """The hot rows of one venue; the file is made by the first write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._inherited: sqlite3.Connection | None = None
        self._pid = os.getpid()

    def put(self, table: Table, rows: Sequence[Values]) -> int:
        """The count of new or replaced rows; all are on disk when this returns.

        A row replaces another at its key when its rank is higher, or equal and a value differs.

        Raises
        ------
        StorageError
            The disk refused; none of these rows is stored, all earlier ones are.

        """
        if not rows:
            return 0
        with self.transaction() as connection:
            return connection.executemany(_upsert(table), rows).rowcount

    def rows(
        self,
        table: Table,
        symbol: str | None = None,
        interval_ms: int = 0,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[Values]:
        """Rows `(symbol, rank, *values)` with slots in `[start_ms, end_ms)`, sorted by symbol and slot."""
        where, bound = _where(symbol, interval_ms, start_ms, end_ms)
        columns = ", ".join(["symbol", "rank", *table.values])
        return self._read(f"SELECT {columns} FROM {table.name} {where} ORDER BY symbol, slot_ms", bound)  # noqa: S608 - names are constants, values are bound

    def held(self, table: Table) -> list[Held]:
        """What the table holds, one entry a symbol and interval."""
        columns = "symbol, interval_ms, count(*), min(slot_ms), max(slot_ms)"
        return [Held(*row) for row in self._read(f"SELECT {columns} FROM {table.name} GROUP BY 1, 2")]  # noqa: S608 - names are constants

    def slots(
        self,
        table: Table,
        symbol: str | None = None,
        interval_ms: int = 0,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[int]:
        """Ascending distinct slots in `[start_ms, end_ms)`."""
        where, bound = _where(symbol, interval_ms, start_ms, end_ms)
        return [row[0] for row in self._read(f"SELECT DISTINCT slot_ms FROM {table.name} {where} ORDER BY 1", bound)]  # noqa: S608 - names are constants, values are bound

    def first_slot(self, table: Table, symbol: str, interval_ms: int, start_ms: int) -> int | None:
        """The first slot at or after `start_ms`, None when there is none."""
        where, bound = _where(symbol, interval_ms, start_ms, None)
        found: int | None = self._read(f"SELECT min(slot_ms) FROM {table.name} {where}", bound)[0][0]  # noqa: S608 - names are constants, values are bound
        return found

    def last_slot(self, table: Table, symbol: str, interval_ms: int) -> int | None:
        """The last slot, None when there is none."""
        where, bound = _where(symbol, interval_ms, None, None)
        found = self._read(f"SELECT max(slot_ms) FROM {table.name} {where}", bound)  # noqa: S608 - names are constants, values are bound
        return found[0][0] if found else None

    def put_marks(self, marks: Sequence[tuple[str, int, int]]) -> None:
        """Keep `(symbol, interval_ms, mark_ms)`, durable on return."""
        if marks:
            with self.transaction() as connection:
                connection.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", marks)

    def mark(self, symbol: str, interval_ms: int) -> int | None:
        """The mark kept last, None when there is none."""
        found = self._read("SELECT mark_ms FROM marks WHERE symbol = ? AND interval_ms = ?", [symbol, interval_ms])
        return found[0][0] if found else None

    def ledger(self) -> list[Sealed]:
        """Every seal, oldest first."""
        return [Sealed(*row) for row in self._read(f"SELECT {', '.join(Sealed._fields)} FROM ledger ORDER BY id")]  # noqa: S608 - names are constants

    def last_digest(self, file: str) -> str | None:
        """The content hash at the file's last seal, None when it was never sealed."""
        found = self._read("SELECT content_hash FROM ledger WHERE file = ? ORDER BY id DESC LIMIT 1", [file])
        return found[0][0] if found else None

    def record(self, connection: sqlite3.Connection, line: Sealed) -> None:
        """Add a line to the ledger, inside a transaction."""
        marks = ", ".join("?" * len(line))
        connection.execute(f"INSERT INTO ledger ({', '.join(Sealed._fields)}) VALUES ({marks})", line)  # noqa: S608 - names are constants, values are bound

    def discard(
        self,
        connection: sqlite3.Connection,
        table: Table,
        symbol: str | None,
        interval_ms: int,
        start_ms: int,
        end_ms: int,
    ) -> None:
        """Remove rows with slots in `[start_ms, end_ms)`, inside a transaction: their file is written and synced."""
        where, bound = _where(symbol, interval_ms, start_ms, end_ms)
        connection.execute(f"DELETE FROM {table.name} {where}", bound)  # noqa: S608 - names are constants, values are bound

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: other writers wait; committed and synced at the end, rolled back on an error."""
        connection = self._open(create=True)
        assert connection is not None  # noqa: S101 - create=True gives one; for the type checker
        with self._lock, self._faults("write"):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def _read(self, query: str, bound: Sequence[object] = ()) -> list[Values]:
        connection = self._open(create=False)
        if connection is None:
            return []
        with self._lock, self._faults("read"):
            return connection.execute(query, bound).fetchall()

    def _open(self, *, create: bool) -> sqlite3.Connection | None:
        with self._lock:
            if self._pid != os.getpid():  # SQLite connections must not cross a fork: the parent's is never touched
                self._inherited, self._connection, self._pid = self._connection, None, os.getpid()
            if self._connection is None and (create or self.path.is_file()):
                self._connection = self._connect()
            return self._connection

    def _connect(self) -> sqlite3.Connection:
        with self._faults("open"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute(_LEDGER)
                connection.execute(_MARKS)
                for table in TABLES:
                    connection.execute(_create(table))
            except BaseException:
                connection.close()
                raise
        return connection

    @contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            advice = {
                "SQLITE_FULL": "free disk space and run again",
                "SQLITE_BUSY": "another process holds it; wait for that one or stop it",
                "SQLITE_NOTADB": _DAMAGED,
                "SQLITE_CORRUPT": _DAMAGED,
            }.get(getattr(error, "sqlite_errorname", ""), "check disk space and permissions, then run again")
            kept = "" if advice is _DAMAGED else "what was acknowledged before is kept; "
            raise StorageError(f"hot store {self.path}: cannot {doing} ({error}); {kept}{advice}") from error
        except OSError as error:
            raise StorageError(
                f"{error.filename or self.path}: cannot {doing} ({error.strerror or error}); "
                "check disk space and permissions, then run again"
            ) from error


def _create(table: Table) -> str:
    kinds = {"double": "REAL", "string": "TEXT"}
    columns = [
        f"{name} {kinds.get(str(table.schema.field(name).type), 'INTEGER')}"
        + ("" if table.schema.field(name).nullable else " NOT NULL")
        for name in table.values
    ]
    return (
        f"CREATE TABLE IF NOT EXISTS {table.name} (symbol TEXT NOT NULL, interval_ms INTEGER NOT NULL, "
        f"slot_ms INTEGER NOT NULL, rank INTEGER NOT NULL, {', '.join(columns)}, "
        f"PRIMARY KEY ({', '.join(_KEY)})) WITHOUT ROWID"
    )


def _upsert(table: Table) -> str:
    columns = [*_KEY, "rank", *table.values]
    changed = [name for name in table.values if name != "received_at"]
    new, old = (", ".join(f"{of}.{name}" for name in changed) for of in ("excluded", table.name))
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608 - names are constants
        f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in ["rank", *table.values])
        + f" WHERE excluded.rank > {table.name}.rank"
        + f" OR (excluded.rank = {table.name}.rank AND ({new}) IS NOT ({old}))"
    )


def _where(symbol: str | None, interval_ms: int, start_ms: int | None, end_ms: int | None) -> tuple[str, list[object]]:
    parts: list[tuple[str, object]] = [("interval_ms = ?", interval_ms)]
    parts += [("symbol = ?", symbol)] if symbol is not None else []
    parts += [("slot_ms >= ?", start_ms)] if start_ms is not None else []
    parts += [("slot_ms < ?", end_ms)] if end_ms is not None else []
    return "WHERE " + " AND ".join(text for text, _ in parts), [value for _, value in parts]
