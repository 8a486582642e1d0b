"""Bars in their order: when a strategy decides, what it held then, and what its limits leave of its wish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from qlib_crypto.strategy.known import Floats, Known, Targets
from qlib_crypto.strategy.limits import Limits

#: The wanted row of a bar from its number, the last target row and the notes to count in; None keeps the book.
Decide = Callable[[int, Floats, Counter[str]], Floats | None]

NO_SIGNAL = "no signal: position kept"


def rebalanced(
    known: Known,
    decide: Decide,
    *,
    every: int,
    limits: Limits,
    neutral: Callable[[int], Floats] | None = None,
) -> Targets:
    """The targets of every bar.

    Parameters
    ----------
    known
        The market; the limits look at it.
    decide
        Asked once it is due. None keeps the book and leaves it due in the next bar.
    every
        Bars between two rebalances.
    limits
        What each wanted row is cut to.
    neutral
        The sums over weights, shape (rows, n), that are 0 in a wanted row and must stay so within the caps; by
        default that of the weights, where it is 0.

    """
    weights = np.zeros((known.bars, len(known.names)))
    rebalance = np.zeros(known.bars, dtype=np.bool_)
    notes: Counter[str] = Counter()
    last, due = np.zeros(len(known.names)), 0
    for t in range(known.bars):
        if t < due:
            continue
        wanted = decide(t, last, notes)
        if wanted is None:
            continue
        due = t + every
        last = limits.settled(known, t, wanted, last, notes, neutral(t) if neutral else None)
        weights[t], rebalance[t] = last, True
    return Targets(weights, rebalance, dict(notes))
