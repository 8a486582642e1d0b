"""What a backtest trades on: bars, marks, settlements and the venue's rules as time x instrument arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.book import Floats

Ints = NDArray[np.int64]


class Bars(NamedTuple):
    """Shape (bars, n), quote per base but for the volume (base coins); NaN where there is none.

    Where no mark is known, its four arrays are those of the trades.
    """

    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    mark_open: Floats
    mark_high: Floats
    mark_low: Floats
    mark_close: Floats


class Settlements(NamedTuple):
    """Settled funding in the order of time, shape (k,).

    Attributes
    ----------
    bar, column
        The bar in which it falls, and whose it is.
    at_open
        Whether it falls on the bar's open: it acts before the bar's orders.
    rate
        Fraction of notional for the interval that ended; longs pay a positive one.
    price
        Settlement mark, quote per base; NaN where unknown.
    source
        Whose price: a place in `provider.funding.PRICE_SOURCES`.

    """

    bar: Ints
    column: Ints
    at_open: NDArray[np.bool_]
    rate: Floats
    price: Floats
    source: Ints


class Rules(NamedTuple):
    """Order rules by date: shape (dates, n), and the first bar of each date, shape (dates,). 0 is no rule."""

    since: Ints
    lot: Floats
    min_base: Floats
    min_notional: Floats
    tick: Floats


class Margins(NamedTuple):
    """`liquidation.Tiers` by date, one dimension more each, and the first bar of each date, shape (dates,)."""

    since: Ints
    cap: Floats
    rate: Floats
    deduction: Floats
    leverage: Floats
    by_quantity: NDArray[np.bool_]


class Market(NamedTuple):
    """All of it.

    Attributes
    ----------
    bars
        Of the steps.
    unknown
        Shape (bars, n): bit 1 where funding at the open is unknown, bit 2 where funding later in the bar is.
    last
        Shape (n,): the last bar with a price, -1 for none.
    rules, margins
        What the venue takes, and asks for.

    """

    bars: Bars
    settlements: Settlements
    unknown: NDArray[np.uint8]
    last: Ints
    rules: Rules
    margins: Margins
