from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_strategy import Fixed, market, plain_covariance

from qlib_crypto.strategy.rank import RankWeighted
from qlib_crypto.strategy.volatility import VolatilityTargeted

BASE = RankWeighted(gross_exposure=2.0, rebalance_every=5)


def plain_row(wanted, covariance, target, *, inverse, largest):
    """One row by plain loops."""
    n = range(len(wanted))
    there = [i for i in n if wanted[i] and not math.isnan(covariance[i, i])]
    raw = {i: wanted[i] / (math.sqrt(covariance[i, i]) if inverse else 1) for i in there}
    for sign in (1, -1):
        gross = sum(abs(wanted[i]) for i in n if wanted[i] * sign > 0)
        left = sum(abs(w) for w in raw.values() if w * sign > 0)
        if gross and not left:
            return [0.0] * len(wanted)
        raw = {i: w * gross / left if w * sign > 0 else w for i, w in raw.items()}
    variance = sum(raw[i] * raw[j] * covariance[i, j] for i in there for j in there)
    scale = target / math.sqrt(variance * 365 * 24) if variance else math.inf
    scale = min(scale, largest / sum(abs(w) for w in raw.values())) if raw else 0
    return [raw.get(i, 0.0) * scale for i in n]


@given(seed=st.integers(0, 10_000), inverse=st.booleans(), target=st.floats(0.05, 5))
@settings(max_examples=40)
def test_rows_are_those_of_a_plain_loop(seed, inverse, target):
    known = market(40, 6, seed, gaps=0.2)
    strategy = VolatilityTargeted(
        base=BASE, target_volatility=target, inverse_volatility=inverse, half_life=7, shrinkage=0.3, min_returns=5,
        max_gross=2.5,
    )  # fmt: skip
    got, base = strategy.targets(known), BASE.targets(known)
    assert np.array_equal(got.rebalance, base.rebalance)
    for t in np.flatnonzero(base.rebalance):
        covariance = plain_covariance(known, int(t), 7, 0.3, 5)
        row = plain_row(base.weights[t], covariance, target, inverse=inverse, largest=2.5)
        assert got.weights[t] == pytest.approx(row, rel=1e-9)


def test_a_book_of_one_name_has_the_target_volatility_of_a_year():
    rng = np.random.default_rng(0)
    known = replace(market(4000, 2, gaps=0.0), close=100 * np.exp(np.cumsum(rng.normal(0, 0.01, (4000, 2)), axis=0)))
    got = VolatilityTargeted(base=Fixed(1.0, 0.0), target_volatility=0.4, half_life=2000, max_gross=None).targets(known)
    assert got.weights[-1, 0] == pytest.approx(0.4 / (0.01 * math.sqrt(365 * 24)), rel=0.03)
    assert got.weights[-1, 1] == 0


def test_what_is_noted_of_warm_up_the_gross_limit_and_the_base():
    known = market(30, 3, gaps=0.0)
    known.close[:20, 1] = np.nan
    got = VolatilityTargeted(
        base=Fixed(0.5, 0.5, -1.0), target_volatility=50.0, half_life=5, min_returns=5, max_gross=1.5
    ).targets(known)
    assert not got.weights[:5].any()
    # the long that has no volatility yet leaves its weight to the other
    assert got.weights[10] == pytest.approx([0.75, 0, -0.75])
    assert got.weights[29] == pytest.approx([0.375, 0.375, -0.75])
    assert got.notes == {
        "base: fixed": 1,
        "no volatility yet of a whole leg: flat": 5,
        "no volatility yet: some name left out": 25,
        "target volatility needs more than max_gross: max_gross": 25,
    }
