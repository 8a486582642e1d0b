"""The truth that is planted in a generated market: the signal, and the information coefficient it must have.

The signal at hour t, for every symbol with a bar at t and at t-5 and a settled funding rate:

    signal = - 0.8 z(close(t) / open(t-5) - 1) - 0.6 z(funding(t))

`z` standardises over those symbols (population standard deviation; all equal gives 0), which turns the 6-hour return
into the 6-hour *residual* return: what is left after the mean of the symbols. `funding(t)` is the last settled rate, as
quoted for its interval, whose settlement (to the minute) is not after the open of bar t. So a symbol that fell behind,
and one with low funding, is expected to rise. Both come from the wire: bars after rounding to ticks, settled rates.
Hours with fewer than `MIN_CROSS_SECTION` such symbols have no signal.

The next bar's return is then, with one volatility V(t+1) for the whole market and independent standard normals g and e,

    close(t+1) / open(t+1) - 1 = V(t+1) * (loading * g + own * e + c * signal)

rounded to a tick; `c` is `signal_strength` times the standard deviation of the noise across symbols. The *residual*
return, this less the mean of the live symbols, has the conditional expectation `V(t+1) * c * signal` exactly: the
signal has mean zero, symbols without one count as zero, and the loadings meet a market factor whose mean is zero.
Opens are the previous closes, hence this is also the label `Ref($open,-2)/Ref($open,-1)-1` at t.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Hours of the reversal, the hour of the signal being the last.
REVERSAL_HOURS = 6
#: Weights of the two parts; their squares sum to 1.
REVERSAL_WEIGHT, FUNDING_WEIGHT = -0.8, -0.6
#: Smallest cross-section that has a signal.
MIN_CROSS_SECTION = 8

_NODES = 64


def standardise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cross-section less its mean over its population standard deviation; zeros when all values are equal."""
    if np.ptp(values) == 0:
        return np.zeros_like(values)
    centred = values - values.mean()
    scaled: NDArray[np.float64] = centred / np.sqrt(np.mean(centred**2))
    return scaled


def signal_row(
    first_open: NDArray[np.float64], close: NDArray[np.float64], funding: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The signal of one hour, shape (n_symbols,); NaN for a symbol without one of the three inputs.

    Parameters
    ----------
    first_open, close
        Open five hours before and close of the hour, in any unit of price; NaN where there is no bar.
    funding
        Last settled rate as of the open of the hour; NaN before the first settlement.

    """
    out = np.full(close.shape, np.nan)
    known = np.isfinite(first_open) & np.isfinite(close) & np.isfinite(funding)
    if np.count_nonzero(known) >= MIN_CROSS_SECTION:
        out[known] = REVERSAL_WEIGHT * standardise(close[known] / first_open[known] - 1)
        out[known] += FUNDING_WEIGHT * standardise(funding[known])
    return out


def noise_scale(market_loading: NDArray[np.float64], own_volatility: NDArray[np.float64]) -> float:
    """Standard deviation across all symbols of an hour's residual return without the signal, at volatility 1."""
    return math.sqrt(float(np.mean(own_volatility**2) + np.var(market_loading)))


def expected_ic(
    signal: NDArray[np.float64],
    scored: NDArray[np.bool_],
    strength: float,
    market_loading: NDArray[np.float64],
    own_volatility: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The expected Pearson correlation across symbols of each hour's signal with the next return, given the signal.

    Exact up to the rounding of prices to ticks. Centre the returns of the n scored symbols and turn them to the axes
    in which their covariance is diagonal: w ~ N(v, diag(l)), n - 1 of them. The market's volatility multiplies signal
    and noise alike, so it cancels. With `a` the unit vector of the centred signal, IC = E[a.w / |w|]; by
    `1/|w| = 2/sqrt(pi) * integral of exp(-u² |w|²) du` and the Gaussian integral over w

        IC = 2/sqrt(pi) * integral over u > 0 of prod_j (1 + 2u²l_j)^(-1/2)
             * exp(-sum_j u² v_j² / (1 + 2u²l_j)) * sum_j a_j v_j / (1 + 2u²l_j)

    Parameters
    ----------
    signal
        Shape (hours, n_symbols).
    scored
        Which symbols count in each hour, same shape; the signal must be finite there.
    strength
        `GeneratorConfig.signal_strength`.
    market_loading, own_volatility
        Of the noise, shape (n_symbols,).

    Returns
    -------
    Shape (hours,); NaN where fewer than `MIN_CROSS_SECTION` symbols are scored, their signals are all equal, or the
    market never moves.

    """
    out = np.full(len(signal), np.nan)
    scale = strength * noise_scale(market_loading, own_volatility)
    groups, group_of = np.unique(scored, axis=0, return_inverse=True)
    for group, members in enumerate(groups):
        hours = np.flatnonzero(group_of == group)
        if np.count_nonzero(members) < MIN_CROSS_SECTION or not np.any(own_volatility[members]):
            continue
        rows = signal[np.ix_(hours, members)]
        out[hours] = _expected_ic(rows, scale, market_loading[members], own_volatility[members])
    return out


def _expected_ic(
    signal: NDArray[np.float64], scale: float, loading: NDArray[np.float64], own: NDArray[np.float64]
) -> NDArray[np.float64]:
    n = len(own)
    centring = np.eye(n) - 1 / n
    covariance = centring @ (np.diag(own**2) + np.outer(loading, loading)) @ centring
    spread, axes = np.linalg.eigh(covariance)
    spread, axes = spread[1:], axes[:, 1:]  # the smallest is the direction of the mean, with no spread
    turned = signal @ axes
    length = np.sqrt(np.sum(turned**2, axis=1))
    flat = np.ptp(signal, axis=1) == 0
    mean = scale * turned
    projected = mean * turned / np.where(flat, np.nan, length)[:, None]
    # u = tan(angle) / sqrt(2 sum l) brings the half line to a quarter turn, on which the integrand is smooth
    angle, weight = np.polynomial.legendre.leggauss(_NODES)
    angle, weight = (angle + 1) * math.pi / 4, weight * math.pi / 4
    unit = 1 / math.sqrt(2 * spread.sum())
    square = (unit * np.tan(angle)) ** 2
    shrink = 1 / (1 + 2 * square * spread[:, None])
    density = np.exp(0.5 * np.log(shrink).sum(axis=0) - square * (mean**2 @ shrink))
    result: NDArray[np.float64] = (
        2 / math.sqrt(math.pi) * (density * (projected @ shrink)) @ (weight * unit / np.cos(angle) ** 2)
    )
    return result
