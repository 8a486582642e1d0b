from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
import qlib
from support_backtest import POSITION, Market, Scripted, random_market, run, topk

from qlib_crypto.backtest.config import completed
from qlib_crypto.backtest.dropout import Dropout
from qlib_crypto.backtest.engine import Engine
from qlib_crypto.backtest.known import Targets
from qlib_crypto.backtest.qlib_exchange import PerpExchange
from qlib_crypto.backtest.qlib_executor import PerpExecutor
from qlib_crypto.backtest.qlib_position import PerpPosition
from qlib_crypto.backtest.qlib_targets import in_qlib
from qlib_crypto.backtest.run import run_backtest
from qlib_crypto.errors import ConfigError, DataError, SchemaError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_market(bars=60, gaps=False).write(tmp_path_factory.mktemp("provider"))


@pytest.fixture
def market(folder) -> Market:
    market = random_market(bars=60, gaps=False)
    qlib.init(
        provider_uri=str(folder), region="cn", trade_unit=None, limit_threshold=None, deal_price="open", kernels=1,
        logging_level=40,
    )  # fmt: skip
    return market


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({}, r"trade_unit is 100, a stock default of region cn; write trade_unit: null"),
        ({"trade_unit": None}, r"limit_threshold is 0\.095"),
        ({"trade_unit": None, "limit_threshold": None}, r"deal_price is 'close'.*write open"),
    ],
)
def test_the_bare_region_defaults_are_refused(market, folder, defaults, message):
    qlib.init(provider_uri=str(folder), region="cn", kernels=1, logging_level=40, **defaults)
    with pytest.raises(ConfigError, match=message):
        run(market, Scripted({}))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"deal_price": "close"}, "deal_price is 'close'"),
        ({"min_cost": 5}, r"exchange.min_cost is unknown"),
        ({"levrage": 5}, r"exchange.levrage is unknown; did you mean leverage\?"),
        ({"freq": "15min"}, "freq '15min' is not stored in .* \\(stored: 60min\\)"),
        ({"freq": "7min"}, "interval '7min' is unknown"),
        ({"missing_funding": "ignore"}, "missing_funding 'ignore' is unknown; choose one of: error, untradable, zero"),
        ({"liquidity": "best"}, "liquidity 'best'"),
        ({"participation": 0}, "exchange.participation 0 must be a fraction above 0"),
        ({"leverage": None}, "exchange.leverage None must be notional over initial margin"),
        ({"fees": 3}, "exchange.fees 3 must be a preset"),
        ({"fees": [{"since": "x", "maker": 0, "taker": 0}]}, r"exchange.fees\[0\].since: time 'x'"),
        ({"max_gross_leverage": 0}, "max_gross_leverage 0 must be a positive"),
        ({"max_gross_leverage": "3"}, "max_gross_leverage '3' must be a positive"),
        ({"taker_fee": 5}, "taker_fee 5 is no fraction"),
        ({"taker_fee": -0.0001}, "exchange.taker_fee -0.0001 is negative"),
        ({"fees": "okx_vip99"}, "exchange.fees 'okx_vip99' is unknown; choose one of: simple, okx_vip0"),
        ({"fees": "okx_vip0", "taker_fee": 0.0005}, "taker_fee and exchange.fees both say"),
        ({"fees": [{"since": "2025-01-01", "maker": 0.02, "taker": 5}]}, r"fees\[0\].taker 5 is no fraction"),
        ({"slippage": -0.0001}, "exchange.slippage -0.0001 is no fraction"),
        ({"slippage": 5}, "exchange.slippage 5 is no fraction of the price up to 2 %"),
        ({"codes": 5}, "codes 5 must be"),
        ({"start_time": "2025-01-01 05:00"}, "do not cover the backtest's 2025-01-01 00:00:00"),
        ({"codes": "nasdaq"}, "codes 'nasdaq' is no market"),
        ({"codes": []}, "has no instrument"),
        ({"specs": "nowhere.json"}, "specs 'nowhere.json' does not exist as a file"),
    ],
)
def test_an_exchange_that_cannot_be_right_is_refused(market, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        run(market, Scripted({}), **kwargs)


def test_an_instrument_that_the_provider_does_not_have_is_named(market):
    with pytest.raises(ConfigError, match=r"codes NOPE_USDT\.OKX are not in the provider"):
        run(market, Scripted({}), codes=["NOPE_USDT.OKX", "BTC_USDT.OKX"])


def test_a_span_without_any_bar_is_refused(market):
    with pytest.raises(DataError, match="no 60min bars of 8 instruments"):
        run(market, Scripted({}), start="2025-02-01", end="2025-02-02 12:00")


def test_an_exchange_of_another_frequency_than_the_step_is_refused(market, folder):
    both = random_market(bars=3, freq="day", gaps=False)
    both.write(folder)
    with pytest.raises(ConfigError, match="exchange freq day is not the executor's 60min"):
        run(market, Scripted({}), freq="day")


def test_a_span_beyond_the_data_is_refused_with_the_last_bar(market):
    with pytest.raises(ConfigError, match="is after the last stored 60min bar 2025-01-03 11:00:00"):
        run(market, Scripted({}), end=market.times[-1] + pd.Timedelta("3h"))


def test_the_last_bar_can_be_a_step(market):
    assert run(market, Scripted({})).steps.index[-1] == market.times[-1]


def test_without_a_future_calendar_the_last_bar_is_refused(market, folder):
    future = folder / "calendars" / "60min_future.txt"
    content = future.read_text()
    future.write_text((folder / "calendars" / "60min.txt").read_text())
    try:
        with pytest.raises(ConfigError, match=r"60min_future\.txt holds no bar after"):
            run(market, Scripted({}))
    finally:
        future.write_text(content)


def signal_of(market: Market) -> pd.DataFrame:
    """A score of each name at each bar."""
    index = pd.MultiIndex.from_product([market.times, sorted(market.bars)], names=["datetime", "instrument"])
    return pd.DataFrame({"score": np.random.default_rng(0).normal(size=len(index))}, index)


STOCK = {"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy.signal_strategy"}
BACKTEST = {"start_time": "2025-01-01", "end_time": "2025-01-03 23:00"}
STEP = {"kwargs": {"time_per_step": "60min"}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"executor": STEP, "backtest": {**BACKTEST, "benchmark": None}}, "benchmark None: leave it out"),
        ({"executor": STEP, "backtest": {**BACKTEST, "benchmark": "BTC_USDT.OKX"}}, "leave it out"),
        ({"executor": STEP, "backtest": {**BACKTEST, "cash": 1}}, r"backtest.cash is unknown; known: account, end"),
        (
            {"executor": STEP, "backtest": {**BACKTEST, "acount": 1}},
            r"backtest.acount is unknown; did you mean account",
        ),
        ({"executor": STEP, "backtest": {**BACKTEST, "exchange_kwargs": {"min_cost": 0}}}, "kwargs.min_cost would be"),
        ({"executor": STEP, "backtest": {"start_time": "2025-01-01"}}, "needs start_time and end_time"),
        ({"executor": {}, "backtest": BACKTEST}, "needs time_per_step"),
        ({"executor": STEP, "backtest": {**BACKTEST, "end_time": "2025-01-03"}}, "2025-01-03 means 00:00 and cuts"),
        ({"executor": STEP, "backtest": {**BACKTEST, "end_time": date(2025, 1, 3)}}, "2025-01-03 means 00:00 and cuts"),
        ({"executor": STEP, "backtest": {**BACKTEST, "account": "1e5"}}, "account '1e5' must be a number"),
        ({"executor": STEP, "backtest": {**BACKTEST, "account": 0}}, "account 0 must be a number above 0"),
        ({"executor": STEP, "backtest": {**BACKTEST, "account": True}}, "account True must be a number"),
        ({"executor": STEP, "backtest": {**BACKTEST, "start_time": "2025-02-01"}}, "is before start_time"),
        ({"executor": "PerpExecutor", "backtest": BACKTEST}, "PerpExecutor: write class"),
        ("w.yaml", "config 'w.yaml' must be a mapping"),
        ({"executor": {**STEP, "orders": 1}, "backtest": BACKTEST}, "PerpExecutor.orders is unknown"),
        ({"executor": {"kwargs": {"time_per_stp": 1}}, "backtest": BACKTEST}, "time_per_step, .*; it has time_per_stp"),
        (
            {"executor": {"kwargs": {**STEP["kwargs"], "inner_executor": {}}}, "backtest": BACKTEST},
            "inner_executor needs",
        ),
        ({"executor": STEP, "backtest": {**BACKTEST, "start_time": pd.NaT}}, "needs start_time and end_time"),
        (
            {"executor": STEP, "backtest": {**BACKTEST, "exchange_kwargs": {"exchange": {"leverage": 2}}}},
            "PerpExchange.leverage is unknown; known: class, kwargs",
        ),
        (
            {"executor": STEP, "backtest": {**BACKTEST, "exchange_kwargs": {"exchange": {"kwargs": {1: 2}}}}},
            "PerpExchange.kwargs has a key 1; write keys as text",
        ),
    ],
)
def test_a_configuration_that_qlib_would_misread_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        completed(config)


