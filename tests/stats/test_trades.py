"""Trades against cases by hand, a ledger of single units, and the account's own sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.stats.trades import Payments, account_trades, closed_trades, mean_holding_ms

HOUR = 3_600_000


def trades_of(rows, payments=None):
    """From rows of (hour, name, quantity, price, fee)."""
    hours, names, quantity, price, fee = zip(*rows, strict=True) if rows else ((),) * 5
    return closed_trades(HOUR * np.asarray(hours, dtype=np.int64), names, quantity, price, fee, payments)


def test_a_long_and_a_short():
    trades = trades_of([(0, "A", 2, 100, 1), (5, "A", -2, 110, 1.1), (6, "B", -1, 50, 0.5), (9, "B", 1, 60, 0.6)])
    assert trades.instrument.tolist() == ["A", "B"]
    assert trades.quantity.tolist() == [2, -1]
    assert trades.entry.tolist() == [100, 50]
    assert trades.exit.tolist() == [110, 60]
    np.testing.assert_allclose(trades.profit, [20 - 2.1, -10 - 1.1])
    assert (trades.closed_ms - trades.opened_ms).tolist() == [5 * HOUR, 3 * HOUR]
    assert mean_holding_ms(trades) == pytest.approx((5 * 200 + 3 * 50) / 250 * HOUR)
    assert trades.of(1).instrument.tolist() == ["A"]
    assert trades.of(-1).instrument.tolist() == ["B"]


def test_added_to_cut_and_turned():
    rows = [(0, "A", 1, 100, 1), (2, "A", 3, 120, 3), (4, "A", -2, 130, 2), (6, "A", -5, 90, 5), (7, "A", 3, 80, 3)]
    trades = trades_of(rows)
    assert trades.quantity.tolist() == [2, 2, -3]
    assert trades.entry.tolist() == [115, 115, 90]
    # half of the entries' fee 4 goes with each half; two fifths of the turning fill's 5 close, three open
    np.testing.assert_allclose(trades.profit, [30 - 2 - 2, -50 - 2 - 2, 30 - 3 - 3])
    np.testing.assert_allclose(trades.opened_ms, [1.5 * HOUR, 1.5 * HOUR, 6 * HOUR])


def test_what_is_still_held_is_no_trade():
    assert trades_of([(0, "A", 1, 100, 1)]).profit.size == 0
    assert trades_of([]).profit.size == 0
    assert math.isnan(mean_holding_ms(trades_of([])))


def test_rounding_is_no_position():
    trades = trades_of([(0, "A", 0.1, 10, 0), (1, "A", 0.2, 10, 0), (2, "A", -0.3, 11, 0), (3, "A", 1, 10, 0)])
    assert trades.quantity.tolist() == [pytest.approx(0.3)]
    again = trades_of([(0, "A", 0.3, 10, 0), (1, "A", -0.1, 10, 0), (2, "A", -0.2, 10, 0), (3, "A", -1, 9, 0)])
    assert again.quantity.size == 2


def test_funding_goes_to_the_position_that_paid_it():
    fills = [(0, "A", 2, 100, 0), (8, "A", -1, 100, 0), (16, "A", -1, 100, 0)]
    hours = HOUR * np.array([4, 8, 16])
    before = Payments(hours, ["A"] * 3, [2, 2, 1], [-4.0, -2.0, -1.0])
    np.testing.assert_allclose(trades_of(fills, before).profit, [-3.0, -4.0])
    after = Payments(hours, ["A"] * 3, [2, 1, 1], [-4.0, -2.0, -1.0])  # settled in the bar, after the fill at its open
    np.testing.assert_allclose(trades_of(fills, after).profit, [-2.0, -5.0])
    opening = Payments(hours[:1] * 0, ["A"], [2], [-4.0])
    np.testing.assert_allclose(trades_of(fills, opening).profit, [-2.0, -2.0])


def test_tables_of_an_account():
    fills = {"datetime": [0, 5], "instrument": ["A", "A"], "quantity": [1, -1], "price": [9, 10], "fee": [0, 0.5]}
    funding = {"time": [3], "instrument": ["A"], "quantity": [1], "amount": [-0.25]}
    assert account_trades(fills, funding).profit.tolist() == [0.25]
    nothing = {name: [] for name in (*fills, *funding)}
    assert account_trades(nothing, nothing).profit.size == 0


def test_times_may_be_numpy_times_and_missing_fills_do_nothing():
    times = np.array(["2025-01-01T00", "2025-01-01T03", "2025-01-01T04"], dtype="datetime64[ns]")
    trades = closed_trades(times, ["A"] * 3, [1.0, np.nan, -1.0], [10.0, 10.0, 12.0], [0.0] * 3)
    assert (trades.closed_ms - trades.opened_ms).tolist() == [4 * HOUR]
    assert trades.opened_ms[0] == 1_735_689_600_000


fill_lists = st.lists(
    st.tuples(st.sampled_from("AB"), st.integers(-5, 5).filter(bool), st.integers(1, 50), st.integers(0, 3)),
    max_size=40,
)


@given(fill_lists)
def test_profits_and_open_positions_make_the_cash(fills):
    """What came in and went out is what trades earned, plus what the open positions cost, whatever the order."""
    trades = trades_of([(hour, *fill) for hour, fill in enumerate(fills)])
    for name in "AB":
        own = [fill for fill in fills if fill[0] == name]
        cash = sum(-quantity * price - fee for _, quantity, price, fee in own)
        earned = float(trades.profit[trades.instrument == name].sum())
        held, cost, fees = 0, 0.0, 0.0  # by value instead of by price
        for _, quantity, price, fee in own:
            if held * quantity >= 0:
                held, cost, fees = held + quantity, cost + quantity * price, fees + fee
                continue
            closed = min(abs(quantity), abs(held))
            left = 1 - closed / abs(held)
            cost, fees = cost * left, fees * left
            beyond = quantity + math.copysign(closed, held)
            held = held - math.copysign(closed, held) + beyond
            cost, fees = cost + beyond * price, fees + fee * abs(beyond) / abs(quantity)
        assert earned == pytest.approx(cash + cost + fees, abs=1e-8)


@given(fill_lists)
def test_the_mirrored_account_earns_the_opposite_before_fees(fills):
    rows = [(hour, name, quantity, price, 0) for hour, (name, quantity, price, _) in enumerate(fills)]
    mirrored = [(hour, name, -quantity, price, 0) for hour, name, quantity, price, _ in rows]
    np.testing.assert_allclose(trades_of(mirrored).profit, -trades_of(rows).profit, atol=1e-9)


@given(fill_lists)
def test_names_do_not_touch_each_other(fills):
    rows = [(hour, *fill) for hour, fill in enumerate(fills)]
    alone = trades_of([row for row in rows if row[1] == "A"])
    together = trades_of(rows)
    np.testing.assert_allclose(together.profit[together.instrument == "A"], alone.profit)
