"""OKX v5 REST and bulk files over a tape: `/api/v5/{public,market,rubik}/…`, with the venue's paging and errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from itertools import count
from math import ceil

import numpy as np
import orjson
from aiohttp import web

from qlib_crypto.clock import DAY_MS
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox import awkward, okx_files, okx_stats
from qlib_crypto.sandbox.answers import Answer, retry_after, send, thinned
from qlib_crypto.sandbox.bulk import BulkHost
from qlib_crypto.sandbox.faults import Faults
from qlib_crypto.sandbox.limits import Windows
from qlib_crypto.sandbox.market import Market, gone
from qlib_crypto.sandbox.okx_query import (
    TROUBLES,
    TROUBLES_200,
    UNAVAILABLE,
    Endpoint,
    OkxError,
    Query,
    inst_type,
    needed,
    no_instrument,
    page,
    too_many,
    wrong,
)
from qlib_crypto.sandbox.okx_rows import (
    BARS,
    OkxCandles,
    OkxIndexCandles,
    OkxMarkCandles,
    funding_row,
    mark_row,
    open_interest_row,
    preopen_row,
    spec_row,
    ticker_row,
)
from qlib_crypto.sandbox.okx_tiers import position_tiers
from qlib_crypto.sandbox.series import take
from qlib_crypto.sandbox.text import plain

CANDLE_ROWS, PRICE_ROWS, FUNDING_ROWS = 300, 100, 400
DEFAULT_ROWS = 100
#: `candles` knows only this many newest bars, `history-candles` all.
NEWEST_BARS = 1_440
#: Settled funding reaches three months back.
FUNDING_REACH_MS = 90 * DAY_MS


class OkxRest:
    """The REST side of the venue. `strange` adds the instruments of `awkward`."""

    def __init__(self, market: Market, windows: Windows, faults: Faults, *, strange: bool) -> None:
        self._market = market
        self._windows = windows
        self._faults = faults
        self._strange = strange
        self._refusals, self._troubles = count(), count()
        #: Requests answered, and how many of them were refused as over the limit.
        self.requests = self.refused = 0

    def routes(self) -> list[web.RouteDef]:
        """Every endpoint; the limits are requests per 2 s and address, some also per `instId` or `instType`."""
        endpoints = {
            "public/time": Endpoint(10, None, self._time),
            "public/instruments": Endpoint(20, "instType", self._instruments),
            "public/position-tiers": Endpoint(10, None, partial(position_tiers, self._market)),
            "public/funding-rate": Endpoint(10, "instId", self._funding),
            "public/funding-rate-history": Endpoint(10, "instId", self._settlements, pages=True),
            "public/market-data-history": Endpoint(5, None, self._files),
            "rubik/stat/contracts/open-interest-history": Endpoint(10, "instId", self._interest, pages=True),
            "rubik/stat/contracts/long-short-account-ratio-contract": Endpoint(5, None, self._ratios, pages=True),
            "public/mark-price": Endpoint(10, None, self._marks),
            "public/open-interest": Endpoint(20, "instId", self._open_interest),
            "market/ticker": Endpoint(20, None, self._ticker),
            "market/tickers": Endpoint(20, None, self._tickers),
            "market/candles": self._candles(40, OkxCandles, CANDLE_ROWS, NEWEST_BARS),
            "market/history-candles": self._candles(20, OkxCandles, CANDLE_ROWS, None),
            "market/mark-price-candles": self._candles(20, OkxMarkCandles, PRICE_ROWS, NEWEST_BARS),
            "market/history-mark-price-candles": self._candles(20, OkxMarkCandles, PRICE_ROWS, None),
            "market/index-candles": self._candles(20, OkxIndexCandles, PRICE_ROWS, NEWEST_BARS),
            "market/history-index-candles": self._candles(10, OkxIndexCandles, PRICE_ROWS, None),
        }
        files = BulkHost(partial(okx_files.make, self._market), self._market.now, self._faults, summed=False)
        return [
            *(web.get(f"/api/v5/{path}", self._handler(path, endpoint)) for path, endpoint in endpoints.items()),
            web.get(f"{okx_files.ROOT}{{path:.+}}", files.handler()),
        ]

    def _handler(self, path: str, endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests += 1
            now = self._market.now()
            refused = self._refuse(path, endpoint, request, now)
            if refused is not None:
                return refused.response()
            try:
                data = endpoint.answer(request.query, now)
            except OkxError as error:
                return error.answer().response()
            if not endpoint.pages:  # links to files lead back here
                here = f"{request.scheme}://{request.host}".encode()
                return _rows(data.replace(okx_files.HOST.encode(), here)).response()
            return await send(request, _rows(thinned(self._faults, data)), self._faults)

        return handle

    def _refuse(self, path: str, endpoint: Endpoint, request: web.Request, now: int) -> Answer | None:
        """The answer to a request that is not served: maintenance, a fault, over the limit; None when it is."""
        fault = None
        if path != "public/time":
            fault = self._faults.next_rest()
            if self._market.outage(now):
                return UNAVAILABLE
        if fault == "ban":
            self.refused += 1
            return too_many(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": str(ceil(self._faults.lasts_s("ban")))})
        if fault == "okx_200":
            return TROUBLES_200[next(self._troubles) % len(TROUBLES_200)]
        if fault == "error":
            return TROUBLES[next(self._troubles) % len(TROUBLES)]
        key = (str(request.remote), path, request.query.get(endpoint.per, "") if endpoint.per else "")
        if self._windows.take(key, endpoint.limit) and fault is None:
            return None
        self.refused += 1
        status = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.OK)[next(self._refusals) % 2]
        return too_many(status, retry_after(self._faults) if fault and status != HTTPStatus.OK else {})

    def _time(self, _query: Query, now: int) -> bytes:
        return orjson.dumps([{"ts": str(now)}])

    def _instruments(self, query: Query, now: int) -> bytes:
        kind = inst_type(query)
        rows = awkward.okx_instruments(kind) if self._strange else []
        if kind == "SWAP":
            rows = [preopen_row(spec) for spec in self._market.coming(now)] + rows
            rows = [spec_row(spec, now) for spec in self._market.trading(now)] + rows
        wanted = {key: query[key] for key in ("instId", "instFamily", "uly") if query.get(key)}
        rows = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
        if "instId" in wanted and not rows:
            raise no_instrument()
        return orjson.dumps(rows)

    def _specs(self, query: Query, now: int) -> list[InstrumentSpec]:
        """The contracts a request asks for: all of SWAP, or one by `instId`."""
        if query.get("instId"):
            spec = self._spec(query, now)
            return [] if spec is None else [spec]
        return self._market.trading(now)

    def _spec(self, query: Query, now: int, of: Callable[[str], str] = str) -> InstrumentSpec | None:
        """The contract of `instId`, or `of` that; None for an awkward one, that trades without bars."""
        inst_id = of(needed(query, "instId"))
        spec = self._market.find(inst_id, now)
        if spec is not None and not gone(spec, now):
            return spec
        if self._strange and inst_id in awkward.OKX_RATES:
            return None
        raise no_instrument()

    def _tickers(self, query: Query, now: int) -> bytes:
        if inst_type(query) != "SWAP":
            return b"[]"
        rows = (ticker_row(self._market, spec, now) for spec in self._market.trading(now))
        return orjson.dumps([row for row in rows if row])

    def _ticker(self, query: Query, now: int) -> bytes:
        needed(query, "instId")
        return orjson.dumps([row for spec in self._specs(query, now) if (row := ticker_row(self._market, spec, now))])

    def _marks(self, query: Query, now: int) -> bytes:
        if inst_type(query) != "SWAP":
            return b"[]"
        return orjson.dumps([row for spec in self._specs(query, now) if (row := mark_row(self._market, spec, now))])

    def _open_interest(self, query: Query, now: int) -> bytes:
        if inst_type(query) != "SWAP":
            return b"[]"
        return orjson.dumps([open_interest_row(self._market, spec, now) for spec in self._specs(query, now)])

    def _files(self, query: Query, now: int) -> bytes:
        return okx_files.listing(self._market, query, now)

    def _interest(self, query: Query, now: int) -> bytes:
        spec = self._spec(query, now)
        return okx_stats.open_interest(self._market, spec, query, now) if spec else b"[]"

    def _ratios(self, query: Query, now: int) -> bytes:
        spec = self._spec(query, now)
        return okx_stats.long_short_ratio(self._market, spec, query, now) if spec else b"[]"

    def _funding(self, query: Query, now: int) -> bytes:
        inst_id = needed(query, "instId")
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
        before, after, limit = page(query, FUNDING_ROWS, FUNDING_ROWS)
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

    def _candles(self, limit: int, wire_type: type[OkxCandles], most: int, newest: int | None) -> Endpoint:
        return Endpoint(limit, None, partial(self._bars, wire_type, most, newest), pages=True)

    def _bars(self, wire_type: type[OkxCandles], most: int, newest: int | None, query: Query, now: int) -> bytes:
        """Rows newest first, the open bar before them, of `before` < ts < `after`, both exclusive.

        `before` without `after` gives the newest page, not the one that follows `before`.
        """
        spec = self._spec(query, now, wire_type.contract)
        grid = BARS.get(query.get("bar") or "1m")
        if grid is None:
            raise wrong("bar")
        before, after, limit = page(query, most, DEFAULT_ROWS)
        if spec is None:
            return b"[]"
        wire = wire_type("", self._market, spec.instrument)
        open_bar = self._market.open_bar(spec.instrument, grid, now, wire.price)
        is_open = len(open_bar.open_ms)
        head = wire.rows(open_bar, closed=False) if is_open and before < open_bar.open_ms[0] < after else []
        series = self._market.series(spec.instrument, grid, wire.price)
        end = int(np.searchsorted(series.open_ms, now - grid.ms, side="right"))
        first = max(0, end - newest + is_open) if newest else 0
        lo = max(first, int(np.searchsorted(series.open_ms, before, side="right")))
        hi = min(end, int(np.searchsorted(series.open_ms, after)))
        lo = max(lo, hi - (limit - len(head)))
        rows = wire.rows(take(series, slice(lo, max(lo, hi))), closed=True)[::-1]
        return f"[{','.join([*head, *rows][:limit])}]".encode()


def _rows(data: bytes) -> Answer:
    return Answer(b'{"code":"0","msg":"","data":' + data + b"}")
