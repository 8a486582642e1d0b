"""Long the best, short the worst: the cross-sectional portfolio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qlib_crypto.backtest.known import Floats, Known, Targets, name_order, ranked
from qlib_crypto.backtest.values import gross_value, no_others, whole_number, whole_numbers
from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.limits import Limits
from qlib_crypto.strategy.loop import NO_SIGNAL, rebalanced

TOPK = 5
_KEYS = ("topk", "gross_exposure", "rebalance_every", "drop_buffer", "n_drop", "min_names", "limits")


class LongShortTopk:
    """Equal weights in `topk` longs and `topk` shorts by signal, each leg half of `gross_exposure`.

    A name that is not tradable is no candidate; a held one that is no candidate any more gets weight 0. What is held
    is what the last target row holds.

    Parameters
    ----------
    topk
        Names a leg; half of the candidates where there are fewer.
    gross_exposure
        Longs plus shorts over equity.
    rebalance_every
        Bars between two rebalances. One that falls on a bar without any signal waits for the next that has one.
    drop_buffer
        A held name stays until it falls out of the first `topk + drop_buffer` of its leg.
    n_drop
        At most that many held candidates of a leg are replaced in a rebalance, the worst first; None for no limit.
        Names that are no candidates any more leave besides.
    min_names
        Names a leg must reach, otherwise the book goes flat; `topk` when None. A shorter leg keeps its exposure.
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
        topk: int = TOPK,
        gross_exposure: float = 1.0,
        rebalance_every: int = 1,
        drop_buffer: int = 0,
        n_drop: int | None = None,
        min_names: int | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> None:
        given = {"topk": topk, "gross_exposure": gross_exposure, "rebalance_every": rebalance_every, "limits": limits}
        self.check_values("strategy", {**given, "drop_buffer": drop_buffer, "n_drop": n_drop, "min_names": min_names})
        self.topk, self.gross_exposure, self.rebalance_every = topk, float(gross_exposure), rebalance_every
        self.drop_buffer, self.n_drop = drop_buffer, n_drop
        self.min_names = topk if min_names is None else min_names
        self.limits = Limits.of(limits)

    @staticmethod
    def check_values(where: str, kwargs: Mapping[str, Any]) -> None:
        """Nothing, when the given keyword arguments have values that make sense.

        Raises
        ------
        ConfigError
            Names the first that is wrong, under `where`.

        """
        no_others(where, kwargs, _KEYS)
        whole_numbers(where, kwargs, {"topk": 1, "rebalance_every": 1, "drop_buffer": 0})
        gross_value(where, kwargs)
        if kwargs.get("n_drop") is not None:
            whole_number(f"{where}.n_drop", kwargs["n_drop"], 1)
        if kwargs.get("min_names") is not None:
            whole_number(f"{where}.min_names", kwargs["min_names"], 1)
            topk = kwargs.get("topk", TOPK)
            if kwargs["min_names"] > topk:
                raise ConfigError(f"{where}.min_names {kwargs['min_names']} is above topk {topk}; write {topk} or less")
        Limits.check(kwargs.get("limits"), f"{where}.limits")

    @staticmethod
    def shortest_leg(kwargs: Mapping[str, Any]) -> tuple[str, int]:
        """The keyword argument that says how many names a leg must reach, and its value."""
        key = "topk" if kwargs.get("min_names") is None else "min_names"
        return key, int(kwargs.get(key, TOPK))

    def targets(self, known: Known) -> Targets:
        """The weights of every bar."""
        order = name_order(known)

        def decide(t: int, last: Floats, notes: Counter[str]) -> Floats | None:
            if np.isnan(known.signal[t]).all():
                notes[NO_SIGNAL] += 1
                return None
            return self._row(ranked(known.signal[t], known.tradable[t], order), last, notes)

        return rebalanced(known, decide, every=self.rebalance_every, limits=self.limits)

    def _row(self, best_first: Sequence[int], last: Floats, notes: Counter[str]) -> Floats:
        row = np.zeros(len(last))
        size = min(self.topk, len(best_first) // 2)
        if size < self.min_names:
            notes[f"fewer than {self.min_names} names a leg: flat"] += 1
            return row
        worst_first = best_first[::-1]
        reach = min(size + self.drop_buffer, len(best_first) // 2)
        longs = self._kept([i for i in best_first if last[i] > 0], {*best_first[:reach]}, size)
        shorts = self._kept([i for i in worst_first if last[i] < 0], {*worst_first[:reach]}, size)
        longs = _filled(longs, best_first, size, {*shorts})
        shorts = _filled(shorts, worst_first, size, {*longs})
        row[longs] = self.gross_exposure / 2 / size
        row[shorts] = -self.gross_exposure / 2 / size
        return row

    def _kept(self, held: Sequence[int], reach: set[int], size: int) -> list[int]:
        """The held names of a leg that stay; `held` best first."""
        kept = [i for i in held if i in reach][:size]
        leaving = [i for i in held if i not in kept]
        stay = 0 if self.n_drop is None else max(0, min(len(leaving) - self.n_drop, size - len(kept)))
        return kept + leaving[:stay]


def _filled(kept: list[int], leg: Sequence[int], size: int, taken: set[int]) -> list[int]:
    """`kept` and the first others of the leg, to `size`; `taken` belongs to the other leg."""
    return kept + [i for i in leg if i not in taken and i not in kept][: size - len(kept)]
