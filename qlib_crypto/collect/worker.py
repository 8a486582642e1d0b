"""One thread for what is asked over REST or sealed, so that neither ever delays the stream's rows."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import NamedTuple

from qlib_crypto.collect.disk import will_pass
from qlib_crypto.errors import DataError, StorageError, VenueError
from qlib_crypto.symbols import Instrument

#: The wait doubles so often: up to 16 times the first for what failed, 4 times for what could not be there yet.
_MOST_DOUBLINGS, _FEW_DOUBLINGS = 5, 3
#: So many first waits a kind of job lets the kind before it go first.
_PATIENCE = 10.0
_IDLE_S = 60.0
#: How long a job that waits for market time may be late, wall.
_MARKET_LOOK_S = 0.2
_QUIET_S = 60.0
_MOST_CAUSES = 1_000


class Job(NamedTuple):
    """What is to be done: of one instrument or of all, for market time `[start_ms, end_ms)`.

    `cause` is why it is missing, and `attempt` counts how often it was asked in vain; jobs that differ in either are
    not joined.
    """

    kind: str
    instrument: Instrument | None
    start_ms: int
    end_ms: int
    cause: str = ""
    attempt: int = 0


class Again(NamedTuple):
    """What is left of a job: the span `[start_ms, end_ms)`, to be asked again after a wait.

    `counted` is False when it could not be there yet, so that asking again is no failure; `due_ms` is the market time
    before which it is not asked.
    """

    start_ms: int
    end_ms: int
    counted: bool = True
    due_ms: int = 0


@dataclass(slots=True)
class _Waiting:
    start_ms: int
    end_ms: int
    tries: int
    not_before_s: float
    due_ms: int


#: How the fields of two jobs become those of one: the span of both, and the sooner, more patient rest.
_JOIN = (min, max, min, min, min)

#: `(job, is it the last attempt)` to what is left, None when done.
type Work = Callable[[Job, bool], Again | None]
type _Key = tuple[str, Instrument | None, str, int]


class Worker:
    """Jobs by kind, instrument and cause, each for a span of market time; jobs of one key are joined to one span.

    A job that fails with a `VenueError`, or because the disk is full, is asked again for as long as the worker lives
    (the client itself backs off before it gives up), and so is one that says `Again`, with growing waits. After
    `attempts` of those it is told that it may end itself. A final `VenueError` and a `DataError` are told and end the
    job. Anything else ends the worker: `check` raises it in the caller's thread.

    Parameters
    ----------
    kinds
        What to do for each kind of job, given the job and whether it may end itself. An earlier kind goes first,
        unless one of the next kind has waited ten first waits longer: none waits for ever, however much is asked of
        the others.
    say
        Gets one line for each trouble.
    now_ms
        Market time.
    first_wait_s
        The first wait before asking again; doubled each time.

    """

    def __init__(
        self,
        kinds: Mapping[str, Work],
        say: Callable[[str], None],
        now_ms: Callable[[], int],
        *,
        attempts: int = 4,
        first_wait_s: float = 1.0,
    ) -> None:
        self._kinds = kinds
        self._patience_s = {kind: place * _PATIENCE * first_wait_s for place, kind in enumerate(kinds)}
        self._say, self._now_ms = say, now_ms
        self._attempts = attempts
        self._first_wait_s = first_wait_s
        self._waiting: dict[_Key, _Waiting] = {}
        self._busy: Job | None = None
        self._failed: dict[Instrument | None, int] = {}
        self._told: dict[str, float] = {}
        self._stopping = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="collect-rest", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def ask(self, kind: str, instrument: Instrument | None, start_ms: int, end_ms: int, cause: str = "") -> None:
        """Have this done; returns at once."""
        with self._changed:
            self._put((kind, instrument, cause, 0), _Waiting(start_ms, end_ms, 0, time.monotonic(), 0))

    @property
    def pending(self) -> int:
        """Jobs that wait or run."""
        with self._changed:
            return len(self._waiting) + (self._busy is not None)

    def pending_at(self, market_ms: int, most_tries: float = math.inf) -> int:
        """Jobs that run, or wait for no later market time than this and were not tried so often already."""
        with self._changed:
            waiting = sum(job.due_ms <= market_ms and job.tries < most_tries for job in self._waiting.values())
            return waiting + (self._busy is not None)

    def unfinished(self) -> dict[Instrument | None, int]:
        """Whose jobs wait, run, or ended with an error, and the first market time of any of them."""
        with self._changed:
            found = dict(self._failed)
            spans = [(key[1], job.start_ms) for key, job in self._waiting.items()]
            for instrument, start_ms in [*spans, *([self._busy[1:3]] if self._busy else [])]:
                found[instrument] = min(start_ms, found.get(instrument, start_ms))
            return found

    def check(self) -> None:
        """Raise what ended the worker, if anything did."""
        if self._error is not None:
            raise self._error

    def stop(self, timeout_s: float) -> bool:
        """End after the job that runs now; False when that one took longer than the timeout."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, key: _Key, job: _Waiting) -> None:
        known = self._waiting.get(key)
        if known is not None:
            job = _Waiting(*(choose(a, b) for choose, a, b in zip(_JOIN, astuple(known), astuple(job), strict=True)))
        self._waiting[key] = job
        self._changed.notify_all()

    def _take(self) -> tuple[Job, int] | None:
        """The next job that is due and how often it was tried, None when stopping."""
        with self._changed:
            while not self._stopping:
                now, market = time.monotonic(), self._now_ms()
                due = [k for k, job in self._waiting.items() if job.not_before_s <= now and job.due_ms <= market]
                if due:
                    key = min(due, key=lambda k: self._waiting[k].not_before_s + self._patience_s[k[0]])
                    waiting = self._waiting.pop(key)
                    kind, instrument, cause, attempt = key
                    self._busy = Job(kind, instrument, waiting.start_ms, waiting.end_ms, cause, attempt)
                    return self._busy, waiting.tries
                soonest = min((job.not_before_s for job in self._waiting.values()), default=now + _IDLE_S)
                if any(job.due_ms > market for job in self._waiting.values()):
                    soonest = min(max(soonest, now), now + _MARKET_LOOK_S)
                self._changed.wait(max(0.001, soonest - now))
        return None

    def _run(self) -> None:
        try:
            while (taken := self._take()) is not None:
                self._do(*taken)
        except BaseException as error:  # noqa: BLE001 - handed over to the caller's thread by `check`
            self._error = error

    def _do(self, job: Job, tries: int) -> None:
        last = job.attempt + 1 >= self._attempts
        again: Again | None = Again(job.start_ms, job.end_ms, counted=False)
        failed, doublings = False, _MOST_DOUBLINGS
        try:
            again = self._kinds[job.kind](job, last)
            doublings = _FEW_DOUBLINGS
        except VenueError as error:
            self._tell(f"{job.kind} {job.instrument or ''}: {error}", cause=str(error).partition(": ")[2] or str(error))
            failed = error.final
        except StorageError as error:
            if not will_pass(error):
                raise
            self._tell(f"{job.kind} waits: {error}", cause="disk")
        except DataError as error:
            self._say(str(error))
            failed = True
        with self._changed:
            self._busy = None
            if failed:
                self._failed[job.instrument] = min(job.start_ms, self._failed.get(job.instrument, job.start_ms))
            elif again is not None:
                waits = min(tries + 1, _MOST_DOUBLINGS if again.counted else doublings)
                due_s = time.monotonic() + self._first_wait_s * 2.0 ** (waits - 1)
                key = job.kind, job.instrument, job.cause, min(job.attempt + again.counted, self._attempts - 1)
                self._put(key, _Waiting(again.start_ms, again.end_ms, tries + 1, due_s, again.due_ms))

    def _tell(self, line: str, cause: str) -> None:
        """Say it, unless the same cause, of another instrument perhaps, was told within a minute."""
        now = time.monotonic()
        if now - self._told.get(cause, -_QUIET_S) >= _QUIET_S:
            if len(self._told) > _MOST_CAUSES:
                self._told = {known: at for known, at in self._told.items() if now - at < _QUIET_S}
            self._told[cause] = now
            self._say(line)
