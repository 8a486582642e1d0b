"""Binance USD-M websocket over a tape, split as in April 2026: books only on `/public`, all else only on `/market`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import WSMessage, WSMsgType, web

from qlib_crypto.clock import SECOND_MS
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox import awkward
from qlib_crypto.sandbox.binance_flow import all_forced, flow_stream, on_public
from qlib_crypto.sandbox.binance_rows import BARS, BinanceKlineEvents, mark_event, ticker_event, wrapper
from qlib_crypto.sandbox.faults import GOING_AWAY
from qlib_crypto.sandbox.hub import CLOSE_S, Connection, Hub, Stream
from qlib_crypto.sandbox.limits import Windows
from qlib_crypto.sandbox.market import Market, gone
from qlib_crypto.sandbox.streams import CandleStream, RowStream
from qlib_crypto.sandbox.text import frame, padded
from qlib_crypto.symbols import Venue

MOST_STREAMS = 1_024
MESSAGES_PER_S = 10
#: A ping must be answered within this many ping periods (every 3 minutes, 10 minutes to answer).
PONG_PERIODS = 10 / 3
POLICY_VIOLATION = 1008
_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS")

EventMaker = Callable[[Market, InstrumentSpec, int], dict[str, Any] | None]

#: Streams of single events by symbol: how an event is made, and the market time between two.
_ROWS: dict[str, tuple[EventMaker, int]] = {
    "markPrice": (mark_event, 3 * SECOND_MS),
    "markPrice@1s": (mark_event, SECOND_MS),
    "ticker": (ticker_event, 2 * SECOND_MS),
}
_ALL: dict[str, tuple[EventMaker, int]] = {
    "!markPrice@arr": (mark_event, 3 * SECOND_MS),
    "!markPrice@arr@1s": (mark_event, SECOND_MS),
    "!ticker@arr": (ticker_event, SECOND_MS),
}


class BinanceSocket:
    """The websocket side of the venue; `ping_s` and `lifetime_s` are wall seconds."""

    def __init__(
        self, market: Market, hub: Hub, *, ping_s: float, lifetime_s: float, open_frames: int | None = None
    ) -> None:
        self._market = market
        self._hub = hub
        self._ping_s = ping_s
        self._lifetime_s = lifetime_s
        self._open_frames = open_frames

    def routes(self) -> list[web.RouteDef]:
        """Each route accepts every stream and is silent on those of the other; an address without one is `/public`."""
        routes = []
        for prefix in ("/market", "/public", ""):
            handler = self._handler(books=prefix != "/market")
            routes += [web.get(f"{prefix}{path}", handler) for path in ("/stream", "/ws", "/ws/{streams:.*}")]
        return routes

    def _handler(self, *, books: bool) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            if self._market.outage(self._market.now()):
                return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE)
            combined = request.path.endswith("/stream")
            asked = request.query.get("streams", "") if combined else request.match_info.get("streams", "")
            names = [name for name in asked.split("/") if name]
            if len(names) > MOST_STREAMS:
                return web.Response(status=HTTPStatus.BAD_REQUEST)
            ws = web.WebSocketResponse(compress=False, autoping=False, timeout=CLOSE_S)
            await ws.prepare(request)
            if isinstance(request.transport, asyncio.Transport):
                connection = Connection(Venue.BINANCE, ws, request.transport)
                session = _Session(
                    self._market,
                    self._hub,
                    connection,
                    combined=combined,
                    books=books,
                    open_frames=self._open_frames,
                )
                await session.serve(names, self._ping_s, self._lifetime_s)
            return ws

        return handle


class _Session:
    """One connection: answers live requests, pings, and lets the pump push."""

    def __init__(
        self,
        market: Market,
        hub: Hub,
        connection: Connection,
        *,
        combined: bool,
        books: bool,
        open_frames: int | None,
    ) -> None:
        self._market = market
        self._hub = hub
        self._connection = connection
        self._combined = combined
        self._books = books
        self._open_frames = open_frames
        self._names: dict[str, None] = {}
        self._pong_s = time.monotonic()
        self._messages = Windows(1.0)

    async def serve(self, names: list[str], ping_s: float, lifetime_s: float) -> None:
        """Until either side closes."""
        self._hub.join(self._connection)
        watch = asyncio.create_task(self._watch(ping_s, lifetime_s))
        try:
            self._subscribe(self._known(names))
            async for message in self._connection.ws:
                await self._receive(message)
        finally:
            self._hub.leave(self._connection)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    def _known(self, names: list[str]) -> list[str]:
        """The streams of an address, without the first one when the venue does not know that: nobody is told."""
        return names[1:] if names and self._hub.faults[Venue.BINANCE].take("unknown_channel") else names

    async def _watch(self, ping_s: float, lifetime_s: float) -> None:
        """A ping frame every `ping_s`; close when none was answered for long, or at the end of a long life."""
        while (now := time.monotonic()) < self._connection.opened_s + lifetime_s:
            await asyncio.sleep(min(ping_s, self._connection.opened_s + lifetime_s - now))
            if time.monotonic() - self._pong_s > ping_s * (1 + PONG_PERIODS):
                await self._connection.close(POLICY_VIOLATION, "Pong timeout")
                return
            await self._connection.ping(str(self._market.now()).encode())
        await self._connection.close(GOING_AWAY)

    async def _receive(self, message: WSMessage) -> None:
        if not self._messages.take(("messages",), MESSAGES_PER_S, 1.0):
            await self._connection.close(POLICY_VIOLATION, "Too many requests")
        elif message.type is WSMsgType.PING:
            await self._connection.ws.pong(message.data)
        elif message.type is WSMsgType.PONG:
            self._pong_s = time.monotonic()
        elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            await self._request(message.data)

    async def _request(self, text: str | bytes) -> None:
        try:
            request = json.loads(text)
        except (ValueError, RecursionError):
            await self._connection.close(POLICY_VIOLATION, "Invalid JSON")
            return
        fault = _fault(request)
        number = request.get("id") if isinstance(request, dict) else None
        if fault:
            self._answer({"error": {"code": 2, "msg": f"Invalid request: {fault}"}, "id": number})
            return
        method, names = request["method"], request.get("params", [])
        if method == "LIST_SUBSCRIPTIONS":
            self._answer({"result": list(self._names), "id": number})
            return
        if method == "SUBSCRIBE" and len({*self._names, *names}) > MOST_STREAMS:
            self._answer({"error": {"code": 2, "msg": "Invalid request: too many streams"}, "id": number})
            return
        if method == "SUBSCRIBE" and self._hub.faults[Venue.BINANCE].take("unknown_channel"):
            self._answer({"error": {"code": 2, "msg": "Invalid request: unknown stream"}, "id": number})
            return
        self._answer({"result": None, "id": number})
        if method == "SUBSCRIBE":
            self._subscribe(names)
        else:
            self._unsubscribe(names)

    def _answer(self, answer: dict[str, Any]) -> None:
        self._connection.text(json.dumps(answer))

    def _subscribe(self, names: list[str]) -> None:
        for name in names:
            self._names[name] = None
            stream = self._stream(name) if on_public(name) == self._books else None
            if stream is not None:
                self._hub.add(self._connection, name, stream)

    def _unsubscribe(self, names: list[str]) -> None:
        for name in names:
            self._names.pop(name, None)
            self._hub.forget(self._connection, name)

    def _stream(self, name: str) -> Stream | None:
        """The stream of a name; None for what stays silent: an unknown name or symbol, one not in lower case."""
        head, tail = wrapper(name if self._combined else None)
        if name in _ALL:
            make, pause_ms = _ALL[name]
            return RowStream(self._everything(make, head, tail), lambda _: pause_ms)
        if name == "!forceOrder@arr":
            return all_forced(self._market, (head, tail))
        symbol, _, kind = name.partition("@")
        spec = self._market.find_any(symbol.upper()) if symbol == symbol.lower() else None
        if spec is None or gone(spec, self._market.now()):
            return None
        bar = kind.removeprefix("kline_")
        if kind.startswith("kline_") and bar in BARS:
            grid = BARS[bar]
            wire = BinanceKlineEvents(spec.instrument.venue_id, bar, grid.ms, name if self._combined else None)
            return CandleStream(self._market, spec.instrument, grid, wire, open_frames=self._open_frames)
        if kind not in _ROWS:
            return flow_stream(self._market, spec, kind, (head, tail))
        make, pause_ms = _ROWS[kind]
        settled = self._market.tape.settlements(spec.instrument).time_ms if make is mark_event else None

        def push(at_ms: int) -> bytes | None:
            event = make(self._market, spec, at_ms)
            return frame(f"{head}{orjson.dumps(event).decode()}{tail}") if event else None

        return RowStream(push, lambda _: pause_ms, settled)

    def _everything(self, make: EventMaker, head: str, tail: str) -> Callable[[int], bytes | None]:
        """All symbols in one event, and one of COIN-M since the systems were merged."""
        coin_m = {"e": "markPriceUpdate", "s": awkward.COIN_M, "p": padded(100.0, 8), "r": "0.00310000", "st": 2}

        def push(at_ms: int) -> bytes | None:
            rows = [row for spec in self._market.trading(at_ms) if (row := make(self._market, spec, at_ms))]
            mixed = [*rows, {**coin_m, "E": at_ms, "T": at_ms}] if make is mark_event else rows
            return frame(f"{head}{orjson.dumps(mixed).decode()}{tail}")

        return push


def _fault(request: Any) -> str | None:
    """What is wrong with a request; None when it is fine."""
    if not isinstance(request, dict) or request.get("method") not in _METHODS:
        return "unknown method"
    names = request.get("params", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "params must be a list of stream names"
    if not isinstance(request.get("id"), int | str):
        return "request ID must be an unsigned integer"
    return None
