"""Funding on the grid: what settled inside each bar, what it cost, and the last settled rate.

NaN is unknown; 0 is known to be none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS, iso
from qlib_crypto.errors import SchemaError
from qlib_crypto.market.funding import (
    LONGEST_INTERVAL_MS,
    due_times,
    known_ranges,
    settlement_intervals,
    snap_to_minute,
)
from qlib_crypto.provider.resample import Floats, GridBars, column
from qlib_crypto.symbols import Interval

FUNDING_FIELDS = (
    "funding", "funding_cash", "funding_open", "funding_open_cash",
    "funding_rate", "funding_interval", "funding_next",
)  # fmt: skip
#: Where a settlement's price came from.
PRICE_SOURCES = ("mark", "trade", "unknown")

Times = NDArray[np.int64]

#: Settlements of one instrument, ascending, each of a minute of its own: the minute (Unix milliseconds), the rate
#: (fraction of notional for the interval), the price (quote per base, NaN where unknown) and its place in
#: `PRICE_SOURCES`.
SERIES = np.dtype([("time_ms", "<i8"), ("rate", "<f8"), ("price", "<f8"), ("price_source", "u1")])
_MARK, _TRADE, _UNKNOWN = range(len(PRICE_SOURCES))


@dataclass(frozen=True, slots=True)
class Settled:
    """The settlements of one instrument and what their times tell; arrays of shape (n_settlements,) but for `known_ms`.

    Attributes
    ----------
    series
        As `SERIES`.
    interval_hours
        Since the settlement before, NaN where unknown.
    due_ms
        When the next one is due, 0 where unknown.
    known_ms
        Rows [start, end): the times for which it is known what settled.

    """

    series: NDArray[np.void]
    interval_hours: Floats
    due_ms: Times
    known_ms: Times

    @classmethod
    def of(cls, series: NDArray[np.void]) -> Settled:
        """With what follows from the times."""
        time_ms = series["time_ms"]
        return cls(series, settlement_intervals(time_ms), due_times(time_ms), known_ranges(time_ms))

    @property
    def time_ms(self) -> Times:
        """The minutes."""
        times: Times = self.series["time_ms"]
        return times

    def told(self) -> NDArray[np.float64]:
        """What holds from each settlement to the next, shape (n, 6): equal rows at equal times make equal fields."""
        at = np.searchsorted(self.known_ms[:, 0], self.time_ms, side="right") - 1
        known_until = self.known_ms[at, 1]
        following = np.r_[self.time_ms[1:], np.iinfo(np.int64).max][: len(at)]
        return np.column_stack(
            [
                self.time_ms, self.series["rate"], self.series["price"], self.interval_hours, self.due_ms,
                np.minimum(known_until, following),
            ]
        )  # fmt: skip


def series_of(table: pa.Table) -> NDArray[np.void]:
    """The settlements of one instrument in a lake table (`FUNDING`, ascending), with their own marks as prices.

    Raises
    ------
    SchemaError
        When two settlements fall on one minute.

    """
    out = np.zeros(len(table), dtype=SERIES)
    out["time_ms"] = snap_to_minute(column(table, "timestamp", pa.int64()))
    twice = out["time_ms"][1:][np.diff(out["time_ms"]) <= 0]
    if twice.size:
        raise SchemaError(f"two settlements of {table['symbol'][0]} at {iso(int(twice[0]))}; remove one from the lake")
    mark = column(table, "mark_price", pa.float64())
    out["rate"] = column(table, "funding_rate", pa.float64())
    out["price"] = np.where(mark > 0, mark, np.nan)
    out["price_source"] = np.where(mark > 0, _MARK, _UNKNOWN)
    return out


def replaced(series: NDArray[np.void], new: NDArray[np.void], start_ms: int, end_ms: int) -> NDArray[np.void]:
    """The series with `new` instead of what it has in `[start_ms, end_ms)`."""
    begin, stop = np.searchsorted(series["time_ms"], (start_ms, end_ms))
    return np.concatenate([series[:begin], new, series[stop:]])


def price(series: NDArray[np.void], sources: Sequence[GridBars], start_ms: int, end_ms: int) -> None:
    """Set the prices in `[start_ms, end_ms)` that are no marks: the open of the finest source with a bar then."""
    begin, stop = np.searchsorted(series["time_ms"], (start_ms, end_ms))
    rows = begin + np.flatnonzero(series["price_source"][begin:stop] != _MARK)
    prices = np.full(len(rows), np.nan)
    for bars in sorted(sources, key=lambda s: s.interval):
        missing = np.flatnonzero(np.isnan(prices))
        slot, off = np.divmod(series["time_ms"][rows[missing]] - bars.first_ms, bars.interval.ms)
        inside = (off == 0) & (slot >= 0) & (slot < bars.length)
        prices[missing[inside]] = bars.data[0, slot[inside]]
    series["price"][rows] = prices
    series["price_source"][rows] = np.where(np.isnan(prices), _UNKNOWN, _TRADE)


def price_sources(series: NDArray[np.void]) -> dict[str, int]:
    """How many prices are of each source."""
    counts = np.bincount(series["price_source"], minlength=len(PRICE_SOURCES)).tolist()
    return dict(zip(PRICE_SOURCES, counts, strict=True))


def differing(one: Settled, other: Settled) -> tuple[int, int] | None:
    """The times [start, end) outside of which both make the same fields; None when they are the same everywhere."""
    a, b = one.told(), other.told()
    few = min(len(a), len(b))
    same = ((a[:few] == b[:few]) | (np.isnan(a[:few]) & np.isnan(b[:few]))).all(axis=1)
    head = few if same.all() else int(np.argmin(same))
    if head == len(a) == len(b):
        return None
    most = few - head
    late_a, late_b = a[len(a) - most :], b[len(b) - most :]
    same = ((late_a == late_b) | (np.isnan(late_a) & np.isnan(late_b))).all(axis=1)[::-1]
    tail = most if same.all() else int(np.argmin(same))
    start = min(int(of.time_ms[head]) for of in (one, other) if head < len(of.time_ms))
    end = int(one.time_ms[len(a) - tail]) if tail else int(np.iinfo(np.int64).max)
    return start, end


def funding_fields(settlements: Settled, interval: Interval, first_ms: int, length: int) -> dict[str, Floats]:
    """The funding fields of `length` bars from the one that opens at `first_ms`, each of shape (length,).

    `funding` and `funding_cash` are known where the whole bar [open, close) is; `funding_open` and `funding_open_cash`
    where the instant of the open is. A cash amount of unknown price is unknown. `funding_rate` (fraction) and
    `funding_interval` (hours) are of the last settlement at or before the open, no older than 8 h 1 min.
    `funding_next` is the time from the close to the next settlement (hours), by the rhythm of the settlements before
    the close: one that is due at the close counts as passed, and once a due one has stayed away the next is unknown.

    The last three never change when more becomes known. The amounts may: whether nothing settled since an overdue
    settlement is unknown until the next one tells; an amount that was known stays.
    """
    opens = first_ms + np.arange(length, dtype=np.int64) * interval.ms
    bar, after_open = np.divmod(settlements.time_ms - first_ms, interval.ms)
    inside = (bar >= 0) & (bar < length)
    at_open = inside & (after_open == 0)
    whole, instant = np.zeros(length, dtype=np.bool_), np.zeros(length, dtype=np.bool_)
    for start, end in settlements.known_ms:
        begin, stop = np.searchsorted(opens, (start, end))
        instant[begin:stop] = True
        whole[begin : np.searchsorted(opens, end - interval.ms, side="right")] = True
    rates = settlements.series["rate"]
    cash = rates * settlements.series["price"]

    def summed(amounts: Floats, rows: NDArray[np.bool_], known: NDArray[np.bool_]) -> Floats:
        total = np.bincount(bar[rows], weights=amounts[rows], minlength=length)
        return np.where(known, total, np.nan)

    last = np.searchsorted(settlements.time_ms, opens, side="right") - 1
    fresh = last >= 0
    fresh[fresh] = opens[fresh] - settlements.time_ms[last[fresh]] <= LONGEST_INTERVAL_MS
    rate, hours = np.full(length, np.nan), np.full(length, np.nan)
    rate[fresh] = rates[last[fresh]]
    hours[fresh] = settlements.interval_hours[last[fresh]]
    values = (
        summed(rates, inside, whole),
        summed(cash, inside, whole),
        summed(rates, at_open, instant),
        summed(cash, at_open, instant),
        rate,
        hours,
        _next_settlement(settlements, opens + interval.ms),
    )
    return dict(zip(FUNDING_FIELDS, values, strict=True))


def _next_settlement(settlements: Settled, closes: Times) -> Floats:
    last = np.searchsorted(settlements.time_ms, closes) - 1
    hours = np.full(closes.shape, np.nan)
    begun = last >= 0
    left = (settlements.due_ms[last[begun]] - closes[begun]) / HOUR_MS
    hours[begun] = np.where(left > 0, left, np.where(left == 0, settlements.interval_hours[last[begun]], np.nan))
    return hours
