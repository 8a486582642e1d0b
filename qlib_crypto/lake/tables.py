"""The three kinds of rows that pass through the hot store: their SQLite table, Parquet schema and replacement rule.

A row's key is (symbol, interval, slot). The slot is the time that makes a row unique: a bar's open, the minute that a
settlement snaps to, the minute of an estimate. `rank` decides which of two rows at one key stays: the higher, and of
equals the later received. For bars and settlements it is the place of the source in `schemas.SOURCES`, for estimates
the time they were seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.schemas import FUNDING, FUNDING_ESTIMATE, KLINE, SOURCES, Bar, Estimate, Settlement

type Values = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One kind of rows.

    Attributes
    ----------
    name
        SQLite table.
    schema
        Parquet schema.
    slot_ms, shift_ms
        A row's slot is its time, after adding the shift, cut to a multiple of `slot_ms`.
    values
        Names of the SQLite columns after `symbol interval_ms slot_ms rank`: the Parquet columns but `symbol` and
        `source`, `received_at` last.

    """

    name: str
    schema: pa.Schema
    slot_ms: int
    shift_ms: int

    @property
    def values(self) -> list[str]:
        return [name for name in self.schema.names if name not in {"symbol", "source"}]

    @property
    def ranked_by_source(self) -> bool:
        return "source" in self.schema.names

    def arrow(self, rows: Sequence[Values]) -> pa.Table:
        """Rows `(symbol, rank, *values)` as a table of the schema."""
        names = ["symbol", "source" if self.ranked_by_source else "rank", *self.values]
        columns: dict[str, Sequence[Any]] = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}
        if rows and self.ranked_by_source:
            columns["source"] = [SOURCES[rank] for rank in columns["source"]]
        return pa.table(
            {f.name: pa.array(columns.get(f.name, ()), type=f.type) for f in self.schema}, schema=self.schema
        )

    def slot_of(self, time_ms: int) -> int:
        """The slot of a time."""
        shifted = time_ms + self.shift_ms
        return shifted - shifted % self.slot_ms

    def slot(self) -> pl.Expr:
        """The slot of each row of a Parquet table, as int64."""
        shifted = pl.col("timestamp").dt.epoch("ms") + self.shift_ms
        return shifted - shifted % self.slot_ms

    def slots(self, table: pa.Table) -> NDArray[np.int64]:
        """The slot of each row of a Parquet table."""
        return np.asarray(_frame(table.select(["timestamp"])).select(self.slot()).to_series().to_numpy())

    def merge(self, sealed: pa.Table, newer: pa.Table) -> pa.Table:
        """Both tables' rows, sorted by symbol and time, unique by symbol and slot under the replacement rule."""
        old, new = _frame(sealed), _frame(newer)
        said = [name for name in self.schema.names if name != "received_at"]
        new = new.join(old, on=said, how="anti", nulls_equal=True)  # what says the same was received before
        frame = pl.concat([old, new], how="vertical_relaxed").with_row_index("_order")
        rank = pl.col("source").replace_strict(list(SOURCES), range(len(SOURCES)), return_dtype=pl.Int64)
        frame = (
            frame.with_columns(
                self.slot().alias("_slot"), (rank if self.ranked_by_source else pl.lit(0)).alias("_rank")
            )
            .sort("symbol", "_slot", "_rank", *([] if self.ranked_by_source else ["timestamp"]), "_order")
            .unique(["symbol", "_slot"], keep="last", maintain_order=True)
        )
        return frame.select(self.schema.names).to_arrow().cast(self.schema)


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    return frame


BARS = Table("bars", KLINE, 1, 0)
SETTLEMENTS = Table("settlements", FUNDING, MINUTE_MS, MINUTE_MS // 2)
ESTIMATES = Table("estimates", FUNDING_ESTIMATE, MINUTE_MS, 0)
TABLES = (BARS, SETTLEMENTS, ESTIMATES)


def bar_row(bar: Bar) -> Values:
    """`(symbol, interval_ms, slot_ms, rank, *values)` of a bar."""
    at = int(bar.open_ms)
    trades = None if bar.trades is None else int(bar.trades)
    return (
        bar.instrument.symbol, bar.interval.ms, at, SOURCES.index(bar.source),
        at, float(bar.open), float(bar.high), float(bar.low), float(bar.close), float(bar.volume_base),
        bar.volume_quote, trades, int(bar.received_ms),
    )  # fmt: skip


def settlement_row(row: Settlement) -> Values:
    """`(symbol, 0, slot_ms, rank, *values)` of a settlement."""
    at = int(row.time_ms)
    return (
        row.instrument.symbol, 0, SETTLEMENTS.slot_of(at), SOURCES.index(row.source),
        at, float(row.rate), row.mark_price, int(row.received_ms),
    )  # fmt: skip


def estimate_row(row: Estimate) -> Values:
    """`(symbol, 0, slot_ms, rank, *values)` of an estimate."""
    at = int(row.time_ms)
    return (
        row.instrument.symbol, 0, ESTIMATES.slot_of(at), at,
        at, float(row.rate), int(row.settles_ms), row.interval_hours, row.mark_price, int(row.received_ms),
    )  # fmt: skip


TABLE_OF: dict[type, Table] = {Bar: BARS, Settlement: SETTLEMENTS, Estimate: ESTIMATES}
VALUES: dict[type, Callable[[Any], Values]] = {Bar: bar_row, Settlement: settlement_row, Estimate: estimate_row}
