"""The websocket side of a venue as bars and estimates: subscribes, converts, reconnects, re-plans."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import batched
from typing import Any

from cryptofeed.defines import CANDLES, FUNDING

from qlib_crypto.clock import MINUTE_MS, SECOND_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds.binance import BinanceUsdm
from qlib_crypto.feeds.links import Gate, Pace
from qlib_crypto.feeds.okx import OkxSwap
from qlib_crypto.feeds.public_feed import PublicFeed
from qlib_crypto.schemas import Estimate, Row
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue, venue_bar

#: The feed of each venue; a third venue is one more row.
FEEDS: dict[Venue, type[PublicFeed]] = {Venue.OKX: OkxSwap, Venue.BINANCE: BinanceUsdm}


class VenueStream:
    """Confirmed bars and running funding estimates of some instruments, live.

    Parameters
    ----------
    settings
        `ws_url` may be `ws://` (loopback) or `wss://`.
    instruments, interval
        What to follow; both may be on any number of connections.
    on_row
        Gets each confirmed bar once, as the venue confirms it, quote volume and trades included where it has them.
        What a connection misses while it is down is missing here too: fill it over REST. Gets an instrument's running
        rate (`Estimate`) once a market minute, and at once when `settles_ms` moves on: then a settlement has
        happened, whose rate must be read over REST. No settlement is ever made from an estimate.
    on_problem
        Gets one line for each trouble, errors of the other included; none of them stops the stream.

    Notes
    -----
    The two are plain functions that hand off and return at once: they run in the event loop. `stop` and `replace`
    may be called from any thread. A stream runs once.

    Raises
    ------
    ConfigError
        An instrument is of another venue, or the venue serves no such interval.

    """

    def __init__(
        self,
        venue: Venue,
        settings: VenueSettings,
        instruments: Iterable[Instrument],
        interval: Interval,
        *,
        on_row: Callable[[Row], None],
        on_problem: Callable[[str], None],
        pace: Pace | None = None,
    ) -> None:
        venue_bar(venue, interval)
        self._venue = venue
        self._ws_url = settings.ws_url
        self._interval = interval
        self._on_row = on_row
        self._on_problem = on_problem
        self._pace = pace or Pace()
        self._kind = FEEDS[venue]
        self._wanted = self._checked(instruments)
        self._members: dict[str, Instrument] = {}
        self._feeds: dict[PublicFeed, list[Instrument]] = {}
        self._last_bar: dict[Instrument, tuple[Any, ...]] = {}
        self._last_estimate: dict[Instrument, Estimate] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Stream until `stop`, or until cancelled; nothing is left running afterwards."""
        self._loop = asyncio.get_running_loop()
        gate = Gate(self._pace.spacing_s)
        try:
            while not self._stopping:
                self._changed.clear()
                await self._plan(gate)
                await self._changed.wait()
        finally:
            await asyncio.gather(*(feed.shutdown() for feed in self._feeds))
            self._feeds.clear()

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping = True
        self._wake()

    def replace(self, instruments: Iterable[Instrument]) -> None:
        """Follow these instead; the streams of those that stay go on undisturbed.

        Raises
        ------
        ConfigError
            An instrument is of another venue.

        """
        self._wanted = self._checked(instruments)
        self._wake()

    def _checked(self, instruments: Iterable[Instrument]) -> tuple[Instrument, ...]:
        wanted = tuple(dict.fromkeys(instruments))
        for instrument in wanted:
            if instrument.venue is not self._venue:
                raise ConfigError(f"{instrument} does not trade on {self._venue}; give it to that venue's stream")
        return wanted

    def _wake(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: run() has returned
                self._loop.call_soon_threadsafe(self._changed.set)

    async def _plan(self, gate: Gate) -> None:
        """Make the feeds carry what is wanted: leave, fill up, and open new ones for the rest."""
        wanted = {i.cryptofeed: i for i in self._wanted}
        new = [i for name, i in wanted.items() if name not in self._members]
        self._members = wanted
        for feed, carried in tuple(self._feeds.items()):
            stay = [i for i in carried if i.cryptofeed in wanted]
            room = self._kind.capacity - len(stay)
            add, new = new[:room], new[room:]
            drop = [i for i in carried if i.cryptofeed not in wanted]
            self._feeds[feed] = stay + add
            if not self._feeds[feed]:
                del self._feeds[feed]
                await feed.shutdown()
            elif add or drop:
                await feed.change(add, drop)
        for some in batched(new, self._kind.capacity):
            self._open(some, gate)

    def _open(self, instruments: Sequence[Instrument], gate: Gate) -> None:
        feed = self._kind(
            self._ws_url,
            instruments,
            self._interval,
            callbacks={CANDLES: self._candle, FUNDING: self._funding},
            on_problem=self._on_problem,
            gate=gate,
            pace=self._pace,
        )
        self._feeds[feed] = list(instruments)
        feed.start(asyncio.get_running_loop())

    async def _candle(self, candle: Any, received_s: float) -> None:
        instrument = self._members.get(candle.symbol)
        bar = instrument and self._kind.bar(instrument, self._interval, candle.raw, int(received_s * SECOND_MS))
        if not instrument or not bar:
            return
        values = bar[:-1]  # all but when it was received
        if self._last_bar.get(instrument) != values:
            self._last_bar[instrument] = values
            self._on_row(bar)

    async def _funding(self, funding: Any, received_s: float) -> None:
        instrument = self._members.get(funding.symbol)
        estimate = instrument and self._kind.estimate(instrument, funding.raw, int(received_s * SECOND_MS))
        if not instrument or not estimate:
            return
        last = self._last_estimate.get(instrument)
        minute = estimate.time_ms // MINUTE_MS
        if last is None or last.settles_ms != estimate.settles_ms or last.time_ms // MINUTE_MS != minute:
            self._last_estimate[instrument] = estimate
            self._on_row(estimate)
