"""How much was traded against what was there to trade with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["annual_turnover", "step_turnover"]


def step_turnover(traded: ArrayLike, equity: ArrayLike) -> NDArray[np.float64]:
    """Traded notional of each step over the equity it started with, shape (n,); 1.0 is once the equity.

    Both sides count: closing a long of the size of the equity and opening a short of it is 2.0.

    Parameters
    ----------
    traded
        Shape (n,), quote coin, the sum of |quantity x price| of the step's fills.
    equity
        Shape (n + 1,), quote coin, the starting equity first.

    Returns
    -------
    NDArray
        NaN where either is missing or the equity is not positive.

    Raises
    ------
    ValueError
        When `equity` is not one longer than `traded`.

    """
    notional, capital = np.asarray(traded, dtype=np.float64), np.asarray(equity, dtype=np.float64)
    if capital.size != notional.size + 1:
        raise ValueError(f"equity has {capital.size} values for {notional.size} steps; the starting equity comes first")
    start = capital[:-1]
    valid = np.isfinite(notional) & np.isfinite(start) & (start > 0)
    return np.where(valid, notional / np.where(valid, start, 1.0), np.nan)


def annual_turnover(traded: ArrayLike, equity: ArrayLike, steps_per_year: float) -> float:
    """The mean step turnover times `steps_per_year`: how often a year the equity is traded; NaN without a step."""
    values = step_turnover(traded, equity)
    values = values[np.isfinite(values)]
    return float(np.mean(values) * steps_per_year) if values.size else math.nan
