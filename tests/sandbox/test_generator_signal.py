"""The planted truth: recomputed from the wire, and its IC against formulas, simulation and the tape itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammaln, hyp1f1
from support_generator import funding, hourly_ic, label, parts, tape, wide

from qlib_crypto.sandbox.generator_signal import expected_ic, noise_scale, standardise
from qlib_crypto.symbols import Venue

VENUES = pytest.mark.parametrize("venue", list(Venue))


@pytest.fixture(scope="module")
def long_tapes():
    """More than half a year of each venue, with and without the signal."""
    return {
        (venue, strength): tape(venue, 200, minute_days=0, signal_strength=strength)
        for venue in Venue
        for strength in (0.0, 0.1)
    }


def gap_in_errors(source, signal, expected) -> float:
    """Standard errors between the tape's mean IC and a mean of expected ICs, hour by hour."""
    difference = (hourly_ic(signal, label(source)) - expected).dropna()
    return difference.mean() / (difference.std() / np.sqrt(len(difference)))


@VENUES
def test_signal_is_a_function_of_the_wire(venue):
    source = tape(venue, 60, minute_days=0)
    reversal, level = parts(source)
    wanted = (reversal + level).to_numpy()
    planted = source.planted_signal()
    assert np.array_equal(np.isnan(planted), np.isnan(wanted))
    np.testing.assert_allclose(planted, wanted, rtol=0, atol=1e-9)
    assert np.isfinite(planted).mean() > 0.9
    assert list(source.hours_ms) == list(wide(source, "open").index)
    assert [i.symbol for i in source.instruments] == list(wide(source, "open").columns)


def test_signal_needs_six_hours_and_a_settlement():
    source = tape(days=20, minute_days=0)
    planted, rate = source.planted_signal(), funding(source).to_numpy()
    live = wide(source, "open").notna().to_numpy()
    age = np.cumsum(live, axis=0)
    assert np.array_equal(np.isfinite(planted), live & (age >= 6) & np.isfinite(rate))


@VENUES
def test_signal_is_unchanged_by_the_future(venue):
    source = tape(venue, 12, minute_days=0, event_days=12)
    for hours in (40, 100, 171):
        cut = tape(venue, hours / 24, minute_days=0, event_days=12)
        assert np.array_equal(cut.planted_signal(), source.planted_signal()[:hours], equal_nan=True)


@VENUES
def test_scored_cells_are_those_with_a_label_that_can_vary(venue):
    source = tape(venue, 30, minute_days=0)
    returns, planted = label(source), source.planted_signal()
    cells = returns.notna().to_numpy() & np.isfinite(planted)
    cells &= ~(returns == 0).all(axis=1).to_numpy()[:, None]
    outage_labels = returns.loc[source.outages[0][0] - 3_600_000 : source.outages[0][1] - 7_200_000]
    assert len(outage_labels) == 2
    assert (outage_labels.fillna(0) == 0).all(axis=None)
    cells[[returns.index.get_loc(hour) for hour in outage_labels.index]] = False
    assert np.array_equal(source.scored(), cells)
    measured = hourly_ic(source_frame(source), returns)
    assert np.array_equal(np.isfinite(source.expected_ic()), measured.notna().to_numpy())


def source_frame(source):
    reversal, level = parts(source)
    return reversal + level


def test_equal_values_standardise_to_zero_not_to_rounding_noise():
    assert np.array_equal(standardise(np.full(31, 0.0001)), np.zeros(31))


@pytest.mark.parametrize("strength", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("n", [8, 30, 60])
def test_expected_ic_of_equal_symbols_is_the_known_closed_form(strength, n):
    """Equal volatilities, no market: E[cos] of a normal vector with one shifted coordinate, by Kummer's function."""
    signal = np.random.default_rng(n).standard_normal((5, n))
    own = np.full(n, 0.007)
    got = expected_ic(signal, np.ones((5, n), bool), strength, np.zeros(n), own)
    shift = strength * np.linalg.norm(signal - signal.mean(axis=1, keepdims=True), axis=1)
    d = n - 1
    factor = np.exp(gammaln((d + 1) / 2) - gammaln(d / 2 + 1)) / np.sqrt(2)
    np.testing.assert_allclose(got, shift * factor * hyp1f1(0.5, d / 2 + 1, -(shift**2) / 2), rtol=1e-10)


@pytest.mark.parametrize("strength", [0.1, 0.7])
def test_expected_ic_of_unequal_symbols_equals_a_simulation(strength):
    """Fat tails, betas and unequal volatilities; half a million cross-sections drawn from the stated law."""
    draw = np.random.default_rng(11)
    n, samples = 31, 500_000
    loading, own = 0.005 * draw.uniform(0.3, 2.0, n), 0.006 * draw.uniform(0.3, 2.5, n)
    signal = draw.standard_normal(n)
    wanted = expected_ic(signal[None], np.ones((1, n), bool), strength, loading, own)[0]
    scale = strength * noise_scale(loading, own)
    total = []
    for _ in range(10):
        size = samples // 10
        volatility = np.sqrt(3 / draw.chisquare(5, size))[:, None]
        noise = loading * draw.standard_normal((size, 1)) + own * draw.standard_normal((size, n))
        returns = volatility * (noise + scale * signal)
        returns -= returns.mean(axis=1, keepdims=True)
        unit = (signal - signal.mean()) / np.linalg.norm(signal - signal.mean())
        total.append(returns @ unit / np.linalg.norm(returns, axis=1))
    ics = np.concatenate(total)
    error = ics.std() / np.sqrt(samples)
    assert abs(ics.mean() - wanted) < 3 * error
    assert error < 0.005 * max(wanted, 0.1)
    assert abs(ics.mean() - strength / np.sqrt(1 + strength**2)) > 3 * error  # the naive formula would not do


@VENUES
def test_tape_has_the_ic_that_the_theory_says(long_tapes, venue):
    source = long_tapes[venue, 0.1]
    signal = source_frame(source)
    expected = source.expected_ic()
    assert abs(gap_in_errors(source, signal, expected)) < 3
    assert gap_in_errors(source, signal, 0.0) > 10  # the measurement can tell it from nothing
    assert gap_in_errors(source, signal, 2 * expected) < -10  # and from twice as much
    assert source.theoretical_ic == pytest.approx(np.nanmean(expected), rel=1e-12)
    assert 0.05 < source.theoretical_ic < 0.1


@VENUES
def test_both_parts_of_the_signal_carry_it(long_tapes, venue):
    source = long_tapes[venue, 0.1]
    for part in parts(source):
        assert gap_in_errors(source, part, 0.0) > 5


@VENUES
def test_strength_zero_is_exactly_zero(long_tapes, venue):
    source = long_tapes[venue, 0.0]
    assert source.theoretical_ic == 0.0
    assert set(source.expected_ic()[np.isfinite(source.expected_ic())]) == {0.0}
    assert abs(gap_in_errors(source, source_frame(source), 0.0)) < 3


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("strength", [0.03, 0.1, 0.3])
def test_theory_over_three_years_and_seeds(seed, strength):
    source = tape(days=1095, minute_days=0, seed=seed, signal_strength=strength)
    assert abs(gap_in_errors(source, source_frame(source), source.expected_ic())) < 3
