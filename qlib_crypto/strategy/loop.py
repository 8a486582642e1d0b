"""Bars in their order: when a strategy decides, what it held then, and what its limits leave of its wish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from qlib_crypto.backtest.known import Floats, Known, Targets
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
    betas: Floats | None = None,
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
    betas
        Shape (bars, n), finite, for a strategy whose rows have sum(w beta) = 0: they keep it within the caps.

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
        last = limits.settled(known, t, wanted, last, notes, None if betas is None else betas[t])
        weights[t], rebalance[t] = last, True
    return Targets(weights, rebalance, dict(notes))
