"""Qlib's TopkDropout three times: in stock Qlib, in Qlib's loop on our account, and compiled."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import qlib
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from qlib.backtest import get_strategy_executor
from qlib.backtest.backtest import backtest_loop
from qlib.backtest.executor import SimulatorExecutor
from support_backtest import Market, assert_replayed, random_market, run

from qlib_crypto.errors import ConfigError

#: Everything that stock Qlib does not know, switched off.
OFF = {
    "margin_mode": "none", "max_gross_leverage": None, "missing_funding": "zero", "taker_fee": 0.001,
}  # fmt: skip


class Recorded(SimulatorExecutor):
    """Stock Qlib's executor, which notes what it executed."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.fills = []

    def _collect_data(self, trade_decision, level=0):
        results, info = super()._collect_data(trade_decision, level)
        self.fills += [
            (o.start_time, o.stock_id, o.deal_amount * (1 if o.direction else -1), price, cost)
            for o, _, cost, price in results
            if o.deal_amount
        ]
        return results, info


def dropout(signal, **kwargs) -> dict:
    return {
        "class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy.signal_strategy",
        "kwargs": {"signal": signal, "topk": 3, "n_drop": 1, **kwargs},
    }  # fmt: skip


def plain(seed: int, *, names=7, bars=80) -> Market:
    """A market without funding, ticks and lots; with gaps, a listing and a delisting that Qlib would hold for ever."""
    market = random_market(bars=bars, names=names, seed=seed)
    times = pd.date_range(market.times[0], market.times[-1] + market.step, freq="8h")
    for name in market.bars:
        market.settlements[name] = [(at, 0.0, 1.0) for at in times]
        market.bars[name] = market.bars[name].astype(np.float32).astype(np.float64)  # what Qlib stores, without ticks
    market.specs.clear()
    return market


def scores(market: Market, seed: int, *, gaps: float = 0.0) -> pd.DataFrame:
    """Random walks. Stock Qlib leaves it to Python's hashes which of two held names without a score it sells."""
    rng = np.random.default_rng(seed)
    times = market.times
    frames = [
        pd.DataFrame({"score": rng.normal(size=len(times)).cumsum(), "instrument": name}, times) for name in market.bars
    ]
    signal = pd.concat(frames).rename_axis("datetime").set_index("instrument", append=True).sort_index()
    return signal[rng.random(len(signal)) >= gaps]


