"""Orders that rest until their price is reached: entries, and what protects a position. Compiled.

`inside` says when that is. A side is 1 for long and -1 for short; prices times the side are `signed`: a position is
harmed by what is lower.
"""

from __future__ import annotations

import numpy as np

from qlib_crypto.backtest.account import MARK, QUANTITY, Floats, Ints
from qlib_crypto.backtest.admission import worse_tick
from qlib_crypto.backtest.compiled import compiled, inlined
from qlib_crypto.backtest.layout import BEFORE, FILL, FILLS, NOW, RESTS, VOID
from qlib_crypto.backtest.market import TICK
from qlib_crypto.backtest.notes import CLIPPED_GONE, EXPIRED, GONE, LIMIT, MARKET, RESTING, STOP_LOSS, TRAILING_STOP

#: Columns of orders that are more than market orders, shape (k, 6): one of `notes.MARKET`, `LIMIT`, `STOP`; its price;
#: the last bar in which it rests; for a position that it opens: the price of its stop, of its target, and how far a
#: stop trails behind the best price. 0 is none.
KIND, LEVEL, UNTIL, LOSS, PROFIT, TRAIL = range(6)
ORDER_COLUMNS = TRAIL + 1
#: Rows of what rests, shape (13, n): a signed entry (base coins) with kind, price, last bar, what was held when it was
#: given, and what its position gets; then the side that is protected, its stop, target, distance of a trailing stop,
#: and the best price since. A stop at infinity on the position's good side was reached and is not done yet.
(
    ENTRY, ENTRY_KIND, ENTRY_LEVEL, ENTRY_UNTIL, ENTRY_HELD, NEXT_LOSS, NEXT_PROFIT, NEXT_TRAIL,
    SIDE, STOP_AT, TARGET_AT, DISTANCE, BEST,
) = range(13)  # fmt: skip
RESTING_ROWS = BEST + 1
COLUMN, FILLED, AFTER = FILL.index("column"), FILL.index("quantity"), FILL.index("after")


@compiled
def protect(rest: Floats, i: int, side: float, loss: float, profit: float, trail: float, price: float) -> None:
    """Protect the position of a column, which was opened at a price."""
    rest[SIDE, i] = side if loss > 0.0 or profit > 0.0 or trail > 0.0 else 0.0
    rest[STOP_AT, i], rest[TARGET_AT, i], rest[DISTANCE, i] = loss, profit, trail
    rest[BEST, i] = price


@compiled
def stop_of(rest: Floats, rules: Floats, i: int) -> tuple[float, int]:
    """The signed price at which a protected position is closed, -inf without one, and by what; on its tick."""
    side, at, kind = rest[SIDE, i], -np.inf, STOP_LOSS
    if rest[STOP_AT, i] != 0.0:
        at = side * rest[STOP_AT, i]
    if rest[DISTANCE, i] != 0.0:
        trailed = side * rest[BEST, i] - rest[DISTANCE, i]
        if trailed > at:
            at, kind = trailed, TRAILING_STOP
    return away(at, rules, i, side, -side), kind


@compiled
def target_of(rest: Floats, rules: Floats, i: int) -> float:
    """The signed price of a protected position's target, inf without one; on its tick."""
    side = rest[SIDE, i]
    return away(side * rest[TARGET_AT, i], rules, i, side, side) if rest[TARGET_AT, i] > 0.0 else np.inf


@inlined
def away(signed: float, rules: Floats, i: int, side: float, towards: float) -> float:
    """A signed price on its tick, no nearer to the market; 0 and less, where no price is, stay."""
    price = side * signed
    return side * worse_tick(price, rules[TICK, i], towards) if 0.0 < price < np.inf else signed


@inlined
def left_of(wanted: float, before: float, now: float) -> float:
    """What is left of an order that was given while `before` was held, when `now` is: it closes no more than there is.

    What it opens beyond that stays, and so does what it adds.
    """
    if before == now or before * wanted >= 0.0:
        return wanted
    closing = np.copysign(min(abs(wanted), abs(before)), wanted)
    left = min(abs(closing), abs(now)) if before * now > 0.0 else 0.0
    return (wanted - closing) + np.copysign(left, wanted)


