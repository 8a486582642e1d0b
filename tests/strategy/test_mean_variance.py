from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from support_strategy import market

from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.mean_variance import MeanVariance
from qlib_crypto.strategy.risk import Covariance, Ewma

RISK = {"half_life": 20, "min_returns": 5, "shrinkage": 0.1}
WIDE = {"gross_exposure": 1e3, "net_exposure": 1e3}


def last_row(known, **kwargs):
    got = MeanVariance(signal_scale=1e-3, **RISK, **kwargs).targets(known)
    covariance = Covariance(known, Ewma(20, 5), 0.1).at(known.bars - 1)
    return got, known.signal[-1] * 1e-3, covariance


def test_without_limits_it_is_the_closed_form():
    known = market(50, 6, gaps=0.0, untradable=0.0)
    got, expected, covariance = last_row(known, risk_aversion=4.0, **WIDE)
    assert got.weights[-1] == pytest.approx(np.linalg.solve(8.0 * covariance, expected), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("solver", ["CLARABEL", "OSQP"])
@given(seed=st.integers(0, 10_000), aversion=st.floats(0.5, 20), cost=st.sampled_from([0.0, 3e-4]))
@settings(max_examples=10)
def test_with_limits_no_general_solver_finds_a_better_book(solver, seed, aversion, cost):
    known = market(40, 5, seed, gaps=0.0, untradable=0.0)
    got, expected, covariance = last_row(
        known, risk_aversion=aversion, turnover_cost=cost, net_exposure=0.2, limits={"max_weight": 0.3}, solver=solver
    )
    row, last = got.weights[-1], got.weights[-2]

    def loss(w):
        return -(expected @ w - aversion * w @ covariance @ w - cost * np.abs(w - last).sum()) * 1e3

    def split(x):  # long and short parts, for a smooth gross; moves up and down, for a smooth cost
        return x[:5] - x[5:10]

    def smooth(x):
        return -(expected @ split(x) - aversion * split(x) @ covariance @ split(x) - cost * x[10:].sum()) * 1e3

    limits = [
        {"type": "ineq", "fun": lambda x: 1.0 - x[:10].sum()},
        {"type": "ineq", "fun": lambda x: 0.2 - split(x).sum()},
        {"type": "ineq", "fun": lambda x: 0.2 + split(x).sum()},
        {"type": "eq", "fun": lambda x: split(x) - last - x[10:15] + x[15:]},
    ]
    start = np.r_[np.maximum(last, 0), np.maximum(-last, 0), np.zeros(10)]
    bounds = [(0, 0.3)] * 10 + [(0, 2)] * 10
    other = minimize(smooth, start, bounds=bounds, constraints=limits, method="SLSQP", options={"ftol": 1e-12})
    tolerance = 1e-6 if solver == "CLARABEL" else 2e-4
    assert np.abs(row).sum() <= 1 + 1e-9
    assert abs(row.sum()) <= 0.2 + 10 * tolerance
    assert np.abs(row).max() <= 0.3 + 1e-12
    if other.success:
        assert loss(row) <= loss(split(other.x)) + 10 * tolerance


def test_the_book_is_moved_only_where_that_earns_its_cost():
    known = market(60, 5, gaps=0.0, untradable=0.0)
    free = MeanVariance(signal_scale=1e-3, risk_aversion=2.0, **RISK).targets(known).weights
    dear = MeanVariance(signal_scale=1e-3, risk_aversion=2.0, turnover_cost=2e-3, **RISK).targets(known).weights
    moved = [np.abs(np.diff(weights, axis=0)).sum() for weights in (free, dear)]
    assert moved[1] < moved[0] / 3
    assert np.any(np.all(dear[20:-1] == dear[21:], axis=1))  # not moved at all, to the last digit


def test_a_problem_without_solution_keeps_the_book_and_is_tried_again():
    known = market(30, 6, gaps=0.0, untradable=0.0)
    known.tradable[20:25, 1:] = False  # one name of at most 0.3 cannot be 0.5 long
    got = MeanVariance(
        signal_scale=1e-3, net_exposure=[0.5, 1.0], limits={"max_weight": 0.3}, rebalance_every=5, **RISK
    ).targets(known)
    assert np.flatnonzero(got.rebalance).tolist() == [5, 10, 15, 25]
    assert got.notes["no solution: position kept"] == 5
    assert got.weights[got.rebalance].sum(axis=1).min() > 0.5 - 1e-6


def test_variance_counts_until_the_next_rebalance():
    known = market(49, 6, gaps=0.0, untradable=0.0)
    one = MeanVariance(signal_scale=1e-3, risk_aversion=6.0, rebalance_every=1, **RISK, **WIDE).targets(known)
    six = MeanVariance(signal_scale=1e-3, risk_aversion=1.0, rebalance_every=6, **RISK, **WIDE).targets(known)
    at = np.flatnonzero(six.rebalance)[-1]
    assert six.weights[at] == pytest.approx(one.weights[at], rel=1e-4, abs=1e-5)


def test_names_without_score_variance_or_bar_get_nothing():
    known = market(40, 6, gaps=0.0, untradable=0.0)
    known.signal[-1, 0], known.tradable[-1, 1], known.close[:, 2] = np.nan, False, np.nan
    got, _, _ = last_row(known, risk_aversion=1.0)
    assert np.flatnonzero(got.weights[-1]).min() >= 3
    assert np.abs(got.weights[-1]).sum() > 0.1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"net_exposure": [1, 0]}, "strategy.net_exposure [1, 0] must be [lowest, highest]; swap them"),
        ({"net_exposure": [1]}, "strategy.net_exposure [1] must be a number or [lowest, highest]"),
        ({"net_exposure": -1}, "strategy.net_exposure -1 must not be negative: the largest |sum of weights|, such as"),
        ({"risk_aversion": -1}, "strategy.risk_aversion -1 must not be negative"),
        ({"solver": "ECOS"}, "strategy.solver 'ECOS' is unknown; choose one of: CLARABEL, OSQP"),
        ({"shrinkage": 2}, "strategy.shrinkage 2 must be from 0 to 1, such as 0.2"),
        ({"half_life": 0}, "strategy.half_life 0 must be positive: bars, such as 168"),
    ],
)
def test_wrong_values_are_named(kwargs, message):
    with pytest.raises(ConfigError) as error:
        MeanVariance(**kwargs)
    assert str(error.value).startswith(message)
