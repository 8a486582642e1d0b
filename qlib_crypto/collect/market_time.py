"""Market time that nobody's wrong clock can move: a reading that jumps counts only once the venue has confirmed it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qlib_crypto.clock import MINUTE_MS, SECOND_MS, Clock, VenueClock, iso
from qlib_crypto.errors import VenueError

_READ_S = 0.1
_CHECK_S = 60.0
#: A clock that is wrong by less disturbs nothing: rows are asked for a little early or late.
_TOLERANCE_MS = MINUTE_MS


class MarketTime:
    """`now_ms`: what the clock says, less what the venue says that it is wrong by.

    Read in a thread of its own, since asking may take long and may fail. The clock is held against the venue's own
    time at the start, every minute, and whenever it moves otherwise than the wall does (at the rate seen last); until
    the venue has answered, time stands.

    Raises
    ------
    VenueError
        The venue does not say its time at the start.

    """

    def __init__(self, clock: Clock, venue_ms: Callable[[], int], say: Callable[[str], None]) -> None:
        self._clock, self._venue_ms, self._say = clock, venue_ms, say
        self._ended = threading.Event()
        self._offset_ms = 0
        self._rate = 1.0
        #: The last comparison: reading, venue's time, wall.
        self._seen: tuple[int, int, float] | None = None
        self.now_ms = self._read()
        self._thread = threading.Thread(target=self._run, name="collect-clock", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; `now_ms` stays."""
        self._ended.set()

    def _run(self) -> None:
        told = False
        while not self._ended.wait(_READ_S):
            try:
                self.now_ms = self._read()
                told = False
            except VenueError as error:
                if not told:
                    self._say(f"market time stands at {iso(self.now_ms)}: {error}")
                told = True

    def _read(self) -> int:
        reading, wall = self._clock.now_ms(), time.monotonic()
        if self._seen is None:
            self._compare(reading, wall)
        else:
            then, _, since = self._seen
            expected = then + (wall - since) * SECOND_MS * self._rate
            if abs(reading - expected) > self._tolerance_ms or wall - since > _CHECK_S:
                self._compare(reading, wall)
        return reading - self._offset_ms

    @property
    def _tolerance_ms(self) -> float:
        return max(_TOLERANCE_MS, self._rate * SECOND_MS)

    def _compare(self, reading: int, wall: float) -> None:
        venue = self._venue_ms()
        if self._seen is not None and wall > self._seen[2]:
            self._rate = max(1.0, (venue - self._seen[1]) / ((wall - self._seen[2]) * SECOND_MS))
        self._seen = reading, venue, wall
        wrong = reading - venue
        before, self._offset_ms = self._offset_ms, wrong if abs(wrong) > self._tolerance_ms else 0
        if bool(before) != bool(self._offset_ms) and not isinstance(self._clock, VenueClock):
            how = f"wrong by {wrong / SECOND_MS:+,.0f} s; the venue's time counts" if self._offset_ms else "right again"
            self._say(f"this machine's clock is {how}")
