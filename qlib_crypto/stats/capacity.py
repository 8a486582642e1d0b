"""How large an account a strategy can carry: what its own orders would cost as they grow.

An order of notional q in a bar with dollar volume V and volatility s (a fraction, of returns of such bars) pays

    cost fraction = coefficient x s x sqrt(q / V)

on top of what the run paid. Source: the square-root law, Torre (1997), BARRA Market Impact Model; Almgren, Thum,
Hauptmann and Li (2005) and Tóth et al. (2011) measure coefficients near one on daily V and s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlib_crypto.stats.returns import annualised_sharpe

__all__ = ["MULTIPLES", "CapacityCurve", "capacity_curve", "impact_costs", "multiple_where"]

#: Sizes of the account at which the curve is drawn, as multiples of the run's.
MULTIPLES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)

Floats = NDArray[np.float64]


class CapacityCurve(NamedTuple):
    """What is left as the account grows, arrays of shape (k,).

    `multiple` of the run's account, 0.0 (no impact: the run as it was) first; `net_return` compounded over the run, a
    fraction, -1.0 once everything was lost; `sharpe` annualised, NaN once everything was lost.
    """

    multiple: Floats
    net_return: Floats
    sharpe: Floats


def impact_costs(notional: ArrayLike, volume: ArrayLike, volatility: ArrayLike, coefficient: float) -> Floats:
    """What each fill's own impact costs, quote coin ≥ 0, shape (F,); see the module for the formula.

    NaN where a fill's volume or volatility is missing, or its volume is not positive: an unknown market is no deep one.

    Parameters
    ----------
    notional
        Shape (F,), quote coin; its sign does not matter.
    volume
        Shape (F,), traded in the fill's bar by everybody, quote coin.
    volatility
        Shape (F,) or one number, standard deviation of the returns of such bars, a fraction.
    coefficient
        Of the square root; see `qlib_crypto.stats.impact.fit_impact`.

    Raises
    ------
    ValueError
        When the coefficient is negative.

    """
    if coefficient < 0:
        raise ValueError(f"coefficient {coefficient} is negative: an order would improve its own price")
    size, market = np.abs(np.asarray(notional, dtype=np.float64)), np.asarray(volume, dtype=np.float64)
    spread = np.asarray(volatility, dtype=np.float64)
    known = np.isfinite(market) & (market > 0) & np.isfinite(spread) & (spread >= 0)
    cost = coefficient * spread * np.sqrt(size / np.where(known, market, 1.0)) * size
    return np.where(size == 0, 0.0, np.where(known, cost, np.nan))


def capacity_curve(
    returns: ArrayLike,
    costs: ArrayLike,
    steps_per_year: float,
    multiples: Sequence[float] = MULTIPLES,
) -> CapacityCurve:
    """The net return and the Sharpe ratio of the run with its account multiplied.

    With the account times m each order is m times as large and its cost fraction sqrt(m) times as high, so that a
    step's return falls by sqrt(m) x cost. Weights and fills stay those of the run: it is not traded again with less.

    Parameters
    ----------
    returns
        Shape (n,), simple net returns of the steps. Those of a run without impact; a slippage it paid stays.
    costs
        Shape (n,): a step's summed `impact_costs` over the equity it began with. One NaN, a fill whose market is
        unknown, makes the curve NaN beyond multiple 0: a capacity that leaves out such fills would be too large.
    steps_per_year
        See `qlib_crypto.stats.returns.steps_in_year`.
    multiples
        Above 0 and ascending.

    Raises
    ------
    ValueError
        When the shapes differ, or the multiples are not as said.

    """
    earned, paid = np.asarray(returns, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    sizes = np.concatenate([[0.0], np.asarray(multiples, dtype=np.float64)])
    if earned.shape != paid.shape:
        raise ValueError(f"returns {earned.shape} and costs {paid.shape} must have one shape")
    if not (np.diff(sizes) > 0).all():
        raise ValueError(f"multiples {tuple(multiples)} must be above 0 and ascending")
    results = [_result(earned - math.sqrt(size) * paid if size else earned, steps_per_year) for size in sizes]
    return CapacityCurve(sizes, np.array([net for net, _ in results]), np.array([sharpe for _, sharpe in results]))


def multiple_where(curve: CapacityCurve, share: float) -> float:
    """The multiple of the account at which the net return is `share` (0.5, 0.0) of that without impact.

    Between two points of the curve the return is taken as linear in sqrt(multiple), which it is for small steps.
    NaN when the return without impact is not positive, where the curve is unknown, and when it does not fall so far
    within its multiples.

    Raises
    ------
    ValueError
        When `share` is not in [0, 1).

    """
    if not 0 <= share < 1:
        raise ValueError(f"share {share} must lie in [0, 1)")
    root, net = np.sqrt(curve.multiple), curve.net_return
    if not np.isfinite(net).all() or net[0] <= 0:
        return math.nan
    target = share * net[0]
    under = np.flatnonzero(net <= target)
    if under.size == 0:
        return math.nan
    after = int(under[0])
    before = after - 1
    part = (net[before] - target) / (net[before] - net[after])
    return float((root[before] + part * (root[after] - root[before])) ** 2)


def _result(returns: Floats, steps_per_year: float) -> tuple[float, float]:
    if returns.size == 0 or np.isnan(returns).any():
        return math.nan, math.nan
    if (returns <= -1).any():
        return -1.0, math.nan
    return float(np.prod(1.0 + returns) - 1.0), annualised_sharpe(returns, steps_per_year)
