"""Another strategy's book without the market in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from qlib_crypto.backtest.known import Floats, Known, Strategy, Targets
from qlib_crypto.backtest.values import no_others
from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.configured import strategy_of
from qlib_crypto.strategy.limits import Limits
from qlib_crypto.strategy.loop import rebalanced
from qlib_crypto.strategy.risk import Ewma, betas
from qlib_crypto.strategy.volatility import check_base, check_risk, with_notes

EQUAL_WEIGHT = "equal_weight"
_KEYS = ("base", "market", "half_life", "min_returns", "limits")
#: Less than this part of the gross left after the projection is noise, which would be scaled up twentyfold and more.
_LEAST_LEFT = 0.05


class BetaNeutral:
    """The book of `base` with sum(w) = 0 and sum(w beta) = 0; rebalanced when `base` is.

    Among the names that `base` holds and that have a beta, the weights with the smallest sum of squared differences
    to those of `base`, then scaled to its gross. A name may change its side. Flat where less than a twentieth of the
    gross is left before scaling, as with fewer than three names.

    Parameters
    ----------
    base
        A strategy, or its `{class, module_path, kwargs}`.
    market
        An instrument, such as BTC_USDT.OKX, or `equal_weight`: the mean return of all names.
    half_life
        Bars after which a return counts half in beta (`risk.betas`).
    min_returns
        Returns a name needs before it has a beta.
    limits
        See `Limits`. Caps keep both sums at 0; after a partial move only that of the weights is.

    Raises
    ------
    ConfigError
        When a parameter is out of range, or `market` is none of the instruments.

    """

    def __init__(
        self,
        *,
        base: Strategy | Mapping[str, Any],
        market: str = EQUAL_WEIGHT,
        half_life: float = 336,
        min_returns: int = 48,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> None:
        given = {"base": base, "market": market, "half_life": half_life, "min_returns": min_returns}
        self.check_values("strategy", {**given, "limits": limits})
        self.base, self.market = strategy_of("strategy.base", base), market
        self.ewma, self.limits = Ewma(float(half_life), min_returns), Limits.of(limits)

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
        market = kwargs.get("market", EQUAL_WEIGHT)
        if not isinstance(market, str) or not market:
            raise ConfigError(f"{where}.market {market!r} must be an instrument such as BTC_USDT.OKX or {EQUAL_WEIGHT}")
        check_risk(where, kwargs)
        Limits.check(kwargs.get("limits"), f"{where}.limits")

    def targets(self, known: Known) -> Targets:
        """The weights of every bar."""
        if self.market != EQUAL_WEIGHT and self.market not in known.names:
            raise ConfigError(f"market {self.market!r} is none of the instruments; write one or {EQUAL_WEIGHT}")
        base = self.base.targets(known)
        column = None if self.market == EQUAL_WEIGHT else known.names.index(self.market)
        beta = betas(known, column, self.ewma)

        def decide(t: int, last: Floats, notes: Counter[str]) -> Floats | None:  # noqa: ARG001 - not of what was held
            return _row(base.weights[t], beta[t], notes) if base.rebalance[t] else None

        own = rebalanced(known, decide, every=1, limits=self.limits, betas=np.nan_to_num(beta))
        return with_notes(own, base)


def _row(wanted: Floats, beta: Floats, notes: Counter[str]) -> Floats:
    row = np.zeros(len(wanted))
    book = (wanted != 0) & ~np.isnan(beta)
    if np.any((wanted != 0) & ~book):
        notes["no beta yet: some name left out"] += 1
    if not wanted.any():
        return row
    chosen = wanted[book]
    if book.any():
        sums = np.vstack([np.ones(len(chosen)), beta[book]])
        chosen = chosen - np.linalg.lstsq(sums.T, chosen)[0] @ sums
    gross, left = float(np.abs(wanted).sum()), float(np.abs(chosen).sum())
    if left < _LEAST_LEFT * gross:
        notes["no book without market beta: flat"] += 1
        return row
    row[book] = chosen * (gross / left)
    return row
