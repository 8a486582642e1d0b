"""The job table: what is to be done, was done, or could not be done, in one SQLite file.

Pure storage: no clocks of markets, no processes. Every method is one transaction, synced to disk before it returns, so
a kill between any two statements leaves either the state before or the state after. A job is pending, then running,
then completed, failed or cancelled; only `fail`, `release` and `recover` lead back to pending.

.. code-block:: text

    submit → pending → claim → running → complete → completed
                ↑                  ├── fail ────→ failed, or pending for another attempt
                └── release, recover              cancel: cancelled, from pending or running
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from qlib_crypto.daemon.job import Job, State, canonical, job_of, opened
from qlib_crypto.errors import ConfigError
from qlib_crypto.sqlite import committed, storage_faults

#: The file in the lake's folder.
FILE = "jobs.sqlite"

#: Wall seconds between two attempts, the last for all that follow.
_BACK_OFF_S = (2.0, 5.0, 15.0, 60.0, 300.0)

#: A job that was running when so many daemons died is not tried again.
_DEATHS = 50

_INSERT = (
    "INSERT OR IGNORE INTO jobs (kind, arguments, period_ms, state, submitted_ms, submitted_by) "
    "VALUES (?, ?, ?, 'pending', ?, ?)"
)
#: Pending, not waiting for its next attempt, and without a newer period of the same job that covers it.
_CLAIMABLE = """
SELECT * FROM jobs AS j WHERE state = 'pending' AND kind IN ({kinds})
AND (ended_ms IS NULL OR :now < ended_ms OR :now >= ended_ms
     + CASE attempts {waits} ELSE :longest END)
AND (period_ms IS NULL OR kind IN ({each}) OR NOT EXISTS (
    SELECT 1 FROM jobs AS n WHERE n.kind = j.kind AND n.arguments = j.arguments AND n.period_ms > j.period_ms
    AND n.state IN ('pending', 'running', 'failed')))
ORDER BY CASE WHEN kind IN ({each}) THEN period_ms END, id"""
_DAMAGED = "the file is damaged: move it away; a new one is begun, and every schedule with the period of now"


def wall_ms() -> int:
    """The machine's time, Unix milliseconds."""
    return time.time_ns() // 1_000_000


