"""What an account of linear perpetuals holds, as arrays, and the arithmetic on them: float64, compiled, in place.

Conventions: quantities are signed base coins (short < 0), prices and money are quote coins, `cash` is what is left
after paying quantity x price for every position, so that

    equity = cash + sum(quantity x mark)        wallet = cash + sum(quantity x entry)

Every change of equity is one of five causes, by instrument. Instruments are the numbers of their columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.compiled import compiled

Floats = NDArray[np.float64]

#: Rows of `Book.causes`.
PRICE, FUNDING, FEE, SLIPPAGE, LIQUIDATION = range(5)
#: A remainder below this part of the larger of order and position is rounding, not a position.
DUST = 1e-12


class Book(NamedTuple):
    """Arrays that the functions of this module change.

    Attributes
    ----------
    cash
        Shape (1,), see the module.
    quantity, entry, mark
        Shape (n,): signed base coins, average entry price, last seen mark; 0 where nothing is held.
    margin
        Shape (n,): quote coins set aside for an isolated position; 0 under cross margin.
    causes
        Shape (5, n): what price, funding, fees, slippage and liquidation changed so far.

    """

    cash: Floats
    quantity: Floats
    entry: Floats
    mark: Floats
    margin: Floats
    causes: Floats


def new_book(cash: float, instruments: int) -> Book:
    """A flat one."""
    none = [np.zeros(instruments) for _ in range(4)]
    return Book(np.array([float(cash)]), *none, np.zeros((5, instruments)))


@compiled
def trade(
    book: Book, i: int, quantity: float, price: float, reference: float, fee_rate: float, leverage: float
) -> tuple[float, float]:
    """Buy or sell (signed base `quantity`) at `price` while the market is at `reference`: fee, and realised profit.

    The fee is |quantity| x price x `fee_rate`; an order that crosses zero pays it on both legs. A held position keeps
    its mark, a new one is marked at the reference. `leverage` > 0 sets notional / leverage aside for what is opened
    (isolated margin) and releases it in proportion as the position is reduced; 0 is cross margin. Profit is before fee.
    """
    held, entry = book.quantity[i], book.entry[i]
    if held == 0.0:
        book.mark[i] = reference
        entry = price
    fee = abs(quantity) * price * fee_rate
    book.cash[0] -= quantity * price + fee
    book.causes[PRICE, i] += quantity * (book.mark[i] - reference)
    book.causes[SLIPPAGE, i] += quantity * (reference - price)
    book.causes[FEE, i] -= fee
    after = held + quantity
    closed = 0.0
    if held * quantity < 0.0:
        closed = min(abs(quantity), abs(held))
    realised = closed * (price - entry) * np.sign(held)
    if abs(after) <= DUST * max(abs(held), abs(quantity)):
        clear(book, i)
        return fee, realised
    opened = abs(quantity) - closed
    if held * quantity >= 0.0:
        entry += (price - entry) * (quantity / after)
    elif held * after < 0.0:
        entry = price
    if leverage > 0.0:
        kept = 0.0 if held == 0.0 else book.margin[i] * (1.0 - closed / abs(held))
        book.margin[i] = kept + opened * price / leverage
    book.quantity[i] = after
    book.entry[i] = entry
    return fee, realised


@compiled
def clear(book: Book, i: int) -> None:
    """Nothing is held any more."""
    book.quantity[i] = 0.0
    book.entry[i] = 0.0
    book.mark[i] = 0.0
    book.margin[i] = 0.0


@compiled
def settle(book: Book, i: int, cash_per_base: float) -> float:
    """The funding of the position held now: a long pays a positive rate x mark (`cash_per_base`).

    What an isolated position pays or gets changes the margin set aside for it.
    """
    amount = -book.quantity[i] * cash_per_base
    book.cash[0] += amount
    book.causes[FUNDING, i] += amount
    if book.margin[i] != 0.0:
        book.margin[i] += amount
    return amount


@compiled
def mark_at(book: Book, i: int, price: float) -> None:
    """The position at a new mark."""
    book.causes[PRICE, i] += book.quantity[i] * (price - book.mark[i])
    book.mark[i] = price


@compiled
def equity(book: Book) -> float:
    """What would be left if everything closed at mark without a cost."""
    total = book.cash[0]
    for i in range(len(book.quantity)):
        if book.quantity[i] != 0.0:
            total += book.quantity[i] * book.mark[i]
    return total


@compiled
def gross(book: Book) -> float:
    """The absolute notional at mark."""
    total = 0.0
    for i in range(len(book.quantity)):
        total += abs(book.quantity[i]) * book.mark[i]
    return total
