"""Each strategy from one YAML configuration, in Qlib's loop and in the array engine: the same fills and curve."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support_backtest import assert_replayed, random_market, run

from qlib_crypto.errors import ConfigError

MODULES = {
    "LongShortTopk": ("long_short", {"topk": 2, "min_names": 1, "n_drop": 1, "rebalance_every": 3}),
    "RankWeighted": ("rank", {"gross_exposure": 1.5}),
    "FundingCarry": ("carry", {"topk": 2, "min_names": 1}),
    "MeanVariance": ("mean_variance", {"half_life": 10, "min_returns": 8, "rebalance_every": 10}),
    "VolatilityTargeted": (
        "volatility",
        {"base": {"class": "RankWeighted", "module_path": "qlib_crypto.strategy.rank"}, "target_volatility": 0.5},
    ),
    "BetaNeutral": ("beta", {"base": {"class": "RankWeighted", "module_path": "qlib_crypto.strategy.rank"}}),
}


ORDERS = {
    "limits": {"entry": {"limit": 0.002, "bars": 2}},
    "stops": {"entry": {"stop": {"atr": 0.2}}, "stop_loss": 0.02, "take_profit": {"atr": 2.0}, "atr_bars": 5},
    "trailing": {"trailing_stop": {"atr": 1.5}, "atr_bars": 5, "risk_per_trade": 0.005},
}


def configured(name, signal, **more):
    module, kwargs = MODULES[name]
    return {
        "class": name, "module_path": f"qlib_crypto.strategy.{module}", "kwargs": {"signal": signal, **kwargs, **more},
    }  # fmt: skip


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    market = random_market(bars=120, seed=2, settle_hours=4)
    market.open(tmp_path_factory.mktemp("market"))
    return market


@pytest.fixture(scope="module")
def signal(market):
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame({"score": rng.normal(size=len(bars)).cumsum(), "instrument": name}, bars.index)
        for name, bars in market.bars.items()
    ]
    return pd.concat(frames).rename_axis("datetime").set_index("instrument", append=True).sort_index()


@pytest.mark.parametrize("name", MODULES)
def test_runs_on_both_engines_alike(market, signal, name):
    one, two = (
        run(market, configured(name, signal), engine=engine, missing_funding="zero", start=market.times[5])
        for engine in ("qlib", "array")
    )
    assert len(one.fills) > 10
    assert one.assumptions["notes"] == two.assumptions["notes"]
    pd.testing.assert_frame_equal(one.steps, two.steps, rtol=1e-9, atol=1e-9)
    for table in ("fills", "funding", "positions"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(two, table), rtol=1e-9, atol=1e-12)
    assert_replayed(market, two)


@pytest.mark.parametrize("kind", ORDERS)
def test_orders_run_on_both_engines_alike(market, signal, kind):
    config = configured("LongShortTopk", signal, orders=ORDERS[kind])
    one, two = (
        run(market, config, engine=engine, missing_funding="zero", start=market.times[5])
        for engine in ("qlib", "array")
    )
    for table in ("steps", "fills", "funding", "positions"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(two, table), rtol=1e-9, atol=1e-9)
    seen = set(one.fills["order"])
    expected = {"limits": {"limit"}, "stops": {"stop", "stop loss", "take profit"}, "trailing": {"trailing stop"}}
    assert seen >= expected[kind]
    assert one.assumptions["notes"] == two.assumptions["notes"]
    assert_replayed(market, two, maker_rate=0.0002)


def test_orders_that_make_no_sense_are_refused(market, signal):
    with pytest.raises(ConfigError, match=r"strategy\.orders\.stop_loss -1 must be a fraction"):
        run(market, configured("RankWeighted", signal, orders={"stop_loss": -1}))


def test_an_engine_that_is_none_is_refused(market, signal):
    with pytest.raises(ConfigError, match="engine 'arrays' is unknown; choose one of: qlib, array"):
        run(market, configured("RankWeighted", signal), engine="arrays")
