"""How much worse than the market an order fills: the formula by hand, its fit, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from support_arrays import engine, loaded

from qlib_crypto.backtest.layout import FILL
from qlib_crypto.backtest.slippage import Slippage
from qlib_crypto.backtest.tables import fills_table
from qlib_crypto.errors import ConfigError, DataError

PRICE, REFERENCE, COLUMN = (FILL.index(name) for name in ("price", "reference", "column"))


def bars(count=60, *, seed=1, noise=0.01):
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, noise, count)))
    opens = np.concatenate([close[:1], close[:-1]])
    volume = rng.uniform(500, 1500, count)
    return np.column_stack([opens, np.maximum(opens, close), np.minimum(opens, close), close, volume])


def bought(market, t, quantity, slippage, names=1):
    account = engine([market] * names, slippage=slippage)
    for bar in range(t + 1):
        columns = np.arange(names if bar == t else 0)
        account.step(bar, columns, np.full(len(columns), quantity))
    return account.fills[:, PRICE] / account.fills[:, REFERENCE] - 1


def test_half_the_spread_and_the_root_of_the_order():
    market = bars()
    close, volume = market[:, 3], market[:, 4]
    returns = close[1:] / close[:-1] - 1
    t, window = 50, 24
    volatility = np.sqrt(np.mean(returns[t - 1 - window : t - 1] ** 2))
    traded = np.mean((close * volume)[t - window : t])
    for quantity in (3.0, -40.0):
        expected = 0.0001 + 0.0006 / 2 + 0.9 * volatility * np.sqrt(abs(quantity) * market[t, 0] / traded)
        slip = bought(market, t, quantity, {"fixed": 0.0001, "spread": 0.0006, "impact": 0.9})
        assert slip == pytest.approx([np.sign(quantity) * expected], rel=1e-9)


def test_spreads_by_name():
    slip = bought(bars(), 5, 1.0, {"spread": {"A1_USDT.OKX": 0.002, "default": 0.0}}, names=2)
    assert slip == pytest.approx([0.0, 0.001])


def test_an_unknown_impact_is_none_and_counted():
    market = bars(30)
    rows, unknown = Slippage(impact=1.0, bars=20).rows(loaded([market]))
    # half the window of returns, of which the first bar has none
    assert unknown == 11
    assert (rows[:11, 1] == 0).all()
    assert (rows[11:, 1] > 0).all()


def test_after_a_gap_the_market_of_a_fill_is_unknown_again():
    market = bars(120)
    market[40:90] = np.nan
    account = engine([market])
    for t in range(120):
        account.step(t, np.arange(1 if t in (35, 91, 110) else 0), np.ones(1 if t in (35, 91, 110) else 0))
    fills = fills_table(account)
    assert fills["market_volatility"].isna().tolist() == [False, True, False]
    assert fills["market_volume"].isna().tolist() == [False, True, False]
    close, volume = market[:, 3], market[:, 4]
    assert fills["market_volume"].iloc[-1] == pytest.approx(np.nanmean((close * volume)[86:110]))


def test_the_coefficient_is_fitted_to_the_bars():
    rng = np.random.default_rng(0)
    volume = rng.lognormal(0, 1, (4, 4_000)) * 1000
    moves = 0.01 * np.sqrt(volume / volume.mean(axis=1, keepdims=True)) * rng.choice([-1, 1], volume.shape)
    markets = []
    for move, traded in zip(moves, volume, strict=True):
        close = 100 * np.cumprod(1 + move)
        opens = np.concatenate([[100.0], close[:-1]])
        ends = np.stack([opens, close])
        markets.append(np.column_stack([opens, ends.max(0), ends.min(0), close, traded / close]))
    fitted = Slippage(impact="fitted").resolved(loaded(markets))
    assert fitted.impact == pytest.approx(1.0, abs=0.15)
    assert "x volatility x sqrt(order / volume)" in fitted.told()
    with pytest.raises(DataError, match="cannot be fitted to"):
        Slippage(impact="fitted").resolved(loaded([bars(60)]))


def test_a_spread_that_is_not_given_is_no_spread_of_nothing():
    market = loaded([bars(30), bars(30)])
    with pytest.raises(
        ConfigError, match=r"nothing of 1 of 2 instruments \(A1_USDT\.OKX …\), only of A0_USDT\.OKX; add"
    ):
        Slippage(spread={"A0_USDT.OKX": 0.001}).rows(market)
    rows, _ = Slippage(spread={"A0_USDT.OKX": 0.001, "default": 0.002, "other": 0.1e-3}).rows(market)
    assert rows.tolist() == [[[0.0005, 0.001], [0.0, 0.0]]]
    assert Slippage(fixed=0.0001, spread={"default": 0.002}).told() == "0.0100% and half the spread of each instrument"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"impact": -1}, r"slippage\.impact -1 must be a coefficient from 0 to 10"),
        ({"impact": "fit"}, r"slippage\.impact 'fit' must be a coefficient"),
        ({"spread": {"BTC_USDT.OKX": 0.5}}, r"slippage\.spread\.BTC_USDT\.OKX 0\.5 is no fraction"),
        ({"slip": 1}, r"slippage\.slip is unknown"),
        ({"bars": 3}, r"slippage\.bars 3 must be a whole number of at least 20"),
        (0.5, r"slippage 0\.5 is no fraction of the price up to 2 %"),
        ({"bars": 30, "spread": 0.001}, r"slippage\.bars is the window of impact, which is none"),
    ],
)
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        Slippage.of(given)
