"""Orders at the open of a bar: what of them is executed, at what price, within which limits. Compiled."""

from __future__ import annotations

import numpy as np

from qlib_crypto.backtest import notes as why
from qlib_crypto.backtest.account import ALL, CASH, MARK, QUANTITY, Floats, Ints, index, trade
from qlib_crypto.backtest.admission import sized, towards, worse_tick
from qlib_crypto.backtest.compiled import compiled, inlined
from qlib_crypto.backtest.layout import (
    CLOSING,
    DAY,
    DESK_GROSS,
    FILLS,
    GOES_ON,
    HALTED_DAY,
    ISOLATED,
    LIMITED,
    MAX_GROSS,
    MAX_LEVERAGE,
    MAX_NET,
    MAX_POSITION,
    MISSING_FUNDING,
    MONEY,
    OPENS_AGAIN,
    PARTICIPATION,
    SLIP,
    UNTRADABLE,
    USED,
    VOID,
    Bits,
)
from qlib_crypto.backtest.liquidation import largest_leverage, pocket
from qlib_crypto.backtest.market import CAP, LEVERAGE, LOT, MIN_BASE, MIN_NOTIONAL, TICK, Flags


@inlined
def log(
    fills: Floats, ends: Ints, t: int, i: int, quantity: float, price: float, reference: float, fee: float,
    realised: float, note: int, after: float, order: int,
) -> None:  # fmt: skip
    """Write a fill down."""
    row = fills[ends[FILLS]]
    row[0] = t
    row[1] = i
    row[2] = quantity
    row[3] = price
    row[4] = reference
    row[5] = fee
    row[6] = realised
    row[7] = note
    row[8] = after
    row[9] = order
    ends[FILLS] += 1


#: The most that is lost to slippage, a fraction: the root of an order of any size is no law.
MOST_SLIPPAGE = 0.5


@inlined
def slip_of(terms: Floats, slips: Floats, t: int, i: int, quantity: float, reference: float) -> float:
    """How much worse than `reference` an order fills, a fraction; `slips` are those of the market."""
    if len(slips) == 0:
        return terms[SLIP]
    bar = t if len(slips) > 1 else 0
    return min(slips[bar, 0, i] + slips[bar, 1, i] * np.sqrt(abs(quantity) * reference), MOST_SLIPPAGE)


@inlined
def slipped(reference: float, quantity: float, slippage: float, tick: float) -> float:
    """What is paid for a signed quantity while the market is at `reference`."""
    if slippage == 0.0:
        return reference
    return worse_tick(reference * (1.0 + np.copysign(slippage, quantity)), tick, quantity)


@inlined
def left_of_volume(participation: float, volume: float, used: float) -> float:
    """What orders may still be of a bar's volume, base coins; nothing where that is unknown."""
    left = participation * volume - used
    if not left > 0.0:  # an unknown volume too, whatever `max` makes of it
        return 0.0
    return left


@compiled
def take_stock(book: Floats, held: Ints, sums: Floats, opens: Floats) -> None:
    """What there is when the orders come, at the bar's opens."""
    money, gross = book[ALL, CASH], 0.0
    for i in held:
        value = book[i, QUANTITY] * (opens[i] if opens[i] > 0.0 else book[i, MARK])
        money += value
        gross += abs(value)
    sums[MONEY], sums[DESK_GROSS] = money, gross


@compiled
def _reserved_by_others(
    book: Floats, tiers: Floats, by_quantity: Flags, leverage: float, isolated: bool, opens: Floats, own: int
) -> float:
    """The initial margin of all positions but one, or what is set aside for them, at the bar's opens."""
    reserved = 0.0
    for i in range(len(opens)):
        held = book[i, QUANTITY]
        if held == 0.0 or i == own:
            continue
        price = opens[i] if opens[i] > 0.0 else book[i, MARK]
        if isolated:
            reserved += pocket(book, i, price)
        else:
            reserved += abs(held) * price / min(leverage, largest_leverage(tiers, by_quantity, i, held, price))
    return reserved


