"""OKX's statistics of 5 minutes and more: open interest and long/short ratio of accounts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import orjson
from numpy.typing import NDArray

from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.okx_query import Query, bounds, wrong
from qlib_crypto.sandbox.okx_rows import BARS
from qlib_crypto.sandbox.tape import HasFlow
from qlib_crypto.sandbox.text import plain
from qlib_crypto.schemas import PERIOD_MS

PAGE_ROWS = 100
#: Rows that can be reached, at any period: five days of 5 minutes.
NEWEST_ROWS = 1_440
_PERIODS = ("5m", "15m", "30m", "1H", "2H", "4H", "6H", "12H", "1D", "6Hutc", "12Hutc", "1Dutc")
_DECIMALS = 8


def open_interest(market: Market, spec: InstrumentSpec, query: Query, now: int) -> bytes:
    """`[ts, oi, oiCcy, oiUsd]` newest first, `oi` in the contracts of that time."""
    known = market.open_interest_series(spec.instrument)
    if known is None:
        return b"[]"
    sizes = market.contracts(spec.instrument, known.time_ms)

    def row(i: int) -> list[str]:
        coins, value = float(known.base[i]), float(known.quote[i])
        return [str(known.time_ms[i]), plain(round(coins / sizes[i], _DECIMALS)), plain(coins), plain(value)]

    return _page(known.time_ms, row, query, now)


def long_short_ratio(market: Market, spec: InstrumentSpec, query: Query, now: int) -> bytes:
    """`[ts, ratio]` newest first."""
    tape = market.tape
    if not isinstance(tape, HasFlow):
        return b"[]"
    known = tape.ratio_series(spec.instrument)
    return _page(known.time_ms, lambda i: [str(known.time_ms[i]), plain(float(known.ratio[i]))], query, now)


def _page(times: NDArray[np.int64], row: Callable[[int], list[str]], query: Query, now: int) -> bytes:
    """Rows with `begin` < ts < `end`, both exclusive, of the newest 1,440 of the period by `now`."""
    period = query.get("period") or "5m"
    if period not in _PERIODS:
        raise wrong("period")
    grid = BARS.get(period)
    length, offset = (grid.ms, grid.offset_ms) if grid else (PERIOD_MS, 0)
    newer, older, limit = bounds(query, "begin", "end", PAGE_ROWS, PAGE_ROWS)
    reached = np.flatnonzero((times <= now) & ((times - offset) % length == 0))[-NEWEST_ROWS:]
    chosen = reached[(times[reached] > newer) & (times[reached] < older)][::-1][:limit]
    return orjson.dumps([row(i) for i in chosen.tolist()])
