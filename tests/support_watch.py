"""A lake with gaps of every cause, a collector's word, and jobs: for the tests of watching."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from support_lake import bar, open_interest, ratio, settlement, spec
from support_lake import mark as mark_bar

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, day_start
from qlib_crypto.collect.status import CollectorStatus, write_status
from qlib_crypto.daemon.jobs import FILE, JobTable
from qlib_crypto.lake import Lake
from qlib_crypto.lake.ledger import Hole
from qlib_crypto.schemas import PERIOD_MS
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Instrument, Interval, Venue

#: A Saturday afternoon; market and wall time of these tests.
NOW = 1_795_269_600_000  # 2026-11-21 14:00
DAYS = 4
FIRST = day_start(NOW) - (DAYS - 1) * DAY_MS


def coin(base: str, venue: Venue = Venue.OKX) -> Instrument:
    return Instrument(base, "USDT", venue)


def watched_settings(folder: Path, **changes: Any) -> Settings:
    return Settings.model_construct(lake_dir=folder, provider_dir=folder / "qlib_data", reports_dir=folder, **changes)


def status(venue: Venue = Venue.OKX, interval: str = "1h", **changes: Any) -> CollectorStatus:
    step = Interval.parse(interval).ms
    values: dict[str, Any] = {
        "venue": str(venue), "pid": os.getpid(), "running": True, "started_ms": NOW - 5 * HOUR_MS,
        "wall_ms": NOW - 4_000, "market_ms": NOW - 4_000, "interval": interval, "streamed_s": 0.4,
        "newest": {"BTC_USDT": NOW - step}, "rows": {"ws": 900, "rest": 100},
        "datasets": {f"kline_{interval}": 900, "funding": 100}, "gaps": {"disconnected": 7}, "repaired":
        {"disconnected": 5}, "holes": {"no_trade": 2},
        "stream": {"frames": 4000, "rows": 900, "malformed": 1, "unknown": 2, "reconnects": 3, "notices": 1,
                   "subscribe_errors": 0},
        "queue": 2, "inbox": 5, "last_settlement_ms": NOW - 6 * HOUR_MS, "commit_ms": 2.5,
    }  # fmt: skip
    return CollectorStatus(**{**values, **changes})


def gappy_lake(folder: Path, interval: str = "1h", *, whole: int = 3) -> Settings:
    """Four days of OKX: `whole` complete coins, and one coin for each cause of a gap and for all of them."""
    step = Interval.parse(interval)
    names = ["BTC", "ETH", *(f"WHOLE{i}" for i in range(whole - 2))][:whole]
    coins = [coin(name) for name in (*names, "LOST", "DOWN", "QUIET", "NEW", "GONE", "MIXED")]
    at = {c.base: c for c in coins}
    listed = {"NEW": FIRST + DAY_MS + 6 * HOUR_MS}
    delisted = {"GONE": FIRST + 2 * DAY_MS + 12 * HOUR_MS}
    day2 = FIRST + DAY_MS
    gaps = {
        "LOST": [(day2, day2 + 2 * HOUR_MS), (FIRST + 3 * DAY_MS, FIRST + 3 * DAY_MS + 1 * HOUR_MS)],
        "DOWN": [(day2 + 3 * HOUR_MS, day2 + 5 * HOUR_MS)],
        "QUIET": [(FIRST + 4 * HOUR_MS, FIRST + 7 * HOUR_MS)],
        "NEW": [(FIRST, listed["NEW"])],
        "GONE": [(delisted["GONE"], NOW)],
        "MIXED": [(FIRST, FIRST + HOUR_MS), (day2 + 3 * HOUR_MS, day2 + 5 * HOUR_MS)],
    }
    lake = Lake(folder)
    lake.store_specs(
        Venue.OKX,
        [spec(c, seen_ms=NOW, listed_ms=listed.get(c.base, FIRST - DAY_MS), delisted_ms=delisted.get(c.base))
         for c in coins],
    )  # fmt: skip
    lake.store_marks(dict.fromkeys(coins, FIRST), step)
    for c in coins:
        absent = gaps.get(c.base, [])
        opens, settles = (
            [t for t in range(FIRST, NOW, every) if not any(a <= t < b for a, b in absent)]
            for every in (step.ms, 8 * HOUR_MS)
        )
        lake.store([bar(of=c, interval=step, open_ms=t) for t in opens])
        lake.store([settlement(t, of=c) for t in settles])
    periods = range(FIRST, NOW, PERIOD_MS)
    for c in coins[:2]:
        lake.store([mark_bar(of=c)._replace(open_ms=t) for t in range(FIRST, NOW, 10 * MINUTE_MS)])
        lake.store([open_interest(of=c)._replace(time_ms=t) for t in periods])
        lake.store([ratio(of=c)._replace(time_ms=t) for t in periods])
    kline = f"kline_{interval}"
    lake.record_holes(
        [
            Hole(at["DOWN"], kline, day2 + 3 * HOUR_MS, day2 + 5 * HOUR_MS, "venue_down", NOW),
            Hole(at["MIXED"], kline, day2 + 3 * HOUR_MS, day2 + 5 * HOUR_MS, "venue_down", NOW),
            Hole(at["QUIET"], kline, FIRST + 4 * HOUR_MS, FIRST + 7 * HOUR_MS, "no_trade", NOW),
        ]
    )
    newest = {c.symbol: (delisted.get(c.base, NOW) - step.ms) for c in coins}
    write_status(lake, status(interval=interval, newest=newest))
    lake.close()
    jobs(folder)
    return watched_settings(folder)


def jobs(folder: Path) -> None:
    """A ranking that completed and a repair that failed for good."""
    now = [NOW - HOUR_MS]
    table = JobTable(folder / FILE, now_ms=lambda: now[0])
    for kind, error in (("rank", ""), ("repair", "okx GET /api/v5/market/candles: HTTP 503; try again later")):
        number = table.submit(kind, {"venue": "okx"}, period_ms=NOW - HOUR_MS, by="schedule")
        assert table.claim([kind], os.getpid()) is not None
        now[0] += 2_500
        if error:
            table.fail(number, error)
        else:
            table.complete(number, {"members": 50})
    table.close()


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)
