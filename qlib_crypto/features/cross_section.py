"""Arithmetic across instruments at one timestamp, for whole columns at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

#: Robust standard deviations (1.4826 median absolute deviations) from the median that are left as they are: a
#: normal value never reaches them, and a tail of ratios a hundredfold does not set the scale for all others.
_TAIL = 5 * 1.4826


def without_tails(values: NDArray[np.floating], at: NDArray[np.intp]) -> NDArray[np.float64]:
    """The values, those beyond 5 robust standard deviations of their timestamp's median moved there; shape (rows,).

    NaN and infinities do not count and come back as NaN. A timestamp at which half of the values are equal is left
    alone: it has no scale. `at` as in `z_scores`.
    """
    known = pd.Series(np.where(np.isfinite(values), values, np.nan), dtype=np.float64)
    middle = known.groupby(at).transform("median")
    reach = (known - middle).abs().groupby(at).transform("median") * _TAIL
    reach = reach.where(reach > 0, np.inf)
    return np.asarray(known.clip(middle - reach, middle + reach), dtype=np.float64)


def z_scores(
    values: NDArray[np.floating], at: NDArray[np.intp], size: int, min_instruments: int
) -> tuple[NDArray[np.float64], int]:
    """Distance from the timestamp's mean in sample standard deviations (n - 1), and how many timestamps were refused.

    Parameters
    ----------
    values
        One value a row, shape (rows,); NaN and infinities do not count.
    at, size
        Which timestamp each row belongs to, in [0, size), shape (rows,), and how many timestamps there are.
    min_instruments
        Timestamps with fewer finite values are refused.

    Returns
    -------
    Shape (rows,), computed in float64: NaN where the value is not finite, its timestamp is refused, or all its finite
    values are equal.

    """
    finite = np.isfinite(values)
    known = np.where(finite, values, 0.0).astype(np.float64)
    count = np.bincount(at, weights=finite, minlength=size)
    mean = np.bincount(at, weights=known, minlength=size) / np.maximum(count, 1)
    deviation = np.where(finite, known - mean[at], 0.0)
    variance = np.bincount(at, weights=deviation * deviation, minlength=size) / np.maximum(count - 1, 1)
    low, high = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(low, at[finite], known[finite])
    np.maximum.at(high, at[finite], known[finite])
    # equality is compared exactly: the variance of equal values is not always exactly zero
    usable = (count >= min_instruments) & (high > low)
    scores = np.full(values.shape, np.nan)
    rows = finite & usable[at]
    scores[rows] = deviation[rows] / np.sqrt(variance[at[rows]])
    return scores, int(np.count_nonzero((count > 0) & (count < min_instruments)))
