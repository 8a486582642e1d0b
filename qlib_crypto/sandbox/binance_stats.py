"""Binance's statistics of 5 minutes and more, `/futures/data/…`: open interest and long/short ratio of accounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.binance_query import BinanceError, Query, needed, page
from qlib_crypto.sandbox.binance_rows import BARS
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.tape import HasFlow
from qlib_crypto.sandbox.text import padded
from qlib_crypto.schemas import PERIOD_MS

DEFAULT_ROWS, MOST_ROWS = 30, 500
REACH_MS = 30 * DAY_MS
_PERIODS: Mapping[str, int] = {"5m": PERIOD_MS} | {
    name: BARS[name].ms for name in ("15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d")
}
_DECIMALS = 8


def open_interest(market: Market, spec: InstrumentSpec, query: Query, now: int) -> bytes:
    """Rows of openInterestHist, oldest first."""
    known = market.open_interest_series(spec.instrument)
    if known is None:
        return b"[]"

    def row(i: int) -> dict[str, Any]:
        return {
            "symbol": spec.instrument.venue_id,
            "sumOpenInterest": padded(float(known.base[i]), _DECIMALS),
            "sumOpenInterestValue": padded(float(known.quote[i]), _DECIMALS),
            "CMCCirculatingSupply": "",
            "timestamp": int(known.time_ms[i]),
        }

    return _page(known.time_ms, row, query, now)


def long_short_ratio(market: Market, spec: InstrumentSpec, query: Query, now: int) -> bytes:
    """Rows of globalLongShortAccountRatio, oldest first; everything in four decimals."""
    tape = market.tape
    if not isinstance(tape, HasFlow):
        return b"[]"
    known = tape.ratio_series(spec.instrument)

    def row(i: int) -> dict[str, Any]:
        ratio = float(known.ratio[i])
        return {
            "symbol": spec.instrument.venue_id,
            "longShortRatio": f"{ratio:.4f}",
            "longAccount": f"{ratio / (1 + ratio):.4f}",
            "shortAccount": f"{1 / (1 + ratio):.4f}",
            "timestamp": int(known.time_ms[i]),
        }

    return _page(known.time_ms, row, query, now)


def _page(times: NDArray[np.int64], row: Callable[[int], dict[str, Any]], query: Query, now: int) -> bytes:
    """Rows of the last 30 days with `startTime` <= timestamp <= `endTime`; the newest when there is no start."""
    length = _PERIODS.get(needed(query, "period"))
    if length is None:
        raise BinanceError(-1130, "Data sent for parameter 'period' is not valid.")
    limit, start, end = page(query, DEFAULT_ROWS, MOST_ROWS)
    if start is not None and start < now - REACH_MS:
        raise BinanceError(-1130, "parameter 'startTime' is invalid.")
    first = now - REACH_MS if start is None else start
    last = now if end is None else min(end, now)
    chosen = np.flatnonzero((times >= first) & (times <= last) & (times % length == 0))
    chosen = chosen[:limit] if start is not None else chosen[-limit:]
    return orjson.dumps([row(i) for i in chosen.tolist()])
