"""Binance USD-M REST over a tape: `/fapi/v1/...`, with the venue's weights, bans and errors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple

import numpy as np
import orjson
from aiohttp import web

from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox import awkward
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
from qlib_crypto.sandbox.faults import Faults
from qlib_crypto.sandbox.limits import WEIGHT_PER_MINUTE, Verdict, Weights
from qlib_crypto.sandbox.market import Market, gone
from qlib_crypto.sandbox.series import chain, take
from qlib_crypto.sandbox.text import plain

KLINES, MOST_KLINES = 500, 1_500
FUNDING, NEWEST_FUNDING, MOST_FUNDING = 100, 200, 1_000
#: Klines weigh more the longer the page: (rows below which, weight), and beyond.
_KLINE_WEIGHT = ((100, 1), (500, 2), (1_001, 5))
_LONG_PAGE_WEIGHT = 10

Query = Mapping[str, str]
RowMaker = Callable[[Market, InstrumentSpec, int], dict[str, Any] | None]


class BinanceError(Exception):
    """An error answer `{"code", "msg"}` with HTTP 400."""

    def __init__(self, code: int, msg: str) -> None:
        super().__init__(msg)
        self.code, self.msg = code, msg


class _Endpoint(NamedTuple):
    weight: Callable[[Query], int]
    answer: Callable[[Query, int], bytes]
    funding: bool = False


class BinanceRest:
    """The REST side of the venue. `strange` adds the instruments of `awkward`."""

    def __init__(self, market: Market, faults: Faults, *, scale: float, ban_s: float, strange: bool) -> None:
        self._market = market
        self._faults = faults
        self._scale = scale
        self._strange = strange
        self._weights: defaultdict[str, Weights] = defaultdict(lambda: Weights(scale, ban_s=ban_s))
        #: Requests answered, and how many of them were refused as over the limit.
        self.requests = self.refused = 0

    def routes(self) -> list[web.RouteDef]:
        """Every endpoint with its weight."""
        endpoints = {
            "ping": _Endpoint(lambda _: 1, lambda *_: b"{}"),
            "time": _Endpoint(lambda _: 1, self._time),
            "exchangeInfo": _Endpoint(lambda _: 1, self._exchange_info),
            "klines": _Endpoint(_kline_weight, partial(self._klines, mark=False)),
            "markPriceKlines": _Endpoint(_kline_weight, partial(self._klines, mark=True)),
            "fundingRate": _Endpoint(lambda _: 0, self._settlements, funding=True),
            "fundingInfo": _Endpoint(lambda _: 0, self._funding_info, funding=True),
            "premiumIndex": _Endpoint(lambda query: 1 if query.get("symbol") else 10, self._premium),
            "openInterest": _Endpoint(lambda _: 1, self._open_interest),
            "ticker/24hr": _Endpoint(lambda query: 1 if query.get("symbol") else 40, self._tickers),
        }
        return [web.get(f"/fapi/v1/{path}", self._handler(path, endpoint)) for path, endpoint in endpoints.items()]

    def _handler(self, path: str, endpoint: _Endpoint) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            self.requests += 1
            now, gateway = self._market.now(), path in ("time", "ping")
            fault = None if gateway else self._faults.next_rest()
            if not gateway and (self._market.outage(now) or fault == "error"):
                return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text="Service Unavailable")
            verdict = self._weights[str(request.remote)].take(
                _weight(endpoint, request.query), funding=endpoint.funding
            )
            if fault == "rate_limit":
                verdict = Verdict(HTTPStatus.TOO_MANY_REQUESTS, WEIGHT_PER_MINUTE + 1, 1)
            headers = {"X-MBX-USED-WEIGHT-1M": str(verdict.used)}
            if verdict.status != HTTPStatus.OK:
                self.refused += 1
                headers["Retry-After"] = str(verdict.retry_after_s)
                return _json(orjson.dumps({"code": -1003, "msg": _too_much(verdict)}), headers, verdict.status)
            try:
                return _json(endpoint.answer(request.query, now), headers)
            except BinanceError as error:
                body = orjson.dumps({"code": error.code, "msg": error.msg})
                return _json(body, headers, HTTPStatus.BAD_REQUEST)

        return handle

    def _time(self, _query: Query, now: int) -> bytes:
        return orjson.dumps({"serverTime": now})

    def _exchange_info(self, _query: Query, now: int) -> bytes:
        specs = [*self._market.trading(now), *self._market.coming(now), *self._settling(now)]
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

    def _spec(self, query: Query, now: int) -> InstrumentSpec | None:
        """The contract of `symbol`, also a delisted one; None for an awkward one, that has no bars."""
        symbol = _needed(query, "symbol")
        spec = self._market.find(symbol, now)
        if spec is None and not (self._strange and symbol in (*awkward.BINANCE_RATES, awkward.NON_ASCII)):
            raise BinanceError(-1121, "Invalid symbol.")
        return spec

    def _klines(self, query: Query, now: int, *, mark: bool) -> bytes:
        """Rows oldest first, the open bar last; both times are inclusive and mean the open."""
        spec = self._spec(query, now)
        grid = BARS.get(_needed(query, "interval"))
        if grid is None:
            raise BinanceError(-1120, "Invalid interval.")
        limit, start, end = _page(query, KLINES, MOST_KLINES)
        if spec is None:
            return b"[]"
        closed = self._market.closed(spec.instrument, grid, now)
        lo = int(np.searchsorted(closed.open_ms, start or 0))
        hi = len(closed.open_ms) if end is None else int(np.searchsorted(closed.open_ms, end, side="right"))
        page = take(closed, slice(lo, min(hi, lo + limit)) if start is not None else slice(max(lo, hi - limit), hi))
        open_bar = self._market.open_bar(spec.instrument, grid, now)
        if any((start or 0) <= opened <= (now if end is None else end) for opened in open_bar.open_ms):
            page = chain(page, open_bar)
        page = take(page, slice(limit) if start is not None else slice(-limit, None))
        return f"[{','.join(BinanceKlines(grid.ms, mark=mark).rows(page))}]".encode()

    def _settlements(self, query: Query, now: int) -> bytes:
        """Rows oldest first: from `startTime`, or the newest when no start is given."""
        limit, start, end = _page(query, FUNDING, MOST_FUNDING)
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


def _json(body: bytes, headers: Mapping[str, str], status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


def _too_much(verdict: Verdict) -> str:
    if verdict.status == HTTPStatus.TOO_MANY_REQUESTS:
        return "Too many requests; current limit of IP is 2400 requests per minute."
    return f"Way too many requests; IP banned for {verdict.retry_after_s} s. Please use the websocket."


def _weight(endpoint: _Endpoint, query: Query) -> int:
    """What a request weighs; one that is refused as wrong weighs as the lightest."""
    try:
        return endpoint.weight(query)
    except BinanceError:
        return 1


def _kline_weight(query: Query) -> int:
    limit = _page(query, KLINES, MOST_KLINES)[0]
    return next((weight for below, weight in _KLINE_WEIGHT if limit < below), _LONG_PAGE_WEIGHT)


def _needed(query: Query, name: str) -> str:
    if not query.get(name):
        raise BinanceError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return query[name]


def _page(query: Query, default: int, most: int) -> tuple[int, int | None, int | None]:
    """`limit`, `startTime` and `endTime` of a request."""
    limit, start, end = (_number(query, name) for name in ("limit", "startTime", "endTime"))
    limit = default if limit is None else limit
    if not 0 < limit <= most:
        raise BinanceError(-1130, "Data sent for parameter 'limit' is not valid.")
    if start is not None and end is not None and start > end:
        raise BinanceError(-1023, "Start time is greater than end time.")
    return limit, start, end


def _number(query: Query, name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise BinanceError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(text)
