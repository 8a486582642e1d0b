from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from support_strategy import Fixed, market

from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.beta import BetaNeutral
from qlib_crypto.strategy.rank import RankWeighted
from qlib_crypto.strategy.risk import Ewma, betas

RISK = {"half_life": 10, "min_returns": 5}


@given(seed=st.integers(0, 10_000), cap=st.none() | st.floats(0.05, 0.3))
@settings(max_examples=30)
def test_books_have_neither_market_nor_dollar_exposure_and_the_gross_of_the_base(seed, cap):
    known, base = market(40, 8, seed), RankWeighted(gross_exposure=1.4, rebalance_every=2)
    got = BetaNeutral(base=base, limits={"max_weight": cap} if cap else None, **RISK).targets(known)
    wanted, beta = base.targets(known), np.nan_to_num(betas(known, None, Ewma(10, 5)))
    assert np.array_equal(got.rebalance, wanted.rebalance)
    assert np.abs(got.weights.sum(axis=1)).max() < 1e-12
    assert np.abs((got.weights * beta).sum(axis=1)).max() < 1e-12
    gross, before = np.abs(got.weights).sum(axis=1), np.abs(wanted.weights).sum(axis=1)
    if cap:
        assert np.abs(got.weights).max() <= cap + 1e-12
        assert np.all(gross <= before + 1e-12)
    else:
        assert np.all((gross == 0) | np.isclose(gross, before))
        assert np.count_nonzero(gross) > 5


def test_the_weights_before_scaling_are_the_nearest_ones():
    known, wanted = market(40, 5, gaps=0.0), np.array([0.4, 0.1, 0.0, -0.3, -0.2])
    row = BetaNeutral(base=Fixed(*wanted), **RISK).targets(known).weights[-1]
    beta = betas(known, None, Ewma(10, 5))[-1]
    both = np.vstack([np.ones(5), beta])
    nearest = minimize(
        lambda w: ((w - wanted) ** 2).sum(), wanted, bounds=[(0, 0) if w == 0 else (-1, 1) for w in wanted],
        constraints={"type": "eq", "fun": lambda w: both @ w}, method="SLSQP", options={"ftol": 1e-14},
    ).x  # fmt: skip
    assert row / np.abs(row).sum() == pytest.approx(nearest / np.abs(nearest).sum(), abs=1e-6)


def test_the_market_may_be_an_instrument():
    known = market(60, 4, gaps=0.0)
    column = 2
    known.close[:, 0] = 100 * np.cumprod(np.r_[1, 1 + 2 * (known.close[1:, column] / known.close[:-1, column] - 1)])
    got = BetaNeutral(base=Fixed(0.2, 0.3, 0.0, -0.5), market=known.names[column], **RISK).targets(known)
    beta = betas(known, column, Ewma(10, 5))[-1]
    assert beta[[0, 2]] == pytest.approx([2, 1])
    assert got.weights[-1] @ beta == pytest.approx(0, abs=1e-12)
    with pytest.raises(ConfigError, match=r"market 'BTC_USDT\.OKX' is none of the instruments"):
        BetaNeutral(base=Fixed(0.0), market="BTC_USDT.OKX").targets(known)


def test_two_names_have_no_book_without_market_and_nothing_is_scaled_up_from_rounding():
    known = market(30, 2, gaps=0.0)
    got = BetaNeutral(base=Fixed(0.5, -0.5), **RISK).targets(known)
    assert not got.weights.any()
    assert got.notes == {
        "base: fixed": 1,
        "no beta yet: some name left out": 5,
        "no book without market beta: flat": 30,
    }
