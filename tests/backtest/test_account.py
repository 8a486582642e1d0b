from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.backtest.account import PerpAccount
from qlib_crypto.clock import HOUR_MS
from qlib_crypto.errors import DataError, GapError

BTC = "BTC_USDT.OKX"


def test_one_btc_short_at_one_basis_point_per_8h_earns_21_payments_in_a_week():
    account = PerpAccount(100_000.0)
    account.trade(BTC, -1.0, 50_000.0, 0.0005)
    for n in range(1, 22):
        payment = account.settle(BTC, n * 8 * HOUR_MS, 0.0001, 50_000.0, "venue")
        assert payment.amount == 5.0
    account.trade(BTC, 1.0, 50_000.0, 0.0005)
    assert account.holdings == {}
    assert account.equity == account.cash == pytest.approx(100_000 + 21 * 5 - 2 * 25, abs=1e-9)
    assert account.attribution == pytest.approx((0.0, 105.0, -50.0, 0.0), abs=1e-9)


def test_a_long_pays_a_positive_rate_and_earns_a_negative_one_at_the_settlement_price():
    account = PerpAccount(1_000.0)
    account.trade(BTC, 2.0, 100.0, 0.0)
    assert account.settle(BTC, 0, 0.001, 110.0, "venue").amount == pytest.approx(-0.22)
    assert account.settle(BTC, 0, -0.001, 110.0, "venue").amount == pytest.approx(0.22)
    assert account.equity == pytest.approx(1_000.0)


def test_a_sum_of_settlements_pays_the_sum_whatever_the_rates_cancel_to():
    account = PerpAccount(1_000.0)
    account.trade(BTC, -3.0, 100.0, 0.0)
    payment = account.settle(BTC, 0, 0.0, math.nan, "sum", cash_per_base=0.5)
    assert payment.amount == 1.5
    assert account.equity == 1_001.5


def test_what_a_fill_cost_more_than_the_market_asked_is_slippage():
    account = PerpAccount(1_000.0)
    fill = account.trade(BTC, 2.0, 101.0, 0.0, reference=100.0)
    assert fill.reference == 100.0
    assert account.attribution == pytest.approx((0.0, 0.0, 0.0, -2.0))
    account.mark({BTC: 110.0})
    fill = account.trade(BTC, -2.0, 107.0, 0.0, reference=108.0)
    assert fill.realised == pytest.approx(12.0)
    assert account.attribution == pytest.approx((16.0, 0.0, 0.0, -4.0))
    assert account.equity == account.cash == pytest.approx(1_012.0)


def test_crossing_zero_pays_the_fee_on_both_legs_and_starts_a_new_entry():
    account = PerpAccount(10_000.0)
    account.trade(BTC, 2.0, 100.0, 0.001)
    account.mark({BTC: 120.0})
    fill = account.trade(BTC, -5.0, 110.0, 0.001)
    assert fill.fee == pytest.approx(0.55)
    assert fill.realised == pytest.approx(20.0)
    assert account.holdings[BTC].quantity == -3.0
    assert account.holdings[BTC].entry == 110.0
    account.mark({BTC: 110.0})
    assert account.equity == pytest.approx(10_000 + 20 - 0.2 - 0.55)
    assert account.wallet == pytest.approx(account.equity)


def test_a_maker_rebate_is_income():
    account = PerpAccount(1_000.0)
    assert account.trade(BTC, 1.0, 100.0, -0.0001).fee == pytest.approx(-0.01)
    assert account.equity == pytest.approx(1_000.01)
    assert account.attribution.fee == pytest.approx(0.01)


def test_the_entry_averages_what_was_added_and_stays_when_reducing():
    account = PerpAccount(1_000.0)
    account.trade(BTC, -1.0, 100.0, 0.0)
    account.trade(BTC, -3.0, 120.0, 0.0)
    assert account.holdings[BTC].entry == pytest.approx(115.0)
    fill = account.trade(BTC, 2.0, 105.0, 0.0)
    assert fill.realised == pytest.approx(20.0)
    assert account.holdings[BTC].entry == pytest.approx(115.0)
    assert account.wallet == pytest.approx(1_020.0)


def test_a_missing_mark_keeps_the_last_one_and_is_counted():
    account = PerpAccount(1_000.0)
    account.trade(BTC, 1.0, 100.0, 0.0)
    account.mark({BTC: 90.0})
    account.mark({})
    account.mark({BTC: math.nan})
    assert account.equity == 990.0
    assert account.stale_marks == 2


