from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.clock import HOUR_MS, MINUTE_MS, parse_utc
from qlib_crypto.market.funding import (
    due_times,
    holes,
    known_ranges,
    settlement_intervals,
    snap_to_minute,
)

T0 = parse_utc("2025-01-09")

# minutes between settlements, around the edge of what is a hole
GAPS = st.lists(st.sampled_from([60, 120, 240, 480, 481, 482, 600, 1440]), max_size=12)
JITTER = st.integers(-29_000, 29_999)


def times(gaps: list[int]) -> np.ndarray:
    return T0 + MINUTE_MS * np.cumsum([0, *gaps], dtype=np.int64)


@given(st.integers(0, 10**8), JITTER)
def test_any_jitter_within_half_a_minute_snaps_back(minute, jitter):
    assert snap_to_minute(np.array([minute * MINUTE_MS + jitter]))[0] == minute * MINUTE_MS


@given(GAPS, st.data())
def test_intervals_are_the_hours_between_neighbours(gaps, data):
    at = times(gaps)
    jittered = at + np.array(data.draw(st.lists(JITTER, min_size=len(at), max_size=len(at))))
    expected = [np.nan] + [minutes / 60 if minutes <= 481 else np.nan for minutes in gaps]
    np.testing.assert_array_equal(settlement_intervals(jittered), expected)


def is_hole(gaps: list[int], k: int) -> bool:
    """The rule of `holes` for one gap, in minutes."""
    before, after = gaps[max(k - 3, 0) : k], gaps[k + 1 : k + 4]
    return gaps[k] > 481 or (any(gaps[k] >= g + 30 for g in before) and any(gaps[k] >= g + 30 for g in after))


@given(GAPS)
def test_holes_are_where_both_sides_are_closer(gaps):
    assert holes(times(gaps)).tolist() == [is_hole(gaps, k) for k in range(len(gaps))]


def test_hole_examples():
    def found(*gaps):
        return holes(times([60 * hours for hours in gaps])).nonzero()[0].tolist()

    assert found(1, 1, 7, 1, 1) == [2]  # lost from 03:00 on
    assert found(4, 4, 8, 4) == [2]
    assert found(1, 2, 2, 1) == [1, 2]  # every other one
    assert found(1, 1, 3, 4, 4, 4, 4) == []  # an interval that grew
    assert found(8, 8, 3, 1, 1) == []  # one that shrank
    assert found(1, 1, 4) == []  # grew or lost: the next one tells
    assert found(8, 9, 8) == [1]


@given(GAPS)
def test_known_ranges_equal_the_rule_minute_by_minute(gaps):
    at = times(gaps)
    settled = set(at.tolist())
    ranges = known_ranges(at)
    lost = [is_hole(gaps, k) for k in range(len(gaps))]
    own = {
        at[k + 1]: gaps[k] * MINUTE_MS
        for k in range(len(gaps))
        if not lost[k] and not (lost[k + 1 : k + 2] == [True] and gaps[k] >= gaps[k + 1])
    }
    whole_after = {t: not hole for t, hole in zip(at.tolist(), lost, strict=False)}
    for minute in range(T0 - HOUR_MS, int(at[-1]) + 10 * HOUR_MS, 7 * MINUTE_MS):
        for t in (minute, minute + 1, *(t for t in settled if minute <= t < minute + 7 * MINUTE_MS)):
            before = max((s for s in settled if s <= t), default=None)
            if before is None:
                known = False
            else:
                known = whole_after.get(before, False) or t < before + own.get(before, MINUTE_MS)
            assert known == any(start <= t < end for start, end in ranges), (t - T0, ranges - T0)


@given(GAPS)
def test_known_ranges_are_disjoint_and_hold_every_settlement(gaps):
    at = times(gaps)
    flat = known_ranges(at).ravel()
    assert np.all(np.diff(flat) > 0)
    assert np.all(np.searchsorted(flat, at, side="right") % 2 == 1)


