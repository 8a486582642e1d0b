"""Covariance and beta against plain loops over returns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_strategy import market, plain_covariance, plain_returns

from qlib_crypto.strategy.risk import Covariance, Ewma, betas


@given(seed=st.integers(0, 10_000), asked=st.sets(st.integers(0, 24), min_size=1), shrinkage=st.floats(0, 1))
@settings(max_examples=40)
def test_covariance_is_that_of_a_plain_loop_whenever_it_is_asked(seed, asked, shrinkage):
    known = market(25, 4, seed, gaps=0.3)
    moving = Covariance(known, Ewma(5, 3), shrinkage)
    for t in sorted(asked):
        got = moving.at(t)
        assert got == pytest.approx(plain_covariance(known, t, 5, shrinkage, 3), rel=1e-9, abs=1e-18, nan_ok=True)
        there = ~np.isnan(np.diag(got))
        if there.any():
            assert np.linalg.eigvalsh(got[np.ix_(there, there)]).min() > -1e-12


def test_a_price_that_never_moves_has_no_estimate():
    known = market(25, 3, gaps=0.0)
    known.close[:, 1] = 7.0
    assert np.isnan(Covariance(known, Ewma(5, 3), 0.0).at(24)[1]).all()
    assert np.isnan(betas(known, 1, Ewma(5, 3))).all()


@pytest.mark.parametrize("column", [None, 2])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_beta_is_that_of_a_plain_loop(column, seed):
    known = market(20, 4, seed, gaps=0.2)
    got = betas(known, column, Ewma(4, 3))
    for t in (0, 3, 11, 19):
        rows = plain_returns(known, t)
        for i in range(4):
            joint = spread = seen = 0
            for age, row in enumerate(reversed(rows)):
                there = [r for r in row if r is not None]
                moved = row[column] if column is not None else (sum(there) / len(there) if there else None)
                if row[i] is not None and moved is not None:
                    weight = 0.5 ** (age / 4)
                    joint, spread, seen = joint + weight * row[i] * moved, spread + weight * moved**2, seen + 1
            assert got[t, i] == pytest.approx(joint / spread if seen >= 3 else math.nan, nan_ok=True)


def test_beta_finds_the_exposure_that_returns_were_made_with():
    rng = np.random.default_rng(0)
    moves, beta = rng.normal(0, 0.02, 3000), np.array([1.0, 0.5, 1.8])
    returns = moves[:, None] * beta + rng.normal(0, 0.002, (3000, 3)) * [0, 1, 1]
    known = replace(market(3000, 3, gaps=0.0), close=100 * np.cumprod(1 + returns, axis=0))
    assert betas(known, 0, Ewma(500, 10))[-1] == pytest.approx(beta, abs=0.02)
