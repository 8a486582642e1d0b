"""Which keys a class of a workflow takes; Qlib swallows the others."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightgbm.basic import _ConfigAliases
from qlib.model.base import BaseModel

from qlib_crypto.backtest.qlib_targets import makes_targets, split
from qlib_crypto.backtest.values import CLASS_KEYS, no_others
from qlib_crypto.errors import ConfigError, hint

_RECORDS = "qlib.workflow.record_temp"  # where qrun looks for a record without a module


def load_class(where: str, config: Any, default_module: str | None = None) -> type:
    """The class that a `{class, module_path, kwargs}` names.

    Raises
    ------
    ConfigError
        When a key is unknown or missing, or the class cannot be imported.

    """
    if not isinstance(config, Mapping) or "class" not in config:
        raise ConfigError(f"{where} must be a mapping with class, module_path and kwargs, not {config!r}")
    no_others(where, config, CLASS_KEYS)
    module = config.get("module_path", default_module)
    if not isinstance(module, str):
        raise ConfigError(f"{where}.module_path is missing; write the module of class {config['class']}")
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}.module_path {module!r} cannot be imported: {error}") from None
    found = getattr(loaded, str(config["class"]), None)
    if not isinstance(found, type):
        classes = [name for name, value in vars(loaded).items() if isinstance(value, type)]
        raise ConfigError(f"{where}.class {config['class']!r} is not in {module}{hint(str(config['class']), classes)}")
    return found


def check_classes(where: str, config: Any) -> None:
    """Every `{class, …}` below `config` exists and takes the keys it is given.

    Raises
    ------
    ConfigError
        Names the first place that is wrong.

    """
    for place, part in named_classes(where, config):
        kind = load_class(place, part, _RECORDS if re.fullmatch(r"task\.record\[\d+\]", place) else None)
        kwargs = part.get("kwargs") or {}
        if not isinstance(kwargs, Mapping):
            raise ConfigError(f"{place}.kwargs must be a mapping, not {kwargs!r}")
        accepted = accepted_keys(kind)
        for key in split(kwargs)[0] if makes_targets(kind) else kwargs:
            if accepted is not None and key not in accepted:
                raise ConfigError(f"{place}.kwargs.{key} is unknown to {kind.__name__}{hint(str(key), accepted)}")


def named_classes(where: str, config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a key `class` in a configuration, with its place, outermost first."""
    if isinstance(config, Mapping):
        if "class" in config:
            yield where, config
        for key, value in config.items():
            yield from named_classes(f"{where}.{key}", value)
    elif isinstance(config, list):
        for number, value in enumerate(config):
            yield from named_classes(f"{where}[{number}]", value)


def accepted_keys(kind: type) -> frozenset[str] | None:
    """The keyword arguments a class has a use for, None when only it knows.

    `**kwargs` passes on to the base class, and ends there: what no class on the way names is swallowed. Models are
    the exception, they hand it to their library; of those only LightGBM's parameters are known.
    """
    names: set[str] = set()
    for base in kind.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names.update(p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL))
        rest = [p.name for p in parameters if p.kind is p.VAR_KEYWORD]
        if not rest or rest == ["unknown"]:  # a catch-all called `unknown` is there to be refused
            return frozenset(names - {"self"})
        if issubclass(kind, BaseModel):
            lightgbm = _ConfigAliases._get_all_param_aliases()  # noqa: SLF001 - LightGBM publishes the list nowhere else
            known = {*lightgbm, *(alias for aliases in lightgbm.values() for alias in aliases)}
            return frozenset(names - {"self"} | known) if kind.__name__ == "LGBModel" else None
    return frozenset(names - {"self"})
