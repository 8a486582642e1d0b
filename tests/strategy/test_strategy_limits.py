"""Each limit, their order, and the nearest neutral book against a general solver."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from support_strategy import market

from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.caps import nearest
from qlib_crypto.strategy.limits import Limits
from qlib_crypto.strategy.long_short import LongShortTopk

N = 6


@pytest.fixture
def known():
    return market(10, N, gaps=0.0, untradable=0.0)


def settled(known, target, last=None, t=9, **limits):
    notes = Counter()
    row = Limits(**limits).settled(known, t, np.array(target), np.zeros(N) if last is None else np.array(last), notes)
    return row, notes


def test_without_limits_a_row_is_as_wanted(known):
    row, notes = settled(known, [9, -1, 0, 0, 0, 2.0])
    assert row.tolist() == [9, -1, 0, 0, 0, 2]
    assert not notes


def test_a_weight_above_the_largest_is_cut_and_the_book_stays_neutral(known):
    row, notes = settled(known, [0.6, 0.2, 0.2, -0.4, -0.3, -0.3], max_weight=0.35)
    assert row.tolist() == pytest.approx([0.35, 0.25, 0.25, -0.35, -0.25, -0.25])
    assert notes == {"weights above max_weight: cut": 1}


def test_a_book_that_is_not_neutral_is_only_cut(known):
    row, _ = settled(known, [0.6, 0.2, 0, 0, 0, -0.1], max_weight=0.35)
    assert row.tolist() == [0.35, 0.2, 0, 0, 0, -0.1]


def test_capacity_is_a_share_of_the_mean_day_over_known_volumes(known):
    volume = np.full((10, N), 5e5)  # 12 million a day of hours
    volume[:, 0] = [*[9e9] * 6, 1e5, np.nan, 2e5, 3e5]  # mean of the last four: 200,000 an hour, 4.8 million a day
    volume[6:, 1] = np.nan
    known = replace(known, dollar_volume=volume)
    capacity = {"account": 1e6, "share": 0.01, "bars": 4}
    caps = Limits(capacity=capacity).caps(known, 9)
    assert caps.tolist() == pytest.approx([0.048, 0, 0.12, 0.12, 0.12, 0.12])
    row, notes = settled(known, [0.1, 0.1, 0, 0, 0, 0], capacity=capacity)
    assert row.tolist() == pytest.approx([0.048, 0, 0, 0, 0, 0])
    assert notes == {"weights above capacity: cut": 1, "dollar volume unknown or 0: no position in some name": 1}
    assert Limits(capacity=capacity, max_weight=0.05).caps(known, 9).tolist() == pytest.approx([0.048, 0, *[0.05] * 4])


def test_a_rebalance_goes_part_of_the_way_and_what_cannot_be_traded_keeps_its_last_target(known):
    known.tradable[9, 5] = False
    row, notes = settled(known, [0.5, -0.5, 0, 0, 0, 0], [0.1, 0.1, 0, 0, 0, -0.2], max_turnover=0.5)
    assert row.tolist() == pytest.approx([0.3, -0.2, 0, 0, 0, -0.2])
    assert notes == {"more than max_turnover to trade: part of the way": 1}


def test_caps_come_before_turnover(known):
    """From a book above its caps the way goes to the caps, not to the wish."""
    row, _ = settled(known, [1.0, -1.0, 0, 0, 0, 0], [0.4, -0.4, 0, 0, 0, 0], max_weight=0.2, max_turnover=0.2)
    assert row.tolist() == pytest.approx([0.3, -0.3, 0, 0, 0, 0])


def test_limits_hold_in_every_row_of_a_strategy():
    known = market(80, 10, untradable=0.2)
    limits = {"max_weight": 0.12, "max_turnover": 0.3, "capacity": {"account": 1e7, "share": 0.01, "bars": 3}}
    got = LongShortTopk(topk=3, min_names=1, limits=limits).targets(known)
    last = np.zeros(10)
    for t in np.flatnonzero(got.rebalance):
        move = np.abs(got.weights[t] - last)
        assert move.sum() <= 0.3 + 1e-12
        assert not move[~known.tradable[t]].any()
        last = got.weights[t]
    assert np.abs(got.weights).max() <= 0.12 + 1e-12
    assert {note.split(":")[0] for note in got.notes} >= {
        "weights above max_weight", "weights above capacity", "more than max_turnover to trade",
    }  # fmt: skip


@given(seed=st.integers(0, 10_000), n=st.integers(2, 9), rows=st.integers(1, 2))
@settings(max_examples=60)
@example(seed=336, n=2, rows=2)  # of two names no neutral book is left but rounding
def test_the_nearest_neutral_book_is_that_of_a_general_solver(seed, n, rows):
    rng = np.random.default_rng(seed)
    neutral = np.vstack([np.ones(n), rng.uniform(0.3, 1.7, n)])[:rows]
    target = rng.normal(size=n)
    target -= np.linalg.lstsq(neutral.T, target)[0] @ neutral
    cap = rng.uniform(0, 1, n) * rng.integers(0, 2, n) + rng.integers(0, 2, n)
    got = nearest(target, cap, neutral[1] if rows == 2 else None)
    gross = np.abs(target).sum()
    assert np.abs(neutral @ got).max() <= 1e-9 * gross + 1e-15
    assert np.all(np.abs(got) <= cap + 1e-12)
    assert np.all(got * target >= -1e-15)
    assert np.abs(got).sum() <= gross * (1 + 1e-12)
    bounds = [(-c, 0.0) if x < 0 else (0.0, c) for x, c in zip(target, cap, strict=True)]
    other = minimize(
        lambda w: ((w - target) ** 2).sum(), np.zeros(n), jac=lambda w: 2 * (w - target), bounds=bounds,
        constraints={"type": "eq", "fun": lambda w: neutral @ w, "jac": lambda _: neutral},
        method="SLSQP", options={"ftol": 1e-15, "maxiter": 1000},
    )  # fmt: skip
    if np.abs(other.x).sum() <= gross and np.abs(neutral @ other.x).max() < 1e-9:
        assert ((got - target) ** 2).sum() <= other.fun + 1e-6


def test_where_one_leg_may_hold_nothing_there_is_no_neutral_book():
    got = nearest(np.array([0.5, 0.5, -1.0]), np.array([0.0, 0.0, 1.0]))
    assert got == pytest.approx(np.zeros(3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_weight": 0}, "s.limits.max_weight 0 must be positive: |weight| of a name, such as 0.1"),
        ({"max_turnover": True}, "s.limits.max_turnover True must be positive: such as 0.5"),
        ({"max_weights": 1}, "s.limits.max_weights is unknown; did you mean max_weight?"),
        ({"zzz": 1}, "s.limits.zzz is unknown; known: capacity, max_turnover, max_weight"),
        ({"capacity": 5}, "s.limits.capacity 5 must be a mapping of: account, share, bars"),
        ({"capacity": {"account": 1, "share": 1}}, "s.limits.capacity.bars is missing; write account, share and bars"),
        ({"capacity": {"account": 1, "share": 1, "bars": 0}}, "s.limits.capacity.bars 0 must be a whole number"),
        (3, "s.limits 3 must be a mapping of: max_weight, max_turnover, capacity"),
    ],
)
def test_wrong_limits_are_named(given, message):
    with pytest.raises(ConfigError) as error:
        LongShortTopk.check_values("s", {"limits": given})
    assert str(error.value).startswith(message)
