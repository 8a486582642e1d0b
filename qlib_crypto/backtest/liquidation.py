"""Maintenance margin and liquidation on mark, on the arrays of `book.py`.

A position, or under cross margin all of them together, is taken over by the venue when its margin is no more than its
maintenance margin and the fee of closing it. Inside a bar, marks go from where they are straight to the extreme that
harms each position, all at the same pace; what happens is what happens first on that way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.book import LIQUIDATION, PRICE, Book, Floats, clear
from qlib_crypto.backtest.compiled import compiled
from qlib_crypto.market.margin import MarginTable

#: More halvings than a double has bits to tell two prices apart.
_HALVINGS = 200


class Tiers(NamedTuple):
    """Margin tables as arrays of shape (n, most tiers of a table); what a table lacks repeats its last tier."""

    cap: Floats
    rate: Floats
    deduction: Floats
    leverage: Floats
    by_quantity: NDArray[np.bool_]


def tiers_of(tables: Sequence[MarginTable]) -> Tiers:
    """The tables of the instruments, in their order."""
    most = max(len(table.tiers) for table in tables)
    rows = [[*table.tiers, *[table.tiers[-1]] * (most - len(table.tiers))] for table in tables]
    parts = [
        np.array([[getattr(tier, name) for tier in row] for row in rows], dtype=np.float64)
        for name in ("cap", "maintenance_rate", "deduction", "max_leverage")
    ]
    return Tiers(*parts, np.array([table.by_quantity for table in tables]))


@compiled
def tier_at(tiers: Tiers, i: int, quantity: float, price: float) -> int:
    """The place of a position's tier; the last one for what is too large."""
    size = abs(quantity) * (1.0 - 1e-12)
    if not tiers.by_quantity[i]:
        size *= price
    at = 0
    while at < tiers.cap.shape[1] - 1 and tiers.cap[i, at] <= size:
        at += 1
    return at


@compiled
def maintenance(tiers: Tiers, i: int, quantity: float, price: float) -> float:
    """Quote coins that must stay behind a position."""
    at = tier_at(tiers, i, quantity, price)
    return abs(quantity) * price * tiers.rate[i, at] - tiers.deduction[i, at]


@compiled
def needed(book: Book, tiers: Tiers, i: int, price: float, closing_fee: float) -> float:
    """Maintenance margin and the fee of closing, at a price."""
    held = book.quantity[i]
    return maintenance(tiers, i, held, price) + abs(held) * price * closing_fee


@compiled
def pocket(book: Book, i: int, price: float) -> float:
    """What is behind an isolated position at a price: its margin and its profit."""
    return book.margin[i] + book.quantity[i] * (price - book.entry[i])


@compiled
def isolated_trigger(book: Book, tiers: Tiers, i: int, extreme: float, closing_fee: float) -> float:
    """The price between the mark and `extreme` at which an isolated position is taken over, NaN when there is none."""
    start = book.mark[i]
    if pocket(book, i, start) <= needed(book, tiers, i, start, closing_fee):
        return start
    if pocket(book, i, extreme) > needed(book, tiers, i, extreme, closing_fee):
        return np.nan
    safe, lost = start, extreme
    for _ in range(_HALVINGS):
        middle = 0.5 * (safe + lost)
        if middle in (safe, lost):
            break
        if pocket(book, i, middle) <= needed(book, tiers, i, middle, closing_fee):
            lost = middle
        else:
            safe = middle
    return lost


@compiled
def cross_surplus(book: Book, tiers: Tiers, extremes: Floats, way: float, closing_fee: float) -> float:
    """Equity less what is needed, `way` (0 to 1) from the marks to the extremes."""
    surplus = book.cash[0]
    for i in range(len(book.quantity)):
        if book.quantity[i] != 0.0:
            price = book.mark[i] + way * (extremes[i] - book.mark[i])
            surplus += book.quantity[i] * price - needed(book, tiers, i, price, closing_fee)
    return surplus


@compiled
def cross_trigger(book: Book, tiers: Tiers, extremes: Floats, closing_fee: float) -> float:
    """How far from the marks to the extremes (0 to 1) the whole account is taken over, NaN when it is not."""
    if cross_surplus(book, tiers, extremes, 0.0, closing_fee) <= 0.0:
        return 0.0
    if cross_surplus(book, tiers, extremes, 1.0, closing_fee) > 0.0:
        return np.nan
    safe, lost = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (safe + lost)
        if middle in (safe, lost):
            break
        if cross_surplus(book, tiers, extremes, middle, closing_fee) <= 0.0:
            lost = middle
        else:
            safe = middle
    return lost


@compiled
def take_over(book: Book, i: int, price: float, penalty: float) -> None:
    """The venue closes a position at a mark and keeps `penalty`; a negative one is what its insurance pays."""
    held = book.quantity[i]
    book.causes[PRICE, i] += held * (price - book.mark[i])
    book.causes[LIQUIDATION, i] -= penalty
    book.cash[0] += held * price - penalty
    clear(book, i)


@compiled
def liquidate_isolated(
    book: Book, tiers: Tiers, i: int, price: float, closing_fee: float, penalty_rate: float
) -> float:
    """Take over an isolated position: the penalty, at most what is behind it, and what the insurance pays if < 0.

    `penalty_rate` is the share of notional that the venue keeps; negative keeps maintenance margin and closing fee.
    """
    left = pocket(book, i, price)
    asked = needed(book, tiers, i, price, closing_fee)
    if penalty_rate >= 0.0:
        asked = abs(book.quantity[i]) * price * penalty_rate
    penalty = min(left, asked)
    take_over(book, i, price, penalty)
    return penalty


@compiled
def liquidate_cross(
    book: Book, tiers: Tiers, extremes: Floats, way: float, closing_fee: float, penalty_rate: float
) -> float:
    """Take over everything, `way` from the marks to the extremes: the penalty, see `liquidate_isolated`.

    Each position bears its part of the penalty by what it asked for.
    """
    left, asked = book.cash[0], 0.0
    for i in range(len(book.quantity)):
        if book.quantity[i] != 0.0:
            price = book.mark[i] + way * (extremes[i] - book.mark[i])
            left += book.quantity[i] * price
            asked += _asked(book, tiers, i, price, closing_fee, penalty_rate)
    penalty = min(left, asked)
    for i in range(len(book.quantity)):
        if book.quantity[i] != 0.0:
            price = book.mark[i] + way * (extremes[i] - book.mark[i])
            own = _asked(book, tiers, i, price, closing_fee, penalty_rate)
            take_over(book, i, price, penalty * (own / asked) if asked > 0.0 else 0.0)
    return penalty


@compiled
def _asked(book: Book, tiers: Tiers, i: int, price: float, closing_fee: float, penalty_rate: float) -> float:
    if penalty_rate >= 0.0:
        return abs(book.quantity[i]) * price * penalty_rate
    return needed(book, tiers, i, price, closing_fee)