def test_examples():
    hours = np.array([0, 8, 16, 17, 18, 48, 56])
    at = T0 + hours * HOUR_MS
    np.testing.assert_array_equal(settlement_intervals(at), [np.nan, 8, 8, 1, 1, np.nan, 8])
    np.testing.assert_array_equal((known_ranges(at) - T0) / HOUR_MS, [[0, 19], [48, 64]])
    assert known_ranges(np.array([], dtype=np.int64)).shape == (0, 2)
    assert settlement_intervals(np.array([], dtype=np.int64)).shape == (0,)
    assert (known_ranges(np.array([T0])) - T0).tolist() == [[0, MINUTE_MS]]


def test_an_interval_that_grew_in_the_middle_is_the_new_one():
    """Binance ESP_USDT, 2026-03-05: hourly until 21:00, four-hourly from then on."""
    at = T0 + np.array([20, 21, 24, 28, 29]) * HOUR_MS
    np.testing.assert_array_equal(settlement_intervals(at), [np.nan, 1, 4, 4, 1])
    np.testing.assert_array_equal((known_ranges(at[:3]) - T0) / HOUR_MS, [[20, 28]])
    np.testing.assert_array_equal((due_times(at)[1:] - T0) / HOUR_MS, [22, 28, 32, 30])
    assert due_times(at)[0] == 0


@given(st.integers(1, 47), st.integers(1, 8))
def test_an_interval_is_a_venue_s_own_wherever_one_fits(hour, gap):
    (interval,) = settlement_intervals(T0 + np.array([hour, hour + gap]) * HOUR_MS)[1:]
    fitting = [n for n in (1, 2, 4, 8) if n > gap and (hour + gap) % n == 0]
    assert interval == (gap if gap in (1, 2, 4, 8) else min(fitting, default=gap))


def test_nothing_is_due_after_a_settlement_whose_interval_is_no_venue_s():
    minutes = np.array([0, 8 * 60, 11 * 60, 12 * 60, 12 * 60 + 481, 30 * 60, 31 * 60 + 17, 32 * 60 + 17])
    due = [0, 16 * 60, 0, 13 * 60, 0, 0, 0, 33 * 60]
    np.testing.assert_array_equal(due_times(T0 + minutes * MINUTE_MS), [T0 + m * MINUTE_MS if m else 0 for m in due])


def test_repeated_or_falling_times_are_refused():
    for at in ([T0, T0 + 3], [T0 + HOUR_MS, T0]):
        with pytest.raises(ValueError, match="ascend"):
            known_ranges(np.array(at))
        with pytest.raises(ValueError, match="ascend"):
            settlement_intervals(np.array(at))


def test_real_funding_has_the_stated_intervals(real_data):
    rows = pq.ParquetFile(real_data / "funding" / "binance_um_funding_2025.parquet").read().to_pandas()
    for symbol, expected in (("BTCUSDT", {8.0}), ("ENAUSDT", {4.0}), ("LAYERUSDT", {1.0, 2.0, 4.0})):
        at = rows[rows.symbol == symbol].funding_time.astype("int64").to_numpy()
        hours = settlement_intervals(at)
        assert np.isnan(hours[0])
        assert set(hours[1:]) <= expected
        assert len(known_ranges(at)) == 1


@pytest.mark.parametrize("name", ["binance_um_funding_2026_all", "binance_um_funding_2025", "okx_swap_funding"])
def test_no_hole_is_seen_in_real_funding_but_the_documented_long_ones(real_data, name):
    rows = (
        pq.ParquetFile(real_data / "funding" / f"{name}.parquet").read(columns=["symbol", "funding_time"]).to_pandas()
    )
    ms = rows.funding_time.astype("datetime64[ms, UTC]").astype("int64")
    for symbol, own in ms.groupby(rows.symbol):
        at = np.sort(own.to_numpy())
        gaps = np.diff(snap_to_minute(at))
        np.testing.assert_array_equal(holes(at), gaps > 481 * MINUTE_MS, err_msg=symbol)
