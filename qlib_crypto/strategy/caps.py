"""The book nearest to a wanted one within caps by name, as neutral as it was."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from qlib_crypto.backtest.known import Floats

_DOUBLINGS = 200


def nearest(target: Floats, cap: Floats, beta: Floats | None = None) -> Floats:
    """The weights nearest to `target` within `cap` that sum to 0; all arrays (n,).

    Minimises the sum of squared differences over weights of at most `cap`, each of the sign it had (a name without a
    weight gets none), with sum(w) = 0 and, when `beta` is given, sum(w beta) = 0. A gross above that of `target` is
    scaled back to it.

    The minimum is clip(target - x - y beta) for two numbers: at a given y, x is exact from the corners of the sum,
    which is piecewise linear; y is the root of sum(w beta), which only falls.

    """
    held = target != 0
    low, high = np.where(target < 0, -cap, 0.0)[held], np.where(target > 0, cap, 0.0)[held]
    weights, wanted = np.zeros(len(target)), target[held]
    if not held.any():
        return weights
    found = _zero_sum(wanted, low, high)
    slope = np.zeros(len(wanted)) if beta is None else beta[held] - beta[held].mean()
    widest = float(np.abs(slope).max())
    if widest:
        found = _zero_beta(wanted, low, high, slope / widest)
    gross, size = float(np.abs(wanted).sum()), float(np.abs(found).sum())
    weights[held] = found * (gross / size) if size > gross else found
    return weights


def _zero_beta(wanted: Floats, low: Floats, high: Floats, slope: Floats) -> Floats:
    def beta_at(y: float) -> float:
        return float(slope @ _zero_sum(wanted - y * slope, low, high))

    here = beta_at(0.0)
    if not here:
        return _zero_sum(wanted, low, high)
    # far enough out the sum has the other sign, or is 0: no weights are within the caps and have beta 0
    end = float(np.copysign(np.abs(wanted).max(), here))
    for _ in range(_DOUBLINGS):
        if beta_at(end) * here <= 0:
            break
        end *= 2
    y = brentq(beta_at, 0.0, end, xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=500)
    return _zero_sum(wanted - y * slope, low, high)


def _zero_sum(wanted: Floats, low: Floats, high: Floats) -> Floats:
    """clip(wanted - x, low, high) with the x for which it sums to 0; low <= 0 <= high."""
    corners = np.sort(np.concatenate([wanted - high, wanted - low]))
    sums = np.clip(wanted - corners[:, None], low, high).sum(axis=1)  # falls from sum(high) to sum(low)
    after = int(np.searchsorted(-sums, 0.0))
    if after == 0:
        x = corners[0]
    else:
        before, drop = after - 1, sums[after - 1] - sums[after]
        x = corners[before] + (corners[after] - corners[before]) * sums[before] / drop
    return np.asarray(np.clip(wanted - x, low, high))
