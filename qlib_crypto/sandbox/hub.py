"""Websocket connections and the streams on them: who is there, what goes out to them, and what faults strike them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from qlib_crypto.sandbox.clock import MarketClock
from qlib_crypto.sandbox.faults import GOING_AWAY, Fault, Faults
from qlib_crypto.sandbox.text import frame
from qlib_crypto.sandbox.wire import Event, Wire
from qlib_crypto.symbols import Venue

#: How long a close may take before the connection is cut off; the handshake itself has `CLOSE_S`.
CLOSE_S, CUT_OFF_S = 2.0, 4.0
LOW_WATER = 64 * 1024
#: How long a replay at maximum speed waits for a broken connection's streams to come back.
RECONNECT_S = 10.0
#: So long a connection that never said a word is kept.
MUTE_S = 600.0
#: What OKX says a minute before it closes a socket.
NOTICE = (
    '{"event":"notice","code":"64008","msg":"The connection will soon be closed for a service upgrade. '
    'Please reconnect.","connId":"a4d3ae55"}'
)
NOTICE_S = 60.0


class Stream(Protocol):
    """One subscription of one connection, standing at a market time."""

    #: The market time before which `events` has nothing to say.
    due_ms: int

    @property
    def bar_ms(self) -> int | None:
        """The bar length of a candle stream, None for any other."""
        ...

    def start(self, at_ms: int) -> list[Event]:
        """Begin at `at_ms` (again after a jump); what the venue pushes at once."""
        ...

    def events(self, to_ms: int, quiet_ms: int) -> list[Event]:
        """What happened in (position, `to_ms`], ascending, updates at most every `quiet_ms`; moves there."""
        ...


@dataclass(eq=False)
class Connection:
    """One websocket connection: its socket, its streams by topic, and when there was last traffic (wall).

    `frozen` once it is half open: nothing goes out any more. `kept` is what a stall keeps back, `late` what comes out
    of order.
    """

    venue: Venue
    ws: web.WebSocketResponse
    transport: asyncio.Transport
    streams: dict[str, Stream] = field(default_factory=dict)
    opened_s: float = field(default_factory=time.monotonic)
    traffic_s: float = field(default_factory=time.monotonic)
    frozen: bool = False
    kept: list[Event] = field(default_factory=list)
    late: list[tuple[int, Event]] = field(default_factory=list)

    def send(self, data: bytes) -> None:
        """Hand complete frames to the socket at once, in one write."""
        if data and not self.frozen and not self.ws.closed and not self.transport.is_closing():
            self.traffic_s = time.monotonic()
            self.transport.write(data)

    def text(self, payload: str | bytes) -> None:
        """Send one text message."""
        self.send(frame(payload))

    async def ping(self, payload: bytes) -> None:
        """Send a ping frame."""
        if not self.frozen and not self.ws.closed:
            await self.ws.ping(payload)

    @property
    def waiting(self) -> int:
        """Bytes that the socket has not taken yet."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    async def drain(self) -> None:
        """Return once the socket has taken what was sent, but for `LOW_WATER` bytes."""
        while self.waiting > LOW_WATER:  # noqa: ASYNC110 - asyncio tells nobody but the protocol of a drained buffer
            await asyncio.sleep(0.001)

    async def close(self, code: int, reason: str = "") -> None:
        """Say goodbye and close; a client that does not even read is cut off, one that is half open hears nothing."""
        if self.frozen:
            return
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

    def __init__(self, clock: MarketClock, hold_streams: int, faults: Mapping[Venue, Faults]) -> None:
        self.clock = clock
        self.hold_streams = hold_streams
        self.connections: list[Connection] = []
        self.faults = faults
        self.wires = {venue: Wire(venue, known) for venue, known in faults.items()}
        self._frozen: list[Connection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost = 0
        self._lost_s = 0.0

    @property
    def streams(self) -> int:
        """Streams that deliver, on all connections."""
        return sum(len(connection.streams) for connection in self.connections)

    @property
    def stalled(self) -> bool:
        """True while a venue may push nothing."""
        return any(wire.stalled for wire in self.wires.values())

    def of(self, venues: Iterable[Venue]) -> list[Connection]:
        """The connections of some venues."""
        wanted = set(venues)
        return [connection for connection in self.connections if connection.venue in wanted]

    def join(self, connection: Connection) -> None:
        """A connection is there; a muted venue never says a word on it."""
        self.connections.append(connection)
        if self.faults[connection.venue].lasts_s("mute"):
            self._freeze(connection, MUTE_S)

    def leave(self, connection: Connection) -> None:
        """A connection is gone."""
        if connection in self.connections:
            self.connections.remove(connection)
            self._lost += len(connection.streams)
            self._lost_s = time.monotonic()

    def add(self, connection: Connection, topic: str, stream: Stream) -> None:
        """Subscribe, and push what the venue pushes at once; a topic that is there already goes on as it is."""
        if topic in connection.streams or connection.frozen:
            return
        connection.streams[topic] = stream
        self._lost = max(0, self._lost - 1)
        now = self.clock.now_ms()
        self.push(connection, stream.start(now), now)
        waiting = self.faults[connection.venue].waiting
        if waiting:
            self._start(self._strike(waiting.popleft(), connection))

    def forget(self, connection: Connection, topic: str) -> bool:
        """Unsubscribe; False when there was no such stream."""
        return connection.streams.pop(topic, None) is not None

    def push(self, connection: Connection, events: Sequence[Event], now_ms: int) -> None:
        """Send what is due by market time `now_ms`, as the venue's faults let it pass."""
        wire = self.wires[connection.venue]
        if wire.stalled:
            connection.kept.extend(events)
            return
        if connection.kept:
            events = [*connection.kept, *events]
            connection.kept = []
        if events or connection.late:
            connection.send(b"".join(wire.carry(events, connection.late, now_ms)))

    async def strike(self, fault: Fault) -> int:
        """Do a fault to the connections of its venues, or to the next one where a venue has none; how many it hit."""
        hit = self.of(fault.venues)
        for venue in fault.venues:
            if not any(connection.venue is venue for connection in hit):
                self.faults[venue].waiting.append(fault)
        await asyncio.gather(*(self._strike(fault, connection) for connection in hit))
        return len(hit)

    async def shutdown(self) -> None:
        """Close everything."""
        for task in self._tasks:
            task.cancel()
        for connection in self._frozen:
            connection.transport.abort()
        await asyncio.gather(*(c.close(GOING_AWAY, "server stops") for c in tuple(self.connections)))

    async def _strike(self, fault: Fault, connection: Connection) -> None:
        acted = self.faults[connection.venue].acted
        acted[fault.kind] = acted.get(fault.kind, 0) + 1
        if fault.kind == "abort":
            connection.transport.abort()
        elif fault.kind == "half_open":
            self._freeze(connection, fault.seconds)
        elif fault.kind == "notice":
            if connection.venue is Venue.OKX:
                connection.text(NOTICE)
            self._start(_close_later(connection, fault.seconds))
        else:
            why = "connected for 24 hours" if fault.kind == "lifetime" else "dropped on request"
            await connection.close(fault.code, why)

    def _freeze(self, connection: Connection, seconds: float) -> None:
        """Nothing goes out and nothing is read; nobody notices before TCP does, `seconds` later."""
        connection.frozen = True
        connection.transport.pause_reading()
        self.leave(connection)
        self._frozen = [other for other in self._frozen if not other.transport.is_closing()] + [connection]
        asyncio.get_running_loop().call_later(seconds, connection.transport.abort)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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


async def _close_later(connection: Connection, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await connection.close(GOING_AWAY, "service upgrade")
