"""The configuration of a backtest, completed, and refused where Qlib would ignore or misread it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from datetime import date, datetime
from types import ModuleType
from typing import Any

import pandas as pd
from qlib.utils import get_callable_kwargs

from qlib_crypto.backtest.quotes import naive_utc
from qlib_crypto.backtest.values import CLASS_KEYS, account_value, no_others
from qlib_crypto.clock import DAY_MS, iso, parse_utc
from qlib_crypto.errors import ConfigError, hint
from qlib_crypto.symbols import Interval

EXECUTOR = ("PerpExecutor", "qlib_crypto.backtest.qlib_executor")
EXCHANGE = ("PerpExchange", "qlib_crypto.backtest.qlib_exchange")
POSITION = "qlib_crypto.backtest.qlib_position.PerpPosition"
ACCOUNT = 100_000
#: Qlib's own loop, or compiled code for target weights alone: the same account, the same results.
ENGINES = ("qlib", "array")
PARTS = ("strategy", "executor", "backtest", "engine")
BACKTEST_KEYS = {"start_time", "end_time", "account", "pos_type", "exchange_kwargs"}


def completed(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Executor, exchange and backtest configurations with everything said once put where Qlib wants it.

    The exchange takes `freq` from the innermost executor and the span from `backtest`, unless it has its own; class
    names default to this package's.

    Raises
    ------
    ConfigError
        On a key that would be silently ignored, a benchmark (both are built from the provider), or a missing part.

    """
    no_others("config", _mapping("config", config), PARTS)
    backtest = deepcopy(_mapping("backtest", config.get("backtest")))
    if "benchmark" in backtest:
        raise ConfigError(
            f"backtest.benchmark {backtest['benchmark']!r}: leave it out, BTC and equal weight are built from the data"
        )
    exchange_kwargs = _mapping("backtest.exchange_kwargs", backtest.pop("exchange_kwargs", None))
    exchange = _named(exchange_kwargs.pop("exchange", None) or {}, EXCHANGE)
    if exchange_kwargs:
        raise ConfigError(
            f"backtest.exchange_kwargs.{min(exchange_kwargs)} would be ignored; keys of the exchange belong "
            "under exchange_kwargs.exchange.kwargs"
        )
    no_others("backtest", backtest, BACKTEST_KEYS)
    if pd.isna(backtest.get("start_time")) or pd.isna(backtest.get("end_time")):
        raise ConfigError("backtest needs start_time and end_time; write both as full UTC times")
    account_value("backtest.account", backtest.get("account", ACCOUNT))
    executor = _named(config.get("executor") or {}, EXECUTOR)
    if "time_per_step" not in executor["kwargs"]:
        given = ", ".join(executor["kwargs"]) or "nothing"
        raise ConfigError(f"executor.kwargs needs time_per_step, such as 60min; it has {given}")
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
    account = float(backtest.pop("account", ACCOUNT))
    return executor, exchange, {"account": account, "pos_type": POSITION, **backtest}


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
    no_others(default[0], part, CLASS_KEYS)
    named: dict[str, Any] = {"class": default[0], "module_path": default[1], **deepcopy(dict(part))}
    named["kwargs"] = _mapping(f"{default[0]}.kwargs", named.get("kwargs"))
    return named


def _mapping(key: str, given: Any) -> dict[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{key} {given!r} must be a mapping")
    for name in given or {}:
        if not isinstance(name, str):
            raise ConfigError(f"{key} has a key {name!r}; write keys as text")
    return dict(given or {})


def class_named(where: str, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class that a `{class, module_path, kwargs}` names as Qlib finds it, and its keyword arguments.

    Raises
    ------
    ConfigError
        When a key is unknown, or there is no such class.

    """
    no_others(where, config, CLASS_KEYS)
    kind, kwargs = config.get("class"), _mapping(f"{where}.kwargs", config.get("kwargs"))
    if not isinstance(kind, str | type):
        raise ConfigError(f"{where} {dict(config)!r} has no class; write class, module_path and kwargs")
    if isinstance(kind, type):
        return kind, kwargs
    if "." not in kind and config.get("module_path") is None:
        raise ConfigError(f"{where}.module_path is missing; write the module of class {kind}")
    try:
        found, _ = get_callable_kwargs({**config, "kwargs": kwargs})
    except AttributeError as error:
        if not isinstance(error.obj, ModuleType):  # of the module's own code
            raise
        near = hint(kind, [name for name, value in vars(error.obj).items() if isinstance(value, type)])
        raise ConfigError(f"{where}.class {kind!r} is not in {config.get('module_path')}{near}") from None
    except (ImportError, OSError, ValueError) as error:
        raise ConfigError(f"{where}.class {kind!r} cannot be found: {error}") from None
    return found, kwargs


def innermost(executor: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the executor that trades, nested ones unwrapped.

    Raises
    ------
    ConfigError
        When one of them has no `time_per_step`.

    """
    inner = executor["kwargs"].get("inner_executor")
    if not isinstance(inner, Mapping):
        return executor
    kwargs = inner.get("kwargs")
    if not isinstance(kwargs, Mapping) or "time_per_step" not in kwargs:
        raise ConfigError("inner_executor needs kwargs with time_per_step, such as 5min")
    return innermost(inner)
