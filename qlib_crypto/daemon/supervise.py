"""Supervision of collectors: restart with back-off, restart of one that hangs or has lost its feed, a clean end.

A collector that lives can be deaf in two ways. It hangs: its status file grows old. Or its feed is dead: it goes on
writing its status, but no bar becomes newer while the venue has newer ones; a market that is quiet, or a venue that is
down, has none either. All limits are wall seconds: they are about processes, not about the market.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from qlib_crypto.collect.status import CollectorStatus
from qlib_crypto.daemon.child import Child
from qlib_crypto.errors import QlibCryptoError, StorageError
from qlib_crypto.symbols import Venue

log = structlog.get_logger(__name__)

_BACK_OFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """Wall seconds.

    Attributes
    ----------
    steady_s
        Who ran so long starts again after the shortest pause.
    hung_s
        A status older than this is of a process that hangs; one that has just started has as long to write the first.
    silent_s
        No newer bar for so long: the venue is asked whether it has one; and again after as long.

    """

    steady_s: float = 120.0
    hung_s: float = 120.0
    silent_s: float = 300.0

    def scaled(self, by: float) -> Limits:
        """Shorter for a market that runs fast, never so short that a busy machine looks hung."""
        return Limits(self.steady_s, max(30.0, self.hung_s * by), max(15.0, self.silent_s * by))


@dataclass
class Collector:
    """One venue's `collect` process.

    Parameters
    ----------
    venue, start
        Which venue, and what starts its process.
    ready
        Whether it can know what to collect; before that it is not started.
    status
        What the collector says about itself, None when nothing can be read.
    has_newer
        Asks the venue whether it has a bar that is newer than the newest in that status; may take long.

    """

    venue: Venue
    start: Callable[[], Child]
    ready: Callable[[], bool]
    status: Callable[[], CollectorStatus | None]
    has_newer: Callable[[CollectorStatus], bool]
    limits: Limits = field(default_factory=Limits)
    child: Child | None = None
    restarts: int = 0
    _failures: int = 0
    _not_before: float = 0.0
    _newest: int | None = None
    _newest_at: float = 0.0
    _asking: threading.Thread | None = None
    _dead_feed: bool = False

    def look(self) -> None:
        """Start it, start it again, or end it when it is deaf; returns at once but for the ending."""
        now = time.monotonic()
        if self.child is None:
            if now >= self._not_before and self.ready():
                self._begin(now)
            return
        if self.child.exit_code is not None:
            self._over(self.child, now, f"ended with {self.child.exit_code}")
        elif why := self._deaf(self.child, now):
            log.error("collector is ended", venue=self.venue, pid=self.child.pid, why=why)
            self.child.end()
            self._over(self.child, time.monotonic(), why)

    def _begin(self, now: float) -> None:
        try:
            self.child = self.start()
        except StorageError as error:
            self._failures += 1
            self._not_before = now + self._pause()
            log.warning("collector cannot start", venue=self.venue, error=str(error))
            return
        self._newest, self._newest_at, self._dead_feed = None, now, False
        log.info("collector started", venue=self.venue, pid=self.child.pid)

    def _over(self, child: Child, now: float, why: str) -> None:
        self._failures = 0 if now - child.started_at > self.limits.steady_s else self._failures + 1
        self._not_before = now + self._pause()
        self.restarts += 1
        child.end()
        self.child = None
        log.error("collector ended", venue=self.venue, why=why, restart_in_s=self._pause())

    def _pause(self) -> float:
        return _BACK_OFF_S[min(self._failures, len(_BACK_OFF_S) - 1)]

    def _deaf(self, child: Child, now: float) -> str:
        """Why it must be ended, empty when it need not."""
        status = self.status()
        current = status if status is not None and status.pid == child.pid else None
        age_s = now - child.started_at if current is None else time.time() - current.wall_ms / 1_000
        if age_s > self.limits.hung_s and now - child.started_at > self.limits.hung_s:
            return f"it hangs: no status for {age_s:.0f} s"
        if current is None:
            return ""
        newest = max((ms for ms in current.newest.values() if ms is not None), default=None)
        if newest != self._newest:
            self._newest, self._newest_at, self._dead_feed = newest, now, False
        if self._dead_feed:
            return f"its feed is dead: no newer bar for {now - self._newest_at:.0f} s, while {self.venue} has some"
        if now - self._newest_at > self.limits.silent_s and (self._asking is None or not self._asking.is_alive()):
            self._asking = threading.Thread(target=self._ask, args=(current, newest, now), daemon=True)
            self._asking.start()
        return ""

    def _ask(self, status: CollectorStatus, newest: int | None, asked_at: float) -> None:
        try:
            dead = self.has_newer(status)
        except QlibCryptoError as error:
            dead = False
            log.warning("no newer bar, and the venue does not answer", venue=self.venue, error=str(error))
        if newest == self._newest:
            self._dead_feed = dead
            if not dead:  # quiet: ask again after as long
                log.info("no newer bar, the venue has none either", venue=self.venue)
                self._newest_at = asked_at


def end_all(collectors: Sequence[Collector], grace_s: float) -> None:
    """End every process: all are asked at once, then each has until the grace time is over."""
    until = time.monotonic() + grace_s
    running = [(collector.venue, collector.child) for collector in collectors if collector.child is not None]
    if running:
        log.info("collectors are asked to end", venues=", ".join(v for v, _ in running), at_most_s=round(grace_s))
    for _, child in running:
        child.terminate()
    for venue, child in running:
        if (code := child.end(max(0.1, until - time.monotonic()))) < 0:
            log.error("collector did not end in time and was killed", venue=venue, pid=child.pid, signal=-code)
