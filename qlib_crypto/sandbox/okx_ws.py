"""OKX v5 websocket over a tape: `/ws/v5/public` and `/ws/v5/business`."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import orjson
from aiohttp import WSMessage, WSMsgType, web

from qlib_crypto.clock import SECOND_MS
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox import okx_flow, okx_rows
from qlib_crypto.sandbox.faults import GOING_AWAY
from qlib_crypto.sandbox.hub import CLOSE_S, NOTICE, NOTICE_S, Connection, Hub, Stream
from qlib_crypto.sandbox.limits import Windows
from qlib_crypto.sandbox.market import Market, gone
from qlib_crypto.sandbox.streams import CandleStream, RowStream
from qlib_crypto.sandbox.text import frame
from qlib_crypto.symbols import Venue

LARGEST_REQUEST = 64 * 1024
IDLE = 4004
CONNECTIONS_PER_S = 3
REQUESTS_PER_HOUR = 480
HOUR_S = 3_600.0

Arg = Mapping[str, Any]
RowMaker = Callable[[Market, InstrumentSpec, int], Mapping[str, Any] | None]

#: Channels of `/public` that push one row of one instrument: how the row is made, and the pause between two.
_ROWS: dict[str, tuple[RowMaker, int]] = {
    "mark-price": (okx_rows.mark_row, 10 * SECOND_MS),
    "open-interest": (okx_rows.open_interest_row, 3 * SECOND_MS),
    "tickers": (okx_rows.ticker_row, SECOND_MS),
}
#: Channels that the venue has and a tape has not: acknowledged and silent.
_SILENT = {
    "public": ("books", "bbo-tbt", "index-tickers", "price-limit", "status", "estimated-price"),
    "business": ("trades-all",),
}


class OkxError(Exception):
    """An `error` event: code and message; the topic is named in the message only."""

    def __init__(self, code: int, msg: str) -> None:
        super().__init__(msg)
        self.code, self.msg = code, msg


class OkxSocket:
    """The websocket side of the venue; `idle_s` and `lifetime_s` are wall seconds."""

    def __init__(
        self,
        market: Market,
        hub: Hub,
        windows: Windows,
        *,
        idle_s: float,
        lifetime_s: float,
        open_frames: int | None = None,
    ) -> None:
        self._market = market
        self._hub = hub
        self._windows = windows
        self._idle_s = idle_s
        self._lifetime_s = lifetime_s
        self._open_frames = open_frames

    def routes(self) -> list[web.RouteDef]:
        """The two public routes; there is no private one."""
        return [web.get(f"/ws/v5/{route}", self._handler(route)) for route in ("public", "business")]

    def _handler(self, route: str) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            if self._market.outage(self._market.now()):
                return web.Response(status=503)
            if not self._windows.take((str(request.remote), "connect"), CONNECTIONS_PER_S, 1.0):
                return web.Response(status=429)
            ws = web.WebSocketResponse(compress=False, autoping=False, timeout=CLOSE_S, max_msg_size=LARGEST_REQUEST)
            await ws.prepare(request)
            if not isinstance(request.transport, asyncio.Transport):
                return ws
            connection = Connection(Venue.OKX, ws, request.transport)
            session = _Session(self._market, self._hub, route, connection, self._open_frames)
            await session.serve(self._idle_s, self._lifetime_s)
            return ws

        return handle


class _Session:
    """One connection: reads requests, answers, and lets the pump push."""

    def __init__(self, market: Market, hub: Hub, route: str, connection: Connection, open_frames: int | None) -> None:
        self._market = market
        self._hub = hub
        self._route = route
        self._connection = connection
        self._open_frames = open_frames
        self._id = secrets.token_hex(4)
        self._requests = Windows(1.0)

    async def serve(self, idle_s: float, lifetime_s: float) -> None:
        """Until either side closes."""
        self._hub.join(self._connection)
        watch = asyncio.create_task(self._watch(idle_s, lifetime_s))
        try:
            async for message in self._connection.ws:
                await self._receive(message)
        finally:
            self._hub.leave(self._connection)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, idle_s: float, lifetime_s: float) -> None:
        """Close after `idle_s` without traffic in either direction, or at the end of a long life, with notice."""
        noticed = False
        while True:
            now = time.monotonic()
            idle = self._connection.traffic_s + idle_s - now
            left = self._connection.opened_s + lifetime_s - now
            if idle <= 0:
                await self._connection.close(IDLE, "Connection closed as there is no traffic for a while")
                return
            if left <= 0:
                await self._connection.close(GOING_AWAY, "service upgrade")
                return
            if left <= NOTICE_S and not noticed:
                noticed = True
                self._connection.text(NOTICE)
            await asyncio.sleep(min(idle, left if noticed else left - NOTICE_S))

    async def _receive(self, message: WSMessage) -> None:
        self._connection.traffic_s = time.monotonic()
        if message.type is WSMsgType.PING:
            await self._connection.ws.pong(message.data)
        elif message.type is WSMsgType.TEXT and message.data == "ping":
            self._connection.text("pong")
        elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            self._request(message.data)

    def _request(self, text: str | bytes) -> None:
        try:
            request = json.loads(text)
            op, args = request["op"], request["args"]
        except (ValueError, TypeError, KeyError, RecursionError):
            op, args, request = "", [], {}
        if op not in ("subscribe", "unsubscribe") or not isinstance(args, list) or not args:
            shown = text.decode(errors="replace") if isinstance(text, bytes) else text
            self._event(event="error", code="60012", msg=f"Invalid request: {shown[:200]}")
            return
        echo = {"id": request["id"]} if "id" in request else {}
        if not self._requests.take(("requests",), REQUESTS_PER_HOUR, HOUR_S):
            self._event(**echo, event="error", code="60014", msg="Requests too frequent")
            return
        for arg in args:
            try:
                self._subscribe(arg, echo) if op == "subscribe" else self._unsubscribe(arg, echo)
            except OkxError as error:
                self._event(**echo, event="error", code=str(error.code), msg=error.msg)

    def _event(self, **event: Any) -> None:
        self._connection.text(json.dumps({**event, "connId": self._id}))

    def _subscribe(self, arg: Arg, echo: Arg) -> None:
        stream = self._stream(arg)
        if self._hub.faults[Venue.OKX].take("unknown_channel"):
            raise _unknown(arg)
        self._event(**echo, event="subscribe", arg=arg)
        if stream is not None:
            self._hub.add(self._connection, _topic(arg), stream)

    def _unsubscribe(self, arg: Arg, echo: Arg) -> None:
        self._stream(arg)
        self._hub.forget(self._connection, _topic(arg))
        self._event(**echo, event="unsubscribe", arg=arg)

    def _stream(self, arg: Arg) -> Stream | None:
        """The stream of an argument; None for a channel that is known and has nothing to say."""
        if not isinstance(arg, dict) or not isinstance(arg.get("channel"), str):
            raise OkxError(60013, f"Invalid args: {json.dumps(arg)[:200]}")
        if "uly" in arg:
            raise OkxError(
                64000, "Subscription parameter uly is unavailable anymore. Please replace uly with instFamily"
            )
        channel = arg["channel"]
        if self._route == "public" and channel in ("instruments", "liquidation-orders"):
            return self._by_type(arg)
        if channel in _SILENT[self._route]:
            return None
        if self._route == "business":
            return self._candles(arg, channel)
        spec = self._spec(arg)
        if channel == "funding-rate":
            return self._funding(arg, spec)
        if channel in okx_flow.CHANNELS:
            return okx_flow.CHANNELS[channel](self._market, arg, spec)
        if channel in _ROWS:
            make, pause_ms = _ROWS[channel]
            return RowStream(_pusher(self._market, arg, spec, make), lambda _: pause_ms)
        raise _unknown(arg)

    def _spec(self, arg: Arg, of: Callable[[str], str] = str) -> InstrumentSpec:
        """The contract of `instId`, or `of` that."""
        spec = self._market.find_any(of(str(arg.get("instId", ""))))
        if spec is None or gone(spec, self._market.now()):
            raise _unknown(arg)
        return spec

    def _candles(self, arg: Arg, channel: str) -> Stream:
        kind, _, bar = channel.rpartition("candle")
        grid, wire_type = okx_rows.BARS.get(bar), okx_rows.CANDLES.get(kind)
        if grid is None or wire_type is None:
            raise _unknown(arg)
        of = self._spec(arg, wire_type.contract).instrument
        wire = wire_type(channel, self._market, of)
        return CandleStream(self._market, of, grid, wire, price=wire.price, open_frames=self._open_frames)

    def _funding(self, arg: Arg, spec: InstrumentSpec) -> Stream:
        def pause_ms(at_ms: int) -> int:
            """30 to 90 s, another for each push, the same in each replay."""
            return 30 * SECOND_MS + crc32(f"{spec.instrument}{at_ms}".encode()) % (60 * SECOND_MS + 1)

        settled = self._market.tape.settlements(spec.instrument).time_ms
        return RowStream(_pusher(self._market, arg, spec, okx_rows.funding_row), pause_ms, settled)

    def _by_type(self, arg: Arg) -> Stream | None:
        if arg.get("instType") != "SWAP":
            raise _unknown(arg)
        is_list = arg["channel"] == "instruments"
        return _instruments(self._market, arg) if is_list else okx_flow.liquidations(self._market, arg)


def _instruments(market: Market, arg: Arg) -> Stream:
    """`instruments`: all rows at once, then those that list, and those whose delisting is announced or done."""
    head = b'{"arg":' + orjson.dumps(arg) + b',"data":'
    before: dict[str, dict[str, Any]] = {}

    def push(at_ms: int) -> bytes | None:
        rows = {spec.instrument.venue_id: okx_rows.spec_row(spec, at_ms) for spec in market.trading(at_ms)}
        changed = [row for inst_id, row in rows.items() if before.get(inst_id) != row]
        changed += [{**row, "state": "expired"} for inst_id, row in before.items() if inst_id not in rows]
        before.clear()
        before.update(rows)
        return frame(head + orjson.dumps(changed) + b"}") if changed else None

    return RowStream(push, lambda _: 60 * SECOND_MS)


def _pusher(market: Market, arg: Arg, spec: InstrumentSpec, make: RowMaker) -> Callable[[int], bytes | None]:
    head = b'{"arg":' + orjson.dumps({"channel": arg["channel"], "instId": spec.instrument.venue_id}) + b',"data":['

    def push(at_ms: int) -> bytes | None:
        row = make(market, spec, at_ms)
        return frame(head + orjson.dumps(row) + b"]}") if row else None

    return push


def _topic(arg: Arg) -> str:
    return f"{arg['channel']} {arg.get('instId') or arg.get('instType')}"


def _unknown(arg: Arg) -> OkxError:
    named = ",".join(f"{key}:{value}" for key, value in arg.items())
    return OkxError(
        60018,
        f"Wrong URL or {named} doesn't exist. Please use the correct URL, channel and parameters referring to API "
        "document.",
    )
