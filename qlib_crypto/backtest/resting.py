"""Orders that rest until their price is reached: entries, and what protects a position. Compiled.

Inside a bar nobody knows what came first, so it is what harms most: entries are reached before anything else, a stop
before a target, and liquidation where it lies before the stop. What is opened inside a bar can be stopped in it, but
not reach its target. A limit is reached by a price beyond it, a stop by its own price; what a bar opens beyond fills at
the open (a stop) or at its limit.

A side is 1 for long and -1 for short; prices times the side are `signed`: a position is harmed by what is lower.
"""

from __future__ import annotations

import numpy as np

from qlib_crypto.backtest.account import QUANTITY, Floats, Ints, mark_all, positions
from qlib_crypto.backtest.admission import worse_tick
from qlib_crypto.backtest.compiled import compiled, inlined
from qlib_crypto.backtest.margin_calls import margin_call, on_the_way
from qlib_crypto.backtest.market import CLOSE, HIGH, INNER_ROWS, LEAST_LEVERAGE, LOW, OPEN, TICK, Flags
from qlib_crypto.backtest.notes import (
    CLIPPED_VOLUME,
    EXPIRED,
    LIMIT,
    MARKET,
    OF_WORDS,
    RESTING,
    STOP_LOSS,
    TAKE_PROFIT,
    TRAILING_STOP,
    VOLUME,
)
from qlib_crypto.backtest.trading import (
    AT,
    BEFORE,
    BEGUN,
    EXTREME,
    HIGHS,
    ISOLATED,
    LATER,
    LOWS,
    MAX_LEVERAGE,
    REACHED,
    REACHED_NOTE,
    RESTS,
    VOID,
    Bits,
    market_orders,
    take_stock,
)

#: Columns of orders that are more than market orders, shape (k, 6): one of `notes.MARKET`, `LIMIT`, `STOP`; its price;
#: the last bar in which it rests; for a position that it opens: the price of its stop, of its target, and how far a
#: stop trails behind the best price. 0 is none.
KIND, LEVEL, UNTIL, LOSS, PROFIT, TRAIL = range(6)
ORDER_COLUMNS = TRAIL + 1
#: Rows of what rests, shape (12, n): a signed entry (base coins) with kind, price, last bar and what its position gets;
#: then the side that is protected, its stop, target, distance of a trailing stop, and the best price since.
(
    ENTRY, ENTRY_KIND, ENTRY_LEVEL, ENTRY_UNTIL, NEXT_LOSS, NEXT_PROFIT, NEXT_TRAIL,
    SIDE, STOP_AT, TARGET_AT, DISTANCE, BEST,
) = range(12)  # fmt: skip
RESTING_ROWS = BEST + 1


@inlined
def _copy(row: Floats, to: Floats) -> None:
    for i in range(len(row)):
        to[i] = row[i]


@compiled
def _protect(rest: Floats, i: int, side: float, loss: float, profit: float, trail: float, price: float) -> None:
    rest[SIDE, i] = side if loss > 0.0 or profit > 0.0 or trail > 0.0 else 0.0
    rest[STOP_AT, i], rest[TARGET_AT, i], rest[DISTANCE, i] = loss, profit, trail
    rest[BEST, i] = price


@compiled
def _stop(rest: Floats, i: int) -> tuple[float, int]:
    """The signed price at which a protected position is closed, -inf without one, and by what."""
    side, at, kind = rest[SIDE, i], -np.inf, STOP_LOSS
    if rest[STOP_AT, i] > 0.0:
        at = side * rest[STOP_AT, i]
    if rest[DISTANCE, i] > 0.0:
        trailed = side * rest[BEST, i] - rest[DISTANCE, i]
        if trailed > at:
            at, kind = trailed, TRAILING_STOP
    return at, kind


