"""One bar of a backtest, everything that happens in it in its order. Compiled; both engines run it.

1. settlements at the open, on what was held before;
2. marks at the open; without one a position keeps its last;
3. a position whose instrument ended is settled at its last mark; under `untradable` one over unknown funding is closed;
4. the margin call at the open: a gap may have gone through the liquidation price;
5. the orders, at the open, in their order;
6. the way through the bar: liquidation at the marks that harm most;
7. settlements later in the bar, on what is held then;
8. marks at the close, and the margin call on what the settlements left.
"""

from __future__ import annotations

import numpy as np

from qlib_crypto.backtest.account import (
    ALL,
    CASH,
    ENTRY,
    LIQUIDATION,
    MARK,
    QUANTITY,
    Floats,
    Ints,
    mark_all,
    positions,
    settle,
    trade,
)
from qlib_crypto.backtest.compiled import compiled, inlined
from qlib_crypto.backtest.liquidation import (
    cross_trigger,
    isolated_trigger,
    liquidate_cross,
    liquidate_isolated,
    needed,
    pocket,
)
from qlib_crypto.backtest.market import (
    CLOSE,
    HIGH,
    LARGEST_RATE,
    LEAST_LEVERAGE,
    LOW,
    OPEN,
    SETTLED_AT_OPEN,
    SETTLED_BAR,
    SETTLED_COLUMN,
    SETTLED_PRICE,
    SETTLED_RATE,
    TICK,
    UNKNOWN_AT_OPEN,
    UNKNOWN_LATER,
    VOLUME,
    Flags,
    Market,
)
from qlib_crypto.backtest.notes import (
    CLOSED_DELISTED,
    CLOSED_UNKNOWN,
    FUNDING_AS_NONE,
    LIQUIDATED,
    PAID_AT_LAST_PRICE,
    STALE_MARKS,
    UNKNOWN_WITHOUT_PRICE,
)
from qlib_crypto.backtest.trading import (
    AS_TAKER,
    DESK_GROSS,
    EQUITY,
    ERROR,
    EXTREME,
    FEE_OF_FILL,
    FILLS,
    GROSS,
    HELD,
    ISOLATED,
    MAKER,
    MAX_LEVERAGE,
    MISSING_FUNDING,
    MONEY,
    PAYMENTS,
    PENALTY_RATE,
    SETTLED,
    SLIP,
    TAKER,
    TOLD,
    UNTRADABLE,
    VOID,
    Bits,
    log,
    market_orders,
    slipped,
    take_stock,
)


@inlined
def settle_part(  # noqa: C901 - one loop, as `market_orders`
    book: Floats, held: Ints, settled: Ints, settlements: Floats, unknown: Bits, last: Ints, policy: float,
    payments: Floats, ends: Ints, counts: Ints, told: Floats, t: int, at_open: bool,
) -> int:  # fmt: skip
    """Pay the settlements of a bar, those at its open or the later ones: -1, or the column whose funding is missing.

    The last of `unknown` is whether any is. `told`, shape (n,), is where that was counted in this bar.
    """
    if unknown[ALL]:
        bit = UNKNOWN_AT_OPEN if at_open else UNKNOWN_LATER
        if at_open:
            told[:] = 0.0
        for i in held:
            if unknown[i] & bit and last[i] >= t:
                if policy == ERROR:
                    return i
                counts[FUNDING_AS_NONE] += told[i] == 0.0
                told[i] = 1.0
    while ends[SETTLED] < len(settled):
        at = ends[SETTLED]
        bar = settled[at, SETTLED_BAR]
        if bar > t or (bar == t and at_open and settled[at, SETTLED_AT_OPEN] == 0):
            break
        ends[SETTLED] += 1
        i, rate, price = settled[at, SETTLED_COLUMN], settlements[at, SETTLED_RATE], settlements[at, SETTLED_PRICE]
        quantity = book[QUANTITY, i]
        if bar < t or quantity == 0.0 or rate == 0.0:
            continue
        guessed = 0.0
        if not np.isfinite(price):
            if policy == ERROR and last[i] >= t:
                return i
            price, guessed = book[MARK, i], 1.0
            counts[PAID_AT_LAST_PRICE] += 1
        amount = settle(book, i, rate * price)
        row = payments[ends[PAYMENTS]]
        row[0] = at
        row[1] = t
        row[2] = quantity
        row[3] = price
        row[4] = amount
        row[5] = guessed
        ends[PAYMENTS] += 1
    return -1


