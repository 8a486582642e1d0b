"""Funding carry: short what pays for being short, long what pays for being long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qlib_crypto.backtest.known import Floats, Ints, Known, Targets, name_order, ranked
from qlib_crypto.backtest.values import gross_value, no_others, number, whole_numbers, yes_or_no
from qlib_crypto.clock import HOUR_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.limits import Limits
from qlib_crypto.strategy.loop import rebalanced

TOPK = 5
_YEAR_HOURS = 365 * 24
_LEVELS = {"short_enter": 0.20, "short_exit": 0.10, "long_enter": 0.0, "long_exit": 0.10}
_KEYS = (*_LEVELS, "topk", "settlements", "gross_exposure", "rebalance_every", "min_names", "hedged", "limits")


class FundingCarry:
    """Shorts of the highest and longs of the lowest annual funding, entered and left at different levels.

    The score of a name is minus its mean annual funding rate over its last `settlements` settlements
    (`annual_funding`). A name is a candidate when it is tradable and has a score. What is held is what the last
    target row holds; held names come first, best first, then the others that may enter.

    Parameters
    ----------
    short_enter, short_exit
        Annual funding (0.1 for 10 %) from which a name may become a short, and below which a short leaves.
    long_enter, long_exit
        Annual funding up to which a name may become a long, and above which a long leaves.
    topk
        Largest number of names a leg.
    settlements
        How many settled rates the mean is over. A name without a score for fewer, and after an unknown rate.
    gross_exposure
        Longs plus shorts over equity, of two full legs.
    rebalance_every
        Bars between two rebalances. One that falls on a bar without any score waits for the next that has one.
    min_names
        Names a leg must reach.
    hedged
        True: each leg is half of `gross_exposure`, and the book is flat when either has fewer than `min_names`.
        False: each name is `gross_exposure / 2 / topk`, and a leg with fewer than `min_names` is empty by itself.
    limits
        See `Limits`.

    Raises
    ------
    ConfigError
        When a parameter is out of range.

    """

    uses_signal = False

    def __init__(
        self,
        *,
        short_enter: float = _LEVELS["short_enter"],
        short_exit: float = _LEVELS["short_exit"],
        long_enter: float = _LEVELS["long_enter"],
        long_exit: float = _LEVELS["long_exit"],
        topk: int = TOPK,
        settlements: int = 3,
        gross_exposure: float = 1.0,
        rebalance_every: int = 1,
        min_names: int = 1,
        hedged: bool = True,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> None:
        levels = {"short_enter": short_enter, "short_exit": short_exit, "long_enter": long_enter}
        sizes = {"topk": topk, "settlements": settlements, "gross_exposure": gross_exposure, "min_names": min_names}
        rest = {"rebalance_every": rebalance_every, "hedged": hedged, "limits": limits}
        self.check_values("strategy", {**levels, "long_exit": long_exit, **sizes, **rest})
        self.short_enter, self.short_exit = float(short_enter), float(short_exit)
        self.long_enter, self.long_exit = float(long_enter), float(long_exit)
        self.topk, self.settlements, self.min_names = topk, settlements, min_names
        self.gross_exposure, self.rebalance_every, self.hedged = float(gross_exposure), rebalance_every, hedged
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
        for key in _LEVELS:
            if key in kwargs:
                number(f"{where}.{key}", kwargs[key], lambda _: True, "must be a rate a year: 0.1 for 10 %")
        _check_levels(where, {**_LEVELS, **{key: kwargs[key] for key in _LEVELS if key in kwargs}})
        whole_numbers(where, kwargs, {"topk": 1, "settlements": 1, "rebalance_every": 1, "min_names": 1})
        gross_value(where, kwargs)
        topk = kwargs.get("topk", TOPK)
        if "min_names" in kwargs and kwargs["min_names"] > topk:
            raise ConfigError(f"{where}.min_names {kwargs['min_names']} is above topk {topk}; write {topk} or less")
        if "hedged" in kwargs:
            yes_or_no(f"{where}.hedged", kwargs["hedged"])
        Limits.check(kwargs.get("limits"), f"{where}.limits")

    def targets(self, known: Known) -> Targets:
        """The weights of every bar."""
        funding = annual_funding(known, self.settlements)
        order = name_order(known)

        def decide(t: int, last: Floats, notes: Counter[str]) -> Floats | None:
            if np.isnan(funding[t]).all():
                notes["no funding known: position kept"] += 1
                return None
            return self._row(ranked(-funding[t], known.tradable[t], order), funding[t], last, notes)

        return rebalanced(known, decide, every=self.rebalance_every, limits=self.limits)

    def _row(self, lowest_first: Sequence[int], funding: Floats, last: Floats, notes: Counter[str]) -> Floats:
        longs = self._leg(lowest_first, last > 0, funding <= self.long_enter, funding <= self.long_exit)
        shorts = self._leg(lowest_first[::-1], last < 0, funding >= self.short_enter, funding >= self.short_exit)
        row = np.zeros(len(last))
        if self.hedged and min(len(longs), len(shorts)) < self.min_names:
            notes[f"fewer than {self.min_names} names a leg: flat"] += 1
            return row
        for side, leg in ((1.0, longs), (-1.0, shorts)):
            if len(leg) < self.min_names:
                notes[f"fewer than {self.min_names} names in one leg: without it"] += 1
                continue
            row[leg] = side * self.gross_exposure / 2 / (len(leg) if self.hedged else self.topk)
        return row

    def _leg(self, best_first: Sequence[int], held: Any, enters: Any, stays: Any) -> list[int]:
        kept = [i for i in best_first if held[i] and stays[i]]
        new = [i for i in best_first if not held[i] and enters[i]]
        return (kept + new)[: self.topk]


def annual_funding(known: Known, settlements: int) -> Floats:
    """The mean funding rate of a year over the last settlements, shape (bars, n), fraction; NaN where unknown.

    Sum of the last `settlements` rates / hours of their intervals x 24 x 365, so that a rate weighs as long as its
    interval. NaN until that many were seen; an unknown rate starts the count again. A settlement is told from the one
    before by its time, the last whole multiple of its interval, UTC, as both venues settle: rates often repeat. With
    bars longer than the interval only the last settlement of each bar is seen.

    """
    rates = np.zeros((settlements, len(known.names)))
    hours = np.zeros_like(rates)
    seen = np.zeros(len(known.names), dtype=np.int64)
    before: Ints = np.full(len(known.names), np.iinfo(np.int64).min)
    out = np.full((known.bars, len(known.names)), np.nan)
    columns = np.arange(len(known.names))
    for t, open_ms in enumerate(known.opens_ms):
        rate, interval = known.funding_rate[t], known.funding_interval[t]
        there = ~np.isnan(rate) & (interval > 0)
        every = np.where(there, interval * HOUR_MS, 1.0).astype(np.int64)
        settled = open_ms - open_ms % every
        new = there & ((settled > before) | (seen == 0))
        at = columns[new]
        rates[seen[new] % settlements, at], hours[seen[new] % settlements, at] = rate[new], interval[new]
        seen = np.where(there, seen + new, 0)
        before = np.where(new, settled, before)
        full = seen >= settlements
        out[t, full] = rates[:, full].sum(axis=0) / hours[:, full].sum(axis=0) * _YEAR_HOURS
    return out


def _check_levels(where: str, levels: Mapping[str, float]) -> None:
    for low, high in (("short_exit", "short_enter"), ("long_enter", "long_exit")):
        if levels[low] > levels[high]:
            raise ConfigError(f"{where}.{low} {levels[low]} is above {high} {levels[high]}; write that or less")
    for low, high in (("long_enter", "short_exit"), ("long_exit", "short_enter")):
        if levels[low] >= levels[high]:  # one name would belong to both legs
            raise ConfigError(f"{where}.{low} {levels[low]} is not below {high} {levels[high]}; write less")
