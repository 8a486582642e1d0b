"""The fit of the square-root coefficient: finds what was planted, and its errors are as large as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qlib_crypto.stats.impact import fit_impact, trailing_scale

NAN = math.nan


def market(coefficient, *, noise=0.5, bars=4000, names=8, seed=0, common=0.0):
    """Returns whose size has a part from volume and a part of its own; volatility and volume drift."""
    rng = np.random.default_rng(seed)
    shape = (bars, names)
    volatility = 0.01 * np.exp(0.3 * np.sin(np.arange(bars) / 200))[:, None] * np.ones(names)
    typical = 1e6 * np.exp(rng.normal(0, 1, names)) * np.ones(shape)
    volume = typical * np.exp(rng.normal(-0.18, 0.6, shape))
    side = rng.choice([-1.0, 1.0], shape)
    own = rng.standard_normal(shape) * math.sqrt(1 - common) + math.sqrt(common) * rng.standard_normal((bars, 1))
    returns = volatility * (coefficient * np.sqrt(volume / typical) * side + noise * own)
    return returns, volume, volatility, typical


@pytest.mark.parametrize("coefficient", [0.3, 0.8, 1.5])
def test_a_planted_coefficient_is_found(coefficient):
    fit = fit_impact(*market(coefficient))
    assert abs(fit.coefficient - coefficient) < 4 * fit.error
    assert fit.error < 0.05
    assert fit.rest == pytest.approx(0.25, abs=0.05)
    assert fit.bars == 32_000


def test_without_impact_the_slope_is_within_its_error_of_zero():
    fits = [fit_impact(*market(0.0, seed=seed, bars=800)) for seed in range(40)]
    inside = [abs(fit.slope) < 1.96 * fit.slope_error for fit in fits]
    assert sum(inside) >= 33
    assert all(math.isnan(fit.coefficient) == math.isnan(fit.error) == (fit.slope <= 0) for fit in fits)


@pytest.mark.parametrize("common", [0.0, 0.8])
def test_the_error_is_the_scatter_of_repeated_fits(common):
    fits = [fit_impact(*market(0.6, seed=seed, bars=600, common=common)) for seed in range(150)]
    scatter = np.std([fit.coefficient for fit in fits], ddof=1)
    assert np.mean([fit.error for fit in fits]) == pytest.approx(scatter, rel=0.25)
    assert np.mean([fit.coefficient for fit in fits]) == pytest.approx(0.6, abs=0.02)


def test_slope_agrees_with_plain_least_squares():
    returns, volume, volatility, typical = market(0.7, bars=300)
    fit = fit_impact(returns, volume, volatility, typical)
    design = np.column_stack([np.ones(returns.size), (volume / typical).ravel()])
    rest, slope = np.linalg.lstsq(design, (returns / volatility).ravel() ** 2)[0]
    assert (fit.rest, fit.slope) == (pytest.approx(rest), pytest.approx(slope))
    assert fit.coefficient == pytest.approx(math.sqrt(slope))
    assert fit.error == pytest.approx(fit.slope_error / (2 * math.sqrt(slope)))


def test_neither_the_coin_nor_the_sign_nor_the_volatilitys_level_matters():
    returns, volume, volatility, typical = market(0.7, bars=300)
    expected = fit_impact(returns, volume, volatility, typical)
    for changed in (
        (-returns, volume, volatility, typical),
        (returns, 7e3 * volume, volatility, 7e3 * typical),
        (10 * returns, volume, 10 * volatility, typical),
    ):
        np.testing.assert_allclose(fit_impact(*changed), expected, rtol=1e-9)


def test_bars_without_a_scale_do_not_count():
    returns, volume, volatility, typical = market(0.7, bars=300, names=1)
    holed = volume.copy()
    holed[5], holed[6] = NAN, -1.0
    scale = volatility.copy()
    scale[7] = 0.0
    assert fit_impact(returns, holed, scale, typical).bars == 297
    flat = fit_impact(returns[:, 0], volume[:, 0], volatility[:, 0], typical[:, 0])
    assert flat == fit_impact(returns, volume, volatility, typical)


def test_too_little_to_fit():
    returns, volume, volatility, typical = market(0.7, bars=300)
    for none in (
        fit_impact(returns[:2], volume[:2], volatility[:2], typical[:2], block_length=1),
        fit_impact(returns, typical, volatility, typical),
        fit_impact(returns * NAN, volume, volatility, typical),
    ):
        assert all(math.isnan(value) for value in none[:5])
    with pytest.raises(ValueError, match="block_length 0"):
        fit_impact(returns, volume, volatility, typical, block_length=0)
    with pytest.raises(ValueError, match="shapes"):
        fit_impact(returns, volume[:-1], volatility, typical)


def test_trailing_scales_know_only_what_came_before():
    values = np.random.default_rng(0).normal(size=(50, 2))
    values[20, 1] = NAN
    mean, root = trailing_scale(values, 5), trailing_scale(values, 5, root=True)
    for t in range(50):
        before = values[t - 5 : t] if t >= 5 else values[:5] * NAN
        np.testing.assert_allclose(mean[t], before.mean(axis=0))
        np.testing.assert_allclose(root[t], np.sqrt((before**2).mean(axis=0)))
    assert trailing_scale(values[:, 0], 5).shape == (50,)
    assert np.isnan(trailing_scale(values, 50)).all()


def test_with_trailing_scales_the_coefficient_is_found_too():
    returns, volume, _, _ = market(0.8, noise=0.6, bars=6000, names=4)  # a variance of one, so that scales agree
    fit = fit_impact(returns, volume, trailing_scale(returns, 200, root=True), trailing_scale(volume, 200))
    assert fit.coefficient == pytest.approx(0.8, abs=max(0.05, 4 * fit.error))
