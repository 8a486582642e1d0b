"""One perpetual backtest in Qlib's loop, from the YAML's three parts to tables."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
from qlib.backtest import get_strategy_executor
from qlib.backtest.backtest import backtest_loop
from qlib.log import get_module_logger
from qlib.utils import init_instance_by_config

from qlib_crypto.backtest.benchmarks import bitcoin, equal_weight
from qlib_crypto.backtest.compiled import is_compiled
from qlib_crypto.backtest.engine import Engine
from qlib_crypto.backtest.load import Loaded
from qlib_crypto.backtest.market import OPEN
from qlib_crypto.backtest.qlib_exchange import PerpExchange
from qlib_crypto.backtest.qlib_executor import PerpExecutor
from qlib_crypto.backtest.qlib_targets import TargetStrategy, dropout_of, dropout_scores, in_qlib
from qlib_crypto.backtest.quotes import naive_utc
from qlib_crypto.backtest.tables import fills_table, funding_table, positions_table, steps_table
from qlib_crypto.backtest.terms import Terms
from qlib_crypto.backtest.values import no_others, number, one_of
from qlib_crypto.clock import DAY_MS, iso, parse_utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.provider.funding import PRICE_SOURCES
from qlib_crypto.stats.returns import (
    annualised_sharpe,
    calmar,
    max_drawdown,
    sortino,
    step_returns,
    steps_in_year,
    total_return,
)
from qlib_crypto.stats.risk import daily_returns, expected_shortfall, profit_factor, value_at_risk, win_rate
from qlib_crypto.stats.trades import account_trades
from qlib_crypto.stats.turnover import step_turnover
from qlib_crypto.symbols import Interval

EXECUTOR = ("PerpExecutor", "qlib_crypto.backtest.qlib_executor")
EXCHANGE = ("PerpExchange", "qlib_crypto.backtest.qlib_exchange")
POSITION = "qlib_crypto.backtest.qlib_position.PerpPosition"
ACCOUNT = 100_000
#: Qlib's own loop, or compiled code for target weights alone: the same account, the same results.
ENGINES = ("qlib", "array")
PARTS = ("strategy", "executor", "backtest", "engine")
BACKTEST_KEYS = {"start_time", "end_time", "account", "pos_type", "exchange_kwargs"}


@dataclass(frozen=True)
class PerpRun:
    """The tables of one backtest, as `openspec/project.md` describes them under run results."""

    steps: pd.DataFrame
    fills: pd.DataFrame
    funding: pd.DataFrame
    positions: pd.DataFrame
    assumptions: dict[str, Any]

    def metrics(self) -> dict[str, float]:
        """The headline numbers; money in quote coin, returns as fractions of the start equity.

        net = gross + (funding net - fees - slippage - liquidation) / start equity;
        funding net = received - paid, both >= 0;
        `gross_return` is of prices alone; `turnover` is traded notional over equity, summed over the steps; NaN where a
        number does not exist. `win_rate` and `profit_factor` are of trades (closed parts, with fees and funding),
        `var_95` and `es_95` the losses of whole UTC days. Names and signs are those of the report's `summary.json`.
        """
        start = float(self.assumptions["account"])
        amounts = self.funding["amount"].to_numpy(np.float64)
        equity = np.concatenate([[start], self.steps["equity"].to_numpy()])
        step_ms = Interval.parse(self.assumptions["freq"]).ms
        year, returns = steps_in_year(step_ms), step_returns(equity)
        opens = self.steps.index.to_numpy().astype("datetime64[ms]").astype(np.int64)
        days, _ = daily_returns(equity, np.append(opens, opens[-1:] + step_ms))
        profits = account_trades(self.fills, self.funding).profit
        return {
            "net_return": total_return(equity),
            "gross_return": float(self.steps["price"].sum()) / start,
            "fees": -float(self.steps["fee"].sum()),
            "slippage": -float(self.steps["slippage"].sum()),
            "liquidation": -float(self.steps["liquidation"].sum()),
            "funding_paid": -float(amounts[amounts < 0].sum()) + 0.0,
            "funding_received": float(amounts[amounts > 0].sum()),
            "funding_net": float(self.steps["funding"].sum()),
            "sharpe_365": annualised_sharpe(returns, year),
            "sortino_365": sortino(returns, year),
            "max_drawdown": max_drawdown(equity),
            "calmar": calmar(equity, year),
            "win_rate": win_rate(profits),
            "profit_factor": profit_factor(profits),
            "var_95": value_at_risk(days, 0.95),
            "es_95": expected_shortfall(days, 0.95),
            "turnover": float(np.nansum(step_turnover(self.steps["turnover"].to_numpy(), equity))),
            "trades": float(len(self.fills)),
        }


def completed(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Executor, exchange and backtest configurations with everything said once put where Qlib wants it.

    The exchange takes `freq` from the innermost executor and the span from `backtest`, unless it has its own; class
    names default to this package's.

    Raises
    ------
    ConfigError
        On a key that would be silently ignored, a benchmark (both are built from the provider), or a missing part.

    """
    no_others("config", config, PARTS)
    backtest = deepcopy(_mapping("backtest", config.get("backtest")))
    if "benchmark" in backtest:
        raise ConfigError(
            f"backtest.benchmark {backtest['benchmark']!r}: leave it out, BTC and equal weight are built from the data"
        )
    exchange_kwargs = _mapping("backtest.exchange_kwargs", backtest.pop("exchange_kwargs", None))
    exchange = _named(exchange_kwargs.pop("exchange", None) or {}, EXCHANGE)
    ignored = sorted(exchange_kwargs) + sorted(set(backtest) - BACKTEST_KEYS)
    if ignored:
        raise ConfigError(f"backtest keys {ignored} would be ignored; exchange keys belong under exchange.kwargs")
    if backtest.get("start_time") is None or backtest.get("end_time") is None:
        raise ConfigError("backtest needs start_time and end_time; write both as full UTC times")
    number(
        "backtest.account", backtest.get("account", ACCOUNT), lambda v: v > 0, "must be a number above 0: quote coins"
    )
    executor = _named(config.get("executor") or {}, EXECUTOR)
    if "time_per_step" not in executor["kwargs"]:
        raise ConfigError("executor.kwargs needs time_per_step, such as 60min")
    _refuse_cut_day(backtest["end_time"], Interval.parse(executor["kwargs"]["time_per_step"]))
    backtest |= {key: naive_utc(backtest[key]) for key in ("start_time", "end_time")}
    _refuse_part_of_a_step(executor, backtest)
    defaults = {
        "freq": innermost(executor)["kwargs"]["time_per_step"],
        "start_time": backtest["start_time"],
        "end_time": backtest["end_time"],
    }
    exchange["kwargs"] = {**defaults, **exchange["kwargs"]}
    _refuse_wrong_span(backtest, exchange["kwargs"])
    return executor, exchange, {"account": ACCOUNT, "pos_type": POSITION, **backtest}


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
    exchange = init_instance_by_config(exchange_config, accept_types=PerpExchange)
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
        assumptions=_assumptions(exchange, steps, engine.start_equity, notes, _orders(strategy, exchange)),
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