@compiled
def place(
    book: Floats, rest: Floats, orders: Floats, columns: Ints, wanted: Floats, notes: Ints, opens: Floats,
    rules: Floats, unknown_some: bool, desk: Floats, ends: Ints,
) -> None:  # fmt: skip
    """Let rest what the market is not at: what is to be executed now stays in `wanted`.

    An order replaces what rests of its instrument. One of quantity 0 moves what protects the position.
    """
    for at in range(len(columns)):
        i = columns[at]
        quantity, held = wanted[at], book[QUANTITY, i]
        desk[BEFORE, i] = held
        rest[ENTRY, i] = 0.0
        if len(orders) == 0 or not opens[i] > 0.0 or (unknown_some and desk[VOID, i] != 0.0):
            continue
        order = orders[at]
        if quantity == 0.0:
            if held != 0.0:
                _protect(rest, i, np.sign(held), order[LOSS], order[PROFIT], order[TRAIL], opens[i])
                ends[RESTS] = 1
            continue
        kind = int(order[KIND])
        if kind == MARKET:
            continue
        below = (quantity > 0.0) == (kind == LIMIT)
        # never nearer to the market than what was asked for
        level = worse_tick(order[LEVEL], rules[TICK, i], -1.0 if below else 1.0)
        if not (level < opens[i] if below else level > opens[i]):
            continue
        rest[ENTRY, i], rest[ENTRY_KIND, i], rest[ENTRY_LEVEL, i] = quantity, kind, level
        rest[ENTRY_UNTIL, i] = order[UNTIL]
        rest[NEXT_LOSS, i], rest[NEXT_PROFIT, i], rest[NEXT_TRAIL, i] = order[LOSS], order[PROFIT], order[TRAIL]
        wanted[at], notes[at], ends[RESTS] = 0.0, RESTING, 1


@compiled
def protect_opened(
    book: Floats, rest: Floats, orders: Floats, columns: Ints, desk: Floats, opens: Floats, ends: Ints
) -> None:
    """Give what protects it to each position that the orders opened; one that they changed keeps what it has."""
    for at in range(len(columns)):
        i = columns[at]
        now = book[QUANTITY, i]
        if now != 0.0 and desk[BEFORE, i] * now <= 0.0:
            _protect(rest, i, np.sign(now), orders[at, LOSS], orders[at, PROFIT], orders[at, TRAIL], opens[i])
            ends[RESTS] = max(ends[RESTS], int(rest[SIDE, i] != 0.0))


@compiled
def _executed(
    book: Floats, tiers: Floats, by_quantity: Flags, bounds: Floats, rules: Floats, terms: Floats, slips: Floats,
    rate: float, order: int, desk: Floats, sums: Floats, fills: Floats, ends: Ints, counts: Ints, t: int, i: int,
    wanted: Floats, price: float, opens: Floats, volumes: Floats, unknown: Bits, room: Ints,
) -> int:  # fmt: skip
    """An order in `wanted`, shape (1,), at a price that was reached: why not all of it."""
    _copy(opens, desk[AT])
    desk[AT, i] = price
    columns, notes = ends[REACHED : REACHED + 1], ends[REACHED_NOTE : REACHED_NOTE + 1]
    columns[0], notes[0] = i, 0
    take_stock(book, room[: positions(book, room)], sums, desk[AT])
    market_orders(
        book, tiers, by_quantity, rules, terms, rate, slips, order, desk, sums, fills, ends, t, columns, wanted, notes,
        desk[AT], volumes, unknown, bounds[LEAST_LEVERAGE],
    )  # fmt: skip
    note = notes[0]
    counts[OF_WORDS + note] += 1
    return note


@compiled
def _enter(
    book: Floats, rest: Floats, tiers: Floats, by_quantity: Flags, bounds: Floats, rules: Floats, terms: Floats,
    slips: Floats, maker: float, taker: float, desk: Floats, sums: Floats, fills: Floats, ends: Ints, counts: Ints,
    t: int, i: int, price: float, opens: Floats, volumes: Floats, unknown: Bits, room: Ints,
) -> None:  # fmt: skip
    """An entry whose price was reached. What the bar's volume leaves of it goes on resting, nothing else does."""
    asked, before, kind = rest[ENTRY, i], book[QUANTITY, i], int(rest[ENTRY_KIND, i])
    note = _executed(
        book, tiers, by_quantity, bounds, rules, terms, slips, maker if kind == LIMIT else taker, kind,
        desk, sums, fills, ends, counts, t, i, rest[ENTRY, i : i + 1], price, opens, volumes, unknown, room,
    )  # fmt: skip
    rest[ENTRY, i] = asked - rest[ENTRY, i] if note in (VOLUME, CLIPPED_VOLUME) else 0.0
    now = book[QUANTITY, i]
    if now != 0.0 and before * now <= 0.0:
        desk[BEGUN, i] = price
        _protect(rest, i, np.sign(now), rest[NEXT_LOSS, i], rest[NEXT_PROFIT, i], rest[NEXT_TRAIL, i], price)