def test_what_is_said_once_is_put_where_qlib_wants_it():
    executor, exchange, backtest = completed({"executor": STEP, "backtest": BACKTEST})
    assert (executor["class"], executor["module_path"]) == ("PerpExecutor", "qlib_crypto.backtest.qlib_executor")
    span = {key: pd.Timestamp(time) for key, time in BACKTEST.items()}
    assert exchange["kwargs"] == {"freq": "60min", **span}
    assert backtest == {"account": 100_000, "pos_type": POSITION, **span}
    own = {"exchange": {"class": "Mine", "module_path": "my", "kwargs": {"freq": "15min"}}}
    _, exchange, _ = completed({"executor": STEP, "backtest": {**BACKTEST, "exchange_kwargs": own}})
    assert (exchange["class"], exchange["kwargs"]["freq"]) == ("Mine", "15min")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"strategy": {**topk(None), "orders": {}}}, r"strategy\.orders is unknown; known: class, kwargs, module_path"),
        ({"strategy": {"class": "LongShortTopk"}}, r"strategy\.module_path is missing; write the module of class Long"),
        (
            {"strategy": {**topk(None), "class": "LongShortTopK"}},
            "LongShortTopK' is not in .*; did you mean Long",
        ),
        ({"strategy": {**topk(None), "kwargs": None}}, r"strategy\.kwargs\.signal is missing; write <PRED>"),
        (
            {"strategy": {**STOCK, "kwargs": {"signal": None, "topk": 1, "n_drop": 1, "n_dropp": 1}}},
            "strategy: .* unexpected keyword .* 'n_dropp'",
        ),
        ({"executor": {**STEP, "class": "PerpExecuter"}}, r"executor\.class 'PerpExecuter' is not in .*PerpExecutor\?"),
        ({"backtest": {**BACKTEST, "pos_type": "Positon"}}, r"pos_type\.class 'Positon' .* did you mean Position"),
    ],
)
def test_a_class_that_is_not_there_is_named(market, config, message):
    exchange = {"exchange_kwargs": {"exchange": {"kwargs": {"codes": "okx_60min"}}}}
    given = {"executor": STEP, "backtest": BACKTEST, **config}
    given["backtest"] = {**given["backtest"], **exchange}
    with pytest.raises(ConfigError, match=message):
        run_backtest(given, given.get("strategy", Scripted({})))


