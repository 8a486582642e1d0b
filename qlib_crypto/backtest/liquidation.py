"""Maintenance margin and liquidation on mark, on the arrays of `account.py`.

A position, or under cross margin all of them together, is taken over by the venue when its margin is no more than its
maintenance margin and the fee of closing it. Inside a bar, marks go from where they are straight to the extreme that
harms each position, all at the same pace; what happens is what happens first on that way.
"""

from __future__ import annotations

import numpy as np

from qlib_crypto.backtest.account import (
    ALL,
    CASH,
    ENTRY,
    LIQUIDATION,
    MARGIN,
    MARK,
    PRICE,
    QUANTITY,
    Floats,
    Ints,
    change,
    clear,
)
from qlib_crypto.backtest.compiled import compiled, inlined
from qlib_crypto.backtest.market import CAP, DEDUCTION, LEVERAGE, RATE, Flags

#: More halvings than a double has bits to tell two prices apart.
_HALVINGS = 200
#: Position sizes that are computed to be at a cap are in the tier below it.
_AT_CAP = 1.0 - 1e-12


@inlined
def tier_at(tiers: Floats, by_quantity: Flags, i: int, quantity: float, price: float) -> int:
    """The place of a position's tier; the last one for what is too large."""
    size = abs(quantity) * _AT_CAP
    if not by_quantity[i]:
        size *= price
    at = 0
    while at < tiers.shape[2] - 1 and tiers[CAP, i, at] <= size:
        at += 1
    return at


@inlined
def largest_leverage(tiers: Floats, by_quantity: Flags, i: int, quantity: float, price: float) -> float:
    """Notional over initial margin, at most, of a position."""
    return tiers[LEVERAGE, i, tier_at(tiers, by_quantity, i, quantity, price)]


@inlined
def needed(tiers: Floats, by_quantity: Flags, i: int, quantity: float, price: float, closing_fee: float) -> float:
    """Maintenance margin and the fee of closing, of a position at a mark."""
    at = tier_at(tiers, by_quantity, i, quantity, price)
    return abs(quantity) * price * (tiers[RATE, i, at] + closing_fee) - tiers[DEDUCTION, i, at]


@inlined
def pocket(book: Floats, i: int, price: float) -> float:
    """What is behind an isolated position at a price: its margin and its profit."""
    return book[i, MARGIN] + book[i, QUANTITY] * (price - book[i, ENTRY])


@compiled
def isolated_surplus(
    book: Floats, tiers: Floats, by_quantity: Flags, i: int, price: float, closing_fee: float
) -> float:
    """What is behind an isolated position less what is needed, at a price."""
    return pocket(book, i, price) - needed(tiers, by_quantity, i, book[i, QUANTITY], price, closing_fee)


@compiled
def isolated_trigger(
    book: Floats, tiers: Floats, by_quantity: Flags, i: int, extreme: float, closing_fee: float
) -> float:
    """The price between the mark and `extreme` at which an isolated position is taken over, NaN when there is none."""
    if isolated_surplus(book, tiers, by_quantity, i, book[i, MARK], closing_fee) <= 0.0:
        return book[i, MARK]
    if isolated_surplus(book, tiers, by_quantity, i, extreme, closing_fee) > 0.0:
        return np.nan
    safe, lost = book[i, MARK], extreme
    for _ in range(_HALVINGS):
        middle = 0.5 * (safe + lost)
        if middle in (safe, lost):
            break
        if isolated_surplus(book, tiers, by_quantity, i, middle, closing_fee) <= 0.0:
            lost = middle
        else:
            safe = middle
    return lost


@compiled
def cross_surplus(
    book: Floats, held: Ints, tiers: Floats, by_quantity: Flags, extremes: Floats, way: float, closing_fee: float
) -> float:
    """Equity less what is needed, `way` (0 to 1) from the marks to the extremes."""
    surplus = book[ALL, CASH]
    for i in held:
        quantity, price = book[i, QUANTITY], book[i, MARK] + way * (extremes[i] - book[i, MARK])
        surplus += quantity * price - needed(tiers, by_quantity, i, quantity, price, closing_fee)
    return surplus


@compiled
def cross_trigger(
    book: Floats, held: Ints, tiers: Floats, by_quantity: Flags, extremes: Floats, closing_fee: float
) -> float:
    """How far from the marks to the extremes (0 to 1) the whole account is taken over, NaN when it is not.

    The surplus at the extremes alone tells, where it is not broken before the way begins.
    """
    if cross_surplus(book, held, tiers, by_quantity, extremes, 1.0, closing_fee) > 0.0:
        return np.nan
    if cross_surplus(book, held, tiers, by_quantity, extremes, 0.0, closing_fee) <= 0.0:
        return 0.0
    safe, lost = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (safe + lost)
        if middle in (safe, lost):
            break
        if cross_surplus(book, held, tiers, by_quantity, extremes, middle, closing_fee) <= 0.0:
            lost = middle
        else:
            safe = middle
    return lost


@compiled
def take_over(book: Floats, i: int, price: float, penalty: float) -> None:
    """The venue closes a position at a mark and keeps `penalty`; a negative one is what its insurance pays."""
    held = book[i, QUANTITY]
    change(book, i, PRICE, held * (price - book[i, MARK]))
    change(book, i, LIQUIDATION, -penalty)
    book[ALL, CASH] += held * price - penalty
    clear(book, i)


@compiled
def _asked(
    tiers: Floats, by_quantity: Flags, i: int, quantity: float, price: float, closing_fee: float, penalty_rate: float
) -> float:
    if penalty_rate >= 0.0:
        return abs(quantity) * price * penalty_rate
    return needed(tiers, by_quantity, i, quantity, price, closing_fee)


@compiled
def liquidate_isolated(
    book: Floats, tiers: Floats, by_quantity: Flags, i: int, price: float, closing_fee: float, penalty_rate: float
) -> float:
    """Take over an isolated position: the penalty, at most what is behind it; negative is what the insurance pays.

    `penalty_rate` is the share of notional that the venue keeps; below 0 it keeps maintenance margin and closing fee.
    """
    asked = _asked(tiers, by_quantity, i, book[i, QUANTITY], price, closing_fee, penalty_rate)
    penalty = min(pocket(book, i, price), asked)
    take_over(book, i, price, penalty)
    return penalty


@compiled
def liquidate_cross(
    book: Floats, held: Ints, tiers: Floats, by_quantity: Flags, extremes: Floats, way: float, closing_fee: float,
    penalty_rate: float,
) -> float:  # fmt: skip
    """Take over everything, `way` from the marks to the extremes: the penalty, see `liquidate_isolated`.

    Each position bears its part of the penalty by what it asked for. `extremes` become the prices of the take-over.
    """
    left, asked = book[ALL, CASH], 0.0
    for i in held:
        quantity = book[i, QUANTITY]
        extremes[i] = book[i, MARK] + way * (extremes[i] - book[i, MARK])
        left += quantity * extremes[i]
        asked += _asked(tiers, by_quantity, i, quantity, extremes[i], closing_fee, penalty_rate)
    penalty = min(left, asked)
    for i in held:
        own = _asked(tiers, by_quantity, i, book[i, QUANTITY], extremes[i], closing_fee, penalty_rate)
        take_over(book, i, extremes[i], penalty * (own / asked) if asked > 0.0 else 0.0)
    return penalty
