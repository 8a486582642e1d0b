"""Seal: hot rows become dated Parquet files.

The order makes a crash harmless: under the hot store's write lock the merged file is renamed into place and synced,
then the rows leave the hot store in the same transaction that writes the ledger. A crash between leaves rows in both,
which reads resolve, and the next seal repeats the step to the same file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from qlib_crypto.lake.files import content_digest, read_table, remove_leftovers, write_table
from qlib_crypto.lake.hot import HotStore, Sealed
from qlib_crypto.lake.paths import ESTIMATE, FUNDING, day_file, kline_file, period
from qlib_crypto.lake.tables import BARS, ESTIMATES, SETTLEMENTS, TABLES, Table
from qlib_crypto.symbols import Instrument, Interval, Venue

_DATASET = {SETTLEMENTS: FUNDING, ESTIMATES: ESTIMATE}


@dataclass(frozen=True, slots=True)
class _Group:
    """What goes into one file: a day or month of one symbol's bars, or a day of all symbols."""

    table: Table
    symbol: str | None
    interval_ms: int
    start_ms: int
    end_ms: int
    path: Path


def seal(
    hot: HotStore, folder: Path, venue: Venue, *, before_ms: int | None = None, instrument: Instrument | None = None
) -> list[Path]:
    """The files that were written, by name; see `Lake.seal`."""
    if instrument is None:
        remove_leftovers(folder)
    groups = (
        group
        for table in TABLES
        for group in _groups(hot, table, folder, venue, instrument)
        if before_ms is None or group.end_ms <= before_ms
    )
    return sorted(group.path for group in groups if _seal_group(hot, group, folder))


def _groups(hot: HotStore, table: Table, folder: Path, venue: Venue, instrument: Instrument | None) -> Iterator[_Group]:
    if table is not BARS:
        slots = hot.slots(table) if instrument is None else []
        days = {period(slot, by_month=False) for slot in slots}
        for start, end in sorted(days):
            yield _Group(table, None, 0, start, end, day_file(folder, _DATASET[table], start))
        return
    for held in hot.held(table):
        of = Instrument.parse(held.symbol, venue)
        if instrument not in {None, of}:
            continue
        interval = Interval.of_ms(held.interval_ms)
        at: int | None = held.first_ms
        while at is not None:
            start, end = period(at, by_month=interval.by_month)
            yield _Group(table, held.symbol, interval.ms, start, end, kline_file(folder, of, interval, start))
            at = hot.first_slot(table, held.symbol, interval.ms, end)


def _seal_group(hot: HotStore, group: _Group, folder: Path) -> bool:
    """True when the file was written; the group's rows are gone from the hot store in any case."""
    with hot.transaction() as connection:
        rows = hot.rows(group.table, group.symbol, group.interval_ms, group.start_ms, group.end_ms)
        if not rows:
            return False
        schema = group.table.schema
        sealed = read_table(group.path, schema) if group.path.exists() else schema.empty_table()
        merged = group.table.merge(sealed, group.table.arrow(rows))
        written = not merged.equals(sealed)
        digest = write_table(group.path, merged) if written else content_digest(merged)
        name = str(group.path.relative_to(folder))
        if written or hot.last_digest(name) != digest:  # the second: a crash came between rename and commit
            replaced = len(set(_lines(sealed)).difference(_lines(merged))) if len(sealed) else 0
            added = len(merged) - len(sealed)
            hot.record(connection, Sealed(_now_ms(), name, len(merged), added, replaced, digest))
        hot.discard(connection, group.table, group.symbol, group.interval_ms, group.start_ms, group.end_ms)
    return written


def _lines(table: pa.Table) -> list[tuple[object, ...]]:
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
