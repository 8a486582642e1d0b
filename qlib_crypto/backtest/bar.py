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
from numpy.typing import NDArray

from qlib_crypto.backtest import admission
from qlib_crypto.backtest.admission import (
    CLIPPED_LEVERAGE,
    CLIPPED_MARGIN,
    CLIPPED_TIER,
    CLIPPED_VOLUME,
    FUNDING_UNKNOWN,
    MARGIN,
    NO_PRICE,
    TIER,
    WHOLE,
    sized,
    towards,
    worse_tick,
)
from qlib_crypto.backtest.admission import LEVERAGE as BEYOND_LEVERAGE
from qlib_crypto.backtest.admission import VOLUME as NO_VOLUME
from qlib_crypto.backtest.book import ALL, CASH, ENTRY, MARK, QUANTITY, Floats, mark_at, settle, trade
from qlib_crypto.backtest.compiled import compiled
from qlib_crypto.backtest.liquidation import (
    Flags,
    cross_trigger,
    isolated_trigger,
    largest_leverage,
    liquidate_cross,
    liquidate_isolated,
    needed,
    pocket,
)
from qlib_crypto.backtest.market import (
    CAP,
    CLOSE,
    HIGH,
    LEVERAGE,
    LOT,
    LOW,
    MIN_BASE,
    MIN_NOTIONAL,
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
    Ints,
    Market,
)

Bits = NDArray[np.uint8]

#: What to do where funding is unknown.
ERROR, UNTRADABLE, ZERO = range(3)

#: Why something was done that nobody ordered, after the notes of `admission`.
_FORCED = len(admission.NOTES)
CLOSED_UNKNOWN, CLOSED_DELISTED, LIQUIDATED = range(_FORCED, _FORCED + 3)
NOTES = (
    *admission.NOTES,
    "funding unknown: closed",
    "no more prices or funding: settled at the last mark",
    "liquidated",
)

#: Places in the counts of what a reader should know of.
STALE_MARKS, FUNDING_AS_NONE, PAID_AT_LAST_PRICE, UNKNOWN_WITHOUT_PRICE = range(4)
#: Places in the ends: rows of fills and payments so far, settlements looked at.
FILLS, PAYMENTS, SETTLED = range(3)


#: Places in the terms that an account and its venue agreed on, shape (8,):
#:
#: - whether orders at the open pay the taker's fee (1) or the maker's (0);
#: - fraction of the price by which they fill worse;
#: - fraction of a bar's volume that they may be, inf for no cap;
#: - gross notional over equity that no order may take the account beyond, inf for no cap;
#: - notional over initial margin, at most that of the tier; 0 asks for no margin and never liquidates;
#: - whether each position has its own margin (1) or all share the account's (0);
#: - share of notional that the venue keeps of what it liquidates, see `liquidation.liquidate_isolated`;
#: - `ERROR`, `UNTRADABLE` or `ZERO`.
AS_TAKER, SLIP, PARTICIPATION, MAX_GROSS, MAX_LEVERAGE, ISOLATED, PENALTY_RATE, MISSING_FUNDING = range(8)
#: Rows of fees by bar, shape (2, bars).
TAKER, MAKER = range(2)


#: Columns of the fills, shape (most, 8).
FILL = ("bar", "column", "quantity", "price", "reference", "fee", "realised", "note")
#: Columns of the payments, shape (most, 6): `settlement` is a row of `Market.settled`; `guessed` 1 where the price was
#: a position's last known one.
PAYMENT = ("settlement", "bar", "quantity", "price", "amount", "guessed")
#: Rows of a desk, shape (5, n), room to work in: the bar's open, or the mark without one; margin reserved behind each
#: position at that price; what was traded of the bar's volume; extremes of marks; 1 where orders are void.
_AT, _RESERVED, _USED, _EXTREME, _VOID = range(5)
#: Places in the sums of a desk, shape (5,): money, gross notional and reserved margin at the desk's prices; equity and
#: gross notional at the last marks.
_MONEY, _GROSS, _ALL_RESERVED, EQUITY, GROSS = range(5)


