"""An independent ledger replay agrees with the recorded equity at every step, on many markets."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from qlib.backtest import get_strategy_executor
from qlib.backtest.backtest import backtest_loop
from qlib.utils import init_instance_by_config
from support_backtest import Market, Scripted, assert_replayed, random_market, run, topk

from qlib_crypto.backtest.config import completed
from qlib_crypto.backtest.notes import CLOSED_DELISTED, COUNTED, PAID_AT_LAST_PRICE, WORDS
from qlib_crypto.backtest.qlib_targets import in_qlib
from qlib_crypto.backtest.run import run_backtest
from qlib_crypto.backtest.tables import positions_table, steps_table
from qlib_crypto.errors import ConfigError

PLAIN = {"missing_funding": "zero", "margin_mode": "none"}


def random_signal(market: Market, *, persistence: float = 0.0, seed: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frames = []
    for name, bars in market.bars.items():
        noise = pd.Series(rng.normal(size=len(bars)), bars.index)
        score = noise.ewm(alpha=1 - persistence, adjust=False).mean()
        frames.append(pd.DataFrame({"score": score, "instrument": name}))
    return pd.concat(frames).rename_axis("datetime").set_index("instrument", append=True).sort_index()


@pytest.mark.parametrize(
    ("freq", "settle_hours", "bars"), [("60min", 8, 150), ("60min", 1, 80), ("day", 8, 90), ("240min", 4, 90)]
)
@pytest.mark.parametrize("policy", ["zero", "untradable"])
def test_of_a_long_short_portfolio(tmp_path, freq, settle_hours, bars, policy):
    market = random_market(freq=freq, bars=bars, settle_hours=settle_hours, seed=bars)
    market.open(tmp_path)
    strategy = topk(random_signal(market), topk=2, gross_exposure=1.5, min_names=1)
    result = run(market, strategy, missing_funding=policy)
    assert len(result.fills) > 100
    assert len(result.funding) > 10
    assert_replayed(market, result)


def test_of_a_portfolio_that_holds_through_outage_and_delisting(tmp_path):
    market = random_market(bars=150, seed=5)
    market.open(tmp_path)
    strategy = topk(
        random_signal(market, persistence=0.98), topk=3, rebalance_every=12, drop_buffer=1, gross_exposure=2.0
    )
    result = run(market, strategy)
    assert (result.fills["note"] == WORDS[CLOSED_DELISTED]).sum() == 1
    assert result.assumptions["notes"]["bars held without a price"] > 10
    assert_replayed(market, result)


@pytest.mark.parametrize("seed", range(4))
def test_of_random_orders_that_cross_zero_and_meet_the_leverage_cap(tmp_path, seed):
    market = random_market(bars=120, names=4, seed=seed, settle_hours=4, unpriced=0.1)
    market.open(tmp_path)
    rng = np.random.default_rng(seed)
    script = {}
    for time in market.times:
        open_ = {name: bars.loc[time, "open"] for name, bars in market.bars.items() if time in bars.index}
        script[time] = {name: rng.normal() * 60_000 / price for name, price in open_.items() if rng.random() < 0.5}
    result = run(market, Scripted(script), missing_funding="zero", max_gross_leverage=2.5)
    assert result.fills["note"].str.startswith("scaled").any()
    crossed = result.positions.groupby("instrument")["quantity"].agg(lambda q: (np.sign(q).diff().abs() == 2).any())
    assert crossed.any()
    assert result.assumptions["notes"][COUNTED[PAID_AT_LAST_PRICE]] > 5
    assert_replayed(market, result)
    at_close = result.steps["gross"] / result.steps["equity"]
    assert at_close.max() < 2.5 * 1.2  # orders stop at the cap, prices may pass it


def test_of_hourly_execution_inside_four_hour_decisions(tmp_path):
    hours, four = random_market(bars=96, gaps=False), random_market(freq="240min", bars=24, gaps=False)
    four.settlements = hours.settlements  # a provider has them once
    hours.write(tmp_path)
    four.open(tmp_path)
    nested = {
        "class": "NestedExecutor", "module_path": "qlib.backtest.executor",
        "kwargs": {
            "time_per_step": "240min", "skip_empty_decision": False, "generate_portfolio_metrics": True,
            "inner_executor": {
                "class": "PerpExecutor", "module_path": "qlib_crypto.backtest.qlib_executor",
                "kwargs": {"time_per_step": "60min"},
            },
            "inner_strategy": {"class": "TWAPStrategy", "module_path": "qlib.contrib.strategy.rule_strategy"},
        },
    }  # fmt: skip
    config = {
        "executor": nested,
        "backtest": {
            "start_time": hours.times[0], "end_time": hours.times[-1],
            "exchange_kwargs": {"exchange": {"kwargs": {"codes": "okx_60min", **PLAIN}}},
        },
    }  # fmt: skip
    base = {name: 20_000 / bars["open"].iloc[0] for name, bars in hours.bars.items()}
    sides = {"BTC_USDT.OKX": 1, "ETH_USDT.OKX": -1}
    orders = {
        time: {name: (-1) ** i * side * base[name] for name, side in sides.items()}
        for i, time in enumerate(hours.times[::8])
    }
    result = run_backtest(config, Scripted(orders))
    assert len(result.steps) == 96
    assert result.fills["datetime"].dt.hour.nunique() > 4
    assert_replayed(hours, result)


def test_of_five_minute_execution_of_weights_of_four_hour_bars(tmp_path):
    fine = random_market(freq="5min", bars=576, names=5, gaps=False)
    how = {"open": "first", "high": "max", "low": "min", "close": "last"}
    ticks = {name: {"tick_size": spec["tick_size"]} for name, spec in fine.specs.items()}
    longer = {name: bars.resample("240min").agg(how) for name, bars in fine.bars.items()}
    four = Market("240min", longer, fine.settlements, ticks)
    fine.write(tmp_path)
    four.open(tmp_path)
    signal = random_signal(four, persistence=0.5)
    inner = {
        "inner_executor": {
            "class": "PerpExecutor", "module_path": "qlib_crypto.backtest.qlib_executor",
            "kwargs": {"time_per_step": "5min"},
        },
        "inner_strategy": {"class": "TWAPStrategy", "module_path": "qlib.contrib.strategy.rule_strategy"},
    }  # fmt: skip
    config = {
        "executor": {
            "class": "NestedExecutor", "module_path": "qlib.backtest.executor",
            "kwargs": {
                "time_per_step": "240min", "skip_empty_decision": False, "generate_portfolio_metrics": True, **inner,
            },
        },
        "backtest": {
            "start_time": fine.times[0], "end_time": fine.times[-1],
            "exchange_kwargs": {
                "exchange": {"kwargs": {"codes": "okx_5min", **PLAIN}}
            },
        },
    }  # fmt: skip
    result = run_backtest(config, topk(signal, topk=2))
    assert len(result.steps) == 576
    assert_replayed(fine, result)
    # what is held at the end of each four hours is what the bar's own target was, from the score of the bar before
    held = result.positions.set_index(["datetime", "instrument"])["quantity"]
    scores = signal.reset_index().pivot_table(index="datetime", columns="instrument", values=signal.columns[0])
    for before, start, end in zip(four.times[:-1], four.times[1:], four.times[2:], strict=False):
        ranked = scores.loc[before].sort_values()
        last = held.loc[end - pd.Timedelta("5min")]
        assert set(last.index[last < 0]) == set(ranked.index[:2]), start
        assert set(last.index[last > 0]) == set(ranked.index[-2:]), start
    with pytest.raises(ConfigError, match=r"strategy\.orders rest in the bars that are traded \(5min\)"):
        run_backtest(config, topk(signal, topk=2, orders={"stop_loss": 0.1}))


def tick_of(prices: np.ndarray) -> float:
    """The finest decimal step in the prices."""
    return 10.0 ** -next(k for k in range(12) if np.allclose(prices, np.round(prices, k), rtol=1e-12, atol=0))


def real_market(real_data: Path, symbols: list[str], start: str, end: str) -> Market:
    """Real OKX bars of one hour, with the real settlements priced at the trade."""
    funding = pd.read_parquet(real_data / "funding" / "okx_swap_funding.parquet")
    market = Market("60min", {})
    for symbol in symbols:
        (path,) = (real_data / "candles" / "okx_swap_1h").glob(f"{symbol}-USDT-SWAP*.parquet")
        bars = pd.read_parquet(path).set_index("timestamp").tz_localize(None)[["open", "close"]]
        bars = bars.loc[start:end]
        name = f"{symbol}_USDT.OKX"
        market.bars[name] = bars
        own = funding.loc[funding["symbol"].str.startswith(f"{symbol}-") | (funding["symbol"] == f"{symbol}_USDT")]
        settled = own.set_index(own["funding_time"].dt.tz_localize(None).dt.round("min"))["funding_rate"]
        market.settlements[name] = [
            (at, rate, bars.loc[at, "open"]) for at, rate in settled.items() if at in bars.index
        ]
        market.specs[name] = {"tick_size": tick_of(bars.to_numpy().ravel()), "spec_source": "derived"}
    return market


def test_of_real_bars_and_funding(tmp_path, real_data):
    market = real_market(real_data, ["BTC", "ETH", "SOL", "XRP", "DOGE"], "2025-02-01", "2025-02-15 23:00")
    assert all(len(settled) > 40 for settled in market.settlements.values())
    market.open(tmp_path)
    strategy = topk(random_signal(market, persistence=0.8), topk=2, rebalance_every=4)
    result = run(market, strategy)
    assert len(result.fills) > 100
    assert len(result.funding) > 100
    assert_replayed(market, result)


def test_of_the_real_outage_of_2022_12_18(tmp_path, real_data):
    market = real_market(real_data, ["BTC", "ETH"], "2022-12-17", "2022-12-19 23:00")
    outage = slice("2022-12-18 09:00", "2022-12-18 17:00")
    for name, bars in market.bars.items():
        assert (bars.loc[outage] == bars.loc[outage].iloc[0]).all(axis=None)  # the venue sends flat bars
        market.bars[name] = bars.drop(bars.loc[outage].index)
    market.open(tmp_path)
    orders = {
        "2022-12-18 08:00": {"BTC_USDT.OKX": 1.0, "ETH_USDT.OKX": -10.0},
        "2022-12-18 12:00": {"BTC_USDT.OKX": -1.0},
    }
    result = run(market, Scripted(orders), missing_funding="zero")
    assert len(result.fills) == 2
    assert (result.steps["equity"].loc[outage] == result.steps["equity"].loc["2022-12-18 09:00"]).all()
    assert result.assumptions["notes"]["bars held without a price"] == 18
    assert_replayed(market, result)


def test_is_the_same_when_run_again(tmp_path):
    market = random_market(bars=60)
    market.open(tmp_path)
    signal = random_signal(market)
    one, two = (run(market, topk(signal, topk=2), missing_funding="zero") for _ in range(2))
    pd.testing.assert_frame_equal(one.steps, two.steps)
    pd.testing.assert_frame_equal(one.fills, two.fills)


def test_qlib_sees_the_same_account(tmp_path):
    """Qlib's own report and history agree with ours: value plus cash is the equity, its cost our fees."""
    market = random_market(bars=60)
    market.open(tmp_path)
    executor, exchange, backtest = completed(
        {
            "executor": {"kwargs": {"time_per_step": "60min", "generate_portfolio_metrics": True}},
            "backtest": {
                "start_time": market.times[0], "end_time": market.times[-1],
                "exchange_kwargs": {"exchange": {"kwargs": {"codes": "okx", **PLAIN}}},
            },
        }
    )  # fmt: skip
    venue = init_instance_by_config(exchange)
    strategy, runner = get_strategy_executor(
        strategy=in_qlib(topk(random_signal(market), topk=2)), executor=executor,
        benchmark=pd.Series(0.0, market.times), exchange_kwargs={"exchange": venue}, **backtest,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        metrics, _ = backtest_loop(market.times[0], market.times[-1], strategy, runner)
    report, history = metrics["60min"]
    steps = steps_table(runner.engine)
    assert np.allclose(report["account"], steps["equity"], rtol=1e-12)
    assert np.allclose(report["cash"] + report["value"], steps["equity"], rtol=1e-12)
    assert np.allclose(report["total_cost"], -steps["fee"].cumsum(), rtol=1e-12)
    assert np.allclose(report["total_turnover"], steps["turnover"].cumsum(), rtol=1e-12)
    last = history[market.times[-1]]
    held = positions_table(runner.engine).groupby("datetime").get_group(market.times[-1]).set_index("instrument")
    assert last.get_stock_amount_dict() == held["quantity"].to_dict()
    assert history[market.times[5]].calculate_value() == steps["equity"].iloc[5]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(30))
