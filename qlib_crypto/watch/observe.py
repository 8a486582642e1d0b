"""What can be seen of a lake and of who works on it.

Everything is read from files (`collector.json`, `jobs.sqlite`, the lake, the disk), so that the daemon, a command
beside it and a container elsewhere see the same.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from qlib_crypto.collect.status import LOCK_FILE, CollectorStatus, pid_namespace, read_status
from qlib_crypto.daemon.job import Job, State
from qlib_crypto.daemon.jobs import FILE, JobTable
from qlib_crypto.lake import Lake
from qlib_crypto.lake.paths import INSTRUMENTS
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Interval, Venue
from qlib_crypto.watch.holders import holder

#: A collector that has not written its status for so long hangs or is gone, wall seconds.
HEARTBEAT_S = 90.0
#: A collector whose market time is further from its wall time follows a sandbox's clock.
_SAME_CLOCK_MS = 5 * MINUTE_MS
_NEWEST_JOBS = 1_000
_RECENT_MS = 30 * DAY_MS


@dataclass(frozen=True, slots=True)
class VenueView:
    """One venue, as of now.

    Attributes
    ----------
    status
        What its collector wrote last, None when none ever did.
    now_ms
        Market time now.
    silent_s
        Wall seconds since the status was written, None without one.
    killed
        Whether its collector's last word is that it runs, though it is gone.
    timed
        Whether market time is known: by the wall, or by a collector that runs.
    lag_s
        By symbol that is not delisted: market seconds since the close of its newest bar; None when it has none yet, or
        market time is not known.
    settlement_s
        Market seconds since the newest settlement, None when there is none or market time is not known.
    holes
        Spans of the last month that the venue itself does not have, by dataset and cause.
    repairs
        Rows of the last month that were filled in, by cause.
    quarantined
        Rows in quarantine, and how many of them came in the last wall day.

    """

    venue: Venue
    status: CollectorStatus | None
    now_ms: int
    silent_s: float | None
    lag_s: dict[str, float | None]
    settlement_s: float | None
    killed: bool = False
    timed: bool = True
    holes: Counter[tuple[str, str]] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    quarantined: tuple[int, int] = (0, 0)

    @property
    def up(self) -> bool:
        """Whether a collector runs and says so."""
        alive = self.status is not None and self.status.running and not self.killed
        return alive and self.silent_s is not None and self.silent_s < HEARTBEAT_S


@dataclass(frozen=True, slots=True)
class View:
    """A lake and who works on it.

    Attributes
    ----------
    wall_ms
        When it was looked at.
    jobs
        The newest jobs, the oldest of them first.
    daemon
        The process that holds the daemon's lock, None when none does.
    disks
        Free and total bytes where each folder lies.

    """

    wall_ms: int
    venues: dict[Venue, VenueView]
    jobs: list[Job]
    daemon: int | None
    disks: dict[str, tuple[int, int]]


def observe(settings: Settings, venues: Sequence[Venue], *, wall_ms: int | None = None) -> View:
    """Everything of the venues, of the jobs and of the disk."""
    wall = time.time_ns() // 1_000_000 if wall_ms is None else wall_ms
    lake = Lake(settings.lake_dir)
    table = JobTable(settings.lake_dir / FILE)
    try:
        return View(
            wall_ms=wall,
            venues={venue: observe_venue(lake, venue, wall) for venue in venues},
            jobs=table.list(limit=_NEWEST_JOBS),
            daemon=holder(settings.lake_dir / "daemon.lock"),
            disks={name: disk(path) for name, path in disks_of(settings)},
        )
    finally:
        table.close()
        lake.close()


def observe_venue(lake: Lake, venue: Venue, wall_ms: int) -> VenueView:
    """One venue; a lake that holds nothing of it gives an empty view."""
    status = read_status(lake, venue)
    now_ms = market_now(status, wall_ms)
    silent_s = None if status is None else max(0.0, (wall_ms - status.wall_ms) / SECOND_MS)
    killed = status is not None and _killed(lake, venue, status)
    runs = status is not None and status.running and not killed and (silent_s or 0) < HEARTBEAT_S
    timed = status is None or runs or _by_wall(status)
    known = lake.folder(venue).is_dir()
    quarantined = lake.quarantined(venue) if known else []
    repairs: Counter[str] = Counter()
    for repair in lake.repairs(venue, now_ms - _RECENT_MS) if known else []:
        repairs[repair.cause] += repair.rows
    return VenueView(
        venue=venue,
        status=status,
        now_ms=now_ms,
        silent_s=silent_s,
        lag_s={} if status is None else _lags(status, now_ms if timed else None, _delisted(lake, venue, now_ms)),
        settlement_s=_settlement_age_s(lake, status, venue, now_ms) if known and timed else None,
        killed=killed,
        timed=timed,
        holes=Counter((h.dataset, h.cause) for h in lake.holes(venue, start_ms=now_ms - _RECENT_MS))
        if known
        else Counter(),
        repairs=repairs,
        quarantined=(len(quarantined), sum(q.at_ms > wall_ms - DAY_MS for q in quarantined)),
    )


def market_now(status: CollectorStatus | None, wall_ms: int) -> int:
    """Market time now: the wall, or, where a collector follows another clock, its last word and the wall since."""
    if status is None or _by_wall(status):
        return wall_ms
    return status.market_ms + max(0, wall_ms - status.wall_ms)


def _by_wall(status: CollectorStatus) -> bool:
    return abs(status.market_ms - status.wall_ms) < _SAME_CLOCK_MS


def _killed(lake: Lake, venue: Venue, status: CollectorStatus) -> bool:
    """Whether it says that it runs and holds no lock; of another container's nobody here can see that."""
    seen = status.running and status.namespace != "" and status.namespace == pid_namespace()
    return seen and holder(lake.folder(venue) / LOCK_FILE) is None