@compiled
def _log(
    fills: Floats, ends: Ints, t: int, i: int, quantity: float, price: float, reference: float, fee: float,
    realised: float, note: int,
) -> None:  # fmt: skip
    at = ends[FILLS]
    fills[at, 0] = t
    fills[at, 1] = i
    fills[at, 2] = quantity
    fills[at, 3] = price
    fills[at, 4] = reference
    fills[at, 5] = fee
    fills[at, 6] = realised
    fills[at, 7] = note
    ends[FILLS] += 1


@compiled
def settle_part(
    book: Floats, settled: Ints, settlements: Floats, unknown: Bits, last: Ints, policy: float, payments: Floats,
    ends: Ints, counts: Ints, t: int, at_open: bool,
) -> int:  # fmt: skip
    """Pay the settlements of a bar, those at its open or the later ones: -1, or the column whose funding is missing.

    The last of `unknown` is whether any is.
    """
    if unknown[ALL]:
        bit = UNKNOWN_AT_OPEN if at_open else UNKNOWN_LATER
        for i in range(book.shape[1] - 1):
            if book[QUANTITY, i] != 0.0 and unknown[i] & bit and last[i] >= t:
                if policy == ERROR:
                    return i
                counts[FUNDING_AS_NONE] += 1
    while ends[SETTLED] < len(settled):
        at = ends[SETTLED]
        bar = settled[at, SETTLED_BAR]
        if bar > t or (bar == t and at_open and settled[at, SETTLED_AT_OPEN] == 0):
            break
        ends[SETTLED] += 1
        i, rate, price = settled[at, SETTLED_COLUMN], settlements[at, SETTLED_RATE], settlements[at, SETTLED_PRICE]
        held = book[QUANTITY, i]
        if bar < t or held == 0.0 or rate == 0.0:
            continue
        guessed = 0.0
        if not np.isfinite(price):
            if policy == ERROR:
                return i
            price, guessed = book[MARK, i], 1.0
            counts[PAID_AT_LAST_PRICE] += 1
        amount = settle(book, i, rate * price)
        row = ends[PAYMENTS]
        payments[row, 0] = at
        payments[row, 1] = t
        payments[row, 2] = held
        payments[row, 3] = price
        payments[row, 4] = amount
        payments[row, 5] = guessed
        ends[PAYMENTS] += 1
    return -1


@compiled
def mark_all(book: Floats, prices: Floats, sums: Floats, counts: Ints) -> None:
    """Every position at its price, without one at its last mark; equity and gross notional then."""
    money, gross = book[CASH, ALL], 0.0
    for i in range(len(prices)):
        held = book[QUANTITY, i]
        if held != 0.0:
            if prices[i] > 0.0:
                mark_at(book, i, prices[i])
            else:
                counts[STALE_MARKS] += 1
            value = held * book[MARK, i]
            money += value
            gross += abs(value)
    sums[EQUITY], sums[GROSS] = money, gross


@compiled
def slipped(reference: float, quantity: float, slippage: float, tick: float) -> float:
    """What is paid for a signed quantity while the market is at `reference`."""
    if slippage == 0.0:
        return reference
    return worse_tick(reference * (1.0 + np.copysign(slippage, quantity)), tick, quantity)


@compiled
def forced_closes(
    book: Floats, opens: Floats, unknown: Bits, last: Ints, rules: Floats, terms: Floats, taker: float, fills: Floats,
    ends: Ints, counts: Ints, desk: Floats, t: int,
) -> None:  # fmt: skip
    """Close what ended, and under `UNTRADABLE` what funding is unknown of; orders for these are void in this bar."""
    for i in range(len(opens)):
        desk[_VOID, i] = 0.0
        held = book[QUANTITY, i]
        if held == 0.0 or unknown[i] == 0:
            continue
        price = reference = book[MARK, i]
        note = CLOSED_DELISTED
        if last[i] >= t:
            if terms[MISSING_FUNDING] != UNTRADABLE:
                continue
            note, reference = CLOSED_UNKNOWN, opens[i]
            if not reference > 0.0:
                counts[UNKNOWN_WITHOUT_PRICE] += 1
                continue
            price = slipped(reference, -held, terms[SLIP], rules[TICK, i])
        fee, realised = trade(book, i, -held, price, reference, taker, 0.0)
        _log(fills, ends, t, i, -held, price, reference, fee, realised, note)
        desk[_VOID, i] = 1.0