def _refuse_cut_day(end: Any, step: Interval) -> None:
    """Qlib reads a date as its 00:00, so that the last day would have one bar."""
    whole_day = isinstance(end, str) and not set(end) & set("T: ")
    if step.ms < DAY_MS and (whole_day or (isinstance(end, date) and not isinstance(end, datetime))):
        raise ConfigError(f"backtest.end_time {end} means 00:00 and cuts its day; write the last bar's full UTC time")


def _refuse_part_of_a_step(executor: Mapping[str, Any], backtest: Mapping[str, Any]) -> None:
    """Qlib begins with the next whole step, and asks for bars after the end to finish the last one."""
    step, bar = (Interval.parse(each["kwargs"]["time_per_step"]).ms for each in (executor, innermost(executor)))
    first, last = (parse_utc(backtest[key]) for key in ("start_time", "end_time"))
    if step == bar:
        return
    if first % step:
        raise ConfigError(f"backtest.start_time {iso(first)} is inside a step; write {iso(first - first % step)}")
    if (last + bar) % step:
        whole = last - last % step + step - bar
        raise ConfigError(f"backtest.end_time {iso(last)} is inside a step; write its last bar, {iso(whole)}")


def _refuse_wrong_span(backtest: Mapping[str, Any], exchange: Mapping[str, Any]) -> None:
    """Outside the exchange's span there would be no price, and nothing would say so."""
    first, last = (parse_utc(backtest[key]) for key in ("start_time", "end_time"))
    if last < first:
        raise ConfigError(f"backtest.end_time {iso(last)} is before start_time {iso(first)}; swap them")
    if parse_utc(exchange["start_time"]) > first or parse_utc(exchange["end_time"]) < last:
        raise ConfigError(
            f"exchange.kwargs start_time {exchange['start_time']} and end_time {exchange['end_time']} do not cover the "
            f"backtest's {iso(first)} to {iso(last)}; leave them out"
        )


