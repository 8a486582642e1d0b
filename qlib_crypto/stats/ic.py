"""The information coefficient: how well predictions order what came, instrument against instrument.

Arrays have shape (T, N): T timestamps by N instruments, NaN (or an infinity) where an instrument has no value.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MIN_NAMES", "average_ranks", "icir", "mean_ic", "pearson_ic", "rank_ic"]

#: The fewest instruments with both values at a timestamp for an IC there; with fewer it is mostly ±1 by chance.
MIN_NAMES = 5

Floats = NDArray[np.float64]


def pearson_ic(prediction: ArrayLike, label: ArrayLike, *, min_names: int = MIN_NAMES) -> Floats:
    """Pearson's correlation of prediction and label across instruments, one a timestamp, shape (T,).

    Only instruments with both values count. NaN where fewer than `min_names` have both, or where either side is
    the same for all of them. Source: Grinold and Kahn (1999), "Active Portfolio Management", information coefficient.

    Raises
    ------
    ValueError
        When the shapes differ or are not (T, N).

    """
    x, y = _paired(prediction, label)
    return _row_correlation(x, y, min_names)


def rank_ic(prediction: ArrayLike, label: ArrayLike, *, min_names: int = MIN_NAMES) -> Floats:
    """Spearman's correlation across instruments, one a timestamp, shape (T,): Pearson's on ranks, ties averaged.

    Ranks are taken among the instruments that have both values; NaN as in `pearson_ic`.
    Source: Spearman (1904); with ties the Pearson form is the exact one, the 6 Σd² shortcut is not.

    Raises
    ------
    ValueError
        When the shapes differ or are not (T, N).

    """
    x, y = _paired(prediction, label)
    return _row_correlation(average_ranks(x), average_ranks(y), min_names)


def average_ranks(values: ArrayLike) -> Floats:
    """Each value's rank within its row, from 1, equal values sharing their mean rank; shape (T, N).

    NaN and infinities have no rank (NaN) and take no place.
    """
    table = np.asarray(values, dtype=np.float64)
    rows, width = table.shape
    missing = ~np.isfinite(table)
    order = np.argsort(np.where(missing, np.nan, table), axis=1, kind="stable")
    ordered = np.take_along_axis(np.where(missing, np.nan, table), order, axis=1)
    place = np.broadcast_to(np.arange(width), (rows, width))
    fresh = np.ones((rows, width), dtype=bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]  # NaN differs from NaN: each is a group of its own
    last = np.ones((rows, width), dtype=bool)
    last[:, :-1] = fresh[:, 1:]
    first_of_group = np.maximum.accumulate(np.where(fresh, place, 0), axis=1)
    last_of_group = np.minimum.accumulate(np.where(last, place, width - 1)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty_like(table)
    np.put_along_axis(ranks, order, (first_of_group + last_of_group) / 2.0 + 1.0, axis=1)
    ranks[missing] = np.nan
    return ranks


def mean_ic(ic: ArrayLike) -> float:
    """The plain mean over timestamps that have an IC; NaN without one."""
    values = np.asarray(ic, dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(np.mean(values)) if values.size else math.nan


def icir(ic: ArrayLike) -> float:
    """The mean IC over its sample standard deviation (n - 1) across timestamps, not annualised.

    NaN for fewer than two finite values or when all are equal. Source: Grinold and Kahn (1999).
    """
    values = np.asarray(ic, dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0 or np.ptp(values) == 0:
        return math.nan
    return float(np.mean(values) / np.std(values, ddof=1))


def _paired(prediction: ArrayLike, label: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(prediction, dtype=np.float64), np.asarray(label, dtype=np.float64)
    if x.ndim != 2 or x.shape != y.shape:  # noqa: PLR2004 - timestamps by instruments
        raise ValueError(f"prediction {x.shape} and label {y.shape} must both have shape (timestamps, instruments)")
    both = np.isfinite(x) & np.isfinite(y)
    return np.where(both, x, np.nan), np.where(both, y, np.nan)


def _row_correlation(x: Floats, y: Floats, min_names: int) -> Floats:
    both = np.isfinite(x)
    names = both.sum(axis=1)
    usable = (names >= max(min_names, 2)) & ~_constant(x, both) & ~_constant(y, both)
    out = np.full(x.shape[0], np.nan)
    if usable.any():
        both = both[usable]
        dx, dy = _deviations(x[usable], both), _deviations(y[usable], both)
        out[usable] = np.clip((dx * dy).sum(axis=1) / np.sqrt((dx * dx).sum(axis=1) * (dy * dy).sum(axis=1)), -1, 1)
    return out


def _constant(values: Floats, both: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # compared exactly: a standard deviation of equal values is not always exactly zero
    low = np.where(both, values, np.inf).min(axis=1, initial=np.inf)
    high = np.where(both, values, -np.inf).max(axis=1, initial=-np.inf)
    constant: NDArray[np.bool_] = low >= high
    return constant


def _deviations(values: Floats, both: NDArray[np.bool_]) -> Floats:
    # scaled to at most one, so that squares of tiny or huge predictions neither vanish nor overflow
    mean = np.where(both, values, 0.0).sum(axis=1, keepdims=True) / both.sum(axis=1, keepdims=True)
    deviation = np.where(both, values - mean, 0.0)
    scaled: Floats = deviation / np.abs(deviation).max(axis=1, keepdims=True)
    return scaled