@compiled
def margin_call(
    book: Floats, tiers: Floats, by_quantity: Flags, terms: Floats, taker: float, fills: Floats, ends: Ints,
    extremes: Floats, t: int,
) -> None:  # fmt: skip
    """Liquidate what the way from the marks to the extremes breaks."""
    if terms[ISOLATED] != 0.0:
        for i in range(len(extremes)):
            held, entry = book[QUANTITY, i], book[ENTRY, i]
            if held != 0.0:
                price = isolated_trigger(book, tiers, by_quantity, i, extremes[i], taker)
                if price > 0.0:
                    liquidate_isolated(book, tiers, by_quantity, i, price, taker, terms[PENALTY_RATE])
                    _log(fills, ends, t, i, -held, price, price, 0.0, held * (price - entry), LIQUIDATED)
        return
    way = cross_trigger(book, tiers, by_quantity, extremes, taker)
    if way >= 0.0:
        before = book[: ENTRY + 1].copy()
        liquidate_cross(book, tiers, by_quantity, extremes, way, taker, terms[PENALTY_RATE])
        for i in range(len(extremes)):
            held, price = before[QUANTITY, i], extremes[i]
            if held != 0.0:
                _log(fills, ends, t, i, -held, price, price, 0.0, held * (price - before[ENTRY, i]), LIQUIDATED)


@compiled
def _on_the_way(
    book: Floats, tiers: Floats, by_quantity: Flags, isolated: float, taker: float, low: Floats, high: Floats,
    extremes: Floats,
) -> bool:  # fmt: skip
    """Whether the marks of a bar that harm each position most break anything; `extremes` become these marks.

    A position without such a mark, or with none that is worse, stands where it is.
    """
    surplus, broken = book[CASH, ALL], False
    for i in range(len(extremes)):
        held = book[QUANTITY, i]
        if held == 0.0:
            continue
        price = book[MARK, i]
        if held > 0.0:
            if low[i] < price:
                price = low[i]
        elif high[i] > price:
            price = high[i]
        extremes[i] = price
        need = needed(tiers, by_quantity, i, held, price, taker)
        if isolated != 0.0:
            broken = broken or pocket(book, i, price) <= need
        surplus += held * price - need
    return broken if isolated != 0.0 else surplus <= 0.0


@compiled
def _reserve(
    book: Floats, tiers: Floats, by_quantity: Flags, terms: Floats, desk: Floats, sums: Floats, i: int
) -> None:
    """Renew what the desk says of the margin of one position."""
    held, price = book[QUANTITY, i], desk[_AT, i]
    reserved = 0.0
    if held != 0.0 and terms[MAX_LEVERAGE] > 0.0:
        if terms[ISOLATED] != 0.0:
            reserved = pocket(book, i, price)
        else:
            most = largest_leverage(tiers, by_quantity, i, held, price)
            reserved = abs(held) * price / min(terms[MAX_LEVERAGE], most)
    sums[_ALL_RESERVED] += reserved - desk[_RESERVED, i]
    desk[_RESERVED, i] = reserved


@compiled
def _take_stock(
    book: Floats, tiers: Floats, by_quantity: Flags, terms: Floats, desk: Floats, sums: Floats, opens: Floats
) -> None:
    """What there is when the orders come, at the bar's opens."""
    sums[_MONEY], sums[_GROSS], sums[_ALL_RESERVED] = book[CASH, ALL], 0.0, 0.0
    for i in range(len(opens)):
        held = book[QUANTITY, i]
        desk[_USED, i] = desk[_RESERVED, i] = 0.0
        desk[_AT, i] = opens[i] if opens[i] > 0.0 else book[MARK, i]
        if held != 0.0:
            sums[_MONEY] += held * desk[_AT, i]
            sums[_GROSS] += abs(held) * desk[_AT, i]
            _reserve(book, tiers, by_quantity, terms, desk, sums, i)