def test_an_engine_refuses_what_compiled_code_would_read_beyond(market):
    exchange = PerpExchange("60min", market.times[0], market.times[-1], missing_funding="zero")
    bars, n = exchange.loaded.has_bar.shape

    def ran(weights, rebalance, **span):
        engine = Engine(exchange.loaded, exchange.terms, 100_000.0)
        engine.run(weights, rebalance, **span)
        return engine

    right, always = np.full((bars, n), 0.01), np.ones(bars, np.bool_)
    for weights, rebalance, message in (
        (right[:3], always, r"weights must be a numpy array of shape \(60, 8\), bars first, not of shape \(3, 8\)"),
        (right[:, :2], always, "not of shape"),
        (pd.DataFrame(right), always, "weights must be a numpy array .* not a DataFrame"),
        (right, [True] * bars, "rebalance must be a numpy array .* not a list"),
        (np.full((bars, n), np.inf), always, r"weights of \w+\.OKX in bar 0 are inf; give a number"),
        (np.full((bars, n), -np.inf), always, "are -inf"),
    ):
        with pytest.raises(ConfigError, match=message):
            ran(weights, rebalance)
    with pytest.raises(ConfigError, match="bars 0 to 61 are not among the 60"):
        ran(right, always, stop=61)
    with pytest.raises(ConfigError, match=r"scores must be a numpy array of shape \(60, 8\)"):
        Engine(exchange.loaded, exchange.terms, 1e5).run_dropout(right[:5], Dropout(2, 1, 1, 0.9))
    with pytest.raises(ConfigError, match="account '1e5' must be a number"):
        Engine(exchange.loaded, exchange.terms, "1e5")
    whole, halves = ran(right, always), ran(np.asfortranarray(right), always, stop=30)
    halves.run(np.asfortranarray(right), always, 30)
    np.testing.assert_allclose(whole.curve[:, 0], halves.curve[:, 0], rtol=1e-9)
    with pytest.raises(ConfigError, match="bars from 0 on were run before; make a new Engine"):
        whole.run(right, always)