def _named(part: Any, default: tuple[str, str]) -> dict[str, Any]:
    if not isinstance(part, Mapping):
        raise ConfigError(f"{default[0]}: write class, module_path and kwargs, not {part!r}")
    named: dict[str, Any] = {"class": default[0], "module_path": default[1], **deepcopy(dict(part))}
    named["kwargs"] = _mapping(f"{default[0]}.kwargs", named.get("kwargs"))
    return named


def _mapping(key: str, given: Any) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{key} {given!r} must be a mapping")
    return dict(given or {})


def innermost(executor: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the executor that trades, nested ones unwrapped."""
    inner = executor["kwargs"].get("inner_executor")
    return innermost(inner) if isinstance(inner, Mapping) else executor


def _assumptions(
    exchange: PerpExchange,
    steps: pd.DataFrame,
    start_equity: float,
    notes: Mapping[str, int],
    told: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything a reader must know to judge the numbers, in plain types."""
    loaded = exchange.loaded
    has_bar, bars = loaded.has_bar, int(loaded.has_bar.sum())
    sources = Counter(loaded.rule_sources)
    return {
        "account": start_equity,
        "freq": exchange.freq,
        "start": str(steps.index[0]),
        "end": str(steps.index[-1]),
        "market": exchange.market,
        "instruments": len(loaded.names),
        "instruments_with_bars": int(has_bar.any(axis=0).sum()),
        "bars": bars,
        "deal_price": _deal(exchange.terms, told),
        **told,
        "sizing": "weight x equity at the last marks / open",
        **exchange.terms.told(Counter(loaded.tier_sources)),
        **({"fee_paid": _MIXED_FEES} if told.get("orders", "market") != "market" else {}),
        "mark": f"{_marks(loaded)}: open before the orders, close after them; without a bar the last one stays",
        "order_rules": {source: sources[source] for source in sorted(sources)},
        "benchmarks": "BTC held; the market in equal weights, set anew every step; neither pays fees or funding",
        "funding_coverage": float((loaded.funding_known & has_bar).sum() / bars) if bars else math.nan,
        "funding_price": _settlement_prices(loaded),
        "delisting": "settled at the last mark with the taker fee once neither prices nor funding go on in the data",
        "precision": "account and settlements in float64; prices on their tick where it is known, else Qlib's float32",
        "notes": {note: int(count) for note, count in sorted(notes.items()) if count},
    }


#: Who pays which fee where orders rest.
_MIXED_FEES = "taker; maker for limit entries and targets"


def _deal(terms: Terms, told: Mapping[str, Any]) -> str:
    what = (
        "what the bar's volume bears of each admitted order" if terms.participation else "every admitted order, whole"
    )
    resting = "; orders that rest as under Orders" if told else ""
    return f"open of the bar after the signal's; {what}{resting}"


def _orders(strategy: Any, exchange: PerpExchange) -> dict[str, str]:
    """How positions are entered and protected, and what bars say of it."""
    told = dict(getattr(strategy, "told", {}))
    each = exchange.loaded.market.inner.shape[1] // len(exchange.loaded.opens_ms)
    if told or each:
        within = f"in each of its {each} bars of {exchange.inner}, " if each else ""
        whole = walked_whole(exchange.loaded) if each else 0
        if whole:
            told["walked_as_one"] = (
                f"{whole:,} bars of an instrument, whose finer ones are missing, or do not show their extremes"
            )
        told["inside_a_bar"] = f"{within}what harms most: liquidation and stops before targets"
    return told


def walked_whole(loaded: Loaded) -> int:
    """The bars of an instrument that have none of the finer ones, or not those with their extremes."""
    bars, n = loaded.market.prices.shape[1:]
    opens = loaded.market.inner[OPEN].reshape(bars, -1, n)
    return int((loaded.has_bar & np.isnan(opens[:, 1:]).all(axis=1)).sum())


def _settlement_prices(loaded: Loaded) -> dict[str, int]:
    """How many settlements of the span have which price."""
    counts = np.bincount(loaded.series["price_source"], minlength=len(PRICE_SOURCES)).tolist()
    return {source: count for source, count in sorted(zip(PRICE_SOURCES, counts, strict=True)) if count}


def _marks(loaded: Loaded) -> str:
    return "trade price" if loaded.market.marks == OPEN else "mark price, the trade price where there is none"
