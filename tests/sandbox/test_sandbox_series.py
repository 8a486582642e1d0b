"""Resampling and open bars against pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.sandbox.series import Grid, collapse, empty_bars, first_prints, resample, take, union
from qlib_crypto.sandbox.tape import BarSeries

FIELDS = ("open", "high", "low", "close", "volume_base", "volume_quote", "trades")


def series(open_ms, seed=0, *, unknown=False) -> BarSeries:
    n, rng = len(open_ms), np.random.default_rng(seed)
    price = rng.uniform(1, 2, (4, n))
    quote = np.full(n, np.nan) if unknown else rng.uniform(0, 9, n)
    trades = np.full(n, -1) if unknown else rng.integers(0, 9, n)
    return BarSeries(
        np.asarray(open_ms, np.int64),
        price[0],
        price.max(0),
        price.min(0),
        price[1],
        rng.uniform(0, 9, n),
        quote,
        trades,
    )


def frame(bars: BarSeries) -> pd.DataFrame:
    index = pd.to_datetime(bars.open_ms, unit="ms")
    return pd.DataFrame({name: getattr(bars, name) for name in FIELDS}, index=index)


def by_pandas(bars: BarSeries, fine_ms: int, grid: Grid) -> pd.DataFrame:
    rules = {"open": "first", "high": "max", "low": "min", "close": "last"}
    group = frame(bars).resample(pd.Timedelta(grid.ms, "ms"), origin="epoch", offset=pd.Timedelta(grid.offset_ms, "ms"))
    out = group.agg(rules)
    for name in ("volume_base", "volume_quote", "trades"):
        out[name] = group[name].sum(min_count=1)
    out.loc[group["volume_quote"].count() < group["open"].count(), "volume_quote"] = np.nan
    out.loc[group["trades"].min() < 0, "trades"] = -1
    return out[group["open"].count() == grid.ms // fine_ms].astype({"trades": np.int64})


@settings(deadline=None)
@given(
    keep=st.lists(st.integers(0, 400), min_size=1, unique=True),
    minutes=st.sampled_from([3, 5, 15, 60, 240]),
    shift=st.booleans(),
    unknown=st.booleans(),
)
def test_resampled_bars_are_those_of_pandas_and_have_no_holes(keep, minutes, shift, unknown):
    opens = np.unique(np.concatenate([np.sort(keep), np.arange(600, 1500)])) * MINUTE_MS
    grid = Grid(minutes * MINUTE_MS, 2 * MINUTE_MS if shift else 0)
    bars = series(opens, unknown=unknown)
    mine = frame(resample(bars, MINUTE_MS, grid))
    pd.testing.assert_frame_equal(mine, by_pandas(bars, MINUTE_MS, grid), check_freq=False, rtol=1e-12)


def test_no_bars_resample_to_none():
    assert len(resample(empty_bars(), MINUTE_MS, Grid(HOUR_MS)).open_ms) == 0


@pytest.mark.parametrize(("hours", "opens_at"), [(6, 4), (12, 4), (24, 16)])
def test_okx_long_bars_open_at_utc8(hours, opens_at):
    grid = Grid.utc8(hours * HOUR_MS)
    noon = int(pd.Timestamp("2025-03-18T03:30Z").value // 10**6)
    opened = pd.Timestamp(grid.floor(noon), unit="ms", tz="UTC")
    local = opened.tz_convert("Asia/Shanghai")
    assert local.hour % hours == 0
    assert opened.hour % hours == opens_at % hours
    assert 0 <= noon - grid.floor(noon) < grid.ms


@settings(deadline=None)
@given(st.integers(1, 60), st.booleans())
def test_collapsing_is_resampling_to_one_bar(n, unknown):
    bars = series(np.arange(n) * MINUTE_MS, unknown=unknown)
    one = frame(collapse(bars, 0))
    pd.testing.assert_frame_equal(one, by_pandas(bars, MINUTE_MS, Grid(n * MINUTE_MS)), check_freq=False, rtol=1e-12)


@settings(deadline=None)
@given(st.sets(st.integers(0, 50)), st.sets(st.integers(0, 50)))
def test_union_prefers_the_first_and_loses_nothing(a, b):
    first, second = series(sorted(a), 1), series(sorted(b), 2)
    both = frame(union(first, second))
    expected = frame(first).combine_first(frame(second)) if a or b else both
    pd.testing.assert_frame_equal(both, expected.astype(both.dtypes.to_dict()), check_freq=False)


def test_a_first_print_tells_the_open_and_one_lot_only():
    bars = series(np.arange(50) * MINUTE_MS)
    bars.volume_base[::7] = 0.0
    shown = first_prints(bars, 0.5)
    for price in (shown.high, shown.low, shown.close):
        np.testing.assert_array_equal(price, bars.open)
    np.testing.assert_array_equal(shown.volume_base, np.where(bars.volume_base > 0, 0.5, 0.0))
    np.testing.assert_array_equal(shown.volume_quote, shown.volume_base * bars.open)
    assert set(shown.trades.tolist()) <= {0, 1}
    unknown = first_prints(series([0], unknown=True), 0.5)
    assert np.isnan(unknown.volume_quote[0])
    assert unknown.trades[0] == -1


def test_take_keeps_the_columns_together():
    bars = series(np.arange(9) * MINUTE_MS)
    assert frame(take(bars, slice(2, 5))).equals(frame(bars).iloc[2:5])
