"""Prices as they come from files made those of a market. Compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.account import Floats, Ints
from qlib_crypto.backtest.compiled import compiled, inlined
from qlib_crypto.backtest.market import CLOSE, HIGH, INNER_ROWS, LOW, OPEN, VOLUME

#: How far prices that are the same may lie apart in the provider's float32, relative.
_SAME = 1e-6
#: Bars that are unpacked at a time: the written rows of so many stay in the processor's cache.
_BLOCK = 64
#: Rows of prices before the marks.
_BARS = VOLUME + 1


@compiled
def unpack(raw: NDArray[np.float32], ticks: Floats, out: Floats) -> None:
    """From (n, bars) to (bars, n) in float64, prices on their ticks."""
    n, bars = raw.shape
    for begin in range(0, bars, _BLOCK):
        for i in range(n):
            tick = ticks[i]
            for t in range(begin, min(begin + _BLOCK, bars)):
                value = raw[i, t]
                price = float(value)
                if tick > 0.0:
                    snapped = np.rint(price / tick) * tick
                    if np.float32(snapped) == value:
                        price = snapped
                out[t, i] = price


@compiled
def without_price(prices: Floats, last: Ints) -> None:
    """NaN in the whole bar where open or close is no price; the last bar that has one. Marks stand in by trade prices.

    A mark of its own stays in a bar without a trade.
    """
    for t in range(prices.shape[1]):
        for i in range(prices.shape[2]):
            if prices[OPEN, t, i] > 0.0 and prices[CLOSE, t, i] > 0.0:
                last[i] = t
            else:
                for row in range(_BARS):
                    prices[row, t, i] = np.nan
            marks = prices.shape[0] - _BARS
            marked = marks > 0 and prices[_BARS + OPEN, t, i] > 0.0 and prices[_BARS + CLOSE, t, i] > 0.0
            for row in range(marks):
                if not (marked and prices[_BARS + row, t, i] > 0.0):
                    prices[_BARS + row, t, i] = prices[row, t, i]


@compiled
def inner_prices(finer: Floats, prices: Floats, each: int) -> None:
    """As `without_price` for the finer bars; where they do not show a bar's extremes its own are the first of them.

    So they are in a bar without a price, which nothing inside it makes good: a mark of its own may be all it has.
    """
    rows = finer.shape[0]
    for t in range(prices.shape[1]):
        for i in range(prices.shape[2]):
            for at in range(t * each, (t + 1) * each):
                if finer[OPEN, at, i] > 0.0 and finer[CLOSE, at, i] > 0.0:
                    for row in range(INNER_ROWS, rows):
                        if not finer[row, at, i] > 0.0:
                            finer[row, at, i] = finer[row - INNER_ROWS, at, i]
                else:
                    for row in range(rows):
                        finer[row, at, i] = np.nan
            if not (prices[OPEN, t, i] > 0.0 and _same_extremes(finer, prices, t, each, i)):
                for row in range(rows):
                    finer[row, t * each : (t + 1) * each, i] = np.nan
                    finer[row, t * each, i] = prices[row if row < INNER_ROWS else row + _BARS - INNER_ROWS, t, i]


@inlined
def _same_extremes(finer: Floats, prices: Floats, t: int, each: int, i: int) -> bool:
    """Whether the finer bars of a bar have its lowest and highest price and mark."""
    same = True
    for row in range(0, finer.shape[0], INNER_ROWS):
        of = 0 if row == 0 else row + _BARS - INNER_ROWS
        low, high = np.inf, -np.inf
        for at in range(t * each, (t + 1) * each):
            low, high = min(low, finer[row + LOW, at, i]), max(high, finer[row + HIGH, at, i])
        same = same and low < np.inf and abs(low - prices[of + LOW, t, i]) <= _SAME * low
        same = same and abs(high - prices[of + HIGH, t, i]) <= _SAME * high
    return same


@compiled
def moves_of(prices: Floats, marks: int, moves: Floats) -> None:
    """Make `moves` those of `Market.prices`, inf where an extreme has no open to count from.

    An account that bears them with all it holds needs no look at each position.
    """
    for t in range(len(moves)):
        most = 0.0
        for i in range(prices.shape[2]):
            first, low, high = prices[marks + OPEN, t, i], prices[marks + LOW, t, i], prices[marks + HIGH, t, i]
            if first > 0.0:
                most = max(most, high / first - 1.0)  # NaN leaves what is there
                most = max(most, 1.0 - low / first)
            elif low > 0.0 or high > 0.0:
                most = np.inf
        moves[t] = most