@pytest.mark.parametrize("wrong", ["class", "settle_type", "pos_type", "foo"])
def test_the_array_engine_ignores_nothing_of_the_executor(market, wrong):
    executor = {"kwargs": {"time_per_step": "60min"}}
    backtest = {"start_time": market.times[0], "end_time": market.times[-1]}
    if wrong == "class":
        executor |= {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor"}
    elif wrong == "pos_type":
        backtest["pos_type"] = "Position"
    else:
        executor["kwargs"][wrong] = "cash"
    exchange = {"exchange_kwargs": {"exchange": {"kwargs": {"codes": "okx_60min"}}}}
    config = {"engine": "array", "executor": executor, "backtest": {**backtest, **exchange}}
    with pytest.raises(ConfigError, match=r"leave|foo is unknown"):
        run_backtest(config, Scripted({}))


@pytest.mark.parametrize(
    ("weights", "rebalance", "message"),
    [
        (lambda n, m: np.full((n, m), np.inf), True, r"gave .* the weight inf in bar 0; give a number"),
        (lambda _, m: np.zeros(m), True, r"gave weights of shape \(8,\); give \(60, 8\), a row a bar"),
        (lambda n, m: np.zeros((n, m + 1)), True, r"gave weights of shape \(60, 9\)"),
        (lambda n, m: np.zeros((n, m)), None, "gave rebalance as NoneType"),
        (lambda n, m: np.zeros((n, m)), np.ones(1, bool), r"gave rebalance of shape \(1,\); give \(60,\)"),
        # its names would not be looked at
        (
            lambda n, m: pd.DataFrame(np.zeros((n, m))),
            True,
            "weights as DataFrame; give .* other names would not be",
        ),
        (None, None, "gave NoneType; return Targets"),
    ],
)
@pytest.mark.parametrize("engine", ["qlib", "array"])
def test_weights_that_are_none_are_refused(market, engine, weights, rebalance, message):
    class Wrong:
        uses_signal = False

        def targets(self, known):
            if weights is None:
                return None
            when = np.ones(known.bars, bool) if rebalance is True else rebalance
            return Targets(weights(known.bars, len(known.names)), when, {})

    with pytest.raises(ConfigError, match=message):
        run(market, Wrong(), engine=engine)


@pytest.mark.parametrize("strategy", [{}, None, "x", {"class": "Nope", "module_path": "qlib_crypto.strategy.carry"}])
def test_what_is_no_strategy_is_refused(market, strategy):
    with pytest.raises(ConfigError, match="strategy"):
        run(market, strategy)


def test_a_zone_is_converted_and_misspelt_parts_are_refused(market):
    zoned = market.times[5].tz_localize("UTC").tz_convert("Asia/Tokyo")
    for engine in ("qlib", "array"):
        first = run(market, topk(signal_of(market)), start=zoned, missing_funding="zero", engine=engine).steps.index[0]
        assert first == market.times[5]
    for config, message in (
        ({"enginee": "array"}, "config.enginee is unknown"),
        ({"backtest": [1]}, "backtest .1. must be a mapping"),
        ({"backtest": {**BACKTEST, "exchange_kwargs": [1]}}, "exchange_kwargs .1. must be a mapping"),
        ({"backtest": {**BACKTEST, "end_time": "20250103"}, "executor": STEP}, "means 00:00 and cuts its day"),
        ({"backtest": {**BACKTEST, "start_time": 5}, "executor": STEP}, "time 5 is no ISO text"),
    ):
        with pytest.raises(ConfigError, match=message):
            completed(config)


def test_a_nested_backtest_has_whole_steps():
    inner = {"class": "PerpExecutor", "kwargs": {"time_per_step": "5min"}}
    executor = {"class": "NestedExecutor", "kwargs": {"time_per_step": "240min", "inner_executor": inner}}
    for span, message in (
        (
            ("2025-01-01", "2025-01-02 13:25"),
            "end_time 2025-01-02 13:25:00 is inside a step; write its last bar, 2025-01-02 15:55",
        ),
        (
            ("2025-01-01 02:00", "2025-01-02 15:55"),
            "start_time 2025-01-01 02:00:00 is inside a step; write 2025-01-01 00:00",
        ),
    ):
        backtest = dict(zip(("start_time", "end_time"), span, strict=True))
        with pytest.raises(ConfigError, match=message):
            completed({"executor": executor, "backtest": backtest})


def test_an_order_of_what_the_exchange_has_not_is_counted(market):
    held = sorted(market.bars)[:2]
    result = run(market, Scripted({market.times[1]: {sorted(market.bars)[5]: 1.0}}), codes=held, missing_funding="zero")
    assert result.assumptions["notes"]["no price: not traded"] == 1


def test_stock_classes_are_refused(market):
    config = {
        "executor": STEP,
        "backtest": {
            "start_time": market.times[0], "end_time": market.times[-1], "pos_type": "Position",
            "exchange_kwargs": {"exchange": {"kwargs": {"codes": "okx_60min"}}},
        },
    }  # fmt: skip
    with pytest.raises(ConfigError, match="pos_type must be"):
        run_backtest(config, Scripted({}))
    config["backtest"]["pos_type"] = POSITION
    config["executor"] = {"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor", **STEP}
    with pytest.raises(ConfigError, match="innermost executor must be PerpExecutor"):
        run_backtest(config, Scripted({}))


@pytest.mark.parametrize(("cash", "start"), [(0.0, None), (-1.0, None), (float("nan"), None), (1.0, {"A": 1})])
def test_an_account_starts_from_money_alone(cash, start):
    with pytest.raises(ConfigError):
        PerpPosition(cash, start)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"topk": 0}, {"topk": 2.5}, {"topk": "abc"}, {"topk": True}, {"rebalance_every": 0}, {"drop_buffer": -1},
        {"gross_exposure": 0}, {"gross_exposure": "abc"}, {"min_names": 9}, {"risk_degree": 0.5},
    ],
)  # fmt: skip
def test_a_strategy_that_cannot_be_right_is_refused(kwargs):
    with pytest.raises(ConfigError, match=rf"^strategy\.{next(iter(kwargs))} "):
        in_qlib(topk(pd.DataFrame(), **kwargs))


