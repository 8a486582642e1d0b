"""What is told about rows, beside the rows: seals, marks, holes of the venue, repairs, quarantine, quality flags.

All of it lies in the hot store and is never dropped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.lake.holes import add_hole, cut, free
from qlib_crypto.lake.quarantine import CREATE_QUARANTINE, Quarantined, put_quarantined
from qlib_crypto.lake.tables import Table, Values, dataset_table
from qlib_crypto.symbols import Instrument, Interval, Venue

if TYPE_CHECKING:
    from qlib_crypto.lake.hot import HotStore

LEDGERS = (
    """CREATE TABLE IF NOT EXISTS ledger (
    id INTEGER PRIMARY KEY, sealed_ms INTEGER NOT NULL, file TEXT NOT NULL, rows INTEGER NOT NULL,
    added INTEGER NOT NULL, replaced INTEGER NOT NULL, content_hash TEXT NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS ledger_file ON ledger (file)",
    """CREATE TABLE IF NOT EXISTS marks (
    symbol TEXT NOT NULL, interval_ms INTEGER NOT NULL, mark_ms INTEGER NOT NULL, PRIMARY KEY (symbol, interval_ms)
    ) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS holes (
    dataset TEXT NOT NULL, symbol TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL,
    cause TEXT NOT NULL, found_ms INTEGER NOT NULL, PRIMARY KEY (dataset, symbol, start_ms)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS repairs (
    id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, symbol TEXT NOT NULL, dataset TEXT NOT NULL,
    start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL, rows INTEGER NOT NULL, source TEXT NOT NULL,
    cause TEXT NOT NULL)""",
    *CREATE_QUARANTINE,
    """CREATE TABLE IF NOT EXISTS flags (
    symbol TEXT NOT NULL, interval_ms INTEGER NOT NULL, open_ms INTEGER NOT NULL, mask INTEGER NOT NULL,
    PRIMARY KEY (symbol, interval_ms, open_ms)) WITHOUT ROWID""",
)
#: The ledgers as tables of a query: SQLite's columns.
TOLD: Mapping[str, tuple[str, ...]] = {
    "holes": ("symbol", "dataset", "start_ms", "end_ms", "cause", "found_ms"),
    "repairs": ("at_ms", "symbol", "dataset", "start_ms", "end_ms", "rows", "source", "cause"),
    "quarantine": ("at_ms", "dataset", "symbol", "time_ms", "reason", "row"),
    "flags": ("symbol", "interval_ms", "open_ms", "mask"),
    "ledger": ("sealed_ms", "file", "rows", "added", "replaced", "content_hash"),
}
_NUMBERS = {"rows", "mask", "added", "replaced", "interval_ms"}


class Sealed(NamedTuple):
    """A line of the ledger: which file was written when, how many rows it has, are new, or were replaced by better."""

    sealed_ms: int
    file: str
    rows: int
    added: int
    replaced: int
    content_hash: str


class Hole(NamedTuple):
    """What the venue itself does not have: no row of the dataset has its time in `[start_ms, end_ms)`.

    `cause` is `venue_down`, `no_trade` or `delisted`; `found_ms` is market time.
    """

    instrument: Instrument
    dataset: str
    start_ms: int
    end_ms: int
    cause: str
    found_ms: int


class Repair(NamedTuple):
    """Rows that were missing in `[start_ms, end_ms)` and came at `at_ms` from `source`.

    `cause` is why they were missing: `disconnected late stopped new not_collected restated …`.
    """

    at_ms: int
    instrument: Instrument
    dataset: str
    start_ms: int
    end_ms: int
    rows: int
    source: str
    cause: str


#: Pages that follow each other within this time are one repair.
_ONE_REPAIR_MS = 10 * MINUTE_MS
_INSERT = """INSERT INTO repairs (at_ms, symbol, dataset, start_ms, end_ms, rows, source, cause)
    VALUES (:at_ms, :symbol, :dataset, :start_ms, :end_ms, :rows, :source, :cause)"""
_LENGTHEN = """UPDATE repairs SET at_ms = :at_ms, rows = rows + :rows,
    start_ms = min(start_ms, :start_ms), end_ms = max(end_ms, :end_ms)
    WHERE id = (SELECT max(id) FROM repairs WHERE symbol = :symbol AND dataset = :dataset)
    AND source = :source AND cause = :cause AND (end_ms = :start_ms OR start_ms = :end_ms)
    AND :at_ms - at_ms BETWEEN 0 AND :longest"""


