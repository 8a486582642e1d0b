"""The bars around a generated path: highs, lows, volumes, trade counts, and minutes that add up to their hour.

Prices count ticks, volumes count lots, and quote volumes count ticks times lots, all int64, so that sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.sandbox.generator_config import Events, GeneratorConfig
from qlib_crypto.sandbox.generator_path import Path
from qlib_crypto.sandbox.generator_universe import Universe

_MINUTES = 60
#: Every minute trades, except in the outage.
_MIN_LOTS, _MIN_TRADES = 20 * _MINUTES, 2 * _MINUTES
_VOLUME_NOISE, _MAX_VOLUME = 0.4, 30.0
_TRADE_QUOTE = 900.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Bars in whole units; every array is int64 of shape (n_bars, n_symbols)."""

    open: NDArray[np.int64]
    high: NDArray[np.int64]
    low: NDArray[np.int64]
    close: NDArray[np.int64]
    lots: NDArray[np.int64]
    quote: NDArray[np.int64]
    trades: NDArray[np.int64]


def build_bars(config: GeneratorConfig, universe: Universe, path: Path) -> tuple[Counts, Counts]:
    """The 1h bars of the span and the 1m bars of its last days.

    Where there are minutes, the hour's high, low and quote volume are theirs; open, close, volume and trades are always
    the hour's own, and the minutes are drawn to meet them.
    """
    spread_ticks = path.spread * path.open_ticks
    draws = config.stream("range").random((*path.live.shape, 2))
    high, low = _extremes(path.open_ticks, path.close_ticks, spread_ticks, draws)
    lots, trades = _activity(config, universe, path)
    quote = _quote(path.open_ticks, high, low, path.close_ticks, lots)
    hours = Counts(path.open_ticks, high, low, path.close_ticks, lots, quote, trades)
    first = config.first_minute_hour
    minutes = [_minutes(config, hours, spread_ticks[hour], hour) for hour in range(first, config.hours)]
    if not minutes:
        return hours, Counts(*(np.empty((0, config.n_symbols), dtype=np.int64) for _ in range(7)))
    for hour, bars in enumerate(minutes, start=first):
        high[hour], low[hour] = bars.high.max(axis=0), bars.low.min(axis=0)
        quote[hour] = bars.quote.sum(axis=0)
    columns = ("open", "high", "low", "close", "lots", "quote", "trades")
    return hours, Counts(*(np.concatenate([getattr(bars, name) for bars in minutes]) for name in columns))


def _extremes(
    start: NDArray[np.int64], end: NDArray[np.int64], spread: NDArray[np.float64], draws: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """High and low of Brownian bridges, each from its exact law `P(max > m) = exp(-2 m (m - d) / s²)`."""
    move = (end - start).astype(np.float64)
    reach = np.sqrt(move[..., None] ** 2 - 2 * spread[..., None] ** 2 * np.log1p(-draws))
    high = np.floor(start + (move + reach[..., 0]) / 2).astype(np.int64)
    low = np.ceil(start + (move - reach[..., 1]) / 2).astype(np.int64)
    # the square root may round to just under |move|, and a wide bar may reach below the first tick
    ends = np.minimum(start, end)
    return np.maximum(high, np.maximum(start, end)), np.minimum(np.maximum(low, np.minimum(ends, 1)), ends)


def _activity(config: GeneratorConfig, universe: Universe, path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lots and trades of each hour: more when the price moves, none in the outage."""
    move = np.abs(path.close_ticks / np.maximum(path.open_ticks, 1) - 1)
    typical = np.hypot(universe.market_loading, universe.own_volatility)
    relative = np.divide(move, typical, out=np.zeros_like(move), where=typical > 0)
    noise = np.exp(_VOLUME_NOISE * config.stream("volume").standard_normal(path.live.shape))
    turnover = universe.turnover_quote * np.minimum((0.4 + relative) * noise, _MAX_VOLUME)
    lot_quote = np.maximum(path.open_ticks, 1) / 10.0 ** (universe.price_decimals + universe.lot_decimals)
    lots = np.maximum(np.rint(turnover / lot_quote), _MIN_LOTS).astype(np.int64)
    trades = np.clip(np.rint(turnover / _TRADE_QUOTE), _MIN_TRADES, lots // 2).astype(np.int64)
    trading = path.live.copy()
    trading[slice(*Events.of(config).outage)] = False
    return lots * trading, trades * trading


def _quote(
    open_: NDArray[np.int64],
    high: NDArray[np.int64],
    low: NDArray[np.int64],
    close: NDArray[np.int64],
    lots: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Quote volume at the mean of the four prices: whole ticks times lots, never outside low to high."""
    return (open_ + high + low + close) * lots // 4


def _minutes(config: GeneratorConfig, hours: Counts, spread: NDArray[np.float64], hour: int) -> Counts:
    """The 60 bars of an hour: a bridge from its open to its close, its volume and trades shared out."""
    draw = config.stream("minutes", hour)
    start, end = hours.open[hour], hours.close[hour]
    step = spread / np.sqrt(_MINUTES)
    walk = step * np.cumsum(draw.standard_normal((_MINUTES, config.n_symbols)), axis=0)
    part = np.arange(1, _MINUTES + 1)[:, None] / _MINUTES
    close = np.maximum(np.rint(start + walk + (end - start - walk[-1]) * part), np.minimum(start, 1)).astype(np.int64)
    close[-1] = end
    open_ = np.vstack([start, close[:-1]])
    high, low = _extremes(open_, close, np.broadcast_to(step, close.shape), draw.random((*close.shape, 2)))
    weight = draw.exponential(size=close.shape) * (0.5 + np.abs(close - open_) / np.where(step > 0, step, 1))
    lots = _share(hours.lots[hour], weight)
    return Counts(
        open_, high, low, close, lots, _quote(open_, high, low, close, lots), _share(hours.trades[hour], weight)
    )


def _share(total: NDArray[np.int64], weight: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole parts of each column's total, by weight, at least 1 each; all zero when the total is."""
    spare = np.maximum(total - len(weight), 0)
    bounds = np.floor(np.cumsum(weight, axis=0) / weight.sum(axis=0) * spare)
    bounds[-1] = spare
    parts = np.diff(bounds, axis=0, prepend=0).astype(np.int64) + 1
    return np.where(total > 0, parts, 0)