@compiled
def reached_at_open(
    book: Floats, rest: Floats, tiers: Floats, by_quantity: Flags, bounds: Floats, rules: Floats, terms: Floats,
    slips: Floats, maker: float, taker: float, desk: Floats, sums: Floats, fills: Floats, ends: Ints, counts: Ints,
    t: int, opens: Floats, volumes: Floats, unknown: Bits, room: Ints,
) -> None:  # fmt: skip
    """What rested and is reached by the open itself: limits at their price, stops at the open."""
    for i in range(len(opens)):
        quantity, price, level = rest[ENTRY, i], opens[i], rest[ENTRY_LEVEL, i]
        if quantity == 0.0 or not price > 0.0:
            continue
        limit = rest[ENTRY_KIND, i] == LIMIT
        if (price < level if quantity > 0.0 else price > level) if limit else (
            price >= level if quantity > 0.0 else price <= level
        ):  # fmt: skip
            _enter(
                book, rest, tiers, by_quantity, bounds, rules, terms, slips, maker, taker, desk, sums, fills, ends,
                counts, t, i, level if limit else price, opens, volumes, unknown, room,
            )  # fmt: skip
    for i in range(len(opens)):
        side, price = rest[SIDE, i], opens[i]
        if not (book[QUANTITY, i] * side > 0.0 and price > 0.0):
            continue
        stop, kind = _stop(rest, i)
        wanted = desk[LATER, i : i + 1]
        wanted[0] = -book[QUANTITY, i]
        if side * price <= stop:
            _executed(
                book, tiers, by_quantity, bounds, rules, terms, slips, taker, kind, desk, sums, fills, ends,
                counts, t, i, wanted, price, opens, volumes, unknown, room,
            )  # fmt: skip
        elif rest[TARGET_AT, i] > 0.0 and side * price > side * rest[TARGET_AT, i]:
            target = worse_tick(rest[TARGET_AT, i], rules[TICK, i], side)
            _executed(
                book, tiers, by_quantity, bounds, rules, terms, slips, maker, TAKE_PROFIT, desk, sums, fills, ends,
                counts, t, i, wanted, target, opens, volumes, unknown, room,
            )  # fmt: skip


@compiled
def through(  # noqa: C901, PLR0912, PLR0915 - one way through one bar
    book: Floats, rest: Floats, tiers: Floats, by_quantity: Flags, bounds: Floats, rules: Floats, terms: Floats,
    slips: Floats, maker: float, taker: float, desk: Floats, sums: Floats, fills: Floats, ends: Ints, counts: Ints,
    t: int, opens: Floats, lows: Floats, highs: Floats, closes: Floats, mark_lows: Floats, mark_highs: Floats,
    volumes: Floats, unknown: Bits, room: Ints,
) -> None:  # fmt: skip
    """The way through a bar with something that rests: entries, liquidation up to the stops, stops and targets."""
    margined, isolated = terms[MAX_LEVERAGE] > 0.0, terms[ISOLATED] != 0.0
    desk[BEGUN] = 0.0
    for i in range(len(opens)):
        quantity, level = rest[ENTRY, i], rest[ENTRY_LEVEL, i]
        if quantity == 0.0 or not opens[i] > 0.0:
            continue
        if rest[ENTRY_KIND, i] == LIMIT:
            reached = lows[i] < level if quantity > 0.0 else highs[i] > level
        else:
            reached = highs[i] >= level if quantity > 0.0 else lows[i] <= level
        if reached:
            _enter(
                book, rest, tiers, by_quantity, bounds, rules, terms, slips, maker, taker, desk, sums, fills, ends,
                counts, t, i, level, opens, volumes, unknown, room,
            )  # fmt: skip
    _copy(mark_lows, desk[LOWS])
    _copy(mark_highs, desk[HIGHS])
    for i in range(len(opens)):
        side = rest[SIDE, i]
        if book[QUANTITY, i] * side > 0.0 and opens[i] > 0.0:
            if desk[BEGUN, i] == 0.0 and side * opens[i] > side * rest[BEST, i]:
                rest[BEST, i] = opens[i]
            stop, _ = _stop(rest, i)
            # marks go no further where the position is closed on the way
            if side > 0.0 and lows[i] <= stop:
                desk[LOWS, i] = max(desk[LOWS, i], stop)
            elif side < 0.0 and -highs[i] <= stop:
                desk[HIGHS, i] = min(desk[HIGHS, i], -stop)
    held = room[: positions(book, room)]
    if margined and on_the_way(
        book, held, tiers, by_quantity, isolated, taker, desk[LOWS], desk[HIGHS], desk[EXTREME]
    ):  # fmt: skip
        margin_call(book, held, tiers, by_quantity, terms, taker, fills, ends, desk[EXTREME], t)
    fired = False
    for i in range(len(opens)):
        side = rest[SIDE, i]
        if not (book[QUANTITY, i] * side > 0.0 and opens[i] > 0.0):
            continue
        begun = desk[BEGUN, i] > 0.0
        start = side * (desk[BEGUN, i] if begun else opens[i])
        worst, best = (side * lows[i], side * highs[i]) if side > 0.0 else (side * highs[i], side * lows[i])
        stop, kind = _stop(rest, i)
        target = side * rest[TARGET_AT, i] if rest[TARGET_AT, i] > 0.0 else np.inf
        price, rate = np.nan, taker
        if worst <= stop:
            price = min(stop, start)
        elif not begun:
            trailed = -np.inf
            if rest[DISTANCE, i] > 0.0:
                trailed = max(side * rest[BEST, i], min(best, target)) - rest[DISTANCE, i]
            if worst <= trailed:
                price, kind = trailed, TRAILING_STOP
            elif best > target:
                price, kind, rate = target, TAKE_PROFIT, maker
        if np.isnan(price):
            continue
        # on its tick: a stop not better, a target not nearer
        at = worse_tick(side * price, rules[TICK, i], side if kind == TAKE_PROFIT else -side)
        wanted = desk[LATER, i : i + 1]
        wanted[0] = -book[QUANTITY, i]
        _executed(
            book, tiers, by_quantity, bounds, rules, terms, slips, rate, kind, desk, sums, fills, ends, counts, t, i,
            wanted, at, opens, volumes, unknown, room,
        )  # fmt: skip
        fired = True
    held = room[: positions(book, room)]
    # what could not be closed goes all the way
    if (
        fired
        and margined
        and on_the_way(book, held, tiers, by_quantity, isolated, taker, mark_lows, mark_highs, desk[EXTREME])
    ):
        margin_call(book, held, tiers, by_quantity, terms, taker, fills, ends, desk[EXTREME], t)
    for i in range(len(opens)):
        side = rest[SIDE, i]
        if side != 0.0 and opens[i] > 0.0:
            best = closes[i] if desk[BEGUN, i] > 0.0 else (highs[i] if side > 0.0 else lows[i])
            if side * best > side * rest[BEST, i]:
                rest[BEST, i] = best


