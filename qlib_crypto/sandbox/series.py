"""Arithmetic on bar series: slices, the grid of a bar length, and resampling without holes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.sandbox.tape import BarSeries, SettlementSeries


@dataclass(frozen=True, slots=True)
class Grid:
    """A bar length and its phase: bars open at `offset_ms + k * ms`.

    OKX opens `6H`, `12H` and `1D` at UTC+8, so their offset is not zero.
    """

    ms: int
    offset_ms: int = 0

    @classmethod
    def utc8(cls, ms: int) -> Grid:
        """The grid whose days open at 00:00 UTC+8."""
        return cls(ms, (DAY_MS - 8 * HOUR_MS) % ms)

    def floor(self, ms: int) -> int:
        """The open of the bar that holds the instant `ms`."""
        return ms - (ms - self.offset_ms) % self.ms


def empty_bars() -> BarSeries:
    """A series without bars."""
    none = np.empty(0)
    return BarSeries(np.empty(0, np.int64), none, none, none, none, none, none, np.empty(0, np.int64))


def empty_settlements() -> SettlementSeries:
    """A series without settlements."""
    return SettlementSeries(np.empty(0, np.int64), np.empty(0), np.empty(0))


def take(series: BarSeries, where: slice | NDArray[np.bool_] | NDArray[np.int64]) -> BarSeries:
    """The bars that `where` (a slice, mask or index array) chooses."""
    return BarSeries(*(getattr(series, field.name)[where] for field in fields(BarSeries)))


def moved(series: BarSeries, price: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> BarSeries:
    """The same bars at other prices, at which nobody trades: without volume and trades."""
    o, h, l, c = map(price, (series.open, series.high, series.low, series.close))
    none = np.zeros(len(series.open_ms))
    return BarSeries(series.open_ms, o, h, l, c, none, none, none.astype(np.int64))


def first_prints(series: BarSeries, lot_base: float) -> BarSeries:
    """What a bar-only tape may show of each bar while it is open: one trade of one lot at its open price.

    High, low, close and turnover of a whole bar are the future while it is open; the open is not.
    A bar without a trade shows no volume. (Where the lot is derived, a thin bar may close with less than a lot.)
    """
    price, volume = series.open, np.where(series.volume_base > 0, lot_base, 0.0)
    quote = np.where(np.isnan(series.volume_quote), np.nan, volume * price)
    return BarSeries(series.open_ms, price, price, price, price, volume, quote, np.minimum(1, series.trades))


def collapse(series: BarSeries, open_ms: int) -> BarSeries:
    """The one bar, opening at `open_ms`, that holds every bar of a series; none when that is empty."""
    if not len(series.open_ms):
        return series
    trades = -1 if series.trades.min() < 0 else series.trades.sum()
    return BarSeries(
        np.array([open_ms], np.int64),
        series.open[:1],
        series.high.max(keepdims=True),
        series.low.min(keepdims=True),
        series.close[-1:],
        series.volume_base.sum(keepdims=True),
        series.volume_quote.sum(keepdims=True),
        np.array([trades], np.int64),
    )


def chain(first: BarSeries, second: BarSeries) -> BarSeries:
    """The bars of both, one after the other."""
    parts = ((getattr(first, field.name), getattr(second, field.name)) for field in fields(BarSeries))
    return BarSeries(*(np.concatenate(pair) for pair in parts))


def resample(series: BarSeries, fine_ms: int, grid: Grid) -> BarSeries:
    """The bars of `grid` that bars of `fine_ms` cover completely; a bar with a hole in it does not exist.

    Prices are first, max, min, last; volumes and trades are sums, unknown (NaN, -1) when one part is.
    """
    if not len(series.open_ms):
        return series
    slot = (series.open_ms - grid.offset_ms) // grid.ms
    start = np.flatnonzero(np.diff(slot, prepend=slot[0] - 1))
    count = np.diff(start, append=len(slot))
    trades = np.add.reduceat(series.trades, start)
    trades[np.minimum.reduceat(series.trades, start) < 0] = -1
    bars = BarSeries(
        slot[start] * grid.ms + grid.offset_ms,
        series.open[start],
        np.maximum.reduceat(series.high, start),
        np.minimum.reduceat(series.low, start),
        series.close[start + count - 1],
        np.add.reduceat(series.volume_base, start),
        np.add.reduceat(series.volume_quote, start),
        trades,
    )
    return take(bars, count == grid.ms // fine_ms)


def union(preferred: BarSeries, other: BarSeries) -> BarSeries:
    """All bars of `preferred`, and those of `other` at opens that it lacks, ascending."""
    if not len(preferred.open_ms):
        return other
    extra = take(other, ~np.isin(other.open_ms, preferred.open_ms))
    if not len(extra.open_ms):
        return preferred
    both = chain(preferred, extra)
    return take(both, np.argsort(both.open_ms))
