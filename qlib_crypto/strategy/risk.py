"""Covariance and market beta of the names, as known at a bar's open: exponentially weighted, gaps allowed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qlib_crypto.backtest.known import Floats, Known


def returns_known(known: Known) -> Floats:
    """What each name returned in the bar before, shape (bars, n), fraction; NaN unless both closes are known."""
    out = np.full(known.close.shape, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        out[1:] = known.close[1:] / known.close[:-1] - 1.0
    out[~np.isfinite(out)] = np.nan
    return out


@dataclass(frozen=True)
class Ewma:
    """How returns are weighted.

    Attributes
    ----------
    half_life
        Bars after which a return counts half.
    min_returns
        Returns a name needs before it has an estimate.

    """

    half_life: float
    min_returns: int

    def weights(self, bars: int) -> Floats:
        """The weight of each of the last `bars` bars, oldest first, the newest 1."""
        return np.asarray(0.5 ** (np.arange(bars - 1, -1, -1) / self.half_life))


class Covariance:
    """The covariance of returns by bar, moved on to the bar that is asked for.

    With w the weights, r a return (0 where unknown) and k 1 where it is known, the sums run over all bars so far:
    C_ij = sum(w r_i r_j) / sqrt(sum(w k_i) sum(w k_j)), then the part `shrinkage` of every off-diagonal value is
    taken away. The mean return counts as 0. C is positive semidefinite whatever is missing; names that were seldom
    known together count as less correlated.

    """

    def __init__(self, known: Known, ewma: Ewma, shrinkage: float) -> None:
        n = len(known.names)
        self._returns, self._ewma, self._shrinkage = returns_known(known), ewma, shrinkage
        self._products, self._weight = np.zeros((n, n)), np.zeros(n)
        self._count, self._done = np.zeros(n, dtype=np.int64), 0

    def at(self, t: int) -> Floats:
        """The covariance known at the open of bar `t`, shape (n, n), a bar; NaN rows and columns without estimate.

        `t` must not go back. A variance of 0 is no estimate.

        """
        new = self._returns[self._done : t + 1]
        if len(new):
            seen = ~np.isnan(new)
            moved = np.where(seen, new, 0.0)
            weights = self._ewma.weights(len(new))
            decay = 0.5 ** (len(new) / self._ewma.half_life)
            self._products = decay * self._products + (moved * weights[:, None]).T @ moved
            self._weight = decay * self._weight + weights @ seen
            self._count += seen.sum(axis=0)
            self._done = t + 1
        known = (self._count >= self._ewma.min_returns) & (np.diag(self._products) > 0)
        scale = np.full(len(known), np.nan)
        scale[known] = 1.0 / np.sqrt(self._weight[known])
        estimate = self._products * scale[:, None] * scale
        out = estimate * (1.0 - self._shrinkage)
        np.fill_diagonal(out, np.diag(estimate))
        return np.asarray(out)


def betas(known: Known, market: int | None, ewma: Ewma) -> Floats:
    """The market beta of each name as known at each open, shape (bars, n); NaN without an estimate.

    beta_i = sum(w r_i m) / sum(w m^2), the sums over the bars so far in which both returns are known, w their
    exponential weights and the mean returns 0.

    Parameters
    ----------
    known
        The closes that the returns are of.
    market
        The column that is the market; None for the mean of the returns known in the bar.
    ewma
        How returns are weighted.

    """
    returns = returns_known(known)
    seen = ~np.isnan(returns)
    if market is None:
        count = seen.sum(axis=1)
        mean = np.where(seen, returns, 0.0).sum(axis=1) / np.maximum(count, 1)
        moves = np.where(count > 0, mean, np.nan)
    else:
        moves = returns[:, market]
    both = seen & ~np.isnan(moves)[:, None]
    joint = np.where(both, returns * moves[:, None], 0.0)
    square = np.where(both, np.square(moves)[:, None], 0.0)
    decay = 0.5 ** (1.0 / ewma.half_life)
    out = np.full(returns.shape, np.nan)
    shared, spread, count = np.zeros((3, returns.shape[1]))
    for t in range(len(returns)):
        shared, spread, count = decay * shared + joint[t], decay * spread + square[t], count + both[t]
        enough = (count >= ewma.min_returns) & (spread > 0)
        out[t, enough] = shared[enough] / spread[enough]
    return out
