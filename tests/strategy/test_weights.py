"""What holds for every strategy that makes weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_strategy import LIMITS, market, permuted, strategies

from qlib_crypto.backtest.known import Strategy, truncated

NAMES = list(strategies())


@pytest.mark.parametrize("limits", [None, LIMITS], ids=["free", "limited"])
@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000), bars=st.integers(1, 30), cut=st.integers(0, 30))
@settings(max_examples=12)
def test_what_comes_later_changes_no_earlier_row(name, limits, seed, bars, cut):
    known, strategy = market(bars, 7, seed), strategies(limits)[name]
    whole, part = strategy.targets(known), strategy.targets(truncated(known, cut))
    assert np.array_equal(part.weights, whole.weights[:cut])
    assert np.array_equal(part.rebalance, whole.rebalance[:cut])


@pytest.mark.parametrize("name", NAMES)
def test_the_check_by_truncation_can_fail(name):
    """A market whose last row is told early is another one."""
    known, strategy = market(30, 7, gaps=0.0, untradable=0.0), strategies()[name]
    early = {field: np.roll(getattr(known, field), -9, axis=0) for field in ("signal", "funding_rate")}
    part = strategy.targets(truncated(replace(known, **early), 25))
    assert not np.array_equal(part.weights, strategy.targets(known).weights[:25])


@pytest.mark.parametrize("limits", [None, LIMITS], ids=["free", "limited"])
@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=8)
def test_the_order_of_columns_does_not_matter(name, limits, seed):
    known, strategy = market(25, 7, seed, levels=4), strategies(limits)[name]
    order = np.random.default_rng(seed).permutation(7)
    one, two = strategy.targets(known), strategy.targets(permuted(known, order))
    assert np.array_equal(one.rebalance, two.rebalance)
    # solvers stop at a tolerance, and from there on each row depends on the last
    assert two.weights == pytest.approx(one.weights[:, order], abs=2e-4 if name == "mean_variance" else 1e-9)
    assert one.notes == two.notes or name == "mean_variance"


@pytest.mark.parametrize("limits", [None, {"max_weight": 0.2}], ids=["free", "capped"])
@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=12)
def test_books_are_dollar_neutral_of_candidates_and_within_gross(name, limits, seed):
    known, strategy = market(40, 8, seed), strategies(limits)[name]
    got = strategy.targets(known)
    assert not got.weights[~got.rebalance].any()
    assert np.abs(got.weights.sum(axis=1)).max() < 1e-12
    assert not got.weights[~known.tradable].any()
    largest = {"volatility": strategies()["volatility"].max_gross}.get(name, 1.0)
    assert np.abs(got.weights).sum(axis=1).max() <= largest + 1e-12
    if limits:
        assert np.abs(got.weights).max() <= 0.2 + 1e-12


def test_the_random_markets_give_every_strategy_something_to_do():
    for name, strategy in strategies().items():
        got = strategy.targets(market(60, 8))
        assert np.abs(got.weights).sum(axis=1)[20:].max() > 0.5, name


@pytest.mark.parametrize("name", NAMES)
def test_without_anything_known_nothing_is_done(name):
    known = market(10, 4)
    nothing = {field: np.full((10, 4), np.nan) for field in ("signal", "close", "dollar_volume", "funding_rate")}
    got = strategies()[name].targets(replace(known, **nothing))
    assert not got.rebalance.any()
    assert not got.weights.any()
    assert sum(got.notes.values()) == 10
    assert all(note.removeprefix("base: ").split(":")[0] in ("no signal", "no funding known") for note in got.notes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1])
def test_a_market_of_one_name_or_none_has_no_book(name, n):
    got = strategies(LIMITS)[name].targets(market(30, n))
    assert got.weights.shape == (30, n)
    assert not got.weights.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_is_one_by_its_protocol(name):
    assert isinstance(strategies()[name], Strategy)


def test_a_matrix_of_another_shape_and_a_name_twice_are_refused():
    known = market(5, 3)
    with pytest.raises(ValueError, match=r"Known.close has shape \(5, 2\); it must be \(5, 3\)"):
        replace(known, close=known.close[:, :2])
    with pytest.raises(ValueError, match="a name twice"):
        replace(known, names=("A", "B", "A"))
