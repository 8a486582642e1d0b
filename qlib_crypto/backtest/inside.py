"""What is reached inside a bar, of what rests. Compiled.

Nobody knows in which order a bar's prices came, so it is the one that harms most: a stop before a target, liquidation
where it lies before the stop. Of an entry and what closes the position before it (liquidation too), both reached: on
the same side of the open the nearer one comes first; on both sides a stop entry comes first, a limit after. What is
opened inside a bar can be stopped in it, but not reach its target. A limit is reached by a price beyond it, a stop by
its own price; what a bar opens beyond fills at the open (a stop) or at its limit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qlib_crypto.backtest.account import MARK, QUANTITY, Floats, Ints, mark_all, mark_one, positions
from qlib_crypto.backtest.compiled import compiled, inlined, pasted
from qlib_crypto.backtest.margin_calls import margin_call, on_the_way
from qlib_crypto.backtest.market import CLOSE, HIGH, INNER_ROWS, LEAST_LEVERAGE, LOW, OPEN, Flags
from qlib_crypto.backtest.notes import (
    CLIPPED_VOLUME,
    LIMIT,
    OF_WORDS,
    STOP_LOSS,
    TAKE_PROFIT,
    TRAILING_STOP,
    VOLUME,
)
from qlib_crypto.backtest.resting import (
    BEST,
    DISTANCE,
    ENTRY,
    ENTRY_HELD,
    ENTRY_KIND,
    ENTRY_LEVEL,
    NEXT_LOSS,
    NEXT_PROFIT,
    NEXT_TRAIL,
    SIDE,
    STOP_AT,
    away,
    left_of,
    protect,
    stop_of,
    target_of,
)
from qlib_crypto.backtest.trading import (
    AT,
    BEGUN,
    COOL_DOWN,
    EXTREME,
    HIGHS,
    ISOLATED,
    LATER,
    LOWS,
    MARKED,
    MAX_LEVERAGE,
    OPENS_AGAIN,
    REACHED,
    REACHED_NOTE,
    RESTS,
    WAITS,
    Bits,
    market_orders,
    take_stock,
)


class Bar(NamedTuple):
    """What the functions of a bar share; each as `bar.run_bar` has it."""

    t: int
    book: Floats
    rest: Floats
    tiers: Floats
    by_quantity: Flags
    bounds: Floats
    rules: Floats
    terms: Floats
    slips: Floats
    maker: float
    taker: float
    desk: Floats
    sums: Floats
    fills: Floats
    ends: Ints
    counts: Ints
    volumes: Floats
    unknown: Bits
    room: Ints


@inlined
def _copy(row: Floats, to: Floats) -> None:
    for i in range(len(row)):
        to[i] = row[i]


@compiled
def _margin_called(bar: Bar, lows: Floats, highs: Floats) -> None:
    """Liquidation on the way from the marks to these."""
    held = bar.room[: positions(bar.book, bar.room)]
    if bar.terms[MAX_LEVERAGE] > 0.0 and on_the_way(
        bar.book, held, bar.tiers, bar.by_quantity, bar.terms[ISOLATED] != 0.0, bar.taker, lows, highs,
        bar.desk[EXTREME],
    ):  # fmt: skip
        margin_call(
            bar.book, held, bar.tiers, bar.by_quantity, bar.terms, bar.taker, bar.fills, bar.ends, bar.desk[EXTREME],
            bar.t,
        )  # fmt: skip


@compiled
def _executed(bar: Bar, i: int, order: int, wanted: Floats, price: float, maker: bool, opens: Floats) -> int:
    """An order in `wanted`, shape (1,), at a price that was reached: why not all of it."""
    _copy(opens, bar.desk[AT])
    bar.desk[AT, i] = price
    columns, notes = bar.ends[REACHED : REACHED + 1], bar.ends[REACHED_NOTE : REACHED_NOTE + 1]
    columns[0], notes[0] = i, 0
    take_stock(bar.book, bar.room[: positions(bar.book, bar.room)], bar.sums, bar.desk[AT])
    market_orders(
        bar.book, bar.tiers, bar.by_quantity, bar.rules, bar.terms, bar.maker if maker else bar.taker, bar.slips,
        order, maker, bar.desk, bar.sums, bar.fills, bar.ends, bar.t, columns, wanted, notes, bar.desk[AT],
        bar.volumes, bar.unknown, bar.bounds[LEAST_LEVERAGE],
    )  # fmt: skip
    note = notes[0]
    bar.counts[OF_WORDS + note] += 1
    return note


@compiled
def _enter(bar: Bar, i: int, price: float, opens: Floats, marks: Floats, inside: bool) -> None:
    """An entry whose price was reached. What the bar's volume leaves of it goes on, a stop at the opens; nothing else.

    `inside` a bar the mark went from where it opened, `marks`, as far as the price, and goes on from there; of what was
    held before until the bar is gone through.
    """
    rest, before, kind = bar.rest, bar.book[i, QUANTITY], int(bar.rest[ENTRY_KIND, i])
    asked = left_of(rest[ENTRY, i], rest[ENTRY_HELD, i], before)
    rest[ENTRY, i] = asked
    if asked == 0.0:
        return
    if inside and before != 0.0:
        bar.desk[MARKED, i] = bar.book[i, MARK]
        mark_one(bar.book, i, bar.book[i, MARK] * price / opens[i])
    note = _executed(bar, i, kind, rest[ENTRY, i : i + 1], price, kind == LIMIT, opens)
    now = bar.book[i, QUANTITY]
    rest[ENTRY, i] = asked - rest[ENTRY, i] if note in (VOLUME, CLIPPED_VOLUME) else 0.0
    if kind != LIMIT:
        rest[ENTRY_LEVEL, i] = np.copysign(np.inf, -asked)
    rest[ENTRY_HELD, i] = now
    if inside and before == 0.0 and now != 0.0 and marks[i] > 0.0 and marks[i] != opens[i]:
        mark_one(bar.book, i, marks[i] * price / opens[i])
    if now != 0.0 and before * now <= 0.0:
        bar.desk[BEGUN, i] = price
        protect(rest, i, np.sign(now), rest[NEXT_LOSS, i], rest[NEXT_PROFIT, i], rest[NEXT_TRAIL, i], price)


@compiled
def _close(bar: Bar, i: int, kind: int, price: float, maker: bool, opens: Floats) -> None:
    """Close a protected position; a stop that was reached goes on until it is done."""
    side, wanted = bar.rest[SIDE, i], bar.desk[LATER, i : i + 1]
    wanted[0] = -bar.book[i, QUANTITY]
    _executed(bar, i, kind, wanted, price, maker, opens)
    if kind == TAKE_PROFIT:
        return
    if bar.terms[COOL_DOWN] > 0.0 and wanted[0] != 0.0:
        bar.desk[OPENS_AGAIN, i] = bar.t + 1 + bar.terms[COOL_DOWN]
    if bar.book[i, QUANTITY] * side > 0.0:
        if kind == STOP_LOSS:
            bar.rest[STOP_AT, i] = side * np.inf
        else:
            bar.rest[DISTANCE, i] = -np.inf


@compiled
def _after(bar: Bar, i: int, out: float) -> bool:
    """Whether the entry of a protected position, both reached, comes after its way out at `out`, signed."""
    rest, side = bar.rest, bar.rest[SIDE, i]
    level, adds = side * rest[ENTRY_LEVEL, i], rest[ENTRY, i] * side > 0.0
    if rest[ENTRY_KIND, i] == LIMIT:
        return out >= level if adds else out <= level
    return target_of(rest, bar.rules, i) < level if adds else stop_of(rest, bar.rules, i)[0] >= level


@compiled
def _out_at_open(bar: Bar, i: int, price: float) -> tuple[float, int]:
    """The signed price at which the open itself closes a protected position, NaN when it does not, and by what."""
    side = bar.rest[SIDE, i]
    if not (bar.book[i, QUANTITY] * side > 0.0 and price > 0.0):
        return np.nan, 0
    stop, kind = stop_of(bar.rest, bar.rules, i)
    if side * price <= stop:
        return side * price, kind
    target = target_of(bar.rest, bar.rules, i)
    return (target, TAKE_PROFIT) if side * price > target else (np.nan, 0)


@compiled
def reached_at_open(bar: Bar, opens: Floats) -> None:  # noqa: C901 - entries, ways out, entries that waited
    """What rested and is reached by the open itself: limits at their price, stops at the open."""
    rest, desk, some = bar.rest, bar.desk, False
    desk[BEGUN] = 0.0
    desk[WAITS] = 0.0
    for i in range(len(opens)):
        quantity, price, level = rest[ENTRY, i], opens[i], rest[ENTRY_LEVEL, i]
        if quantity == 0.0 or not price > 0.0:
            continue
        limit = rest[ENTRY_KIND, i] == LIMIT
        if (price < level if quantity > 0.0 else price > level) if limit else (
            price >= level if quantity > 0.0 else price <= level
        ):  # fmt: skip
            out, kind = _out_at_open(bar, i, price)
            if kind != TAKE_PROFIT and not np.isnan(out):
                out, _ = stop_of(rest, bar.rules, i)  # where on the way to the open it was
            if not np.isnan(out) and _after(bar, i, out):
                desk[WAITS, i], some = 1.0, True
            else:
                _enter(bar, i, level if limit else price, opens, opens, False)
    for i in range(len(opens)):
        if desk[BEGUN, i] == 0.0:  # what was opened just now goes its way inside the bar
            out, kind = _out_at_open(bar, i, opens[i])
            if not np.isnan(out):
                _close(bar, i, kind, rest[SIDE, i] * out, kind == TAKE_PROFIT, opens)
    if some:
        for i in range(len(opens)):
            if desk[WAITS, i] != 0.0:
                level = rest[ENTRY_LEVEL, i] if rest[ENTRY_KIND, i] == LIMIT else opens[i]
                _enter(bar, i, level, opens, opens, False)


@compiled
def _out(bar: Bar, i: int, start: float, begun: bool, low: float, high: float) -> tuple[float, int]:
    """The signed price at which a bar closes a protected position that it has from `start` on, NaN when it does not."""
    rest, side = bar.rest, bar.rest[SIDE, i]
    worst, best = (low, high) if side > 0.0 else (-high, -low)
    stop, kind = stop_of(rest, bar.rules, i)
    if stop == np.inf:  # goes on at the opens
        return np.nan, 0
    if worst <= stop:
        return min(stop, side * start), kind
    if begun:
        return np.nan, 0
    target = target_of(rest, bar.rules, i)
    if rest[DISTANCE, i] > 0.0:
        trailed = max(side * rest[BEST, i], min(best, target)) - rest[DISTANCE, i]
        trailed = away(trailed, bar.rules, i, side, -side)
        if worst <= trailed:
            return trailed, TRAILING_STOP
    return (max(target, side * start), TAKE_PROFIT) if best > target else (np.nan, 0)


@inlined
def _stops_mark(bar: Bar, i: int, price: float, opens: Floats) -> None:
    """The mark of a position goes no further the way that harms it, in proportion, than the market does to a price."""
    desk, mark, start = bar.desk, bar.book[i, MARK], opens[i]
    if desk[BEGUN, i] > 0.0:
        start = desk[BEGUN, i]
    elif desk[MARKED, i] != 0.0:
        mark = desk[MARKED, i]
    if bar.book[i, QUANTITY] > 0.0:
        desk[LOWS, i] = max(desk[LOWS, i], mark * min(price / start, 1.0))
    else:
        desk[HIGHS, i] = min(desk[HIGHS, i], mark * max(price / start, 1.0))


@compiled
def _leave(
    bar: Bar, opens: Floats, lows: Floats, highs: Floats, mark_lows: Floats, mark_highs: Floats, again: bool
) -> bool:
    """Liquidation up to the stops, then stops and targets: whether there were any. `again` only of what had waited."""
    rest, desk = bar.rest, bar.desk
    _copy(mark_lows, desk[LOWS])
    _copy(mark_highs, desk[HIGHS])
    for i in range(len(opens)):
        side = rest[SIDE, i]
        if bar.book[i, QUANTITY] * side > 0.0 and opens[i] > 0.0 and not (again and desk[WAITS, i] == 0.0):
            stop, _ = stop_of(rest, bar.rules, i)
            worst = lows[i] if side > 0.0 else -highs[i]
            if stop < np.inf and worst <= stop:  # it is closed on the way
                _stops_mark(bar, i, side * stop, opens)
    _margin_called(bar, desk[LOWS], desk[HIGHS])
    fired = False
    for i in range(len(opens)):
        side = rest[SIDE, i]
        if not (bar.book[i, QUANTITY] * side > 0.0 and opens[i] > 0.0) or (again and desk[WAITS, i] == 0.0):
            continue
        begun = desk[BEGUN, i] > 0.0
        out, kind = _out(bar, i, desk[BEGUN, i] if begun else opens[i], begun, lows[i], highs[i])
        if not np.isnan(out):
            # a target that the market was beyond when it was set is a market order
            maker = kind == TAKE_PROFIT and out <= target_of(rest, bar.rules, i)
            _close(bar, i, kind, side * out, maker, opens)
            fired = True
    return fired


@compiled
def _called_before(bar: Bar, opens: Floats, mark_lows: Floats, mark_highs: Floats) -> None:
    """The margin call before the entries that come now: marks go as far as they may have gone until then."""
    rest, desk = bar.rest, bar.desk
    _copy(mark_lows, desk[LOWS])
    _copy(mark_highs, desk[HIGHS])
    for i in range(len(opens)):
        if bar.book[i, QUANTITY] == 0.0 or not opens[i] > 0.0:
            continue
        held, furthest = np.sign(bar.book[i, QUANTITY]), -np.inf
        if bar.book[i, QUANTITY] * rest[SIDE, i] > 0.0:
            stop, _ = stop_of(rest, bar.rules, i)
            furthest = stop if stop < np.inf else -np.inf
        if desk[WAITS, i] > 1.0:
            level, ahead = held * rest[ENTRY_LEVEL, i], held * opens[i]
            if level < ahead:
                furthest = max(furthest, level)
            elif rest[ENTRY_KIND, i] != LIMIT:
                furthest = ahead
        if furthest > -np.inf:
            _stops_mark(bar, i, held * furthest, opens)
    _margin_called(bar, desk[LOWS], desk[HIGHS])


@compiled
def through(  # noqa: C901, PLR0912 - as `reached_at_open`
    bar: Bar, opens: Floats, lows: Floats, highs: Floats, closes: Floats, marks: Floats, mark_lows: Floats,
    mark_highs: Floats,
) -> None:  # fmt: skip
    """The way through a bar with something that rests; `marks` are those at its open."""
    rest, desk, some, now = bar.rest, bar.desk, False, False
    desk[MARKED] = 0.0
    desk[BEGUN] = 0.0
    desk[WAITS] = 0.0
    for i in range(len(opens)):
        quantity, level, side = rest[ENTRY, i], rest[ENTRY_LEVEL, i], rest[SIDE, i]
        held = bar.book[i, QUANTITY] * side > 0.0
        if held and side * opens[i] > side * rest[BEST, i]:
            rest[BEST, i] = opens[i]
        if quantity == 0.0 or not opens[i] > 0.0 or np.isinf(level):
            continue
        if rest[ENTRY_KIND, i] == LIMIT:
            reached = lows[i] < level if quantity > 0.0 else highs[i] > level
        else:
            reached = highs[i] >= level if quantity > 0.0 else lows[i] <= level
        if not reached:
            continue
        if held:
            out, _ = _out(bar, i, opens[i], False, lows[i], highs[i])
            if not np.isnan(out) and _after(bar, i, out):
                desk[WAITS, i], some = 1.0, True
                continue
        desk[WAITS, i], now = 2.0, True
    if now:
        _called_before(bar, opens, mark_lows, mark_highs)
        for i in range(len(opens)):
            if desk[WAITS, i] > 1.0:
                desk[WAITS, i] = 0.0
                _enter(bar, i, rest[ENTRY_LEVEL, i], opens, marks, True)
    fired = _leave(bar, opens, lows, highs, mark_lows, mark_highs, False)
    if some:
        for i in range(len(opens)):
            if desk[WAITS, i] != 0.0:
                _enter(bar, i, rest[ENTRY_LEVEL, i], opens, marks, True)
        fired = _leave(bar, opens, lows, highs, mark_lows, mark_highs, True) or fired
    if fired:  # what could not be closed goes all the way
        _margin_called(bar, mark_lows, mark_highs)
    for i in range(len(opens)):
        if desk[MARKED, i] != 0.0 and bar.book[i, QUANTITY] != 0.0:
            mark_one(bar.book, i, desk[MARKED, i])
    for i in range(len(opens)):
        side = rest[SIDE, i]
        if side != 0.0 and opens[i] > 0.0:
            best = closes[i] if desk[BEGUN, i] > 0.0 else (highs[i] if side > 0.0 else lows[i])
            if side * best > side * rest[BEST, i]:
                rest[BEST, i] = best


@pasted
def through_inner(bar: Bar, inner: Floats, each: int) -> None:
    """The way through the `each` finer bars of a bar, one after another by the same rules and marked at each close."""
    marks, first = len(inner) - INNER_ROWS, bar.t * each
    for row in range(first, first + each):
        opens, lows, highs, closes = inner[OPEN, row], inner[LOW, row], inner[HIGH, row], inner[CLOSE, row]
        at, mark_lows, mark_highs = inner[marks + OPEN, row], inner[marks + LOW, row], inner[marks + HIGH, row]
        if row > first:
            mark_all(bar.book, bar.room[: positions(bar.book, bar.room)], at)
            _margin_called(bar, at, at)
        if bar.ends[RESTS]:
            if row > first:
                reached_at_open(bar, opens)
                mark_all(bar.book, bar.room[: positions(bar.book, bar.room)], at)
            through(bar, opens, lows, highs, closes, at, mark_lows, mark_highs)
        else:
            _margin_called(bar, mark_lows, mark_highs)
        mark_all(bar.book, bar.room[: positions(bar.book, bar.room)], inner[marks + CLOSE, row])
