"""Weights that follow the rank of the signal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from qlib_crypto.backtest.known import Floats, Known, Targets
from qlib_crypto.backtest.values import gross_value, no_others, positive, whole_numbers
from qlib_crypto.strategy.limits import Limits
from qlib_crypto.strategy.loop import NO_SIGNAL, rebalanced

_KEYS = ("power", "gross_exposure", "rebalance_every", "min_names", "limits")


class RankWeighted:
    """Every candidate, weighted by its centred rank to a power, each leg half of `gross_exposure`.

    The centred rank is the rank by signal among the tradable names with a score, ties averaged, minus its mean; the
    weight is proportional to sign x |centred rank| ^ power within its leg. A name in the middle has none.

    Parameters
    ----------
    power
        1 is linear; above 1 the ends weigh more, below 1 less.
    gross_exposure
        Longs plus shorts over equity.
    rebalance_every
        Bars between two rebalances. One that falls on a bar without any signal waits for the next that has one.
    min_names
        Names a leg must reach (half of the candidates), otherwise the book goes flat.
    limits
        See `Limits`.

    Raises
    ------
    ConfigError
        When a parameter is out of range.

    """

    def __init__(
        self,
        *,
        power: float = 1.0,
        gross_exposure: float = 1.0,
        rebalance_every: int = 1,
        min_names: int = 1,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> None:
        given = {"power": power, "gross_exposure": gross_exposure, "rebalance_every": rebalance_every}
        self.check_values("strategy", {**given, "min_names": min_names, "limits": limits})
        self.power, self.gross_exposure, self.rebalance_every = float(power), float(gross_exposure), rebalance_every
        self.min_names, self.limits = min_names, Limits.of(limits)

    @staticmethod
    def check_values(where: str, kwargs: Mapping[str, Any]) -> None:
        """Nothing, when the given keyword arguments have values that make sense.

        Raises
        ------
        ConfigError
            Names the first that is wrong, under `where`.

        """
        no_others(where, kwargs, _KEYS)
        if "power" in kwargs:
            positive(f"{where}.power", kwargs["power"], "1.0 is linear in rank")
        gross_value(where, kwargs)
        whole_numbers(where, kwargs, {"rebalance_every": 1, "min_names": 1})
        Limits.check(kwargs.get("limits"), f"{where}.limits")

    def targets(self, known: Known) -> Targets:
        """The weights of every bar."""

        def decide(t: int, last: Floats, notes: Counter[str]) -> Floats | None:
            if np.isnan(known.signal[t]).all():
                notes[NO_SIGNAL] += 1
                return None
            row = np.zeros(len(last))
            among = np.flatnonzero(known.tradable[t] & ~np.isnan(known.signal[t]))
            if len(among) // 2 < self.min_names:
                notes[f"fewer than {self.min_names} names a leg: flat"] += 1
                return row
            rank = centred_ranks(known.signal[t, among])
            if not rank.any():
                notes["all scores equal: flat"] += 1
                return row
            sized = np.sign(rank) * np.abs(rank) ** self.power
            for side in (sized > 0, sized < 0):
                row[among[side]] = sized[side] / np.abs(sized[side]).sum() * self.gross_exposure / 2
            return row

        return rebalanced(known, decide, every=self.rebalance_every, limits=self.limits)


def centred_ranks(scores: Floats) -> Floats:
    """The rank of each score, lowest first, ties averaged, minus the mean rank; shape (n,), sum 0."""
    _, group, count = np.unique(scores, return_inverse=True, return_counts=True)
    mean = np.cumsum(count) - (count + 1) / 2
    return np.asarray(mean[group] - (len(scores) - 1) / 2)