@compiled
def forced_closes(
    book: Floats, held: Ints, opens: Floats, unknown: Bits, last: Ints, rules: Floats, terms: Floats, taker: float,
    fills: Floats, ends: Ints, counts: Ints, desk: Floats, t: int,
) -> None:  # fmt: skip
    """Close what ended, and under `UNTRADABLE` what funding is unknown of; orders for these are void in this bar."""
    desk[VOID] = 0.0
    for i in held:
        if unknown[i] == 0:
            continue
        quantity = book[QUANTITY, i]
        price = reference = book[MARK, i]
        note = CLOSED_DELISTED
        if last[i] >= t:
            if terms[MISSING_FUNDING] != UNTRADABLE:
                continue
            note, reference = CLOSED_UNKNOWN, opens[i]
            if not reference > 0.0:
                counts[UNKNOWN_WITHOUT_PRICE] += 1
                continue
            price = slipped(reference, -quantity, terms[SLIP], rules[TICK, i])
        fee, realised = trade(book, i, -quantity, price, reference, taker, 0.0)
        log(fills, ends, t, i, -quantity, price, reference, fee, realised, note, 0.0)
        desk[VOID, i] = 1.0


@inlined
def surely_sound(book: Floats, held: Ints, rate: float, low: Floats, high: Floats) -> bool:
    """Whether the account is sound at these marks even if every position needed `rate`: no look at their tiers."""
    left, gross = book[CASH, ALL], 0.0
    for i in held:
        quantity, price = book[QUANTITY, i], book[MARK, i]
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
    surplus, broken = book[CASH, ALL], False
    for i in held:
        quantity, price = book[QUANTITY, i], book[MARK, i]
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


@compiled
def margin_call(
    book: Floats, held: Ints, tiers: Floats, by_quantity: Flags, terms: Floats, taker: float, fills: Floats,
    ends: Ints, extremes: Floats, t: int,
) -> None:  # fmt: skip
    """Liquidate what the way from the marks to the extremes breaks."""
    if terms[ISOLATED] != 0.0:
        for i in held:
            quantity, entry = book[QUANTITY, i], book[ENTRY, i]
            price = isolated_trigger(book, tiers, by_quantity, i, extremes[i], taker)
            if price > 0.0:
                penalty = liquidate_isolated(book, tiers, by_quantity, i, price, taker, terms[PENALTY_RATE])
                log(fills, ends, t, i, -quantity, price, price, penalty, quantity * (price - entry), LIQUIDATED, 0.0)
        return
    way = cross_trigger(book, held, tiers, by_quantity, extremes, taker)
    if way >= 0.0:
        first = ends[FILLS]
        for i in held:
            quantity, price = book[QUANTITY, i], book[MARK, i] + way * (extremes[i] - book[MARK, i])
            before, profit = book[LIQUIDATION, i], quantity * (price - book[ENTRY, i])
            log(fills, ends, t, i, -quantity, price, price, before, profit, LIQUIDATED, 0.0)
        liquidate_cross(book, held, tiers, by_quantity, extremes, way, taker, terms[PENALTY_RATE])
        for at in range(len(held)):
            fills[first + at, FEE_OF_FILL] -= book[LIQUIDATION, held[at]]


@inlined
def dated(since: Ints, t: int) -> int:
    """The place of the state that holds in a bar; the first one also before its time."""
    at = 0
    while at + 1 < len(since) and since[at + 1] <= t:
        at += 1
    return at


