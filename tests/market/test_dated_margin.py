"""Margin tiers of contracts in base coins, and the dated ones that a provider has."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.errors import SchemaError
from qlib_crypto.market.margin import MarginTable, MarginTier, contract_tiers, dated_tables

TIER = {"floor": 0.0, "cap": 5.0, "maintenance_rate": 0.01, "max_leverage": 50.0, "deduction": 0.0}
NEXT = {"floor": 5.0, "cap": None, "maintenance_rate": 0.02, "max_leverage": 25.0, "deduction": 0.0}


def state(since_ms=1, **changes):
    return {"since_ms": since_ms, "by_quantity": True, "source": "venue", "tiers": [TIER, NEXT], **changes}


def test_states_come_back_as_tables(tmp_path):
    path = tmp_path / "margin_tiers.json"
    path.write_text(json.dumps({"BTC_USDT.OKX": [state(), state(7, tiers=[TIER])]}))
    whole = MarginTable((MarginTier(0, 5, 0.01, 50), MarginTier(5, math.inf, 0.02, 25)), True, "venue")
    first_only = MarginTable((MarginTier(0, 5, 0.01, 50),), True, "venue")
    assert dated_tables(path) == {"BTC_USDT.OKX": ((1, whole), (7, first_only))}
    path.write_text("{}")
    assert dated_tables(path) == {}


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ("no json", "maps no instruments"),
        ([state()], "maps no instruments"),
        ({"X": 3}, "maps no instruments"),
        ({"X": []}, "not ascending"),
        ({"X": [state(2), state(2)]}, "not ascending"),
        ({"X": [state(2), state(1)]}, "not ascending"),
        ({"X": [{**state(), "since_ms": "1"}]}, "since_ms '1'"),
        ({"X": [{**state(), "since_ms": True}]}, "since_ms True"),
        ({"X": [{**state(), "by_quantity": 1}]}, "by_quantity 1"),
        ({"X": [{"since_ms": 1}]}, "by_quantity"),
        ({"X": ["state"]}, "TypeError"),
        ({"X": [state(tiers=[])]}, "no tier"),
        ({"X": [state(tiers=[NEXT])]}, "begins at 5"),
        ({"X": [state(tiers=[{**TIER, "cap": "large"}])]}, "could not convert"),
        ({"X": [state(tiers=[{**TIER, "maintenance_rate": 1.5}])]}, "maintenance rate"),
    ],
)
def test_a_file_that_cannot_be_is_refused_and_named(tmp_path, plain, said):
    path = tmp_path / "margin_tiers.json"
    path.write_text(plain if isinstance(plain, str) else json.dumps(plain))
    with pytest.raises(SchemaError, match=said) as error:
        dated_tables(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SchemaError, match=r"none\.json.*convert again"):
        dated_tables(tmp_path / "none.json")


# OKX of 2026: 0, 2000 and 2000.01, 4000 with lots of a hundredth; of 2021: 0, 50 and 51, 100
@pytest.mark.parametrize("begins", [50.0, 50.01, 51.0])
def test_a_tier_goes_on_where_the_one_before_ended(begins):
    tiers = contract_tiers([(begins, 100.0, 0.01, 50.0), (0.0, 50.0, 0.005, 100.0)], 0.1)
    assert tiers == (MarginTier(0, 5.0, 0.005, 100.0), MarginTier(5.0, 10.0, 0.01, 50.0))


@pytest.mark.parametrize("begins", [47.0, 52.0])
def test_a_hole_or_an_overlap_is_refused(begins):
    with pytest.raises(ValueError, match="the next begins at"):
        contract_tiers([(0.0, 50.0, 0.005, 100.0), (begins, 100.0, 0.01, 50.0)], 0.1)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=9, unique=True), st.integers(-6, 3), st.integers(0, 3))
def test_contracts_of_another_size_are_the_same_coins_to_the_last_digit(caps, exponent, smaller):
    """A venue that makes its contracts ten times smaller counts ten times as many: nothing changes."""
    bounds = [0.0, *(float(cap) for cap in sorted(caps))]

    def rows(times):
        return [(a * times, b * times, 0.01 + 0.001 * n, 50.0 - n) for n, (a, b) in enumerate(pairwise(bounds))]

    value, less = float(f"1e{exponent}"), float(f"1e{exponent - smaller}")
    assert contract_tiers(rows(1.0), value) == contract_tiers(rows(10.0**smaller), less)