@compiled
def through_inner(
    book: Floats, rest: Floats, tiers: Floats, by_quantity: Flags, bounds: Floats, rules: Floats, terms: Floats,
    slips: Floats, maker: float, taker: float, desk: Floats, sums: Floats, fills: Floats, ends: Ints, counts: Ints,
    t: int, inner: Floats, each: int, volumes: Floats, unknown: Bits, room: Ints,
) -> None:  # fmt: skip
    """The way through the `each` finer bars of a bar, as `through`, one after another and marked at each close."""
    marks = len(inner) - INNER_ROWS
    for row in range(t * each, (t + 1) * each):
        opens, lows, highs, closes = inner[OPEN, row], inner[LOW, row], inner[HIGH, row], inner[CLOSE, row]
        mark_lows, mark_highs = inner[marks + LOW, row], inner[marks + HIGH, row]
        if ends[RESTS]:
            if row > t * each:
                reached_at_open(
                    book, rest, tiers, by_quantity, bounds, rules, terms, slips, maker, taker, desk, sums, fills, ends,
                    counts, t, opens, volumes, unknown, room,
                )  # fmt: skip
            through(
                book, rest, tiers, by_quantity, bounds, rules, terms, slips, maker, taker, desk, sums, fills, ends,
                counts, t, opens, lows, highs, closes, mark_lows, mark_highs, volumes, unknown, room,
            )  # fmt: skip
        held = room[: positions(book, room)]
        if not ends[RESTS] and terms[MAX_LEVERAGE] > 0.0 and on_the_way(
            book, held, tiers, by_quantity, terms[ISOLATED] != 0.0, taker, mark_lows, mark_highs, desk[EXTREME]
        ):  # fmt: skip
            margin_call(book, held, tiers, by_quantity, terms, taker, fills, ends, desk[EXTREME], t)
            held = room[: positions(book, room)]
        mark_all(book, held, inner[marks + CLOSE, row])


@compiled
def tidy(book: Floats, rest: Floats, last: Ints, ends: Ints, counts: Ints, t: int) -> None:
    """After a bar: what is out of time is gone, and what protected a position that is."""
    some = 0
    for i in range(rest.shape[1]):
        if rest[ENTRY, i] != 0.0 and (rest[ENTRY_UNTIL, i] <= t or last[i] <= t):
            rest[ENTRY, i] = 0.0
            counts[EXPIRED] += 1
        if not book[QUANTITY, i] * rest[SIDE, i] > 0.0:
            rest[SIDE, i] = 0.0
        some += (rest[ENTRY, i] != 0.0) | (rest[SIDE, i] != 0.0)
    ends[RESTS] = some
