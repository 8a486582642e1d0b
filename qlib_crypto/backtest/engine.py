"""Whole backtests on arrays: target weights in, curve, fills and payments out, in compiled code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.bar import EQUITY, FILL, FILLS, GROSS, NOTES, PAYMENT, PAYMENTS, SETTLED, run_bar
from qlib_crypto.backtest.book import ALL, CASH, PRICE, QUANTITY, Floats, new_book
from qlib_crypto.backtest.compiled import compiled
from qlib_crypto.backtest.market import OPEN, SETTLED_BAR, Ints, Market

#: Columns of `Result.curve`.
CURVE = ("equity", "cash", "gross", "net", "turnover", "price", "funding", "fee", "slippage", "liquidation")
#: Rows of fills and of payments that are written before they are moved on.
_ROWS = 1 << 15


class Result(NamedTuple):
    """What one backtest left.

    Attributes
    ----------
    curve
        Shape (bars, 10), see `CURVE`: at each close; the last six are the bar's own.
    fills, payments
        See `bar.FILL` and `bar.PAYMENT`.
    counts
        See `bar`.
    refused
        How many orders were cut or refused, by note.
    book
        What was held at the end.

    """

    curve: Floats
    fills: Floats
    payments: Floats
    counts: Ints
    refused: Ints
    book: Floats


@compiled
def _orders_to(book: Floats, opens: Floats, weights: Floats, money: float, columns: Ints, wanted: Floats) -> int:
    """From what is held to the weights of `money`, those that shrink a position first: how many orders."""
    count, n = 0, len(weights)
    for i in range(n):
        weight, held, price = weights[i], book[QUANTITY, i], opens[i]
        if (weight == 0.0 and held == 0.0) or not price > 0.0:
            continue
        target = 0.0 if np.isnan(weight) else weight * money / price
        if target != held and abs(target) <= abs(held) and held * target >= 0.0:
            columns[count], wanted[count] = i, target - held
            count += 1
    for i in range(n):
        weight, held, price = weights[i], book[QUANTITY, i], opens[i]
        if weight == 0.0 or np.isnan(weight) or not price > 0.0:
            continue
        target = weight * money / price
        if abs(target) > abs(held) or held * target < 0.0:
            columns[count], wanted[count] = i, target - held
            count += 1
    return count


@compiled
def _run(
    book: Floats, market: Market, terms: Floats, fees: Floats, desk: Floats, sums: Floats, fills: Floats,
    payments: Floats, ends: Ints, counts: Ints, weights: Floats, rebalance: NDArray[np.bool_], first: int,
    curve: Floats, before: Floats, refused: Ints,
) -> tuple[int, int]:  # fmt: skip
    """From bar `first` on: the bar that was not done, and the column whose funding is missing there, or -1."""
    n = book.shape[1] - 1
    columns, wanted, notes = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64)
    for t in range(first, len(curve)):
        if ends[FILLS] + 4 * n > len(fills) or ends[PAYMENTS] + _due(market.settled, ends[SETTLED], t) > len(payments):
            return t, -1
        count = 0
        if rebalance[t]:
            count = _orders_to(book, market.prices[OPEN, t], weights[t], max(sums[EQUITY], 0.0), columns, wanted)
        filled = ends[FILLS]
        notes[:count] = 0
        missing = run_bar(
            book, market, terms, fees, desk, sums, fills, payments, ends, counts, t, columns[:count], wanted[:count],
            notes[:count],
        )  # fmt: skip
        if missing >= 0:
            return t, missing
        for at in range(count):
            refused[notes[at]] += 1
        curve[t, 0] = sums[EQUITY]
        curve[t, 1] = book[CASH, ALL]
        curve[t, 2] = sums[GROSS]
        curve[t, 3] = sums[EQUITY] - book[CASH, ALL]
        traded = 0.0
        for at in range(filled, ends[FILLS]):
            traded += abs(fills[at, 2]) * fills[at, 3]
        curve[t, 4] = traded
        for cause in range(5):
            now = book[PRICE + cause, ALL]
            curve[t, 5 + cause] = now - before[cause]
            before[cause] = now
    return len(curve), -1


@compiled
def _due(settled: Ints, looked_at: int, t: int) -> int:
    """Settlements up to the end of a bar that were not looked at."""
    at = looked_at
    while at < len(settled) and settled[at, SETTLED_BAR] <= t:
        at += 1
    return at - looked_at


def run(
    market: Market, terms: Floats, fees: Floats, weights: Floats, rebalance: NDArray[np.bool_], account: float
) -> Result:
    """One backtest of target weights.

    Parameters
    ----------
    market
        What is traded.
    terms, fees
        On which terms: `bar.AS_TAKER` and so on, and `bar.TAKER` and `bar.MAKER` by bar.
    weights
        Shape (bars, n): signed notional over equity wanted at the bar's open; NaN is 0.
    rebalance
        Shape (bars,): whether anything is traded at the bar's open; elsewhere weights do not count.
    account
        Quote coins to begin with.

    Raises
    ------
    GapError
        Funding of a held position is unknown, under `ERROR`.

    """
    bars, n = market.prices.shape[1:]
    book, curve = new_book(account, n), np.full((bars, len(CURVE)), np.nan)
    desk, sums, before = np.zeros((5, n)), np.zeros(5), np.zeros(5)
    sums[EQUITY] = account
    most = max(_ROWS, 8 * n, int(np.bincount(market.settled[:, SETTLED_BAR], minlength=1).max()) + 1)
    fills, payments = np.empty((most, len(FILL))), np.empty((most, len(PAYMENT)))
    ends, counts, refused = np.zeros(3, np.int64), np.zeros(4, np.int64), np.zeros(len(NOTES), np.int64)
    filled, paid, at = [], [], 0
    while at < bars:
        at, missing = _run(
            book, market, terms, fees, desk, sums, fills, payments, ends, counts, weights, rebalance, at, curve, before,
            refused,
        )  # fmt: skip
        filled.append(fills[: ends[FILLS]].copy())
        paid.append(payments[: ends[PAYMENTS]].copy())
        ends[[FILLS, PAYMENTS]] = 0
        if missing >= 0:
            raise NotImplementedError
    return Result(curve, np.concatenate(filled), np.concatenate(paid), counts, refused, book)
