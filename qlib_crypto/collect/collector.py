"""The collector: a venue's stream into the lake, and REST for whatever the stream missed.

Three threads: the stream (asyncio) hands rows to a queue; this one stores them, a transaction a batch, and watches
for what is missing; `Worker` asks REST and seals. A bar counts as covered once the stream gave it or REST was asked.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, Clock, day_start, iso
from qlib_crypto.collect.fill import Filler
from qlib_crypto.collect.parts import (
    CollectSummary,
    MarketTime,
    Membership,
    Pace,
    Stream,
    StreamThread,
    stopped_by_signals,
)
from qlib_crypto.collect.worker import Worker
from qlib_crypto.errors import counted
from qlib_crypto.feeds import RestClient, VenueStream
from qlib_crypto.lake import Lake
from qlib_crypto.lake.checks import sift
from qlib_crypto.schemas import Bar, Estimate, Row
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval

_BATCH = 20_000
_TAKE_S = 0.1
_STOP_S = 15.0
#: A day is sealed this long after it ended, so that its last bars are in.
_SEAL_DELAY_MS = 2 * MINUTE_MS


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
    """Stream confirmed bars and funding into the lake until stopped; on return every row is durable and sealed.

    At the start and after every gap the missing bars come by REST, settlements when an estimate moves on to the next
    one. Days are sealed as they end. SIGINT and SIGTERM stop it cleanly when it runs in the main thread.

    Parameters
    ----------
    lake, client, settings
        Where rows go, and where they come from: `settings` holds the websocket's address.
    instruments, interval
        What to follow.
    clock
        Market time: decides which bars are due and which days have ended.
    membership
        A file as `lake.universe_file` writes it; when it changes, its instruments are followed instead.
    since_ms
        Also fetch what the lake lacks from here on. In any case a collector goes on where each instrument was complete
        when the one before stopped (`Lake.mark`), else after its last bar, else with the stream.
    until_ms
        Stop by itself once every bar that closes by then is there or known to be missing.
    stop
        Set it to stop.
    say, status
        Get one line for each event or trouble, and now and then one with the state.
    pace, stream
        For tests: how often to look around, and what makes the stream.

    Raises
    ------
    StorageError
        The disk refused; what was stored is kept, and the next run fetches what is missing.
    ConfigError
        Instruments or interval are not the venue's.

    """
    stop = stop or threading.Event()
    collector = _Collector(lake, client, settings, interval, clock, since_ms, until_ms, say, status, pace or Pace())
    with stopped_by_signals(stop):
        return collector.run(stream, instruments, membership, stop)


class _Collector:
    def __init__(
        self,
        lake: Lake,
        client: RestClient,
        settings: VenueSettings,
        interval: Interval,
        clock: Clock,
        since_ms: int | None,
        until_ms: int | None,
        say: Callable[[str], None],
        status: Callable[[str], None],
        pace: Pace,
    ) -> None:
        self._lake, self._client, self._settings, self._interval = lake, client, settings, interval
        self._since_ms, self._until_ms = since_ms, until_ms
        self._say, self._status, self._pace = say, status, pace
        self._time = MarketTime(clock, say)
        self._inbox: queue.SimpleQueue[Row] = queue.SimpleQueue()
        self._filler = Filler(lake, client, interval, say, lambda: self._time.now_ms)
        kinds = {
            "specs": self._filler.refresh,
            "bars": self._filler.fill,
            "settled": self._filler.settled,
            "funding": self._filler.catch_up,
            "seal": self._filler.seal,
        }
        self._worker = Worker(kinds, say, first_wait_s=pace.retry_s)
        #: Bars before this were given by the stream or asked over REST.
        self._covered: dict[Instrument, int] = {}
        self._marks: dict[Instrument, int] = {}
        self._overdue: dict[Instrument, tuple[int, float]] = {}
        #: Settlements before this are stored or asked for, and when the last estimate said that the next is due.
        self._funded: dict[Instrument, int] = {}
        self._due: dict[Instrument, int] = {}
        self._day = 0
        self._bars = self._estimates = self._refused = self._newest = 0

    def run(
        self,
        make_stream: Callable[..., Stream],
        instruments: Sequence[Instrument],
        membership: Path | None,
        stop: threading.Event,
    ) -> CollectSummary:
        stream = make_stream(
            self._client.venue, self._settings, instruments, self._interval,
            on_row=self._inbox.put, on_problem=self._say,
        )  # fmt: skip
        watch = Membership(membership, self._client.venue, self._say) if membership else None
        self._time.start()
        self._day = day_start(self._time.now_ms - _SEAL_DELAY_MS)
        self._worker.ask("specs", None, 0, 0)
        self._follow(instruments)
        streaming = StreamThread(stream)
        self._worker.start()
        streaming.start()
        try:
            self._loop(stream, watch, streaming, stop)
        finally:
            streaming.end(stream)
            files = self._close()
        return CollectSummary(
            self._bars, self._filler.bars, self._filler.settlements, self._estimates, self._refused, len(files)
        )

    def _loop(self, stream: Stream, watch: Membership | None, streaming: StreamThread, stop: threading.Event) -> None:
        look = status = 0.0
        while not stop.is_set():
            self._store(self._take())
            streaming.check()
            self._worker.check()
            now = time.monotonic()
            if now - look >= self._pace.look_s:
                look = now
                changed = watch.changed() if watch else None
                if changed:
                    self._follow(changed)
                    stream.replace(changed)
                self._look(now)
                if self._finished():
                    self._filler.tell_lacking()
                    self._say(f"reached {iso(self._until_ms or 0)}")
                    return
            if now - status >= self._pace.status_s:
                status = now
                self._filler.tell_lacking()
                self._status(self._line())

    def _close(self) -> list[Path]:
        """Everything that arrived, stored and sealed."""
        self._time.stop()
        while rows := self._take(wait_s=0.0):
            self._store(rows)
        if not self._worker.stop(_STOP_S):
            self._say("a REST request has not ended")
        self._keep_marks()
        if left := sum(self._marks[instrument] < covered for instrument, covered in self._covered.items()):
            self._say(f"{counted(left, 'instrument')} not complete yet; the next collector goes on there")
        files = self._lake.seal(self._client.venue)
        self._filler.tell_lacking()
        self._status(self._line())
        return files

    def _take(self, wait_s: float = _TAKE_S) -> list[Row]:
        rows: list[Row] = []
        with contextlib.suppress(queue.Empty):
            if wait_s:
                rows.append(self._inbox.get(timeout=wait_s))
            while len(rows) < _BATCH:
                rows.append(self._inbox.get_nowait())
        return rows

    def _store(self, rows: list[Row]) -> None:
        """Make a batch durable, then see what it tells about missing bars and due settlements."""
        bars, wrong_bars = sift(row for row in rows if isinstance(row, Bar))
        estimates, wrong_estimates = sift(row for row in rows if isinstance(row, Estimate))
        for line in wrong_bars + wrong_estimates:
            self._refused += 1
            self._say(line)
        self._bars += self._lake.store(bars)
        self._newest = max([self._newest, *(bar.open_ms for bar in bars)])
        # of a minute the lake keeps the last one anyway
        sampled = {(row.instrument, row.time_ms // MINUTE_MS): row for row in estimates}
        self._estimates += self._lake.store(sampled.values())
        step = self._interval.ms
        for bar in bars:
            covered = self._covered.get(bar.instrument)
            if covered is None or bar.open_ms < covered:
                continue
            if bar.open_ms > covered:
                self._worker.ask("bars", bar.instrument, covered, bar.open_ms)
            self._covered[bar.instrument] = bar.open_ms + step
        for row in estimates:
            self._settle(row)

    def _settle(self, row: Estimate) -> None:
        """Ask for what settled since the last estimate, when this one leads to a later settlement."""
        complete, due = self._funded.get(row.instrument), self._due.get(row.instrument)
        if complete is None:
            return
        if row.settles_ms > complete:
            last = row.settles_ms - round((row.interval_hours or 0.0) * HOUR_MS)
            passed = last if complete <= last <= row.time_ms else due
            if passed is not None:
                self._worker.ask("settled", row.instrument, complete - DAY_MS, passed)
            # an outage, in which more than one may have settled, or the first estimate: nothing said what was due
            if row.time_ms - complete > HOUR_MS or (due is None and complete // HOUR_MS < row.time_ms // HOUR_MS):
                self._worker.ask("funding", row.instrument, complete - DAY_MS, row.time_ms)
        self._funded[row.instrument] = self._due[row.instrument] = row.settles_ms

    def _follow(self, instruments: Sequence[Instrument]) -> None:
        """Cover these instruments from their last bar on, and no others."""
        now_ms = self._time.now_ms
        closed = self._interval.floor(now_ms)
        begun: dict[Instrument, int] = {}
        for gone in set(self._covered).difference(instruments):
            del self._covered[gone]
            self._funded.pop(gone, None)
            self._due.pop(gone, None)
        for instrument in instruments:
            if instrument in self._covered:
                continue
            begin = self._resume(instrument, closed)
            if begin < closed:
                self._worker.ask("bars", instrument, begin, closed)
            self._covered[instrument] = max(begin, closed)
            self._worker.ask("funding", instrument, min(begin, now_ms - DAY_MS), now_ms)
            self._funded[instrument] = now_ms
            begun[instrument] = begin
        self._lake.store_marks(begun, self._interval)  # before the first bar, after which the span would look complete
        self._marks |= begun

    def _resume(self, instrument: Instrument, closed: int) -> int:
        """The first bar that may be missing; the worker fetches only what the lake lacks."""
        begin = self._lake.mark(instrument, self._interval)
        if begin is None:
            last = self._lake.last_open(instrument, self._interval)
            begin = closed if last is None else last + self._interval.ms
        return begin if self._since_ms is None else min(begin, self._interval.floor(self._since_ms))

    def _keep_marks(self) -> None:
        """Make durable how far the instruments are complete: bars and settlements, with nothing asked for any more."""
        behind = self._worker.unfinished
        moved = {}
        for instrument, covered in self._covered.items():
            mark = min(covered, self._interval.floor(self._funded[instrument]))
            if instrument not in behind and mark != self._marks.get(instrument):
                moved[instrument] = mark
        self._lake.store_marks(moved, self._interval)
        self._marks |= moved

    def _look(self, now_s: float) -> None:
        """Ask for bars that are due and have not come, refresh specs and seal when a day has ended."""
        now_ms = self._time.now_ms
        if self._until_ms is not None:
            now_ms = min(now_ms, self._until_ms)
        due = self._interval.floor(now_ms)
        for instrument, covered in self._covered.items():
            if covered >= due:
                self._overdue.pop(instrument, None)
                continue
            seen, since_s = self._overdue.get(instrument, (-1, now_s))
            if seen != covered:
                self._overdue[instrument] = (covered, now_s)
            elif now_s - since_s >= self._pace.grace_s:
                self._worker.ask("bars", instrument, covered, due)
                self._covered[instrument] = due
        day = day_start(now_ms - _SEAL_DELAY_MS)
        if day > self._day:
            self._day = day
            self._worker.ask("seal", None, 0, day)
            self._worker.ask("specs", None, 0, 0)
        self._keep_marks()

    def _finished(self) -> bool:
        until = self._until_ms
        if until is None or self._time.now_ms < until or not self._inbox.empty():
            return False
        if any(covered < self._interval.floor(until) for covered in self._covered.values()):
            return False
        for instrument, complete in tuple(self._funded.items()):
            if complete <= until:
                self._worker.ask("funding", instrument, complete - DAY_MS, until)
                self._funded[instrument] = until + 1
        return self._worker.pending == 0

    def _line(self) -> str:
        return (
            f"{self._client.venue} at {iso(self._time.now_ms)}: {counted(len(self._covered), 'instrument')}, newest "
            f"streamed bar {iso(self._newest) if self._newest else 'none yet'}, {self._bars:,} bars by stream and "
            f"{self._filler.bars:,} by REST, {counted(self._filler.settlements, 'settlement')}, "
            f"{counted(self._worker.pending, 'REST request')} queued"
        )
