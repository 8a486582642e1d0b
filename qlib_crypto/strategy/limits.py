"""Limits that every strategy takes: of a name, of what a name's market bears, and of what a rebalance trades."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qlib_crypto.backtest.known import Floats, Known
from qlib_crypto.backtest.values import no_others, positive, whole_number
from qlib_crypto.clock import DAY_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.caps import nearest

_KEYS = ("max_weight", "max_turnover", "capacity")
_CAPACITY = ("account", "share", "bars")
#: A turnover above the largest by this part of it is the sum of weights in another order.
_ROUNDING = 1e-12
#: A book whose weights sum to less than this part of its gross is dollar neutral.
_NEUTRAL = 1e-9


@dataclass(frozen=True)
class Limits:
    """What a wanted book is cut to, in this order, after all that the strategy itself does.

    1. **Caps by name.** No |weight| above `max_weight`, nor above what `capacity` allows, whichever is smaller.
    2. **Neutrality.** A book that was dollar neutral (BetaNeutral: dollar and beta neutral) becomes the nearest one
       within the caps that still is: names at their cap stay there, the others make up for them, no name changes its
       side and gross does not rise. Any other book is only cut.
    3. **Turnover.** Where the move from the last targets, sum |Δw| over the names that can be traded, is above
       `max_turnover`, every name goes the same part of its way. Names that cannot be traded keep their last target,
       and do not count. After a partial move a name may still be above what `capacity` allows now; two dollar neutral
       books mix to a dollar neutral one, except for what cannot be traded.

    Attributes
    ----------
    max_weight
        Largest |weight| of a name.
    max_turnover
        Largest sum |Δw| of a rebalance.
    capacity
        `{account: quote coins, share: fraction, bars: lookback}`: |weight| x account is at most `share` of the mean
        dollar volume of a day, over those of the last `bars` bars whose volume is known. Without any the cap is 0.
        The account is the given one, however equity grows.

    Raises
    ------
    ConfigError
        When a value is out of range.

    """

    max_weight: float | None = None
    max_turnover: float | None = None
    capacity: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        self.check_values("limits", asdict(self))

    @classmethod
    def of(cls, given: Limits | Mapping[str, Any] | None) -> Limits:
        """The limits of a keyword `limits`: a mapping in YAML."""
        cls.check(given, "limits")
        return given if isinstance(given, Limits) else cls(**(given or {}))

    @classmethod
    def check(cls, given: Any, where: str) -> None:
        """Refuses what is no value of a keyword `limits`."""
        if given is None or isinstance(given, Limits):
            return
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where} {given!r} must be a mapping of: {', '.join(_KEYS)}")
        cls.check_values(where, given)

    @staticmethod
    def check_values(where: str, kwargs: Mapping[str, Any]) -> None:
        """Nothing, when the values make sense.

        Raises
        ------
        ConfigError
            Names the first that does not, under `where`.

        """
        no_others(where, kwargs, _KEYS)
        for key, such_as in (("max_weight", "|weight| of a name, such as 0.1"), ("max_turnover", "such as 0.5")):
            if kwargs.get(key) is not None:
                positive(f"{where}.{key}", kwargs[key], such_as)
        capacity = kwargs.get("capacity")
        if capacity is None:
            return
        if not isinstance(capacity, Mapping):
            raise ConfigError(f"{where}.capacity {capacity!r} must be a mapping of: {', '.join(_CAPACITY)}")
        no_others(f"{where}.capacity", capacity, _CAPACITY)
        for key in _CAPACITY:
            if key not in capacity:
                raise ConfigError(f"{where}.capacity.{key} is missing; write account, share and bars")
        positive(f"{where}.capacity.account", capacity["account"], "quote coins, such as 1000000")
        positive(f"{where}.capacity.share", capacity["share"], "of a day's dollar volume, such as 0.01")
        whole_number(f"{where}.capacity.bars", capacity["bars"], 1)

    def caps(self, known: Known, t: int) -> Floats:
        """The largest |weight| of each name in bar `t`, shape (n,); inf without a cap."""
        by_weight = np.inf if self.max_weight is None else self.max_weight
        return np.minimum(self._capacity(known, t), by_weight)

    def settled(
        self, known: Known, t: int, target: Floats, last: Floats, notes: Counter[str], beta: Floats | None = None
    ) -> Floats:
        """The row of bar `t` that the limits leave of `target`; all rows (n,). With `beta` sum(w beta) is kept at 0."""
        capped = self._capped(known, t, target, notes, beta)
        if self.max_turnover is None:
            return capped
        move = np.where(known.tradable[t], capped - last, 0.0)
        turnover = float(np.abs(move).sum())
        if turnover <= self.max_turnover * (1 + _ROUNDING):
            return np.where(known.tradable[t], capped, last)
        notes["more than max_turnover to trade: part of the way"] += 1
        row = last + move * (self.max_turnover / turnover)
        return np.where(np.abs(row) > _ROUNDING * np.abs(row).sum(), row, 0.0)  # what rounding leaves of 0 is not held

    def _capped(self, known: Known, t: int, target: Floats, notes: Counter[str], beta: Floats | None) -> Floats:
        size = np.abs(target)
        capacity = self._capacity(known, t)
        if np.any((size > 0) & (capacity == 0)):
            notes["dollar volume unknown or 0: no position in some name"] += 1
        if self.max_weight is not None and np.any(size > self.max_weight):
            notes["weights above max_weight: cut"] += 1
        if np.any(size > capacity):
            notes["weights above capacity: cut"] += 1
        cap = np.minimum(capacity, np.inf if self.max_weight is None else self.max_weight)
        if not np.any(size > cap):
            return target
        if abs(float(target.sum())) > _NEUTRAL * float(size.sum()):
            return np.clip(target, -cap, cap)
        return nearest(target, cap, beta)

    def _capacity(self, known: Known, t: int) -> Floats:
        n = len(known.names)
        if self.capacity is None:
            return np.full(n, np.inf)
        window = known.dollar_volume[max(0, t + 1 - int(self.capacity["bars"])) : t + 1]
        seen = ~np.isnan(window)
        count = seen.sum(axis=0)
        a_bar = np.where(seen, window, 0.0).sum(axis=0) / np.maximum(count, 1)
        return np.asarray(a_bar * (DAY_MS / known.step_ms) * self.capacity["share"] / self.capacity["account"])
