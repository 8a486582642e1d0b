"""The orders behind target weights: distances, the average true range, size by risk, how long an entry rests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from qlib.backtest.decision import Order

from qlib_crypto.backtest.entries import Entries, average_true_range
from qlib_crypto.backtest.known import Targets
from qlib_crypto.backtest.notes import LIMIT
from qlib_crypto.backtest.qlib_orders import PerpOrder, order_rows
from qlib_crypto.errors import ConfigError


def prices(bars=40, names=2, seed=3):
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, (bars, names)), axis=0))
    opens = np.vstack([close[:1], close[:-1]])
    far = rng.random((2, bars, names)) * 0.02
    return np.stack([opens, np.maximum(opens, close) * (1 + far[0]), np.minimum(opens, close) * (1 - far[1]), close])


def targets(bars, names, *, every=3, weight=0.5):
    rebalance = np.arange(bars) % every == 0
    return Targets(np.where(rebalance[:, None], np.full((bars, names), weight), 0.0), rebalance, {})


def test_the_average_true_range_is_wilders_and_knows_nothing_of_its_bar():
    bars = prices()
    bars[:, 20, 0] = np.nan  # a missing bar
    known = average_true_range(bars, 5)
    for i in range(2):
        frame = pd.DataFrame(bars[:, :, i].T, columns=["open", "high", "low", "close"]).dropna()
        before = frame["close"].shift()
        spans = [frame["high"] - frame["low"], (frame["high"] - before).abs(), (frame["low"] - before).abs()]
        wide, average, expected = pd.concat(spans, axis=1).max(axis=1), np.nan, {}
        for count, (t, value) in enumerate(wide.items()):
            if count == 4:
                average = wide.iloc[:5].mean()
            elif count > 4:
                average = (average * 4 + value) / 5
            expected[t + 1] = average
        series = pd.Series(expected).reindex(range(40)).ffill()
        np.testing.assert_allclose(known[:, i], series.to_numpy(), rtol=1e-12)
    cut = average_true_range(bars[:, :21], 5)
    np.testing.assert_array_equal(cut, known[:21])


def test_distances_are_fractions_or_multiples_of_the_range():
    bars = prices()
    entries = Entries(entry={"limit": 0.001, "bars": 2}, stop_loss={"atr": 2}, take_profit=0.1, atr_bars=5)
    made, plan, until = entries.planned(bars, targets(40, 2))
    share = average_true_range(bars, 5)[1:] / bars[3, :-1]
    np.testing.assert_allclose(plan[2, 6:], 2 * share[5:], rtol=1e-12)
    assert (plan[0] == 0.001).all()
    assert (plan[1] == 0).all()
    assert (plan[3] == 0.1).all()
    assert (plan[4] == 0).all()
    # no position before the range is known
    assert (made.weights[:5] == 0).all()
    assert (made.weights[6::3] == 0.5).all()
    assert made.notes == {"average true range unknown: no position in some name": 2}
    assert until.tolist()[:7] == [1, 2, 2, 4, 5, 5, 7]


def test_an_entry_rests_until_the_next_rebalance():
    _, _, until = Entries(entry={"stop": 0.01}).planned(prices(7), targets(7, 2))
    assert until.tolist() == [2, 2, 2, 5, 5, 5, 6]


def test_a_weight_is_at_most_risk_over_distance():
    made, _, _ = Entries(stop_loss=0.05, trailing_stop=0.04, risk_per_trade=0.01).planned(prices(), targets(40, 2))
    np.testing.assert_allclose(made.weights[::3], 0.01 / 0.04)
    assert made.notes == {"weights above risk_per_trade over the stop's distance: cut": 14}
    short, _, _ = Entries(stop_loss=0.05, risk_per_trade=0.01).planned(prices(), targets(40, 2, weight=-0.1))
    np.testing.assert_allclose(short.weights[::3], -0.1)


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize(("kind", "far"), [("limit", -0.1), ("stop", 0.1)])
def test_what_is_risked_counts_from_the_entrys_price(side, kind, far):
    sized = Entries(entry={kind: 0.1}, stop_loss=0.05, risk_per_trade=0.01)
    made, _, _ = sized.planned(prices(), targets(40, 2, weight=float(side)))
    # a coin of the open costs `entry` and loses a twentieth of that
    entry = 1 + side * far
    np.testing.assert_allclose(np.abs(made.weights[::3]) * entry * 0.05, 0.01)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stoploss": 0.1}, r"orders\.stoploss is unknown"),
        ({"stop_loss": 1.5}, r"orders\.stop_loss 1\.5 must be a fraction of the price below 1"),
        ({"stop_loss": {"atr": 0}}, r"orders\.stop_loss\.atr 0 must be positive"),
        ({"stop_loss": {"bars": 2}}, r"orders\.stop_loss\.bars is unknown"),
        ({"entry": {"limit": 0.1, "stop": 0.1}}, r"orders\.entry needs one of limit and stop"),
        ({"entry": {"limit": 0.1, "bars": 0}}, r"orders\.entry\.bars 0 must be a whole number"),
        ({"entry": 0.1}, r"orders\.entry 0\.1 must be a mapping"),
        ({"risk_per_trade": 0.01}, r"orders\.risk_per_trade needs stop_loss or trailing_stop"),
        ({"risk_per_trade": 2, "stop_loss": 0.1}, r"orders\.risk_per_trade 2 must be a fraction of equity"),
        ([1], r"orders \[1\] must be a mapping"),
        ({"entry": {"limit": None}}, r"orders\.entry needs one of limit and stop"),
        ({"entry": {"limit": None, "stop": "1%"}}, r"orders\.entry\.stop '1%' must be a fraction"),
        ({"atr_bars": 5, "stop_loss": 0.1}, r"orders\.atr_bars is of no use without a distance"),
        ({1: 2, "x": 3}, r"orders\.1 is unknown"),
    ],
)
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        Entries.of(given)


NOON = pd.Timestamp("2025-01-01 12:00")


def asked(direction=PerpOrder.BUY, amount=1.0, **kwargs):
    return PerpOrder("BTC_USDT.OKX", amount, direction, NOON, NOON, **kwargs)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"amount": np.nan}, "amount nan must be base coins, 0 or more"),
        ({"amount": -1.0}, "amount -1.0 must be base coins, 0 or more"),
        ({"limit": "100"}, "limit '100' must be a price above 0"),
        ({"limit": True}, "limit True must be a price above 0"),
        ({"limit": 100.0, "stop_loss": 110.0}, "the order's price 100 must be above stop_loss 110 for who buys"),
        ({"stop": 100.0, "take_profit": 100.0}, "take_profit 100 must be above the order's price 100 for who buys"),
        ({"stop_loss": 90.0, "take_profit": 80.0}, "take_profit 80 must be above stop_loss 90 for who buys"),
        (
            {"direction": PerpOrder.SELL, "stop_loss": 90.0, "take_profit": 95.0},
            "take_profit 95 must be below stop_loss 90 for who sells",
        ),
        ({"until": NOON}, "until 2025-01-01 12:00:00 needs limit or stop"),
        ({"limit": 1.0, "until": "2025-01-01"}, "until '2025-01-01' must be a pandas.Timestamp without a zone"),
        ({"limit": 1.0, "until": NOON.tz_localize("UTC")}, "until .* must be a pandas.Timestamp without a zone"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(given, said):
    with pytest.raises(ConfigError, match=rf"PerpOrder of BTC_USDT\.OKX: {said}"):
        asked(**given)


def test_what_moves_a_stop_has_no_side():
    assert asked(amount=0.0, stop_loss=110.0, take_profit=90.0).stop_loss == 110.0


def test_the_orders_of_a_bar_are_checked_together():
    def bar_of(time):
        return (time - NOON) // pd.Timedelta("1h")

    plain = Order("BTC_USDT.OKX", 1.0, Order.BUY, NOON, NOON)
    assert order_rows([plain, plain], 0, bar_of).shape == (0, 6)
    other = PerpOrder("ETH_USDT.OKX", 1.0, Order.BUY, NOON, NOON, stop_loss=1.0)
    assert order_rows([plain, plain, other], 0, bar_of).shape == (3, 6)
    with pytest.raises(ConfigError, match=r"2 orders of BTC_USDT\.OKX in one bar with a PerpOrder among them"):
        order_rows([plain, asked(limit=1.0)], 0, bar_of)
    with pytest.raises(ConfigError, match="until 2025-01-01 11:00:00 is before its own bar"):
        order_rows([asked(limit=1.0, until=NOON - pd.Timedelta("1h"))], 0, bar_of)
    (row,) = order_rows([asked(limit=100.0, until=NOON + pd.Timedelta("3h"), stop_loss=90.0)], 0, bar_of)
    assert row.tolist() == [LIMIT, 100.0, 3, 90.0, 0, 0]


def test_an_order_with_a_price_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"PerpOrder of BTC_USDT\.OKX: limit 0 must be a price above 0"):
        PerpOrder("BTC_USDT.OKX", 1.0, PerpOrder.BUY, None, None, limit=0)
    with pytest.raises(ConfigError, match="has limit and stop; give one"):
        PerpOrder("BTC_USDT.OKX", 1.0, PerpOrder.BUY, None, None, limit=1.0, stop=2.0)
