"""One perpetual backtest in Qlib's loop, or in compiled code, from the YAML's three parts to tables."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from qlib.backtest import get_strategy_executor
from qlib.backtest.backtest import backtest_loop
from qlib.log import get_module_logger
from qlib.utils import init_instance_by_config

from qlib_crypto.backtest.assumptions import assumptions_of
from qlib_crypto.backtest.benchmarks import bitcoin, equal_weight
from qlib_crypto.backtest.compiled import is_compiled
from qlib_crypto.backtest.config import ENGINES, POSITION, class_named, completed
from qlib_crypto.backtest.engine import Engine
from qlib_crypto.backtest.qlib_exchange import PerpExchange
from qlib_crypto.backtest.qlib_executor import PerpExecutor
from qlib_crypto.backtest.qlib_targets import TargetStrategy, dropout_of, dropout_scores, in_qlib
from qlib_crypto.backtest.result import PerpRun
from qlib_crypto.backtest.tables import fills_table, funding_table, positions_table, steps_table
from qlib_crypto.backtest.values import one_of
from qlib_crypto.clock import iso, parse_utc
from qlib_crypto.errors import ConfigError


def run_backtest(config: Mapping[str, Any], strategy: Any) -> PerpRun:
    """The backtest of a strategy (an object, or its configuration) under `config`'s `executor` and `backtest`.

    Raises
    ------
    ConfigError
        See `completed`, `PerpExchange` and `PerpExecutor`.
    GapError
        When funding is unknown while a position is held, under `missing_funding: error`.

    """
    executor_config, exchange_config, backtest = completed(config)
    class_named("executor", executor_config)
    kind, kwargs = class_named("exchange", exchange_config)
    class_named("backtest.pos_type", {"class": backtest["pos_type"], "module_path": "qlib.backtest.position"})
    exchange = kind(**kwargs)
    if not isinstance(exchange, PerpExchange):
        raise ConfigError(f"exchange class {exchange_config['class']!r} is no PerpExchange")
    one_of("engine", config.get("engine", ENGINES[0]), ENGINES)
    strategy = in_qlib(strategy)
    if getattr(strategy, "orders", None) is not None:
        exchange.look_inside()
    if not is_compiled():
        get_module_logger("perp backtest").info("compiling the account, once for this version: about a minute")
    btc, equal = bitcoin(exchange), equal_weight(exchange)
    if config.get("engine") == "array":
        engine = _by_arrays(executor_config, backtest, exchange, strategy)
    else:
        engine = _by_qlib(executor_config, backtest, exchange, strategy, equal if btc.isna().all() else btc)
    steps = steps_table(engine)
    steps["bench_btc"], steps["bench_equal"] = btc.reindex(steps.index), equal.reindex(steps.index)
    notes = Counter(engine.notes) + Counter(getattr(strategy, "notes", {})) + Counter(exchange.notes)
    return PerpRun(
        steps=steps,
        fills=fills_table(engine),
        funding=funding_table(engine),
        positions=positions_table(engine),
        assumptions=assumptions_of(exchange, strategy, steps, engine.start_equity, notes),
    )


def _by_arrays(
    executor: Mapping[str, Any], backtest: Mapping[str, Any], exchange: PerpExchange, strategy: Any
) -> Engine:
    """The same backtest without Qlib's loop: every bar in compiled code."""
    if "inner_executor" in executor["kwargs"]:
        raise ConfigError("engine array has one bar length; take the nested executor out or write engine: qlib")
    if not isinstance(init_instance_by_config(dict(executor)), PerpExecutor) or backtest["pos_type"] != POSITION:
        raise ConfigError("engine array runs PerpExecutor and PerpPosition alone; leave class and pos_type out")
    first, last = (exchange.loaded.row(parse_utc(backtest[key])) for key in ("start_time", "end_time"))
    if first is None or last is None:
        raise ConfigError(
            f"backtest {backtest['start_time']} to {backtest['end_time']} must begin and end with stored bars of "
            f"{exchange.freq}, {iso(int(exchange.loaded.opens_ms[0]))} to {iso(int(exchange.loaded.opens_ms[-1]))}"
        )
    engine = Engine(exchange.loaded, exchange.terms, float(backtest["account"]))
    if isinstance(strategy, TargetStrategy):
        targets = strategy.targets(exchange, first)
        shape = len(exchange.loaded.opens_ms), len(exchange.loaded.names)
        weights, rebalance = np.zeros(shape), np.zeros(shape[0], np.bool_)
        weights[first:], rebalance[first:] = targets.weights, targets.rebalance
        if strategy.orders is None:
            engine.run(weights, rebalance, first, last + 1)
        else:
            plan = np.pad(strategy.plan, ((0, 0), (first, 0), (0, 0)))
            engine.run(weights, rebalance, first, last + 1, plan=plan, until=np.pad(strategy.until, (first, 0)) + first)
    else:
        rules, signal = dropout_of(strategy)
        engine.run_dropout(dropout_scores(exchange.loaded, signal), rules, first, last + 1)
    return engine


def _by_qlib(
    executor_config: Mapping[str, Any],
    backtest: Mapping[str, Any],
    exchange: PerpExchange,
    strategy: Any,
    benchmark: pd.Series[float],
) -> Engine:
    """The backtest in Qlib's own loop."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # qlib.utils.index_data averages over the orders of every step, also when there are none
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        strategy, executor = get_strategy_executor(
            strategy=strategy,
            executor=executor_config,
            benchmark=benchmark.fillna(0.0),  # Qlib's own report needs a number a step
            exchange_kwargs={"exchange": exchange},
            **backtest,
        )
        inner = executor.get_all_executors()[-1]
        if not isinstance(inner, PerpExecutor):
            raise ConfigError(f"the innermost executor must be PerpExecutor, not {type(inner).__name__}")
        backtest_loop(backtest["start_time"], backtest["end_time"], strategy, executor)
    engine: Engine = inner.engine
    return engine
