"""Websocket connections, the streams on them, and the pump that moves market time through them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from aiohttp import web

from qlib_crypto.clock import MINUTE_MS, SECOND_MS
from qlib_crypto.sandbox.clock import MarketClock
from qlib_crypto.sandbox.faults import GOING_AWAY, Faults
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.text import frame
from qlib_crypto.symbols import Venue

#: How long a close may take before the connection is cut off; the handshake itself has `CLOSE_S`.
CLOSE_S, CUT_OFF_S = 2.0, 4.0
#: Rows of one burst at maximum speed: some 100 KB, so that pings and REST are served in between.
BURST_ROWS = 512
LOW_WATER = 64 * 1024
#: OKX closes a client that lets this much pile up with 4005, "buffer is full"; at maximum speed we wait instead.
OVERFLOW = 32 * 1024 * 1024
TOO_SLOW = 4005
#: At maximum speed a maintenance window lasts this long, wall time: there is nobody left to pace the clock.
OUTAGE_WALL_S = 0.5
#: How long a replay at maximum speed waits for a broken connection's streams to come back.
RECONNECT_S = 10.0
#: What OKX says a minute before it closes a socket.
NOTICE = (
    '{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. '
    'Please reconnect.","connId":"a4d3ae55"}'
)
NOTICE_S = 60.0
NOTICE_MS = 60 * SECOND_MS
_FASTEST_TICK_S, _SLOWEST_TICK_S = 0.02, 0.25


class Event(NamedTuple):
    """One push: the market time it belongs to, and its complete websocket frames."""

    at_ms: int
    data: bytes


class Stream(Protocol):
    """One subscription of one connection, standing at a market time."""

    @property
    def bar_ms(self) -> int | None:
        """The bar length of a candle stream, None for any other."""
        ...

    @property
    def bars(self) -> int:
        """Confirmed bars pushed so far."""
        ...

    def start(self, at_ms: int) -> list[Event]:
        """Begin at `at_ms` (again after a jump); what the venue pushes at once."""
        ...

    def events(self, to_ms: int, quiet_ms: int) -> list[Event]:
        """What happened in (position, `to_ms`], ascending, updates at most every `quiet_ms`; moves there."""
        ...


@dataclass(eq=False)
class Connection:
    """One websocket connection: its socket, its streams by topic, and when there was last traffic (wall)."""

    venue: Venue
    ws: web.WebSocketResponse
    transport: asyncio.Transport
    streams: dict[str, Stream] = field(default_factory=dict)
    opened_s: float = field(default_factory=time.monotonic)
    traffic_s: float = field(default_factory=time.monotonic)

    def send(self, data: bytes) -> None:
        """Hand complete frames to the socket at once, in one write."""
        if data and not self.ws.closed and not self.transport.is_closing():
            self.traffic_s = time.monotonic()
            self.transport.write(data)

    def text(self, payload: str | bytes) -> None:
        """Send one text message."""
        self.send(frame(payload))

    @property
    def waiting(self) -> int:
        """Bytes that the socket has not taken yet."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    async def drain(self) -> None:
        """Return once the socket has taken what was sent, but for `LOW_WATER` bytes."""
        while self.waiting > LOW_WATER:  # noqa: ASYNC110 - asyncio tells nobody but the protocol of a drained buffer
            await asyncio.sleep(0.001)

    async def close(self, code: int, reason: str = "") -> None:
        """Say goodbye and close; a client that does not even read is cut off."""
        try:
            async with asyncio.timeout(CUT_OFF_S):
                await self.ws.close(code=code, message=reason.encode())
        except TimeoutError:
            self.transport.abort()


