"""The capacity curve against a run written out fill by fill, and against its closed form."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.stats.capacity import MULTIPLES, CapacityCurve, capacity_curve, impact_costs, multiple_where

NAN = math.nan
YEAR = 8760.0


def test_a_fill_of_a_hundredth_of_the_volume_pays_a_tenth_of_the_volatility():
    cost = impact_costs([1000.0, -1000.0], 100_000.0, 0.02, 1.0)
    np.testing.assert_allclose(cost, 1000 * 0.002)
    np.testing.assert_allclose(impact_costs([1000.0], 100_000.0, 0.02, 0.5), 1.0)


def test_an_unknown_market_is_no_deep_one():
    cost = impact_costs([1.0, 1.0, 1.0, 0.0, 1.0], [NAN, 0.0, -1.0, NAN, 4.0], [0.1] * 4 + [NAN], 1.0)
    np.testing.assert_array_equal(cost, [NAN, NAN, NAN, 0.0, NAN])
    with pytest.raises(ValueError, match="negative"):
        impact_costs([1.0], [1.0], [1.0], -0.1)


@given(st.floats(1, 1e6), st.floats(1e6, 1e10), st.floats(1, 1000))
def test_cost_of_a_larger_order(notional, volume, times):
    one, larger = (float(impact_costs([size], [volume], 0.01, 1.0)[0]) for size in (notional, times * notional))
    assert larger == pytest.approx(times**1.5 * one)


@pytest.fixture
def run():
    """Returns, costs of each step over its equity, and the fills behind them."""
    rng = np.random.default_rng(8)
    returns = rng.normal(4e-4, 0.004, 500)
    fills = [(step, rng.uniform(1e3, 2e4), rng.uniform(1e6, 1e8)) for step in range(500) for _ in range(3)]
    equity = 100_000.0 * np.concatenate(([1.0], np.cumprod(1 + returns)[:-1]))
    costs = np.zeros(500)
    for step, notional, volume in fills:
        costs[step] += float(impact_costs([notional], [volume], 0.006, 1.0)[0]) / equity[step]
    return returns, costs, fills, equity


def test_curve_agrees_with_a_run_fill_by_fill(run):
    returns, costs, fills, equity = run
    curve = capacity_curve(returns, costs, YEAR)
    assert curve.multiple.tolist() == [0.0, *MULTIPLES]
    for at in (0, 1, 4, 7):
        m = curve.multiple[at]
        steps = list(returns)
        for step, notional, volume in fills:
            steps[step] -= 0.006 * math.sqrt(m * notional / volume) * notional / equity[step]  # m of either
        assert curve.net_return[at] == pytest.approx(math.prod(1 + r for r in steps) - 1, rel=1e-9)
        sharpe = statistics.fmean(steps) / statistics.stdev(steps) * math.sqrt(YEAR)
        assert curve.sharpe[at] == pytest.approx(sharpe, rel=1e-9)
    assert (np.diff(curve.net_return) < 0).all()


def test_where_the_return_halves_and_ends(run):
    returns, costs, _, _ = run
    fine = capacity_curve(returns, costs, YEAR, np.geomspace(0.1, 1000, 2000))
    coarse = capacity_curve(returns, costs, YEAR)
    for share in (0.5, 0.0):
        exact = multiple_where(fine, share)
        assert multiple_where(coarse, share) == pytest.approx(exact, rel=0.05)
        at = capacity_curve(returns, costs, YEAR, [exact])
        assert at.net_return[1] == pytest.approx(share * fine.net_return[0], abs=1e-4)
    assert multiple_where(fine, 0.5) < multiple_where(fine, 0.0)


def test_one_step_has_a_closed_form():
    # 1 % earned and 0.1 % paid at the account's size: half is left at (0.5 / 0.1)² times it
    curve = capacity_curve([0.01], [0.001], YEAR)
    assert multiple_where(curve, 0.5) == pytest.approx(25.0)
    assert multiple_where(curve, 0.0) == pytest.approx(100.0)
    assert np.isnan(curve.sharpe).all()


def test_where_there_is_no_capacity_to_tell():
    assert math.isnan(multiple_where(capacity_curve([0.01], [1e-6], YEAR), 0.5))  # beyond the last multiple
    assert math.isnan(multiple_where(capacity_curve([-0.01], [1e-6], YEAR), 0.5))  # nothing to lose
    unknown = capacity_curve([0.01, 0.01], [0.001, NAN], YEAR)
    assert np.isnan(unknown.net_return[1:]).all()
    assert unknown.net_return[0] == pytest.approx(0.0201)
    assert math.isnan(multiple_where(unknown, 0.5))
    assert math.isnan(multiple_where(CapacityCurve(*(np.array([0.0]),) * 3), 0.5))


def test_everything_lost_stays_lost():
    curve = capacity_curve([0.01, 0.02], [0.5, 0.0], YEAR, [1.0, 10.0])
    assert curve.net_return[2] == -1.0
    assert math.isnan(curve.sharpe[2])


def test_wrong_input():
    with pytest.raises(ValueError, match="one shape"):
        capacity_curve([0.01], [0.0, 0.0], YEAR)
    with pytest.raises(ValueError, match="ascending"):
        capacity_curve([0.01], [0.0], YEAR, [2.0, 1.0])
    with pytest.raises(ValueError, match="share"):
        multiple_where(capacity_curve([0.01], [0.0], YEAR), 1.0)
