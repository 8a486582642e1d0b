"""The arithmetic of the account, against cases by hand and exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.backtest.account import (
    ALL,
    CASH,
    CAUSES,
    ENTRY,
    MARGIN,
    MARK,
    QUANTITY,
    equity,
    gross,
    mark_all,
    new_book,
    settle,
    trade,
)

BTC = 0


def mark_at(book, i, price):
    """One position at a new mark."""
    if book[i, QUANTITY]:
        prices = np.full(book.shape[0] - 1, np.nan)
        prices[i] = price
        held = np.flatnonzero(book[:-1, QUANTITY])
        worth, whole, without = mark_all(book, held, prices)
        assert worth == pytest.approx(equity(book), rel=1e-12, abs=1e-9)
        assert whole == pytest.approx(gross(book), rel=1e-12)
        assert without == len(held) - 1


def causes(book):
    """Price, funding, fee, slippage, liquidation of the whole account."""
    return [book[ALL, cause] for cause in CAUSES]


def wallet(book):
    return book[ALL, CASH] + (book[:-1, QUANTITY] * book[:-1, ENTRY]).sum()


def test_one_btc_short_at_one_basis_point_per_8h_earns_21_payments_in_a_week():
    book = new_book(100_000.0, 1)
    trade(book, BTC, -1.0, 50_000.0, 50_000.0, 0.0005, 0.0)
    for _ in range(21):
        assert settle(book, BTC, 0.0001 * 50_000.0) == 5.0
    trade(book, BTC, 1.0, 50_000.0, 50_000.0, 0.0005, 0.0)
    assert book[BTC, QUANTITY] == 0
    assert equity(book) == book[ALL, CASH] == pytest.approx(100_000 + 21 * 5 - 2 * 25, abs=1e-9)
    assert causes(book) == pytest.approx([0.0, 105.0, -50.0, 0.0, 0.0], abs=1e-9)


def test_a_long_pays_a_positive_rate_and_earns_a_negative_one_at_the_settlement_price():
    book = new_book(1_000.0, 1)
    trade(book, BTC, 2.0, 100.0, 100.0, 0.0, 0.0)
    assert settle(book, BTC, 0.001 * 110.0) == pytest.approx(-0.22)
    assert settle(book, BTC, -0.001 * 110.0) == pytest.approx(0.22)
    assert equity(book) == pytest.approx(1_000.0)


def test_what_a_fill_cost_more_than_the_market_asked_is_slippage():
    book = new_book(1_000.0, 1)
    trade(book, BTC, 2.0, 101.0, 100.0, 0.0, 0.0)
    assert causes(book) == pytest.approx([0.0, 0.0, 0.0, -2.0, 0.0])
    mark_at(book, BTC, 110.0)
    _, realised = trade(book, BTC, -2.0, 107.0, 108.0, 0.0, 0.0)
    assert realised == pytest.approx(12.0)
    assert causes(book) == pytest.approx([16.0, 0.0, 0.0, -4.0, 0.0])
    assert equity(book) == book[ALL, CASH] == pytest.approx(1_012.0)


def test_crossing_zero_pays_the_fee_on_both_legs_and_starts_a_new_entry():
    book = new_book(10_000.0, 1)
    trade(book, BTC, 2.0, 100.0, 100.0, 0.001, 0.0)
    mark_at(book, BTC, 120.0)
    fee, realised = trade(book, BTC, -5.0, 110.0, 110.0, 0.001, 0.0)
    assert fee == pytest.approx(0.55)
    assert realised == pytest.approx(20.0)
    assert (book[BTC, QUANTITY], book[BTC, ENTRY]) == (-3.0, 110.0)
    mark_at(book, BTC, 110.0)
    assert equity(book) == pytest.approx(10_000 + 20 - 0.2 - 0.55)
    assert wallet(book) == pytest.approx(equity(book))
    assert gross(book) == pytest.approx(330.0)


def test_a_maker_rebate_is_income():
    book = new_book(1_000.0, 1)
    fee, _ = trade(book, BTC, 1.0, 100.0, 100.0, -0.0001, 0.0)
    assert fee == pytest.approx(-0.01)
    assert equity(book) == pytest.approx(1_000.01)


def test_the_entry_averages_what_was_added_and_stays_when_reducing():
    book = new_book(1_000.0, 1)
    trade(book, BTC, -1.0, 100.0, 100.0, 0.0, 0.0)
    trade(book, BTC, -3.0, 120.0, 120.0, 0.0, 0.0)
    assert book[BTC, ENTRY] == pytest.approx(115.0)
    _, realised = trade(book, BTC, 2.0, 105.0, 105.0, 0.0, 0.0)
    assert realised == pytest.approx(20.0)
    assert book[BTC, ENTRY] == pytest.approx(115.0)
    assert wallet(book) == pytest.approx(1_020.0)


def test_three_thirds_of_a_position_leave_nothing_behind():
    book = new_book(1_000.0, 1)
    trade(book, BTC, 0.3, 100.0, 100.0, 0.0, 0.0)
    for _ in range(3):
        trade(book, BTC, -0.1, 100.0, 100.0, 0.0, 0.0)
    assert not book[QUANTITY : MARGIN + 1, BTC].any()
    assert equity(book) == pytest.approx(1_000.0, abs=1e-12)


def test_isolated_margin_is_set_aside_for_what_is_opened_and_released_in_proportion():
    book = new_book(1_000.0, 1)
    trade(book, BTC, 4.0, 100.0, 100.0, 0.0, 10.0)
    assert book[BTC, MARGIN] == pytest.approx(40.0)
    settle(book, BTC, 1.0)  # funding of a position changes its own margin
    assert book[BTC, MARGIN] == pytest.approx(36.0)
    trade(book, BTC, -1.0, 110.0, 110.0, 0.0, 10.0)
    assert book[BTC, MARGIN] == pytest.approx(27.0)
    trade(book, BTC, -5.0, 110.0, 110.0, 0.0, 10.0)  # crosses zero: 2 short are opened
    assert book[BTC, MARGIN] == pytest.approx(22.0)
    trade(book, BTC, 2.0, 110.0, 110.0, 0.0, 10.0)
    assert book[BTC, MARGIN] == 0.0


price = st.floats(0.5, 2.0)
quantity_of = st.floats(-5, 5).filter(lambda q: abs(q) > 1e-9)
event = st.one_of(
    st.tuples(st.just("trade"), st.integers(0, 2), st.floats(-5, 5).filter(bool), price, st.floats(-1e-3, 1e-2)),
    st.tuples(st.just("settle"), st.integers(0, 2), st.floats(-0.01, 0.01), price, st.none()),
    st.tuples(st.just("mark"), st.integers(0, 2), price, st.none(), st.none()),
)


@given(st.lists(event, max_size=60), st.sampled_from([1.0, 0.999, 1.01]), st.sampled_from([0.0, 5.0]))
def test_the_causes_sum_to_the_change_of_equity_at_every_step_and_exact_arithmetic_agrees(events, slipped, leverage):
    book = new_book(100.0, 3)
    cash, held, mark, scale = Fraction(100), {}, {}, 100.0
    for kind, i, a, b, c in events:
        if kind == "trade":
            trade(book, i, a, b, b * slipped, c, leverage)
            cash -= Fraction(a) * Fraction(b) + abs(Fraction(a)) * Fraction(b) * Fraction(c)
            held[i] = held.get(i, Fraction(0)) + Fraction(a)
            if not book[i, QUANTITY]:
                assert abs(held.pop(i)) < Fraction(1, 10**10)
                mark.pop(i, None)
            if i in held:
                mark.setdefault(i, Fraction(b * slipped))
            scale += abs(a) * b
        elif kind == "settle":
            settle(book, i, a * b)
            cash -= held.get(i, 0) * Fraction(a * b)
        elif i in held:
            mark_at(book, i, a)
            mark[i] = Fraction(a)
        truth = cash + sum(quantity * mark[i] for i, quantity in held.items())
        assert abs(equity(book) - float(truth)) <= 1e-11 * scale
        assert abs(equity(book) - 100.0 - math.fsum(causes(book))) <= 1e-11 * scale
        assert np.allclose(book[:-1, list(CAUSES)].sum(axis=0), causes(book), rtol=0, atol=1e-11 * scale)
        assert all(book[i, MARK] == float(value) for i, value in mark.items())


@given(st.lists(st.tuples(st.floats(-5, 5).filter(bool), price), min_size=1, max_size=30), price)
def test_wallet_is_what_was_realised_and_closing_realises_the_rest(trades, last):
    book = new_book(100.0, 1)
    realised = math.fsum(trade(book, 0, quantity, at, at, 0.0, 0.0)[1] for quantity, at in trades)
    scale = 100 + sum(abs(quantity) * at for quantity, at in trades)
    assert abs(wallet(book) - 100 - realised) <= 1e-10 * scale
    if book[0, QUANTITY]:
        realised += trade(book, 0, -book[0, QUANTITY], last, last, 0.0, 0.0)[1]
    assert abs(equity(book) - 100 - realised) <= 1e-10 * scale


@given(st.lists(st.tuples(quantity_of, price), min_size=1, max_size=30), st.floats(1.0, 50.0))
def test_isolated_margin_is_never_negative_and_gone_with_the_position(trades, leverage):
    book = new_book(100.0, 1)
    for quantity, at in trades:
        trade(book, 0, quantity, at, at, 0.0, leverage)
        assert book[0, MARGIN] >= 0.0
        assert bool(book[0, MARGIN]) == bool(book[0, QUANTITY])
