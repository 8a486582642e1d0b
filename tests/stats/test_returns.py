"""Every statistic against a second formula, written in another way (pandas, loops, products), and at its edges."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qlib_crypto.stats import returns as r

HOURS = 8760.0
NAN = math.nan

positive_equity = arrays(np.float64, st.integers(2, 60), elements=st.floats(0.01, 1e9, allow_subnormal=False))
gappy_equity = arrays(np.float64, st.integers(0, 40), elements=st.one_of(st.just(NAN), st.floats(-1e6, 1e9)))


@pytest.fixture
def equity():
    rng = np.random.default_rng(7)
    return np.concatenate(([100_000.0], 100_000.0 * np.cumprod(1 + rng.normal(2e-5, 0.004, 2000))))


def test_steps_in_year():
    assert r.steps_in_year(3_600_000) == 8760
    assert r.steps_in_year(60_000) == 525_600
    assert r.steps_in_year(86_400_000) == 365


def test_step_returns_agree_with_pandas(equity):
    expected = pd.Series(equity).pct_change(fill_method=None).to_numpy()[1:]
    np.testing.assert_allclose(r.step_returns(equity), expected, rtol=1e-9, atol=1e-15)


def test_step_returns_do_not_bridge_a_gap_nor_start_from_a_loss():
    out = r.step_returns([100.0, 110.0, NAN, 120.0, -5.0, 10.0, 0.0, 3.0])
    np.testing.assert_allclose(out, [0.1, NAN, NAN, -125 / 120, NAN, -1.0, NAN])


def test_compounded_step_returns_give_the_total_return(equity):
    product = math.prod(1 + x for x in r.step_returns(equity)) - 1
    assert r.total_return(equity) == pytest.approx(product, rel=1e-9)


def test_annualised_return_compounds_back_to_the_total(equity):
    yearly = r.annualised_return(equity, HOURS)
    years = (len(equity) - 1) / HOURS
    assert (1 + yearly) ** years - 1 == pytest.approx(r.total_return(equity), rel=1e-12)


def test_annualised_return_counts_steps_across_gaps():
    # four steps from the first to the last finite value, 21 % in them: 10 % in two, so 2 steps a year give 10 %
    assert r.annualised_return([NAN, 100.0, NAN, 105.0, NAN, 121.0, NAN], 2.0) == pytest.approx(0.10)


def test_annualised_return_edges():
    assert r.annualised_return([100.0, -5.0], HOURS) == -1.0
    assert r.annualised_return([100.0, 0.0], HOURS) == -1.0
    assert math.isnan(r.annualised_return([1.0, 1e9], 525_600))  # beyond a float: not an infinity
    for none in ([], [100.0], [NAN, NAN], [NAN, 5.0], [0.0, 5.0]):
        assert math.isnan(r.annualised_return(none, HOURS))


def test_volatility_and_sharpe_agree_with_the_statistics_module(equity):
    steps = [float(x) for x in r.step_returns(equity)]
    assert r.annualised_volatility(steps, HOURS) == pytest.approx(statistics.stdev(steps) * HOURS**0.5, rel=1e-12)
    expected = statistics.fmean(steps) / statistics.stdev(steps) * HOURS**0.5
    assert r.annualised_sharpe(steps, HOURS) == pytest.approx(expected, rel=1e-12)


def test_sharpe_scales_with_neither_size_nor_gaps(equity):
    steps = r.step_returns(equity)
    sharpe = r.annualised_sharpe(steps, HOURS)
    assert r.annualised_sharpe(3 * steps, HOURS) == pytest.approx(sharpe)
    assert r.annualised_sharpe(-steps, HOURS) == pytest.approx(-sharpe)
    with_gaps = np.insert(steps, [0, 5, 5, 900], NAN)
    assert r.annualised_sharpe(with_gaps, HOURS) == pytest.approx(sharpe, rel=1e-12)


@pytest.mark.parametrize("steps", [[], [0.1], [NAN, NAN], [0.1, NAN], [0.1, 0.1, 0.1], [0.0, 0.0]])
def test_sharpe_without_spread_is_nan(steps):
    assert math.isnan(r.annualised_sharpe(steps, HOURS))


def test_sortino_agrees_with_a_loop(equity):
    steps = r.step_returns(equity)
    squares = sum(min(float(x), 0.0) ** 2 for x in steps) / len(steps)
    expected = sum(map(float, steps)) / len(steps) / math.sqrt(squares) * math.sqrt(HOURS)
    assert r.sortino(steps, HOURS) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("steps", [[], [NAN], [0.1, 0.2], [0.0]])
def test_sortino_without_a_loss_is_nan(steps):
    assert math.isnan(r.sortino(steps, HOURS))


def test_sortino_of_one_loss():
    assert r.sortino([-0.02], 4.0) == pytest.approx(-2.0)


def test_calmar(equity):
    expected = r.annualised_return(equity, HOURS) / abs(r.max_drawdown(equity))
    assert r.calmar(equity, HOURS) == pytest.approx(expected)
    assert math.isnan(r.calmar([1.0, 2.0, 3.0], HOURS))
    assert math.isnan(r.calmar([], HOURS))


def _drawdowns_by_loop(equity):
    peak, out = -math.inf, []
    for value in equity:
        if math.isnan(value):
            out.append(NAN)
            continue
        peak = max(peak, value)
        out.append(value / peak - 1 if peak > 0 else NAN)
    return out


@given(gappy_equity)
def test_drawdown_series_agrees_with_a_loop(equity):
    np.testing.assert_allclose(r.drawdown_series(equity), _drawdowns_by_loop(equity), rtol=1e-12)


@given(positive_equity)
def test_max_drawdown_is_the_worst_pair(equity):
    worst = min(equity[j] / equity[i] - 1 for i in range(len(equity)) for j in range(i, len(equity)))
    assert r.max_drawdown(equity) == pytest.approx(worst, abs=1e-12)


@given(positive_equity)
def test_worst_drawdown_says_where(equity):
    fall = r.worst_drawdown(equity)
    assert fall.peak <= fall.trough
    assert equity[fall.trough] / equity[fall.peak] - 1 == pytest.approx(fall.depth, abs=1e-12)
    assert equity[fall.peak] == equity[: fall.trough + 1].max()
    after = equity[fall.trough :]
    if fall.recovered is None:
        assert fall.depth == 0 or (after < equity[fall.peak]).all()
    else:
        assert equity[fall.recovered] >= equity[fall.peak]
        assert (equity[fall.trough : fall.recovered] < equity[fall.peak]).all()


def test_worst_drawdown_by_hand():
    assert r.worst_drawdown([100, 120, 90, NAN, 60, 130, 100]) == r.Drawdown(-0.5, 1, 4, 5)
    assert r.worst_drawdown([100, 50, NAN]) == r.Drawdown(-0.5, 0, 1, None)
    assert r.worst_drawdown([1, 2, 3]) == r.Drawdown(0.0, 0, 0, None)
    assert r.worst_drawdown([100.0]) == r.Drawdown(0.0, 0, 0, None)
    assert r.max_drawdown([100, -50]) == -1.5  # a perpetual account can lose more than it had


@pytest.mark.parametrize("equity", [[], [NAN], [NAN, NAN], [-1.0, -2.0], [0.0]])
def test_no_positive_equity_has_no_drawdown(equity):
    assert math.isnan(r.max_drawdown(equity))


@pytest.mark.parametrize(
    ("equity", "expected"),
    [([], NAN), ([NAN], NAN), ([5.0], 0.0), ([NAN, 4.0, NAN, 5.0, NAN], 0.25), ([0.0, 1.0], NAN)],
)
def test_total_return_edges(equity, expected):
    assert r.total_return(equity) == pytest.approx(expected, nan_ok=True)


def test_volatility_needs_two():
    assert math.isnan(r.annualised_volatility([], HOURS))
    assert math.isnan(r.annualised_volatility([0.1, NAN], HOURS))
    assert r.annualised_volatility([0.1, 0.1], HOURS) == 0.0
