"""Whole backtests on arrays: target weights in, curve, fills and payments out, in compiled code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.bar import run_bar
from qlib_crypto.backtest.book import ALL, CASH, PRICE, QUANTITY, Floats, new_book
from qlib_crypto.backtest.compiled import compiled
from qlib_crypto.backtest.market import OPEN, Ints, Market
from qlib_crypto.backtest.trading import EQUITY, FILL, FILLS, GROSS, LATER, NOTES, PAYMENT, PAYMENTS

#: Columns of `Result.curve`.
CURVE = ("equity", "cash", "gross", "net", "turnover", "price", "funding", "fee", "slippage", "liquidation")
#: Rows of fills to begin with, at most.
_ROWS = 1 << 22


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
def _orders_to(
    book: Floats,
    opens: Floats,
    weights: Floats,
    money: float,
    columns: Ints,
    wanted: Floats,
    room: Ints,
    later: Floats,
) -> int:
    """From what is held to the weights of `money`, those that shrink a position first: how many orders.

    `room` has the shape of the columns.
    """
    some = 0
    for i in range(len(weights)):
        room[some] = i
        some += (weights[i] != 0.0) | (book[QUANTITY, i] != 0.0)
    count, grow = 0, 0
    for i in room[:some]:
        weight, held, price = weights[i], book[QUANTITY, i], opens[i]
        if not price > 0.0:
            continue
        target = 0.0 if np.isnan(weight) else weight * money / price
        order = target - held
        if order == 0.0:
            continue
        if abs(target) <= abs(held) and held * target >= 0.0:
            columns[count], wanted[count] = i, order
            count += 1
        else:
            room[grow], later[grow] = i, order
            grow += 1
    for at in range(grow):
        columns[count + at], wanted[count + at] = room[at], later[at]
    return count + grow


@compiled
def _run(
    book: Floats, market: Market, terms: Floats, fees: Floats, desk: Floats, sums: Floats, fills: Floats,
    payments: Floats, ends: Ints, counts: Ints, weights: Floats, rebalance: NDArray[np.bool_], first: int,
    curve: Floats, before: Floats, refused: Ints, columns: Ints, wanted: Floats, notes: Ints, room: Ints,
) -> tuple[int, int]:  # fmt: skip
    """From bar `first` on: the bar that was not done, and the column whose funding is missing there, or -1."""
    n = book.shape[1] - 1
    for t in range(first, len(curve)):
        if ends[FILLS] + 4 * n > len(fills):
            return t, -1
        count = 0
        if rebalance[t]:
            count = _orders_to(
                book, market.prices[OPEN, t], weights[t], max(sums[EQUITY], 0.0), columns, wanted, room, desk[LATER]
            )
        filled = ends[FILLS]
        notes[:count] = 0
        missing = run_bar(
            book, market, terms, fees, desk, sums, fills, payments, ends, counts, t, columns[:count], wanted[:count],
            notes[:count], room,
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
    # memory that is never written to is never taken
    fills = np.empty((min(4 * n + bars * n, _ROWS), len(FILL)))
    payments = np.empty((len(market.settled), len(PAYMENT)))
    ends, counts, refused = np.zeros(3, np.int64), np.zeros(4, np.int64), np.zeros(len(NOTES), np.int64)
    at = 0
    while at < bars:
        at, missing = _run(
            book, market, terms, fees, desk, sums, fills, payments, ends, counts, weights, rebalance, at, curve, before,
            refused, np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64), np.empty(n, np.int64),
        )  # fmt: skip
        if missing >= 0:
            raise NotImplementedError
        if at < bars:
            fills = np.concatenate([fills, np.empty_like(fills)])
    return Result(curve, fills[: ends[FILLS]], payments[: ends[PAYMENTS]], counts, refused, book)
