"""What would be lost if prices or funding went against the book: made-up moves, and real ones replayed.

* `notional` has shape (T, N): the signed value of T step closes by N instruments, quote coin; NaN holds nothing.
* `equity` has shape (T,): the equity at the same closes, quote coin.
* A result has shape (T,): the change of equity as a fraction of it, below 0 for a loss and below -1 when more than
  everything would be lost; NaN where the equity is missing or not positive.

A move happens at once: nothing is traded, stopped or liquidated on the way. Perpetuals in quote coin are linear, so
the change is notional x move; no price falls by more than all of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Replay",
    "Stressed",
    "all_against",
    "betas",
    "funding_against",
    "large_moves",
    "market_move",
    "moves_over",
    "parallel_move",
    "replayed",
    "stressed",
]

Floats = NDArray[np.float64]
_CELLS = 4_000_000  # bounds memory: this many changes are looked at together


class Stressed(NamedTuple):
    """One scenario in three numbers: the change at the last step, the worst over all steps and its position.

    Without a finite change both are NaN and the position is None.
    """

    last: float
    worst: float
    at: int | None


class Replay(NamedTuple):
    """The worst of many moves for the book of each step: `change`, and the row of `move` that it was (-1: none)."""

    change: Floats
    move: NDArray[np.int64]


def stressed(change: ArrayLike) -> Stressed:
    """The summary of one scenario's changes (T,); the first of equally bad steps, NaN at the end stays NaN."""
    values = np.asarray(change, dtype=np.float64)
    if not np.isfinite(values).any():
        return Stressed(math.nan, math.nan, None)
    at = int(np.nanargmin(values))
    return Stressed(float(values[-1]), float(values[at]), at)


def parallel_move(notional: ArrayLike, equity: ArrayLike, move: float) -> Floats:
    """The change when all prices move by the fraction `move`: -0.2 is a fall of 20 %."""
    return _over(_held(notional).sum(axis=1) * max(move, -1.0), equity)


def all_against(notional: ArrayLike, equity: ArrayLike, move: float) -> Floats:
    """The change when what is long falls and what is short rises by |`move`|: a neutral book's worst of that size."""
    return _over(-np.abs(_held(notional)).sum(axis=1) * abs(move), equity)


def market_move(notional: ArrayLike, equity: ArrayLike, move: float, beta: ArrayLike) -> Floats:
    """The change when the market moves by `move` and each instrument by its `beta` (N,) times that, at least -1.

    Raises
    ------
    ValueError
        When a beta is missing: which one stands in for it is the caller's to decide and to say.

    """
    slope = np.asarray(beta, dtype=np.float64)
    if not np.isfinite(slope).all():
        raise ValueError(f"{int(np.count_nonzero(~np.isfinite(slope)))} of {slope.size} betas are missing")
    return _over(_held(notional) @ np.maximum(slope * move, -1.0), equity)


def funding_against(notional: ArrayLike, equity: ArrayLike, rate: ArrayLike, settlements: float) -> Floats:
    """The change when every position pays `rate` of its notional (one number or (N,)) at each of `settlements`."""
    due = np.broadcast_to(np.abs(np.asarray(rate, dtype=np.float64)), _held(notional).shape[1:])
    return _over(-(np.abs(_held(notional)) @ due) * settlements, equity)


def betas(returns: ArrayLike, market: ArrayLike, min_steps: int = 30) -> Floats:
    """The slope of each instrument's returns on the market's, least squares with an intercept, shape (N,).

    Parameters
    ----------
    returns, market
        Shapes (T, N) and (T,), fractions; a step counts where both are there.
    min_steps
        Below this number of steps, and where the market stood still in all of them, the beta is NaN.

    """
    moved, reference = np.asarray(returns, dtype=np.float64), np.asarray(market, dtype=np.float64)[:, None]
    both = np.isfinite(moved) & np.isfinite(reference)
    steps = both.sum(axis=0)
    some = np.maximum(steps, 1)
    x, y = np.where(both, reference, 0.0), np.where(both, moved, 0.0)
    dx = np.where(both, x - x.sum(axis=0) / some, 0.0)
    spread = (dx * dx).sum(axis=0)
    usable = (steps >= max(min_steps, 2)) & (spread > 0)
    return np.where(usable, (dx * y).sum(axis=0) / np.where(usable, spread, 1.0), np.nan)


def moves_over(returns: ArrayLike, steps: int) -> Floats:
    """The compounded move of every `steps` steps on end, shape (T - steps + 1, N), row t beginning with step t.

    NaN where one of the returns is missing.
    """
    growth = 1.0 + np.asarray(returns, dtype=np.float64)
    if steps > growth.shape[0]:
        return np.empty((0, growth.shape[1]))
    rows = growth.shape[0] - steps + 1
    out, power, size, done = np.ones((rows, growth.shape[1])), growth, 1, 0
    while done < steps:  # products over 1, 2, 4 … steps make any length in few passes
        if steps & size:
            out *= power[done : done + rows]
            done += size
        power, size = power[:-size] * power[size:], 2 * size
    return out - 1.0


def large_moves(moves: ArrayLike, count: int) -> NDArray[np.int64]:
    """The rows of `moves` (R, N) with the largest mean |move|, at most `count`, in time order; empty rows never."""
    table = np.abs(np.asarray(moves, dtype=np.float64))
    known = np.isfinite(table)
    size = np.where(known, table, 0.0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    rows = np.flatnonzero(known.any(axis=1))
    return np.sort(rows[np.argsort(-size[rows], kind="stable")[:count]])


def replayed(notional: ArrayLike, equity: ArrayLike, moves: ArrayLike) -> Replay:
    """The worst of the real `moves` (R, N), fractions, for what was held at each step: historical simulation.

    An instrument whose move is missing, not listed then or not known, moves as the others did on average: a zero
    would make new coins harmless. Source: Jorion (2006), "Value at Risk", with the worst case for the quantile.
    """
    held, table = _held(notional), np.asarray(moves, dtype=np.float64)
    change, move = np.full(held.shape[0], np.nan), np.full(held.shape[0], -1, dtype=np.int64)
    seen = np.flatnonzero(np.isfinite(table).any(axis=1))
    if seen.size == 0:
        return Replay(change, move)
    past = _completed(table[seen])
    rows = max(1, _CELLS // seen.size)
    for first in range(0, held.shape[0], rows):
        part = held[first : first + rows] @ past.T
        worst = part.argmin(axis=1)
        move[first : first + rows] = seen[worst]
        change[first : first + rows] = np.take_along_axis(part, worst[:, None], axis=1)[:, 0]
    change = _over(change, equity)
    return Replay(change, np.where(np.isfinite(change), move, -1))


def _completed(moves: Floats) -> Floats:
    known = np.isfinite(moves)
    mean = np.where(known, moves, 0.0).sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True)
    completed: Floats = np.where(known, moves, mean)
    return completed


def _held(notional: ArrayLike) -> Floats:
    return np.nan_to_num(np.asarray(notional, dtype=np.float64), nan=0.0)


def _over(change: Floats, equity: ArrayLike) -> Floats:
    capital = np.asarray(equity, dtype=np.float64)
    positive = np.isfinite(capital) & (capital > 0)
    return np.where(positive, change / np.where(positive, capital, 1.0), np.nan) + 0.0
