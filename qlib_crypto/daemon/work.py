"""What the short jobs do: a thin adapter each from the job table's words to the package that does the work.

Every one is idempotent: done twice, or by two processes at once, it leaves what it leaves when done once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from qlib_crypto.clock import DAY_MS, day_start, iso, parse_utc
from qlib_crypto.collect import recent_leavers, reconcile, refresh_instruments, refresh_tiers, repair
from qlib_crypto.collect.repair import WINDOW_MS
from qlib_crypto.collect.status import read_status
from qlib_crypto.daemon.jobs import FILE, JobTable
from qlib_crypto.daemon.kinds import EACH
from qlib_crypto.daemon.worker import Request
from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds import RestClient, rest_client
from qlib_crypto.feeds.archive import Archive
from qlib_crypto.lake import Lake
from qlib_crypto.lake.inspect import check
from qlib_crypto.lake.retention import retain
from qlib_crypto.lake.universe_file import read_universe, universe_path
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Instrument, Interval, Venue
from qlib_crypto.universe import update_universe

log = structlog.get_logger(__name__)

#: The daily upkeep looks at the day before; after a pause at what it did not see, at most so many days.
_MOST_DAYS = 31
#: Entries of a mapping that a result keeps by name.
_MOST_NAMES = 30


@dataclass(frozen=True, slots=True)
class Site:
    """One venue with its lake and client, kept from job to job so that the client's request limits hold for all."""

    venue: Venue
    settings: Settings
    lake: Lake
    client: RestClient
    archive: Archive | None

    @classmethod
    def of(cls, venue: Venue, settings: Settings) -> Site:
        """The site that the settings describe."""
        part = settings.venue(venue)
        return cls(venue, settings, Lake(settings.lake_dir), rest_client(venue, part), Archive(venue, part))

    def do(self, request: Request) -> dict[str, Any]:
        """The result of one job.

        Raises
        ------
        ConfigError
            The job is no work of a venue, or what it needs is not set.

        """
        if request.kind not in _WORK:
            raise ConfigError(f"job kind {request.kind!r} is no work of a venue; choose one of: {' '.join(_WORK)}")
        return _WORK[request.kind](self, request)

    @property
    def interval(self) -> Interval:
        """The bars that are collected."""
        return Interval.parse(self.settings.venue(self.venue).interval)

    def now_ms(self, request: Request) -> int:
        """When the job was due; of one without a period, the venue's time."""
        return self.client.server_time_ms() if request.period_ms is None else request.period_ms

    def instruments(self) -> list[Instrument]:
        """What is followed: by the settings, and by the collector, which keeps leavers for a while."""
        symbols = self.settings.venue(self.venue).symbols
        if isinstance(symbols, str):
            path = universe_path(self.settings.lake_dir, self.venue)
            if not path.is_file():
                raise ConfigError(f"{path} does not exist; run: qlib-crypto rank --venue {self.venue}")
            chosen = read_universe(path, self.venue)
        else:
            chosen = [Instrument.parse(symbol, self.venue) for symbol in symbols]
        status = read_status(self.lake, self.venue)
        kept = [] if status is None else [Instrument.parse(symbol, self.venue) for symbol in status.newest]
        return sorted({*chosen, *kept})

    def days(self, request: Request) -> tuple[int, int]:
        """Whole UTC days `[start, end)` to look at: those asked for, else those since the job was done last."""
        given = request.arguments
        end = parse_utc(given["end"]) if "end" in given else day_start(self.now_ms(request))
        last = end - DAY_MS if request.since_ms is None else day_start(request.since_ms)
        start = parse_utc(given["start"]) if "start" in given else min(last, end - DAY_MS)
        if start >= end:
            raise ConfigError(f"start {iso(start)} is not before end {iso(end)}; the span is [start, end)")
        return (start if "start" in given else max(start, end - _MOST_DAYS * DAY_MS)), end

    def say(self, line: str) -> None:
        """One line of a job, for the log."""
        log.info(line, venue=str(self.venue))


def _rank(site: Site, request: Request) -> dict[str, Any]:
    settings = site.settings
    ranked = update_universe(site.lake, site.client, settings.universe, settings.lake_dir, at_ms=request.period_ms)
    return {"eligible": len(ranked), "members": sum(row.member for row in ranked)}


def _instruments(site: Site, _request: Request) -> dict[str, Any]:
    path, specs = refresh_instruments(site.lake, site.client)
    try:
        followed = set(site.instruments())
    except ConfigError as error:  # nothing is ranked yet
        site.say(f"no margin tiers are asked for: {error}")
        followed = set()
    asked = [spec for spec in specs if spec.instrument in followed]
    return {"file": str(path), "tiers": len(refresh_tiers(site.lake, site.client, asked, site.say))}


def _repair(site: Site, request: Request) -> dict[str, Any]:
    now, since = site.client.server_time_ms(), request.since_ms
    # after a long pause further back than usual
    since = now - WINDOW_MS if since is None else max(min(since, now - WINDOW_MS), now - _MOST_DAYS * DAY_MS)
    if "since" in request.arguments:
        since = parse_utc(request.arguments["since"])
    part = site.settings.venue(site.venue)
    summary = repair(
        site.lake, site.client, site.archive, site.instruments(), site.interval, part.datasets,
        now_ms=now, since_ms=since, leavers=recent_leavers(site.lake, site.venue, part, now, since), say=site.say,
    )  # fmt: skip
    return as_result(summary)


def _seal(site: Site, request: Request) -> dict[str, Any]:
    before = day_start(site.now_ms(request))
    files = site.lake.seal(site.venue, before_ms=before)
    if site.settings.schedule.push:
        table = JobTable(site.settings.lake_dir / FILE, each=EACH)
        try:
            table.submit("push", {"venue": str(site.venue)}, period_ms=request.period_ms, by="seal")
        finally:
            table.close()
    return {"files": len(files), "before": iso(before)}


def _reconcile(site: Site, request: Request) -> dict[str, Any]:
    start, end = site.days(request)
    report = reconcile(site.lake, site.client, site.archive, site.instruments(), site.interval, start, end, site.say)
    return as_result(report)


def _check(site: Site, request: Request) -> dict[str, Any]:
    return as_result(check(site.lake, site.venue, *site.days(request)))


def _retain(site: Site, request: Request) -> dict[str, Any]:
    return as_result(retain(site.lake, site.venue, site.settings.retention, site.now_ms(request), say=site.say))


_WORK: Mapping[str, Callable[[Site, Request], dict[str, Any]]] = {
    "rank": _rank,
    "instruments": _instruments,
    "repair": _repair,
    "seal": _seal,
    "reconcile": _reconcile,
    "check": _check,
    "retain": _retain,
}


def as_result(summary: Any) -> dict[str, Any]:
    """A summary as the job table keeps it: numbers and texts by name, and of long collections how many they hold."""
    values = _plain(summary)
    return values if isinstance(values, dict) else {"result": values}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping) and len(value) <= _MOST_NAMES:
        return {str(key): _plain(part) for key, part in value.items()}
    return len(value) if hasattr(value, "__len__") else str(value)
