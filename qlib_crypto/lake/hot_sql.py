"""The SQL of the hot store: names come from `tables`, values are bound."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from qlib_crypto.lake.quality import Flag
from qlib_crypto.lake.tables import BARS, KEY, RESTATED, TABLES, Columns, Table
from qlib_crypto.sqlite import log_ahead

#: Raised when tables are added or changed; a file of a lower version gets what it lacks when it is opened.
_VERSION = 4
#: Of a new file: of 16 KiB fewer are split, logged and copied than of the 4 KiB that older files keep.
_PAGE_BYTES = 16 * 1024
#: Log before it is copied into the file: rarely enough to leave the 99th percentile alone.
_LOG_BYTES = 40 * 2**20
_LOG_KEPT_BYTES = 64 * 2**20
_CACHE_KIB = 16 * 1024

#: Rows of one statement, the largest first; 256 bars are 3,328 of the 32,766 values that SQLite binds at once.
_AT_ONCE = (256, 64, 16, 4, 1)

_KINDS = {"double": "REAL", "string": "TEXT", "list<item: double>": "BLOB"}


def prepare(connection: sqlite3.Connection, ledgers: Sequence[str], busy_s: float) -> None:
    """Set a connection up, and make what the file lacks, all of it or nothing; other connections are waited for."""
    connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
    log_ahead(connection, busy_s)
    page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.execute(f"PRAGMA wal_autocheckpoint={_LOG_BYTES // page_bytes}")
    connection.execute(f"PRAGMA journal_size_limit={_LOG_KEPT_BYTES}")
    connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
    if connection.execute("PRAGMA user_version").fetchone()[0] >= _VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        tables = map(_create, (*TABLES, *RESTATED.values()))
        for statement in (*ledgers, *tables, *chain.from_iterable(map(_keep_replaced, RESTATED)), *_unflag()):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def where(symbol: str | None, interval_ms: int, start_ms: int | None, end_ms: int | None) -> tuple[str, list[object]]:
    """The condition and what it binds."""
    parts: list[tuple[str, object]] = [("interval_ms = ?", interval_ms)]
    parts += [("symbol = ?", symbol)] if symbol is not None else []
    parts += [("slot_ms >= ?", start_ms)] if start_ms is not None else []
    parts += [("slot_ms < ?", end_ms)] if end_ms is not None else []
    return "WHERE " + " AND ".join(text for text, _ in parts), [value for _, value in parts]


def listed(table: Table) -> str:
    """The columns of `Table.arrow`."""
    return ", ".join(["symbol", "rank", *table.values])


def select(
    table: Table, columns: Sequence[str], symbol: str | None, interval_ms: int, start_ms: int | None, end_ms: int | None
) -> tuple[str, list[object]]:
    """Rows by a plain scan of the range, sorted by symbol and key."""
    text, bound = where(symbol, interval_ms, start_ms, end_ms)
    order = ", ".join(["symbol", "slot_ms", *table.more])
    return f"SELECT {', '.join(columns)} FROM {table.name} {text} ORDER BY {order}", bound  # noqa: S608 - names are constants


def seek(
    table: Table, columns: Sequence[str], symbol: str, interval_ms: int, start_ms: int | None, end_ms: int | None
) -> tuple[str, list[object]]:
    """Rows of one symbol where the table is in the order of time: from slot to slot, with one search at each."""
    text, bound = where(None, interval_ms, start_ms, end_ms)
    after, more = where(None, interval_ms, None, end_ms)
    next_slot = f"SELECT min(slot_ms) FROM {table.name}"  # noqa: S608 - names are constants
    query = (
        f"WITH RECURSIVE at(slot) AS ({next_slot} {text} UNION ALL "  # noqa: S608 - names are constants
        f"SELECT ({next_slot} {after} AND slot_ms > at.slot) FROM at WHERE at.slot IS NOT NULL) "
        f"SELECT {', '.join(columns)} FROM at CROSS JOIN {table.name} "
        f"WHERE interval_ms = ? AND slot_ms = at.slot AND symbol = ? ORDER BY {', '.join(['slot_ms', *table.more])}"
    )
    return query, [*bound, *more, interval_ms, symbol]


def held(table: Table) -> str:
    """Symbol, interval, number of rows, first and last slot."""
    return (
        f"SELECT symbol, interval_ms, count(*), min(slot_ms), max(slot_ms) FROM {table.name} "  # noqa: S608 - names are constants
        "GROUP BY 1, 2 ORDER BY 1, 2"
    )


def insert(connection: sqlite3.Connection, table: Table, columns: Columns) -> int:
    """The count of rows that were inserted; one whose key is there is left out.

    Many rows a statement: with one each, every row gives the interpreter away and, beside a busy thread, waits for it.
    """
    width, left, added = len(columns), len(columns[0]), 0
    fields: list[Any] = [None] * (width * left)  # row after row, without a tuple for each
    for at, column in enumerate(columns):
        fields[at::width] = column
    for size in _AT_ONCE:
        while left >= size:
            at = len(fields) - left * width
            added += connection.execute(_insert(table, size), fields[at : at + size * width]).rowcount
            left -= size
    return added


@cache
def _insert(table: Table, rows: int) -> str:
    columns = _columns(table)
    values = f"({', '.join('?' * len(columns))})"
    return f"INSERT OR IGNORE INTO {table.name} ({', '.join(columns)}) VALUES {', '.join([values] * rows)}"  # noqa: S608 - names are constants, values are bound


@cache
def upsert(table: Table) -> str:
    """Insert rows, or replace under the rule of `tables`."""
    columns, name = _columns(table), table.name
    new, old = (", ".join(f"{of}.{column}" for column in table.said) for of in ("excluded", name))
    return (
        f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608 - names are constants
        f"ON CONFLICT ({', '.join([*KEY, *table.more])}) DO UPDATE SET "
        + ", ".join(f"{column} = excluded.{column}" for column in ["rank", *table.values])
        + f" WHERE excluded.rank > {name}.rank OR (excluded.rank = {name}.rank AND ({new}) IS NOT ({old}))"
    )


@cache
def delete(table: Table) -> str:
    """Remove a row that is still exactly this."""
    columns = _columns(table)
    key = [*KEY, *table.more]
    same = [f"{name} {'=' if name in key else 'IS'} ?" for name in columns]
    return f"DELETE FROM {table.name} WHERE {' AND '.join(same)}"  # noqa: S608 - names are constants


def _columns(table: Table) -> list[str]:
    return [*KEY, "rank", *table.values]


def _create(table: Table) -> str:
    columns = [
        f"{name} {_KINDS.get(str(table.schema.field(name).type), 'INTEGER')}"
        + ("" if table.schema.field(name).nullable else " NOT NULL")
        for name in table.values
    ]
    key = ["symbol", "interval_ms", "slot_ms"] if table.symbol_first else list(KEY)
    return (
        f"CREATE TABLE IF NOT EXISTS {table.name} (symbol TEXT NOT NULL, interval_ms INTEGER NOT NULL, "
        f"slot_ms INTEGER NOT NULL, rank INTEGER NOT NULL, {', '.join(columns)}, "
        f"PRIMARY KEY ({', '.join([*key, *table.more])})) WITHOUT ROWID"
    )


def _keep_replaced(table: Table) -> Sequence[str]:
    """A replaced row goes to the twin, in the transaction that replaces it; `confirmed` tells which said the same."""
    columns, twin = _columns(table), RESTATED[table]
    same = " AND ".join(f"{name} = old.{name}" for name in [*KEY, *twin.more])
    trigger = (
        f"CREATE TRIGGER {table.name}_restated AFTER UPDATE ON {table.name} BEGIN "  # noqa: S608 - names are constants
        f"DELETE FROM {twin.name} WHERE {same}; "  # OR REPLACE would yield to the statement that fires this
        f"INSERT INTO {twin.name} ({', '.join(columns)}) VALUES ({', '.join(f'old.{name}' for name in columns)}); END"
    )
    return f"DROP TRIGGER IF EXISTS {table.name}_restated", trigger  # there may be that of an earlier version


def _unflag() -> Sequence[str]:
    """A bar that says something else loses the flags of what it said before; whether a bar is missing stays."""
    new, old = (", ".join(f"{of}.{name}" for name in BARS.said) for of in ("new", "old"))
    of = "symbol = old.symbol AND interval_ms = old.interval_ms AND open_ms = old.slot_ms"
    trigger = (
        f"CREATE TRIGGER {BARS.name}_flags AFTER UPDATE ON {BARS.name} WHEN ({new}) IS NOT ({old}) BEGIN "  # noqa: S608 - names are constants
        f"UPDATE flags SET mask = mask & {int(Flag.GAP_BEFORE)} WHERE {of}; "
        f"DELETE FROM flags WHERE {of} AND mask = 0; END"
    )
    return f"DROP TRIGGER IF EXISTS {BARS.name}_flags", trigger
