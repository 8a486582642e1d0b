"""The market clock of the sandbox: market time at a chosen speed, or as fast as the sockets take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from qlib_crypto.clock import SECOND_MS, iso
from qlib_crypto.errors import ConfigError

MAX_SPEED = math.inf


def parse_speed(value: float | str) -> float:
    """Market seconds per wall second: a number from 0 (frozen) up, or `max` (infinity).

    Raises
    ------
    ConfigError
        When it is neither.

    """
    try:
        speed = MAX_SPEED if value == "max" else float(value)
    except (TypeError, ValueError, OverflowError):
        speed = math.nan
    if isinstance(value, bool):
        speed = math.nan
    if math.isnan(speed) or speed < 0:
        raise ConfigError(f"speed {value!r} is not possible; write a number from 0 (frozen) up, or max")
    return speed


class MarketClock:
    """Market time of the server, Unix milliseconds UTC, never past `until_ms`.

    At a finite speed it runs by the machine's monotonic clock. At `MAX_SPEED` it stands where the replay last moved
    it with `advance`, that is at the end of what was sent. While `held` it stands at its start.

    Parameters
    ----------
    start_ms, until_ms
        Where it starts and where it stops.
    speed
        Market seconds per wall second, 0 frozen, `MAX_SPEED` as fast as the sockets take.
    held
        Stand until `release`.
    monotonic
        Wall seconds, injected by tests.

    """

    def __init__(
        self,
        start_ms: int,
        until_ms: int,
        *,
        speed: float = 1.0,
        held: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._base_ms = start_ms
        self._base_s = monotonic()
        self.until_ms = max(until_ms, start_ms)
        self.speed = speed
        self.held = held
        #: Counts the jumps, so that a replay notices that its position is of another time.
        self.jumps = 0

    @property
    def is_max(self) -> bool:
        """True when the replay moves the clock."""
        return self.speed == MAX_SPEED

    @property
    def at_end(self) -> bool:
        """True when market time has reached `until_ms`."""
        return self.now_ms() >= self.until_ms

    def now_ms(self) -> int:
        """Market time now."""
        if self.held or self.is_max:
            return self._base_ms
        elapsed = (self._monotonic() - self._base_s) * SECOND_MS * self.speed
        return min(self.until_ms, self._base_ms + int(elapsed))

    def advance(self, to_ms: int) -> None:
        """Move to `to_ms`, never backwards nor past the end; only at `MAX_SPEED`."""
        self._base_ms = min(self.until_ms, max(self._base_ms, to_ms))

    def release(self) -> None:
        """Start to run."""
        if self.held:
            self.held = False
            self._base_s = self._monotonic()

    def set(self, *, speed: float | None = None, at_ms: int | None = None, until_ms: int | None = None) -> None:
        """Change speed, jump to a time (which ends a hold), or move the end; None keeps what is.

        Raises
        ------
        ConfigError
            When the clock would stand past its end.

        """
        now = self.now_ms()
        at = now if at_ms is None else at_ms
        until = self.until_ms if until_ms is None else until_ms
        if at > until:
            raise ConfigError(f"clock at {iso(at)} would be past its end {iso(until)}; move `until` too")
        if at_ms is not None:
            self.held = False
            self.jumps += 1
        self._base_ms, self._base_s, self.until_ms = at, self._monotonic(), until
        self.speed = self.speed if speed is None else speed
