"""What is due when, in market time: pure arithmetic, no timers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from apscheduler.triggers.cron import CronTrigger

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, utc
from qlib_crypto.daemon.job import canonical
from qlib_crypto.daemon.kinds import checked
from qlib_crypto.errors import ConfigError
from qlib_crypto.settings import ScheduleSettings, WorkflowSchedule
from qlib_crypto.symbols import Venue

#: More missed periods of one job than this are not caught up: a daemon off for two years, or a clock of another age.
MOST_PERIODS = 20_000

_INSTRUMENTS_OFFSET_MS = MINUTE_MS
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = 5
#: Keeps an expression that never comes from being looked for until the year 9999.
_YEARS = "1970-2200"


class Grid(Protocol):
    """Instants of market time, Unix milliseconds UTC."""

    def last(self, now_ms: int) -> int:
        """The latest at or before `now_ms`."""
        ...

    def between(self, after_ms: int, until_ms: int) -> list[int]:
        """Those in `(after_ms, until_ms]`, ascending; of more than `MOST_PERIODS` the newest."""
        ...


@dataclass(frozen=True, slots=True)
class Period:
    """The instants `k * every_ms + offset_ms`, k any integer, Unix milliseconds UTC."""

    every_ms: int
    offset_ms: int

    def last(self, now_ms: int) -> int:
        """The latest due instant at or before `now_ms`."""
        return now_ms - (now_ms - self.offset_ms) % self.every_ms

    def between(self, after_ms: int, until_ms: int) -> list[int]:
        """Due instants in `(after_ms, until_ms]`, ascending; of more than `MOST_PERIODS` the newest."""
        last = self.last(until_ms)
        first = max(self.last(after_ms) + self.every_ms, last - (MOST_PERIODS - 1) * self.every_ms)
        return list(range(first, last + 1, self.every_ms))


class Cron:
    """The instants of a cron expression of five fields, UTC: minute, hour, day of month, month, day of week.

    Days of the week are 0 to 7, Sunday being 0 and 7, or sun to sat, as in a crontab (APScheduler alone counts from
    Monday).

    Raises
    ------
    ConfigError
        The expression cannot be read, or restricts both days of the month and of the week: crontabs then mean either,
        others both, so that is written as two schedules.

    """

    #: So far back an expression is looked for: longer than from one 29 February to the next.
    _SPAN_MS = 9 * 366 * DAY_MS

    def __init__(self, expression: str) -> None:
        self.expression = expression
        fields = expression.split()
        advice = 'write five fields such as "30 0 * * *" (minute hour day month weekday, UTC)'
        if len(fields) != _FIELDS:
            raise ConfigError(f"cron {expression!r} has {len(fields)} fields; {advice}")
        minute, hour, day, month, weekday = fields
        if day != "*" and weekday != "*":
            raise ConfigError(f"cron {expression!r} names days of month and of week; write two schedules, one each")
        try:
            self._trigger = CronTrigger(
                minute=minute,
                hour=hour,
                day=day,
                month=month,
                day_of_week=_weekdays(weekday),
                year=_YEARS,
                timezone="UTC",
            )
        except (ValueError, TypeError) as error:
            raise ConfigError(f"cron {expression!r}: {' '.join(str(error).split())}; {advice}") from None
        if self._next(0) is None:
            raise ConfigError(f"cron {expression!r} never comes; {advice}")

    def last(self, now_ms: int) -> int:
        """The latest instant at or before `now_ms`; nine years before when there is none."""
        found = self._newest(now_ms - self._SPAN_MS, now_ms, 1)
        return found[-1] if found else now_ms - self._SPAN_MS

    def between(self, after_ms: int, until_ms: int) -> list[int]:
        """Instants in `(after_ms, until_ms]`, ascending; of more than `MOST_PERIODS` the newest."""
        return self._newest(after_ms, until_ms, MOST_PERIODS)

    def _newest(self, after_ms: int, until_ms: int, count: int) -> list[int]:
        """The newest `count` instants, looked for in ever longer spans further back."""
        found: list[int] = []
        end, span = until_ms, HOUR_MS
        while end > after_ms and len(found) < count:
            begin = max(after_ms, end - span)
            part, at = [], self._next(begin)
            while at is not None and at <= end:
                part.append(at)
                at = self._next(at)
            found = part + found
            end, span = begin, 2 * span
        return found[-count:]

    def _next(self, after_ms: int) -> int | None:
        at = self._trigger.get_next_fire_time(None, utc(after_ms - after_ms % MINUTE_MS + MINUTE_MS))
        return None if at is None else round(at.timestamp() * SECOND_MS)


@dataclass(frozen=True, slots=True)
class Together:
    """The instants of several grids, each once."""

    grids: tuple[Grid, ...]

    def last(self, now_ms: int) -> int:
        """The latest at or before `now_ms`."""
        return max(grid.last(now_ms) for grid in self.grids)

    def between(self, after_ms: int, until_ms: int) -> list[int]:
        """Those in `(after_ms, until_ms]`, ascending; of more than `MOST_PERIODS` the newest."""
        return sorted({at for grid in self.grids for at in grid.between(after_ms, until_ms)})[-MOST_PERIODS:]


@dataclass(frozen=True)
class Scheduled:
    """A job that is due at every instant of a grid; with `at_first` the instant before the first start is due too."""

    kind: str
    arguments: Mapping[str, Any]
    period: Grid
    at_first: bool = field(default=False, kw_only=True)

    def due(self, submitted_to_ms: int | None, now_ms: int) -> list[int]:
        """Periods that are due by `now_ms` and were not submitted; `submitted_to_ms` is how far that was done before.

        Where that lies ahead by more than a period, the clock was wrong then: from the newest period on again.
        """
        if submitted_to_ms is None:
            return [self.period.last(now_ms)] if self.at_first else []
        if submitted_to_ms > now_ms:
            ahead = self.period.between(now_ms, submitted_to_ms)
            return [self.period.last(now_ms)] if len(ahead) > 1 else []
        return self.period.between(submitted_to_ms, now_ms)


def scheduled(schedule: ScheduleSettings, venues: Sequence[Venue]) -> list[Scheduled]:
    """Everything that the settings ask for, a kind with its arguments once: the job table keeps one mark for each.

    Raises
    ------
    ConfigError
        A cron expression cannot be read.

    """
    upkeep = Period(DAY_MS, _of_day(schedule.upkeep_at))
    jobs = []
    for venue in venues:
        at = {"venue": str(venue)}
        jobs += [
            Scheduled("rank", at, rank_period(schedule), at_first=True),
            Scheduled("instruments", at, Period(schedule.instruments_every_hours * HOUR_MS, _INSTRUMENTS_OFFSET_MS)),
            Scheduled("repair", at, repair_period(schedule)),
            Scheduled("seal", at, convert_period(schedule)),
            *(Scheduled(kind, at, upkeep) for kind in ("reconcile", "check", "retain", "health")),
        ]
    crons: dict[str, tuple[Mapping[str, Any], list[Cron]]] = {}
    for w in schedule.workflows:
        arguments = _run_of(w)
        crons.setdefault(canonical(arguments), (arguments, []))[1].append(Cron(w.cron))
    runs = [Scheduled("run", arguments, Together(tuple(of))) for arguments, of in crons.values()]
    return [*jobs, Scheduled("convert", {}, convert_period(schedule)), *runs]


def missing_workflows(schedule: ScheduleSettings) -> list[str]:
    """The scheduled workflow files that do not exist."""
    return sorted({w.workflow for w in schedule.workflows if not Path(w.workflow).is_file()})


def _run_of(of: WorkflowSchedule) -> dict[str, Any]:
    """The arguments of its jobs."""
    fitted = {"fit_segments": "true"} if of.fit_segments else {}
    return checked("run", {"workflow": of.workflow, **fitted, **{f"var.{k}": v for k, v in of.vars.items()}})


def rank_period(schedule: ScheduleSettings) -> Period:
    """Every `rank_every_hours`, `rank_offset_minutes` after the settlement hours that count from 00:00 UTC."""
    return Period(schedule.rank_every_hours * HOUR_MS, schedule.rank_offset_minutes * MINUTE_MS)


def repair_period(schedule: ScheduleSettings) -> Period:
    """Every `repair_every_hours`, `repair_offset_minutes` after the hours that count from 00:00 UTC."""
    return Period(schedule.repair_every_hours * HOUR_MS, schedule.repair_offset_minutes * MINUTE_MS)


def convert_period(schedule: ScheduleSettings) -> Period:
    """Every `convert_every_hours`, once a day at `convert_at`, plus `convert_delay_minutes`."""
    offset = _of_day(schedule.convert_at) + schedule.convert_delay_minutes * MINUTE_MS
    return Period(schedule.convert_every_hours * HOUR_MS, offset)


def _of_day(text: str) -> int:
    hours, minutes = map(int, text.split(":"))
    return hours * HOUR_MS + minutes * MINUTE_MS


def _weekdays(text: str) -> str:
    """The field with names, ranges written out: `5-7` is `fri,sat,sun`."""
    if text == "*":
        return text
    days: list[str] = []
    for part in text.lower().split(","):
        match = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/(\d+))?", part)
        if match is None:
            raise ValueError(f"day of week {part!r}")
        first, last, step = match.groups()
        low = 0 if first == "*" else _weekday(first)
        high = 6 if first == "*" or (last is None and step) else low if last is None else _weekday(last)
        high += 7 if high < low else 0
        days += [_DAYS[day % 7] for day in range(low, high + 1, int(step or 1) or 1)]
    return ",".join(dict.fromkeys(days))


def _weekday(text: str) -> int:
    if text.isdigit() and int(text) <= len(_DAYS):
        return int(text)
    if text in _DAYS:
        return _DAYS.index(text)
    raise ValueError(f"day of week {text!r}")
