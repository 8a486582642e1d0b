"""The hot store: one SQLite file a venue for rows that are durable but not yet sealed, and the ledgers.

A call that stores rows is one transaction, synced to disk before it returns (WAL, `synchronous=FULL`). Several
processes may write: each waits for the others. Reading has a connection of its own and waits for nobody.

Rows lie in the order of time, so that the bars of one minute, which arrive together, touch a few pages instead of one a
symbol. Reading one symbol seeks it at each slot. Bulky tables, and those of earlier versions, lie symbol by symbol.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise, starmap
from operator import itemgetter, le
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from qlib_crypto.lake import hot_sql as sql
from qlib_crypto.lake.holes import cut_holes
from qlib_crypto.lake.ledger import LEDGERS, Sealed
from qlib_crypto.lake.tables import Columns, Table, Values
from qlib_crypto.sqlite import committed, storage_faults

_BUSY_S = 60.0
_SCAN_ROWS = 20_000

_DAMAGED = "the file is damaged: move it away, sealed files stay; then back-fill the days that were not sealed"


class Held(NamedTuple):
    """What the hot store holds of one symbol and interval: number of rows, first and last slot."""

    symbol: str
    interval_ms: int
    rows: int
    first_ms: int
    last_ms: int


class HotStore:
    """The hot rows of one venue; the file is made by the first write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock, self._read_lock = threading.RLock(), threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._inherited: tuple[sqlite3.Connection | None, ...] = ()
        self._pid = os.getpid()

    # ------------------------------------------------------------------------------------------------------- write

    def put(self, rows: Mapping[Table, Columns]) -> int:
        """The count of new or replaced rows; all are on disk when this returns.

        A row replaces another at its key when its rank is higher, or equal and it says something else; what it
        replaced stays in the table's twin of restated rows.

        Raises
        ------
        StorageError
            The disk refused; none of these rows is stored, all earlier ones are.

        """
        if not rows:
            return 0
        with self.transaction() as connection:
            return self.put_in(connection, rows)

    def put_in(self, connection: sqlite3.Connection, rows: Mapping[Table, Columns]) -> int:
        """As `put`, inside a transaction."""
        changed = 0
        for table, given in rows.items():
            columns = _ordered(given)
            added = sql.insert(connection, table, columns)
            changed += added
            if added < len(columns[0]):  # what was there already, or twice in this call
                changed += connection.executemany(sql.upsert(table), zip(*columns, strict=True)).rowcount
            cut_holes(connection, table, columns)
        return changed

    def record(self, connection: sqlite3.Connection, line: Sealed) -> None:
        """Add a line to the ledger of seals, inside a transaction."""
        marks = ", ".join("?" * len(line))
        connection.execute(f"INSERT INTO ledger ({', '.join(Sealed._fields)}) VALUES ({marks})", line)  # noqa: S608 - names are constants, values are bound

    def discard(self, connection: sqlite3.Connection, table: Table, rows: Sequence[Values]) -> None:
        """Remove exactly these rows, inside a transaction: their file is written and synced."""
        connection.executemany(sql.delete(table), rows)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: other writers wait; committed and synced at the end, rolled back on an error."""
        with self._lock, self._faults("write"), committed(self._open()) as connection:
            yield connection

    # -------------------------------------------------------------------------------------------------------- read

    def rows(
        self,
        table: Table,
        symbol: str | None = None,
        interval_ms: int = 0,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[Values]:
        """Rows `(symbol, rank, *values)` with slots in `[start_ms, end_ms)`, sorted by symbol and slot."""
        columns = ["symbol", "rank", *table.values]
        return self._select(table, columns, symbol, interval_ms, start_ms, end_ms)

    def slots(self, table: Table, symbol: str, interval_ms: int, start_ms: int | None, end_ms: int | None) -> list[int]:
        """Ascending slots in `[start_ms, end_ms)`."""
        return [row[0] for row in self._select(table, ["slot_ms"], symbol, interval_ms, start_ms, end_ms)]

    def held(self, table: Table) -> list[Held]:
        """What the table holds, one entry a symbol and interval, sorted."""
        return [Held(*row) for row in self.read(sql.held(table))]

    def intervals(self, table: Table) -> list[int]:
        """Lengths that the table holds, ascending; 0 where rows have none."""
        return [row[0] for row in self.read(f"SELECT DISTINCT interval_ms FROM {table.name} ORDER BY 1")]  # noqa: S608 - names are constants

    def first_slot(self, table: Table, symbol: str | None, interval_ms: int, start_ms: int) -> int | None:
        """The first slot at or after `start_ms`, None when there is none."""
        where, bound = sql.where(symbol, interval_ms, start_ms, None)
        found: int | None = self.read(f"SELECT min(slot_ms) FROM {table.name} {where}", bound)[0][0]  # noqa: S608 - names are constants, values are bound
        return found

    def scan(
        self, table: Table, symbol: str | None, interval_ms: int, start_ms: int, end_ms: int
    ) -> tuple[pa.Table, pa.Table | None]:
        """The rows of a period and the ones that they replaced, as one moment has them; unsorted, in bounded memory.

        None where the table has no twin. Nobody waits for it: it has a connection of its own.
        """
        where, bound = sql.where(symbol, interval_ms, start_ms, end_ms)
        with self._faults("read"):
            connection = self._connect()
            try:
                connection.execute("BEGIN")
                rows, *older = (
                    _gathered(of, connection.execute(f"SELECT {sql.listed(of)} FROM {of.name} {where}", bound))  # noqa: S608 - names are constants, values are bound
                    for of in (table, table.restated)
                    if of is not None
                )
            finally:
                connection.close()
        return rows, older[0] if older else None

    def put_marks(self, marks: Sequence[tuple[str, int, int]]) -> None:
        """Keep `(symbol, interval_ms, mark_ms)`, durable on return."""
        if marks:
            with self.transaction() as connection:
                connection.executemany("INSERT OR REPLACE INTO marks VALUES (?, ?, ?)", marks)

    def mark(self, symbol: str, interval_ms: int) -> int | None:
        """The mark kept last, None when there is none."""
        found = self.read("SELECT mark_ms FROM marks WHERE symbol = ? AND interval_ms = ?", [symbol, interval_ms])
        return found[0][0] if found else None

    def ledger(self) -> list[Sealed]:
        """Every seal, oldest first."""
        return [Sealed(*row) for row in self.read(f"SELECT {', '.join(Sealed._fields)} FROM ledger ORDER BY id")]  # noqa: S608 - names are constants

    def last_digest(self, file: str) -> str | None:
        """The content hash at the file's last seal, None when it was never sealed."""
        found = self.read("SELECT content_hash FROM ledger WHERE file = ? ORDER BY id DESC LIMIT 1", [file])
        return found[0][0] if found else None

    def read(self, query: str, bound: Sequence[object] = ()) -> list[Values]:
        """The answer to a query, empty when the file is not there yet."""
        with self._read_lock, self._faults("read"):
            self._after_fork()
            if self._reader is None:
                if not self.path.is_file():
                    return []
                self._reader = self._connect()
            return self._reader.execute(query, bound).fetchall()

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock, self._read_lock:
            for connection in (self._reader, self._connection):
                if connection is not None and self._pid == os.getpid():
                    connection.close()
            self._reader = self._connection = None

    def _select(
        self,
        table: Table,
        columns: Sequence[str],
        symbol: str | None,
        interval_ms: int,
        start_ms: int | None,
        end_ms: int | None,
    ) -> list[Values]:
        if symbol is None or table.symbol_first or self._by_symbol(table):
            query, bound = sql.select(table, columns, symbol, interval_ms, start_ms, end_ms)
        else:
            query, bound = sql.seek(table, columns, symbol, interval_ms, start_ms, end_ms)
        return self.read(query, bound)

    def _by_symbol(self, table: Table) -> bool:
        """Whether the table was made by a version that ordered it by symbol."""
        return self.read("SELECT name FROM pragma_table_info(?) WHERE pk = 1", [table.name]) == [("symbol",)]

    def _open(self) -> sqlite3.Connection:
        self._after_fork()
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._connect()
        return self._connection

    def _after_fork(self) -> None:
        if self._pid != os.getpid():  # SQLite connections must not cross a fork: the parent's are never touched
            self._inherited = (*self._inherited, self._connection, self._reader)
            self._connection, self._reader, self._pid = None, None, os.getpid()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=128
        )
        try:
            sql.prepare(connection, LEDGERS, _BUSY_S)
        except BaseException:
            connection.close()
            raise
        return connection

    def _faults(self, doing: str) -> AbstractContextManager[None]:
        kept = "what was acknowledged before is kept; "
        return storage_faults("hot store", self.path, doing, damaged=_DAMAGED, kept=kept, again=True)


def _ordered(columns: Columns) -> Columns:
    """The rows by interval, slot and symbol: neighbours on disk one after another. Those of one key stay as given."""
    if all(starmap(le, pairwise(zip(*columns[:3], strict=True)))):
        return columns
    keys = list(zip(*columns[:3], strict=True))
    place = itemgetter(*sorted(range(len(keys)), key=keys.__getitem__))
    return [place(column) for column in columns]


def _gathered(table: Table, cursor: sqlite3.Cursor) -> pa.Table:
    parts = [table.arrow(())]
    while rows := cursor.fetchmany(_SCAN_ROWS):
        parts.append(table.arrow(rows))
    return pa.concat_tables(parts)
