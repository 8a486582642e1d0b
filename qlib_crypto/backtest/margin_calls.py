"""Whether marks break an account, and what the venue takes over then. Compiled."""

from __future__ import annotations

from qlib_crypto.backtest.account import ALL, CASH, ENTRY, LIQUIDATION, MARK, QUANTITY, Floats, Ints, index
from qlib_crypto.backtest.compiled import compiled, inlined
from qlib_crypto.backtest.layout import FEE_OF_FILL, FILLS, ISOLATED, PENALTY_RATE
from qlib_crypto.backtest.liquidation import (
    cross_trigger,
    isolated_trigger,
    liquidate_cross,
    liquidate_isolated,
    needed,
    pocket,
)
from qlib_crypto.backtest.market import Flags
from qlib_crypto.backtest.notes import LIQUIDATED, VENUE
from qlib_crypto.backtest.trading import log


@inlined
def surely_sound(book: Floats, held: Ints, rate: float, low: Floats, high: Floats) -> bool:
    """Whether the account is sound at these marks even if every position needed `rate`: no look at their tiers."""
    left, gross = book[ALL, CASH], 0.0
    for i in held:
        quantity, price = book[i, QUANTITY], book[i, MARK]
        lower, higher = min(price, low[i]), max(price, high[i])  # NaN leaves the price
        worst = lower if quantity > 0.0 else higher
        left += quantity * worst
        gross += abs(quantity) * worst
    return left > gross * rate


@compiled
def on_the_way(
    book: Floats, held: Ints, tiers: Floats, by_quantity: Flags, isolated: bool, taker: float, low: Floats,
    high: Floats, extremes: Floats,
) -> bool:  # fmt: skip
    """Whether the marks of a bar that harm each position most break anything; `extremes` become these marks.

    A position without such a mark, or with none that is worse, stands where it is.
    """
    surplus, broken = book[ALL, CASH], False
    for i in held:
        quantity, price = book[i, QUANTITY], book[i, MARK]
        if quantity > 0.0:
            price = min(price, low[i])
        elif high[i] > price:
            price = high[i]
        extremes[i] = price
        need = needed(tiers, by_quantity, i, quantity, price, taker)
        if isolated:
            broken = broken or pocket(book, i, price) <= need
        surplus += quantity * price - need
    return broken if isolated else surplus <= 0.0


@inlined
def margin_ratio(
    book: Floats, held: Ints, tiers: Floats, by_quantity: Flags, isolated: bool, taker: float, equity: float
) -> float:
    """What is needed over what there is, at the marks: 1 is liquidation. Isolated: the largest of the positions'."""
    largest = total = 0.0
    for column in held:
        i = index(column)
        need = needed(tiers, by_quantity, i, book[i, QUANTITY], book[i, MARK], taker)
        total += need
        if isolated:
            largest = max(largest, need / pocket(book, i, book[i, MARK]))
    return largest if isolated else (total / equity if total > 0.0 else 0.0)


@compiled
def margin_call(
    book: Floats, held: Ints, tiers: Floats, by_quantity: Flags, terms: Floats, taker: float, fills: Floats,
    ends: Ints, extremes: Floats, t: int,
) -> None:  # fmt: skip
    """Liquidate what the way from the marks to the extremes breaks."""
    if terms[ISOLATED] != 0.0:
        for i in held:
            quantity, entry = book[i, QUANTITY], book[i, ENTRY]
            price = isolated_trigger(book, tiers, by_quantity, i, extremes[i], taker)
            if price > 0.0:
                penalty = liquidate_isolated(book, tiers, by_quantity, i, price, taker, terms[PENALTY_RATE])
                log(
                    fills,
                    ends,
                    t,
                    i,
                    -quantity,
                    price,
                    price,
                    penalty,
                    quantity * (price - entry),
                    LIQUIDATED,
                    0.0,
                    VENUE,
                )
        return
    way = cross_trigger(book, held, tiers, by_quantity, extremes, taker)
    if way >= 0.0:
        first = ends[FILLS]
        for i in held:
            quantity, price = book[i, QUANTITY], book[i, MARK] + way * (extremes[i] - book[i, MARK])
            before, profit = book[i, LIQUIDATION], quantity * (price - book[i, ENTRY])
            log(fills, ends, t, i, -quantity, price, price, before, profit, LIQUIDATED, 0.0, VENUE)
        liquidate_cross(book, held, tiers, by_quantity, extremes, way, taker, terms[PENALTY_RATE])
        for at in range(len(held)):
            fills[first + at, FEE_OF_FILL] -= book[held[at], LIQUIDATION]
