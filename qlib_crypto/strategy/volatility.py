"""Another strategy's book at a volatility of one's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from qlib_crypto.backtest.known import Floats, Known, Strategy, Targets
from qlib_crypto.backtest.values import no_others, number, positive, whole_numbers, yes_or_no
from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.configured import check_strategy, strategy_of
from qlib_crypto.strategy.limits import Limits
from qlib_crypto.strategy.loop import rebalanced
from qlib_crypto.strategy.risk import Covariance, Ewma

_KEYS = (
    "base", "target_volatility", "inverse_volatility", "half_life", "shrinkage", "min_returns", "max_gross", "limits",
)  # fmt: skip


class VolatilityTargeted:
    """The book of `base`, scaled to `target_volatility`; rebalanced when `base` is.

    1. Names without a volatility estimate are left out; with `inverse_volatility` each weight is divided by the
       name's volatility. Both legs keep the gross that `base` gave them; a leg that has nobody left makes it flat.
    2. All weights are multiplied by target / volatility of the book, sqrt(w'Cw x bars a year), but at most to a
       gross of `max_gross`.

    Parameters
    ----------
    base
        A strategy, or its `{class, module_path, kwargs}`.
    target_volatility
        Standard deviation of a year's return (365 days of 24 h), fraction of equity.
    inverse_volatility
        Whether weights within a leg are divided by volatility.
    half_life
        Bars after which a return counts half in the covariance C (`risk.Covariance`).
    shrinkage
        From 0 to 1: part of each covariance between two names that is taken away.
    min_returns
        Returns a name needs before it has a volatility.
    max_gross
        Largest longs plus shorts over equity; None for no limit.
    limits
        See `Limits`; a book that they cut is below its target.

    Raises
    ------
    ConfigError
        When a parameter is out of range.

    """

    def __init__(
        self,
        *,
        base: Strategy | Mapping[str, Any],
        target_volatility: float = 0.2,
        inverse_volatility: bool = False,
        half_life: float = 168,
        shrinkage: float = 0.2,
        min_returns: int = 48,
        max_gross: float | None = 3.0,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> None:
        given = {"base": base, "target_volatility": target_volatility, "inverse_volatility": inverse_volatility}
        risk = {"half_life": half_life, "shrinkage": shrinkage, "min_returns": min_returns}
        self.check_values("strategy", {**given, **risk, "max_gross": max_gross, "limits": limits})
        self.base = strategy_of("strategy.base", base)
        self.target_volatility, self.inverse_volatility = float(target_volatility), inverse_volatility
        self.ewma, self.shrinkage = Ewma(float(half_life), min_returns), float(shrinkage)
        self.max_gross = np.inf if max_gross is None else float(max_gross)
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
        check_base(where, kwargs)
        if "target_volatility" in kwargs:
            positive(f"{where}.target_volatility", kwargs["target_volatility"], "of a year's return, such as 0.2")
        if "inverse_volatility" in kwargs:
            yes_or_no(f"{where}.inverse_volatility", kwargs["inverse_volatility"])
        check_risk(where, kwargs)
        if kwargs.get("max_gross") is not None:
            positive(f"{where}.max_gross", kwargs["max_gross"], "longs plus shorts over equity, such as 3.0")
        Limits.check(kwargs.get("limits"), f"{where}.limits")

    def targets(self, known: Known) -> Targets:
        """The weights of every bar."""
        base = self.base.targets(known)
        covariance = Covariance(known, self.ewma, self.shrinkage)

        def decide(t: int, last: Floats, notes: Counter[str]) -> Floats | None:  # noqa: ARG001 - not of what was held
            if not base.rebalance[t]:
                return None
            return self._row(base.weights[t], covariance.at(t), known.bars_a_year, notes)

        own = rebalanced(known, decide, every=1, limits=self.limits)
        return with_notes(own, base)

    def _row(self, wanted: Floats, covariance: Floats, bars_a_year: float, notes: Counter[str]) -> Floats:
        deviation = np.sqrt(np.diag(covariance))
        row = np.where(np.isnan(deviation), 0.0, wanted)
        if not wanted.any():
            return row
        if self.inverse_volatility:
            row = row / np.where(np.isnan(deviation), 1.0, deviation)
        if np.any((wanted != 0) & np.isnan(deviation)):
            notes["no volatility yet: some name left out"] += 1
        for side in (1.0, -1.0):
            leg = side * wanted > 0
            left = float(np.abs(row[leg]).sum())
            if leg.any() and not left:
                notes["no volatility yet of a whole leg: flat"] += 1
                return np.zeros(len(row))
            row[leg] *= np.abs(wanted[leg]).sum() / left if left else 1.0
        held = row != 0
        variance = float(row[held] @ covariance[np.ix_(held, held)] @ row[held])
        scale = self.target_volatility / max(np.sqrt(max(variance, 0.0) * bars_a_year), np.finfo(float).tiny)
        largest = self.max_gross / float(np.abs(row).sum())
        if scale > largest:
            notes["target volatility needs more than max_gross: max_gross"] += 1
        return np.asarray(row * min(scale, largest))


def check_base(where: str, kwargs: Mapping[str, Any]) -> None:
    """Refuses a missing or wrong `base`."""
    if kwargs.get("base") is None:
        raise ConfigError(f"{where}.base is missing; write class, module_path and kwargs of a strategy")
    check_strategy(f"{where}.base", kwargs["base"])


def check_risk(where: str, kwargs: Mapping[str, Any]) -> None:
    """Refuses what is no half_life, shrinkage or min_returns."""
    if "half_life" in kwargs:
        positive(f"{where}.half_life", kwargs["half_life"], "bars, such as 168")
    if "shrinkage" in kwargs:
        number(f"{where}.shrinkage", kwargs["shrinkage"], lambda v: 0 <= v <= 1, "must be from 0 to 1, such as 0.2")
    whole_numbers(where, kwargs, {"min_returns": 1})


def with_notes(own: Targets, base: Targets) -> Targets:
    """`own` with the notes of the strategy inside, each under `base: `."""
    return Targets(own.weights, own.rebalance, {**{f"base: {key}": n for key, n in base.notes.items()}, **own.notes})
