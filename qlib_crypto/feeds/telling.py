"""What a stream counts, and how often it repeats itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_MINUTE_S = 60.0
_CAUSES = 1_000


@dataclass(slots=True)
class StreamCounters:
    """What happened on all connections of a stream since it began; plain integers, read them from any thread.

    Attributes
    ----------
    frames
        Messages that arrived, answers to our pings left out.
    rows
        Rows that were handed over.
    malformed
        Frames or rows of another shape than documented.
    unknown
        Frames about instruments that nobody subscribed.
    reconnects
        Connections that ended, for whatever reason.
    notices
        Announcements of a close.
    subscribe_errors
        Errors that the venue sent, such as an unknown channel.

    """

    frames: int = 0
    rows: int = 0
    malformed: int = 0
    unknown: int = 0
    reconnects: int = 0
    notices: int = 0
    subscribe_errors: int = 0


class Repeats:
    """Lets each cause be told once a minute, wall time."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._told: dict[str, float] = {}

    def fresh(self, cause: str) -> bool:
        """Whether the cause was not told in the last minute; then it counts as told now."""
        now = self._monotonic()
        if now - self._told.get(cause, -_MINUTE_S) < _MINUTE_S:
            return False
        if len(self._told) >= _CAUSES:
            self._told = {known: at for known, at in self._told.items() if now - at < _MINUTE_S}
        self._told[cause] = now
        return True
