"""The daemon: everything of a lake that has its time, done at its time, without anybody watching.

Three things go on beside one another, each in its own thread, so that none waits for another: the schedule (asks the
market clock what is due and puts it into the job table), the lanes (take jobs from the table and do them), and the
supervision of collectors. APScheduler is the alarm that wakes them. All work is done in child processes, which end with
the daemon however it ends; nothing here imports Qlib, and what was told to the table is never lost.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from qlib_crypto.clock import Clock, iso
from qlib_crypto.collect.status import CollectorStatus, read_status
from qlib_crypto.daemon.child import Child
from qlib_crypto.daemon.jobs import FILE, JobTable
from qlib_crypto.daemon.kinds import EACH
from qlib_crypto.daemon.lane import Lane, lanes
from qlib_crypto.daemon.leash import COLLECTOR_GRACE_S, GRACE_S
from qlib_crypto.daemon.lock import daemon_lock
from qlib_crypto.daemon.schedule import Scheduled, missing_workflows, scheduled
from qlib_crypto.daemon.supervise import Collector, Limits, end_all
from qlib_crypto.errors import ConfigError, QlibCryptoError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.universe_file import universe_path
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Venue

log = structlog.get_logger(__name__)

#: The same trouble is told again after so many wall seconds.
_QUIET_S = 60.0
#: Who waits for the alarm looks after so many wall seconds even without one.
_ASLEEP_S = 2.0
_BY_SCHEDULE, _BY_DAEMON = "schedule", "daemon"


@dataclass
class Daemon:
    """Collects, and does every scheduled and submitted job of one lake; `run` blocks until `stop`.

    Parameters
    ----------
    clock
        Makes the market clock; asked again while it cannot (the venue is out of reach).
    settings
        Where the lake is, what is due when.
    venues
        Which venues to collect and keep up.
    has_newer
        Asks a venue whether it has a bar that is newer than the newest of that status.
    options
        Options passed on to a command (`--config`, `--lake`, `--endpoint`, …).
    command
        The command line that work is started with; it must watch its standard input (`daemon.leash`).
    collect
        Whether to supervise collectors; False where something else does.
    beside
        Runs while the daemon does: metrics and alerts.
    tick_s
        Wall seconds between two looks at clock, table and collectors.
    limits
        When a collector counts as deaf.
    grace_s, collector_grace_s
        Wall seconds for a job's process, and for a collector, to end cleanly.

    """

    clock: Callable[[], Clock]
    settings: Settings
    venues: Sequence[Venue]
    has_newer: Callable[[CollectorStatus], bool]
    options: Callable[[str], Sequence[str]] = lambda _command: ()
    command: Sequence[str] = (sys.executable, "-m", "qlib_crypto.cli.leashed")
    collect: bool = True
    beside: Callable[[], AbstractContextManager[object]] = nullcontext
    tick_s: float = 0.25
    limits: Limits = field(default_factory=Limits)
    grace_s: float = GRACE_S
    collector_grace_s: float = COLLECTOR_GRACE_S
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        scale = min(self.settings.venue(venue).timer_scale for venue in self.venues)
        self._table = JobTable(self.settings.lake_dir / FILE, each=EACH, back_off_scale=scale)
        self._schedule = scheduled(self.settings.schedule, self.venues)
        self._lake = Lake(self.settings.lake_dir)
        self._woken = threading.Condition()
        self._fatal: ConfigError | None = None
        self._market: Clock | None = None
        self._submitted: dict[int, int | None] = {}
        self._ranked_again: set[Venue] = set()

    def stop(self) -> None:
        """Ask `run` to return; safe from any thread and from a signal handler."""
        self.stopping.set()

    def run(self) -> None:
        """Work until `stop()`; then end every child process cleanly.

        Raises
        ------
        StorageError
            Another daemon works on this lake, or the job table cannot be opened at the start.
        ConfigError
            The clock's or a job's settings are wrong.

        """
        # twice the grace time: a child that was orphaned has as long to end cleanly before it is killed
        with (
            daemon_lock(self.settings.lake_dir, wait_s=2 * GRACE_S, stopped=self.stopping.is_set) as keep,
            self.beside(),
        ):
            again = self._table.recover()
            log.info("daemon started", pid=os.getpid(), venues=", ".join(self.venues), jobs_taken_up=again)
            for workflow in missing_workflows(self.settings.schedule):  # no reason to collect nothing
                log.warning("a scheduled workflow does not exist, its runs will fail", workflow=workflow)
            collectors = [self._collector(venue, keep) for venue in self.venues if self.collect]
            work = lanes(self._table, self._start(keep), self.options, venues=self.venues, grace_s=self.grace_s)
            alarm = self._alarm()
            try:
                self._go_on(collectors, work)
            finally:
                self.stopping.set()
                alarm.shutdown(wait=False)
                self._end(collectors, work)
                self._table.close()
                self._lake.close()
                log.info("daemon stopped")
        if self._fatal is not None:
            raise self._fatal

    def _go_on(self, collectors: Sequence[Collector], work: Sequence[Lane]) -> None:
        # daemon threads: one that waits for a venue that does not answer must not keep the process from ending
        threading.Thread(target=self._loop, args=("schedule", self._submit_due), daemon=True).start()
        for lane in work:
            look = partial(lane.look, self.stopping)
            lane.thread = threading.Thread(target=self._loop, args=(lane.name, look), daemon=True)
            lane.thread.start()

        def supervise() -> None:
            for collector in collectors:
                collector.look()

        self._loop("supervision", supervise)

    def _loop(self, name: str, look: Callable[[], None]) -> None:
        """Look at every alarm until the daemon stops; trouble that may pass is told and looked at again."""
        told: tuple[str, float] = "", 0.0
        while not self.stopping.is_set():
            try:
                look()
            except ConfigError as error:
                self._fatal = error
                self.stop()
            except (QlibCryptoError, OSError) as error:
                now = time.monotonic()
                if str(error) != told[0] or now - told[1] >= _QUIET_S:
                    told = str(error), now
                    log.warning("trouble, tried again", of=name, error=str(error))
            except Exception:
                log.exception("unexpected fault, tried again", of=name)
                self.stopping.wait(1.0)
            with self._woken:
                self._woken.wait(_ASLEEP_S)

    def _alarm(self) -> BackgroundScheduler:
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        alarm = BackgroundScheduler(timezone="UTC")
        alarm.add_job(
            self._wake, "interval", seconds=self.tick_s, max_instances=1, coalesce=True, misfire_grace_time=None
        )
        alarm.start()
        return alarm

    def _wake(self) -> None:
        with self._woken:
            self._woken.notify_all()

    # ------------------------------------------------------------------------------------------------ the schedule

    def _submit_due(self) -> None:
        """Put into the table what became due; what was submitted before is known from there, so no start loses any."""
        if self._market is None:
            self._market = self.clock()
            log.info("market time", now=iso(self._market.now_ms()))
        now = self._market.now_ms()
        for entry in self._schedule:
            self._submit(entry, now)
        for venue in self.venues:
            self._rank_again(venue)

    def _submit(self, entry: Scheduled, now_ms: int) -> None:
        key = id(entry)
        if key not in self._submitted:
            self._submitted[key] = self._table.submitted_to(entry.kind, entry.arguments)
        before = self._submitted[key]
        due = entry.due(before, now_ms)
        if not due and before is not None:
            return
        new = self._table.submit_periods(entry.kind, entry.arguments, due, up_to_ms=now_ms, by=_BY_SCHEDULE)
        self._submitted[key] = now_ms
        if new:
            log.info("due", job=entry.kind, **entry.arguments, period=iso(due[-1]), periods=new)

    def _rank_again(self, venue: Venue) -> None:
        """Where this period's ranking was done but its list is gone, once more."""
        if venue in self._ranked_again or self._knows_what(venue):
            return
        self._ranked_again.add(venue)
        at = {"venue": str(venue)}
        if not any(
            job.state in {"pending", "running"} and job.arguments == at for job in self._table.list(kind="rank")
        ):
            self._table.submit("rank", at, by=_BY_DAEMON)

    def _knows_what(self, venue: Venue) -> bool:
        """Whether a collector knows what to follow: the list of the universe is there, or none is needed."""
        return self.settings.venue(venue).symbols != "top50" or universe_path(self.settings.lake_dir, venue).is_file()

    # ----------------------------------------------------------------------------------------------- the processes

    def _start(self, keep: int) -> Callable[[Sequence[str], bool], Child]:
        return lambda arguments, piped: Child([*self.command, *arguments], keep=[keep], piped=piped)

    def _collector(self, venue: Venue, keep: int) -> Collector:
        start = self._start(keep)
        return Collector(
            venue,
            start=lambda: start(["collect", "--venue", str(venue), *self.options("collect")], False),
            ready=lambda: self._knows_what(venue),
            status=lambda: read_status(self._lake, venue),
            has_newer=self.has_newer,
            limits=self.limits.scaled(self.settings.venue(venue).timer_scale),
        )

    def _end(self, collectors: Sequence[Collector], work: Sequence[Lane]) -> None:
        for lane in work:
            lane.terminate()
        end_all(collectors, self.collector_grace_s)
        for lane in work:
            if lane.thread is not None:
                lane.thread.join(self.grace_s + 1.0)
            lane.end()
