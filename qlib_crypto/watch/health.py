"""Health: the findings about a lake and who works on it, and its coverage by instrument and day with the causes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qlib_crypto.clock import DAY_MS, MINUTE_MS, day_start, iso
from qlib_crypto.collect.repair import WINDOW_MS
from qlib_crypto.collect.series import polled
from qlib_crypto.errors import counted
from qlib_crypto.lake import Lake
from qlib_crypto.lake.coverage import NOT_COLLECTED, NOT_LISTED, DayCoverage, coverage
from qlib_crypto.lake.paths import kline_dataset
from qlib_crypto.lake.tables import dataset_table
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Instrument, Interval, Venue
from qlib_crypto.watch.findings import Finding, Level, worst
from qlib_crypto.watch.judge import judge
from qlib_crypto.watch.observe import VenueView, View, latest, observe

#: What is younger may still come by stream, market time.
_GRACE_MS = 3 * MINUTE_MS
#: Rows missing for no reason: above this share it is no slip.
_MUCH = 0.01
#: So far back we look for rows before the span, as `repair` does; and so much of it tells at a glance that there are.
_BEFORE_MS, _FIRST_MS = 30 * DAY_MS, 30 * MINUTE_MS


@dataclass(frozen=True, slots=True)
class Covered:
    """The coverage of one dataset of one venue.

    Attributes
    ----------
    days
        By instrument and day, ascending, from where the dataset begins; empty when there is nothing of it.
    missing
        Rows that are not there, by cause.

    """

    dataset: str
    days: list[DayCoverage]

    @property
    def expected(self) -> int:
        """Rows that the listed contracts could have."""
        return sum(day.expected - day.missing.get(NOT_LISTED, 0) for day in self.days)

    @property
    def have(self) -> int:
        """Rows that are there."""
        return sum(day.have for day in self.days)

    @property
    def missing(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for day in self.days:
            total.update(day.missing)
        return total


@dataclass(frozen=True, slots=True)
class Health:
    """One look.

    Attributes
    ----------
    view
        Collectors, jobs and disk.
    spans
        Market time `[start, end)` that the coverage is about, by venue.
    covered
        The datasets of each venue, its candles first.
    findings
        What is good and what is not.

    """

    view: View
    spans: dict[Venue, tuple[int, int]]
    covered: dict[Venue, list[Covered]]
    findings: list[Finding]

    @property
    def level(self) -> Level:
        """The worst finding's."""
        return worst(self.findings)

    def as_json(self, *, every: bool = False) -> dict[str, Any]:
        """One object for machines; times are UTC text, market time for venues.

        Of the days those on which something is missing that was listed, all of them with `every`.
        """
        return {
            "at": iso(self.view.wall_ms),
            "level": str(self.level),
            "findings": [finding.as_json() for finding in self.findings],
            "venues": {
                str(venue): _venue_json(view, self.spans[venue], self.covered[venue], every=every)
                for venue, view in self.view.venues.items()
            },
            "jobs": [
                {"kind": kind, "subject": subject, "state": str(job.state), "error": job.error,
                 "ended": None if job.ended_ms is None else iso(job.ended_ms)}
                for (kind, subject), job in sorted(latest(self.view.jobs).items())
            ],
            "disk_free_bytes": {folder: free for folder, (free, _) in self.view.disks.items()},
        }  # fmt: skip


def examine(settings: Settings, venues: Sequence[Venue], *, days: int, wall_ms: int | None = None) -> Health:
    """The health of a lake; coverage of the last `days` UTC days, today's first hours included."""
    view = observe(settings, venues, wall_ms=wall_ms)
    findings = judge(view, settings)
    lake = Lake(settings.lake_dir)
    spans, covered = {}, {}
    try:
        for venue in venues:
            now = view.venues[venue].now_ms
            spans[venue] = (day_start(now) - (days - 1) * DAY_MS, now - now % MINUTE_MS - _GRACE_MS)
            covered[venue] = _cover(lake, settings, view.venues[venue], spans[venue])
            findings += _complete(venue, covered[venue], now)
    finally:
        lake.close()
    return Health(view, spans, covered, findings)


def _cover(lake: Lake, settings: Settings, view: VenueView, span: tuple[int, int]) -> list[Covered]:
    part = settings.venue(view.venue)
    interval = Interval.parse(view.status.interval if view.status else part.interval)
    if not lake.folder(view.venue).is_dir() or span[1] <= span[0]:
        return []
    if view.status and view.status.newest:
        instruments = sorted(Instrument.parse(symbol, view.venue) for symbol in view.status.newest)
    else:
        instruments = lake.instruments(view.venue, interval)
    wanted = [kline_dataset(interval), "funding", *(series.dataset for series in polled(part.datasets))]
    return [Covered(name, _covered(lake, view.venue, name, interval, instruments, span)) for name in wanted]


