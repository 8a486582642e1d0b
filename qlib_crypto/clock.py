"""Time: integer UTC milliseconds inside, timezone-aware UTC at the edges, and one injected market clock.

*Market time* (bar close, settlement, day seal, job periods) comes from a `Clock`. *Protocol time* (ping,
back-off, rate windows) is the machine's own and never comes from here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Protocol

from qlib_crypto.errors import ConfigError

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS


class Clock(Protocol):
    """What tells market time."""

    def now_ms(self) -> int:
        """Market time now, Unix milliseconds UTC."""
        ...


class WallClock:
    """Market time is the machine's own UTC time."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class VenueClock:
    """Market time as the venue's own time endpoint tells it, at the rate seen there.

    Parameters
    ----------
    read_ms
        Asks the venue for its time, Unix milliseconds (`/api/v5/public/time`, `/fapi/v1/time`).
    refresh_s
        Wall seconds between two questions; in between the lower of the last two rates is extrapolated, never
        backwards: a clock that jumped does not run away.

    """

    def __init__(self, read_ms: Callable[[], int], *, refresh_s: float = 2.0) -> None:
        self._read_ms = read_ms
        self._refresh_s = refresh_s
        self._wall = time.monotonic()
        self._market = float(read_ms())
        self._rates = (1.0, 1.0)
        self._last = int(self._market)

    def now_ms(self) -> int:
        if time.monotonic() - self._wall >= self._refresh_s:
            market = float(self._read_ms())
            wall = time.monotonic()  # after the answer, which may have taken several attempts
            seen = max(0.0, (market - self._market) / ((wall - self._wall) * SECOND_MS))
            self._rates = (self._rates[1], seen)
            self._wall, self._market = wall, market
        now = int(self._market + (time.monotonic() - self._wall) * SECOND_MS * min(self._rates))
        self._last = max(self._last, now)
        return self._last


def parse_utc(text: str | date | datetime) -> int:
    """Unix milliseconds of a UTC time written as ISO text, `date` or `datetime`.

    A date means its 00:00. A time without a zone is UTC; another zone is converted.

    Raises
    ------
    ConfigError
        When the text is no ISO date or time.

    """
    try:
        value = datetime.fromisoformat(text.strip()) if isinstance(text, str) else text
    except ValueError:
        raise ConfigError(f"time {text!r} is not an ISO date or time; write 2025-04-17 or 2025-04-17T16:50") from None
    if not isinstance(value, date):
        raise ConfigError(f"time {text!r} is no ISO text, date or datetime; write 2025-04-17T16:50")
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return round(value.timestamp() * SECOND_MS)


def utc(ms: int) -> datetime:
    """The timezone-aware UTC datetime of Unix milliseconds."""
    return datetime.fromtimestamp(ms / SECOND_MS, tz=UTC)


def iso(ms: int) -> str:
    """`2025-04-17 16:50:00`: UTC, as Qlib's text files and our messages write it."""
    return utc(ms).strftime("%Y-%m-%d %H:%M:%S")


def day_start(ms: int) -> int:
    """00:00 UTC of the day that holds `ms`."""
    return ms - ms % DAY_MS


def month_start(ms: int) -> int:
    """00:00 UTC of the first day of the month that holds `ms`."""
    at = utc(ms)
    return parse_utc(date(at.year, at.month, 1))


def next_month(ms: int) -> int:
    """00:00 UTC of the first day of the month after the one that holds `ms`."""
    at = utc(ms)
    return parse_utc(date(at.year + at.month // 12, at.month % 12 + 1, 1))
