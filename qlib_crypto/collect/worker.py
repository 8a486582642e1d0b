"""One thread for what the collector asks over REST or seals, so that neither ever delays the stream's rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass

from qlib_crypto.errors import DataError, VenueError
from qlib_crypto.symbols import Instrument

#: The wait doubles so often: up to 16 times the first for what failed, 4 times for what could not be there yet.
_MOST_DOUBLINGS, _FEW_DOUBLINGS = 5, 3
_IDLE_S = 60.0
_QUIET_S = 60.0


@dataclass(frozen=True, slots=True)
class Again:
    """What is left of a job: the span `[start_ms, end_ms)`, to be asked again after a wait.

    `counted` is False when it could not be there yet, so that asking again is no failure.
    """

    start_ms: int
    end_ms: int
    counted: bool = True


@dataclass(slots=True)
class _Waiting:
    start_ms: int
    end_ms: int
    attempts: int
    tries: int
    not_before_s: float


#: How the fields of two jobs become those of one: the span of both, and the sooner, more patient rest.
_JOIN = (min, max, min, min, min)

#: `(instrument, start_ms, end_ms, last_try)` to what is left, None when done.
type Work = Callable[[Instrument | None, int, int, bool], Again | None]
type _Key = tuple[str, Instrument | None]


class Worker:
    """Jobs by kind and instrument, each for a span of market time; jobs of one key are joined to one span.

    A job that fails with a `VenueError` is asked again for as long as the collector lives (the client itself backs off
    before it gives up); one that says `Again` at most `attempts` times, with growing waits. A final `VenueError` and a
    `DataError` are told and end the job. Anything else ends the worker: `check` raises it in the caller's thread.

    Parameters
    ----------
    kinds
        What to do for each kind of job; an earlier kind goes first.
    say
        Gets one line for each trouble.
    first_wait_s
        The first wait before asking again; doubled each time.

    """

    def __init__(
        self, kinds: dict[str, Work], say: Callable[[str], None], *, attempts: int = 4, first_wait_s: float = 1.0
    ) -> None:
        self._kinds = kinds
        self._say = say
        self._attempts = attempts
        self._first_wait_s = first_wait_s
        self._waiting: dict[_Key, _Waiting] = {}
        self._busy: _Key | None = None
        self._failed: set[Instrument | None] = set()
        self._told: dict[str, float] = {}
        self._stopping = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="collect-rest", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def ask(self, kind: str, instrument: Instrument | None, start_ms: int, end_ms: int) -> None:
        """Have this done; returns at once."""
        with self._changed:
            self._put((kind, instrument), _Waiting(start_ms, end_ms, 0, 0, time.monotonic()))

    @property
    def pending(self) -> int:
        """Jobs that wait or run."""
        with self._changed:
            return len(self._waiting) + (self._busy is not None)

    @property
    def unfinished(self) -> set[Instrument | None]:
        """Whose jobs wait, run, or ended with an error."""
        with self._changed:
            busy = [self._busy[1]] if self._busy is not None else []
            return self._failed.union(busy, (instrument for _, instrument in self._waiting))

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

    def _take(self) -> tuple[_Key, _Waiting] | None:
        """The next job that is due, None when stopping."""
        order = list(self._kinds)
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                due = [key for key, job in self._waiting.items() if job.not_before_s <= now]
                if due:
                    key = min(due, key=lambda k: order.index(k[0]))
                    self._busy = key
                    return key, self._waiting.pop(key)
                soonest = min((job.not_before_s for job in self._waiting.values()), default=now + _IDLE_S)
                self._changed.wait(max(0.001, soonest - now))
        return None

    def _run(self) -> None:
        try:
            while (taken := self._take()) is not None:
                self._do(*taken)
        except BaseException as error:  # noqa: BLE001 - handed over to the caller's thread by `check`
            self._error = error

    def _do(self, key: _Key, job: _Waiting) -> None:
        last = job.attempts + 1 >= self._attempts
        again: Again | None = None
        failed, doublings = False, _FEW_DOUBLINGS
        try:
            again = self._kinds[key[0]](key[1], job.start_ms, job.end_ms, last)
        except VenueError as error:
            self._tell(f"{key[0]} {key[1] or ''}: {error}", cause=str(error).partition(": ")[2] or str(error))
            failed, doublings = error.final, _MOST_DOUBLINGS
            again = None if failed else Again(job.start_ms, job.end_ms, counted=False)
        except DataError as error:
            self._say(str(error))
            failed = True
        with self._changed:
            self._busy = None
            if failed:
                self._failed.add(key[1])
            if again is not None and not (last and again.counted):
                waits = min(job.tries + 1, _MOST_DOUBLINGS if again.counted else doublings)
                due = time.monotonic() + self._first_wait_s * 2.0 ** (waits - 1)
                attempts = job.attempts + again.counted
                self._put(key, _Waiting(again.start_ms, again.end_ms, attempts, job.tries + 1, due))

    def _tell(self, line: str, cause: str) -> None:
        """Say it, unless the same cause, of another instrument perhaps, was told within a minute."""
        now = time.monotonic()
        if now - self._told.get(cause, -_QUIET_S) >= _QUIET_S:
            self._told[cause] = now
            self._say(line)
