"""The websocket side of a venue as rows: subscribes, converts, reconnects, re-plans."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import batched
from typing import Any

from cryptofeed.defines import CANDLES, FUNDING

from qlib_crypto.clock import MINUTE_MS, SECOND_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds.links import Gate, Pace
from qlib_crypto.feeds.public_feed import ROW, STREAMED, ContractValues, PublicFeed
from qlib_crypto.feeds.telling import Repeats, StreamCounters
from qlib_crypto.feeds.venues import VENUES
from qlib_crypto.schemas import Bar, Estimate, Row
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue, venue_bar

#: Bars of an instrument that are remembered, so that one that comes again or out of turn is known.
_REMEMBERED = 8


class VenueStream:
    """Confirmed bars, running funding estimates, and what else is wanted, of some instruments, live.

    Parameters
    ----------
    settings
        `ws_url` may be `ws://` (loopback) or `wss://`; `proxy`, `book_depth` and `book_every_s` are used too.
    instruments, interval
        What to follow; both may be on any number of connections.
    on_row
        Gets each confirmed bar once, as the venue confirms it, quote volume and trades included where it has them, and
        once more when the venue confirms other values for it.
        What a connection misses while it is down is missing here too: fill it over REST. Gets an instrument's running
        rate (`Estimate`) once a market minute, and at once when `settles_ms` moves on: then a settlement has
        happened, whose rate must be read over REST. No settlement is ever made from an estimate. Gets what is in
        `datasets` as it comes, books one in `settings.book_every_s` market seconds and instrument.
    on_problem
        Gets one line for each trouble, errors of the other included; none of them stops the stream. What may repeat
        itself (frames of another shape, instruments that nobody asked for, errors that the venue sends) is told once a
        minute and cause, and counted in `counters`.
    datasets
        Those of `liquidations`, `trades` and `books` that are wanted; other names are passed over, for what they name
        comes over REST.
    contract_values
        Base coins in one contract, for venues that count in contracts (OKX); None leaves the row out and is told.

    Attributes
    ----------
    counters
        What happened so far.

    Notes
    -----
    All three are plain functions that hand off and return at once: they run in the event loop. `stop`, `replace` and
    `revive` may be called from any thread. A stream runs once.

    Raises
    ------
    ConfigError
        An instrument is of another venue, the venue serves no such interval, or no books so deep.

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
        datasets: Sequence[str] = (),
        contract_values: ContractValues = lambda _: None,
        pace: Pace | None = None,
    ) -> None:
        venue_bar(venue, interval)
        self.counters = StreamCounters()
        self._venue = venue
        self._settings = settings
        self._interval = interval
        self._on_row = on_row
        self._on_problem = on_problem
        self._datasets = tuple(name for name in STREAMED if name in datasets)
        self._contract_values = contract_values
        self._pace = pace or Pace().scaled(settings.timer_scale)
        self._repeats = Repeats()
        self._kind = VENUES[venue].feed
        if "books" in self._datasets:
            self._kind.check_depth(settings.book_depth)
        self._capacity = self._kind.capacity(self._datasets)
        self._wanted = self._checked(instruments)
        self._members: dict[str, Instrument] = {}
        self._feeds: dict[PublicFeed, list[Instrument]] = {}
        self._to_revive: set[str] = set()
        self._recent: dict[Instrument, dict[int, tuple[Any, ...]]] = {}
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

    def revive(self, instruments: Iterable[Instrument]) -> None:
        """Give these a fresh connection of their own: their feed is dead although its socket lives.

        The others on their old connection are not disturbed; what is not followed is passed over.
        """
        names = [i.cryptofeed for i in instruments]
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: run() has returned
                self._loop.call_soon_threadsafe(self._to_revive.update, names)
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
        """Make the feeds carry what is wanted: leave, fill up, and open new ones for the rest and what is revived."""
        wanted = {i.cryptofeed: i for i in self._wanted}
        revived = [i for name, i in wanted.items() if name in self._to_revive and name in self._members]
        self._to_revive.clear()
        new = [i for name, i in wanted.items() if name not in self._members]
        self._members = wanted
        stays = {i.cryptofeed for i in wanted.values()} - {i.cryptofeed for i in revived}
        for feed, carried in tuple(self._feeds.items()):
            stay = [wanted[i.cryptofeed] for i in carried if i.cryptofeed in stays]
            feed.rename(stay)
            room = self._capacity - len(stay) if stay else 0
            add, new = new[:room], new[room:]
            drop = [i for i in carried if i.cryptofeed not in stays]
            self._feeds[feed] = stay + add
            if not self._feeds[feed]:
                del self._feeds[feed]
                await feed.shutdown()
            elif add or drop:
                await feed.change(add, drop)
        for some in batched(revived + new, self._capacity):
            self._open(some, gate)

    def _open(self, instruments: Sequence[Instrument], gate: Gate) -> None:
        feed = self._kind(
            self._settings,
            instruments,
            self._interval,
            callbacks={CANDLES: self._candle, FUNDING: self._funding, ROW: self._other},
            on_problem=self._on_problem,
            datasets=self._datasets,
            contract_values=self._contract_values,
            gate=gate,
            pace=self._pace,
            counters=self.counters,
            repeats=self._repeats,
        )
        self._feeds[feed] = list(instruments)
        feed.start(asyncio.get_running_loop())

    async def _candle(self, candle: Any, received_s: float) -> None:
        instrument = self._members.get(candle.symbol)
        bar = instrument and self._kind.bar(instrument, self._interval, candle.raw, int(received_s * SECOND_MS))
        if instrument and bar and self._is_news(instrument, bar):
            self._hand_over(bar)

    def _is_news(self, instrument: Instrument, bar: Bar) -> bool:
        """Whether this is not one of the last bars again, however late and in which order they come."""
        values = bar[:-1]  # all but when it was received
        recent = self._recent.setdefault(instrument, {})
        if recent.get(bar.open_ms) == values:
            return False
        recent[bar.open_ms] = values
        if len(recent) > _REMEMBERED:
            del recent[min(recent)]
        return True

    async def _funding(self, funding: Any, received_s: float) -> None:
        instrument = self._members.get(funding.symbol)
        estimate = instrument and self._kind.estimate(instrument, funding.raw, int(received_s * SECOND_MS))
        if not instrument or not estimate:
            return
        last = self._last_estimate.get(instrument)
        minute = estimate.time_ms // MINUTE_MS
        if last is None or last.settles_ms != estimate.settles_ms or last.time_ms // MINUTE_MS != minute:
            self._last_estimate[instrument] = estimate
            self._hand_over(estimate)

    async def _other(self, row: Row, _received_s: float) -> None:
        self._hand_over(row)

    def _hand_over(self, row: Row) -> None:
        self.counters.rows += 1
        self._on_row(row)
