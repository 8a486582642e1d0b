"""Retention by hand: whose time it counts from, and what it would do."""

from __future__ import annotations

from support_lake import BTC, RECEIVED, T0
from support_watch import status

from qlib_crypto.cli.upkeep import retain
from qlib_crypto.clock import DAY_MS
from qlib_crypto.collect.status import write_status
from qlib_crypto.lake import Lake
from qlib_crypto.schemas import Trade
from qlib_crypto.symbols import Venue


def test_ages_count_from_the_collectors_clock_and_a_dry_run_only_tells(tmp_path, capsys):
    """The lake of a sandbox: market time is years behind the wall."""
    lake = Lake(tmp_path)
    lake.store(Trade(BTC, T0 + days * DAY_MS, days, "buy", 100.0, 1.0, RECEIVED) for days in (0, 95))
    lake.seal(Venue.OKX)
    write_status(lake, status(market_ms=T0 + 96 * DAY_MS))
    files = lambda: sorted(p.name for p in (lake.folder(Venue.OKX) / "trades").iterdir())  # noqa: E731 - short
    both = files()
    retain(lake=tmp_path, dry_run=True)
    told = capsys.readouterr().err.splitlines()
    assert "1 bulky file would be dropped after 90 days" in told[0]
    assert told[1:] == [f"  drop trades/{both[0]}"]
    assert files() == both
    retain(lake=tmp_path)
    assert "1 bulky file dropped after 90 days" in capsys.readouterr().err
    assert files() == both[1:]