@compiled
def market_orders(
    book: Floats, tiers: Floats, by_quantity: Flags, rules: Floats, terms: Floats, rate: float, desk: Floats,
    sums: Floats, fills: Floats, ends: Ints, t: int, columns: Ints, wanted: Floats, notes: Ints, opens: Floats,
    volumes: Floats, unknown: Bits,
) -> None:  # fmt: skip
    """Execute what can be of each order at the open, at fee `rate`; `notes` say why not all.

    One function for all of a bar: numba counts the references of each array at each call.
    """
    untradable, slip, isolated = terms[MISSING_FUNDING] == UNTRADABLE, terms[SLIP], terms[ISOLATED] != 0.0
    margined, most_of_bar = terms[MAX_LEVERAGE] > 0.0, terms[PARTICIPATION]
    for at in range(len(columns)):
        i = columns[at]
        reference, held = opens[i], book[QUANTITY, i]
        quantity, note = wanted[at], WHOLE
        if desk[_VOID, i] != 0.0:
            continue
        if not reference > 0.0:
            notes[at] = NO_PRICE
            continue
        if quantity != -held:
            if untradable and unknown[i] != 0:
                quantity = towards(held, quantity, 0.0)
                note = FUNDING_UNKNOWN if quantity != wanted[at] else WHOLE
            else:
                quantity, note = _within(
                    tiers, by_quantity, terms, sums, i, held, desk[_RESERVED, i], quantity, reference, rate
                )
        if most_of_bar < np.inf:
            left = max(most_of_bar * volumes[i] - desk[_USED, i], 0.0)
            if not abs(quantity) <= left:
                quantity, note = np.copysign(left, wanted[at]), CLIPPED_VOLUME if left > 0.0 else NO_VOLUME
        if quantity != 0.0:
            quantity, note = sized(
                quantity, note, held, reference, rules[LOT, i], rules[MIN_BASE, i], rules[MIN_NOTIONAL, i]
            )
        notes[at] = note
        if quantity == 0.0:
            continue
        price, leverage = slipped(reference, quantity, slip, rules[TICK, i]), 0.0
        if isolated:
            leverage = min(terms[MAX_LEVERAGE], largest_leverage(tiers, by_quantity, i, held + quantity, reference))
        fee, realised = trade(book, i, quantity, price, reference, rate, leverage)
        _log(fills, ends, t, i, quantity, price, reference, fee, realised, note)
        desk[_USED, i] += abs(quantity)
        sums[_MONEY] -= fee + quantity * (price - reference)
        sums[_GROSS] += (abs(book[QUANTITY, i]) - abs(held)) * reference
        if margined:
            _reserve(book, tiers, by_quantity, terms, desk, sums, i)


@compiled
def _within(
    tiers: Floats, by_quantity: Flags, terms: Floats, sums: Floats, i: int, held: float, reserved: float,
    wanted: float, price: float, rate: float,
) -> tuple[float, int]:  # fmt: skip
    """What the leverage cap, the venue's largest position and margin leave of an order, all at the bar's opens."""
    quantity, note = wanted, WHOLE
    if terms[MAX_GROSS] < np.inf or not sums[_MONEY] > 0.0:
        most = 0.0
        if sums[_MONEY] > 0.0:
            most = max(terms[MAX_GROSS] * sums[_MONEY] - (sums[_GROSS] - abs(held) * price), 0.0) / price
        part = towards(held, quantity, most)
        if part != quantity:
            quantity, note = part, BEYOND_LEVERAGE if part == 0.0 else CLIPPED_LEVERAGE
    if terms[MAX_LEVERAGE] <= 0.0 or quantity == 0.0:
        return quantity, note
    part = towards(held, quantity, tiers[CAP, i, -1] / (1.0 if by_quantity[i] else price))
    if part != quantity:
        quantity, note = part, TIER if part == 0.0 else CLIPPED_TIER
    free = sums[_MONEY] - (sums[_ALL_RESERVED] - reserved)
    cost = rate + terms[SLIP]
    size = abs(held + quantity) * price
    lever = min(terms[MAX_LEVERAGE], largest_leverage(tiers, by_quantity, i, held + quantity, price))
    if size <= (free - abs(quantity) * price * cost) * lever:
        return quantity, note
    most = _affordable(tiers, by_quantity, terms[MAX_LEVERAGE], i, held, quantity, price, free, cost)
    part = towards(held, quantity, most)
    if part != quantity:
        quantity, note = part, MARGIN if part == 0.0 else CLIPPED_MARGIN
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


