"""Correlations against scipy and pandas, row by row, with ties and gaps."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from qlib_crypto.stats import ic

NAN = math.nan

# few distinct values, so that ties, constant rows and gaps are common
values = st.one_of(st.just(NAN), st.integers(-3, 3).map(float), st.floats(-5, 5, width=16))
pairs = st.tuples(st.integers(0, 6), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(arrays(np.float64, shape, elements=values), arrays(np.float64, shape, elements=values))
)


def _by_scipy(prediction, label, correlation, min_names):
    out = []
    for row, other in zip(prediction, label, strict=True):
        both = np.isfinite(row) & np.isfinite(other)
        x, y = row[both], other[both]
        if len(x) < max(min_names, 2) or np.ptp(x) == 0 or np.ptp(y) == 0:
            out.append(NAN)
        else:
            out.append(correlation(x, y).statistic)
    return np.array(out, dtype=np.float64)


@settings(deadline=None)
@given(pairs, st.integers(2, 6))
def test_pearson_agrees_with_scipy(pair, min_names):
    expected = _by_scipy(*pair, stats.pearsonr, min_names)
    np.testing.assert_allclose(ic.pearson_ic(*pair, min_names=min_names), expected, atol=1e-9)


@settings(deadline=None)
@given(pairs, st.integers(2, 6))
def test_rank_ic_agrees_with_scipy(pair, min_names):
    expected = _by_scipy(*pair, stats.spearmanr, min_names)
    np.testing.assert_allclose(ic.rank_ic(*pair, min_names=min_names), expected, atol=1e-9)


@given(pairs)
def test_ranks_agree_with_pandas(pair):
    table = pair[0]
    np.testing.assert_array_equal(ic.average_ranks(table), pd.DataFrame(table).rank(axis=1).to_numpy())


def test_qlibs_own_ic_on_complete_data():
    rng = np.random.default_rng(3)
    label = rng.standard_t(3, (50, 20))
    prediction = 0.2 * label + rng.normal(size=(50, 20))
    frame = pd.DataFrame({"p": prediction.ravel(), "l": label.ravel()}, index=np.repeat(np.arange(50), 20))
    for ours, method in ((ic.pearson_ic, "pearson"), (ic.rank_ic, "spearman")):
        expected = frame.groupby(level=0).apply(lambda part, m=method: part["p"].corr(part["l"], method=m))
        np.testing.assert_allclose(ours(prediction, label), expected.to_numpy(), atol=1e-12)


def test_rank_ic_sees_only_order():
    rng = np.random.default_rng(4)
    label = rng.normal(size=(30, 12))
    np.testing.assert_allclose(ic.rank_ic(np.exp(label), label), 1.0)
    np.testing.assert_allclose(ic.rank_ic(-(label**3), label), -1.0)


@pytest.mark.parametrize("scale", [1e-170, 1e-12, 1e12, 1e150])
def test_scale_does_not_matter(scale):
    rng = np.random.default_rng(5)
    prediction, label = rng.normal(size=(2, 10, 8))
    np.testing.assert_allclose(ic.pearson_ic(scale * prediction, label), ic.pearson_ic(prediction, label), atol=1e-12)


def test_constant_predictions_have_no_ic():
    label = np.random.default_rng(6).normal(size=(4, 7))
    assert np.isnan(ic.pearson_ic(np.full((4, 7), 0.1), label)).all()
    assert np.isnan(ic.rank_ic(np.full((4, 7), 0.1), label)).all()


def test_infinite_predictions_are_missing():
    label = np.arange(7.0)[None]
    prediction = np.array([[0, 1, 2, np.inf, 3, -np.inf, 4]])
    assert ic.rank_ic(prediction, label)[0] == pytest.approx(1.0)


def test_fewer_names_than_asked():
    prediction, label = np.array([[1, 2, 3, 4, NAN]]), np.array([[1, 2, 4, 3, 5]])
    assert np.isnan(ic.pearson_ic(prediction, label)[0])
    assert ic.pearson_ic(prediction, label, min_names=4)[0] == pytest.approx(0.8)
    assert np.isnan(ic.pearson_ic([[1.0]], [[2.0]], min_names=1)[0])  # one name never correlates


def test_empty_tables():
    assert ic.pearson_ic(np.empty((0, 5)), np.empty((0, 5))).shape == (0,)
    assert np.isnan(ic.rank_ic(np.empty((3, 0)), np.empty((3, 0)))).all()
    assert np.isnan(ic.rank_ic(np.full((3, 6), NAN), np.ones((3, 6)))).all()


@pytest.mark.parametrize("shapes", [((3,), (3,)), ((3, 2), (2, 3))])
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="must both have shape"):
        ic.pearson_ic(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_mean_and_icir():
    series = [0.1, NAN, -0.05, 0.2, 0.0]
    assert ic.mean_ic(series) == pytest.approx(0.0625)
    assert ic.icir(series) == pytest.approx(pd.Series(series).mean() / pd.Series(series).std())
    for none in ([], [NAN], [0.1], [0.1, NAN], [0.1, 0.1]):
        assert math.isnan(ic.icir(none))
    assert math.isnan(ic.mean_ic([NAN]))
