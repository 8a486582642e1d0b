"""A lane: does the jobs of some kinds one after the other, each in a child process.

A venue's short jobs share a warm worker; a job of any other kind is a process of the command line by itself. Either is
ended when its job is cancelled, takes longer than its kind may, or the daemon stops.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from qlib_crypto.clock import iso
from qlib_crypto.daemon.child import Child
from qlib_crypto.daemon.job import Job, State
from qlib_crypto.daemon.jobs import JobTable
from qlib_crypto.daemon.kinds import KINDS, URGENT, Kind, command_line
from qlib_crypto.daemon.worker import Answer, Request, read_answer
from qlib_crypto.errors import StorageError, counted
from qlib_crypto.symbols import Venue

log = structlog.get_logger(__name__)

#: Starts a command of the command line; with True its output is heard.
type Start = Callable[[Sequence[str], bool], Child]

_LOOK_S = 0.25
#: The same trouble is told again after so many wall seconds.
_QUIET_S = 60.0
#: A worker that has done so many jobs is replaced: what libraries keep in memory does not add up for months.
_MOST_JOBS = 1_000
_USAGE, _NOT_GOOD = 2, 3


class Lane:
    """What takes jobs from the table, one at a time.

    Parameters
    ----------
    name
        For logs.
    table
        The jobs.
    kinds
        Which kinds.
    venue
        Only jobs of this venue, in a warm worker; None for processes of the command line.
    warm
        Whether to start the worker before the first job asks for it.
    start
        Starts a child.
    options
        Options of a command.
    grace_s
        Wall seconds for a child to end cleanly.

    """

    def __init__(
        self,
        name: str,
        table: JobTable,
        kinds: Sequence[str],
        start: Start,
        options: Callable[[str], Sequence[str]],
        *,
        venue: Venue | None = None,
        warm: bool = False,
        grace_s: float,
    ) -> None:
        self.name = name
        self.thread: threading.Thread | None = None
        self._table, self._kinds, self._venue = table, kinds, venue
        self._start, self._options, self._grace_s = start, options, grace_s
        self._child: Child | None = None
        self._given = 0
        self._warm = warm

    def _worker(self) -> Child:
        """The warm worker; a new one when there is none, it has ended, or it is used up."""
        used_up = self._child is None or self._child.exit_code is not None or self._given >= _MOST_JOBS
        if used_up:
            self.end()
            self._given = 0
            self._child = self._start(["work", "--venue", str(self._venue), *self._options("work")], True)
        assert self._child is not None  # noqa: S101 - just made; for the type checker
        return self._child

    def look(self, stopping: threading.Event) -> None:
        """Do every job that can be done now."""
        if self._warm:
            self._warm = False
            self._worker()
        if self._child is not None:
            self._child.listen(0)  # what it said since its last job
        while not stopping.is_set():
            job = self._table.claim(self._kinds, os.getpid(), self._accepts, urgent=URGENT)
            if job is None:
                return
            self._do(job, stopping)

    def terminate(self) -> None:
        """Ask the child, if any, to end."""
        if (child := self._child) is not None:
            child.terminate()

    def end(self) -> None:
        """End the child, if any."""
        if self._child is not None:
            self._child.end(self._grace_s)
            self._child = None

    def _accepts(self, job: Job) -> bool:
        return self._venue is None or job.arguments.get("venue") == str(self._venue)

    def _do(self, job: Job, stopping: threading.Event) -> None:
        told = {"job": job.kind, "id": job.id, **job.arguments}
        if job.period_ms is not None:
            told["period"] = iso(job.period_ms)
        begin = time.monotonic()
        try:
            answer = self._work(job, stopping)
        except StorageError as error:
            answer = Answer(error=str(error))
        seconds = round(time.monotonic() - begin, 2)
        if answer is None:  # stopped or cancelled
            if stopping.is_set() and self._table.release(job.id):
                log.info("job put back", **told, seconds=seconds)
            else:
                log.info("job cancelled", **told, seconds=seconds)
        elif answer.result is not None:
            result = answer.result
            if self._record(lambda: self._table.complete(job.id, result), stopping):
                log.info("job done", **told, seconds=seconds)
        else:
            attempts = 1 if answer.final else KINDS[job.kind].attempts
            state = self._record(lambda: self._table.fail(job.id, answer.error, attempts=attempts), stopping)
            log.error("job failed" if state is State.FAILED else "job failed, tried again",
                      **told, attempt=job.attempts, seconds=seconds, error=answer.error)  # fmt: skip

    def _record[T](self, what: Callable[[], T], stopping: threading.Event) -> T | None:
        """Tell the table, as often as it takes: a full disk must not cost what was done."""
        told_at = -_QUIET_S
        while True:
            try:
                return what()
            except StorageError as error:
                if time.monotonic() - told_at >= _QUIET_S:
                    told_at = time.monotonic()
                    log.warning("a job's end cannot be recorded, tried again", error=str(error))
                if stopping.wait(1.0):  # it stays running in the table: the next daemon does it again
                    return None

    def _work(self, job: Job, stopping: threading.Event) -> Answer | None:
        """What came of it; None when it was cancelled or the daemon stops."""
        kind = KINDS[job.kind]
        if kind.command:
            child = self._child = self._start(command_line(job.kind, job.arguments, self._options(job.kind)), True)
        else:
            child = self._worker()
            since = None if job.period_ms is None else self._table.last_done(job.kind, job.arguments, job.period_ms)
            self._given += 1
            child.tell(Request(job.kind, job.arguments, job.period_ms, since).line())
        answer = self._await(child, job, kind, stopping)
        if kind.command or answer is None or child.exit_code is not None:
            self.end()
        return answer

    def _await(self, child: Child, job: Job, kind: Kind, stopping: threading.Event) -> Answer | None:
        until, last = time.monotonic() + kind.timeout_s, ""
        while True:
            ended = child.exit_code is not None
            for line in child.listen(0 if ended else _LOOK_S):
                last = line
                if not kind.command:
                    return read_answer(line)
            if stopping.is_set():
                return None
            if ended:
                return _verdict(child, last, kind)
            if self._cancelled(job.id):
                return None
            if time.monotonic() >= until:
                self.end()
                return Answer(error=f"not done after {counted(round(kind.timeout_s), 'second')}; ended")

    def _cancelled(self, job_id: int) -> bool:
        try:
            job = self._table.get(job_id)
        except StorageError:  # cannot be read now: it goes on
            return False
        return job is not None and job.state is not State.RUNNING


def lanes(
    table: JobTable,
    start: Start,
    options: Callable[[str], Sequence[str]],
    *,
    venues: Sequence[Venue],
    grace_s: float,
) -> list[Lane]:
    """A lane for each venue's short jobs, those of `venues` warm, and one for each kind that is a process by itself."""
    short = [name for name, kind in KINDS.items() if not kind.command]
    made = [
        Lane(f"jobs of {v}", table, short, start, options, venue=v, warm=v in venues, grace_s=grace_s) for v in Venue
    ]
    long = [name for name, kind in KINDS.items() if kind.command]
    return made + [Lane(name, table, [name], start, options, grace_s=grace_s) for name in long]


def _verdict(child: Child, last: str, kind: Kind) -> Answer:
    """What the exit code says; a command that prints JSON gives it as its result."""
    code = child.exit_code
    result = _json(last)
    if kind.command and (code == 0 or (code == _NOT_GOOD and result is not None)):
        return Answer(result=result if result is not None else {"said": _told(child)})
    if code is not None and code < 0:
        return Answer(error=f"its process was ended by signal {-code}")
    return Answer(error=_told(child) or f"its process ended with exit code {code}", final=code == _USAGE)


def _told(child: Child) -> str:
    """The last line of its standard error; of a line of the log what it tells."""
    return str((_json(child.said) or {}).get("event", child.said))


def _json(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
