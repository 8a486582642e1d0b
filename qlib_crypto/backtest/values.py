"""What a keyword may be, refused in one line; without Qlib, so that everything can use it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from qlib_crypto.errors import ConfigError, hint

#: How a YAML names an object.
CLASS_KEYS = ("class", "module_path", "kwargs")


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
    unknown = sorted(set(kwargs) - set(known), key=str)
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]} is unknown{hint(str(unknown[0]), known)}")


def made[T](where: str, kind: Callable[..., T], kwargs: Mapping[str, Any]) -> T:
    """An object of a class; its keyword arguments are refused when it does not take them, or lacks one."""
    try:
        inspect.signature(kind).bind(**kwargs)
    except TypeError as error:
        raise ConfigError(f"{where}: {getattr(kind, '__name__', kind)} {error}") from None
    except ValueError:  # it tells no signature
        pass
    return kind(**kwargs)


def one_of(key: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses a value that is no choice."""
    if value not in choices:
        raise ConfigError(f"{key} {value!r} is unknown; choose one of: {', '.join(choices)}")


def account_value(key: str, value: Any) -> None:
    """Refuses what no account begins with."""
    number(key, value, lambda v: v > 0, "must be a number above 0: quote coins")


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
