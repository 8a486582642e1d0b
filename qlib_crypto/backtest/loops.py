"""Bars one after another in compiled code: target weights, or the orders of TopkDropout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.account import ALL, CASH, PRICE, QUANTITY, Floats, Ints, index, positions
from qlib_crypto.backtest.bar import dated, run_bar
from qlib_crypto.backtest.compiled import compiled, inlined, pasted
from qlib_crypto.backtest.dropout import Dropout, age, buys_of, choose, sells_of
from qlib_crypto.backtest.entries import PLAN_LIMIT, PLAN_LOSS, PLAN_PROFIT, PLAN_STOP, PLAN_TRAIL
from qlib_crypto.backtest.layout import (
    AS_TAKER,
    EQUITY,
    FEE_OF_FILL,
    FILLS,
    GROSS,
    LATER,
    MAKER,
    RATIO,
    TAKER,
    USED,
    VOID,
)
from qlib_crypto.backtest.market import CLOSE, LEAST_LEVERAGE, OPEN, VOLUME, Market
from qlib_crypto.backtest.notes import LIMIT, MARKET, STOP
from qlib_crypto.backtest.resting import KIND, LEVEL, LOSS, PROFIT, TRAIL, UNTIL
from qlib_crypto.backtest.running import Running
from qlib_crypto.backtest.trading import market_orders, take_stock


@inlined
def _orders_to(
    book: Floats, opens: Floats, weights: Floats, money: float, columns: Ints, wanted: Floats, room: Ints, later: Floats
) -> tuple[int, int]:
    """From what is held to the weights of `money`: how many orders shrink a position, and how many others follow.

    `room` and `later` have the shape of the columns.
    """
    some = 0
    for i in range(len(weights)):
        room[some] = i
        some += (weights[i] != 0.0) | (book[i, QUANTITY] != 0.0)
    count, grow = 0, 0
    for column in room[:some]:
        i = index(column)
        weight, held, price = weights[i], book[i, QUANTITY], opens[i]
        if not price > 0.0:
            continue
        target = 0.0 if np.isnan(weight) else weight * money / price
        order = target - held
        shrinks = (abs(target) <= abs(held)) & (held * target >= 0.0)
        columns[index(count)], wanted[index(count)] = column, order
        room[index(grow)], later[index(grow)] = column, order
        count += (order != 0.0) & shrinks
        grow += (order != 0.0) & (not shrinks)
    for at in range(grow):
        columns[count + at], wanted[count + at] = room[at], later[at]
    return count, grow


@compiled
def _as_planned(
    plan: Floats, until: int, t: int, opens: Floats, columns: Ints, wanted: Floats, first: int, orders: Floats
) -> None:
    """What orders say beside their quantity: the first ones nothing, those from `first` on what the plan says.

    `plan` has the rows of `PLAN`, shape (5, bars, n).
    """
    for at in range(len(columns)):
        for part in range(orders.shape[1]):
            orders[at, part] = 0.0
        orders[at, KIND] = MARKET
        if at < first:
            continue
        i, side = columns[at], np.sign(wanted[at])
        price = opens[i]
        if plan[PLAN_LIMIT, t, i] > 0.0:
            price *= 1.0 - side * plan[PLAN_LIMIT, t, i]
            orders[at, KIND] = LIMIT
        elif plan[PLAN_STOP, t, i] > 0.0:
            price *= 1.0 + side * plan[PLAN_STOP, t, i]
            orders[at, KIND] = STOP
        orders[at, LEVEL], orders[at, UNTIL] = price, until
        if plan[PLAN_LOSS, t, i] > 0.0:
            orders[at, LOSS] = price * (1.0 - side * plan[PLAN_LOSS, t, i])
        if plan[PLAN_PROFIT, t, i] > 0.0:
            orders[at, PROFIT] = price * (1.0 + side * plan[PLAN_PROFIT, t, i])
        if plan[PLAN_TRAIL, t, i] > 0.0:
            orders[at, TRAIL] = price * plan[PLAN_TRAIL, t, i]


@pasted
def step(running: Running, t: int, columns: Ints, wanted: Floats, orders: Floats, notes: Ints) -> int:
    """`run_bar`, and its row of the curve."""
    book, sums, fills, ends, curve = running.book, running.sums, running.fills, running.ends, running.curve
    before, filled = running.before, ends[FILLS]
    missing = run_bar(running, t, columns, wanted, orders, notes)
    if missing >= 0:
        return missing
    curve[t, 0] = sums[EQUITY]
    curve[t, 1] = book[ALL, CASH]
    curve[t, 2] = sums[GROSS]
    curve[t, 3] = sums[EQUITY] - book[ALL, CASH]
    traded = 0.0
    for at in range(filled, ends[FILLS]):
        traded += abs(fills[at, 2]) * fills[at, 3]
    curve[t, 4] = traded
    curve[t, 10] = sums[RATIO]
    for cause in range(5):
        now = book[ALL, PRICE + cause]
        curve[t, 5 + cause] = now - before[cause]
        before[cause] = now
    return -1


@compiled
def run_one(running: Running, t: int, columns: Ints, wanted: Floats, orders: Floats, notes: Ints) -> int:
    """As `step`, for callers that are not compiled."""
    return step(running, t, columns, wanted, orders, notes)


@compiled
def run(
    running: Running, weights: Floats, rebalance: NDArray[np.bool_], plan: Floats, until: Ints, first: int, stop: int,
    columns: Ints, wanted: Floats, orders: Floats, notes: Ints,
) -> tuple[int, int]:  # fmt: skip
    """Bars [first, stop): the bar that was not done, and the column whose funding is missing there, or -1.

    `plan` and `until`, the last bar in which the entries of a bar rest, are empty when all orders are market orders.
    """
    book, market, desk, sums = running.book, running.market, running.desk, running.sums
    n, planned = book.shape[0] - 1, len(until) > 0
    for t in range(first, stop):
        if running.ends[FILLS] + 8 * n > len(running.fills):
            return t, -1
        count = 0
        if rebalance[t]:
            opens = market.prices[OPEN, t]
            shrink, grow = _orders_to(
                book, opens, weights[t], max(sums[EQUITY], 0.0), columns, wanted, notes, desk[LATER]
            )
            count = shrink + grow
            if planned:
                _as_planned(plan, until[t], t, opens, columns[:count], wanted, shrink, orders)
        notes[:count] = 0
        missing = step(running, t, columns[:count], wanted[:count], orders[: count if planned else 0], notes[:count])
        if missing >= 0:
            return t, missing
    return stop, -1


@compiled
def run_dropout(  # noqa: C901 - one loop, as `market_orders`
    running: Running, scores: Floats, rules: Dropout, first: int, stop: int, columns: Ints, wanted: Floats,
    orders: Floats, notes: Ints, choice: Ints, copy: Floats, tried: Floats, tried_ends: Ints, tried_wanted: Floats,
) -> tuple[int, int]:  # fmt: skip
    """As `run`, for the orders of Qlib's TopkDropout; `copy` to `tried_wanted` are for what its sales would bring."""
    book, market = running.book, running.market
    n = book.shape[0] - 1
    for t in range(first, stop):
        if running.ends[FILLS] + 8 * n > len(running.fills):
            return t, -1
        count, row, opens, closes = 0, scores[t], market.prices[OPEN, t], market.prices[CLOSE, t]
        scored = False
        for i in range(n):
            scored = scored or not np.isnan(row[i])
        if scored:
            buys = choose(book, row, rules, choice)
            count = sells_of(book, closes, rules, choice, columns, wanted)
            cash = book[ALL, CASH]
            if count:
                for i in range(n + 1):
                    for part in range(book.shape[1]):
                        copy[i, part] = book[i, part]
                for at in range(count):
                    tried_wanted[at] = wanted[at]
                notes[:count] = 0
                tried_ends[:] = 0
                try_orders(
                    copy, market, running.terms, running.fees, running.desk, running.sums, tried, tried_ends, t,
                    columns[:count], tried_wanted[:count], notes[:count], running.room,
                )  # fmt: skip
                for at in range(tried_ends[FILLS]):
                    cash += abs(tried[at, 2]) * tried[at, 3] - tried[at, FEE_OF_FILL]
            if buys:
                count = buys_of(opens, closes, cash, buys, rules, choice, columns, wanted, count)
        notes[:count] = 0
        missing = step(running, t, columns[:count], wanted[:count], orders, notes[:count])
        if missing >= 0:
            return t, missing
        age(book, choice)
    return stop, -1


@compiled
def try_orders(
    book: Floats, market: Market, terms: Floats, fees: Floats, desk: Floats, sums: Floats, fills: Floats, ends: Ints,
    t: int, columns: Ints, wanted: Floats, notes: Ints, room: Ints,
) -> None:  # fmt: skip
    """Market orders at the open of bar t on an account that is changed by them, and by nothing else of the bar."""
    tiers_at, opens = dated(market.tiers_since, t), market.prices[OPEN, t]
    tiers, by_quantity = market.tiers[tiers_at], market.by_quantity[tiers_at]
    rules = market.rules[dated(market.rules_since, t)]
    desk[VOID] = 0.0
    desk[USED] = 0.0
    take_stock(book, room[: positions(book, room)], sums, opens)
    market_orders(
        book, tiers, by_quantity, rules, terms, fees[TAKER, t] if terms[AS_TAKER] != 0.0 else fees[MAKER, t],
        market.slips, MARKET, False, desk, sums, fills, ends, t, columns, wanted, notes, opens,
        market.prices[VOLUME, t], market.unknown[t], market.bounds[tiers_at, LEAST_LEVERAGE],
    )  # fmt: skip
