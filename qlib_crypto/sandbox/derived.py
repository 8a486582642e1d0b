"""What a tape of bars may know beside them, made from the bars by rules that a test can repeat.

Open interest and long/short ratio are random walks of their own, one value at each 5 minutes at which a bar closes.
A bar with volume has four trades, which are the bar: at its open, its extremes and its close, a quarter of the volume
each (the last one with the rest). About every fifth bar has a forced order, at its open. A book stands around the last
price.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.series import moved
from qlib_crypto.sandbox.tape import BarSeries, Levels, OpenInterestSeries, Prints, RatioSeries
from qlib_crypto.schemas import PERIOD_MS
from qlib_crypto.symbols import Instrument, Interval

#: When the four trades of a bar happen, as parts of it; the last one a millisecond before it closes.
_PARTS = (0.02, 0.33, 0.66)
TRADES_A_BAR = 4
_LOTS, _LOT_STEP, _FEWEST_LOTS = 200_000, 400, 10_000
_RATIO_SPREAD = 0.4
_ONE_IN = 5
_MOST_LOTS = 50
_DECIMALS = 8


class _Made(NamedTuple):
    open_interest: OpenInterestSeries
    ratio: RatioSeries


class Derived:
    """Mix-in of a tape: `open_interest_series ratio_series liquidations trades book`, from its finest bars."""

    specs: Mapping[Instrument, InstrumentSpec]

    def intervals(self, instrument: Instrument) -> tuple[Interval, ...]:
        raise NotImplementedError

    def bars(self, instrument: Instrument, interval: Interval) -> BarSeries:
        raise NotImplementedError

    def open_interest_series(self, instrument: Instrument) -> OpenInterestSeries:
        return self._statistics(instrument).open_interest

    def ratio_series(self, instrument: Instrument) -> RatioSeries:
        return self._statistics(instrument).ratio

    def liquidations(self, instrument: Instrument) -> Prints:
        """Forced orders; sides are the orders' own."""
        if instrument not in self._forced:
            bars, interval = self._finest(instrument)
            noise = mixed(bars.open_ms, crc32(instrument.symbol.encode()))
            here = (noise % _ONE_IN == 0) & (bars.volume_base > 0)
            bits, lot = noise[here], self.specs[instrument].lot_base
            at = bars.open_ms[here] + 1 + ((bits >> np.uint64(8)) % np.uint64(interval.ms - 1)).astype(np.int64)
            lots = 1 + ((bits >> np.uint64(40)) % np.uint64(_MOST_LOTS)).astype(np.int64)
            buys = (bits >> np.uint64(60)) % np.uint64(2) == 1
            self._forced[instrument] = Prints(at, at, buys, bars.open[here], np.round(lots * lot, _DECIMALS))
        return self._forced[instrument]

    def trades(self, instrument: Instrument) -> Prints:
        """Four trades of every bar with volume; an id is its bar's number since 1970, times four, plus its own."""
        if instrument not in self._traded:
            self._traded[instrument] = self._make_trades(instrument)
        return self._traded[instrument]

    def book(self, instrument: Instrument, at_ms: int, depth: int) -> Levels | None:
        """Levels a tick or two apart around the last price, other quantities every second."""
        bars, interval = self._finest(instrument)
        i = int(np.searchsorted(bars.open_ms, at_ms, side="right")) - 1
        if i < 0:
            return None
        opened = int(bars.open_ms[i])
        middle = float(bars.open[i]) if at_ms < opened + interval.ms else float(bars.close[i])
        spec, second = self.specs[instrument], at_ms // 1000
        salt = crc32(instrument.symbol.encode())
        noise = mixed(np.arange(2 * depth) + second * 64, salt).tolist()
        sides: list[tuple[tuple[float, float], ...]] = []
        for side, bits in ((-1, noise[:depth]), (1, noise[depth:])):
            ticks = np.cumsum([1 + bit % 2 for bit in bits])
            prices = (round(middle + side * int(tick) * spec.tick_size, 12) for tick in ticks)
            amounts = (round((1 + (bit >> 8) % 500) * spec.lot_base, _DECIMALS) for bit in bits)
            sides.append(tuple((price, amount) for price, amount in zip(prices, amounts, strict=True) if price > 0))
        return Levels(*sides)

    @cached_property
    def _forced(self) -> dict[Instrument, Prints]:
        return {}

    @cached_property
    def _traded(self) -> dict[Instrument, Prints]:
        return {}

    @cached_property
    def _known(self) -> dict[Instrument, _Made]:
        return {}

    def _finest(self, instrument: Instrument) -> tuple[BarSeries, Interval]:
        intervals = self.intervals(instrument) or (Interval.parse("1m"),)
        return self.bars(instrument, intervals[0]), intervals[0]

    def _statistics(self, instrument: Instrument) -> _Made:
        if instrument not in self._known:
            bars, interval = self._finest(instrument)
            ends = bars.open_ms + interval.ms
            here = ends % PERIOD_MS == 0
            times, price = ends[here], bars.close[here]
            draw = np.random.default_rng([crc32(instrument.symbol.encode()), crc32(instrument.venue.encode())])
            steps = draw.normal(size=(len(times), 2))
            lots = np.maximum(_LOTS + np.cumsum(np.rint(steps[:, 0] * _LOT_STEP)), _FEWEST_LOTS)
            base = np.round(lots * self.specs[instrument].lot_base, _DECIMALS)
            level = np.empty(len(times))
            before = 0.0
            for i, step in enumerate(steps[:, 1].tolist()):
                level[i] = before = 0.98 * before + 0.2 * step
            ratio = np.exp(_RATIO_SPREAD * level).astype(np.float64).round(4)
            self._known[instrument] = _Made(
                OpenInterestSeries(times, base, np.round(base * price, 4)), RatioSeries(times, ratio)
            )
        return self._known[instrument]

    def _make_trades(self, instrument: Instrument) -> Prints:
        bars, interval = self._finest(instrument)
        here = bars.volume_base > 0
        times, lot = bars.open_ms[here], self.specs[instrument].lot_base
        rises = bars.close[here] >= bars.open[here]
        low, high = bars.low[here], bars.high[here]
        price = np.column_stack(
            [bars.open[here], np.where(rises, low, high), np.where(rises, high, low), bars.close[here]]
        )
        lots = np.rint(bars.volume_base[here] / lot).astype(np.int64)
        quarter = np.floor_divide(lots, TRADES_A_BAR)[:, None] * np.ones((1, TRADES_A_BAR - 1))
        last = bars.volume_base[here] - quarter.sum(axis=1) * lot
        amount = np.round(np.column_stack([quarter * lot, last]), _DECIMALS)
        at = times[:, None] + np.array([*(int(part * interval.ms) for part in _PARTS), interval.ms - 1])
        ids = (times // interval.ms * TRADES_A_BAR)[:, None] + np.arange(TRADES_A_BAR)
        buys = np.column_stack([rises, ~rises, rises, rises])
        some = amount.ravel() > 0
        return Prints(
            at.ravel()[some], ids.ravel()[some], buys.ravel()[some], price.ravel()[some], amount.ravel()[some]
        )


def beside(bars: BarSeries, step: float, salt: int) -> BarSeries:
    """The bars one step or two away, all four prices alike, without volume: a mark price or an index."""
    shift = step * (1 + mixed(bars.open_ms, salt) % np.uint64(2)).astype(np.float64)
    return moved(bars, lambda price: (price + shift).round(_DECIMALS))


def mixed(values: NDArray[np.int64], salt: int) -> NDArray[np.uint64]:
    """Reproducible noise of whole numbers, shape as given: the finaliser of splitmix64 over value and salt."""
    z = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
