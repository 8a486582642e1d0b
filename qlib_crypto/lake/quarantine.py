"""Rows that were refused, as the lines that are kept of them."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable
from typing import NamedTuple

from qlib_crypto.lake.tables import TABLE_OF
from qlib_crypto.schemas import Bar, PriceBar, Row
from qlib_crypto.symbols import Instrument, Interval

_LARGEST = 2**62
_TABLE = """(
    id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, dataset TEXT NOT NULL, symbol TEXT NOT NULL,
    time_ms INTEGER NOT NULL, reason TEXT NOT NULL, row TEXT NOT NULL)"""
#: Makes the table. Made anew where it is there already: an earlier version's keeps one row of a time and reason.
CREATE_QUARANTINE = (
    f"CREATE TABLE IF NOT EXISTS quarantine {_TABLE}",
    f"CREATE TABLE quarantine_new {_TABLE}",
    "INSERT INTO quarantine_new SELECT id, at_ms, dataset, symbol, time_ms, reason, row FROM quarantine",
    "DROP TABLE quarantine",
    "ALTER TABLE quarantine_new RENAME TO quarantine",
    # a row that comes again and again is kept once, whenever it was received
    """CREATE UNIQUE INDEX quarantine_once ON quarantine (dataset, symbol, time_ms, reason,
    CASE WHEN json_valid(row) THEN json_remove(row, '$.received_ms') ELSE row END)""",
)


class Quarantined(NamedTuple):
    """A row that was refused: when, what, why, and the row itself as JSON text."""

    at_ms: int
    dataset: str
    symbol: str
    time_ms: int
    reason: str
    row: str

    @property
    def content(self) -> tuple[object, ...]:
        """What makes it another one than those in the table: all but when it was received and refused."""
        told = json.loads(self.row)
        told.pop("received_ms", None)
        return (*self[1:-1], json.dumps(told))


def quarantined(row: Row, reason: str, *, unreadable: str | None = None) -> Quarantined:
    """The line of a refused row, as of now; numbers that are no JSON are written as text.

    `unreadable` is the text that stood where the row has its instrument, if it is no symbol.
    """
    dataset = _dataset_of(row)
    told = {
        name: str(value) if isinstance(value, Instrument | Interval) else _plain(value)
        for name, value in row._asdict().items()
    }
    if unreadable is not None:
        told["instrument"] = unreadable
    at = row.open_ms if isinstance(row, Bar | PriceBar) else row.time_ms
    return Quarantined(
        time.time_ns() // 1_000_000, dataset, row.instrument.symbol if unreadable is None else unreadable, _whole(at),
        reason,
        json.dumps(told, default=str, allow_nan=False),
    )  # fmt: skip


def put_quarantined(connection: sqlite3.Connection, refused: Iterable[Quarantined]) -> None:
    """Add lines to the quarantine, each once, inside a transaction."""
    connection.executemany(
        "INSERT OR IGNORE INTO quarantine (at_ms, dataset, symbol, time_ms, reason, row) VALUES (?, ?, ?, ?, ?, ?)",
        refused,
    )


def _dataset_of(row: Row) -> str:
    return TABLE_OF[type(row)].dataset(row.interval.ms if isinstance(row, Bar | PriceBar) else 0)


def _whole(value: object) -> int:
    """The value as an integer that SQLite can hold, 0 where it is none."""
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) < _LARGEST:
        return int(value)
    return 0


def _plain(value: object) -> object:
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