def test_three_thirds_of_a_position_leave_nothing_behind():
    account = PerpAccount(1_000.0)
    account.trade(BTC, 0.3, 100.0, 0.0)
    for _ in range(3):
        account.trade(BTC, -0.1, 100.0, 0.0)
    assert account.holdings == {}
    assert account.equity == pytest.approx(1_000.0, abs=1e-12)


@pytest.mark.parametrize(
    ("quantity", "price", "fee_rate"), [(0.0, 1.0, 0.0), (math.nan, 1.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, math.inf)]
)
def test_an_impossible_trade_is_refused_and_changes_nothing(quantity, price, fee_rate):
    account = PerpAccount(1_000.0)
    with pytest.raises(DataError, match=BTC):
        account.trade(BTC, quantity, price, fee_rate)
    assert account == PerpAccount(1_000.0)


def test_unknown_funding_of_a_held_position_is_an_error_and_of_a_flat_one_nothing():
    account = PerpAccount(1_000.0)
    assert account.settle(BTC, 0, math.nan, 100.0, "venue") is None
    account.trade(BTC, 1.0, 100.0, 0.0)
    with pytest.raises(GapError, match=r"BTC_USDT.OKX is unknown at 1970-01-01 08:00:00.*missing_funding"):
        account.settle(BTC, 8 * HOUR_MS, 0.0001, math.nan, "venue")


price = st.floats(0.5, 2.0)
event = st.one_of(
    st.tuples(st.just("trade"), st.sampled_from("abc"), st.floats(-5, 5).filter(bool), price, st.floats(-1e-3, 1e-2)),
    st.tuples(st.just("settle"), st.sampled_from("abc"), st.floats(-0.01, 0.01), price, st.none()),
    st.tuples(st.just("mark"), st.sampled_from("abc"), price | st.just(math.nan), st.none(), st.none()),
)


@given(st.lists(event, max_size=60), st.sampled_from([1.0, 0.999, 1.01]))
def test_the_causes_sum_to_the_change_of_equity_at_every_step_and_exact_arithmetic_agrees(events, slipped):
    account = PerpAccount(100.0)
    cash, held, mark, scale = Fraction(100), {}, {}, 100.0
    for kind, name, a, b, c in events:
        if kind == "trade":
            account.trade(name, a, b, c, reference=b * slipped)
            cash -= Fraction(a) * Fraction(b) + abs(Fraction(a)) * Fraction(b) * Fraction(c)
            held[name] = held.get(name, Fraction(0)) + Fraction(a)
            if name not in account.holdings:
                assert abs(held.pop(name)) < Fraction(1, 10**10)
                mark.pop(name, None)
            mark.setdefault(name, Fraction(b * slipped)) if name in held else None
            scale += abs(a) * b
        elif kind == "settle":
            account.settle(name, 0, a, b, "venue")
            cash -= held.get(name, 0) * Fraction(a) * Fraction(b)
        else:
            account.mark({name: a})
            if name in held and not math.isnan(a):
                mark[name] = Fraction(a)
        truth = cash + sum(quantity * mark[name] for name, quantity in held.items())
        assert abs(account.equity - float(truth)) <= 1e-11 * scale
        assert abs(account.equity - 100.0 - math.fsum(account.attribution)) <= 1e-11 * scale
        assert all(holding.quantity for holding in account.holdings.values())


@given(st.lists(event, max_size=30), st.lists(event, max_size=10))
def test_a_copy_shares_nothing(first, second):
    def play(account, events):
        for kind, name, a, b, c in events:
            if kind == "trade":
                account.trade(name, a, b, c)
            elif kind == "settle":
                account.settle(name, 0, a, b, "venue")
            else:
                account.mark({name: a})

    account, plain = PerpAccount(100.0), PerpAccount(100.0)
    play(account, first)
    play(plain, first)
    play(account.copy(), second)
    assert account == plain


@given(st.lists(st.tuples(st.floats(-5, 5).filter(bool), price), min_size=1, max_size=30), price)
def test_wallet_is_what_was_realised_and_closing_realises_the_rest(trades, last):
    account = PerpAccount(100.0)
    realised = math.fsum(account.trade("a", quantity, at, 0.0).realised for quantity, at in trades)
    scale = 100 + sum(abs(quantity) * at for quantity, at in trades)
    assert abs(account.wallet - 100 - realised) <= 1e-10 * scale
    if account.quantity("a"):
        realised += account.trade("a", -account.quantity("a"), last, 0.0).realised
    assert abs(account.equity - 100 - realised) <= 1e-10 * scale
