"""The risk limits that close an account: a day's loss, a drawdown. Compiled.

Both are seen at a bar's close and closed at the next open, in a bar in which nothing is opened. After a day's loss that
goes on until the next UTC day, after a drawdown for as long as was agreed; then the highest equity counts from there.
"""

from __future__ import annotations

import numpy as np

from qlib_crypto.backtest.account import QUANTITY, Floats, Ints, trade
from qlib_crypto.backtest.admission import sized
from qlib_crypto.backtest.compiled import compiled
from qlib_crypto.backtest.layout import (
    CLOSING,
    DAILY_LOSS,
    DAY,
    DAY_EQUITY,
    DRAWDOWN,
    EQUITY,
    GOES_ON,
    HALTED_DAY,
    HIGHEST,
    PARTICIPATION,
    PAUSE,
    USED,
)
from qlib_crypto.backtest.market import LOT, MIN_BASE, MIN_NOTIONAL, TICK
from qlib_crypto.backtest.notes import CLOSED_DAY, CLOSED_DRAWDOWN, RISK_LIMIT, WHOLE
from qlib_crypto.backtest.trading import left_of_volume, log, slip_of, slipped

#: In place of why everything is closed: it is, and nothing is opened until the bar is over.
_CLOSED = -1.0


@compiled
def close_all(
    book: Floats, entries: Floats, held: Ints, opens: Floats, volumes: Floats, rules: Floats, terms: Floats,
    slips: Floats, taker: float, fills: Floats, ends: Ints, desk: Floats, sums: Floats, t: int,
) -> None:  # fmt: skip
    """Everything that has a price is closed at the open, `entries` rest no more; what is left is tried again."""
    left = 0
    for i in range(len(entries)):
        entries[i] = 0.0
    for i in held:
        quantity, reference = book[i, QUANTITY], opens[i]
        if quantity == 0.0:
            continue
        if terms[PARTICIPATION] < np.inf:
            most = left_of_volume(terms[PARTICIPATION], volumes[i], desk[USED, i])
            if not abs(quantity) <= most:
                part = -np.copysign(most, quantity) if most > 0.0 and reference > 0.0 else 0.0
                part, _ = sized(
                    part, WHOLE, quantity, reference, rules[LOT, i], rules[MIN_BASE, i], rules[MIN_NOTIONAL, i]
                )
                quantity = -part
                left += 1
        if quantity == 0.0 or not reference > 0.0:
            left += quantity != 0.0
            continue
        slip = slip_of(terms, slips, t, i, quantity, reference)
        price = slipped(reference, -quantity, slip, rules[TICK, i])
        fee, realised = trade(book, i, -quantity, price, reference, taker, 0.0)
        after = book[i, QUANTITY]
        log(fills, ends, t, i, -quantity, price, reference, fee, realised, int(sums[CLOSING]), after, RISK_LIMIT)
        desk[USED, i] += abs(quantity)
    if left == 0:
        sums[CLOSING] = _CLOSED


@compiled
def new_day(sums: Floats, day: int) -> None:
    """At the open of a bar: what was there at the last marks is what a new UTC day begins with."""
    if sums[DAY] != day:
        sums[DAY], sums[DAY_EQUITY] = day, sums[EQUITY]


@compiled
def watch(terms: Floats, sums: Floats, t: int) -> None:
    """After a bar: what its close means for the next ones."""
    sums[CLOSING] = max(sums[CLOSING], 0.0)
    if sums[EQUITY] > sums[HIGHEST] or t + 1 == sums[GOES_ON]:
        sums[HIGHEST] = sums[EQUITY]
    if sums[CLOSING] != 0.0 or t + 1 < sums[GOES_ON]:
        return
    if sums[HIGHEST] - sums[EQUITY] > terms[DRAWDOWN] * sums[HIGHEST]:
        sums[CLOSING], sums[GOES_ON] = CLOSED_DRAWDOWN, t + 2 + terms[PAUSE]
    elif sums[DAY] != sums[HALTED_DAY] and sums[DAY_EQUITY] - sums[EQUITY] > terms[DAILY_LOSS] * sums[DAY_EQUITY]:
        sums[CLOSING], sums[HALTED_DAY] = CLOSED_DAY, sums[DAY]
