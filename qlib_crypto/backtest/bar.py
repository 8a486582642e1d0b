"""One bar of a backtest, everything that happens in it in its order. Compiled; both engines run it.

1. settlements at the open, on what was held before;
2. marks at the open; without one a position keeps its last;
3. a position whose instrument ended is settled at its last mark; under `untradable` one over unknown funding is closed;
4. the margin call at the open: a gap may have gone through the liquidation price;
5. what rests and is reached by the open (see `inside`), what a risk limit closes, then the orders, in their order;
6. the way through the bar, or through each finer one in it: what is reached, and liquidation at the worst marks;
7. settlements later in the bar, on what is held then;
8. marks at the close, and the margin call on what the settlements left.
"""

from __future__ import annotations

import numpy as np

from qlib_crypto.backtest.account import ALL, MARK, QUANTITY, Floats, Ints, index, mark_all, positions, settle, trade
from qlib_crypto.backtest.compiled import compiled, inlined, pasted
from qlib_crypto.backtest.inside import through, through_inner
from qlib_crypto.backtest.layout import (
    AS_TAKER,
    BEFORE,
    CLOSING,
    DESK_GROSS,
    EQUITY,
    ERROR,
    EXTREME,
    FILLS,
    GROSS,
    HELD,
    ISOLATED,
    LIMITED,
    MAKER,
    MAX_LEVERAGE,
    MISSING_FUNDING,
    MONEY,
    PARTICIPATION,
    PAYMENTS,
    RATIO,
    RESTS,
    SETTLED,
    TAKER,
    TOLD,
    UNTRADABLE,
    USED,
    VOID,
    Bits,
)
from qlib_crypto.backtest.margin_calls import margin_call, margin_ratio, on_the_way, surely_sound
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
)
from qlib_crypto.backtest.notes import (
    CLOSED_DELISTED,
    CLOSED_UNKNOWN,
    FUNDING_AS_NONE,
    MARKET,
    OF_WORDS,
    PAID_AT_LAST_PRICE,
    STALE_MARKS,
    UNKNOWN_WITHOUT_PRICE,
    VENUE,
)
from qlib_crypto.backtest.reached import Bar, reached_at_open
from qlib_crypto.backtest.resting import ENTRY, cut_to_what_is_left, place, protect_opened, tidy
from qlib_crypto.backtest.risk_limits import close_all, new_day, watch
from qlib_crypto.backtest.running import Running
from qlib_crypto.backtest.trading import log, market_orders, slip_of, slipped, take_stock


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
    paid = ends[PAYMENTS]
    for at in range(ends[SETTLED], len(settled)):
        bar = settled[at, SETTLED_BAR]
        if bar > t or (bar == t and at_open and settled[at, SETTLED_AT_OPEN] == 0):
            break
        ends[SETTLED] = at + 1
        i, rate, price = settled[at, SETTLED_COLUMN], settlements[at, SETTLED_RATE], settlements[at, SETTLED_PRICE]
        quantity = book[index(i), QUANTITY]
        if bar < t or quantity == 0.0 or rate == 0.0:
            continue
        guessed = 0.0
        if not np.isfinite(price):
            if policy == ERROR and last[i] >= t:
                return i
            price, guessed = book[i, MARK], 1.0
            counts[PAID_AT_LAST_PRICE] += 1
        amount = settle(book, i, rate * price)
        row = payments[paid]
        row[0] = at
        row[1] = t
        row[2] = quantity
        row[3] = price
        row[4] = amount
        row[5] = guessed
        paid += 1
        ends[PAYMENTS] = paid
    return -1


@compiled
def forced_closes(
    book: Floats, held: Ints, opens: Floats, unknown: Bits, last: Ints, rules: Floats, terms: Floats, slips: Floats,
    taker: float, fills: Floats, ends: Ints, counts: Ints, desk: Floats, t: int,
) -> None:  # fmt: skip
    """Close what ended, and under `UNTRADABLE` what funding is unknown of; orders for these are void in this bar."""
    desk[VOID] = 0.0
    for i in held:
        if unknown[i] == 0:
            continue
        quantity = book[i, QUANTITY]
        price = reference = book[i, MARK]
        note = CLOSED_DELISTED
        if last[i] >= t:
            if terms[MISSING_FUNDING] != UNTRADABLE:
                continue
            note, reference = CLOSED_UNKNOWN, opens[i]
            if not reference > 0.0:
                counts[UNKNOWN_WITHOUT_PRICE] += 1
                continue
            price = slipped(reference, -quantity, slip_of(terms, slips, t, i, quantity, reference), rules[TICK, i])
        fee, realised = trade(book, i, -quantity, price, reference, taker, 0.0)
        log(fills, ends, t, i, -quantity, price, reference, fee, realised, note, 0.0, VENUE)
        desk[VOID, i] = 1.0


#: More than sums of positions are rounded by, relative.
ROUNDING = 1e-9


@inlined
def dated(since: Ints, t: int) -> int:
    """The place of the state that holds in a bar; the first one also before its time."""
    at = 0
    while at + 1 < len(since) and since[at + 1] <= t:
        at += 1
    return at


