"""Whole backtests on arrays: target weights in, curve, fills and payments out, in compiled code."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.bar import NOTES, Tape, Terms, bar
from qlib_crypto.backtest.book import Book, Floats, equity, gross, new_book
from qlib_crypto.backtest.compiled import compiled
from qlib_crypto.backtest.market import Market

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
        See `bar.Tape`.
    counts
        See `bar.Tape`.
    refused
        How many orders were cut or refused, by note.
    book
        What was held at the end.

    """

    curve: Floats
    fills: Floats
    payments: Floats
    counts: NDArray[np.int64]
    refused: NDArray[np.int64]
    book: Book


@compiled
def _orders_to(
    book: Book, opens: Floats, t: int, weights: Floats, money: float, columns: NDArray[np.int64], wanted: Floats
) -> int:
    """From what is held to the weights of `money`, those that shrink a position first: how many orders."""
    count = 0
    for growing in (False, True):
        for i in range(len(weights)):
            held, price = book.quantity[i], opens[t, i]
            if not np.isfinite(price):
                continue
            weight = weights[i]
            target = 0.0 if np.isnan(weight) else weight * money / price
            grows = abs(target) > abs(held) or held * target < 0.0
            if target != held and grows == growing:
                columns[count], wanted[count] = i, target - held
                count += 1
    return count


@compiled
def _run(
    book: Book, market: Market, terms: Terms, tape: Tape, weights: Floats, rebalance: NDArray[np.bool_], first: int,
    curve: Floats, before: Floats, refused: NDArray[np.int64],
) -> tuple[int, int]:  # fmt: skip
    """From bar `first` on: the bar that was not done, and the column whose funding is missing there, or -1."""
    n = len(book.quantity)
    columns, wanted, notes = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64)
    void, used = np.zeros(n, np.bool_), np.zeros(n)
    for t in range(first, len(curve)):
        if tape.ends[0] + 4 * n > len(tape.fills) or tape.ends[1] + _due(market, tape, t) > len(tape.payments):
            return t, -1
        count = 0
        if rebalance[t]:
            count = _orders_to(book, market.bars.open, t, weights[t], max(equity(book), 0.0), columns, wanted)
        fills = tape.ends[0]
        notes[:count] = 0
        missing = bar(book, market, terms, tape, t, columns[:count], wanted[:count], void, used, notes[:count])
        if missing >= 0:
            return t, missing
        for at in range(count):
            refused[notes[at]] += 1
        row = curve[t]
        row[0], row[1], row[2] = equity(book), book.cash[0], gross(book)
        row[3], row[4] = row[0] - row[1], 0.0
        for at in range(fills, tape.ends[0]):
            row[4] += abs(tape.fills[at, 2]) * tape.fills[at, 3]
        for cause in range(5):
            now = book.causes[cause].sum()
            row[5 + cause] = now - before[cause]
            before[cause] = now
    return len(curve), -1


@compiled
def _due(market: Market, tape: Tape, t: int) -> int:
    """Settlements up to the end of a bar that were not looked at."""
    return np.searchsorted(market.settlements.bar, t, side="right") - tape.ends[2]


def run(market: Market, terms: Terms, weights: Floats, rebalance: NDArray[np.bool_], account: float) -> Result:
    """One backtest of target weights.

    Parameters
    ----------
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
    bars, n = market.bars.open.shape
    book, curve = new_book(account, n), np.full((bars, len(CURVE)), np.nan)
    most = max(_ROWS, 8 * n, int(np.bincount(market.settlements.bar, minlength=1).max()) + 1)
    tape = Tape(np.empty((most, 8)), np.empty((most, 6)), np.zeros(3, np.int64), np.zeros(4, np.int64))
    before, refused = np.zeros(5), np.zeros(len(NOTES), np.int64)
    fills, payments, at = [], [], 0
    while at < bars:
        reached, missing = _run(book, market, terms, tape, weights, rebalance, at, curve, before, refused)
        fills.append(tape.fills[: tape.ends[0]].copy())
        payments.append(tape.payments[: tape.ends[1]].copy())
        tape.ends[:2] = 0
        if missing >= 0:
            raise NotImplementedError
        at = reached
    return Result(curve, np.concatenate(fills), np.concatenate(payments), tape.counts, refused, book)
