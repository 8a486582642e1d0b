"""Scenarios against sums written out name by name, and what must hold for any book."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from qlib_crypto.stats import stress as s

NAN = math.nan
BOOK = np.array([[60.0, -40.0, NAN], [10.0, -50.0, 20.0]])
EQUITY = np.array([100.0, 50.0])

books = arrays(np.float64, (3, 4), elements=st.floats(-1e5, 1e5, allow_subnormal=False))
moves = st.sampled_from([-0.3, -0.2, -0.1, 0.1, 0.2, 0.3])


def by_name(book, equity, move_of):
    """Name by name, step by step."""
    return [
        sum(value * move_of(i, value) for i, value in enumerate(row) if not math.isnan(value)) / capital
        for row, capital in zip(book, equity, strict=True)
    ]


def test_made_up_moves_by_hand():
    np.testing.assert_allclose(s.parallel_move(BOOK, EQUITY, -0.1), [-0.02, 0.04])
    np.testing.assert_allclose(s.all_against(BOOK, EQUITY, 0.1), [-0.1, -0.16])
    np.testing.assert_allclose(s.market_move(BOOK, EQUITY, -0.1, [1, 2, 0.5]), [0.02, (-1 + 10 - 1) / 50])
    np.testing.assert_allclose(s.funding_against(BOOK, EQUITY, 0.03, 3), [-0.09, -0.144])
    np.testing.assert_allclose(s.funding_against(BOOK, EQUITY, [0.01, -0.02, 0.03], 1), [-0.014, -1.7 / 50])


@given(books, moves)
def test_made_up_moves_agree_with_sums_by_name(book, move):
    equity, beta = np.array([1e5, 2e5, 5e4]), [1.0, 1.6, 0.4, 5.0]
    falls = by_name(book, equity, lambda _, __: move)
    np.testing.assert_allclose(s.parallel_move(book, equity, move), falls, atol=1e-12)
    against = by_name(book, equity, lambda _, value: -math.copysign(abs(move), value))
    np.testing.assert_allclose(s.all_against(book, equity, move), against, atol=1e-12)
    with_beta = by_name(book, equity, lambda i, _: max(beta[i] * move, -1.0))
    np.testing.assert_allclose(s.market_move(book, equity, move, beta), with_beta, atol=1e-12)


@given(books, moves)
def test_signs_and_sizes(book, move):
    equity = np.array([1e5, 2e5, 5e4])
    np.testing.assert_allclose(s.parallel_move(-book, equity, move), -s.parallel_move(book, equity, move), atol=1e-12)
    np.testing.assert_array_equal(s.all_against(-book, equity, move), s.all_against(book, equity, -move))
    assert (s.all_against(book, equity, move) <= -np.abs(s.parallel_move(book, equity, move)) + 1e-12).all()
    for scenario in (s.parallel_move, s.all_against):
        np.testing.assert_allclose(scenario(7 * book, 7 * equity, move), scenario(book, equity, move), rtol=1e-9)


def test_without_equity_there_is_no_fraction():
    out = s.parallel_move([[1.0], [1.0], [1.0]], [0.0, -5.0, NAN], -0.1)
    assert np.isnan(out).all()
    assert s.parallel_move([[500.0]], [100.0], -0.3).tolist() == [-1.5]  # more than everything


def test_a_price_falls_by_no_more_than_all_of_it():
    assert s.market_move([[100.0]], [100.0], -0.3, [5.0]).tolist() == [-1.0]
    assert s.market_move([[100.0]], [100.0], 0.3, [5.0]).tolist() == [1.5]
    with pytest.raises(ValueError, match="1 of 2 betas are missing"):
        s.market_move([[1.0, 1.0]], [100.0], 0.3, [1.0, NAN])


def test_stressed():
    assert s.stressed([-0.1, NAN, -0.3, -0.3, 0.2]) == (0.2, -0.3, 2)
    assert s.stressed([-0.1, NAN])[1:] == (-0.1, 0)
    assert s.stressed([NAN]).at is None
    assert s.stressed([]).at is None


def test_betas_agree_with_scipy():
    rng = np.random.default_rng(5)
    market = rng.normal(0, 0.01, 300)
    returns = market[:, None] * [0.5, 1.0, 2.0, 1.0] + rng.normal(0, 0.005, (300, 4))
    returns[:275, 3] = NAN
    returns[::7, 1] = NAN
    market[3] = NAN
    out = s.betas(returns, market)
    for i in range(3):
        both = np.isfinite(returns[:, i]) & np.isfinite(market)
        assert out[i] == pytest.approx(stats.linregress(market[both], returns[both, i]).slope, rel=1e-9)
    assert np.isnan(out[3])
    assert np.isfinite(s.betas(returns, market, min_steps=20)[3])
    assert np.isnan(s.betas(returns, np.zeros(300))).all()


def test_moves_over_a_day_compound():
    rng = np.random.default_rng(1)
    returns = rng.normal(0, 0.02, (30, 2))
    returns[10, 0] = NAN
    out = s.moves_over(returns, 4)
    expected = [[math.prod(1 + x for x in returns[t : t + 4, i]) - 1 for i in range(2)] for t in range(27)]
    np.testing.assert_allclose(out, expected)
    np.testing.assert_array_equal(s.moves_over(returns, 1), (1 + returns) - 1)
    assert s.moves_over(returns, 31).shape == (0, 2)


def test_large_moves():
    table = [[0.1, -0.1], [NAN, NAN], [0.5, NAN], [0.0, 0.01], [-0.2, -0.2]]
    assert s.large_moves(table, 2).tolist() == [2, 4]
    assert s.large_moves(table, 99).tolist() == [0, 2, 3, 4]


def test_replayed_by_hand():
    past = [[NAN, NAN, NAN], [0.1, -0.1, 0.0], [-0.2, -0.1, NAN], [NAN, 0.3, 0.1]]
    out = s.replayed(BOOK, EQUITY, past)
    # the first book fears the third move, -12 + 4; the second the last one: 10 x 0.2 (the others' mean) - 15 + 2
    np.testing.assert_allclose(out.change, [-0.08, -11 / 50])
    assert out.move.tolist() == [2, 3]


def test_replayed_without_a_move_or_an_equity():
    assert np.isnan(s.replayed(BOOK, EQUITY, np.full((2, 3), NAN)).change).all()
    assert s.replayed(BOOK, EQUITY, np.empty((0, 3))).move.tolist() == [-1, -1]
    assert s.replayed(BOOK, [0.0, 50.0], [[0.1, 0.1, 0.1]]).move.tolist() == [-1, 0]


def test_replayed_in_parts_is_replayed_at_once(monkeypatch):
    rng = np.random.default_rng(2)
    book, past = rng.normal(size=(57, 6)), rng.normal(size=(31, 6))
    whole = s.replayed(book, np.ones(57), past)
    expected = [min(float(row @ move) for move in past) for row in book]
    np.testing.assert_allclose(whole.change, expected)
    monkeypatch.setattr(s, "_CELLS", 100)
    np.testing.assert_array_equal(s.replayed(book, np.ones(57), past).move, whole.move)
