"""Market time that nobody's wrong clock can move: a reading that jumps counts only once the venue has confirmed it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from qlib_crypto.clock import MINUTE_MS, SECOND_MS, Clock, VenueClock, iso
from qlib_crypto.errors import QlibCryptoError

_READ_S = 0.1
_CHECK_S = 60.0
#: After a venue that does not say its time.
_AGAIN_S = 1.0
#: A reading that is no older is as good as new; an older one is carried on.
_FRESH_S = 1.0
#: A clock that is wrong by less disturbs nothing: rows are asked for a little early or late.
_TOLERANCE_MS = MINUTE_MS


class MarketTime:
    """`now_ms`: what the clock says, less what the venue says that it is wrong by.

    Read in a thread of its own, since asking may take long and may fail. The clock is held against the venue's own
    time at the start, every minute, and whenever it moves otherwise than the wall does (at the rate seen last). While
    the venue does not answer, time goes on from the last good reading a second each second, by this machine's steady
    clock, which nobody can set: right for a venue, and never ahead of a sandbox that runs faster.

    Parameters
    ----------
    clock
        What is read.
    venue_ms
        Asks the venue for its time, Unix milliseconds.
    say
        Gets one line when the clock turns out wrong, or right again, and when the venue stops answering.
    ask_first
        Whether the venue must confirm the first reading; otherwise the clock is believed until the venue answers.

    Raises
    ------
    VenueError
        The venue is to confirm the first reading, and does not say its time.

    """

    def __init__(
        self, clock: Clock, venue_ms: Callable[[], int], say: Callable[[str], None], *, ask_first: bool = True
    ) -> None:
        self._clock, self._venue_ms, self._say = clock, venue_ms, say
        self._ended = threading.Event()
        self._offset_ms = 0
        self._rate = 1.0
        #: The last comparison: reading, venue's time, wall.
        self._seen: tuple[int, int, float] | None = None
        #: Market time of the last good reading, and the wall then.
        self._at = self._read() if ask_first else (clock.now_ms(), time.monotonic())
        self._thread = threading.Thread(target=self._run, name="market-time", daemon=True)

    @property
    def now_ms(self) -> int:
        """Market time now, Unix milliseconds UTC; returns at once."""
        market, since = self._at
        late_s = time.monotonic() - since - _FRESH_S
        return market + max(0, round(late_s * SECOND_MS))

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; `now_ms` goes on by the machine's steady clock."""
        self._ended.set()

    def _run(self) -> None:
        told = False
        while not self._ended.wait(_AGAIN_S if told else _READ_S):
            try:
                self._at = self._read()
                told = False
            except QlibCryptoError as error:
                if not told and not self._ended.is_set():
                    self._say(f"market time goes on from {iso(self.now_ms)} by this machine's steady clock: {error}")
                told = True

    def _read(self) -> tuple[int, float]:
        """Market time and the wall then."""
        if self._seen is not None:
            reading, wall = self._clock.now_ms(), time.monotonic()
            then, _, since = self._seen
            expected = then + (wall - since) * SECOND_MS * self._rate
            if abs(reading - expected) <= self._tolerance_ms and wall - since <= _CHECK_S:
                return reading - self._offset_ms, wall
        return self._compare()

    @property
    def _tolerance_ms(self) -> float:
        return max(_TOLERANCE_MS, self._rate * SECOND_MS)

    def _compare(self) -> tuple[int, float]:
        venue = self._venue_ms()
        reading, wall = self._clock.now_ms(), time.monotonic()  # after the answer, which may have taken a minute
        if self._seen is not None and wall > self._seen[2]:
            self._rate = max(1.0, (venue - self._seen[1]) / ((wall - self._seen[2]) * SECOND_MS))
        self._seen = reading, venue, wall
        wrong = reading - venue
        before, self._offset_ms = self._offset_ms, wrong if abs(wrong) > self._tolerance_ms else 0
        if bool(before) != bool(self._offset_ms) and not isinstance(self._clock, VenueClock):
            how = f"wrong by {wrong / SECOND_MS:+,.0f} s; the venue's time counts" if self._offset_ms else "right again"
            self._say(f"this machine's clock is {how}")
        return reading - self._offset_ms, wall