def stock(market: Market, strategy: dict) -> tuple[pd.DataFrame, list]:
    """Stock Qlib's report and fills."""
    strategy, executor = get_strategy_executor(
        start_time=market.times[0], end_time=market.times[-1], strategy=strategy,
        executor={
            "class": "Recorded", "module_path": __name__,
            "kwargs": {"time_per_step": market.freq, "generate_portfolio_metrics": True},
        },
        benchmark=pd.Series(0.0, market.times), account=100_000.0,
        exchange_kwargs={
            "freq": market.freq, "codes": sorted(market.bars), "deal_price": "$open", "open_cost": 0.001,
            "close_cost": 0.001, "min_cost": 0.0, "trade_unit": None, "limit_threshold": None,
        },
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics, _ = backtest_loop(market.times[0], market.times[-1], strategy, executor)
    return metrics[market.freq][0], executor.fills


def opened(market: Market, folder) -> None:
    market.write(folder)
    qlib.init(
        provider_uri=str(folder), region="cn", trade_unit=None, limit_threshold=None, deal_price="open", kernels=1,
        logging_level=40, clear_mem_cache=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seed", "kwargs"),
    [
        (1, {}), (2, {"topk": 2, "n_drop": 2}), (3, {"hold_thresh": 4}), (4, {"topk": 5, "n_drop": 1}),
        (5, {"risk_degree": 0.5}), (6, {"topk": 9, "n_drop": 3}), (7, {"n_drop": 0}),
    ],
)  # fmt: skip
def test_agrees_with_stock_qlib_orders_included(tmp_path, seed, kwargs):
    market = plain(seed)
    opened(market, tmp_path)
    strategy = dropout(scores(market, seed), **kwargs)
    report, fills = stock(market, strategy)
    assert len(fills) > 8
    for engine in ("qlib", "array"):
        ours = run(market, strategy, engine=engine, **OFF)
        assert np.allclose(ours.steps["equity"], report["account"], rtol=1e-9)
        got = ours.fills[["datetime", "instrument", "quantity", "price", "fee"]]
        theirs = pd.DataFrame(fills, columns=got.columns)
        keys = ["datetime", "instrument"]
        pd.testing.assert_frame_equal(
            got.sort_values(keys, ignore_index=True), theirs.sort_values(keys, ignore_index=True), rtol=1e-9
        )
        assert_replayed(market, ours, fee_rate=0.001)


@settings(
    max_examples=20, deadline=None, phases=[Phase.generate], derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    seed=st.integers(0, 2**31), topk=st.integers(1, 8), n_drop=st.integers(0, 4), hold=st.integers(1, 5),
    mode=st.sampled_from(["none", "cross", "isolated"]), participation=st.sampled_from([None, 0.3]),
    policy=st.sampled_from(["zero", "untradable"]),
)  # fmt: skip
def test_compiled_is_what_qlibs_loop_does_on_the_same_account(
    tmp_path_factory, seed, topk, n_drop, hold, mode, participation, policy
):
    market = random_market(bars=40, names=6, seed=seed, settle_hours=4, wicks=0.2)
    opened(market, tmp_path_factory.mktemp("market"))
    strategy = dropout(scores(market, seed, gaps=0.1), topk=topk, n_drop=n_drop, hold_thresh=hold)
    terms = {"missing_funding": policy, "margin_mode": mode, "participation": participation, "slippage": 0.0003}
    one, two = (run(market, strategy, engine=engine, **terms) for engine in ("qlib", "array"))
    pd.testing.assert_frame_equal(one.fills, two.fills, rtol=1e-9, atol=1e-12)
    pd.testing.assert_frame_equal(one.steps, two.steps, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("kwargs", [{"only_tradable": True}, {"method_buy": "random"}, {"method_sell": "random"}])
def test_what_only_qlibs_loop_knows_is_refused_by_the_array_engine(tmp_path, kwargs):
    market = plain(1, bars=12)
    opened(market, tmp_path)
    with pytest.raises(ConfigError, match=rf"TopkDropoutStrategy with {next(iter(kwargs))}: .*write engine: qlib"):
        run(market, dropout(scores(market, 1), **kwargs), engine="array", **OFF)


@pytest.mark.parametrize("n_drop", [-2, -1, 0, 1, 9])
@pytest.mark.parametrize("first", [0, 7])
def test_the_score_before_the_span_counts_and_odd_numbers_of_drops_do_as_in_qlib(tmp_path, n_drop, first):
    market = plain(4)
    market.open(tmp_path)
    one, other = (
        run(market, dropout(scores(market, 5), n_drop=n_drop), engine=engine, start=market.times[first], **OFF)
        for engine in ("qlib", "array")
    )
    pd.testing.assert_frame_equal(one.fills, other.fills)
    assert (one.fills["datetime"].min() == market.times[first]) == (first > 0)


def test_what_only_qlib_would_rank_is_refused(tmp_path):
    market = plain(4)
    market.open(tmp_path)
    signal = scores(market, 5)
    fewer = sorted(market.bars)[1:]
    with pytest.raises(ConfigError, match="1 instruments that the exchange has not, such as "):
        run(market, dropout(signal), engine="array", **{**OFF, "codes": fewer})
    signal.iloc[3:5] = np.nan
    with pytest.raises(ConfigError, match="2 scores of the signal are NaN; drop them"):
        run(market, dropout(signal), engine="array", **OFF)
