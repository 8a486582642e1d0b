"""The shape in which every benchmark prints a figure."""

from __future__ import annotations

from typing import Any


def measure(value: float | None, unit: str, *, equal: bool | None = None) -> dict[str, Any]:
    """A figure seen once; `equal`: whether the results beside it were right, None where nothing is compared."""
    return {"value": value, "min": value, "max": value, "unit": unit, "equal": equal}
