"""The sandbox as one aiohttp application: both venues on one port, and the `/sandbox` controls."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from qlib_crypto.clock import SECOND_MS, iso, parse_utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.sandbox.binance import BinanceRest
from qlib_crypto.sandbox.binance_ws import BinanceSocket
from qlib_crypto.sandbox.clock import MarketClock, parse_speed
from qlib_crypto.sandbox.faults import SOCKET, Fault, Faults, kinds, parse_fault
from qlib_crypto.sandbox.hub import Hub
from qlib_crypto.sandbox.limits import Windows
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.okx import OkxRest
from qlib_crypto.sandbox.okx_ws import OkxSocket
from qlib_crypto.sandbox.pump import Pump
from qlib_crypto.sandbox.tape import Tape
from qlib_crypto.symbols import Venue

_DAY_S = 86_400.0
_MOST_FRAMES = 1_000
_LATEST_MS = parse_utc("2200-01-01")


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """How the sandbox behaves; the defaults are the venues' own figures.

    Attributes
    ----------
    speed
        Market seconds per wall second; 0 frozen, `"max"` as fast as the sockets take.
    at, until
        Market time to start at (default the first bar's open) and to stop at (default the last bar's close):
        Unix milliseconds, or a UTC time as text.
    hold_streams
        The clock stands until so many websocket streams are subscribed, so that a replay loses nothing to the order
        in which a client starts.
    rate_scale
        Multiplies every request limit; 1 is the venues' own, infinity none.
    awkward
        Mix in the instruments of `sandbox.awkward`.
    open_frames
        Exactly so many frames of a bar while it is open, evenly spread; None as many as a venue sends, one a second.
    okx_idle_s, binance_ping_s, lifetime_s, ban_s
        Wall seconds: OKX closes an idle socket, Binance pings, either closes after a long life, the first ban.

    """

    speed: float | str = 1.0
    at: int | str | None = None
    until: int | str | None = None
    hold_streams: int = 0
    rate_scale: float = 1.0
    awkward: bool = True
    open_frames: int | None = None
    okx_idle_s: float = 30.0
    binance_ping_s: float = 180.0
    lifetime_s: float = _DAY_S
    ban_s: float = 120.0


class Sandbox:
    """The parts of one running sandbox: clock, markets, connections, pump.

    Raises
    ------
    ConfigError
        No tape, two tapes of one venue, or an impossible option.

    """

    def __init__(self, tapes: Sequence[Tape], options: SandboxOptions) -> None:
        if not tapes or len({tape.venue for tape in tapes}) < len(tapes):
            raise ConfigError("the sandbox needs one tape a venue, and at least one")
        if not options.rate_scale > 0:
            raise ConfigError(f"rate_scale {options.rate_scale} is not possible; write a number above 0")
        if options.open_frames is not None and not 0 < options.open_frames <= _MOST_FRAMES:
            raise ConfigError(f"open_frames {options.open_frames} is not possible; write 1 to {_MOST_FRAMES}")
        self.options = options
        self.clock = _clock(tapes, options)
        self.markets = {tape.venue: Market(tape, self.clock) for tape in tapes}
        self.faults = {venue: Faults() for venue in self.markets}
        self.hub = Hub(self.clock, options.hold_streams, self.faults)
        self.pump = Pump(self.hub, self.markets)
        self._rest: list[OkxRest | BinanceRest] = []
        self._pumping: asyncio.Task[None] | None = None

    def application(self) -> web.Application:
        """The aiohttp application; its pump runs while the application does."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/sandbox/status", self._get_status),
                web.post("/sandbox/clock", self._post_clock),
                web.get("/sandbox/faults", self._get_faults),
                web.post("/sandbox/fault", self._post_fault),
            ]
        )
        if Venue.OKX in self.markets:
            app.add_routes(self._okx())
        if Venue.BINANCE in self.markets:
            app.add_routes(self._binance())
        app.cleanup_ctx.append(self._run_pump)
        app.on_shutdown.append(self._close_sockets)
        return app

    def status(self) -> dict[str, Any]:
        """What `GET /sandbox/status` answers.

        `market_ms`, `market_time`, `speed` (`max` or a number), `until_ms`; `holding`: the clock waits for streams;
        `finished`: the clock is at its end and the sockets took everything; `streams`, `connections`; `bars_sent`:
        confirmed bars that went out, once for each subscriber (not those that a fault swallowed); `frames_sent`: frames
        of market data that went out, with what faults added, and `frames` the same by venue; `requests`, and how many
        of them were `refused`; `failed`: None, or what stopped the pump (a fault of the tape).
        """
        clock, now = self.clock, self.clock.now_ms()
        return {
            "market_ms": now,
            "market_time": iso(now),
            "speed": "max" if clock.is_max else clock.speed,
            "until_ms": clock.until_ms,
            "holding": clock.held,
            "finished": self.pump.finished,
            "streams": self.hub.streams,
            "connections": len(self.hub.connections),
            "bars_sent": sum(wire.bars for wire in self.hub.wires.values()),
            "frames_sent": sum(wire.frames for wire in self.hub.wires.values()),
            "frames": {str(venue): wire.frames for venue, wire in self.hub.wires.items()},
            "requests": sum(rest.requests for rest in self._rest),
            "refused": sum(rest.refused for rest in self._rest),
            "failed": self._failure(),
        }

    def set_clock(self, body: Mapping[str, Any]) -> None:
        """Apply `{"speed": …, "at": …, "until": …}`; each may be left out.

        Raises
        ------
        ConfigError
            A key or value is unknown.

        """
        unknown = set(body) - {"speed", "at", "until"}
        if unknown:
            raise ConfigError(f"clock has no setting {min(unknown)!r}; it has speed, at and until")
        self.clock.set(
            speed=None if body.get("speed") is None else parse_speed(body["speed"]),
            at_ms=_time(body.get("at")),
            until_ms=_time(body.get("until")),
        )
        self.pump.finished = False

    async def fault(self, fault: Fault) -> int:
        """Do or arm a fault; the number of connections it hit."""
        now = self.clock.now_ms()
        for venue in fault.venues:
            self.faults[venue].arm(fault, now)
            if fault.kind == "maintenance":
                self.markets[venue].outages.append((now, now + int(fault.seconds * SECOND_MS)))
        return await self.hub.strike(fault) if fault.kind in SOCKET else 0

    def _okx(self) -> list[web.RouteDef]:
        market, options = self.markets[Venue.OKX], self.options
        windows = Windows(options.rate_scale)
        rest = OkxRest(market, windows, self.faults[Venue.OKX], strange=options.awkward)
        self._rest.append(rest)
        socket = OkxSocket(
            market,
            self.hub,
            windows,
            idle_s=options.okx_idle_s,
            lifetime_s=options.lifetime_s,
            open_frames=options.open_frames,
        )
        return [*rest.routes(), *socket.routes()]

    def _binance(self) -> list[web.RouteDef]:
        market, options = self.markets[Venue.BINANCE], self.options
        rest = BinanceRest(
            market,
            self.faults[Venue.BINANCE],
            scale=options.rate_scale,
            ban_s=options.ban_s,
            strange=options.awkward,
        )
        self._rest.append(rest)
        socket = BinanceSocket(
            market,
            self.hub,
            ping_s=options.binance_ping_s,
            lifetime_s=options.lifetime_s,
            open_frames=options.open_frames,
        )
        return [*rest.routes(), *socket.routes()]

    async def _run_pump(self, _app: web.Application) -> AsyncIterator[None]:
        self._pumping = asyncio.create_task(self.pump.run(), name="sandbox pump")
        yield
        self._pumping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pumping

    def _failure(self) -> str | None:
        if self._pumping is None or not self._pumping.done() or self._pumping.cancelled():
            return None
        return repr(self._pumping.exception())

    async def _close_sockets(self, _app: web.Application) -> None:
        await self.hub.shutdown()

    async def _get_status(self, _request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self.status()), content_type="application/json")

    async def _post_clock(self, request: web.Request) -> web.Response:
        try:
            self.set_clock(await _body(request))
        except ConfigError as error:
            return _bad(error)
        return await self._get_status(request)

    async def _get_faults(self, _request: web.Request) -> web.Response:
        """Every kind of fault, what of them is armed now, and how often each has acted."""
        now = self.clock.now_ms()
        armed = {venue: faults.armed(now) for venue, faults in self.faults.items()}
        acted = {venue: faults.acted for venue, faults in self.faults.items()}
        return web.json_response({"kinds": kinds(), "armed": armed, "acted": acted})

    async def _post_fault(self, request: web.Request) -> web.Response:
        try:
            fault = parse_fault(await _body(request), tuple(self.markets))
        except ConfigError as error:
            return _bad(error)
        return web.json_response({"kind": fault.kind, "connections": await self.fault(fault)})