@inlined
def market_orders(  # noqa: C901, PLR0912, PLR0915 - one order after another, each in one piece
    book: Floats, tiers: Floats, by_quantity: Flags, rules: Floats, terms: Floats, rate: float, slips: Floats,
    order: int, maker: bool, desk: Floats, sums: Floats, fills: Floats, ends: Ints, t: int, columns: Ints,
    wanted: Floats, notes: Ints, opens: Floats, volumes: Floats, unknown: Bits, least_leverage: float,
) -> bool:  # fmt: skip
    """Execute what can be of each order at the open: `wanted` becomes that, `notes` say why not all.

    `rate` is the fee, a fraction, `slips` are those of the market, which no `maker` pays; `order` is their kind;
    `least_leverage` is what the venue lends to any position at least. Whether a position was opened or closed.
    """
    untradable, isolated = terms[MISSING_FUNDING] == UNTRADABLE, terms[ISOLATED] != 0.0
    limited = terms[LIMITED] != 0.0
    leverage, most_of_bar, most_gross = terms[MAX_LEVERAGE], terms[PARTICIPATION], terms[MAX_GROSS]
    # with risk limits no order is sound before they were asked
    soundest = -1.0 if limited else most_gross
    some_unknown, capped = unknown[ALL] != 0, most_of_bar < np.inf
    least = min(leverage, least_leverage)
    money, gross, changed = sums[MONEY], sums[DESK_GROSS], False
    for at in range(len(columns)):
        column = columns[at]
        i = index(column)
        reference, held = opens[i], book[i, QUANTITY]
        asked = wanted[at]
        if asked == 0.0:
            continue
        quantity, note = asked, why.WHOLE
        wanted[at] = 0.0
        if some_unknown and desk[VOID, i] != 0.0:
            continue
        if not reference > 0.0:
            notes[at] = why.NO_PRICE
            continue
        slip = 0.0 if maker else slip_of(terms, slips, t, column, quantity, reference)
        if quantity != -held:
            if untradable and unknown[i] != 0:
                quantity = towards(held, quantity, 0.0)
                note = why.FUNDING_UNKNOWN if quantity != asked else why.WHOLE
            else:
                after = abs(held + quantity)
                cost = rate + slip
                then = gross + (after - abs(held)) * reference
                sound = money > 0.0 and then <= soundest * money
                if sound and leverage > 0.0:
                    # even if the venue lent least to every position
                    sound = not isolated and then <= (money - abs(quantity) * reference * cost) * least
                    sound = sound and (after if by_quantity[i] else after * reference) <= tiers[CAP, i, -1]
                if not sound:
                    reserved, said = 0.0, why.WHOLE
                    if limited:
                        quantity, said = _within_limits(
                            book, terms, desk, sums, column, held, quantity, reference, money, opens, t
                        )
                    if leverage > 0.0:
                        reserved = _reserved_by_others(book, tiers, by_quantity, leverage, isolated, opens, column)
                    quantity, note = _within(
                        tiers, by_quantity, column, held, quantity, reference, money, gross, reserved, leverage,
                        most_gross, cost,
                    )  # fmt: skip
                    note = said if note == why.WHOLE else note
        if capped:
            left = left_of_volume(most_of_bar, volumes[i], desk[USED, i])
            if not abs(quantity) <= left:
                quantity, note = np.copysign(left, asked), why.CLIPPED_VOLUME if left > 0.0 else why.VOLUME
        if quantity != 0.0:
            of_volume = note == why.CLIPPED_VOLUME
            quantity, note = sized(
                quantity, note, held, reference, rules[LOT, i], rules[MIN_BASE, i], rules[MIN_NOTIONAL, i]
            )
            if of_volume and quantity == 0.0:
                note = why.VOLUME
        if note != why.WHOLE:
            notes[at] = note
        if quantity == 0.0:
            continue
        wanted[at] = quantity
        price, lever = reference, 0.0
        if quantity != asked and slip != 0.0:  # a part slips less
            slip = slip_of(terms, slips, t, column, quantity, reference)
        if slip != 0.0:
            price = slipped(reference, quantity, slip, rules[TICK, i])
        if isolated:
            lever = min(leverage, largest_leverage(tiers, by_quantity, column, held + quantity, reference))
        fee, realised = trade(book, i, quantity, price, reference, rate, lever)
        now = book[i, QUANTITY]
        log(fills, ends, t, column, quantity, price, reference, fee, realised, note, now, order)
        if capped:
            desk[USED, i] += abs(quantity)
        money -= fee + quantity * (price - reference)
        gross += (abs(now) - abs(held)) * reference
        changed = changed or held == 0.0 or now == 0.0
    sums[MONEY], sums[DESK_GROSS] = money, gross
    return changed