def disk(path: Path) -> tuple[int, int]:
    """Free and total bytes of the disk on which a folder lies, or will lie."""
    usage = shutil.disk_usage(existing(path))
    return usage.free, usage.total


def existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    there = path.absolute()
    while not there.exists():
        there = there.parent
    return there


def disks_of(settings: Settings) -> list[tuple[str, Path]]:
    """The folders that fill up, one a disk, each with the name we call it by."""
    disks: dict[int, tuple[str, Path]] = {}
    for label, path in (("lake", settings.lake_dir), ("provider", settings.provider_dir)):
        disks.setdefault(existing(path).stat().st_dev, (label, path))
    return list(disks.values())


def latest(jobs: Iterable[Job]) -> dict[tuple[str, str], Job]:
    """The last ended job of each kind and subject (a venue, or a workflow's name)."""
    out: dict[tuple[str, str], Job] = {}
    for job in jobs:
        if job.state in (State.COMPLETED, State.FAILED):
            before = out.get(name(job))
            if before is None or (job.ended_ms or 0) >= (before.ended_ms or 0):
                out[name(job)] = job
    return out


def name(job: Job) -> tuple[str, str]:
    """Kind and subject: the venue, or the name of the workflow, or nothing."""
    subject = job.arguments.get("venue") or Path(str(job.arguments.get("workflow") or "")).stem
    return job.kind, str(subject)


def _lags(status: CollectorStatus, now_ms: int | None, delisted: frozenset[str]) -> dict[str, float | None]:
    step = Interval.parse(status.interval).ms
    return {
        symbol: None if opened is None or now_ms is None else max(0.0, (now_ms - opened - step) / SECOND_MS)
        for symbol, opened in status.newest.items()
        if symbol not in delisted
    }


def _delisted(lake: Lake, venue: Venue, now_ms: int) -> frozenset[str]:
    """Symbols that trade no more; the files that say so are read again when one is added."""
    try:
        stamp = (lake.folder(venue) / INSTRUMENTS).stat().st_mtime_ns
    except OSError:
        return frozenset()
    return frozenset(symbol for symbol, at_ms in _delistings(lake.root, venue, stamp) if at_ms <= now_ms)


@lru_cache(maxsize=8)
def _delistings(root: Path, venue: Venue, _stamp: int) -> tuple[tuple[str, int], ...]:
    specs = Lake(root).specs(venue).values()
    return tuple((spec.instrument.symbol, spec.delisted_ms) for spec in specs if spec.delisted_ms is not None)


def _settlement_age_s(lake: Lake, status: CollectorStatus | None, venue: Venue, now_ms: int) -> float | None:
    newest = None if status is None else status.last_settlement_ms
    if newest is None:
        times = lake.settlements(venue, None, now_ms - 3 * DAY_MS, now_ms + HOUR_MS).column("timestamp")
        newest = pc.max(times.cast(pa.int64())).as_py()
    return None if newest is None else max(0.0, (now_ms - newest) / SECOND_MS)
