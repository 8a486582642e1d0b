"""How sure a mean is when neighbouring values depend on each other: block bootstraps."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["block_length_rule", "bootstrap_standard_error", "cautious_standard_error"]

_BATCH_CELLS = 2_000_000  # bounds memory: block tables are drawn for this many blocks at a time


def block_length_rule(n: int) -> int:
    """The mean block length used when none is given: n ** (1/3) rounded up, at least 1.

    Source: the optimal rate for the variance of a mean, Hall, Horowitz and Jing (1995). When the values overlap
    (labels over several bars) pass a length of at least the overlap instead.
    """
    return max(1, math.ceil(round(math.cbrt(n), 9)))


def bootstrap_standard_error(
    values: ArrayLike,
    *,
    block_length: int | None = None,
    draws: int = 1000,
    seed: int = 0,
    kind: Literal["stationary", "circular"] = "stationary",
) -> float:
    """The standard error of the mean of a dependent series, in the unit of `values`.

    The standard deviation of the means of `draws` resampled series, each glued from blocks of the original taken on
    a circle: of geometric length with mean `block_length` (`stationary`, Politis and Romano 1994) or of exactly that
    length (`circular`, Politis and Romano 1992).

    Parameters
    ----------
    values
        Shape (n,), in time order. NaN and infinities are missing: they keep their place in a block and are left out
        of its mean, so that a gap does not make strangers neighbours.
    block_length
        Steps; `block_length_rule(n)` when None.
    draws, seed
        The same seed gives the same answer.
    kind
        Which blocks; `stationary` is less sensitive to the length, `circular` a little more precise.

    Returns
    -------
    float
        NaN for fewer than two finite values.

    Raises
    ------
    ValueError
        When `block_length` or `draws` is not positive (two draws at least).

    """
    series = np.asarray(values, dtype=np.float64)
    length = block_length_rule(series.size) if block_length is None else block_length
    if length < 1 or draws < 2:  # noqa: PLR2004 - a standard deviation needs two
        raise ValueError(f"block_length {length} must be at least 1 and draws {draws} at least 2")
    finite = np.isfinite(series)
    if finite.sum() < 2:  # noqa: PLR2004 - a standard deviation needs two
        return math.nan
    centre = series[finite].mean()  # taken off first: sums over blocks then lose no digits
    sums = _doubled_prefix(np.where(finite, series - centre, 0.0))
    counts = _doubled_prefix(finite.astype(np.float64))
    rng = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    left = draws
    while left:
        starts, lengths = _blocks(rng, series.size, min(length, series.size), left, kind)
        count = (counts[starts + lengths] - counts[starts]).sum(axis=1)
        total = (sums[starts + lengths] - sums[starts]).sum(axis=1)
        means.append(total[count > 0] / count[count > 0])
        left -= starts.shape[0]
    resampled = np.concatenate(means)
    return float(np.std(resampled, ddof=1)) if resampled.size > 1 else math.nan


def cautious_standard_error(values: ArrayLike, *, block_length: int | None = None) -> float:
    """The larger of the stationary block bootstrap's standard error of the mean and that of independent values.

    The bootstrap of few blocks scatters and is biased downwards, so alone it can claim more than `n` independent
    values would tell (std / sqrt(n)). Where neighbours resemble each other it is the larger one and counts.
    `values` and `block_length` as in `bootstrap_standard_error`; NaN for fewer than two finite values.
    """
    series = np.asarray(values, dtype=np.float64)
    finite = series[np.isfinite(series)]
    if finite.size < 2:  # noqa: PLR2004 - a standard deviation needs two
        return math.nan
    independent = float(np.std(finite, ddof=1)) / math.sqrt(finite.size)
    return float(np.fmax(independent, bootstrap_standard_error(series, block_length=block_length)))


def _doubled_prefix(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate(([0.0], np.cumsum(np.concatenate((values, values)))))


def _blocks(
    rng: np.random.Generator, n: int, length: int, left: int, kind: Literal["stationary", "circular"]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and lengths of the blocks of some draws, shape (draws, blocks); the lengths of a row sum to n."""
    blocks = -(-n // length)
    if kind == "stationary":
        blocks += math.ceil(12 * math.sqrt(blocks)) + 12  # 12 deviations more than the mean: never too few in practice
    draws = max(1, min(left, _BATCH_CELLS // blocks))
    starts = rng.integers(0, n, size=(draws, blocks))
    if kind == "circular":
        ends = np.broadcast_to(np.minimum(np.arange(1, blocks + 1) * length, n), (draws, blocks))
    else:
        drawn = np.minimum(rng.geometric(1.0 / length, size=(draws, blocks)), n)
        ends = np.minimum(np.cumsum(drawn, axis=1), n)
        ends[:, -1] = n
    lengths = np.diff(ends, axis=1, prepend=0)
    return starts, lengths
