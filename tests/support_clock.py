"""A machine, a venue, and their clocks: for the tests of market time."""

from __future__ import annotations

import time
from typing import Any

from support_lake import T0

from qlib_crypto.clock import SECOND_MS
from qlib_crypto.collect.market_time import MarketTime
from qlib_crypto.errors import VenueError


class World:
    """A venue whose time runs at `speed`, and a machine whose clock stands wrong by `offset_ms`.

    `wall` is the machine's steady clock, which only the test moves; the venue takes `slow_s` to answer, and does not
    while it is `down`.
    """

    def __init__(self, monkeypatch: Any, speed: float = 1.0, start_ms: int = T0) -> None:
        self.wall, self.speed, self.start_ms = 1000.0, speed, start_ms
        self.offset_ms, self.asked, self.down, self.slow_s = 0, 0, False, 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.wall)

    @property
    def true_ms(self) -> int:
        return int(self.start_ms + (self.wall - 1000.0) * SECOND_MS * self.speed)

    def venue_ms(self) -> int:
        self.asked += 1
        self.wall += self.slow_s
        if self.down:
            raise VenueError("okx does not answer", retryable=True)
        return self.true_ms

    def now_ms(self) -> int:
        return self.true_ms + self.offset_ms

    def live(self, market: MarketTime, seconds: float, least_s: float = 0.0) -> None:
        """So many seconds of the thread that reads, in this one; it sleeps for at least `least_s` at a time."""
        until = self.wall + seconds

        def wait(step_s: float) -> bool:
            self.wall += max(step_s, least_s)
            return self.wall >= until

        market._ended.wait = wait
        market._run()
