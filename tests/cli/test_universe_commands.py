from __future__ import annotations

import json

import pyarrow as pa
import pytest
from support_lake import BTC, ETH, T0, settlement, spec

from qlib_crypto.cli.universe import members
from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.lake import Lake
from qlib_crypto.schemas import MEMBERSHIP
from qlib_crypto.symbols import Venue


@pytest.fixture
def folder(tmp_path):
    """Two days of settled funding of two contracts, and no ranking."""
    lake = Lake(tmp_path)
    lake.store([
        settlement(T0 + k * 8 * HOUR_MS, of=of, rate=rate) for of, rate in ((BTC, 1e-4), (ETH, 2e-4)) for k in range(6)
    ])  # fmt: skip
    lake.close()
    return tmp_path


def test_members_of_a_past_time_are_rebuilt_and_shown(folder, capsys):
    members("okx", rebuild=True, start="2025-04-01", end="2025-04-02", lake=folder)
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "okx: 3 rankings of 2 contracts rebuilt from settled funding, 2025-04-01 00:05:00 to 2025-04-01 16:05:00"
    )
    assert second.startswith("the lake has no instruments table")
    members("okx", at="2025-04-01T12:00", lake=folder)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("ETH_USDT\nBTC_USDT\n", "okx: 2 members at 2025-04-01 12:00:00\n")
    members("okx", as_json=True, lake=folder)
    assert json.loads(capsys.readouterr().out) == {
        "venue": "okx", "at": "2025-04-01 16:05:00", "ranked": "2025-04-01 16:05:00",
        "members": ["ETH_USDT", "BTC_USDT"],
    }  # fmt: skip


def test_a_time_far_from_any_ranking_is_answered_with_the_rankings_own(tmp_path, capsys):
    lake = Lake(tmp_path)
    row = dict.fromkeys(MEMBERSHIP.names) | {
        "timestamp": T0, "symbol": "BTC_USDT", "rank": 1, "member": True, "funding_rate": 1e-4,
    }  # fmt: skip
    lake.store_membership(Venue.OKX, pa.Table.from_pylist([row], MEMBERSHIP), T0)
    lake.close()
    for at, words in (
        ("2025-04-02", ""),
        ("2026-01-01", ", by the ranking of 2025-04-01 00:00:00: none was made nearer"),
    ):
        members("okx", at=at, lake=tmp_path)
        assert capsys.readouterr().err.startswith(f"okx: 1 member at {at} 00:00:00{words}")
    members("okx", at="2026-01-01", as_json=True, lake=tmp_path)
    assert json.loads(capsys.readouterr().out)["ranked"] == "2025-04-01 00:00:00"


def test_what_was_left_out_is_told(folder, capsys):
    lake = Lake(folder)
    lake.store_specs(Venue.OKX, [spec(BTC, seen_ms=T0 + 9 * DAY_MS), spec(ETH, seen_ms=T0 + 9 * DAY_MS, listed_ms=T0)])
    lake.store([settlement(T0 - 8 * HOUR_MS, of=ETH), settlement(T0 - 8 * HOUR_MS)])
    lake.close()
    members("okx", rebuild=True, start="2025-04-01", lake=folder)
    first, outside = capsys.readouterr().err.splitlines()
    assert first.startswith("okx: 6 rankings of 2 contracts")
    assert outside.startswith("left out funding of ETH_USDT from outside the time")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, DataError, "no ranking of okx yet in .*; run: qlib-crypto rank"),
        ({"at": "2025-04-01"}, DataError, "no ranking of okx holds at 2025-04-01 00:00:00, there is none yet"),
        ({"start": "2025-04-01"}, ConfigError, "are for --rebuild"),
        ({"rebuild": True}, ConfigError, "needs --start"),
        ({"rebuild": True, "start": "2024-01-01", "end": "2024-02-01"}, DataError, "the lake has no funding; fetch"),
    ],
)
def test_what_cannot_be_answered_says_what_to_do(folder, options, error, words):
    with pytest.raises(error, match=words):
        members("okx", lake=folder, **options)
