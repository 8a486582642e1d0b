"""Qlib's TopkDropout as compiled code: what its `generate_trade_decision` orders, from scores and what is held.

As Qlib 0.9.7 does it, its slices too: a negative count drops from the end, and with `n_drop` 0 everything held is sold.
Equal scores, and held names without one, go by column; stock Qlib leaves them to an unstable sort and to the seed of
Python's hashes. `method_sell` is `bottom`, `method_buy` is `top`, `only_tradable` is false.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qlib_crypto.backtest.account import QUANTITY, Floats, Ints
from qlib_crypto.backtest.compiled import compiled


class Dropout(NamedTuple):
    """The keyword arguments of `TopkDropoutStrategy`."""

    topk: int
    n_drop: int
    hold_thresh: int = 1
    risk_degree: float = 0.95


#: Rows of the room that a decision works in, shape (6, n), whole numbers: names by score (kept from bar to bar), what
#: is held by score, the others by score, both together; 1 where something is sold, and bars held.
BY_SCORE, LAST, TODAY, TOGETHER, SOLD, BARS_HELD = range(6)


@compiled
def sort_by(scores: Floats, order: Ints) -> None:
    """Put columns in order of their scores, best first, unknown ones last; quick where they almost are."""
    for at in range(1, len(order)):
        i, back = order[at], at
        while back > 0 and _better(scores, i, order[back - 1]):
            order[back] = order[back - 1]
            back -= 1
        order[back] = i


@compiled
def _better(scores: Floats, i: int, j: int) -> bool:
    one, other = scores[i], scores[j]
    if np.isnan(one) or np.isnan(other):
        return not np.isnan(one) or (np.isnan(other) and i < j)
    return one > other or (one == other and i < j)


@compiled
def _stop(count: int, length: int) -> int:
    """Where a list of that length ends when it is cut at `count`, as Python does it."""
    return min(count, length) if count >= 0 else max(length + count, 0)


@compiled
def choose(book: Floats, scores: Floats, rules: Dropout, room: Ints) -> int:
    """What to buy: the first so many of `TODAY`; `SOLD` is what to sell, if it was held long enough."""
    order, last, today, together, sold = room[BY_SCORE], room[LAST], room[TODAY], room[TOGETHER], room[SOLD]
    sort_by(scores, order)
    held, others = 0, 0
    for i in order:
        if book[i, QUANTITY] != 0.0:
            last[held] = i
            held += 1
        elif not np.isnan(scores[i]):
            today[others] = i
            others += 1
    others = _stop(rules.n_drop + rules.topk - held, others)
    count, a, b = 0, 0, 0
    while a < held or b < others:
        if b >= others or (a < held and _better(scores, last[a], today[b])):
            together[count] = last[a]
            a += 1
        else:
            together[count] = today[b]
            b += 1
        count += 1
    sold[:] = 0
    sells = 0
    for at in range(max(count - rules.n_drop, 0) if rules.n_drop > 0 else min(-rules.n_drop, count), count):
        if book[together[at], QUANTITY] != 0.0:
            sold[together[at]] = 1
            sells += 1
    return _stop(sells + rules.topk - held, others)


@compiled
def sells_of(book: Floats, closes: Floats, rules: Dropout, room: Ints, columns: Ints, wanted: Floats) -> int:
    """The orders that close what was chosen, is traded in the bar and was held long enough: how many."""
    count = 0
    for i in range(len(closes)):
        if room[SOLD, i] and closes[i] > 0.0 and room[BARS_HELD, i] >= rules.hold_thresh:
            columns[count], wanted[count] = i, -book[i, QUANTITY]
            count += 1
    return count


@compiled
def buys_of(
    opens: Floats, closes: Floats, cash: float, buys: int, rules: Dropout, room: Ints, columns: Ints, wanted: Floats,
    count: int,
) -> int:  # fmt: skip
    """After `count` orders, those that spend `risk_degree` of the cash evenly on what is bought: how many then."""
    for at in range(buys):
        i = room[TODAY, at]
        if closes[i] > 0.0:
            columns[count], wanted[count] = i, cash * rules.risk_degree / buys / opens[i]
            count += 1
    return count


@compiled
def age(book: Floats, room: Ints) -> None:
    """One bar more for what is held, as Qlib counts it at the end of each."""
    for i in range(room.shape[1]):
        room[BARS_HELD, i] = room[BARS_HELD, i] + 1 if book[i, QUANTITY] != 0.0 else 0
