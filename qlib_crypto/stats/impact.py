"""How strongly prices move with volume: what bars alone can tell of the square-root law's coefficient."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlib_crypto.stats.significance import block_length_rule

__all__ = ["ImpactFit", "fit_impact", "trailing_scale"]

Floats = NDArray[np.float64]


class ImpactFit(NamedTuple):
    """A fitted coefficient of the square-root law.

    Attributes
    ----------
    coefficient
        Of `qlib_crypto.stats.capacity.impact_costs`; NaN when volume explains none of the moves' size.
    error
        Its standard error, NaN with it.
    slope, slope_error
        The fitted square of the coefficient and its standard error: what to test against 0.
    rest
        The part of the squared, scaled move that is there without volume (the intercept).
    bars
        Instrument-bars used.

    """

    coefficient: float
    error: float
    slope: float
    slope_error: float
    rest: float
    bars: int


def fit_impact(
    returns: ArrayLike,
    volume: ArrayLike,
    volatility: ArrayLike,
    typical_volume: ArrayLike,
    *,
    block_length: int | None = None,
) -> ImpactFit:
    """The coefficient y in |move| = y x volatility x sqrt(volume / typical volume), by least squares of squares.

    Bars have no signed volume: who bought and who sold is not in them, and signs guessed from the return itself put
    the answer into the question. So the whole volume of a bar is taken as one order of unknown side s = ±1,

        r = y x volatility x sqrt(v / V) x s + u,        u independent of s and v,

    and (r / volatility)² is regressed with an intercept on v / V: the slope is y², whatever the noise u adds to the
    level. It is Amihud's (2002) |r| against volume in square-root form (Hasbrouck 2009 uses the square root with
    signed trades). Errors are clustered by blocks of time, over which instruments and neighbouring bars depend.

    Known bias: upwards, since news moves prices and volume together (Clark 1973, Karpoff 1987) and all of that counts
    as impact; downwards, since only the imbalance pushes the price and the whole volume stands for it. The two do
    not cancel by any law. As the volatility contains the impact, y is about one at most. Read it as the order of
    magnitude of a bar's volume moving a price, not as what an order of ours costs: that needs our own fills.

    Parameters
    ----------
    returns, volume
        Shape (T,) or (T, N): the bars' simple returns and traded notional, quote coin.
    volatility, typical_volume
        Same shape: standard deviation of returns and mean volume of such bars as known *before* the bar
        (`trailing_scale`); a mean that holds the bar itself ties both sides to each other.
    block_length
        Timestamps in a block; `block_length_rule(T)` when None.

    Returns
    -------
    ImpactFit
        A bar counts where all four are finite, the volume ≥ 0 and both scales above 0. All NaN with fewer than
        three blocks or without any spread of the volume.

    Raises
    ------
    ValueError
        When the shapes differ or `block_length` is not positive.

    """
    tables = [_table(values) for values in (returns, volume, volatility, typical_volume)]
    if len({table.shape for table in tables}) > 1:
        raise ValueError(f"returns, volume and scales have shapes {[table.shape for table in tables]}; give one")
    moved, traded, scale, typical = tables
    length = block_length_rule(moved.shape[0]) if block_length is None else block_length
    if length < 1:
        raise ValueError(f"block_length {length} must be at least 1")
    known = np.isfinite(moved) & np.isfinite(traded) & (traded >= 0)
    known &= np.isfinite(scale) & (scale > 0) & np.isfinite(typical) & (typical > 0)
    block = np.broadcast_to((np.arange(moved.shape[0]) // length)[:, None], moved.shape)[known]
    y, x = (moved[known] / scale[known]) ** 2, traded[known] / typical[known]
    return _fit(x, y, block)


def trailing_scale(values: ArrayLike, window: int, *, root: bool = False) -> Floats:
    """The mean of the `window` values before each, or with `root` their root mean square; the shape of `values`.

    Along time, the first axis, (T,) or (T, N). NaN for the first `window` rows and where one of them is missing.
    The root mean square of returns is their volatility about zero.
    """
    table = _table(values)
    out = np.full(table.shape, np.nan)
    if 0 < window < table.shape[0]:
        powered = table**2 if root else table
        means = np.lib.stride_tricks.sliding_window_view(powered[:-1], window, axis=0).mean(axis=-1)
        out[window:] = np.sqrt(means) if root else means
    return out.reshape(np.shape(values))


def _fit(x: Floats, y: Floats, block: NDArray[np.int64]) -> ImpactFit:
    clusters, member = np.unique(block, return_inverse=True)
    count = clusters.size
    if count < 3 or np.ptp(x) == 0:  # noqa: PLR2004 - two parameters
        return ImpactFit(math.nan, math.nan, math.nan, math.nan, math.nan, int(x.size))
    dx = x - x.mean()
    spread = float(dx @ dx)
    slope = float(dx @ y) / spread
    rest = float(y.mean() - slope * x.mean())
    scores = np.bincount(member, weights=dx * (y - rest - slope * x), minlength=count)
    # Liang and Zeger (1986), with the usual correction for a finite number of clusters
    slope_error = math.sqrt(float(scores @ scores) * count / (count - 1)) / spread
    coefficient = math.sqrt(slope) if slope > 0 else math.nan
    return ImpactFit(coefficient, slope_error / (2 * coefficient), slope, slope_error, rest, int(x.size))


def _table(values: ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table