@compiled
def _within_limits(
    book: Floats, terms: Floats, desk: Floats, sums: Floats, i: int, held: float, wanted: float, price: float,
    money: float, opens: Floats, t: int,
) -> tuple[float, int]:  # fmt: skip
    """What the risk limits leave of an order, at the bar's opens."""
    halted = t < sums[GOES_ON] or sums[DAY] == sums[HALTED_DAY] or sums[CLOSING] != 0.0
    if halted or t < desk[OPENS_AGAIN, i]:
        part = towards(held, wanted, 0.0)
        if part != wanted:
            return part, why.HALTED if halted else why.COOLING
        return wanted, why.WHOLE
    quantity, note, base = wanted, why.WHOLE, max(money, 0.0) / price
    part = towards(held, quantity, terms[MAX_POSITION] * base)
    if part != quantity:
        quantity, note = part, why.POSITION if part == 0.0 else why.CLIPPED_POSITION
    if terms[MAX_NET] < np.inf:
        net = 0.0
        for other in range(len(opens)):
            if book[other, QUANTITY] != 0.0:
                net += book[other, QUANTITY] * (opens[other] if opens[other] > 0.0 else book[other, MARK])
        part = towards(net / price, quantity, terms[MAX_NET] * base)
        if part != quantity:
            # turning the whole account around is not what a cut order is for
            part = part if part * quantity > 0.0 else 0.0
            shrinks = towards(held, quantity, 0.0)
            part = shrinks if abs(shrinks) > abs(part) else part
        if part != quantity:
            quantity, note = part, why.NET if part == 0.0 else why.CLIPPED_NET
    return quantity, note


@compiled
def _within(
    tiers: Floats, by_quantity: Flags, i: int, held: float, wanted: float, price: float, money: float, gross: float,
    reserved: float, leverage: float, most_gross: float, cost: float,
) -> tuple[float, int]:  # fmt: skip
    """What the leverage cap, the venue's largest position and margin leave of an order.

    `money`, `gross` and `reserved` (the margin behind the others) are those at the bar's opens.
    """
    quantity, note = wanted, why.WHOLE
    if most_gross < np.inf or not money > 0.0:
        most = 0.0
        if money > 0.0:
            most = max(most_gross * money - (gross - abs(held) * price), 0.0) / price
        part = towards(held, quantity, most)
        if part != quantity:
            quantity, note = part, why.LEVERAGE if part == 0.0 else why.CLIPPED_LEVERAGE
    if leverage <= 0.0 or quantity == 0.0:
        return quantity, note
    part = towards(held, quantity, tiers[CAP, i, -1] / (1.0 if by_quantity[i] else price))
    if part != quantity:
        quantity, note = part, why.TIER if part == 0.0 else why.CLIPPED_TIER
    after, free = held + quantity, money - reserved
    lever = min(leverage, largest_leverage(tiers, by_quantity, i, after, price))
    if abs(after) * price <= (free - abs(quantity) * price * cost) * lever:
        return quantity, note
    part = towards(held, quantity, _affordable(tiers, by_quantity, leverage, i, held, quantity, price, free, cost))
    if part != quantity:
        quantity, note = part, why.MARGIN if part == 0.0 else why.CLIPPED_MARGIN
    return quantity, note


@compiled
def _affordable(
    tiers: Floats, by_quantity: Flags, leverage: float, i: int, held: float, quantity: float, price: float, free: float,
    cost: float,
) -> float:  # fmt: skip
    """The largest |position| that `free` quote coins pay the initial margin and the cost (a rate) of getting there of.

    On the side that the order goes to: |x| price / leverage + |x - held| price cost <= free, with the leverage of the
    tier that x lies in.
    """
    near = abs(held) if held * (held + quantity) > 0.0 else -abs(held)
    unit = 1.0 if by_quantity[i] else price
    for at in range(tiers.shape[2]):
        lever = min(leverage, tiers[LEVERAGE, i, at])
        most = (free / price + near * cost) / (1.0 / lever + cost)
        if most <= tiers[CAP, i, at] / unit:
            return max(most, 0.0 if at == 0 else tiers[CAP, i, at - 1] / unit)
    return tiers[CAP, i, -1] / unit