class Hub:
    """All connections, and the hold: the clock stands until `hold_streams` streams are subscribed.

    At maximum speed it also stands while no stream is there, and for up to `RECONNECT_S` after a connection broke
    while its streams have not come back.
    """

    def __init__(self, clock: MarketClock, hold_streams: int) -> None:
        self.clock = clock
        self.hold_streams = hold_streams
        self.connections: list[Connection] = []
        self._bars_before = 0
        self._lost = 0
        self._lost_s = 0.0

    @property
    def streams(self) -> int:
        """Streams that deliver, on all connections."""
        return sum(len(connection.streams) for connection in self.connections)

    @property
    def bars_sent(self) -> int:
        """Confirmed bars pushed since the server began, counted once for each subscriber."""
        return self._bars_before + sum(_bars(connection) for connection in self.connections)

    def of(self, venues: Iterable[Venue]) -> list[Connection]:
        """The connections of some venues."""
        wanted = set(venues)
        return [connection for connection in self.connections if connection.venue in wanted]

    def join(self, connection: Connection) -> None:
        """A connection is there."""
        self.connections.append(connection)

    def leave(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection in self.connections:
            self.connections.remove(connection)
            self._bars_before += _bars(connection)
            self._lost += len(connection.streams)
            self._lost_s = time.monotonic()

    def add(self, connection: Connection, topic: str, stream: Stream) -> None:
        """Subscribe, and push what the venue pushes at once; a topic that is there already goes on as it is."""
        if topic not in connection.streams:
            connection.streams[topic] = stream
            self._lost = max(0, self._lost - 1)
            connection.send(b"".join(event.data for event in stream.start(self.clock.now_ms())))

    def forget(self, connection: Connection, topic: str) -> bool:
        """Unsubscribe; False when there was no such stream."""
        stream = connection.streams.pop(topic, None)
        self._bars_before += stream.bars if stream else 0
        return stream is not None

    @property
    def listening(self) -> bool:
        """True while a replay at maximum speed has somebody to pace it."""
        if time.monotonic() - self._lost_s > RECONNECT_S:
            self._lost = 0
        return not self.clock.held and self.streams > 0 and self._lost == 0

    def check_hold(self) -> None:
        """Let the clock run once enough streams are there."""
        if self.clock.held and self.streams >= self.hold_streams:
            self.clock.release()


def _bars(connection: Connection) -> int:
    return sum(stream.bars for stream in connection.streams.values())


class Pump:
    """The task that pushes what the clock has passed, or at maximum speed moves the clock by what sockets take.

    At maximum speed the clock moves only while somebody listens (`Hub.listening`), and only after every socket took
    the burst: REST is never ahead of the streams, a client that reconnects misses nothing but what was in flight, and
    the slowest reader sets the pace.
    """

    def __init__(self, hub: Hub, markets: Mapping[Venue, Market], faults: Mapping[Venue, Faults]) -> None:
        self._hub = hub
        self._clock = hub.clock
        self._markets = markets
        self._faults = faults
        self._jumps = hub.clock.jumps
        self._noticed: set[tuple[Venue, int]] = set()
        #: True when the clock is at its end and every socket has taken everything.
        self.finished = False

    async def run(self) -> None:
        """Pump until cancelled."""
        while True:
            self._hub.check_hold()
            self._follow_jumps()
            await self._close_for_outages()
            if self._clock.is_max:
                await self._burst()
            else:
                await self._tick()

    def _follow_jumps(self) -> None:
        if self._jumps == self._clock.jumps:
            return
        self._jumps, now = self._clock.jumps, self._clock.now_ms()
        for connection in self._hub.connections:
            connection.send(b"".join(e.data for s in connection.streams.values() for e in s.start(now)))

    async def _tick(self) -> None:
        speed = self._clock.speed
        pause_s = min(_SLOWEST_TICK_S, max(_FASTEST_TICK_S, 1 / speed)) if speed else _FASTEST_TICK_S
        quiet_ms = max(SECOND_MS, int(speed * pause_s * SECOND_MS))
        for connection in tuple(self._hub.connections):
            self._push(connection, self._clock.now_ms(), quiet_ms)
            if connection.waiting > OVERFLOW:
                await connection.close(TOO_SLOW, "buffer is full")
        self._note_end()
        await asyncio.sleep(pause_s)

    async def _burst(self) -> None:
        now = self._clock.now_ms()
        if self._clock.at_end or not self._hub.listening:
            self._note_end()
            await asyncio.sleep(_FASTEST_TICK_S)
            return
        to_ms, quiet_ms = self._reach(now)
        for connection in tuple(self._hub.connections):
            self._push(connection, to_ms, quiet_ms)
            await asyncio.sleep(0)
        await asyncio.gather(*(connection.drain() for connection in self._hub.connections))
        if self._jumps == self._clock.jumps:
            self._clock.advance(to_ms)

    def _reach(self, now: int) -> tuple[int, int]:
        """How far a burst goes, and how far apart updates other than candles are in it."""
        lengths = [stream.bar_ms for connection in self._hub.connections for stream in connection.streams.values()]
        finest = min((length for length in lengths if length), default=MINUTE_MS)
        reach = now - now % finest + finest * max(1, BURST_ROWS // max(1, len(lengths)))
        starts = [start for market in self._markets.values() for start, _ in market.outages]
        stops = [stop for start in starts for stop in (start - NOTICE_MS, start) if stop > now]
        return min(reach, self._clock.until_ms, *stops), max(finest, MINUTE_MS)

    def _push(self, connection: Connection, to_ms: int, quiet_ms: int) -> None:
        events = [e for stream in connection.streams.values() for e in stream.events(to_ms, quiet_ms)]
        if not events:
            return
        faults = self._faults[connection.venue]
        events.sort(key=_when)
        connection.send(b"".join(event.data for event in events if not faults.silent(event.at_ms)))

    def _note_end(self) -> None:
        self.finished = self._clock.at_end and all(c.waiting == 0 for c in self._hub.connections)

    async def _close_for_outages(self) -> None:
        now = self._clock.now_ms()
        for venue, market in self._markets.items():
            self._announce(venue, market, now)
            window = market.outage(now)
            if window is None:
                continue
            await asyncio.gather(*(c.close(GOING_AWAY, "maintenance") for c in self._hub.of([venue])))
            if self._clock.is_max:
                await asyncio.sleep(OUTAGE_WALL_S)
                self._clock.advance(window[1])

    def _announce(self, venue: Venue, market: Market, now: int) -> None:
        """OKX sends notice 64008 a minute before it closes sockets for an upgrade."""
        for start, _ in market.outages:
            due = venue is Venue.OKX and start - NOTICE_MS <= now < start
            if due and (venue, start) not in self._noticed:
                self._noticed.add((venue, start))
                for connection in self._hub.of([venue]):
                    connection.text(NOTICE)


def _when(event: Event) -> int:
    return event.at_ms
