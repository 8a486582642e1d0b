"""Tails, shape and exposures against plain loops and scipy, and under scaling, mirroring and shuffling."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from qlib_crypto.stats import risk

NAN = math.nan
DAY = 86_400_000
HOUR = 3_600_000

some_returns = arrays(np.float64, st.integers(1, 300), elements=st.floats(-0.5, 0.5, allow_subnormal=False))
levels = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@pytest.fixture
def returns():
    return np.random.default_rng(3).standard_t(4, 999) * 0.01


def plain_tail(values, level):
    """Lowest returns and how much of each the tail holds, in exact arithmetic."""
    ordered = sorted(float(v) for v in values)
    left = len(ordered) * (1 - Fraction(str(level)))
    parts = []
    for value in ordered:
        if left <= 0:
            break
        parts.append((value, min(left, Fraction(1))))
        left -= parts[-1][1]
    return parts


@given(some_returns, levels)
def test_tail_measures_agree_with_a_walk_from_the_worst(values, level):
    if len(values) * (1 - Fraction(str(level))) < 1:
        assert math.isnan(risk.value_at_risk(values, level))
        assert math.isnan(risk.expected_shortfall(values, level))
        return
    parts = plain_tail(values, level)
    total = sum(Fraction(value) * weight for value, weight in parts) / sum(weight for _, weight in parts)
    assert risk.value_at_risk(values, level) == -parts[-1][0]
    assert risk.expected_shortfall(values, level) == pytest.approx(-float(total), rel=1e-12, abs=1e-15)


def test_value_at_risk_is_scipys_inverse_of_the_empirical_distribution(returns):
    for level in (0.9, 0.95, 0.99):
        expected = stats.mstats.mquantiles(returns, [1 - level], alphap=0, betap=1)  # an interpolating cousin
        observed = -risk.value_at_risk(returns, level)
        assert observed in returns
        assert abs(observed - expected[0]) < 0.004
        assert observed == np.quantile(returns, 1 - level, method="inverted_cdf")


def test_known_tails():
    hundred = -np.arange(1, 101) / 1000
    assert risk.value_at_risk(hundred, 0.95) == 0.096
    assert risk.expected_shortfall(hundred, 0.95) == pytest.approx((0.100 + 0.099 + 0.098 + 0.097 + 0.096) / 5)
    assert risk.value_at_risk(hundred, 0.99) == risk.expected_shortfall(hundred, 0.99) == 0.1
    assert risk.expected_shortfall(hundred[:30], 0.95) == pytest.approx((0.030 + 0.5 * 0.029) / 1.5)
    assert risk.value_at_risk([0.01] * 20, 0.95) == -0.01  # even the worst was a gain
    assert math.isnan(risk.value_at_risk([-0.01] * 19, 0.95))
    assert math.isnan(risk.value_at_risk([-0.01] * 99, 0.99))
    assert math.isnan(risk.value_at_risk([], 0.95))
    assert risk.value_at_risk([*([-0.01] * 20), NAN, math.inf], 0.95) == 0.01
    with pytest.raises(ValueError, match=r"level 1\.0"):
        risk.value_at_risk(hundred, 1.0)


@given(some_returns, levels, st.floats(0.01, 100), st.randoms(use_true_random=False))
def test_tails_grow_with_the_book_and_forget_the_order(values, level, scale, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    for measure in (risk.value_at_risk, risk.expected_shortfall):
        expected = measure(values, level)
        assert measure(scale * values, level) == pytest.approx(scale * expected, rel=1e-9, nan_ok=True)
        assert measure(shuffled, level) == pytest.approx(expected, rel=1e-12, abs=1e-15, nan_ok=True)
    if not math.isnan(risk.value_at_risk(values, level)):
        assert risk.expected_shortfall(values, level) >= risk.value_at_risk(values, level) - 1e-15


def test_rolling_value_at_risk_knows_only_what_came_before(returns):
    rolling = risk.rolling_value_at_risk(returns[:200], 60)
    expected = [NAN] * 60 + [risk.value_at_risk(returns[t - 60 : t]) for t in range(60, 200)]
    np.testing.assert_array_equal(rolling, expected)
    changed = returns[:200].copy()
    changed[150] = -0.9
    np.testing.assert_array_equal(risk.rolling_value_at_risk(changed, 60)[:151], rolling[:151])


def test_rolling_value_at_risk_edges(returns):
    assert np.isnan(risk.rolling_value_at_risk(returns[:60], 60)).all()
    holed = returns[:100].copy()
    holed[70] = NAN
    rolling = risk.rolling_value_at_risk(holed, 20)
    assert np.isnan(rolling[71:91]).all()
    assert np.isfinite(rolling[91:]).all()
    with pytest.raises(ValueError, match="window 10"):
        risk.rolling_value_at_risk(returns, 10)


def test_daily_returns_are_of_whole_utc_days():
    start = 20_000 * DAY + 15 * HOUR
    equity = 100.0 * np.cumprod(np.concatenate(([1.0], 1 + np.random.default_rng(0).normal(0, 0.01, 80))))
    times = start + HOUR * np.arange(81)
    frame = pd.Series(equity, index=pd.to_datetime(times, unit="ms"))
    at_midnight = frame[frame.index.hour == 0]
    assert len(at_midnight) == 3
    returns, opens = risk.daily_returns(equity, times)
    np.testing.assert_allclose(returns, at_midnight.pct_change().dropna())
    assert pd.to_datetime(opens, unit="ms").tolist() == at_midnight.index[:-1].tolist()


def test_daily_returns_leave_out_gaps_and_other_lengths():
    days = 20_000 * DAY + DAY * np.array([0, 1, 2, 4, 5])
    returns, opens = risk.daily_returns([100, 110, 99, 120, 132], days)
    np.testing.assert_allclose(returns, [0.1, -0.1, 0.1])
    assert opens.tolist() == days[[0, 1, 3]].tolist()
    odd = [([100, NAN, 99], days[:3]), ([100, 110], [0, 7 * DAY]), ([100, 110], [HOUR, DAY]), ([-5, 110], days[:2])]
    for equity, times in (*odd, ([], [])):
        returns, opens = risk.daily_returns(equity, times)
        assert returns.size == opens.size == 0


def test_wins_and_profit():
    assert risk.win_rate([1.0, -1.0, 2.0, 0.0, NAN]) == pytest.approx(2 / 3)
    assert risk.profit_factor([1.0, -1.0, 2.0, 0.0, NAN]) == pytest.approx(3.0)
    assert risk.profit_factor([-1.0]) == 0.0
    for none in ([], [0.0, 0.0], [NAN]):
        assert math.isnan(risk.win_rate(none))
        assert math.isnan(risk.profit_factor(none))
    assert math.isnan(risk.profit_factor([1.0, 2.0]))  # not an infinity


@given(some_returns)
def test_wins_and_profit_of_the_mirrored_book(values):
    if np.count_nonzero(values):
        assert risk.win_rate(-values) == pytest.approx(1 - risk.win_rate(values))
    factor = risk.profit_factor(values)
    if factor > 1e-6:
        assert risk.profit_factor(-values) == pytest.approx(1 / factor)


def test_shape_agrees_with_scipy_and_pandas(returns):
    assert risk.skewness(returns) == pytest.approx(stats.skew(returns, bias=False), rel=1e-9)
    assert risk.excess_kurtosis(returns) == pytest.approx(stats.kurtosis(returns, bias=False), rel=1e-9)
    series = pd.Series(returns)
    assert risk.skewness([*returns, NAN]) == pytest.approx(series.skew(), rel=1e-9)
    assert risk.excess_kurtosis([*returns, NAN]) == pytest.approx(series.kurt(), rel=1e-9)


def test_shape_scale_and_mirror(returns):
    for scale in (1e-160, 1.0, 1e160):
        assert risk.skewness(-scale * returns) == pytest.approx(-risk.skewness(returns))
        assert risk.excess_kurtosis(-scale * returns) == pytest.approx(risk.excess_kurtosis(returns))
    for none in ([], [1.0], [1.0, 2.0], [3.0] * 9):
        assert math.isnan(risk.skewness(none))
    for none in ([], [1.0, 2.0, 4.0], [3.0] * 9):
        assert math.isnan(risk.excess_kurtosis(none))


def plain_under_water(equity):
    """Every step of the way: since the high was last touched."""
    high, since, longest, fell = None, 0, 0, False
    for at, value in enumerate(equity):
        if math.isnan(value):
            continue
        if high is None or value >= high:
            if high is not None and fell:
                longest = max(longest, at - since)
            high, since, fell = value, at, False
        else:
            fell = True
            longest = max(longest, at - since)
    return longest


def test_longest_under_water():
    assert risk.longest_under_water([100, 90, 95, 101, 90]) == 3
    assert risk.longest_under_water([100, 101, 90, 95, 99]) == 3  # still under water
    assert risk.longest_under_water([100, 100, 101, 102]) == 0
    assert risk.longest_under_water([100, NAN, 101]) == 0  # a gap is no fall
    assert risk.longest_under_water([100, 90, NAN, NAN, 100]) == 4
    assert math.isnan(risk.longest_under_water([NAN, -1.0]))


@given(arrays(np.float64, st.integers(1, 60), elements=st.one_of(st.just(NAN), st.integers(1, 9).map(float))))
def test_longest_under_water_agrees_with_a_walk(equity):
    if np.isnan(equity).all():
        assert math.isnan(risk.longest_under_water(equity))
    else:
        assert risk.longest_under_water(equity) == plain_under_water(equity)
        assert risk.longest_under_water(7.5 * equity) == risk.longest_under_water(equity)


def test_exposures_by_hand():
    shown = risk.exposures([[50.0, -30.0, NAN], [0.0, 0.0, 0.0], [10.0, 10.0, -20.0]], [100.0, 100.0, -5.0])
    np.testing.assert_allclose(shown.long, [50, 0, 20])
    np.testing.assert_allclose(shown.short, [-30, 0, -20])
    np.testing.assert_allclose(shown.gross, [80, 0, 40])
    np.testing.assert_allclose(shown.net, [20, 0, 0])
    np.testing.assert_allclose(shown.leverage, [0.8, 0, NAN])
    np.testing.assert_allclose(shown.net_leverage, [0.2, 0, NAN])
    np.testing.assert_allclose(shown.concentration, [0.625, NAN, 0.5])
    assert shown.names.tolist() == [2, 0, 3]


@given(arrays(np.float64, (4, 5), elements=st.floats(-1e6, 1e6, allow_subnormal=False)), st.permutations(range(5)))
def test_exposures_mirror_and_names_have_no_order(notional, order):
    shown, mirrored = risk.exposures(notional, np.full(4, 1e5)), risk.exposures(-notional, np.full(4, 1e5))
    np.testing.assert_allclose(mirrored.net, -shown.net, atol=1e-6)
    np.testing.assert_allclose(mirrored.gross, shown.gross)
    np.testing.assert_allclose(mirrored.long, -shown.short)
    for given_order, changed in zip(shown, risk.exposures(notional[:, order], np.full(4, 1e5)), strict=True):
        np.testing.assert_allclose(changed, given_order, atol=1e-6)


def test_hit_rates():
    held = [[10.0, -10.0], [10.0, -10.0], [NAN, -10.0], [10.0, 0.0]]
    moved = [[0.1, 0.1], [-0.1, -0.2], [0.5, -0.1], [0.0, 0.1]]
    assert risk.hit_rates(held, moved) == (0.5, pytest.approx(2 / 3))
    mirrored = risk.hit_rates(-np.asarray(held), -np.asarray(moved))
    assert mirrored == (pytest.approx(2 / 3), 0.5)
    assert all(math.isnan(rate) for rate in risk.hit_rates([[0.0]], [[0.1]]))