def test_target_weights_without_a_signal_are_refused():
    with pytest.raises(ConfigError, match=r"strategy\.kwargs\.signal is missing; write <PRED>"):
        in_qlib(topk(None, topk=2))


@pytest.mark.parametrize("kwargs", [{"verbos": True}, {"settle_type": "cash"}, {"trade_type": "both"}])
def test_an_executor_that_cannot_be_right_is_refused(kwargs):
    with pytest.raises(ConfigError, match=rf"^executor\.{next(iter(kwargs))} "):
        PerpExecutor("60min", **kwargs)


def test_an_inverse_contract_is_refused(tmp_path):
    market = random_market(bars=3, names=1, gaps=False)
    market.bars = {"BTC_USD.OKX": next(iter(market.bars.values()))}
    market.specs.clear()
    market.open(tmp_path)
    with pytest.raises(ConfigError, match=r"BTC_USD\.OKX is not quoted in USDT or USDC: .* linear contracts only"):
        run(market, Scripted({}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"BTC_USDT.OKX": {"lot": 1}}', "lot is none of lot_base, min_base"),
        ("", "specs.json is empty; write {} where no order rules are meant"),
        (" \n", "specs.json is empty"),
        ('{"NONE_USDT.OKX": {"lot_base": 1}}', "has no rules of any instrument"),
    ],
)
def test_specs_that_say_nothing_are_refused(market, tmp_path, text, message):
    path = tmp_path / "specs.json"
    path.write_text(text)
    with pytest.raises((ConfigError, SchemaError), match=message):
        run(market, Scripted({}), specs=str(path))
    path.write_text("{}")  # says that there are none
    assert run(market, Scripted({}), specs=str(path)).assumptions["order_rules"] == {"assumed": 8}


def test_an_empty_signal_is_refused(market):
    for signal in (signal_of(market) * np.nan, signal_of(market)[:0]):
        with pytest.raises(DataError, match="the signal has no score"):
            run(market, topk(signal), missing_funding="zero")
