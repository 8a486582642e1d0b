"""When a job is due, in market time: pure arithmetic, no timers."""

from __future__ import annotations

from dataclasses import dataclass

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.settings import ScheduleSettings


@dataclass(frozen=True, slots=True)
class Period:
    """The instants `k * every_ms + offset_ms`, k any integer, Unix milliseconds UTC."""

    every_ms: int
    offset_ms: int

    def last(self, now_ms: int) -> int:
        """The latest due instant at or before `now_ms`."""
        return now_ms - (now_ms - self.offset_ms) % self.every_ms


def rank_period(schedule: ScheduleSettings) -> Period:
    """Every `rank_every_hours`, `rank_offset_minutes` after the settlement hours that count from 00:00 UTC."""
    return Period(schedule.rank_every_hours * HOUR_MS, schedule.rank_offset_minutes * MINUTE_MS)


def convert_period(schedule: ScheduleSettings) -> Period:
    """Daily at `convert_at` plus `convert_delay_minutes`."""
    hours, minutes = map(int, schedule.convert_at.split(":"))
    return Period(DAY_MS, hours * HOUR_MS + (minutes + schedule.convert_delay_minutes) * MINUTE_MS)
