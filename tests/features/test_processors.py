from __future__ import annotations

import logging
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qlib.data.dataset.processor import CSZScoreNorm

from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.features.processors import CrossSectionalZScore, DropEmptyFeatures, ReplaceInf


def table(features: np.ndarray, labels: np.ndarray, instruments: int) -> pd.DataFrame:
    times = pd.date_range("2025-01-01", periods=len(labels) // instruments, freq="h")
    index = pd.MultiIndex.from_product([times, [f"S{i}" for i in range(instruments)]], names=["datetime", "instrument"])
    columns = pd.MultiIndex.from_tuples(
        [("feature", f"F{i}") for i in range(features.shape[1])] + [("label", "LABEL0")]
    )
    return pd.DataFrame(np.column_stack([features, labels]).astype("float32"), index, columns)


def random_table(times=40, instruments=6, features=3, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = times * instruments
    return table(rng.normal(size=(rows, features)), rng.standard_t(3, rows) * 0.01, instruments)


def test_cross_sectional_z_score_is_qlibs():
    df = random_table(times=200, instruments=9)
    df.loc[np.random.default_rng(1).random(len(df)) < 0.2, ("label", "LABEL0")] = np.nan
    expected = CSZScoreNorm(fields_group="label")(df.copy())
    got = CrossSectionalZScore("label")(df)
    counts = df["label", "LABEL0"].groupby("datetime").transform("count")
    assert (counts >= 3).sum() > 1000
    np.testing.assert_allclose(
        got.loc[counts >= 3, "label"], expected.loc[counts >= 3, "label"], rtol=2e-5, atol=1e-6, equal_nan=True
    )
    pd.testing.assert_frame_equal(got["feature"], df["feature"])
    assert got["label", "LABEL0"].dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([np.nan, np.inf]))),
        min_size=1,
        max_size=40,
    ),
    st.integers(2, 4),
)
def test_cross_sectional_z_score_by_hand(rows, least):
    times = pd.date_range("2025-01-01", periods=6, freq="h")
    index = pd.MultiIndex.from_tuples(
        [(times[t], f"S{i:03}") for i, (t, _) in enumerate(rows)], names=["datetime", "instrument"]
    )
    df = pd.DataFrame({("label", "LABEL0"): np.array([v for _, v in rows], "float32")}, index)
    before = df.copy()
    got = CrossSectionalZScore("label", min_instruments=least)(df)["label", "LABEL0"]
    for time, values in df["label", "LABEL0"].astype("float64").groupby("datetime"):
        finite = values[np.isfinite(values)]
        out = got.loc[time]
        if len(finite) < least or finite.min() == finite.max():
            assert out.isna().all()
            continue
        expected = (finite - finite.mean()) / finite.std()
        np.testing.assert_allclose(out[np.isfinite(values).to_numpy()], expected, rtol=1e-5, atol=1e-6)
        assert out[~np.isfinite(values).to_numpy()].isna().all()
    pd.testing.assert_frame_equal(df, before)  # readonly() promises that the input stays


def test_equal_labels_have_no_z_score():
    df = table(np.zeros((9, 1)), np.full(9, 0.1), 3)
    assert CrossSectionalZScore()(df)["label"].isna().all().all()


def test_the_cross_section_counts_instruments_that_have_a_label(caplog):
    df = random_table(times=3, instruments=4)
    df.iloc[:2, -1] = np.nan
    with caplog.at_level(logging.INFO, "qlib_crypto"):
        got = CrossSectionalZScore(min_instruments=3)(df)["label", "LABEL0"].notna().groupby("datetime").sum()
    assert got.tolist() == [0, 4, 4]
    assert "1 of 3 timestamps have fewer than 3 instruments" in caplog.text


def test_a_cross_section_of_one_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        CrossSectionalZScore(min_instruments=1)


def test_infinities_become_unknown_and_the_input_stays():
    df = random_table()
    df.iloc[3, 0], df.iloc[4, 2], df.iloc[5, 3] = np.inf, -np.inf, np.inf
    before = df.copy()
    got = ReplaceInf("feature")(df)
    pd.testing.assert_frame_equal(df, before)
    assert np.isnan(got.iloc[3, 0])
    assert np.isnan(got.iloc[4, 2])
    assert got.iloc[5, 3] == np.inf  # the label group was not asked for
    expected = before.copy()
    expected["feature"] = expected["feature"].replace([np.inf, -np.inf], np.nan)
    pd.testing.assert_frame_equal(got, expected)


def test_a_table_without_infinities_is_not_copied():
    df = random_table()
    assert ReplaceInf()(df) is df


def test_a_feature_is_dropped_by_the_training_segment_alone(caplog):
    df = random_table(times=10, instruments=2)
    times = df.index.get_level_values("datetime")
    df.loc[times < times[10], ("feature", "F1")] = np.nan  # has values, but only after the training segment
    df.loc[times >= times[10], ("feature", "F2")] = np.nan  # has none after it, but some in it
    drop = DropEmptyFeatures(times[0], times[9])
    drop.fit(df)
    got = drop(df)
    assert [c[-1] for c in got.columns] == ["F0", "F2", "LABEL0"]
    assert drop.dropped == ["F1"]
    assert "dropped 1 feature without a value" in caplog.text
    assert "F1" in caplog.text
    again = pickle.loads(pickle.dumps(drop))  # noqa: S301 - our own bytes
    assert again.dropped == ["F1"]
    pd.testing.assert_frame_equal(again(df), got)


def test_infinity_is_no_value():
    df = random_table(times=4, instruments=2)
    df["feature", "F0"] = np.inf
    drop = DropEmptyFeatures(None, None)
    drop.fit(df)
    assert drop.dropped == ["F0"]


def test_a_training_segment_without_rows_or_features_is_an_error():
    df = random_table(times=4, instruments=2)
    with pytest.raises(DataError, match="has no row"):
        DropEmptyFeatures("2030-01-01", "2030-02-01").fit(df)
    df.loc[:, "feature"] = np.nan
    with pytest.raises(DataError, match="no feature has a value"):
        DropEmptyFeatures(None, None).fit(df)
