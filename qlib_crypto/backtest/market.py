"""What a backtest trades on, as few arrays as there can be: compiled functions pass each of them on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.account import Floats, Ints
from qlib_crypto.backtest.orders import SIZES, OrderRules
from qlib_crypto.market.margin import MarginTable

Flags = NDArray[np.bool_]

#: Rows of `Market.prices`; marks follow in the order of the first four where there are any.
OPEN, HIGH, LOW, CLOSE, VOLUME = range(5)
#: The rows of `Market.inner` before its marks.
INNER_ROWS = CLOSE + 1
#: Rows of `Market.rules`.
LOT, MIN_BASE, MIN_NOTIONAL, TICK = range(4)
#: Rows of `Market.tiers`.
CAP, RATE, DEDUCTION, LEVERAGE = range(4)
#: Columns of `Market.bounds`.
LARGEST_RATE, LEAST_LEVERAGE = range(2)
#: Columns of `Market.settled`, and of `Market.settlements`.
SETTLED_BAR, SETTLED_COLUMN, SETTLED_AT_OPEN = range(3)
SETTLED_RATE, SETTLED_PRICE = range(2)
#: Bits of `Market.unknown`.
UNKNOWN_AT_OPEN, UNKNOWN_LATER = 1, 2


class Market(NamedTuple):
    """Bars of n instruments and the venue's rules.

    Attributes
    ----------
    prices
        Shape (5 or 9, bars, n): `OPEN` to `CLOSE` (quote per base), `VOLUME` (base coins), then mark open, high, low,
        close where they are known. NaN where there is no bar.
    marks
        Row of the mark's open: 5, or `OPEN` where positions are marked at trade prices.
    settled, settlements
        Shapes (k, 3) and (k, 2), in the order of time: the bar in which funding settled, whose, and 1 where exactly at
        its open, so that it acts before the bar's orders; its rate (fraction of notional, longs pay a positive one) and
        price (quote per base, NaN where unknown).
    unknown
        Shape (bars, n + 1): whether it is unknown what settled, in bits: at the open, later in the bar; then of any.
    last
        Shape (n,): the last bar with a price, also beyond these bars where the provider has one; -1 for none.
    rules_since, rules
        First bar of each state of the order rules, shape (dates,), and shape (dates, 4, n): lot and smallest order
        (base coins), smallest notional (quote coins), tick; 0 is no rule.
    tiers_since, tiers, by_quantity
        First bar of each state of the margin tiers; shape (dates, 4, n, most tiers): cap, maintenance rate, deduction,
        largest leverage, a table's last tier repeated; shape (dates, n): sizes are base coins, not notional.
    bounds
        Shape (dates, 2): the largest maintenance rate and the smallest leverage of any tier; see `bounds_of`.
    slips
        Shape (bars, 1 or 0, 2, n): how much worse than the market orders fill: a fraction of the price, and what comes
        to it times the square root of the order's quote coins. Of length 0 where that is one number of the terms.
    inner
        Shape (4 or 8, bars x k, n): open, high, low and close of the k finer bars in each, then their marks, NaN where
        there is none; where they do not show a bar's extremes its own are the first one's, and the others NaN. Of
        length 0 without finer bars.
    days
        Shape (bars,): the UTC day in which each bar opens, a number.
    moves
        Shape (bars,): how far any mark goes from its open within each bar, a fraction; see `prices.moves_of`.

    """

    prices: NDArray[np.float64]
    marks: int
    settled: Ints
    settlements: Floats
    unknown: NDArray[np.uint8]
    last: Ints
    rules_since: Ints
    rules: Floats
    tiers_since: Ints
    tiers: Floats
    by_quantity: NDArray[np.bool_]
    bounds: Floats
    slips: NDArray[np.float64]
    inner: NDArray[np.float64]
    days: Ints
    moves: Floats


def tiers_of(tables: Sequence[MarginTable]) -> tuple[Floats, Flags]:
    """The tables of the instruments, in their order: as `Market.tiers` and `Market.by_quantity` of one date."""
    most = max(len(table.tiers) for table in tables)
    rows = [[*table.tiers, *[table.tiers[-1]] * (most - len(table.tiers))] for table in tables]
    names = ("cap", "maintenance_rate", "deduction", "max_leverage")
    tiers = np.array([[[getattr(tier, name) for tier in row] for row in rows] for name in names], dtype=np.float64)
    return tiers, np.array([table.by_quantity for table in tables])


def bounds_of(tiers: Floats) -> Floats:
    """`Market.bounds` of `Market.tiers`: an account that is sound even by these needs no look at its tiers."""
    return np.column_stack([tiers[:, RATE].max(axis=(1, 2)), tiers[:, LEVERAGE].min(axis=(1, 2))])


def rules_of(rules: Sequence[OrderRules]) -> Floats:
    """The order rules of the instruments, in their order: as `Market.rules` of one date."""
    return np.array([[getattr(own, name) for own in rules] for name in SIZES], dtype=np.float64)
