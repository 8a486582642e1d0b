from __future__ import annotations

import itertools
import math
from datetime import date

import pytest
import yaml

from qlib_crypto.clock import parse_utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.market.fees import LARGEST, PRESETS, FeeRates, fee_schedule


def test_a_preset_holds_at_all_times():
    fees = fee_schedule("binance_vip9")
    assert fees.at(0) == fees.at(parse_utc("2030-01-01")) == FeeRates(0.0, 0.00017)
    assert fee_schedule("okx_vip0").at(0) == fee_schedule("binance_vip0").at(0) == FeeRates(0.0002, 0.0005)
    assert fee_schedule("simple").at(0) == FeeRates(0.001, 0.001)


def test_a_higher_tier_never_pays_more():
    tiers = [PRESETS[f"binance_vip{n}"] for n in range(10)]
    assert all(a.maker > b.maker and a.taker > b.taker for a, b in itertools.pairwise(tiers))
    assert all(0 <= rates.maker <= rates.taker <= LARGEST for rates in PRESETS.values())


def test_dated_rates_hold_from_their_time_on_and_the_first_also_before():
    given = yaml.safe_load(
        "[{since: 2024-01-01, maker: 0.0002, taker: 0.0005},"
        " {since: 2024-06-01 12:00:00, maker: -0.00005, taker: 2.0e-4}]"
    )
    assert given[0]["since"] == date(2024, 1, 1)
    fees = fee_schedule(given)
    change = parse_utc("2024-06-01T12:00")
    assert fees.at(0) == fees.at(change - 1) == FeeRates(0.0002, 0.0005)
    assert fees.at(change) == FeeRates(-0.00005, 0.0002)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("okx_vip99", "okx_vip99.*okx_vip0"),
        ([], "empty"),
        ([{"since": "2024-01-01", "maker": 0.0}], "must have since, maker and taker"),
        (["okx_vip0"], "must have since"),
        ([{"since": "2024-01-01", "maker": 0.02, "taker": 0.05}], "no fraction.*0.0005"),
        ([{"since": "2024-01-01", "maker": 0.0, "taker": -0.0001}], "only makers"),
        ([{"since": "2024-01-01", "maker": math.nan, "taker": 0.0}], "no fraction"),
        ([{"since": "2024-01-01", "maker": True, "taker": 0.0}], "no fraction"),
        ([{"since": "yesterday", "maker": 0.0, "taker": 0.0}], "yesterday"),
        ([{"since": "2024-01-01", "maker": 0.0, "taker": 0.0}] * 2, "ascend"),
    ],
)
def test_rates_that_cannot_be_are_refused_and_named(given, said):
    with pytest.raises(ConfigError, match=said):
        fee_schedule(given, "exchange.fees")
