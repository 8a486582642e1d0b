"""The collector: a venue's stream into the lake, and REST for whatever the stream missed or does not bring.

Threads: the stream (asyncio) hands rows to `Intake`; this one stores them, a transaction a batch, and watches for what
is missing; one `Worker` asks REST for candles and settlements, another for the other series and seals.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from qlib_crypto.clock import HOUR_MS, MINUTE_MS, Clock, day_start, iso
from qlib_crypto.collect.coverage import Coverage
from qlib_crypto.collect.disk import will_pass
from qlib_crypto.collect.fill import Filler
from qlib_crypto.collect.following import Following, Membership, followed_from, recent_leavers
from qlib_crypto.collect.intake import Intake
from qlib_crypto.collect.listed import Listings
from qlib_crypto.collect.market_time import MarketTime
from qlib_crypto.collect.memory import give_back
from qlib_crypto.collect.parts import CollectSummary, Pace, Stream, StreamThread, stopped_by_signals
from qlib_crypto.collect.report import Report
from qlib_crypto.collect.series import FUNDING, STREAMED, candles, polled, time_of
from qlib_crypto.collect.status import only_collector
from qlib_crypto.collect.tasks import ATTEMPTS, Tasks
from qlib_crypto.collect.worker import Work, Worker
from qlib_crypto.errors import StorageError, VenueError, counted
from qlib_crypto.feeds import RestClient, VenueStream
from qlib_crypto.lake import Lake
from qlib_crypto.schemas import Bar, Estimate, Row
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval

_STOP_S = 15.0
#: A day is sealed this long after it ended, so that its last bars are in.
_SEAL_DELAY_MS = 2 * MINUTE_MS
#: The instruments table is looked at so often, market time: one request; margin tiers of newcomers, or of a new day.
_SPECS_MS = 5 * MINUTE_MS
#: At the end nobody waits longer for a series that the venue refused so often.
_VAIN = 5


def collect(
    lake: Lake,
    client: RestClient,
    settings: VenueSettings,
    instruments: Sequence[Instrument],
    interval: Interval,
    *,
    clock: Clock,
    membership: Path | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    stop: threading.Event | None = None,
    say: Callable[[str], None] = lambda _line: None,
    status: Callable[[str], None] = lambda _line: None,
    pace: Pace | None = None,
    stream: Callable[..., Stream] = VenueStream,
) -> CollectSummary:
    """Collect what the settings name into the lake until stopped; on return every row is durable and sealed.

    Candles and funding estimates come by stream, and by REST at the start and after every gap; settlements by REST
    when an estimate moves on to the next one; mark and index candles, open interest and ratios by REST every five
    market minutes. What the venue itself does not have is asked for twice and then kept as a hole with its cause. Days
    are sealed as they end. A full disk is waited for. SIGINT and SIGTERM stop it cleanly in the main thread.

    Parameters
    ----------
    lake, client, settings
        Where rows go, and where they come from: `settings` holds the websocket's address and the datasets.
    instruments, interval
        What to follow. A contract that is not listed yet is followed from its listing on, one that is delisted until
        then, and a contract that uses its ticker again after it.
    clock
        Market time: decides which rows are due and which days have ended. When it jumps, the venue's time counts.
    membership
        A file as `lake.universe_file` writes it; when it changes, its instruments are followed instead, newcomers with
        their last days, and who left for `settings.grace_hours` more.
    since_ms
        Also fetch what the lake lacks from here on. In any case a collector goes on where each instrument was complete
        when the one before stopped (`Lake.mark`), else after its last bar, else with the ranking or the stream.
    until_ms
        Stop by itself once every row that closes by then is there or known to be missing.
    stop
        Set it to stop.
    say, status
        Get one line for each event or trouble, and now and then one with the state.
    pace, stream
        For tests: how often to look around, and what makes the stream.

    Raises
    ------
    StorageError
        Another process collects this venue into this lake, or the disk refused for good; what was stored is kept, and
        the next run fetches what is missing.
    VenueError
        The venue does not say its time at the start.
    ConfigError
        Instruments or interval are not the venue's.

    """
    stop = stop or threading.Event()
    with only_collector(lake, client.venue), stopped_by_signals(stop):
        collector = _Collector(lake, client, settings, interval, clock, until_ms, say, status, pace)
        return collector.run(stream, instruments, membership, since_ms, stop)


class _Collector:
    def __init__(
        self,
        lake: Lake,
        client: RestClient,
        settings: VenueSettings,
        interval: Interval,
        clock: Clock,
        until_ms: int | None,
        say: Callable[[str], None],
        status: Callable[[str], None],
        pace: Pace | None,
    ) -> None:
        self._lake, self._client, self._settings, self._interval = lake, client, settings, interval
        self._until_ms, self._say = until_ms, say
        self._pace = pace or Pace().scaled(settings.timer_scale)
        self._time = MarketTime(clock, client.server_time_ms, say)
        self._listings = Listings(lake, client)
        self._filler = Filler(lake, client, say, lambda: self._coverage.instruments, self._now_ms)
        self._tasks = Tasks(self._filler, self._listings, say, self._now_ms)
        self._candles, others = candles(interval), polled(settings.datasets)
        self._intake = Intake(lake, self._filler.tally, self._candles.dataset, say)
        tasks = self._tasks
        urgent: dict[str, Work] = {"specs": tasks.refresh, self._candles.dataset: tasks.filling(self._candles)}
        urgent |= {"settled": tasks.settled, FUNDING: tasks.funding}
        steady: dict[str, Work] = {series.dataset: tasks.filling(series) for series in others}
        steady |= {"tiers": tasks.tiers, "seal": tasks.seal}
        self._urgent, self._steady = (
            Worker(kinds, say, self._now_ms, attempts=ATTEMPTS, first_wait_s=self._pace.retry_s)
            for kinds in (urgent, steady)
        )
        self._kinds = set(steady)
        self._coverage = Coverage(lake, self._candles, others, self._listings, self._ask, self._reconnects)
        self._stream: Stream | None = None
        self._day = self._specs_ms = self._revived = 0
        self._report = Report(lake, client.venue, interval, self._filler.tally, self._intake, say, status)

    def _now_ms(self) -> int:
        return self._time.now_ms

    def _reconnects(self) -> int:
        return int(self._stream.counters.reconnects) if self._stream is not None else 0

    def _ask(self, kind: str, instrument: Instrument | None, start_ms: int, end_ms: int, cause: str = "") -> None:
        worker = self._steady if kind in self._kinds else self._urgent
        worker.ask(kind, instrument, start_ms, end_ms, cause)

    def run(
        self,
        make_stream: Callable[..., Stream],
        instruments: Sequence[Instrument],
        membership: Path | None,
        since_ms: int | None,
        stop: threading.Event,
    ) -> CollectSummary:
        venue, now_ms, grace_ms = self._client.venue, self._time.now_ms, round(self._settings.grace_hours * HOUR_MS)
        try:
            self._listings.refresh(now_ms)
        except (VenueError, StorageError) as error:
            self._say(f"the instruments table is as the lake knows it: {error}")
            self._ask("specs", None, 0, 0)
        leavers = recent_leavers(self._lake, venue, self._settings, now_ms) if membership else {}
        self._following = Following(instruments, self._listings, grace_ms, leavers)
        first = self._following.now(now_ms)
        self._stream = stream = make_stream(
            venue, self._settings, first, self._interval, on_row=self._intake.put, on_problem=self._say,
            datasets=[name for name in self._settings.datasets if name in STREAMED],
            contract_values=self._listings.contract_value,
        )  # fmt: skip
        watch = Membership(membership, venue, self._say) if membership else None
        self._time.start()
        self._day, self._specs_ms = day_start(now_ms - _SEAL_DELAY_MS), now_ms
        last = {instrument: self._lake.last_open(instrument, self._interval) for instrument in first}
        self._filler.tally.newest |= {instrument: at for instrument, at in last.items() if at is not None}
        begin = followed_from(self._lake, venue, self._interval, membership, now_ms)
        self._coverage.follow(first, now_ms, since_ms=since_ms, new_ms=begin)
        self._ask("tiers", None, 0, 0)
        streaming = StreamThread(stream)
        self._urgent.start()
        self._steady.start()
        streaming.start()
        try:
            self._loop(stream, watch, streaming, stop)
        finally:
            streaming.end(stream)
            files = self._close()
        return self._report.summary(len(files))

    def _loop(self, stream: Stream, watch: Membership | None, streaming: StreamThread, stop: threading.Event) -> None:
        look = status = 0.0
        while not stop.is_set():
            self._store()
            streaming.check()
            self._urgent.check()
            self._steady.check()
            now = time.monotonic()
            if now - look >= self._pace.look_s:
                look = now
                self._look(stream, watch, now)
                if self._finished():
                    self._tasks.tell_lacking()
                    self._say(f"reached {iso(self._until_ms or 0)}")
                    return
            if now - status >= self._pace.status_s:
                status = now
                self._tasks.tell_lacking(at_once=False)
                self._tell(running=True)
                give_back()

    def _store(self, wait_s: float = 0.1) -> int:
        """Make what came durable, then see what it tells about missing bars and due settlements."""
        rows = self._intake.next(self._belongs, wait_s=wait_s)
        now_s = time.monotonic()
        for row in rows:
            if isinstance(row, Bar):
                self._coverage.came(row, now_s)
            elif isinstance(row, Estimate):
                self._coverage.funding.seen(row)
        return len(rows)

    def _belongs(self, row: Row) -> bool:
        """False for what a ticker says after its contract has ended: it is another contract's, fetched for that."""
        end = self._listings.end_ms(row.instrument)
        if end is None or time_of(row) < end:
            return True
        self._specs_ms = 0
        return False

    def _look(self, stream: Stream, watch: Membership | None, now_s: float) -> None:
        """Follow whom to follow, ask for what is due and has not come, revive what is dead, seal days that ended."""
        now_ms = self._time.now_ms if self._until_ms is None else min(self._time.now_ms, self._until_ms)
        if (wanted := watch.changed() if watch else None) is not None:
            self._following.change(wanted, now_ms)
        if now_ms - self._specs_ms >= _SPECS_MS:
            self._specs_ms = now_ms
            self._ask("specs", None, 0, 0)
            self._ask("tiers", None, 0, 0)
        try:
            current = self._following.now(now_ms)
            if set(current) != set(self._coverage.instruments):
                self._coverage.follow(current, now_ms)
                stream.replace(current)
            self._coverage.look(now_ms, now_s, self._pace.grace_s)
            self._coverage.keep_marks([self._urgent.unfinished(), self._steady.unfinished()])
        except StorageError as error:
            if not will_pass(error):
                raise
        if dead := self._coverage.dead(self._filler.tally.newest, now_s, self._pace.revive_s):
            self._revived += len(dead)
            self._say(f"{counted(len(dead), 'feed')} silent while REST has bars, such as {dead[0]}; opened anew")
            stream.revive(dead)
        if (day := day_start(now_ms - _SEAL_DELAY_MS)) > self._day:
            self._day = day
            self._ask("seal", None, 0, day)

    def _finished(self) -> bool:
        until = self._until_ms
        if until is None or self._time.now_ms < until or self._intake.waiting:
            return False
        if not self._coverage.finish(until):
            return False
        # a hole that has not settled by then stays open for the next collector
        return self._urgent.pending_at(until) + self._steady.pending_at(until, _VAIN) == 0

    def _close(self) -> list[Path]:
        """Everything that arrived, stored and sealed."""
        self._time.stop()
        while self._store(wait_s=0.0):
            pass
        workers = self._urgent, self._steady
        stopped = [worker.stop(_STOP_S) for worker in workers]
        if not all(stopped):
            self._say("a REST request has not ended")
        self._coverage.keep_marks([worker.unfinished() for worker in workers])
        if left := self._coverage.incomplete(self._time.now_ms):
            self._say(f"{counted(left, 'instrument')} not complete yet; the next collector goes on there")
        files = self._lake.seal(self._client.venue)
        self._tasks.tell_lacking()
        self._tell(running=False)
        for worker in workers:
            worker.check()
        return files

    def _tell(self, *, running: bool) -> None:
        queue = self._urgent.pending + self._steady.pending
        counters = dataclasses.asdict(self._stream.counters) if self._stream else {}
        self._report.tell(self._now_ms(), self._coverage.instruments, counters, queue, self._revived, running=running)