@compiled
def cut_to_what_is_left(book: Floats, columns: Ints, wanted: Floats, notes: Ints, desk: Floats) -> None:
    """Orders that were given with `desk[BEFORE]` held, now that something of it may be closed."""
    for i in columns:
        desk[NOW, i] = book[i, QUANTITY]
    for at in range(len(columns)):
        i, order = columns[at], wanted[at]
        left = left_of(order, desk[BEFORE, i], desk[NOW, i])
        if left != order:
            wanted[at], notes[at] = left, GONE if left == 0.0 else CLIPPED_GONE
        desk[BEFORE, i] += order
        desk[NOW, i] += left


@compiled
def place(
    book: Floats, rest: Floats, orders: Floats, columns: Ints, wanted: Floats, notes: Ints, opens: Floats,
    rules: Floats, unknown_some: bool, desk: Floats, ends: Ints,
) -> None:  # fmt: skip
    """Let rest what the market is not at: what is to be executed now stays in `wanted`.

    One of quantity 0 moves what protects the position.
    """
    for at in range(len(columns)):
        i = columns[at]
        quantity, held = wanted[at], book[i, QUANTITY]
        desk[BEFORE, i] = held
        if len(orders) == 0 or (unknown_some and desk[VOID, i] != 0.0):
            continue
        order = orders[at]
        if quantity == 0.0:
            if held != 0.0 and notes[at] != GONE:
                price = opens[i] if opens[i] > 0.0 else book[i, MARK]
                protect(rest, i, np.sign(held), order[LOSS], order[PROFIT], order[TRAIL], price)
                ends[RESTS] = 1
            continue
        if not opens[i] > 0.0:
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
        rest[ENTRY_UNTIL, i], rest[ENTRY_HELD, i] = order[UNTIL], held
        rest[NEXT_LOSS, i], rest[NEXT_PROFIT, i], rest[NEXT_TRAIL, i] = order[LOSS], order[PROFIT], order[TRAIL]
        wanted[at], notes[at], ends[RESTS] = 0.0, RESTING, 1


@compiled
def protect_opened(
    book: Floats, rest: Floats, orders: Floats, columns: Ints, desk: Floats, opens: Floats, ends: Ints, fills: Floats,
    first: int,
) -> None:  # fmt: skip
    """Give what protects it to each position that the orders opened; one that they changed keeps what it has.

    Their fills are those from row `first` on: what closed or turned a position took its protection with it.
    """
    for row in range(first, ends[FILLS]):
        after = fills[row, AFTER]
        if (after - fills[row, FILLED]) * after <= 0.0:
            rest[SIDE, int(fills[row, COLUMN])] = 0.0
    for at in range(len(columns)):
        i = columns[at]
        now = book[i, QUANTITY]
        if now != 0.0 and desk[BEFORE, i] * now <= 0.0:
            rest[SIDE, i] = 0.0
            if len(orders):
                protect(rest, i, np.sign(now), orders[at, LOSS], orders[at, PROFIT], orders[at, TRAIL], opens[i])
                ends[RESTS] = max(ends[RESTS], int(rest[SIDE, i] != 0.0))


@compiled
def tidy(book: Floats, rest: Floats, last: Ints, ends: Ints, counts: Ints, t: int) -> None:
    """After a bar: what is out of time is gone, and what protected a position that is."""
    some = 0
    for i in range(rest.shape[1]):
        if rest[ENTRY, i] != 0.0 and (rest[ENTRY_UNTIL, i] <= t or last[i] <= t):
            rest[ENTRY, i] = 0.0
            counts[EXPIRED] += 1
        if not book[i, QUANTITY] * rest[SIDE, i] > 0.0:
            rest[SIDE, i] = 0.0
        some += (rest[ENTRY, i] != 0.0) | (rest[SIDE, i] != 0.0)
    ends[RESTS] = some
