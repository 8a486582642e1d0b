"""Binance USD-M REST and bulk files over a tape: `/fapi/v1/…`, `/futures/data/…`; the venue's weights, bans, errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from itertools import count
from math import ceil
from typing import Any

import numpy as np
import orjson
from aiohttp import web

from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox import awkward, binance_files, binance_stats
from qlib_crypto.sandbox.answers import Answer, retry_after, send, thinned
from qlib_crypto.sandbox.binance_query import (
    KLINES,
    MOST_KLINES,
    TROUBLES,
    BinanceError,
    Endpoint,
    Query,
    kline_weight,
    needed,
    page,
    too_much,
    weight_of,
)
from qlib_crypto.sandbox.binance_rows import (
    BARS,
    SETTLING_MS,
    BinanceKlines,
    funding_info_row,
    premium_row,
    settlement_row,
    symbol_row,
    ticker_row,
)
from qlib_crypto.sandbox.bulk import BulkHost
from qlib_crypto.sandbox.faults import Faults
from qlib_crypto.sandbox.limits import WEIGHT_PER_MINUTE, Verdict, Weights, Windows
from qlib_crypto.sandbox.market import Market, gone
from qlib_crypto.sandbox.series import chain, take
from qlib_crypto.sandbox.tape import Price
from qlib_crypto.sandbox.text import plain

FUNDING, NEWEST_FUNDING, MOST_FUNDING = 100, 200, 1_000

#: `/futures/data/…` has a limit of its own.
DATA_PER_5_MINUTES, FIVE_MINUTES_S = 1_000, 300.0

RowMaker = Callable[[Market, InstrumentSpec, int], dict[str, Any] | None]
Statistics = Callable[[Market, InstrumentSpec, Query, int], bytes]


class BinanceRest:
    """The REST side of the venue. `strange` adds the instruments of `awkward`."""

    def __init__(self, market: Market, faults: Faults, *, scale: float, ban_s: float, strange: bool) -> None:
        self._market = market
        self._faults = faults
        self._scale = scale
        self._strange = strange
        self._troubles = count()
        self._windows = Windows(scale)
        self._weights: defaultdict[str, Weights] = defaultdict(lambda: Weights(scale, ban_s=ban_s))
        #: Requests answered, and how many of them were refused as over the limit.
        self.requests = self.refused = 0

    def routes(self) -> list[web.RouteDef]:
        """Every endpoint with its weight."""
        endpoints = {
            "ping": Endpoint(lambda _: 1, lambda *_: b"{}"),
            "time": Endpoint(lambda _: 1, self._time),
            "exchangeInfo": Endpoint(lambda _: 1, self._exchange_info),
            "klines": Endpoint(kline_weight, partial(self._klines, Price.TRADED), pages=True),
            "markPriceKlines": Endpoint(kline_weight, partial(self._klines, Price.MARK), pages=True),
            "indexPriceKlines": Endpoint(kline_weight, partial(self._klines, Price.INDEX), pages=True),
            "fundingRate": Endpoint(lambda _: 0, self._settlements, funding=True, pages=True),
            "fundingInfo": Endpoint(lambda _: 0, self._funding_info, funding=True),
            "premiumIndex": Endpoint(lambda query: 1 if query.get("symbol") else 10, self._premium),
            "openInterest": Endpoint(lambda _: 1, self._open_interest),
            "ticker/24hr": Endpoint(lambda query: 1 if query.get("symbol") else 40, self._tickers),
        }
        statistics = {
            "openInterestHist": binance_stats.open_interest,
            "globalLongShortAccountRatio": binance_stats.long_short_ratio,
        }
        files = BulkHost(partial(binance_files.make, self._market), self._market.now, self._faults, summed=True)
        return [
            *(web.get(f"/fapi/v1/{path}", self._handler(path, endpoint)) for path, endpoint in endpoints.items()),
            *(
                web.get(f"/futures/data/{path}", self._handler(path, _data(self, of)))
                for path, of in statistics.items()
            ),
            web.get(f"{binance_files.ROOT}{{path:.+}}", files.handler()),
        ]

    def statistics(self, make: Statistics, query: Query, now: int) -> bytes:
        """The rows of a statistic of one symbol."""
        spec = self._spec(query, now)
        return make(self._market, spec, query, now) if spec else b"[]"

    def _handler(self, path: str, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests += 1
            now, gateway = self._market.now(), path in ("time", "ping")
            fault = None if gateway else self._faults.next_rest()
            if not gateway and self._market.outage(now):
                return TROUBLES[0].response()
            if fault == "error":
                return TROUBLES[next(self._troubles) % len(TROUBLES)].response()
            verdict = self._verdict(request, endpoint, fault)
            headers = {"X-MBX-USED-WEIGHT-1M": str(verdict.used)}
            if verdict.status != HTTPStatus.OK:
                self.refused += 1
                told = (
                    retry_after(self._faults) if fault == "rate_limit" else {"Retry-After": str(verdict.retry_after_s)}
                )
                return too_much(verdict, {**headers, **told}).response()
            try:
                data = endpoint.answer(request.query, now)
            except BinanceError as error:
                return error.answer(headers).response()
            if not endpoint.pages:
                return Answer(data, headers=headers).response()
            return await send(request, Answer(thinned(self._faults, data), headers=headers), self._faults)

        return handle

    def _verdict(self, request: web.Request, endpoint: Endpoint, fault: str | None) -> Verdict:
        if fault == "ban":
            return Verdict(HTTPStatus.IM_A_TEAPOT, WEIGHT_PER_MINUTE + 1, ceil(self._faults.lasts_s("ban")))
        if fault == "rate_limit":
            return Verdict(HTTPStatus.TOO_MANY_REQUESTS, WEIGHT_PER_MINUTE + 1, 0)
        if endpoint.data and not self._windows.take((str(request.remote),), DATA_PER_5_MINUTES, FIVE_MINUTES_S):
            return Verdict(HTTPStatus.TOO_MANY_REQUESTS, 0, int(FIVE_MINUTES_S))
        weight = weight_of(endpoint, request.query)
        return self._weights[str(request.remote)].take(weight, funding=endpoint.funding)

    def _time(self, _query: Query, now: int) -> bytes:
        return orjson.dumps({"serverTime": now})

    def _exchange_info(self, _query: Query, now: int) -> bytes:
        rows = [*self._market.coming(now), *self._settling(now), *self._market.trading(now)]
        specs = {spec.instrument.venue_id: spec for spec in rows}.values()  # one row a symbol, also of a reused one
        return orjson.dumps(
            {
                "timezone": "UTC",
                "serverTime": now,
                "futuresType": "U_MARGINED",
                "rateLimits": [
                    {
                        "rateLimitType": "REQUEST_WEIGHT",
                        "interval": "MINUTE",
                        "intervalNum": 1,
                        "limit": int(min(WEIGHT_PER_MINUTE * self._scale, 10**9)),
                    }
                ],
                "exchangeFilters": [],
                "assets": [],
                "symbols": [symbol_row(spec, now) for spec in specs]
                + (awkward.binance_symbols() if self._strange else []),
            }
        )

    def _settling(self, now: int) -> list[InstrumentSpec]:
        specs = self._market.tape.specs.values()
        return [spec for spec in specs if spec.delisted_ms and spec.delisted_ms <= now < spec.delisted_ms + SETTLING_MS]

    def _spec(self, query: Query, now: int, named: str = "symbol") -> InstrumentSpec | None:
        """The contract of `symbol`, also a delisted one; None for an awkward one, that has no bars."""
        symbol = needed(query, named)
        spec = self._market.find(symbol, now)
        if spec is None and not (self._strange and symbol in (*awkward.BINANCE_RATES, awkward.NON_ASCII)):
            raise BinanceError(-1121, "Invalid symbol.")
        return spec

    def _klines(self, price: Price, query: Query, now: int) -> bytes:
        """Rows oldest first, the open bar last; both times are inclusive and mean the open. An index has a `pair`."""
        spec = self._spec(query, now, "pair" if price is Price.INDEX else "symbol")
        grid = BARS.get(needed(query, "interval"))
        if grid is None:
            raise BinanceError(-1120, "Invalid interval.")
        limit, start, end = page(query, KLINES, MOST_KLINES)
        if spec is None:
            return b"[]"
        closed = self._market.closed(spec.instrument, grid, now, price)
        lo = int(np.searchsorted(closed.open_ms, start or 0))
        hi = len(closed.open_ms) if end is None else int(np.searchsorted(closed.open_ms, end, side="right"))
        rows = take(closed, slice(lo, min(hi, lo + limit)) if start is not None else slice(max(lo, hi - limit), hi))
        open_bar = self._market.open_bar(spec.instrument, grid, now, price)
        if any((start or 0) <= opened <= (now if end is None else end) for opened in open_bar.open_ms):
            rows = chain(rows, open_bar)
        rows = take(rows, slice(limit) if start is not None else slice(-limit, None))
        return f"[{','.join(BinanceKlines(grid.ms, traded=price is Price.TRADED).rows(rows))}]".encode()

    def _settlements(self, query: Query, now: int) -> bytes:
        """Rows oldest first: from `startTime`, or the newest when no start is given."""
        limit, start, end = page(query, FUNDING, MOST_FUNDING)
        if start is None and end is None and not query.get("limit"):
            limit = NEWEST_FUNDING
        if query.get("symbol"):
            spec = self._spec(query, now)
            rows = self._special(query["symbol"], now) if spec is None else self._rows(spec, now, start, end)
        else:
            rows = [row for spec in self._market.tape.specs.values() for row in self._rows(spec, now, start, end)]
            rows.sort(key=lambda row: (row["fundingTime"], row["symbol"]))
        return orjson.dumps(rows[-limit:] if start is None else rows[:limit])

    def _rows(self, spec: InstrumentSpec, now: int, start: int | None, end: int | None) -> list[dict[str, Any]]:
        settled = self._market.settled(spec.instrument, now)
        lo = int(np.searchsorted(settled.time_ms, start or 0))
        hi = len(settled.time_ms) if end is None else int(np.searchsorted(settled.time_ms, end, side="right"))
        columns = (settled.time_ms[lo:hi], settled.rate[lo:hi], settled.mark_price[lo:hi])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [settlement_row(spec.instrument.venue_id, *row) for row in rows]

    def _special(self, symbol: str, now: int) -> list[dict[str, Any]]:
        """A stock perpetual: a `Special` row (a dividend) at the time of a regular one."""
        if symbol not in awkward.BINANCE_RATES or "_" in symbol:
            return []
        settled = now - now % awkward.INTERVAL_MS
        return [
            settlement_row(symbol, settled, 0.0001, 100.0),
            settlement_row(symbol, settled, 0.0025, 100.0, "Special"),
        ]

    def _funding_info(self, _query: Query, now: int) -> bytes:
        rows = (funding_info_row(self._market, spec, now) for spec in self._market.trading(now))
        return orjson.dumps([row for row in rows if row])

    def _premium(self, query: Query, now: int) -> bytes:
        strange = awkward.binance_premium(now) if self._strange else []
        return self._one_or_all(query, now, premium_row, strange)

    def _tickers(self, query: Query, now: int) -> bytes:
        return self._one_or_all(query, now, ticker_row, [])

    def _one_or_all(self, query: Query, now: int, make: RowMaker, strange: list[dict[str, Any]]) -> bytes:
        if not query.get("symbol"):
            rows = (make(self._market, spec, now) for spec in self._market.trading(now))
            return orjson.dumps([*(row for row in rows if row), *strange])
        spec = self._spec(query, now)
        row = next((r for r in strange if r["symbol"] == query["symbol"]), None)
        if spec is not None and not gone(spec, now):
            row = make(self._market, spec, now)
        if row is None:
            raise BinanceError(-1122, "Invalid symbol status.")
        return orjson.dumps(row)

    def _open_interest(self, query: Query, now: int) -> bytes:
        """Open interest in coins, `""` where the tape has none."""
        spec = self._spec(query, now)
        coins = self._market.open_interest(spec.instrument, now) if spec else None
        text = "" if coins is None else plain(coins)
        return orjson.dumps({"openInterest": text, "symbol": query["symbol"], "time": now})


def _data(rest: BinanceRest, make: Statistics) -> Endpoint:
    return Endpoint(lambda _: 0, partial(rest.statistics, make), pages=True, data=True)
