"""What a keyword of a strategy may be, refused in one line; and strategies made from a configuration.

The first four are those of `qlib_crypto.backtest.checks`, which imports Qlib; these modules do without it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.known import Strategy

_KEYS = ("class", "module_path", "kwargs")


def whole_number(key: str, value: Any, least: int) -> None:
    """Refuses what is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ConfigError(f"{key} {value!r} must be a whole number of at least {least}")


def number(key: str, value: Any, fits: Callable[[float], bool], what: str) -> None:
    """Refuses what is no finite number that `fits`; `what` says what to write."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or not fits(float(value)):
        raise ConfigError(f"{key} {value!r} {what}")


def no_others(where: str, kwargs: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuses the keys that would be ignored."""
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]} is unknown; remove it, or write one of: {', '.join(sorted(known))}")


def one_of(key: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses a value that is no choice."""
    if value not in choices:
        raise ConfigError(f"{key} {value!r} is unknown; choose one of: {', '.join(choices)}")


def positive(key: str, value: Any, such_as: str) -> None:
    """Refuses what is no positive number."""
    number(key, value, lambda v: v > 0, f"must be positive: {such_as}")


def not_negative(key: str, value: Any, such_as: str) -> None:
    """Refuses what is no number of 0 or more."""
    number(key, value, lambda v: v >= 0, f"must not be negative: {such_as}")


def yes_or_no(key: str, value: Any) -> None:
    """Refuses what is neither true nor false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{key} {value!r} must be true or false")


def whole_numbers(where: str, kwargs: Mapping[str, Any], least: Mapping[str, int]) -> None:
    """Refuses the first of the given keys that is no whole number of at least its least."""
    for key, value in least.items():
        if key in kwargs:
            whole_number(f"{where}.{key}", kwargs[key], value)


def gross_value(where: str, kwargs: Mapping[str, Any]) -> None:
    """Refuses a gross exposure that is none."""
    if "gross_exposure" in kwargs:
        positive(f"{where}.gross_exposure", kwargs["gross_exposure"], "longs plus shorts over equity, such as 1.0")


def check_strategy(where: str, config: Any) -> None:
    """Nothing, when `config` is a strategy or names one with values that make sense; nothing is constructed.

    Raises
    ------
    ConfigError
        Names the first that is wrong, under `where`.

    """
    if not isinstance(config, Mapping):
        if not isinstance(config, Strategy) or isinstance(config, type):
            raise ConfigError(f"{where} {config!r} is no strategy; write class, module_path and kwargs of one")
        return
    kind = _class_of(where, config)
    kwargs = config.get("kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise ConfigError(f"{where}.kwargs must be a mapping, not {kwargs!r}")
    check = getattr(kind, "check_values", None)
    if check is not None:
        check(f"{where}.kwargs", kwargs)


def strategy_of(where: str, config: Any) -> Strategy:
    """The strategy that a `{class, module_path, kwargs}` names; a strategy is its own.

    Raises
    ------
    ConfigError
        Names the first that is wrong, under `where`.

    """
    check_strategy(where, config)
    made = _class_of(where, config)(**(config.get("kwargs") or {})) if isinstance(config, Mapping) else config
    if not isinstance(made, Strategy):
        raise ConfigError(f"{where}.class {config['class']!r} makes no weights: it has no targets(known)")
    return made


def _class_of(where: str, config: Mapping[str, Any]) -> type[Any]:
    no_others(where, config, _KEYS)
    for key in ("class", "module_path"):
        if not isinstance(config.get(key), str):
            raise ConfigError(f"{where}.{key} is missing; write the {key.removesuffix('_path')} of a strategy")
    try:
        module = importlib.import_module(config["module_path"])
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}.module_path {config['module_path']!r} cannot be imported: {error}") from None
    found = getattr(module, config["class"], None)
    if not isinstance(found, type):
        raise ConfigError(f"{where}.class {config['class']!r} is not in {config['module_path']}; correct the name")
    return found
