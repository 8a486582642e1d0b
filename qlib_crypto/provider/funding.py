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


@dataclass(frozen=True, slots=True)
class Settled:
    """The settlements of one instrument, ascending; arrays of shape (n_settlements,) but for `known_ms`.

    Attributes
    ----------
    time_ms
        Snapped to the minute.
    rate
        Fraction of notional for the interval.
    price
        Quote per base at the settlement, NaN where unknown.
    interval_hours
        Since the settlement before, NaN where unknown.
    due_ms
        When the next one is due, 0 where unknown.
    known_ms
        Rows [start, end): the times for which it is known what settled.
    price_sources
        How many prices are the venue's `mark`, a `trade` price, or `unknown`.

    """

    time_ms: Times
    rate: Floats
    price: Floats
    interval_hours: Floats
    due_ms: Times
    known_ms: Times
    price_sources: dict[str, int]


def settled(table: pa.Table, sources: Sequence[GridBars]) -> Settled:
    """One instrument's settlements (`FUNDING`, ascending) with their prices.

    A price is the settlement's own mark price, else the open of the finest of `sources` that has a bar opening in that
    minute, else unknown.

    Raises
    ------
    SchemaError
        When two settlements fall on one minute.

    """
    time_ms = snap_to_minute(column(table, "timestamp", pa.int64()))
    twice = time_ms[1:][np.diff(time_ms) <= 0]
    if twice.size:
        raise SchemaError(f"two settlements of {table['symbol'][0]} at {iso(int(twice[0]))}; remove one from the lake")
    mark = column(table, "mark_price", pa.float64())
    price = np.where(mark > 0, mark, np.nan)
    marked = int(np.isfinite(price).sum())
    for bars in sorted(sources, key=lambda s: s.interval):
        missing = np.flatnonzero(np.isnan(price))
        row, off = np.divmod(time_ms[missing] - bars.first_ms, bars.interval.ms)
        inside = (off == 0) & (row >= 0) & (row < bars.length)
        price[missing[inside]] = bars.data[0, row[inside]]
    known = int(np.isfinite(price).sum())
    return Settled(
        time_ms=time_ms,
        rate=column(table, "funding_rate", pa.float64()),
        price=price,
        interval_hours=settlement_intervals(time_ms),
        due_ms=due_times(time_ms),
        known_ms=known_ranges(time_ms),
        price_sources=dict(zip(PRICE_SOURCES, (marked, known - marked, price.size - known), strict=True)),
    )


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
    cash = settlements.rate * settlements.price

    def summed(amounts: Floats, rows: NDArray[np.bool_], known: NDArray[np.bool_]) -> Floats:
        total = np.bincount(bar[rows], weights=amounts[rows], minlength=length)
        return np.where(known, total, np.nan)

    last = np.searchsorted(settlements.time_ms, opens, side="right") - 1
    fresh = last >= 0
    fresh[fresh] = opens[fresh] - settlements.time_ms[last[fresh]] <= LONGEST_INTERVAL_MS
    rate, hours = np.full(length, np.nan), np.full(length, np.nan)
    rate[fresh] = settlements.rate[last[fresh]]
    hours[fresh] = settlements.interval_hours[last[fresh]]
    values = (
        summed(settlements.rate, inside, whole),
        summed(cash, inside, whole),
        summed(settlements.rate, at_open, instant),
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