def test_of_many_random_configurations(tmp_path, seed):
    rng = np.random.default_rng(1_000 + seed)
    freq = str(rng.choice(["60min", "240min", "day"]))
    market = random_market(
        freq=freq,
        bars=int(rng.integers(40, 250)),
        seed=seed,
        settle_hours=int(rng.choice([1, 4, 8])),
        unpriced=0.05,
    )
    market.open(tmp_path)
    strategy = topk(
        random_signal(market, persistence=float(rng.choice([0.0, 0.9])), seed=seed),
        topk=int(rng.integers(1, 4)),
        min_names=1,
        gross_exposure=float(rng.uniform(0.2, 4.0)),
        rebalance_every=int(rng.integers(1, 9)),
        drop_buffer=int(rng.integers(0, 3)),
    )
    fee = float(rng.choice([-0.0001, 0.0, 0.0005]))
    policy = str(rng.choice(["zero", "untradable"]))
    slippage = float(rng.choice([0.0, 0.0005, 0.01]))
    costs = {"liquidity": "maker", "maker_fee": fee, "taker_fee": 0.0007, "slippage": slippage}
    result = run(market, strategy, missing_funding=policy, **costs)
    assert len(result.fills) > 5
    assert (result.steps["slippage"].sum() < 0) == bool(slippage)
    assert_replayed(market, result, fee_rate=fee, forced_rate=0.0007, slippage=slippage)
