"""The warm worker: a process that has loaded everything and does one job after the other.

Loading the libraries takes longer than most jobs, so a venue's short jobs share one process. A job that is cancelled or
takes too long ends its process, and the next job gets a new one. Requests are lines of JSON on standard input, answers
lines on standard output; whatever else a job prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import queue
from collections.abc import Callable
from typing import Any, NamedTuple

from qlib_crypto.daemon.leash import leash
from qlib_crypto.errors import ConfigError, QlibCryptoError, VenueError


class Request(NamedTuple):
    """A job for a worker: `period_ms` as in the table, `since_ms` the newest period of the same job that was done."""

    kind: str
    arguments: dict[str, Any]
    period_ms: int | None
    since_ms: int | None

    def line(self) -> str:
        """As it goes over the pipe."""
        return json.dumps(self._asdict())


class Answer(NamedTuple):
    """What came of it: a result, or an error; `final` when another attempt is vain."""

    result: dict[str, Any] | None = None
    error: str = ""
    final: bool = False


def serve(do: Callable[[Request], dict[str, Any]]) -> None:
    """Do what comes on standard input until it closes or a signal ends this process."""
    answers = os.dup(1)
    os.dup2(2, 1)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    leash(inbox.put)
    while True:
        request = Request(**json.loads(inbox.get()))
        os.write(answers, json.dumps(_answer(do, request)._asdict()).encode() + b"\n")


def read_answer(line: str) -> Answer:
    """The answer that a line of a worker holds."""
    return Answer(**json.loads(line))


def _answer(do: Callable[[Request], dict[str, Any]], request: Request) -> Answer:
    try:
        return Answer(result=do(request))
    except QlibCryptoError as error:
        vain = isinstance(error, ConfigError) or (isinstance(error, VenueError) and error.final)
        return Answer(error=str(error), final=vain)
    except Exception as error:  # noqa: BLE001 - a job's fault is told and tried again, it must not end the worker
        return Answer(error=f"{type(error).__name__}: {error}")