@inlined
def run_bar(
    book: Floats, market: Market, terms: Floats, fees: Floats, desk: Floats, sums: Floats, fills: Floats,
    payments: Floats, ends: Ints, counts: Ints, t: int, columns: Ints, wanted: Floats, notes: Ints, room: Ints,
) -> int:  # fmt: skip
    """Everything that happens in a bar: -1, or the column whose funding is missing.

    `columns` and `wanted` are the orders (signed base coins), in order; `notes` gets why each is not whole. `room`,
    shape (n,), holds the columns of positions, as many as `ends` says, from bar to bar.
    """
    unknown, last, taker = market.unknown[t], market.last, fees[TAKER, t]
    prices, marks, first = market.prices, market.marks, dated(market.tiers_since, t)
    tiers, by_quantity, policy = market.tiers[first], market.by_quantity[first], terms[MISSING_FUNDING]
    margined, isolated, extremes = terms[MAX_LEVERAGE] > 0.0, terms[ISOLATED] != 0.0, desk[EXTREME]
    held, bounds = room[: ends[HELD]], market.bounds[first]
    missing = settle_part(
        book, held, market.settled, market.settlements, unknown, last, policy, payments, ends, counts, desk[TOLD], t,
        True,
    )  # fmt: skip
    if missing >= 0:
        return missing
    rules, opens = market.rules[dated(market.rules_since, t)], prices[OPEN, t]
    at = prices[marks + OPEN, t]
    sums[EQUITY], sums[GROSS], _ = mark_all(book, held, at)
    touched = unknown[ALL] != 0
    if touched:
        forced_closes(book, held, opens, unknown, last, rules, terms, taker, fills, ends, counts, desk, t)
        held = room[: positions(book, room)]
    # sound even if every position needed most: no look at the tiers
    sound = not (isolated or touched) and sums[EQUITY] > sums[GROSS] * (bounds[LARGEST_RATE] + taker)
    # they are marked at the open: neither end of this way is worse
    if margined and not sound and on_the_way(book, held, tiers, by_quantity, isolated, taker, at, at, extremes):
        margin_call(book, held, tiers, by_quantity, terms, taker, fills, ends, extremes, t)
        held, touched = room[: positions(book, room)], True
    if len(columns):
        if touched or marks != OPEN:
            take_stock(book, held, sums, opens)
        else:
            sums[MONEY], sums[DESK_GROSS] = sums[EQUITY], sums[GROSS]
        if market_orders(
            book, tiers, by_quantity, rules, terms, taker if terms[AS_TAKER] != 0.0 else fees[MAKER, t], desk, sums,
            fills, ends, t, columns, wanted, notes, opens, prices[VOLUME, t], unknown, bounds[LEAST_LEVERAGE],
        ):  # fmt: skip
            held = room[: positions(book, room)]
    low, high = prices[marks + LOW, t], prices[marks + HIGH, t]
    sound = not (margined and isolated) and surely_sound(book, held, bounds[LARGEST_RATE] + taker, low, high)
    if margined and not sound and on_the_way(book, held, tiers, by_quantity, isolated, taker, low, high, extremes):
        margin_call(book, held, tiers, by_quantity, terms, taker, fills, ends, extremes, t)
        held = room[: positions(book, room)]
    paid = ends[PAYMENTS]
    missing = settle_part(
        book, held, market.settled, market.settlements, unknown, last, policy, payments, ends, counts, desk[TOLD], t,
        False,
    )  # fmt: skip
    if missing >= 0:
        return missing
    at = prices[marks + CLOSE, t]
    sums[EQUITY], sums[GROSS], without = mark_all(book, held, at)
    counts[STALE_MARKS] += without
    sound = not isolated and sums[EQUITY] > sums[GROSS] * (bounds[LARGEST_RATE] + taker)
    if margined and ends[PAYMENTS] > paid and not sound and on_the_way(
        book, held, tiers, by_quantity, isolated, taker, at, at, extremes
    ):  # fmt: skip
        margin_call(book, held, tiers, by_quantity, terms, taker, fills, ends, extremes, t)
        held = room[: positions(book, room)]
        sums[EQUITY], sums[GROSS], _ = mark_all(book, held, at)
    ends[HELD] = len(held)
    return -1
