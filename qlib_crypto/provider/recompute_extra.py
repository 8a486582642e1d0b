"""The fields of `extra_fields.py` computed again by joins; shares no code with it, so that no fault in it can hide."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from qlib_crypto.lake import Lake
from qlib_crypto.lake.tables import ESTIMATES, INDEXES, LIQUIDATIONS, LONG_SHORT_RATIO, MARKS, OPEN_INTEREST, Table
from qlib_crypto.provider.recompute import expected_bars, open_of
from qlib_crypto.symbols import Instrument, Interval

_MINUTE = 60_000
_DAY = 1440 * _MINUTE


def expected_extra(
    lake: Lake, instrument: Instrument, target: Interval, window: tuple[int, int], closes: pl.DataFrame
) -> pl.DataFrame:
    """Every such field of every slot in [start, end), a column each and `t`, the open in ms; null is unknown.

    `closes` has the close of the trade price, `t` and `close`.
    """
    start, end = window
    slots = pl.DataFrame({"t": pl.int_range(start, end, target.ms, eager=True)})
    ends = slots.select("t", at=pl.col("t") + target.ms)
    span = start - _DAY, end + _DAY

    def rows(table: Table, *columns: str | pl.Expr, interval: Interval | None = None) -> pl.DataFrame:
        frame = pl.from_arrow(lake.read(table, instrument.venue, instrument, *span, interval=interval))
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
        return frame.select(pl.col("timestamp").dt.epoch("ms").alias("time"), *columns).sort("time")

    def candles(table: Table) -> pl.DataFrame:
        none = {"volume": pl.lit(0.0), "quote_volume": pl.lit(0.0), "flags": pl.lit(0, pl.Int64)}
        prices = {
            interval: rows(table, "open", "high", "low", "close", interval=interval)
            .rename({"time": "t"})
            .with_columns(**none)
            for interval in lake.intervals(instrument.venue, table)
        }
        return slots.join(expected_bars(prices, target), on="t", how="left")

    def published(table: Table, column: str, name: str) -> pl.DataFrame:
        late = rows(table, column).with_columns(known=pl.col("time") + 6 * _MINUTE)
        found = ends.join_asof(late, left_on="at", right_on="known", coalesce=False)
        return found.select("t", pl.when(pl.col("at") - pl.col("known") < 15 * _MINUTE).then(column).alias(name))

    marks, index = candles(MARKS), candles(INDEXES)
    seen = rows(ESTIMATES, "funding_rate", pl.col("settles_at").dt.epoch("ms").alias("settles"))
    seen = seen.with_columns(time=(pl.col("time") // _MINUTE + 1) * _MINUTE)  # the last of a minute, once it is over
    running = slots.join_asof(seen, left_on="t", right_on="time", coalesce=False)
    valid = (pl.col("t") - pl.col("time") < 5 * _MINUTE) & (pl.col("settles") > pl.col("t"))
    parts: Mapping[str, pl.DataFrame] = {
        "mark": marks.select("t", mark_open="open", mark_high="high", mark_low="low", mark="close"),
        "index": index.join(closes.rename({"close": "own"}), on="t", how="left").select(
            "t", index="close", basis=pl.col("own") / pl.col("close") - 1
        ),
        "open_interest": published(OPEN_INTEREST, "open_interest", "open_interest"),
        "long_short": published(LONG_SHORT_RATIO, "ratio", "long_short"),
        "liquidations": _liquidations(lake, instrument, target, slots, span),
        "estimate": running.select("t", funding_estimate=pl.when(valid).then("funding_rate")),
    }
    out = slots
    for part in parts.values():
        out = out.join(part, on="t", how="left")
    there = closes.filter(pl.col("close").is_not_null()).select("t", there=pl.lit(value=True))
    return out.join(there, on="t", how="left").select(
        "t", *(pl.when("there").then(name).alias(name) for name in out.columns if name != "t")
    )


def _liquidations(
    lake: Lake, instrument: Instrument, target: Interval, slots: pl.DataFrame, span: tuple[int, int]
) -> pl.DataFrame:
    """Sums by closed side; null where a minute of the bar ends more than 15 minutes after the venue's last of any."""
    found = pl.from_arrow(lake.read(LIQUIDATIONS, instrument.venue, None, *span))
    assert isinstance(found, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    of_all = found.with_columns(m=pl.col("timestamp").dt.epoch("ms") // _MINUTE * _MINUTE)
    minutes = slots.select("t", m=pl.int_ranges("t", pl.col("t") + target.ms, _MINUTE)).explode("m")
    last = of_all.select(last="m").unique().sort("last")
    silent = minutes.join_asof(last, left_on="m", right_on="last", coalesce=False)
    known = silent.group_by("t").agg(known=(pl.col("m") - pl.col("last") <= 15 * _MINUTE).fill_null(value=False).all())
    own = of_all.filter(pl.col("symbol") == instrument.symbol).with_columns(t=open_of(pl.col("m"), target))
    sums = own.group_by("t").agg(
        long=pl.col("quantity").filter(pl.col("side") == "sell").sum(),
        short=pl.col("quantity").filter(pl.col("side") == "buy").sum(),
    )
    both = slots.join(known, on="t", how="left").join(sums, on="t", how="left")
    return both.select(
        "t",
        liquidation_long=pl.when("known").then(pl.col("long").fill_null(0.0)),
        liquidation_short=pl.when("known").then(pl.col("short").fill_null(0.0)),
    )
