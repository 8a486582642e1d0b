"""Funding of a generated market: a persistent premium for each symbol, and the rates that follow from it.

The premium is constant within an hour. A settlement's rate comes from the premium's mean over the interval that ends
there; the running estimate from its mean over the part that has passed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.sandbox.generator_config import GeneratorConfig
from qlib_crypto.sandbox.generator_universe import Universe
from qlib_crypto.sandbox.tape import FundingNow
from qlib_crypto.symbols import Venue

#: Interest and the band around it, per 8 h (0.03 % a day on both venues).
_INTEREST, _BAND = 0.0001, 0.0005
_STANDARD_HOURS = 8
_HALF_LIFE_HOURS = 48
#: Both venues print 8 decimals or more.
_RATE_DECIMALS = 1e8
#: Binance stamps settlements from 2 ms before to 17 ms after the hour.
_JITTER_MS = (-2, 17)
#: Hours of premium before the start, for the settlement at the start.
_WARM_UP = _STANDARD_HOURS


def funding_rate(premium: float, cap: float, interval_hours: int) -> float:
    """The rate of one interval for its mean premium per 8 h.

    `clamp(P + clamp(I - P, ±0.05 %), ±cap)` scaled to the interval, I = 0.01 % per 8 h, so that a flat market prints
    exactly 0.01 % per 8 h. Source: both venues' formulas as of 2025 (OKX April 2025, Binance 2025-09-18).
    """
    # where the premium is inside the band the sum is I itself; added up it would miss I by a rounding error
    raw = _INTEREST if abs(_INTEREST - premium) <= _BAND else premium + np.sign(_INTEREST - premium) * _BAND
    rate = min(max(raw, -cap), cap) * interval_hours / _STANDARD_HOURS
    return float(np.rint(rate * _RATE_DECIMALS) / _RATE_DECIMALS)


@dataclass(frozen=True, slots=True)
class FundingSchedule:
    """One symbol's settlements: hours after the start they fall on, the rate, and the stamp the venue prints."""

    hour: NDArray[np.int64]
    rate: NDArray[np.float64]
    time_ms: NDArray[np.int64]


class FundingBook:
    """Premiums, settlements and running estimates of every symbol, by its position in the universe."""

    def __init__(self, config: GeneratorConfig, universe: Universe) -> None:
        self._start_ms = config.start_ms
        self._hours = config.hours
        self._universe = universe
        self._premium = _premium(config, universe)
        self._total = np.vstack([np.zeros(config.n_symbols), np.cumsum(self._premium, axis=0)])
        jitter = _jitter(config)
        self.schedules = tuple(self._schedule(i, jitter[:, i]) for i in range(config.n_symbols))

    def premium(self, i: int, hours: NDArray[np.int64]) -> NDArray[np.float64]:
        """Symbol `i`'s premium in each of these hours after the start, shape as given."""
        return np.asarray(self._premium[_WARM_UP + hours, i], np.float64)

    def known(self) -> NDArray[np.float64]:
        """Last settled rate as of each bar's open (a settlement at the open counts), shape (hours, n_symbols).

        NaN before the first settlement.
        """
        out = np.full((self._hours, len(self.schedules)), np.nan)
        for i, schedule in enumerate(self.schedules):
            last = np.searchsorted(schedule.hour, np.arange(self._hours), side="right") - 1
            out[last >= 0, i] = schedule.rate[last[last >= 0]]
        return out

    def now(self, i: int, at_ms: int) -> FundingNow | None:
        """The running estimate of symbol `i`; None before its listing, from its delisting on, and before the tape.

        After the tape's end it stays what it was there.
        """
        since = min(at_ms - self._start_ms, self._hours * HOUR_MS)
        hour = since // HOUR_MS
        if since < 0 or not self._universe.listed_hour[i] <= hour < self._universe.delisted_hour[i]:
            return None
        interval = self._interval(i, hour)
        last = hour - hour % interval
        begin = max(last, int(self._universe.listed_hour[i]))
        elapsed = since - begin * HOUR_MS
        current = float(self._premium[_WARM_UP + hour, i])
        past = float(self._total[_WARM_UP + hour, i] - self._total[_WARM_UP + begin, i]) * HOUR_MS
        premium = (past + current * (since - hour * HOUR_MS)) / elapsed if elapsed else current
        rate = funding_rate(premium, float(self._universe.funding_cap[i]), interval)
        return FundingNow(rate, self._start_ms + (last + interval) * HOUR_MS, interval * HOUR_MS)

    def _interval(self, i: int, hour: int) -> int:
        """The interval in force in an hour."""
        changed = hour >= self._universe.change_hour
        return int((self._universe.later_interval_hours if changed else self._universe.interval_hours)[i])

    def _schedule(self, i: int, jitter: NDArray[np.int64]) -> FundingSchedule:
        u = self._universe
        listed, end = int(u.listed_hour[i]), min(int(u.delisted_hour[i]), self._hours)
        hours, rates = [], []
        for hour in range(listed, end):
            interval = self._interval(i, hour - 1)
            if hour % interval == 0 and (hour > listed or listed == 0):
                begin = max(hour - interval, listed) if listed else hour - interval
                mean = float(self._total[_WARM_UP + hour, i] - self._total[_WARM_UP + begin, i]) / (hour - begin)
                hours.append(hour)
                rates.append(funding_rate(mean, float(u.funding_cap[i]), interval))
        at = np.array(hours, dtype=np.int64)
        return FundingSchedule(at, np.array(rates), self._start_ms + at * HOUR_MS + jitter[at])


def _premium(config: GeneratorConfig, universe: Universe) -> NDArray[np.float64]:
    """Mean-reverting premium per 8 h, shape (warm-up + hours + 1, n_symbols)."""
    shocks = config.stream("premium").standard_normal((_WARM_UP + config.hours + 1, config.n_symbols))
    keep = 0.5 ** (1 / _HALF_LIFE_HOURS)
    level = shocks[0]
    out = np.empty_like(shocks)
    for row, shock in enumerate(shocks):
        level = keep * level + np.sqrt(1 - keep**2) * shock if row else shock
        out[row] = level
    return _INTEREST + config.premium_volatility * universe.premium_scale * out


def _jitter(config: GeneratorConfig) -> NDArray[np.int64]:
    """Milliseconds that each hour's settlement is stamped off, shape (hours, n_symbols); none before the start."""
    shape = (config.hours, config.n_symbols)
    if config.venue is not Venue.BINANCE:
        return np.zeros(shape, dtype=np.int64)
    off = config.stream("jitter").integers(_JITTER_MS[0], _JITTER_MS[1], size=shape, endpoint=True)
    off[0] = np.maximum(off[0], 0)
    return off