def _clock(tapes: Sequence[Tape], options: SandboxOptions) -> MarketClock:
    spans = [tape.span_ms for tape in tapes]
    at, until = _time(options.at), _time(options.until)
    start = min(first for first, _ in spans) if at is None else at
    end = max(last for _, last in spans) if until is None else until
    if until is not None and start > end:
        raise ConfigError(f"the sandbox cannot run from {iso(start)} until {iso(end)}; the end lies before the start")
    return MarketClock(start, end, speed=parse_speed(options.speed), held=options.hold_streams > 0)


def _time(value: Any) -> int | None:
    """Unix milliseconds of a number of them or of a UTC time as text.

    Raises
    ------
    ConfigError
        It is neither, or no time between 1970 and 2200.

    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ConfigError(f"time {value!r} is not possible; write milliseconds or a UTC time such as 2025-06-01T12:00")
    at = value if isinstance(value, int) else parse_utc(value)
    if not 0 <= at < _LATEST_MS:
        raise ConfigError(f"time {value!r} is not possible; write one between 1970 and 2200")
    return at


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.text())
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ConfigError("the body is no JSON object")
    return body


def _bad(error: ConfigError) -> web.Response:
    return web.json_response({"error": str(error)}, status=HTTPStatus.BAD_REQUEST)
