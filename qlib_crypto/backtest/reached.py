"""What is done when the market reaches the price of something that rests, and what a bar's open reaches. Compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qlib_crypto.backtest.account import MARK, QUANTITY, Floats, Ints, mark_one, positions
from qlib_crypto.backtest.compiled import compiled, inlined
from qlib_crypto.backtest.layout import (
    AT,
    BEGUN,
    COOL_DOWN,
    EXTREME,
    ISOLATED,
    LATER,
    MARKED,
    MAX_LEVERAGE,
    OPENS_AGAIN,
    REACHED,
    REACHED_NOTE,
    WAITS,
    Bits,
)
from qlib_crypto.backtest.margin_calls import margin_call, on_the_way
from qlib_crypto.backtest.market import LEAST_LEVERAGE, Flags
from qlib_crypto.backtest.notes import CLIPPED_VOLUME, LIMIT, OF_WORDS, STOP_LOSS, TAKE_PROFIT, VOLUME
from qlib_crypto.backtest.resting import (
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
    left_of,
    protect,
    stop_of,
    target_of,
)
from qlib_crypto.backtest.trading import market_orders, take_stock


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
def copy(row: Floats, to: Floats) -> None:
    """Each value, without an array in between."""
    for i in range(len(row)):
        to[i] = row[i]


@compiled
def margin_called(bar: Bar, lows: Floats, highs: Floats) -> None:
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
    copy(opens, bar.desk[AT])
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
def enter(bar: Bar, i: int, price: float, opens: Floats, marks: Floats, inside: bool) -> None:
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
def close(bar: Bar, i: int, kind: int, price: float, maker: bool, opens: Floats) -> None:
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
def after(bar: Bar, i: int, out: float) -> bool:
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
            if not np.isnan(out) and after(bar, i, out):
                desk[WAITS, i], some = 1.0, True
            else:
                enter(bar, i, level if limit else price, opens, opens, False)
    for i in range(len(opens)):
        if desk[BEGUN, i] == 0.0:  # what was opened just now goes its way inside the bar
            out, kind = _out_at_open(bar, i, opens[i])
            if not np.isnan(out):
                close(bar, i, kind, rest[SIDE, i] * out, kind == TAKE_PROFIT, opens)
    if some:
        for i in range(len(opens)):
            if desk[WAITS, i] != 0.0:
                level = rest[ENTRY_LEVEL, i] if rest[ENTRY_KIND, i] == LIMIT else opens[i]
                enter(bar, i, level, opens, opens, False)