@pasted
def run_bar(  # noqa: C901, PLR0912, PLR0915 - a bar, in its order
    running: Running, t: int, columns: Ints, wanted: Floats, orders: Floats, notes: Ints
) -> int:
    """Everything that happens in a bar: -1, or the column whose funding is missing.

    `columns` and `wanted` are the orders (signed base coins), in order, `orders` what else they say (see `resting`), of
    length 0 when all are market orders; `notes` gets why each is not whole.
    """
    book, rest, market, terms, fees, desk, sums, fills, payments, ends, counts, room, _, _ = running
    unknown, last, taker, maker = market.unknown[t], market.last, fees[TAKER, t], fees[MAKER, t]
    limited = terms[LIMITED] != 0.0
    if limited:
        new_day(sums, market.days[t])
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
    slips = market.slips
    at = prices[marks + OPEN, t]
    sums[EQUITY], sums[GROSS], _ = mark_all(book, held, at)
    touched = unknown[ALL] != 0
    if touched:
        forced_closes(book, held, opens, unknown, last, rules, terms, slips, taker, fills, ends, counts, desk, t)
        held = room[: positions(book, room)]
    # sound even if every position needed most: no look at the tiers
    sound = not (isolated or touched) and sums[EQUITY] > sums[GROSS] * (bounds[LARGEST_RATE] + taker)
    closing = limited and sums[CLOSING] != 0.0
    # by what comes before the orders now, positions may be closed that they were meant for
    cut = len(columns) > 0 and ((margined and not sound) or ends[RESTS] != 0 or closing)
    if cut:
        for i in columns:
            desk[BEFORE, i] = book[i, QUANTITY]
            rest[ENTRY, i] = 0.0  # orders replace what rests
    # they are marked at the open: neither end of this way is worse
    if margined and not sound and on_the_way(book, held, tiers, by_quantity, isolated, taker, at, at, extremes):
        margin_call(book, held, tiers, by_quantity, terms, taker, fills, ends, extremes, t)
        held, touched = room[: positions(book, room)], True
    if terms[PARTICIPATION] < np.inf:
        desk[USED] = 0.0
    bar = Bar(
        t, book, rest, tiers, by_quantity, bounds, rules, terms, slips, maker, taker, desk, sums, fills, ends, counts,
        prices[VOLUME, t], unknown, room,
    )  # fmt: skip
    if ends[RESTS]:
        reached_at_open(bar, opens)
        held, touched = room[: positions(book, room)], True
    if closing:
        close_all(
            book, rest[ENTRY], held, opens, prices[VOLUME, t], rules, terms, slips, taker, fills, ends, desk, sums, t
        )
        held, touched = room[: positions(book, room)], True
    if len(columns):
        if cut:
            cut_to_what_is_left(book, columns, wanted, notes, desk)
        rested = ends[RESTS] != 0 or len(orders) > 0
        if rested:
            filled = ends[FILLS]
            place(book, rest, orders, columns, wanted, notes, opens, rules, unknown[ALL] != 0, desk, ends)
        if touched or marks != OPEN:
            take_stock(book, held, sums, opens)
        else:
            sums[MONEY], sums[DESK_GROSS] = sums[EQUITY], sums[GROSS]
        if market_orders(
            book, tiers, by_quantity, rules, terms, taker if terms[AS_TAKER] != 0.0 else maker, slips, MARKET,
            False, desk, sums, fills, ends, t, columns, wanted, notes, opens, prices[VOLUME, t], unknown,
            bounds[LEAST_LEVERAGE],
        ):  # fmt: skip
            held = room[: positions(book, room)]
        if rested:
            protect_opened(book, rest, orders, columns, desk, opens, ends, fills, filled)
        for order in range(len(columns)):
            counts[OF_WORDS + notes[order]] += 1
    if marks != OPEN and (touched or len(columns)):
        mark_all(book, held, at)  # what was opened now
    low, high = prices[marks + LOW, t], prices[marks + HIGH, t]
    if market.inner.shape[1] > 0:
        through_inner(bar, market.inner, market.inner.shape[1] // prices.shape[1])
        held = room[: positions(book, room)]
        if ends[RESTS]:
            tidy(book, rest, last, ends, counts, t)
    elif ends[RESTS]:
        through(bar, opens, prices[LOW, t], prices[HIGH, t], prices[CLOSE, t], at, low, high)
        held = room[: positions(book, room)]
        tidy(book, rest, last, ends, counts, t)
    elif margined:
        # money and gross after the orders, known where positions are marked at what they trade at
        ordered = len(columns) > 0
        money, gross = sums[MONEY] if ordered else sums[EQUITY], sums[DESK_GROSS] if ordered else sums[GROSS]
        most, rate = market.moves[t] * (1.0 + ROUNDING), bounds[LARGEST_RATE] + taker
        sound = marks == OPEN and (ordered or not touched) and money > gross * (most + (1.0 + most) * rate)
        sound = not isolated and (sound or surely_sound(book, held, rate, low, high))
        if not sound and on_the_way(book, held, tiers, by_quantity, isolated, taker, low, high, extremes):
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
    sums[RATIO] = np.nan
    if margined:
        sums[RATIO] = margin_ratio(book, held, tiers, by_quantity, isolated, taker, sums[EQUITY])
    if limited:
        watch(terms, sums, t)
    return -1
