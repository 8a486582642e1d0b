"""What an account of linear perpetuals holds, as arrays, and the arithmetic on them: float64, compiled, in place.

Conventions: quantities are signed base coins (short < 0), prices and money are quote coins, `cash` is what is left
after paying quantity x price for every position, so that

    equity = cash + sum(quantity x mark)        wallet = cash + sum(quantity x entry)

Every change of equity is one of five causes, by instrument. Instruments are numbers: columns of prices, rows of a book.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.compiled import compiled, inlined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Columns of a book: signed base coins, average entry price, last seen mark, quote coins set aside for an isolated
#: position; then what price, funding, fees, slippage and liquidation changed so far. 0 where nothing is held.
QUANTITY, ENTRY, MARK, MARGIN, PRICE, FUNDING, FEE, SLIPPAGE, LIQUIDATION, CASH = range(10)
#: The row of the whole account, after those of the instruments: what each cause changed, and the cash.
ALL = -1
#: The causes of a change of equity.
CAUSES = (PRICE, FUNDING, FEE, SLIPPAGE, LIQUIDATION)
#: A remainder below this part of the larger of order and position is rounding, not a position.
DUST = 1e-12


def new_book(cash: float, instruments: int) -> Floats:
    """A flat one, shape (n + 1, 10): one array, handed on so often; what is of one instrument lies together."""
    book = np.zeros((instruments + 1, CASH + 1))
    book[ALL, CASH] = cash
    return book


@inlined
def index(number: int) -> int:
    """A number as an index that does not count from the end: to ask for that took a twentieth of a backtest."""
    return np.uint64(number)  # type: ignore[return-value]


@inlined
def change(book: Floats, i: int, cause: int, amount: float) -> None:
    """Note why equity changed."""
    book[i, cause] += amount
    book[ALL, cause] += amount


@inlined
def trade(
    book: Floats, i: int, quantity: float, price: float, reference: float, fee_rate: float, leverage: float
) -> tuple[float, float]:
    """Buy or sell (signed base `quantity`) at `price` while the market is at `reference`: fee, and realised profit.

    The fee is |quantity| x price x `fee_rate`; an order that crosses zero pays it on both legs. A held position keeps
    its mark, a new one is marked at the reference. `leverage` > 0 sets notional / leverage aside for what is opened
    (isolated margin), 0 sets nothing; what is there is released as the position is reduced. Profit is before fee.
    """
    held, entry = book[i, QUANTITY], book[i, ENTRY]
    if held == 0.0:
        book[i, MARK] = reference
        entry = price
    fee = abs(quantity) * price * fee_rate
    book[ALL, CASH] -= quantity * price + fee
    change(book, i, PRICE, quantity * (book[i, MARK] - reference))
    change(book, i, SLIPPAGE, quantity * (reference - price))
    change(book, i, FEE, -fee)
    after, opposite = held + quantity, held * quantity < 0.0
    closed = min(abs(quantity), abs(held)) * opposite
    realised = np.copysign(closed, held) * (price - entry) + 0.0  # never -0.0
    if abs(after) <= DUST * max(abs(held), abs(quantity)):
        clear(book, i)
        return fee, realised
    if book[i, MARGIN] != 0.0:
        book[i, MARGIN] *= 1.0 - closed / abs(held)
    if leverage > 0.0:
        book[i, MARGIN] += (abs(quantity) - closed) * price / leverage
    entry += (price - entry) * (quantity / after) * (not opposite)
    book[i, QUANTITY] = after
    book[i, ENTRY] = price if held * after < 0.0 else entry
    return fee, realised


@inlined
def clear(book: Floats, i: int) -> None:
    """Nothing is held any more."""
    book[i, QUANTITY] = 0.0
    book[i, ENTRY] = 0.0
    book[i, MARK] = 0.0
    book[i, MARGIN] = 0.0


@inlined
def settle(book: Floats, i: int, cash_per_base: float) -> float:
    """The funding of the position held now: a long pays a positive rate x mark (`cash_per_base`).

    What an isolated position pays or gets changes the margin set aside for it.
    """
    amount = -book[i, QUANTITY] * cash_per_base
    book[ALL, CASH] += amount
    change(book, i, FUNDING, amount)
    if book[i, MARGIN] != 0.0:
        book[i, MARGIN] += amount
    return amount


@inlined
def positions(book: Floats, room: Ints) -> int:
    """In how many columns something is held; which ones is in `room`, shape (n,)."""
    count = 0
    for i in range(len(room)):
        room[count] = i
        count += book[i, QUANTITY] != 0.0
    return count


@inlined
def mark_all(book: Floats, held: Ints, prices: Floats) -> tuple[float, float, int]:
    """Every position at its price, without one at its last mark: equity, gross notional, and how many had none."""
    money, gross, changed, without = book[ALL, CASH], 0.0, 0.0, 0
    for column in held:
        i = index(column)
        quantity, mark = book[i, QUANTITY], book[i, MARK]
        if prices[i] > 0.0:
            amount = quantity * (prices[i] - mark)
            mark = prices[i]
            book[i, MARK] = mark
            book[i, PRICE] += amount
            changed += amount
        else:
            without += 1
        money += quantity * mark
        gross += abs(quantity * mark)
    book[ALL, PRICE] += changed
    return money, gross, without


@compiled
def mark_one(book: Floats, i: int, price: float) -> None:
    """One position at a price."""
    change(book, i, PRICE, book[i, QUANTITY] * (price - book[i, MARK]))
    book[i, MARK] = price


@compiled
def equity(book: Floats) -> float:
    """What would be left if everything closed at mark without a cost."""
    total = book[ALL, CASH]
    for i in range(book.shape[0] - 1):
        if book[i, QUANTITY] != 0.0:
            total += book[i, QUANTITY] * book[i, MARK]
    return total


@compiled
def gross(book: Floats) -> float:
    """The absolute notional at mark."""
    total = 0.0
    for i in range(book.shape[0] - 1):
        total += abs(book[i, QUANTITY]) * book[i, MARK]
    return total
