"""Funding of the generated market: the venues' formula, its calendar, and estimates that know no future."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_generator import HOUR, START, tape

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.sandbox.generator_funding import funding_rate
from qlib_crypto.symbols import Venue

VENUES = pytest.mark.parametrize("venue", list(Venue))


def nominal(time_ms):
    return (np.rint(time_ms / 60_000) * 60_000).astype(np.int64)


@given(
    premium=st.decimals("-0.05", "0.05", places=7),
    interval=st.sampled_from([1, 2, 4, 8]),
    cap=st.sampled_from([Decimal("0.00375"), Decimal("0.0075")]),
)
def test_rate_is_the_venues_formula(premium, interval, cap):
    clamped = premium + min(max(Decimal("0.0001") - premium, Decimal("-0.0005")), Decimal("0.0005"))
    wanted = min(max(clamped, -cap), cap) * interval / 8
    assert abs(Decimal(funding_rate(float(premium), float(cap), interval)) - wanted) <= Decimal("5.1e-9")


@pytest.mark.parametrize(("interval", "rate"), [(8, 0.0001), (4, 0.00005), (1, 0.0000125)])
def test_inside_the_band_the_rate_is_the_interest_exactly(interval, rate):
    for premium in np.linspace(-0.00039, 0.00059, 99):
        # 0.00125 % needs seven decimals, within the eight that are printed
        assert funding_rate(float(premium), 0.00375, interval) == rate


@VENUES
def test_flat_market_prints_one_basis_point_per_8_hours(venue):
    source = tape(venue, 12, hourly_volatility=0.0, premium_volatility=0.0)
    seen = set()
    for instrument in source.specs:
        bars, settled = source.bars(instrument, HOUR), source.settlements(instrument)
        assert np.all(bars.close == bars.open[0])
        gap = np.rint(np.diff(settled.time_ms) / HOUR_MS).astype(int)
        assert np.array_equal(settled.rate[1:], np.array([{8: 0.0001, 4: 0.00005, 1: 0.0000125}[g] for g in gap]))
        seen |= set(gap)
        now = source.funding_now(instrument, int(bars.open_ms[-1]))
        assert now.rate == {8: 0.0001, 4: 0.00005, 1: 0.0000125}[now.interval_ms // HOUR_MS]
    assert seen == {1, 4, 8}
    assert np.isnan(source.theoretical_ic)


@VENUES
def test_the_index_is_the_price_without_the_premium_that_funding_follows(venue):
    """At a settlement the estimate of the next one is that of the hour's premium alone."""
    source, checked = tape(venue, 12), 0
    for instrument in source.specs:
        bars, index = source.bars(instrument, HOUR), source.index_bars(instrument, HOUR)
        assert np.array_equal(bars.open_ms, index.open_ms)
        assert np.all((index.low <= index.open) & (index.open <= index.high) & (index.volume_base == 0))
        settled = set(nominal(source.settlements(instrument).time_ms).tolist())
        for at, premium in zip(bars.open_ms.tolist(), (bars.open / index.open - 1).tolist(), strict=True):
            now = source.funding_now(instrument, at) if at in settled else None
            if now is not None and abs(premium) < 0.003:  # below every cap
                assert now.rate == pytest.approx(funding_rate(premium, 1.0, now.interval_ms // HOUR_MS), abs=2e-8)
                checked += 1
    assert checked > 1_000


@VENUES
def test_calendar_of_settlements(venue):
    source = tape(venue, 40)
    start, end = source.span_ms
    gaps, changing = {}, []
    for instrument, spec in source.specs.items():
        settled = source.settlements(instrument)
        at = nominal(settled.time_ms)
        hours = np.diff(at) // HOUR_MS
        gaps[instrument] = set(hours.tolist())
        first_gap = int(hours[0])
        assert np.all(at % HOUR_MS == 0)
        assert np.all(np.diff(settled.time_ms) > 0)
        assert (
            at[0] == start if spec.listed_ms < start else spec.listed_ms < at[0] <= spec.listed_ms + first_gap * HOUR_MS
        )
        last = min(end, spec.delisted_ms or end)
        assert last - int(hours[-1]) * HOUR_MS <= at[-1] < last
        assert at[0] % (first_gap * HOUR_MS) == 0
        off = settled.time_ms - at
        assert np.all(off == 0) if venue is Venue.OKX else (off.min() >= -2 and off.max() <= 17 and len(set(off)) > 5)
        opens = source.bars(instrument, HOUR)
        assert np.array_equal(settled.mark_price, opens.open[np.searchsorted(opens.open_ms, at)])
        if len(gaps[instrument]) > 1:
            changing.append(hours)
    assert {8, 4, 1} == set().union(*gaps.values())
    assert len(changing) == 1
    switch = np.flatnonzero(np.diff(changing[0]))
    assert changing[0][0] == 8
    assert changing[0][-1] == 4
    assert len(switch) == 1
    assert 0.3 < switch[0] / len(changing[0]) < 0.4  # half the time: one gap in three


@VENUES
def test_estimate_runs_to_the_settled_rate(venue):
    source = tape(venue, 10)
    start, end = source.span_ms
    for instrument, spec in source.specs.items():
        settled = source.settlements(instrument)
        at = nominal(settled.time_ms)
        for time, rate in zip(at.tolist(), settled.rate.tolist(), strict=True):
            if time == start:
                continue
            now = source.funding_now(instrument, time - 1)
            assert now.settles_ms == time
            assert now.rate == pytest.approx(rate, abs=2e-8)  # a millisecond of another premium, and the rounding
            after = source.funding_now(instrument, time)
            assert after.settles_ms == time + after.interval_ms
        assert source.funding_now(instrument, max(start, spec.listed_ms) - 1) is None
        assert source.funding_now(instrument, max(start, spec.listed_ms)) is not None
        if spec.delisted_ms is not None:
            assert source.funding_now(instrument, spec.delisted_ms) is None
            assert source.funding_now(instrument, spec.delisted_ms - 1) is not None
        else:
            assert source.funding_now(instrument, end + 5) == source.funding_now(instrument, end)


@VENUES
def test_estimate_knows_no_future(venue):
    """A tape cut right after an instant tells the same estimate for it as one that goes on."""
    long = tape(venue, 14, minute_days=0, event_days=14)
    draw = np.random.default_rng(3)
    for hours in (24, 131, 170, 171, 290):
        short = tape(venue, hours / 24, minute_days=0, event_days=14)
        for instrument in long.specs:
            moments = [*draw.integers(START, short.span_ms[1], 6), short.span_ms[1]]
            for moment in map(int, moments):
                assert short.funding_now(instrument, moment) == long.funding_now(instrument, moment)


def test_funding_is_persistent_and_often_at_the_interest():
    source = tape(days=90, minute_days=0)
    lag, at_interest = [], []
    for instrument in source.specs:
        rate = source.settlements(instrument).rate
        lag.append(np.corrcoef(rate[1:], rate[:-1])[0, 1])
        at_interest.append(np.mean(np.isin(rate, [0.0001, 0.00005, 0.0000125])))
    assert np.median(lag) > 0.6
    assert 0.2 < np.mean(at_interest) < 0.8
