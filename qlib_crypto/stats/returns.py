"""Statistics of an equity curve and of its step returns.

Conventions, the same in every function:

* `equity` is an array of shape (n + 1,): the starting equity first, then the equity at each of n step closes,
  in quote coin.
* `returns` is an array of shape (n,): simple returns of the steps, as fractions (0.01 is one percent).
* `steps_per_year` is 365 days of 24 hours over the step's length (`steps_in_year`): markets never close.
* NaN and infinities are missing: they are left out, never filled. A value that does not exist (too few steps,
  no spread, no loss) is NaN, never an infinity.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlib_crypto.clock import DAY_MS

__all__ = [
    "Drawdown",
    "annualised_return",
    "annualised_sharpe",
    "annualised_volatility",
    "calmar",
    "drawdown_series",
    "max_drawdown",
    "sortino",
    "step_returns",
    "steps_in_year",
    "total_return",
    "worst_drawdown",
]

YEAR_MS = 365 * DAY_MS

Floats = NDArray[np.float64]


class Drawdown(NamedTuple):
    """A fall from a peak: `depth` ≤ 0 as a fraction of the peak, and the positions in `equity` of peak and trough.

    `recovered` is the first position after the trough that reaches the peak again, None while under water.
    Without a finite equity `depth` is NaN and both positions are 0.
    """

    depth: float
    peak: int
    trough: int
    recovered: int | None


def steps_in_year(step_ms: int) -> float:
    """How many steps of `step_ms` milliseconds 365 days of 24 hours hold: 8760.0 for one hour.

    Source: perpetuals trade without a break; a calendar year of 365 days is the venues' own convention for rates.
    """
    return YEAR_MS / step_ms


def step_returns(equity: ArrayLike) -> Floats:
    """The simple return of each step, shape (n,), from equity of shape (n + 1,); a fraction.

    NaN where either end is missing or the start is not positive: what is lost cannot earn a return.
    """
    values = _floats(equity)
    if values.size == 0:
        return values
    start, end = values[:-1], values[1:]
    valid = np.isfinite(start) & np.isfinite(end) & (start > 0)
    return np.where(valid, end / np.where(valid, start, 1.0) - 1.0, np.nan)


def total_return(equity: ArrayLike) -> float:
    """The last finite equity over the first, less one; a fraction, below -1 when more than everything was lost.

    NaN without a finite equity or when the first is not positive; 0.0 for a single one.
    """
    values = _finite(equity)
    if values.size == 0 or values[0] <= 0:
        return math.nan
    return float(values[-1] / values[0] - 1.0)


def annualised_return(equity: ArrayLike, steps_per_year: float) -> float:
    """The constant yearly return that compounds to the total return; a fraction, -1 when everything was lost.

    (last / first) ** (steps_per_year / n) - 1 with n the steps from the first to the last finite equity. NaN when
    there is no step, or when so short a span compounds beyond the range of a float.
    """
    values = _floats(equity)
    at = np.flatnonzero(np.isfinite(values))
    if at.size == 0 or at[-1] == at[0] or values[at[0]] <= 0:
        return math.nan
    growth = float(values[at[-1]] / values[at[0]])
    if growth <= 0:
        return -1.0
    exponent = math.log(growth) * steps_per_year / float(at[-1] - at[0])
    return math.expm1(exponent) if exponent < math.log(np.finfo(np.float64).max) else math.nan


def annualised_volatility(returns: ArrayLike, steps_per_year: float) -> float:
    """The sample standard deviation (n - 1) of the step returns times sqrt(steps_per_year); a fraction.

    NaN for fewer than two finite returns.
    """
    values = _finite(returns)
    if values.size < 2:  # noqa: PLR2004 - a sample standard deviation needs two
        return math.nan
    return float(np.std(values, ddof=1) * math.sqrt(steps_per_year))


def annualised_sharpe(returns: ArrayLike, steps_per_year: float) -> float:
    """The mean step return over its sample standard deviation (n - 1), times sqrt(steps_per_year).

    No risk-free rate is taken off: margin in quote coin earns none. NaN for fewer than two finite returns or when
    all are equal. Source: Sharpe (1994), "The Sharpe Ratio"; the square root assumes uncorrelated steps (Lo 2002).
    """
    values = _finite(returns)
    if values.size == 0 or np.ptp(values) == 0:
        return math.nan
    return float(np.mean(values) / np.std(values, ddof=1) * math.sqrt(steps_per_year))


def sortino(returns: ArrayLike, steps_per_year: float) -> float:
    """The mean step return over its downside deviation sqrt(mean(min(r, 0) ** 2)), times sqrt(steps_per_year).

    The mean of squares is over all finite returns, gains counting as 0. NaN without a loss.
    Source: Sortino and Price (1994), target return 0.
    """
    values = _finite(returns)
    downside = math.sqrt(float(np.mean(np.minimum(values, 0.0) ** 2))) if values.size else 0.0
    if downside == 0:
        return math.nan
    return float(np.mean(values) / downside * math.sqrt(steps_per_year))


def calmar(equity: ArrayLike, steps_per_year: float) -> float:
    """The annualised return over the depth of the worst drawdown; NaN without a drawdown.

    Source: Young (1991), here over the whole span instead of 36 months.
    """
    depth = max_drawdown(equity)
    return annualised_return(equity, steps_per_year) / -depth if depth < 0 else math.nan


def drawdown_series(equity: ArrayLike) -> Floats:
    """Equity over its highest value so far, less one; the shape of `equity`, ≤ 0, a fraction of the peak.

    NaN where the equity is missing, and as long as no positive equity was seen; a peak outlasts a gap.
    """
    values = _floats(equity)
    finite = np.isfinite(values)
    peak = np.maximum.accumulate(np.where(finite, values, -np.inf)) if values.size else values
    valid = finite & (peak > 0)
    return np.where(valid, values / np.where(valid, peak, 1.0) - 1.0, np.nan)


def max_drawdown(equity: ArrayLike) -> float:
    """The deepest value of `drawdown_series`: -0.25 when a quarter of a peak was lost, 0.0 when nothing ever was.

    NaN without a finite positive equity.
    """
    return worst_drawdown(equity).depth


def worst_drawdown(equity: ArrayLike) -> Drawdown:
    """The deepest drawdown with where it began, bottomed and ended (see `Drawdown`); the first of equal ones.

    Positions count in `equity` as given, gaps included; the peak is the last time the high was touched.
    """
    values = _floats(equity)
    falls = drawdown_series(values)
    if not np.isfinite(falls).any():
        return Drawdown(math.nan, 0, 0, None)
    trough = int(np.nanargmin(falls))
    at_high = np.flatnonzero(falls[: trough + 1] == 0)
    peak = int(at_high[-1])
    later = np.flatnonzero(values[trough:] >= values[peak]) if trough > peak else np.array([], dtype=np.int64)
    return Drawdown(float(falls[trough]), peak, trough, trough + int(later[0]) if later.size else None)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _finite(values: ArrayLike) -> Floats:
    array = _floats(values)
    return array[np.isfinite(array)]
