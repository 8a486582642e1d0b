"""The book nearest to a wanted one within caps by name, as neutral as it was."""

from __future__ import annotations

import numpy as np

from qlib_crypto.strategy.known import Floats

_ROUNDS = 100
_HALVINGS = 40
#: What a sum over weights may be off, as a part of the gross; rounding is 1e-16 a name.
EXACT = 1e-12


def nearest(target: Floats, cap: Floats, neutral: Floats) -> Floats:
    """The weights nearest to `target` within `cap` for which every row of `neutral` sums to 0.

    Minimises the sum of squared differences over weights of at most `cap`, shape (n,), each of the sign it had (a
    name without a weight gets none), with `neutral @ weights = 0`, shape (rows, n), which must hold for `target`.
    Solved in the multipliers of the rows, of which there are few, by damped Newton steps. A gross above that of
    `target` is scaled back to it.

    """
    low, high = np.where(target < 0, -cap, 0.0), np.where(target > 0, cap, 0.0)
    gross = float(np.abs(target).sum())
    if not len(neutral) or not gross:
        return np.clip(target, low, high)
    rows = neutral / np.maximum(np.abs(neutral).max(axis=1, keepdims=True), np.finfo(float).tiny)
    weights = _projected(target, low, high, rows, EXACT * gross)
    if weights is None:  # the whole book, smaller: always neutral and within the caps
        held = target != 0
        weights = target * min(1.0, float(np.min(cap[held] / np.abs(target[held]))))
    return weights * min(1.0, gross / max(float(np.abs(weights).sum()), np.finfo(float).tiny))


def _projected(target: Floats, low: Floats, high: Floats, rows: Floats, exact: float) -> Floats | None:
    at = np.zeros(len(rows))
    weights, value = _of(at, target, low, high, rows)
    for _ in range(_ROUNDS):
        slope = rows @ weights
        if np.abs(slope).max() <= exact:
            return weights
        free = rows[:, (weights > low) & (weights < high)]
        bend = free @ free.T + 1e-10 * np.eye(len(rows))
        step = np.linalg.solve(bend, slope)
        for _ in range(_HALVINGS):
            weights, better = _of(at + step, target, low, high, rows)
            if better > value or np.abs(rows @ weights).max() <= exact:
                break
            step /= 2
        else:
            return None
        at, value = at + step, better
    return None


def _of(at: Floats, target: Floats, low: Floats, high: Floats, rows: Floats) -> tuple[Floats, float]:
    """The best weights at these multipliers, and the value of the dual problem there."""
    weights = np.clip(target - at @ rows, low, high)
    away = weights - target
    return weights, float(away @ away / 2 + at @ (rows @ weights))
