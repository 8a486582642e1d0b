"""How numbers are written in a report; what does not exist is an en dash, a minus sign is a minus sign."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

__all__ = ["NONE", "days", "integer", "money", "number", "percent", "span", "step", "text", "times", "words"]

NONE = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_LISTED = 40  # entries of a list that are worth reading one by one


def percent(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """`12.34%` of the fraction 0.1234."""
    return _written(value, f"{'+' if signed else ''},.{digits}%", 100)


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """`1,234.57`."""
    return _written(value, f"{'+' if signed else ''},.{digits}f")


def money(value: float | None, scale: float | None = None, *, signed: bool = False) -> str:
    """`1,234` where `scale` (the value itself when None) is a thousand or more, otherwise `123.45`.

    Amounts that are read together have one scale, such as the starting equity, and so the same digits.
    """
    size = value if scale is None else scale
    return number(value, 0 if size is not None and abs(size) >= 1000 else 2, signed=signed)  # noqa: PLR2004 - as said


def integer(value: float | None) -> str:
    """`1,234`."""
    return number(value, 0)


def times(value: float | None, digits: int = 2) -> str:
    """`1.25` and a multiplication sign, a multiple of equity."""
    return NONE if value is None or not math.isfinite(value) else number(value, digits) + "\N{MULTIPLICATION SIGN}"


def step(length: pd.Timedelta | None) -> str:
    """`1 minute`, `4 hours`, `1 day`."""
    if length is None:
        return NONE
    minutes = length / pd.Timedelta(minutes=1)
    count, unit = next((minutes / size, name) for name, size in _UNITS if minutes % size == 0 or size == 1)
    return f"{count:g} {unit}{'' if count == 1 else 's'}"


def days(start: pd.Timestamp, end: pd.Timestamp) -> str:
    """`1,100 days`; below ten with two decimals at most."""
    count = (end - start) / pd.Timedelta(days=1)
    return f"{f'{count:,.0f}' if count >= 10 else f'{count:.2g}'} day{'' if count == 1 else 's'}"  # noqa: PLR2004 - as said


def span(start: pd.Timestamp, end: pd.Timestamp) -> str:
    """`2025-02-11 00:00 to 2025-05-10 15:00 UTC`."""
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"


def text(value: Any) -> str:
    """An assumption's value in words: yes and no, lists with commas (cut after 40), mappings as `key: value`."""
    match value:
        case None | "":
            return NONE
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return f"{value:,.10g}".replace("-", _MINUS) if math.isfinite(value) else NONE
        case dict():
            return "; ".join(f"{words(str(key))}: {text(item)}" for key, item in value.items()) or "none"
        case list() | tuple():
            more = f" and {len(value) - _LISTED} more" if len(value) > _LISTED else ""
            return ", ".join(text(item) for item in value[:_LISTED]) + more or "none"
        case _:
            return str(value)


def words(key: str) -> str:
    """`taker_fee` as `taker fee`."""
    return key.replace("_", " ")


_UNITS = (("day", 1440), ("hour", 60), ("minute", 1))


def _written(value: float | None, pattern: str, scale: int = 1) -> str:
    if value is None or not math.isfinite(value):
        return NONE
    digits = int(pattern[pattern.index(".") + 1 : -1])
    if abs(value * scale) < 0.5 * 10**-digits:
        value = 0.0  # no minus zero
    written = format(value, pattern)
    return (written.lstrip("+") if value == 0 else written).replace("-", _MINUS)
