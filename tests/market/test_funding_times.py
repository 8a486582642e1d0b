from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.clock import HOUR_MS, MINUTE_MS, parse_utc
from qlib_crypto.market.funding import LONGEST_INTERVAL_MS, known_ranges, settlement_intervals, snap_to_minute

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


@given(GAPS)
def test_known_ranges_equal_the_rule_minute_by_minute(gaps):
    at = times(gaps)
    settled = set(at.tolist())
    ranges = known_ranges(at)
    last_interval = gaps[-1] * MINUTE_MS if gaps and gaps[-1] <= 481 else MINUTE_MS
    for minute in range(T0 - HOUR_MS, int(at[-1]) + 10 * HOUR_MS, 7 * MINUTE_MS):
        for t in (minute, minute + 1, *(t for t in settled if minute <= t < minute + 7 * MINUTE_MS)):
            before = max((s for s in settled if s <= t), default=None)
            after = min((s for s in settled if s > t), default=None)
            if before is None:
                known = False
            elif after is None:
                known = t < before + last_interval
            else:
                known = t < before + MINUTE_MS or after - before <= LONGEST_INTERVAL_MS
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
    np.testing.assert_array_equal((known_ranges(at) - T0) / HOUR_MS, [[0, 18 + 1 / 60], [48, 64]])
    assert known_ranges(np.array([], dtype=np.int64)).shape == (0, 2)
    assert settlement_intervals(np.array([], dtype=np.int64)).shape == (0,)
    assert (known_ranges(np.array([T0])) - T0).tolist() == [[0, MINUTE_MS]]


def test_an_interval_that_grew_in_the_middle_is_the_new_one():
    """Binance ESP_USDT, 2026-03-05: hourly until 21:00, four-hourly from then on."""
    at = T0 + np.array([20, 21, 24, 28, 29]) * HOUR_MS
    np.testing.assert_array_equal(settlement_intervals(at), [np.nan, 1, 4, 4, 1])
    np.testing.assert_array_equal((known_ranges(at[:3]) - T0) / HOUR_MS, [[20, 28]])


@given(st.integers(1, 47), st.integers(1, 8))
def test_an_interval_is_a_venue_s_own_wherever_one_fits(hour, gap):
    (interval,) = settlement_intervals(T0 + np.array([hour, hour + gap]) * HOUR_MS)[1:]
    fitting = [n for n in (1, 2, 4, 8) if n > gap and (hour + gap) % n == 0]
    assert interval == (gap if gap in (1, 2, 4, 8) else min(fitting, default=gap))


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
