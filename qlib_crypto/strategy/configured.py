"""Strategies made from a configuration."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from qlib_crypto.backtest.known import Strategy
from qlib_crypto.backtest.values import CLASS_KEYS, made, no_others
from qlib_crypto.errors import ConfigError


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
    if not isinstance(config, Mapping):
        return config  # type: ignore[no-any-return]  # checked
    found = made(where, _class_of(where, config), config.get("kwargs") or {})
    if not isinstance(found, Strategy):
        raise ConfigError(f"{where}.class {config['class']!r} makes no weights: it has no targets(known)")
    return found


def _class_of(where: str, config: Mapping[str, Any]) -> type[Any]:
    no_others(where, config, CLASS_KEYS)
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
