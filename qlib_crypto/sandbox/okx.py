"""OKX v5 REST over a tape: `/api/v5/public/...` and `/api/v5/market/...`, with the venue's paging and errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from itertools import count
from typing import NamedTuple

import numpy as np
import orjson
from aiohttp import web

from qlib_crypto.clock import DAY_MS
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox import awkward
from qlib_crypto.sandbox.faults import Faults
from qlib_crypto.sandbox.limits import Windows
from qlib_crypto.sandbox.market import Market, gone
from qlib_crypto.sandbox.okx_rows import (
    BARS,
    OkxCandles,
    OkxMarkCandles,
    funding_row,
    mark_row,
    open_interest_row,
    preopen_row,
    spec_row,
    ticker_row,
)
from qlib_crypto.sandbox.series import take
from qlib_crypto.sandbox.text import plain

CANDLE_ROWS, MARK_ROWS, FUNDING_ROWS = 300, 100, 400
DEFAULT_ROWS = 100
#: `candles` knows only this many newest bars, `history-candles` all.
NEWEST_BARS = 1_440
#: Settled funding reaches three months back.
FUNDING_REACH_MS = 90 * DAY_MS
_INST_TYPES = ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION")

Query = Mapping[str, str]


class OkxError(Exception):
    """An error answer: `code` and `msg` of the envelope, and the HTTP status it comes with."""

    def __init__(self, code: int, msg: str, status: HTTPStatus) -> None:
        super().__init__(msg)
        self.code, self.msg, self.status = code, msg, status


class _Endpoint(NamedTuple):
    limit: int
    per: str | None
    answer: Callable[[Query, int], bytes]


class OkxRest:
    """The REST side of the venue. `strange` adds the instruments of `awkward`."""

    def __init__(self, market: Market, windows: Windows, faults: Faults, *, strange: bool) -> None:
        self._market = market
        self._windows = windows
        self._faults = faults
        self._strange = strange
        self._refusals = count()
        #: Requests answered, and how many of them were refused as over the limit.
        self.requests = self.refused = 0

    def routes(self) -> list[web.RouteDef]:
        """Every endpoint; the limits are requests per 2 s and address, some also per `instId` or `instType`."""
        endpoints = {
            "public/time": _Endpoint(10, None, self._time),
            "public/instruments": _Endpoint(20, "instType", self._instruments),
            "public/funding-rate": _Endpoint(10, "instId", self._funding),
            "public/funding-rate-history": _Endpoint(10, "instId", self._settlements),
            "public/mark-price": _Endpoint(10, None, self._marks),
            "public/open-interest": _Endpoint(20, "instId", self._open_interest),
            "market/ticker": _Endpoint(20, None, self._ticker),
            "market/tickers": _Endpoint(20, None, self._tickers),
            "market/candles": _Endpoint(40, None, self._candles),
            "market/history-candles": _Endpoint(20, None, self._history),
            "market/mark-price-candles": _Endpoint(20, None, self._mark_candles),
            "market/history-mark-price-candles": _Endpoint(20, None, self._mark_history),
        }
        return [web.get(f"/api/v5/{path}", self._handler(path, endpoint)) for path, endpoint in endpoints.items()]

    def _handler(self, path: str, endpoint: _Endpoint) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            self.requests += 1
            now, query = self._market.now(), request.query
            try:
                self._admit(path, endpoint, request, now)
                data = endpoint.answer(query, now)
            except OkxError as error:
                body = orjson.dumps({"code": str(error.code), "msg": error.msg, "data": []})
                return web.Response(status=error.status, body=body, content_type="application/json")
            body = b'{"code":"0","msg":"","data":' + data + b"}"
            return web.Response(body=body, content_type="application/json")

        return handle

    def _admit(self, path: str, endpoint: _Endpoint, request: web.Request, now: int) -> None:
        fault = None
        if path != "public/time":
            fault = self._faults.next_rest()
            if self._market.outage(now):
                raise OkxError(50001, "Service temporarily unavailable. Please try again later", _UNAVAILABLE)
            if fault == "error":
                raise OkxError(50026, "System error. Try again later", HTTPStatus.INTERNAL_SERVER_ERROR)
        key = (str(request.remote), path, request.query.get(endpoint.per, "") if endpoint.per else "")
        if not self._windows.take(key, endpoint.limit) or fault == "rate_limit":
            self.refused += 1
            statuses = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.OK)
            raise OkxError(50011, "Too Many Requests", statuses[next(self._refusals) % 2])

    def _time(self, _query: Query, now: int) -> bytes:
        return orjson.dumps([{"ts": str(now)}])

    def _instruments(self, query: Query, now: int) -> bytes:
        kind = _inst_type(query)
        rows = awkward.okx_instruments(kind) if self._strange else []
        if kind == "SWAP":
            rows = [preopen_row(spec) for spec in self._market.coming(now)] + rows
            rows = [spec_row(spec, now) for spec in self._market.trading(now)] + rows
        wanted = {key: query[key] for key in ("instId", "instFamily", "uly") if query.get(key)}
        rows = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
        if "instId" in wanted and not rows:
            raise _no_instrument()
        return orjson.dumps(rows)

    def _specs(self, query: Query, now: int) -> list[InstrumentSpec]:
        """The contracts a request asks for: all of SWAP, or one by `instId`."""
        if query.get("instId"):
            spec = self._spec(query, now)
            return [] if spec is None else [spec]
        return self._market.trading(now)

    def _spec(self, query: Query, now: int) -> InstrumentSpec | None:
        """The contract of `instId`; None for an awkward one, that trades without bars."""
        inst_id = _needed(query, "instId")
        spec = self._market.find(inst_id, now)
        if spec is not None and not gone(spec, now):
            return spec
        if self._strange and inst_id in awkward.OKX_RATES:
            return None
        raise _no_instrument()

    def _tickers(self, query: Query, now: int) -> bytes:
        if _inst_type(query) != "SWAP":
            return b"[]"
        rows = (ticker_row(self._market, spec, now) for spec in self._market.trading(now))
        return orjson.dumps([row for row in rows if row])

    def _ticker(self, query: Query, now: int) -> bytes:
        _needed(query, "instId")
        return orjson.dumps([row for spec in self._specs(query, now) if (row := ticker_row(self._market, spec, now))])

    def _marks(self, query: Query, now: int) -> bytes:
        if _inst_type(query) != "SWAP":
            return b"[]"
        return orjson.dumps([row for spec in self._specs(query, now) if (row := mark_row(self._market, spec, now))])

    def _open_interest(self, query: Query, now: int) -> bytes:
        if _inst_type(query) != "SWAP":
            return b"[]"
        return orjson.dumps([open_interest_row(self._market, spec, now) for spec in self._specs(query, now)])

    def _funding(self, query: Query, now: int) -> bytes:
        inst_id = _needed(query, "instId")
        if inst_id == "ANY":
            specs, strange = self._market.trading(now), awkward.okx_funding(now) if self._strange else []
        else:
            spec = self._spec(query, now)
            specs = [spec] if spec else []
            strange = [row for row in awkward.okx_funding(now) if not spec and row["instId"] == inst_id]
        rows = [row for spec in specs if (row := funding_row(self._market, spec, now))]
        return orjson.dumps([*rows, *strange])

    def _settlements(self, query: Query, now: int) -> bytes:
        spec = self._spec(query, now)
        before, after, limit = _page(query, FUNDING_ROWS, FUNDING_ROWS)
        if spec is None:
            return b"[]"
        settled = self._market.settled(spec.instrument, now)
        lo = int(np.searchsorted(settled.time_ms, max(before + 1, now - FUNDING_REACH_MS)))
        hi = int(np.searchsorted(settled.time_ms, after))
        chosen = range(hi - 1, max(lo, hi - limit) - 1, -1)
        return orjson.dumps([self._settlement(spec, int(settled.time_ms[i]), float(settled.rate[i])) for i in chosen])

    def _settlement(self, spec: InstrumentSpec, time_ms: int, rate: float) -> dict[str, str]:
        """A settled row; `fundingRate` is the estimate just before, only `realizedRate` was paid."""
        estimate = self._market.funding(spec.instrument, time_ms - 1)
        return {
            "formulaType": "withRate",
            "fundingRate": "" if estimate is None else plain(estimate.rate),
            "fundingTime": str(time_ms),
            "instId": spec.instrument.venue_id,
            "instType": "SWAP",
            "method": "current_period",
            "realizedRate": plain(rate),
        }

    def _candles(self, query: Query, now: int) -> bytes:
        return self._bars(query, now, OkxCandles, CANDLE_ROWS, NEWEST_BARS)

    def _history(self, query: Query, now: int) -> bytes:
        return self._bars(query, now, OkxCandles, CANDLE_ROWS, None)

    def _mark_candles(self, query: Query, now: int) -> bytes:
        return self._bars(query, now, OkxMarkCandles, MARK_ROWS, NEWEST_BARS)

    def _mark_history(self, query: Query, now: int) -> bytes:
        return self._bars(query, now, OkxMarkCandles, MARK_ROWS, None)

    def _bars(self, query: Query, now: int, wire_type: type[OkxCandles], most: int, newest: int | None) -> bytes:
        """Rows newest first, the open bar before them, of `before` < ts < `after`, both exclusive.

        `before` without `after` gives the newest page, not the one that follows `before`.
        """
        spec = self._spec(query, now)
        grid = BARS.get(query.get("bar") or "1m")
        if grid is None:
            raise OkxError(51000, "Parameter bar error", HTTPStatus.BAD_REQUEST)
        before, after, limit = _page(query, most, DEFAULT_ROWS)
        if spec is None:
            return b"[]"
        wire = wire_type("", spec.instrument.venue_id, spec.contract_value_base)
        open_bar = self._market.open_bar(spec.instrument, grid, now)
        is_open = len(open_bar.open_ms)
        head = wire.rows(open_bar, closed=False) if is_open and before < open_bar.open_ms[0] < after else []
        series = self._market.series(spec.instrument, grid)
        end = int(np.searchsorted(series.open_ms, now - grid.ms, side="right"))
        first = max(0, end - newest + is_open) if newest else 0
        lo = max(first, int(np.searchsorted(series.open_ms, before, side="right")))
        hi = min(end, int(np.searchsorted(series.open_ms, after)))
        lo = max(lo, hi - (limit - len(head)))
        rows = wire.rows(take(series, slice(lo, max(lo, hi))), closed=True)[::-1]
        return f"[{','.join([*head, *rows][:limit])}]".encode()


_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE


def _no_instrument() -> OkxError:
    return OkxError(51001, "Instrument ID, Instrument ID code, or Spread ID doesn't exist.", HTTPStatus.OK)


def _needed(query: Query, name: str) -> str:
    if not query.get(name):
        raise OkxError(50014, f"Parameter {name} can not be empty.", HTTPStatus.BAD_REQUEST)
    return query[name]


def _inst_type(query: Query) -> str:
    kind = _needed(query, "instType")
    if kind not in _INST_TYPES:
        raise OkxError(51000, "Parameter instType error", HTTPStatus.BAD_REQUEST)
    return kind


def _page(query: Query, most: int, default: int) -> tuple[int, int, int]:
    """`before`, `after` and `limit` of a request; without them everything, and `default` rows."""
    after = _number(query, "after", 2**62)
    limit = _number(query, "limit", default)
    if not 0 < limit <= most:
        raise OkxError(51000, "Parameter limit error", HTTPStatus.BAD_REQUEST)
    return _number(query, "before", -1), after, limit


def _number(query: Query, name: str, default: int) -> int:
    text = query.get(name) or str(default)
    if not text.removeprefix("-").isdecimal():
        raise OkxError(51000, f"Parameter {name} error", HTTPStatus.BAD_REQUEST)
    return int(text)
