"""The daemon: one collector process a venue, ranking and conversion when they are due, a clean stop.

Every piece of work is a subprocess of the command line, so nothing here imports Qlib (its caches never refresh
in a process). Market time comes from the injected clock; APScheduler is only the alarm that looks at it.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from qlib_crypto.clock import Clock, iso
from qlib_crypto.daemon.schedule import Period, convert_period, rank_period
from qlib_crypto.errors import QlibCryptoError
from qlib_crypto.settings import ScheduleSettings
from qlib_crypto.symbols import Venue

log = structlog.get_logger()

_STOP_S = 30.0
_BACK_OFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
_STEADY_S = 120.0


@dataclass
class Job:
    """A command that is due once a period; the period that was current at the start counts as done."""

    name: str
    arguments: Sequence[str]
    period: Period
    done_ms: int


@dataclass
class Collector:
    """A supervised `collect` process."""

    venue: Venue
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    not_before: float = 0.0


@dataclass
class Daemon:
    """Collects continuously, ranks every few hours, converts daily; `run` blocks until `stop` or a signal.

    Parameters
    ----------
    clock
        Market time.
    schedule
        When to rank and convert.
    venues
        Which venues to collect and rank.
    options
        Options passed on to every command (`--config`, `--lake`, `--endpoint`, …).
    command
        The command line to start work with.
    tick_s
        Wall seconds between two looks at the clock.

    """

    clock: Clock
    schedule: ScheduleSettings
    venues: Sequence[Venue]
    options: Callable[[str], Sequence[str]] = lambda _command: ()
    command: Sequence[str] = (sys.executable, "-m", "qlib_crypto.cli")
    tick_s: float = 1.0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Work until `stop()`, SIGTERM or SIGINT; then end every child process cleanly."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stop())
        for venue in self.venues:  # a first list, so that the collectors know what to collect
            self._work(f"rank {venue}", ["rank", "--venue", venue, *self.options("rank")])
        jobs = self._jobs()
        collectors = [Collector(v, ["collect", "--venue", v, *self.options("collect")]) for v in self.venues]
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # a tick skipped while a job runs is no news
        scheduler = BackgroundScheduler(timezone="UTC")
        once = {"max_instances": 1, "coalesce": True, "misfire_grace_time": None}
        scheduler.add_job(self._supervise, "interval", [collectors], seconds=self.tick_s, **once)
        scheduler.add_job(self._run_due, "interval", [jobs], seconds=self.tick_s, **once)
        self._supervise(collectors)
        scheduler.start()
        log.info("daemon started", market_time=iso(self.clock.now_ms()), venues=", ".join(self.venues))
        try:
            self._stop.wait()
        finally:
            scheduler.shutdown(wait=True)
            for collector in collectors:
                self._end(collector)
            log.info("daemon stopped")

    def stop(self) -> None:
        """Ask `run` to return; safe from any thread and from a signal handler."""
        self._stop.set()

    def _jobs(self) -> list[Job]:
        now = self.clock.now_ms()
        rank, convert = rank_period(self.schedule), convert_period(self.schedule)
        jobs = [
            Job(f"rank {v}", ["rank", "--venue", v, *self.options("rank")], rank, rank.last(now)) for v in self.venues
        ]
        return [*jobs, Job("convert", ["convert", *self.options("convert")], convert, convert.last(now))]

    def _run_due(self, jobs: Sequence[Job]) -> None:
        try:
            now = self.clock.now_ms()
        except QlibCryptoError as error:  # the venue's clock is out of reach: look again at the next tick
            log.warning("market time unknown", error=str(error))
            return
        for job in jobs:
            due = job.period.last(now)
            if due > job.done_ms and not self._stop.is_set():
                log.info("job due", job=job.name, due=iso(due))
                if self._work(job.name, job.arguments):
                    job.done_ms = due

    def _work(self, name: str, arguments: Sequence[str]) -> bool:
        """Run one command to its end, or end it when the daemon stops; True when it succeeded."""
        begin = time.monotonic()
        process = subprocess.Popen([*self.command, *arguments], stdin=subprocess.DEVNULL)
        while process.poll() is None and not self._stop.wait(0.05):
            pass
        if process.poll() is None:
            _terminate(process)
        seconds = round(time.monotonic() - begin, 1)
        if process.returncode == 0:
            log.info("job done", job=name, seconds=seconds)
            return True
        if not self._stop.is_set():
            log.error("job failed", job=name, exit_code=process.returncode, seconds=seconds)
            self._stop.wait(_BACK_OFF_S[1])
        return False

    def _supervise(self, collectors: Sequence[Collector]) -> None:
        for collector in collectors:
            process = collector.process
            if self._stop.is_set() or (process is not None and process.poll() is None):
                continue
            now = time.monotonic()
            if process is not None:
                collector.process = None
                collector.failures = 0 if now - collector.started_at > _STEADY_S else collector.failures + 1
                pause = _BACK_OFF_S[min(collector.failures, len(_BACK_OFF_S) - 1)]
                collector.not_before = now + pause
                log.error("collector ended", venue=collector.venue, exit_code=process.returncode, restart_in_s=pause)
            if now >= collector.not_before:
                collector.started_at = now
                collector.process = subprocess.Popen([*self.command, *collector.arguments], stdin=subprocess.DEVNULL)
                log.info("collector started", venue=collector.venue, pid=collector.process.pid)

    def _end(self, collector: Collector) -> None:
        if collector.process is not None and collector.process.poll() is None:
            _terminate(collector.process)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