class Ledgers:
    """The part of the lake that tells about rows."""

    _hot: Mapping[Venue, HotStore]

    def times(
        self,
        table: Table,
        instrument: Instrument,
        start_ms: int | None = None,
        end_ms: int | None = None,
        *,
        interval: Interval | None = None,
    ) -> NDArray[np.int64]:
        """The slots of stored rows."""
        raise NotImplementedError

    def store_marks(self, marks: Mapping[Instrument, int], interval: Interval) -> None:
        """Keep, durable on return, how far each instrument is complete.

        Every bar that opens before its mark, and every settlement before it, is stored or the venue does not have it.
        A collector goes on from there, whatever came later by stream.
        """
        for venue, instruments in _by_venue(marks, "venue"):
            self._hot[venue].put_marks([(of.symbol, interval.ms, marks[of]) for of in instruments])

    def mark(self, instrument: Instrument, interval: Interval) -> int | None:
        """The mark that `store_marks` kept last, None when no collector followed the instrument."""
        return self._hot[instrument.venue].mark(instrument.symbol, interval.ms)

    def record_holes(self, holes: Iterable[Hole]) -> None:
        """Keep, durable on return, what the venue does not have; touching spans of one cause become one.

        Where a span was recorded with another cause the newer one holds. What has rows is no hole and is left out.
        """
        for venue, of_venue in _by_venue(holes):
            clipped = [piece for hole in of_venue for piece in self._without_rows(hole)]
            with self._hot[venue].transaction() as connection:
                for hole in clipped:
                    add_hole(connection, hole)
                    table, interval = dataset_table(hole.dataset)  # a row may have come since the clipping
                    query = f"SELECT slot_ms FROM {table.name} WHERE interval_ms = ? AND symbol = ? AND slot_ms >= ? AND slot_ms < ?"  # noqa: E501,S608 - one line of SQL; names are constants
                    at = (interval.ms if interval else 0, hole.instrument.symbol, hole.start_ms, hole.end_ms)
                    slots = [row[0] for row in connection.execute(query, at)]
                    cut(connection, table, interval.ms if interval else 0, {hole.instrument.symbol: slots})

    def holes(
        self,
        venue: Venue,
        dataset: str | None = None,
        instrument: Instrument | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> list[Hole]:
        """The recorded holes that touch `[start_ms, end_ms)`, whole, by dataset, instrument and time.

        A hole, or the part of it, for which a row was stored since is gone.
        """
        wanted: list[tuple[str, object]] = [
            ("dataset = ?", dataset), ("symbol = ?", instrument.symbol if instrument else None),
            ("end_ms > ?", start_ms), ("start_ms < ?", end_ms),
        ]  # fmt: skip
        found = self._asked(venue, "symbol, dataset, start_ms, end_ms, cause, found_ms", "holes", wanted, "2, 1, 3")
        return [Hole(Instrument.parse(symbol, venue), *rest) for symbol, *rest in found]

    def record_seals(self, venue: Venue, lines: Iterable[Sealed]) -> None:
        """Add lines to the ledger of seals, durable on return."""
        with self._hot[venue].transaction() as connection:
            for line in lines:
                self._hot[venue].record(connection, line)

    def repairs(self, venue: Venue, start_ms: int | None = None, end_ms: int | None = None) -> list[Repair]:
        """The repairs whose span touches `[start_ms, end_ms)`, in the order they were made."""
        columns = "at_ms, symbol, dataset, start_ms, end_ms, rows, source, cause"
        wanted: list[tuple[str, object]] = [("end_ms > ?", start_ms), ("start_ms < ?", end_ms)]
        found = self._asked(venue, columns, "repairs", wanted, "id")
        return [Repair(at, Instrument.parse(symbol, venue), *rest) for at, symbol, *rest in found]

    def quarantine(self, venue: Venue, refused: Iterable[Quarantined]) -> None:
        """Keep, durable on return, rows that were refused, each once."""
        with self._hot[venue].transaction() as connection:
            put_quarantined(connection, refused)

    def quarantined(self, venue: Venue) -> list[Quarantined]:
        """Every refused row, oldest first."""
        found = self._asked(venue, ", ".join(Quarantined._fields), "quarantine", [], "id")
        return [Quarantined(*row) for row in found]

    def flag(
        self,
        instrument: Instrument,
        interval: Interval,
        masks: Mapping[int, int],
        *,
        instead_of: Mapping[int, int] | None = None,
    ) -> None:
        """Add quality flags to bars, by open time; durable on return. What was flagged before stays flagged.

        But for flags `instead_of` which these are: they go, unless they became others meanwhile.
        """
        gone = {} if instead_of is None else {at: mask for at, mask in instead_of.items() if masks.get(at) != mask}
        if masks or gone:
            of = instrument.symbol, interval.ms
            with self._hot[instrument.venue].transaction() as connection:
                connection.executemany(
                    "DELETE FROM flags WHERE symbol = ? AND interval_ms = ? AND open_ms = ? AND mask = ?",
                    [(*of, at, mask) for at, mask in gone.items()],
                )
                put_flags(connection, [(*of, at, mask) for at, mask in masks.items()])

    def flags(
        self, instrument: Instrument, interval: Interval, start_ms: int | None = None, end_ms: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Open times of flagged bars in `[start_ms, end_ms)`, ascending, and the mask of each (`quality.Flag`)."""
        wanted: list[tuple[str, object]] = [
            ("symbol = ?", instrument.symbol), ("interval_ms = ?", interval.ms),
            ("open_ms >= ?", start_ms), ("open_ms < ?", end_ms),
        ]  # fmt: skip
        found = self._asked(instrument.venue, "open_ms, mask", "flags", wanted, "1")
        pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def flagged(self, venue: Venue) -> list[tuple[str, int, int, int]]:
        """Every flagged bar as `(symbol, interval_ms, open_ms, mask)`, ascending."""
        return self._asked(venue, "symbol, interval_ms, open_ms, mask", "flags", [], "1, 2, 3")

    def told(self, venue: Venue, name: str) -> pa.Table:
        """One of `TOLD` as a table; a time `X_ms` is the timestamp `X_at` (`at_ms`: `at`), a length stays a number."""
        lines = self._asked(venue, ", ".join(TOLD[name]), name, [], "1, 2, 3")
        columns = zip(*lines, strict=True) if lines else [()] * len(TOLD[name])
        arrays = {}
        for column, values in zip(TOLD[name], columns, strict=True):
            if column in _NUMBERS:
                arrays[column] = pa.array(values, type=pa.int64())
            elif column.endswith("_ms"):
                title = "at" if column == "at_ms" else column.replace("_ms", "_at")
                arrays[title] = pa.array(values, type=pa.timestamp("ms", tz="UTC"))
            else:
                arrays[column] = pa.array(values, type=pa.string())
        return pa.table(arrays)

    def _without_rows(self, hole: Hole) -> list[Hole]:
        table, interval = dataset_table(hole.dataset)
        slots = self.times(table, hole.instrument, hole.start_ms, hole.end_ms, interval=interval).tolist()
        step_ms = table.step_ms or (interval.ms if interval else 0)
        return [hole._replace(start_ms=a, end_ms=b) for a, b in free(hole.start_ms, hole.end_ms, slots, step_ms)]

    def _asked(
        self, venue: Venue, columns: str, table: str, wanted: Sequence[tuple[str, object]], order: str
    ) -> list[Values]:
        """Rows under those conditions that have a value."""
        given = [(text, value) for text, value in wanted if value is not None]
        where = f"WHERE {' AND '.join(text for text, _ in given)}" if given else ""
        return self._hot[venue].read(
            f"SELECT {columns} FROM {table} {where} ORDER BY {order}",  # noqa: S608 - names are constants, values are bound
            [value for _, value in given],
        )


def put_flags(connection: sqlite3.Connection, flags: Iterable[tuple[str, int, int, int]]) -> None:
    """Add `(symbol, interval_ms, open_ms, mask)`, inside a transaction."""
    connection.executemany(
        "INSERT INTO flags VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET mask = mask | excluded.mask",
        [(symbol, step, at, int(mask)) for symbol, step, at, mask in flags],
    )


def put_repairs(connection: sqlite3.Connection, repairs: Iterable[Repair]) -> None:
    """Add lines to the ledger, inside a transaction; a page that adjoins the one just before lengthens its line."""
    for of in repairs:
        line = {"symbol": of.instrument.symbol, "longest": _ONE_REPAIR_MS, **of._asdict()}
        del line["instrument"]
        if not connection.execute(_LENGTHEN, line).rowcount:
            connection.execute(_INSERT, line)


def _by_venue[T](lines: Iterable[T], venue: str = "instrument.venue") -> list[tuple[Venue, list[T]]]:
    of_venue = attrgetter(venue)
    return [(of, list(group)) for of, group in groupby(sorted(lines, key=of_venue), of_venue)]