def _covered(
    lake: Lake, venue: Venue, dataset: str, interval: Interval, instruments: Sequence[Instrument], span: tuple[int, int]
) -> list[DayCoverage]:
    """The coverage of each instrument from where its collection begins: before a beginning there is no gap."""
    found = {instrument: _begin(lake, dataset, instrument, span) for instrument in instruments}
    first = min((at for at in found.values() if at is not None), default=None)
    if first is None:
        return []
    groups: dict[int, list[Instrument]] = {}
    for instrument, at in found.items():
        mark = lake.mark(instrument, interval)  # what a collector has begun to fetch is wanted, though nothing came
        known = [begin for begin in (at, mark) if begin is not None] or [first]
        groups.setdefault(max(span[0], min(known)), []).append(instrument)
    days = [
        day
        for begin, those in groups.items()
        for day in coverage(lake, venue, dataset, those, begin, span[1], now_ms=span[1])
    ]
    place = {instrument: at for at, instrument in enumerate(instruments)}
    return sorted(days, key=lambda day: (place[day.instrument], day.day_ms))


def _begin(lake: Lake, dataset: str, instrument: Instrument, span: tuple[int, int]) -> int | None:
    """The span's start when there are rows before it, else the first row or known hole in it; None without any."""
    table, interval = dataset_table(dataset)
    if len(lake.times(table, instrument, span[0], span[0] + _FIRST_MS, interval=interval)):
        return span[0]
    found = [hole.start_ms for hole in lake.holes(instrument.venue, dataset, instrument, *span)]
    found += lake.times(table, instrument, span[0] - _BEFORE_MS, span[1], interval=interval)[:1].tolist()
    return max(span[0], min(found)) if found else None


def _complete(venue: Venue, covered: Sequence[Covered], now_ms: int) -> list[Finding]:
    """What the coverage says; nothing where nothing was expected."""
    key, known = f"{venue} coverage", [one for one in covered if one.expected]
    lacking = [one for one in known if one.missing[NOT_COLLECTED]]
    if not known:
        return []
    empty = ", ".join(one.dataset for one in covered if not one.days)
    if not lacking and empty:
        return [Finding(key, Level.WARN, f"nothing yet of {empty}", f"look at the log of the {venue} collector")]
    if not lacking:
        return [
            Finding(key, Level.OK, f"{counted(sum(one.have for one in known), 'row')}; what is missing has a reason")
        ]
    share = {one.dataset: one.missing[NOT_COLLECTED] / one.expected for one in lacking}
    told = ", ".join(f"{one.missing[NOT_COLLECTED]:,} of {one.dataset} ({share[one.dataset]:.2%})" for one in lacking)
    level = Level.FAIL if max(share.values()) > _MUCH else Level.WARN
    first = min(day.day_ms for one in lacking for day in one.days if not day.explained)
    command = f"qlib-crypto repair --venue {venue}"
    if now_ms - first < WINDOW_MS - DAY_MS:
        advice = f"the hourly repair asks for them; now: {command}"
    else:
        advice = f"they are older than what the hourly repair looks at: {command} --since {iso(first)[:10]}"
    return [Finding(key, level, f"rows not collected: {told}", advice)]


def _venue_json(view: VenueView, span: tuple[int, int], covered: Sequence[Covered], *, every: bool) -> dict[str, Any]:
    return {
        "up": view.up,
        "market_time": iso(view.now_ms),
        "lag_s": view.lag_s,
        "settlement_age_s": view.settlement_s,
        "quarantined": view.quarantined[0],
        "holes": [{"dataset": d, "cause": c, "spans": n} for (d, c), n in sorted(view.holes.items())],
        "from": iso(span[0]),
        "to": iso(span[1]),
        "coverage": {
            one.dataset: {
                "expected": one.expected,
                "have": one.have,
                "missing": dict(one.missing),
                "days": [
                    {"symbol": d.instrument.symbol, "day": iso(d.day_ms)[:10], "expected": d.expected,
                     "have": d.have, "missing": dict(d.missing)}
                    for d in one.days
                    if every or set(d.missing) - {NOT_LISTED}
                ],
            }
            for one in covered
        },
    }  # fmt: skip