class JobTable:
    """The jobs of one lake; several processes and threads may use it at once. The file is made by the first write.

    Every method raises `StorageError` when the disk refuses; nothing of that call is stored then.

    Parameters
    ----------
    path
        The SQLite file.
    each
        Kinds of which every missed period is done by itself; of any other kind the newest period covers those before.
    back_off_scale
        Multiplies the waits between attempts.
    now_ms
        Wall time, Unix milliseconds.

    """

    def __init__(
        self,
        path: Path,
        *,
        each: Collection[str] = ("rank",),
        back_off_scale: float = 1.0,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self.path = Path(path)
        self._each = tuple(each)
        self._waits_ms = [round(seconds * 1_000 * back_off_scale) for seconds in _BACK_OFF_S]
        self._now_ms = now_ms
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None

    # ------------------------------------------------------------------------------------------------------ submit

    def submit(self, kind: str, arguments: Mapping[str, Any], *, period_ms: int | None = None, by: str) -> int:
        """The id of the job; with a period that is there already, whatever its state, that one's."""
        values = (kind, canonical(arguments), period_ms)
        with self._transaction() as at:
            made = at.execute(_INSERT, (*values, self._now_ms(), by))
            if made.rowcount and made.lastrowid is not None:
                return made.lastrowid
            found = at.execute("SELECT id FROM jobs WHERE (kind, arguments, period_ms) = (?, ?, ?)", values).fetchone()
            return int(found[0])

    def submit_periods(
        self, kind: str, arguments: Mapping[str, Any], periods: Sequence[int], *, up_to_ms: int, by: str
    ) -> int:
        """How many of the periods are new; they and the mark `submitted_to` are stored together, or neither."""
        text, now = canonical(arguments), self._now_ms()
        with self._transaction() as at:
            made = at.executemany(_INSERT, [(kind, text, period, now, by) for period in periods]).rowcount
            at.execute("INSERT OR REPLACE INTO schedule VALUES (?, ?, ?)", (kind, text, up_to_ms))
        return max(0, made)

    def submitted_to(self, kind: str, arguments: Mapping[str, Any]) -> int | None:
        """The market time up to which periods were submitted, None before the first time."""
        query = "SELECT submitted_to_ms FROM schedule WHERE (kind, arguments) = (?, ?)"
        rows = self._read(query, (kind, canonical(arguments)))
        return int(rows[0][0]) if rows else None

    # ----------------------------------------------------------------------------------------------------- running

    def claim(
        self,
        kinds: Sequence[str],
        pid: int,
        accepts: Callable[[Job], bool] = lambda _: True,
        *,
        urgent: Collection[str] = (),
    ) -> Job | None:
        """The next job of these kinds, now running and nobody else's; None when there is none.

        Urgent kinds go first, then what was submitted first; of a kind of which each period is done, the oldest. A
        period that a newer one of the same job covers is never claimed; that newer one waits its turn, so that a job
        that takes longer than its period keeps no other from being done.
        """
        names = {f"k{i}": kind for i, kind in enumerate(kinds)}
        once = {f"e{i}": kind for i, kind in enumerate(self._each)}
        waits = " ".join(f"WHEN {n} THEN {wait}" for n, wait in enumerate(self._waits_ms, start=1))
        query = _CLAIMABLE.format(
            kinds=", ".join(f":{name}" for name in names), each=", ".join(f":{name}" for name in once),
            waits=f"WHEN 0 THEN 0 {waits}",
        )  # fmt: skip
        now = self._now_ms()
        bound = {**names, **once, "now": now, "longest": self._waits_ms[-1]}
        if not self._read(f"{query} LIMIT 1", bound):  # an idle look takes no write lock
            return None
        with self._transaction() as at:
            waiting = [job for row in at.execute(query, bound) if accepts(job := job_of(row))]
            if not waiting:
                return None
            job = min(waiting, key=lambda job: job.kind not in urgent)  # min keeps the order among equals
            at.execute(
                "UPDATE jobs SET state = 'running', started_ms = ?, ended_ms = NULL, attempts = attempts + 1, pid = ? "
                "WHERE id = ?",
                (now, pid, job.id),
            )
        return job._replace(
            state=State.RUNNING, started_ms=now, ended_ms=None, attempts=job.attempts + 1, pid=pid
        )  # fmt: skip

    def complete(self, job_id: int, result: Mapping[str, Any]) -> bool:
        """True when the job was running and is completed now, and with it the older periods that it covers."""
        now = self._now_ms()
        with self._transaction() as at:
            row = at.execute(
                "UPDATE jobs SET state = 'completed', ended_ms = ?, result = ?, error = NULL, pid = NULL "
                "WHERE id = ? AND state = 'running' RETURNING kind, arguments, period_ms",
                (now, json.dumps(result), job_id),
            ).fetchone()
            if row is not None and row["period_ms"] is not None and row["kind"] not in self._each:
                at.execute(
                    "UPDATE jobs SET state = 'completed', ended_ms = ?, result = ?, error = NULL "
                    "WHERE (kind, arguments) = (?, ?) AND period_ms < ? AND state IN ('pending', 'failed')",
                    (now, json.dumps({"covered_by": job_id}), row["kind"], row["arguments"], row["period_ms"]),
                )
        return row is not None

    def fail(self, job_id: int, error: str, *, attempts: int = 1) -> State | None:
        """The new state: pending, to be claimed again after a wait, until so many attempts failed; None if not running.

        The waits grow with the attempts, and a machine whose clock went back does not wait for it.
        """
        with self._transaction() as at:
            row = at.execute(
                "UPDATE jobs SET state = CASE WHEN attempts >= ? THEN 'failed' ELSE 'pending' END, ended_ms = ?, "
                "error = ?, pid = NULL WHERE id = ? AND state = 'running' RETURNING state",
                (attempts, self._now_ms(), " ".join(error.split()), job_id),
            ).fetchone()
        return None if row is None else State(row["state"])

    def release(self, job_id: int) -> bool:
        """True when the job was running and waits again, as if it had not been claimed: its runner was stopped."""
        with self._transaction() as at:
            done = at.execute(
                "UPDATE jobs SET state = 'pending', pid = NULL, started_ms = NULL, attempts = max(0, attempts - 1) "
                "WHERE id = ? AND state = 'running'",
                (job_id,),
            )
            return bool(done.rowcount)

    def recover(self) -> int:
        """How many running jobs of a dead daemon wait again; only for who holds the daemon's lock.

        The attempt counts, and a job under which daemons died `_DEATHS` times has failed: it may be what kills them.
        """
        with self._transaction() as at:
            at.execute(
                "UPDATE jobs SET state = 'failed', ended_ms = ?, pid = NULL, error = ? "
                "WHERE state = 'running' AND attempts >= ?",
                (self._now_ms(), f"the daemon ended abruptly at each of {_DEATHS} attempts", _DEATHS),
            )
            return int(
                at.execute(
                    "UPDATE jobs SET state = 'pending', pid = NULL, started_ms = NULL WHERE state = 'running'"
                ).rowcount
            )

    def cancel(self, job_id: int) -> State:
        """The state before; a pending or running job is cancelled now, an ended one stays. Its runner then stops it.

        Raises
        ------
        ConfigError
            There is no such job.

        """
        with self._transaction() as at:
            row = at.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                raise ConfigError(f"job {job_id} is not in {self.path}; see: qlib-crypto jobs list")
            at.execute(
                "UPDATE jobs SET state = 'cancelled', ended_ms = ?, pid = NULL "
                "WHERE id = ? AND state IN ('pending', 'running')",
                (self._now_ms(), job_id),
            )
        return State(row["state"])

    # -------------------------------------------------------------------------------------------------------- read

    def list(self, *, state: State | None = None, kind: str | None = None, limit: int | None = None) -> list[Job]:
        """Jobs, the oldest first; with a limit the newest so many."""
        rows = self._read(
            "SELECT * FROM jobs WHERE (:state IS NULL OR state = :state) AND (:kind IS NULL OR kind = :kind) "
            "ORDER BY id DESC LIMIT :limit",
            {"state": state, "kind": kind, "limit": -1 if limit is None else limit},
        )
        return [job_of(row) for row in reversed(rows)]

    def get(self, job_id: int) -> Job | None:
        """One job."""
        rows = self._read("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return job_of(rows[0]) if rows else None

    def last_done(self, kind: str, arguments: Mapping[str, Any], before_ms: int) -> int | None:
        """The newest completed period before `before_ms`, None when there is none."""
        query = (
            "SELECT max(period_ms) FROM jobs WHERE (kind, arguments) = (?, ?) AND period_ms < ? AND state = 'completed'"
        )
        rows = self._read(query, (kind, canonical(arguments), before_ms))
        return None if not rows or rows[0][0] is None else int(rows[0][0])

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._faults("write"), committed(self._open()) as connection:
            yield connection

    def _read(self, query: str, bound: Sequence[object] | Mapping[str, object]) -> Sequence[sqlite3.Row]:
        if not self.path.is_file():
            return []
        with self._lock, self._faults("read"):
            return self._open().execute(query, bound).fetchall()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = opened(self.path)
        return self._connection

    def _faults(self, doing: str) -> AbstractContextManager[None]:
        return storage_faults("job table", self.path, doing, damaged=_DAMAGED)
