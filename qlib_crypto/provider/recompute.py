"""What a provider must hold, computed again from the lake by other means than the conversion: joins instead of grids.

Shares no code with `panel.py` and `funding.py`, so that a fault in those cannot hide.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from qlib_crypto.symbols import Interval

_MINUTE = 60_000
_HOUR = 60 * _MINUTE
_MONDAY = 4 * 24 * _HOUR
_LONGEST = 8 * _HOUR + _MINUTE
_VENUE = [n * _HOUR for n in (1, 2, 4, 8)]


def expected_fields(
    bars: Mapping[Interval, pl.DataFrame], settlements: pl.DataFrame, target: Interval, window: tuple[int, int]
) -> pl.DataFrame:
    """The fields of every slot in [start, end), a column each and `t`, the open in ms; null is unknown.

    Parameters
    ----------
    bars
        Lake bars by interval that cover the window and the slot before it; columns of `KLINE`, `t` for the open in ms,
        `flags` for what they were flagged as.
    settlements
        All settlements of the instrument: `t` (ms as the venue sent it), `rate`, `mark`.
    target, window
        Frequency and times, which lie on its grid.

    """
    start, end = window
    slots = pl.LazyFrame({"t": pl.int_range(start, end, target.ms, eager=True)})
    made = expected_bars(bars, target).lazy()
    previous = made.select(pl.col("t") + target.ms, previous=pl.col("close"))
    out = slots.join(made, on="t", how="left").join(previous, on="t", how="left")
    out = out.with_columns(
        vwap=pl.when(pl.col("volume") > 0).then(pl.col("amount") / pl.col("volume")),
        factor=pl.when(pl.col("present")).then(1.0),
        change=pl.when(pl.col("previous") > 0).then(pl.col("close") / pl.col("previous") - 1),
    )
    events = _events(settlements.lazy(), bars)
    out = out.rename({"flags": "quality"})
    return _with_funding(out.drop("previous", "present"), events, target).collect()


def expected_bars(bars: Mapping[Interval, pl.DataFrame], target: Interval) -> pl.DataFrame:
    """The complete bars of `target` by `t`, each from the finest interval that has all its parts."""
    first_come = []
    for interval in sorted(bars):
        if target.ms % interval.ms:
            continue
        parts = bars[interval].lazy().sort("t")
        first_come.append(
            parts.group_by(open_of(pl.col("t"), target).alias("t"), maintain_order=True)
            .agg(
                pl.col("open").first(),
                pl.col("high").max(),
                pl.col("low").min(),
                pl.col("close").last(),
                pl.col("volume").sum(),
                amount=pl.when(pl.col("quote_volume").null_count() == 0).then(pl.col("quote_volume").sum()),
                flags=pl.col("flags").bitwise_or(),
                parts=pl.len(),
            )
            .filter(pl.col("parts") == target.ms // interval.ms)
        )
    empty = dict.fromkeys(("open", "high", "low", "close", "volume", "amount"), pl.Float64)
    if not first_come:
        return pl.DataFrame(schema={"t": pl.Int64, **empty, "flags": pl.Int64, "present": pl.Boolean})
    made = pl.concat(first_come).unique("t", keep="first", maintain_order=True).sort("t")
    return made.drop("parts").with_columns(present=pl.lit(value=True)).collect()


def open_of(time: pl.Expr, target: Interval) -> pl.Expr:
    """The open of the bar that holds a time in ms; weeks begin on Mondays, the fourth day of Unix time was one."""
    return (time - _MONDAY) // target.ms * target.ms + _MONDAY


def _events(settlements: pl.LazyFrame, bars: Mapping[Interval, pl.DataFrame]) -> pl.DataFrame:
    """Settlements with minute `m`, price, interval since the one before and the number of their unbroken run."""
    events = settlements.sort("t").with_columns(m=((pl.col("t") + _MINUTE // 2) // _MINUTE) * _MINUTE)
    price = pl.when(pl.col("mark") > 0).then(pl.col("mark"))
    opens = []
    for interval in sorted(bars):
        name = f"open_{interval.name}"
        opened = bars[interval].lazy().select(m="t", **{name: "open"})
        events = events.join(opened, on="m", how="left", maintain_order="left")
        opens.append(name)
    gap = events.select("m").sort("m").with_columns(gap=pl.col("m").diff())
    before, after = (pl.min_horizontal(pl.col("gap").shift(sign * k) for k in (1, 2, 3)) for sign in (1, -1))
    wider = pl.col("gap") >= pl.max_horizontal(before, after) + _HOUR // 2
    lost = (pl.col("gap") > _LONGEST) | (wider & before.is_not_null() & after.is_not_null())
    gap = gap.with_columns(lost=lost.fill_null(value=False)).with_columns(
        run=pl.col("lost").cum_sum(),
        since=pl.when(pl.col("gap") <= _LONGEST).then(_interval(pl.col("m"), pl.col("gap"))),
    )
    events = events.join(gap, on="m", how="left", maintain_order="left")
    return (
        events.with_columns(price=pl.coalesce(price, *opens))
        .select("m", "rate", "price", "since", "run", "lost")
        .sort("m")
        .collect()
    )


def _interval(minute: pl.Expr, gap: pl.Expr) -> pl.Expr:
    """The gap, or the next longer venue interval that settles at this minute where the gap is none."""
    longer = [pl.when((gap < h) & (minute % h == 0)).then(h) for h in _VENUE]
    return pl.when(gap.is_in(_VENUE)).then(gap).otherwise(pl.coalesce(*longer, gap))


def _with_funding(slots: pl.LazyFrame, events: pl.DataFrame, target: Interval) -> pl.LazyFrame:
    known = _known(slots.select("t"), events, target)
    inside = events.lazy().with_columns(t=open_of(pl.col("m"), target), cash=pl.col("rate") * pl.col("price"))
    totals = slots.select("t")
    for suffix, rows in (("", inside), ("_open", inside.filter(pl.col("m") == pl.col("t")))):
        sums = rows.group_by("t").agg(
            pl.col("rate").sum().alias(f"funding{suffix}"),
            pl.when(pl.col("cash").null_count() == 0).then(pl.col("cash").sum()).alias(f"funding{suffix}_cash"),
            pl.len().alias("n"),
        )
        totals = totals.join(sums, on="t", how="left").with_columns(
            pl.when(pl.col("n").is_null()).then(0.0).otherwise(pl.col(name)).alias(name)
            for name in (f"funding{suffix}", f"funding{suffix}_cash")
        )
        totals = totals.drop("n")
    totals = totals.join(known, on="t").with_columns(
        pl.when(pl.col(condition)).then(pl.col(name)).alias(name)
        for condition, name in (
            ("whole", "funding"),
            ("whole", "funding_cash"),
            ("instant", "funding_open"),
            ("instant", "funding_open_cash"),
        )
    )
    fresh = (pl.col("t") - pl.col("m")) <= _LONGEST
    rates = totals.select("t").sort("t").join_asof(events.lazy(), left_on="t", right_on="m", coalesce=False)
    rates = rates.select(
        "t",
        funding_rate=pl.when(fresh).then(pl.col("rate")),
        funding_interval=pl.when(fresh).then(pl.col("since") / _HOUR),
    )
    out = slots.join(totals.drop("whole", "instant"), on="t").join(rates, on="t")
    return out.join(_next(slots.select("t"), events, target), on="t").sort("t")


def _next(slots: pl.LazyFrame, events: pl.DataFrame, target: Interval) -> pl.LazyFrame:
    """Hours from each close to the first multiple of the last settlement's interval that is still to come.

    Null where one came by between that settlement and the close, or where the interval is unknown or no venue's.
    """
    closes = slots.with_columns(close=pl.col("t") + target.ms).sort("close")
    last = closes.join_asof(
        events.lazy().select("m", "since"), left_on="close", right_on="m", allow_exact_matches=False, coalesce=False
    )
    since = pl.col("since")
    kept = since.is_in(_VENUE) & ((pl.col("close") - 1) // since == pl.col("m") // since)
    return last.select("t", funding_next=pl.when(kept).then((since - pl.col("close") % since) / _HOUR))


def _known(slots: pl.LazyFrame, events: pl.DataFrame, target: Interval) -> pl.LazyFrame:
    """Whether the whole bar, and the instant of its open, are known: `whole`, `instant`.

    Settlements fall on minutes, so a bar is known when its open and its last minute lie in one unbroken run, which
    lasts from its first settlement for one interval after its last.
    """
    minutes = slots.select("t", first=pl.col("t"), last=pl.col("t") + target.ms - _MINUTE)
    over = pl.col("lost").shift(-1, fill_value=False) & (pl.col("since") >= pl.col("m").shift(-1) - pl.col("m"))
    lasts = pl.when(pl.col("lost") | over).then(None).otherwise(pl.col("since")).fill_null(_MINUTE)
    ends = events.lazy().select("m", "run", end=pl.col("m") + lasts)
    for edge in ("first", "last"):
        before = minutes.select("t", at=edge).sort("at").join_asof(ends, left_on="at", right_on="m", coalesce=False)
        after = ends.select(next="m", next_run="run")
        both = before.join_asof(after, left_on="at", right_on="next", strategy="forward", coalesce=False)
        inside = (pl.col("run") == pl.col("next_run")) | (pl.col("at") < pl.col("end"))
        run = pl.when(inside.fill_null(value=False)).then(pl.col("run")).alias(f"{edge}_run")
        minutes = minutes.join(both.select("t", run), on="t")
    return minutes.select(
        "t",
        whole=(pl.col("first_run") == pl.col("last_run")).fill_null(value=False),
        instant=pl.col("first_run").is_not_null(),
    )
