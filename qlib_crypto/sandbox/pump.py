"""The pump: it moves market time through the streams of all connections."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from qlib_crypto.clock import MINUTE_MS, SECOND_MS
from qlib_crypto.sandbox.faults import GOING_AWAY
from qlib_crypto.sandbox.hub import NOTICE, Connection, Hub
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.wire import Event, by_time
from qlib_crypto.symbols import Venue

#: Rows of one burst at maximum speed: some 100 KB, so that pings and REST are served in between.
BURST_ROWS = 512
#: OKX closes a client that lets this much pile up with 4005, "buffer is full"; at maximum speed we wait instead.
OVERFLOW = 32 * 1024 * 1024
TOO_SLOW = 4005
#: At maximum speed a maintenance window lasts this long, wall time: there is nobody left to pace the clock.
OUTAGE_WALL_S = 0.5
NOTICE_MS = 60 * SECOND_MS
_FASTEST_TICK_S, _SLOWEST_TICK_S = 0.02, 0.25


class Pump:
    """The task that pushes what the clock has passed, or at maximum speed moves the clock by what sockets take.

    At maximum speed the clock moves only while somebody listens (`Hub.listening`), and only after every socket took
    the burst: REST is never ahead of the streams, a client that reconnects misses nothing but what was in flight, and
    the slowest reader sets the pace.
    """

    def __init__(self, hub: Hub, markets: Mapping[Venue, Market]) -> None:
        self._hub = hub
        self._clock = hub.clock
        self._markets = markets
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
            connection.late.clear()
            self._hub.push(connection, [e for s in connection.streams.values() for e in s.start(now)], now)

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
        if self._clock.at_end or not self._hub.listening or self._hub.stalled:
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
        events: list[Event] = []
        for stream in connection.streams.values():
            if stream.due_ms <= to_ms:
                events += stream.events(to_ms, quiet_ms)
        events.sort(key=by_time)
        self._hub.push(connection, events, to_ms)

    def _note_end(self) -> None:
        waits = any(c.waiting or c.kept for c in self._hub.connections)
        self.finished = self._clock.at_end and not waits

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
