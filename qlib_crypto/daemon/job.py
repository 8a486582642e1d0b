"""A job: its states, its row, and the SQLite file that keeps it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from qlib_crypto.sqlite import log_ahead

_BUSY_S = 30.0
#: The jobs, each once a period (those asked for by hand have none), and how far each schedule was submitted.
_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    arguments TEXT NOT NULL,
    period_ms INTEGER,
    state TEXT NOT NULL CHECK (state IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    submitted_ms INTEGER NOT NULL,
    started_ms INTEGER,
    ended_ms INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    pid INTEGER,
    result TEXT,
    error TEXT,
    submitted_by TEXT NOT NULL,
    UNIQUE (kind, arguments, period_ms)
) STRICT""",
    "CREATE INDEX IF NOT EXISTS jobs_open ON jobs (state) WHERE state IN ('pending', 'running')",
    """
CREATE TABLE IF NOT EXISTS schedule (
    kind TEXT NOT NULL, arguments TEXT NOT NULL, submitted_to_ms INTEGER NOT NULL, PRIMARY KEY (kind, arguments)
) STRICT""",
)


class State(StrEnum):
    """Where a job is."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Job(NamedTuple):
    """A row of the table. `period_ms` is market time and None for work asked for by hand; all other times are wall.

    `started_ms` and `ended_ms` are of the last attempt; `pid` is the process that claimed it, while it runs;
    `result` is what the work gave back, `error` the one line of the last attempt that failed.
    """

    id: int
    kind: str
    arguments: dict[str, Any]
    period_ms: int | None
    state: State
    submitted_ms: int
    started_ms: int | None
    ended_ms: int | None
    attempts: int
    pid: int | None
    result: dict[str, Any] | None
    error: str | None
    submitted_by: str


def canonical(arguments: Mapping[str, Any]) -> str:
    """The arguments as text, the same for equal arguments."""
    return json.dumps(arguments, sort_keys=True, separators=(",", ":"))


def job_of(row: sqlite3.Row) -> Job:
    """The row as a job."""
    values = dict(row)
    values["state"] = State(values["state"])
    for name in ("arguments", "result"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return Job(**values)


def opened(path: Path) -> sqlite3.Connection:
    """A connection to the file, for any thread, in no transaction; folder, file and tables are made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        log_ahead(connection, _BUSY_S)
        for statement in _SCHEMA:
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection
