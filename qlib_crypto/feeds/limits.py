"""How many requests may go out: the venue's published limits, kept on our side so that they are never reached."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from qlib_crypto.errors import VenueError

#: Wakes a waiter that no release would wake.
_LOOK_AGAIN_S = 60.0


@dataclass(slots=True)
class Window:
    """The cost of the requests that a venue may still count, in one window of `seconds`.

    A request counts from its start until `seconds` after its *end*. The venue saw it somewhere in between, so
    whatever the venue's windows are (sliding, or fixed to its own clock) and however long requests travel, no stretch
    of `seconds` holds more than the capacity.
    """

    seconds: float
    used: float = 0.0
    _ended: deque[tuple[float, float]] = field(default_factory=deque)

    def wait_s(self, now: float, cost: float, capacity: float) -> float:
        """Seconds until it is worth asking again whether a request of `cost` fits; 0 when it fits now.

        A request that costs more than the whole capacity fits when nothing else counts.
        """
        while self._ended and self._ended[0][0] + self.seconds <= now:
            self.used -= self._ended.popleft()[1]
        if self.used <= 0 or self.used + cost <= capacity:
            return 0.0
        return self._ended[0][0] + self.seconds - now if self._ended else _LOOK_AGAIN_S

    def start(self, cost: float) -> None:
        """A request goes out."""
        self.used += cost

    def end(self, now: float, cost: float) -> None:
        """Its answer is complete, or will never come."""
        self._ended.append((now, cost))


class Limiter:
    """Keeps the requests of all threads of one client within the limits, by making them wait.

    Parameters
    ----------
    scale
        Multiplies every capacity; 1 is what the venue publishes.
    max_pause_s
        A longer pause that the venue asked for is an error instead of a wait.

    """

    def __init__(self, scale: float, *, max_pause_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._scale = scale
        self._max_pause_s = max_pause_s
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._windows: dict[tuple[str, ...], Window] = {}
        self._paused_until = 0.0
        self._closed = False

    @contextmanager
    def slot(self, key: tuple[str, ...], *, limit: float, seconds: float, cost: float) -> Iterator[None]:
        """The time in which one request may run; waits before.

        Raises
        ------
        VenueError
            The venue asked for a pause longer than `max_pause_s`, or the client was closed while waiting.

        """
        with self._changed:
            window = self._windows.setdefault(key, Window(seconds))
            while (wait := self._wait_s(window, cost, limit * self._scale)) > 0:
                self._changed.wait(wait)
            window.start(cost)
        try:
            yield
        finally:
            with self._changed:
                window.end(self._monotonic(), cost)
                self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Nothing goes out for so long: the venue asked for it."""
        with self._changed:
            self._paused_until = max(self._paused_until, self._monotonic() + seconds)

    def close(self) -> None:
        """Who waits, and who comes later, gets a `VenueError`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait_s(self, window: Window, cost: float, capacity: float) -> float:
        if self._closed:
            raise VenueError("the venue client is closed; make a new one with rest_client()")
        now = self._monotonic()
        pause = self._paused_until - now
        if pause > self._max_pause_s:
            raise VenueError(
                f"the venue asked for a pause, {pause:.0f} s are left of it; wait, or lower rate_scale",
                retryable=True,
                retry_after_s=pause,
            )
        return max(pause, window.wait_s(now, cost, capacity))
