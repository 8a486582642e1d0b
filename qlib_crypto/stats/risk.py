"""How much can be lost: tails, shape and length of losses, and what was held against what was there.

The conventions of `qlib_crypto.stats.returns` hold: returns are fractions, NaN and infinities are missing, and a
number that does not exist is NaN, never an infinity. Value at risk and expected shortfall are losses: above 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlib_crypto.clock import DAY_MS
from qlib_crypto.stats.returns import drawdown_series, step_returns

__all__ = [
    "Exposures",
    "daily_returns",
    "excess_kurtosis",
    "expected_shortfall",
    "exposures",
    "hit_rates",
    "longest_under_water",
    "profit_factor",
    "rolling_value_at_risk",
    "skewness",
    "value_at_risk",
    "win_rate",
]

Floats = NDArray[np.float64]


def value_at_risk(returns: ArrayLike, level: float = 0.95) -> float:
    """The loss that a share `level` of the returns stayed at or under, as a fraction: 0.02 is a loss of 2 %.

    Minus the k-th lowest return with k = ceil(n x (1 - level)), the inverse of the empirical distribution: a return
    that was observed, nothing between two. Negative when even that one was a gain. Not annualised.
    NaN when the tail holds less than one return: below 20 of them at 0.95, below 100 at 0.99.
    Source: Jorion (2006), "Value at Risk", historical simulation; definition 1 of Hyndman and Fan (1996).

    Raises
    ------
    ValueError
        When `level` is not between 0 and 1.

    """
    values, tail = _tail(returns, level)
    if tail < 1:
        return math.nan
    k = math.ceil(tail)
    return float(-np.partition(values, k - 1)[k - 1]) + 0.0


def expected_shortfall(returns: ArrayLike, level: float = 0.95) -> float:
    """The mean loss in the worst share 1 - `level` of the returns, as a fraction; never below `value_at_risk`.

    With m = n x (1 - level): minus the sum of the floor(m) lowest returns and of the next one's part m - floor(m),
    over m. NaN as in `value_at_risk`. Source: Acerbi and Tasche (2002), "On the coherence of expected shortfall".

    Raises
    ------
    ValueError
        When `level` is not between 0 and 1.

    """
    values, tail = _tail(returns, level)
    if tail < 1:
        return math.nan
    whole = math.floor(tail)
    lowest = np.sort(np.partition(values, min(whole, values.size - 1))[: whole + 1])
    total = float(lowest[:whole].sum())
    if tail > whole:
        total += (tail - whole) * float(lowest[whole])
    return -total / tail + 0.0


def rolling_value_at_risk(returns: ArrayLike, window: int, level: float = 0.95) -> Floats:
    """The value at risk as it was known before each return: of the `window` returns before it, shape (n,).

    NaN for the first `window` returns and where one of the window is missing.

    Raises
    ------
    ValueError
        When `level` is not between 0 and 1, or the window too short for it to have a tail.

    """
    values = np.asarray(returns, dtype=np.float64)
    _, tail = _tail(np.zeros(window), level)
    if tail < 1:
        raise ValueError(f"window {window} has no whole return in the tail at level {level}")
    out = np.full(values.size, np.nan)
    if values.size > window:
        k = math.ceil(tail) - 1
        windows = np.lib.stride_tricks.sliding_window_view(values[:-1], window)
        lowest = np.partition(windows, k, axis=1)[:, k]
        out[window:] = np.where(np.isfinite(windows).all(axis=1), -lowest, np.nan)
    return out


def daily_returns(equity: ArrayLike, time_ms: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """The return of each whole UTC day, from 00:00 to 00:00, a fraction, and when each day began, Unix milliseconds.

    In time order. A day that the span holds only in part has no return and no place in the result, nor has one
    without an equity at either end.

    Parameters
    ----------
    equity
        Shape (n + 1,), quote coin, the starting equity first.
    time_ms
        When each was so, Unix milliseconds UTC, ascending, same shape.

    """
    values, times = np.asarray(equity, dtype=np.float64), np.asarray(time_ms, dtype=np.int64)
    midnight = np.flatnonzero(times % DAY_MS == 0)
    if midnight.size < 2:  # noqa: PLR2004 - a day has two ends
        return np.empty(0), np.empty(0, dtype=np.int64)
    returns = step_returns(values[midnight])
    day = (np.diff(times[midnight]) == DAY_MS) & np.isfinite(returns)
    return returns[day], times[midnight[:-1]][day]


def win_rate(results: ArrayLike) -> float:
    """The share of results above 0 among those that are not 0: of returns, or of trades' profits.

    A step without a position says nothing, so a result of exactly 0 doesn't count. NaN when there is no other.
    """
    values = _finite(results)
    decided = int(np.count_nonzero(values))
    return float(np.count_nonzero(values > 0)) / decided if decided else math.nan


def profit_factor(results: ArrayLike) -> float:
    """The sum of the gains over the sum of the losses, above 1 when more was gained; NaN without a loss."""
    values = _finite(results)
    lost = -float(values[values < 0].sum())
    return float(values[values > 0].sum()) / lost if lost > 0 else math.nan


def skewness(returns: ArrayLike) -> float:
    """The third standardised moment, adjusted for the sample's size: below 0 when losses have the longer tail.

    NaN for fewer than three finite returns or when all are equal. Source: Joanes and Gill (1998), G1.
    """
    scaled = _standardised(returns)
    n = scaled.size
    if n < 3:  # noqa: PLR2004 - the adjustment divides by n - 2
        return math.nan
    return float(np.mean(scaled**3) * math.sqrt(n * (n - 1)) / (n - 2))


def excess_kurtosis(returns: ArrayLike) -> float:
    """The fourth standardised moment less 3, adjusted for the sample's size: 0 for a normal distribution.

    NaN for fewer than four finite returns or when all are equal. Source: Joanes and Gill (1998), G2.
    """
    scaled = _standardised(returns)
    n = scaled.size
    if n < 4:  # noqa: PLR2004 - the adjustment divides by n - 3
        return math.nan
    return float((n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (np.mean(scaled**4) - 3.0) + 6.0))


def longest_under_water(equity: ArrayLike) -> float:
    """The longest way from a high until it was reached again, or until the end, in steps; 0.0 without a fall.

    The high is the last time it was touched; a gap does not end the way. NaN without a finite positive equity.
    """
    falls = drawdown_series(equity)
    known = np.flatnonzero(np.isfinite(falls))
    if known.size == 0:
        return math.nan
    highs = known[falls[known] == 0]
    ends = np.append(highs[1:], known[-1])
    fell = np.append(0, np.cumsum(falls < 0))
    ways = (ends - highs)[fell[ends + 1] - fell[highs] > 0]
    return float(ways.max(initial=0))


class Exposures(NamedTuple):
    """What was held at each step's close, each of shape (T,).

    `long` ≥ 0, `short` ≤ 0, `gross` = long - short and `net` = long + short in quote coin; `leverage` is gross and
    `net_leverage` net over equity, NaN where the equity is missing or not positive; `concentration` is the largest
    |notional| over gross, NaN where nothing is held; `names` is the number of instruments held.
    """

    long: Floats
    short: Floats
    gross: Floats
    net: Floats
    leverage: Floats
    net_leverage: Floats
    concentration: Floats
    names: NDArray[np.int64]


def exposures(notional: ArrayLike, equity: ArrayLike) -> Exposures:
    """The exposures of signed positions `notional` (T, N), quote coin, and `equity` (T,); NaN holds nothing."""
    held = np.nan_to_num(np.asarray(notional, dtype=np.float64), nan=0.0)
    capital = np.asarray(equity, dtype=np.float64)
    long, short = np.maximum(held, 0.0).sum(axis=1), np.minimum(held, 0.0).sum(axis=1)
    gross, net = long - short, long + short
    positive = np.isfinite(capital) & (capital > 0)
    safe, some = np.where(positive, capital, np.nan), gross > 0
    largest = np.abs(held).max(axis=1, initial=0.0)
    return Exposures(
        long,
        short,
        gross,
        net,
        gross / safe,
        net / safe,
        np.where(some, largest / np.where(some, gross, 1.0), np.nan),
        np.count_nonzero(held, axis=1),
    )


def hit_rates(notional: ArrayLike, returns: ArrayLike) -> tuple[float, float]:
    """How often a price went the position's way, of longs and of shorts: shares of held instruments and steps.

    Both tables have shape (T, N): `notional` signed as held at the *start* of the step, `returns` of the price in it.
    A price that stood still, and one that is unknown, does not count. NaN where there was no long, or no short.
    """
    held, moved = np.asarray(notional, dtype=np.float64), np.asarray(returns, dtype=np.float64)
    known = np.isfinite(held) & np.isfinite(moved) & (moved != 0)
    long, short = known & (held > 0), known & (held < 0)
    return _share(moved[long] > 0), _share(moved[short] < 0)


def _tail(returns: ArrayLike, level: float) -> tuple[Floats, float]:
    """The finite returns, and how many of them the tail holds."""
    if not 0 < level < 1:
        raise ValueError(f"level {level} must lie between 0 and 1")
    values = _finite(returns)
    return values, round(values.size * (1.0 - level), 9)  # else 100 x (1 - 0.99) is more than one


def _standardised(returns: ArrayLike) -> Floats:
    values = _finite(returns)
    if values.size == 0 or np.ptp(values) == 0:
        return np.empty(0)
    deviation = values - values.mean()
    deviation /= np.abs(deviation).max()  # squares of tiny or huge values neither vanish nor overflow
    scaled: Floats = deviation / math.sqrt(float(np.mean(deviation**2)))
    return scaled


def _share(hits: NDArray[np.bool_]) -> float:
    return float(hits.mean()) if hits.size else math.nan


def _finite(values: ArrayLike) -> Floats:
    array: Floats = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]
