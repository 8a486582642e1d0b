"""How a strategy's positions are entered and protected: limit and stop entries, stops and targets, size by risk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from qlib_crypto.backtest.known import Bools, Floats, Ints, Targets
from qlib_crypto.backtest.values import no_others, number, positive, whole_number
from qlib_crypto.errors import ConfigError

#: Rows of a plan, shape (5, bars, n), fractions of the price, 0 for none; see `Entries`.
PLAN = ("limit", "stop", "stop_loss", "take_profit", "trailing_stop")
PLAN_LIMIT, PLAN_STOP, PLAN_LOSS, PLAN_PROFIT, PLAN_TRAIL = range(len(PLAN))
ATR_BARS = 14
#: Times its bars after which the average true range has forgotten where it began, to 1e-4.
_WARM_UP = 10
_PROTECTION = ("stop_loss", "take_profit", "trailing_stop")
_KEYS = ("entry", *_PROTECTION, "atr_bars", "risk_per_trade")
_ENTRY_KEYS = ("limit", "stop", "bars")
_OPEN, _HIGH, _LOW, _CLOSE = range(4)


class Entries:
    """The orders behind target weights; every strategy takes them as the keyword `orders`.

    An order that opens, adds to or turns a position is an entry; one that shrinks it is a market order. A distance is a
    fraction of the entry's price, such as 0.03, or a multiple of the average true range as known at the open over the
    last close, `{atr: 2}`. What protects a position is set when it is opened and stays while it is held.

    Parameters
    ----------
    entry
        `{limit: distance}` rests that much better than the open, `{stop: distance}` becomes a market order that much
        worse; with `bars` for so many bars at most, and never beyond the next rebalance. None is a market order.
    stop_loss, take_profit
        Distances at which a position is closed.
    trailing_stop
        Distance of the stop behind the best price since.
    atr_bars
        Bars of the average true range, Wilder's.
    risk_per_trade
        Fraction of equity that the nearer of stop and trailing stop may cost, before fee and slippage: |weight| is at
        most this over its distance, times open over entry. A strategy with large weights is sized by risk alone.

    Raises
    ------
    ConfigError
        When a value makes no sense.

    """

    def __init__(
        self,
        *,
        entry: Mapping[str, Any] | None = None,
        stop_loss: float | Mapping[str, float] | None = None,
        take_profit: float | Mapping[str, float] | None = None,
        trailing_stop: float | Mapping[str, float] | None = None,
        atr_bars: int = ATR_BARS,
        risk_per_trade: float | None = None,
    ) -> None:
        given = {"entry": entry, "stop_loss": stop_loss, "take_profit": take_profit, "trailing_stop": trailing_stop}
        self.check_values("orders", {**given, "atr_bars": atr_bars, "risk_per_trade": risk_per_trade})
        entry = entry or {}
        self._distances = (entry.get("limit"), entry.get("stop"), stop_loss, take_profit, trailing_stop)
        self._bars, self._atr_bars, self._risk = entry.get("bars"), atr_bars, risk_per_trade

    @classmethod
    def of(cls, given: Entries | Mapping[str, Any] | None) -> Entries | None:
        """Those of a keyword `orders`: a mapping in YAML; None for market orders alone."""
        if given is None or isinstance(given, Entries):
            return given
        cls.check("orders", given)
        return cls(**given)

    @classmethod
    def check(cls, where: str, given: Any) -> None:
        """Refuses what is no value of a keyword `orders`."""
        if given is None or isinstance(given, Entries):
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
        entry = kwargs.get("entry")
        if entry is not None:
            if not isinstance(entry, Mapping):
                raise ConfigError(f"{where}.entry {entry!r} must be a mapping of: {', '.join(_ENTRY_KEYS)}")
            no_others(f"{where}.entry", entry, _ENTRY_KEYS)
            kinds = [kind for kind in ("limit", "stop") if entry.get(kind) is not None]
            if len(kinds) != 1:
                raise ConfigError(f"{where}.entry needs one of limit and stop; leave entry out for market orders")
            _distance(f"{where}.entry", entry, kinds[0])
            if entry.get("bars") is not None:
                whole_number(f"{where}.entry.bars", entry["bars"], 1)
        for key in _PROTECTION:
            _distance(where, kwargs, key)
        if "atr_bars" in kwargs:
            whole_number(f"{where}.atr_bars", kwargs["atr_bars"], 1)
            distances = [*(entry or {}).values(), *(kwargs.get(key) for key in _PROTECTION)]
            if kwargs["atr_bars"] != ATR_BARS and not any(isinstance(distance, Mapping) for distance in distances):
                raise ConfigError(f"{where}.atr_bars is of no use without a distance {{atr: …}}; take it out")
        if kwargs.get("risk_per_trade") is not None:
            what = "must be a fraction of equity, such as 0.01"
            number(f"{where}.risk_per_trade", kwargs["risk_per_trade"], lambda v: 0 < v <= 1, what)
            if kwargs.get("stop_loss") is None and kwargs.get("trailing_stop") is None:
                raise ConfigError(
                    f"{where}.risk_per_trade needs stop_loss or trailing_stop: size is risk over distance"
                )

    def told(self) -> dict[str, str]:
        """For the assumptions of a run."""
        entry, stop, *protected = (_words(distance) for distance in self._distances)
        kind = f"limit {entry} better than the open" if entry else f"stop {stop} worse than the open" if stop else ""
        rests = "" if self._bars is None else f", {self._bars} bars at most"
        names = ("stop loss", "take profit", "trailing stop")
        held = [f"{name} {distance}" for name, distance in zip(names, protected, strict=True) if distance]
        risk = [] if self._risk is None else [f"risk per trade {self._risk:g}"]
        return {"orders": "; ".join([kind + rests if kind else "market", *held, *risk])}

    @property
    def warm_up(self) -> int:
        """Bars that the average true range should know before the first one, 0 without such a distance."""
        known = any(isinstance(distance, Mapping) for distance in self._distances)
        return _WARM_UP * self._atr_bars if known else 0

    def planned(self, prices: Floats, targets: Targets, before: Floats | None = None) -> tuple[Targets, Floats, Ints]:
        """Targets, plan and last bars of the entries.

        Parameters
        ----------
        prices
            Open, high, low and close, shape (4, bars, n), NaN where there is no bar.
        targets
            Of the same bars.
        before
            Prices of earlier bars, shape (4, any, n), which the average true range begins with.

        Returns
        -------
        tuple of Targets, array, array
            The targets sized by risk, with weight 0 where a distance is not known yet; the plan, see `PLAN`; the row of
            the last bar in which the entries of each bar rest, shape (bars,).

        """
        bars, n = targets.weights.shape
        plan = np.zeros((len(PLAN), bars, n))
        wide = np.zeros((bars, n))
        if any(isinstance(distance, Mapping) for distance in self._distances):
            whole = prices if before is None else np.concatenate([before, prices], axis=1)
            close = np.vstack([np.full((1, n), np.nan), _filled(whole[_CLOSE])[:-1]])
            wide = (average_true_range(whole, self._atr_bars) / close)[-bars:]
        for row, distance in enumerate(self._distances):
            if distance is not None:
                plan[row] = distance["atr"] * wide if isinstance(distance, Mapping) else distance
        # a stop at or below a price of 0 would protect nothing
        unknown = np.isnan(plan).any(axis=0) | (plan[[PLAN_LIMIT, PLAN_LOSS]] >= 1).any(axis=0)
        unknown |= (plan[PLAN_STOP] >= 1) & (targets.weights < 0)
        weights, notes = np.where(unknown, 0.0, targets.weights), dict(targets.notes)
        cut = ((targets.weights != 0) & unknown)[targets.rebalance].any(axis=1).sum()
        if cut:
            notes["average true range unknown: no position in some name"] = int(cut)
        if self._risk is not None:
            stops = np.where(plan[[PLAN_LOSS, PLAN_TRAIL]] > 0, plan[[PLAN_LOSS, PLAN_TRAIL]], np.inf).min(axis=0)
            # the entry's price over the open, of a long and of a short
            far = plan[PLAN_STOP] - plan[PLAN_LIMIT]
            most = self._risk / (stops * (1.0 + np.sign(weights) * far))
            smaller = (np.abs(weights) > most)[targets.rebalance].any(axis=1).sum()
            weights = np.clip(weights, -most, most)
            if smaller:
                notes["weights above risk_per_trade over the stop's distance: cut"] = int(smaller)
        plan[np.isnan(plan)] = 0.0
        return replace(targets, weights=weights, notes=notes), plan, self._until(targets.rebalance)

    def _until(self, rebalance: Bools) -> Ints:
        bars, last = len(rebalance), np.empty(len(rebalance), np.int64)
        upcoming = bars
        for t in range(bars - 1, -1, -1):
            last[t] = upcoming - 1 if self._bars is None else min(upcoming - 1, t + self._bars - 1)
            upcoming = t if rebalance[t] else upcoming
        return last


def average_true_range(prices: Floats, bars: int) -> Floats:
    """Wilder's average of the true range as known at the open of each bar, shape (bars, n); quote per base.

    The true range of a bar is the largest of high - low and both distances from the close before. The first average is
    the mean of `bars` ranges, then each new one counts 1 / bars. NaN until there are so many; missing bars are skipped.

    """
    known, n = np.full(prices.shape[1:], np.nan), prices.shape[2]
    before, count, average = np.full(n, np.nan), np.zeros(n, np.int64), np.zeros(n)
    for t in range(prices.shape[1]):
        known[t] = np.where(count >= bars, average, np.nan)
        high, low, close = prices[_HIGH, t], prices[_LOW, t], prices[_CLOSE, t]
        there = close > 0
        wide = np.fmax(high - low, np.fmax(np.abs(high - before), np.abs(low - before)))
        weight = 1.0 / np.minimum(count + 1, bars)
        average = np.where(there, average + (wide - average) * weight, average)
        count, before = count + there, np.where(there, close, before)
    return known


def _filled(closes: Floats) -> Floats:
    """The last known close at each bar."""
    at = np.maximum.accumulate(np.where(closes > 0, np.arange(len(closes))[:, None], 0), axis=0)
    return np.take_along_axis(closes, at, axis=0)


def _words(distance: float | Mapping[str, float] | None) -> str:
    if distance is None:
        return ""
    return f"{distance['atr']:g} x average true range" if isinstance(distance, Mapping) else f"{distance:.4g}"


def _distance(where: str, kwargs: Mapping[str, Any], key: str) -> None:
    """Refuses what is neither a fraction nor a multiple of the average true range."""
    value, at = kwargs.get(key), f"{where}.{key}"
    if value is None:
        return
    if isinstance(value, Mapping):
        no_others(at, value, ("atr",))
        positive(f"{at}.atr", value.get("atr"), "a multiple of the average true range, such as 2.0")
        return
    number(at, value, lambda v: 0 < v < 1, "must be a fraction of the price below 1, such as 0.03, or {atr: 2.0}")
