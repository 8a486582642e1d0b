"""What is reached inside a bar, of what rests. Compiled.

Nobody knows in which order a bar's prices came, so it is the one that harms most: a stop before a target, liquidation
where it lies before the stop. Of an entry and what closes the position before it (liquidation too), both reached: on
the same side of the open the nearer one comes first; on both sides a stop entry comes first, a limit after. What is
opened inside a bar can be stopped in it, but not reach its target. A limit is reached by a price beyond it, a stop by
its own price; what a bar opens beyond fills at the open (a stop) or at its limit.
"""

from __future__ import annotations

import numpy as np

from qlib_crypto.backtest.account import MARK, QUANTITY, Floats, mark_all, mark_one, positions
from qlib_crypto.backtest.compiled import compiled, inlined, pasted
from qlib_crypto.backtest.layout import BEGUN, HIGHS, LOWS, MARKED, RESTS, WAITS
from qlib_crypto.backtest.market import CLOSE, HIGH, INNER_ROWS, LOW, OPEN
from qlib_crypto.backtest.notes import LIMIT, TAKE_PROFIT, TRAILING_STOP
from qlib_crypto.backtest.reached import Bar, after, close, copy, enter, margin_called, reached_at_open
from qlib_crypto.backtest.resting import BEST, DISTANCE, ENTRY, ENTRY_KIND, ENTRY_LEVEL, SIDE, away, stop_of, target_of


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
    copy(mark_lows, desk[LOWS])
    copy(mark_highs, desk[HIGHS])
    for i in range(len(opens)):
        side = rest[SIDE, i]
        if bar.book[i, QUANTITY] * side > 0.0 and opens[i] > 0.0 and not (again and desk[WAITS, i] == 0.0):
            stop, _ = stop_of(rest, bar.rules, i)
            worst = lows[i] if side > 0.0 else -highs[i]
            if stop < np.inf and worst <= stop:  # it is closed on the way
                _stops_mark(bar, i, side * stop, opens)
    margin_called(bar, desk[LOWS], desk[HIGHS])
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
            close(bar, i, kind, side * out, maker, opens)
            fired = True
    return fired


@compiled
def _called_before(bar: Bar, opens: Floats, mark_lows: Floats, mark_highs: Floats) -> None:
    """The margin call before the entries that come now: marks go as far as they may have gone until then."""
    rest, desk = bar.rest, bar.desk
    copy(mark_lows, desk[LOWS])
    copy(mark_highs, desk[HIGHS])
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
    margin_called(bar, desk[LOWS], desk[HIGHS])


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
            if not np.isnan(out) and after(bar, i, out):
                desk[WAITS, i], some = 1.0, True
                continue
        desk[WAITS, i], now = 2.0, True
    if now:
        _called_before(bar, opens, mark_lows, mark_highs)
        for i in range(len(opens)):
            if desk[WAITS, i] > 1.0:
                desk[WAITS, i] = 0.0
                enter(bar, i, rest[ENTRY_LEVEL, i], opens, marks, True)
    fired = _leave(bar, opens, lows, highs, mark_lows, mark_highs, False)
    if some:
        for i in range(len(opens)):
            if desk[WAITS, i] != 0.0:
                enter(bar, i, rest[ENTRY_LEVEL, i], opens, marks, True)
        fired = _leave(bar, opens, lows, highs, mark_lows, mark_highs, True) or fired
    if fired:  # what could not be closed goes all the way
        margin_called(bar, mark_lows, mark_highs)
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
            margin_called(bar, at, at)
        if bar.ends[RESTS]:
            if row > first:
                reached_at_open(bar, opens)
                mark_all(bar.book, bar.room[: positions(bar.book, bar.room)], at)
            through(bar, opens, lows, highs, closes, at, mark_lows, mark_highs)
        else:
            margin_called(bar, mark_lows, mark_highs)
        mark_all(bar.book, bar.room[: positions(bar.book, bar.room)], inner[marks + CLOSE, row])