@compiled
def dated(since: Ints, t: int) -> int:
    """The place of the state that holds in a bar; the first one also before its time."""
    at = 0
    while at + 1 < len(since) and since[at + 1] <= t:
        at += 1
    return at


@compiled
def run_bar(
    book: Floats, market: Market, terms: Floats, fees: Floats, desk: Floats, sums: Floats, fills: Floats,
    payments: Floats, ends: Ints, counts: Ints, t: int, columns: Ints, wanted: Floats, notes: Ints,
) -> int:  # fmt: skip
    """Everything that happens in a bar: -1, or the column whose funding is missing.

    `columns` and `wanted` are the orders (signed base coins), in order; `notes` gets why each is not whole.
    """
    unknown, last, taker = market.unknown[t], market.last, fees[TAKER, t]
    missing = settle_part(
        book, market.settled, market.settlements, unknown, last, terms[MISSING_FUNDING], payments, ends, counts, t, True
    )
    if missing >= 0:
        return missing
    prices, marks, first = market.prices, market.marks, dated(market.tiers_since, t)
    tiers, by_quantity = market.tiers[first], market.by_quantity[first]
    rules = market.rules[dated(market.rules_since, t)]
    mark_all(book, prices[marks + OPEN, t], sums, counts)
    if unknown[ALL]:
        forced_closes(book, prices[OPEN, t], unknown, last, rules, terms, taker, fills, ends, counts, desk, t)
    margined, extremes = terms[MAX_LEVERAGE] > 0.0 and sums[GROSS] > 0.0, desk[_EXTREME]
    if margined:
        at = prices[marks + OPEN, t]  # they are marked there: neither is worse
        if _on_the_way(book, tiers, by_quantity, terms[ISOLATED], taker, at, at, extremes):
            margin_call(book, tiers, by_quantity, terms, taker, fills, ends, extremes, t)
    if len(columns):
        _take_stock(book, tiers, by_quantity, terms, desk, sums, prices[OPEN, t])
    rate = taker if terms[AS_TAKER] != 0.0 else fees[MAKER, t]
    if len(columns):
        market_orders(
            book, tiers, by_quantity, rules, terms, rate, desk, sums, fills, ends, t, columns, wanted, notes,
            prices[OPEN, t], prices[VOLUME, t], unknown,
        )  # fmt: skip
    if terms[MAX_LEVERAGE] > 0.0:
        low, high = prices[marks + LOW, t], prices[marks + HIGH, t]
        if _on_the_way(book, tiers, by_quantity, terms[ISOLATED], taker, low, high, extremes):
            margin_call(book, tiers, by_quantity, terms, taker, fills, ends, extremes, t)
    paid = ends[PAYMENTS]
    missing = settle_part(
        book, market.settled, market.settlements, unknown, last, terms[MISSING_FUNDING], payments, ends, counts, t,
        False,
    )  # fmt: skip
    if missing >= 0:
        return missing
    mark_all(book, prices[marks + CLOSE, t], sums, counts)
    if terms[MAX_LEVERAGE] > 0.0 and ends[PAYMENTS] > paid:
        closes = prices[marks + CLOSE, t]
        if _on_the_way(book, tiers, by_quantity, terms[ISOLATED], taker, closes, closes, extremes):
            margin_call(book, tiers, by_quantity, terms, taker, fills, ends, extremes, t)
            mark_all(book, closes, sums, counts)
    return -1
