"""Finer bars inside a bar: what is loaded of them, and both engines on a strategy with orders."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support_backtest import Market, random_market, replay, run
from support_provider import write_provider

from qlib_crypto.backtest.assumptions import walked_whole
from qlib_crypto.backtest.known import Targets
from qlib_crypto.backtest.load import load
from qlib_crypto.backtest.qlib_targets import TargetStrategy
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Interval

ORDERS = {"entry": {"limit": 0.002, "bars": 2}, "stop_loss": 0.01, "take_profit": 0.012, "trailing_stop": 0.02}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A market of hours, and the quarters that its bars are made of; an hour of the first name has none.

    Of the next one the quarter with the lowest price is missing.
    """
    fine = random_market(freq="15min", bars=400, seed=5, settle_hours=4, wicks=0.005)
    how = {"open": "first", "high": "max", "low": "min", "close": "last"}
    hours = {name: bars.resample("60min").agg(how).dropna() for name, bars in fine.bars.items()}
    market = Market("60min", hours, fine.settlements, fine.specs)
    folder = tmp_path_factory.mktemp("inner")
    first = next(iter(fine.bars))
    gone = hours[first].index[50]
    torn = gone + pd.Timedelta("1h")
    lowest = fine.bars[first][torn : torn + pd.Timedelta("59min")]["low"].idxmin()
    dropped = fine.bars[first][gone : gone + pd.Timedelta("59min")].index.append(pd.DatetimeIndex([lowest]))
    fine.bars[first] = fine.bars[first].drop(dropped)
    market.write(folder)
    times = pd.date_range(market.times[0], market.times[-1] + pd.Timedelta("45min"), freq="15min")
    frames = {
        name: bars.reindex(times[times >= bars.index[0]]).assign(volume=1000.0, factor=1.0)
        for name, bars in fine.bars.items()
    }
    write_provider(folder, frames, "15min", settlements={name: market.settled(name) for name in market.bars})
    market.open(folder)
    write_provider(folder, frames, "15min", settlements={name: market.settled(name) for name in market.bars})
    alone = [
        bars["open"].resample("60min").count().reindex(market.bars[name].index[3 * (name == first) :]) <= 1
        for name, bars in fine.bars.items()
    ]
    return folder, market, first, gone, 1 + sum(int(own.sum()) for own in alone)


def test_each_bar_has_its_own(opened):
    folder, market, first, gone, lacking = opened
    span = tuple(int(t.value // 1_000_000) for t in (market.times[3], market.times[-1]))
    loaded = load(folder, Interval.parse("60min"), sorted(market.bars), span, rules={}, inner=Interval.parse("15min"))
    prices, inner = loaded.market.prices, loaded.market.inner
    by_bar = inner.reshape(4, len(loaded.opens_ms), 4, -1)
    there = np.isfinite(prices[0])
    np.testing.assert_array_equal(np.fmax.reduce(by_bar[1], axis=1)[there], prices[1][there])
    np.testing.assert_array_equal(np.fmin.reduce(by_bar[2], axis=1)[there], prices[2][there])
    row, column = loaded.row(int(gone.value // 1_000_000)), loaded.column[first]
    np.testing.assert_array_equal(by_bar[:, row : row + 2, 0, column], prices[:4, row : row + 2, column])
    assert np.isnan(by_bar[:, row : row + 2, 1:, column]).all()
    assert walked_whole(loaded) == lacking
    with pytest.raises(ConfigError, match="inner 60min does not fill a bar of 15min"):
        load(folder, Interval.parse("15min"), sorted(market.bars), span, rules={}, inner=Interval.parse("60min"))


def test_a_strategy_with_orders_looks_inside_on_both_engines(opened):
    _, market, *_ = opened
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame({"score": rng.normal(size=len(bars)), "instrument": name}, bars.index)
        for name, bars in market.bars.items()
    ]
    signal = pd.concat(frames).rename_axis("datetime").set_index("instrument", append=True).sort_index()
    config = {
        "class": "LongShortTopk", "module_path": "qlib_crypto.strategy.long_short",
        "kwargs": {"signal": signal, "topk": 2, "min_names": 1, "rebalance_every": 5, "orders": ORDERS},
    }  # fmt: skip
    one, two = (
        run(market, config, engine=engine, missing_funding="zero", margin_mode="cross") for engine in ("qlib", "array")
    )
    for table in ("steps", "fills", "funding", "positions"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(two, table), rtol=1e-9, atol=1e-9)
    assert one.assumptions["inside_a_bar"].startswith("in each of its 4 bars of 15min, what harms most")
    assert one.assumptions["walked_as_one"].endswith("finer ones are missing, or do not show their extremes")
    blind = run(market, config, engine="array", missing_funding="zero", margin_mode="cross", inner=None)
    assert blind.assumptions["inside_a_bar"].startswith("what harms most")
    assert (one.fills["order"] == "take profit").sum() > (blind.fills["order"] == "take profit").sum()
    same = run(market, config, engine="array", missing_funding="zero", margin_mode="cross", inner="15min")
    pd.testing.assert_frame_equal(same.fills, two.fills)


class LongOnce:
    """All in one name from the second bar on."""

    uses_signal = False

    def targets(self, known):
        return Targets(np.ones((known.bars, 1)), np.isin(np.arange(known.bars), (1, 10)), {})


@pytest.mark.parametrize("engine", ["qlib", "array"])
@pytest.mark.parametrize("terms", [{}, {"participation": 0.5}, {"margin_mode": "cross", "leverage": 10}])
def test_a_missing_bar_is_not_gone_through_where_finer_ones_of_it_are_there(tmp_path, engine, terms):
    """Five minutes are missing, so their hour is; in its 06:45 the price falls from 100 to 90."""
    name, times = "BTC_USDT.OKX", pd.date_range("2025-01-01", periods=12 * 24, freq="5min")
    closes = np.where(times < "2025-01-01 06:45", 100.0, 90.0)
    opens = np.concatenate([[100.0], closes[:-1]])
    ends = np.stack([opens, closes])
    fine = pd.DataFrame(
        {"open": opens, "high": ends.max(0), "low": ends.min(0), "close": closes, "volume": 1e6}, times
    )  # fmt: skip
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    gone = pd.Timestamp("2025-01-01 06:00")
    market = Market("60min", {name: fine.resample("60min").agg(how).drop(gone)})
    Market("5min", {name: fine.drop(gone + pd.Timedelta("15min"))}).write(tmp_path)
    market.open(tmp_path)
    strategy = TargetStrategy(strategy=LongOnce(), orders={"stop_loss": 0.05})
    result = run(market, strategy, engine=engine, missing_funding="zero", taker_fee=0.0, inner="5min", **terms)
    stopped = result.fills[result.fills["order"] == "stop loss"].iloc[0]
    assert (stopped["datetime"], stopped["price"]) == (gone + pd.Timedelta("1h"), 90.0)
    assert result.steps.loc[gone, "equity"] == 100_000.0
    assert len(result.steps) == 24
    assert (result.positions.loc[result.positions["datetime"] == gone, "mark"] == 100.0).all()
    truth = replay(market, result, account=100_000.0, fee_rate=0.0)
    assert np.allclose(result.steps["equity"], truth["equity"], rtol=1e-12)
    assert result.attribution()["total"].sum() == pytest.approx(result.steps["equity"].iloc[-1] - 100_000.0)
