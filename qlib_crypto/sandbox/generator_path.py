"""The hourly prices of a generated market: correlated, fat-tailed, with the planted signal in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.sandbox.generator_config import Events, GeneratorConfig
from qlib_crypto.sandbox.generator_signal import REVERSAL_HOURS, noise_scale, signal_row
from qlib_crypto.sandbox.generator_universe import Universe

#: Degrees of freedom of the returns' Student t; the mixing factor is cut where a bar would move by half.
_T_FREEDOM, _MAX_SHOCK = 5, 6.0
_LOG_VOLATILITY, _VOLATILITY_HALF_LIFE = 0.35, 48
_WORST_RETURN = -0.5


@dataclass(frozen=True, slots=True)
class Path:
    """Hourly opens and closes in ticks and what belongs to them; every array has shape (hours, n_symbols).

    `open_ticks` and `close_ticks` are 0 where `live` is False. `spread` is the standard deviation of an hour's return
    at that hour's volatility; 0 in the outage. `signal` is the planted signal, NaN where a symbol has none.
    """

    live: NDArray[np.bool_]
    open_ticks: NDArray[np.int64]
    close_ticks: NDArray[np.int64]
    spread: NDArray[np.float64]
    signal: NDArray[np.float64]


def market_volatility(config: GeneratorConfig) -> NDArray[np.float64]:
    """The market's volatility of each hour, mean square about 1, shape (hours,).

    An AR(1) logarithm times the mixing factor of a Student t: conditional on it the returns are normal, without it
    they are multivariate t with volatility clusters.
    """
    keep = 0.5 ** (1 / _VOLATILITY_HALF_LIFE)
    shocks = config.stream("volatility").standard_normal(config.hours)
    logs = np.empty(config.hours)
    level = float(shocks[0])
    for hour, shock in enumerate(shocks):
        level = keep * level + math.sqrt(1 - keep**2) * float(shock) if hour else level
        logs[hour] = level
    mixing = np.sqrt((_T_FREEDOM - 2) / config.stream("shock").chisquare(_T_FREEDOM, config.hours))
    smooth: NDArray[np.float64] = np.exp(_LOG_VOLATILITY * logs - _LOG_VOLATILITY**2)
    return smooth * np.minimum(mixing, _MAX_SHOCK)


def build_path(config: GeneratorConfig, universe: Universe, funding: NDArray[np.float64]) -> Path:
    """The hourly path.

    Parameters
    ----------
    config, universe
        The market.
    funding
        Last settled rate as of each open, shape (hours, n_symbols), NaN where none.

    """
    shape = (config.hours, config.n_symbols)
    live = universe.live(config.hours)
    volatility = market_volatility(config)
    outage = slice(*Events.of(config).outage)
    volatility[outage] = 0
    market = config.stream("market").standard_normal(config.hours)[:, None]
    noise = universe.market_loading * market + universe.own_volatility * config.stream("own").standard_normal(shape)
    planted = config.signal_strength * noise_scale(universe.market_loading, universe.own_volatility)
    opens, closes = np.full(shape, np.nan), np.full(shape, np.nan)
    signal = np.full(shape, np.nan)
    price = universe.first_ticks.astype(np.float64)
    drift = np.zeros(config.n_symbols)
    for hour in range(config.hours):
        now = live[hour]
        change = np.maximum(volatility[hour] * (noise[hour] + drift), _WORST_RETURN)
        opens[hour, now] = price[now]
        price = np.where(now, np.maximum(np.rint(price * (1 + change)), 1), price)
        closes[hour, now] = price[now]
        if hour >= REVERSAL_HOURS - 1:
            signal[hour] = signal_row(opens[hour - REVERSAL_HOURS + 1], closes[hour], funding[hour])
            drift = planted * np.nan_to_num(signal[hour])
    total = np.hypot(universe.market_loading, universe.own_volatility)
    return Path(
        live=live,
        open_ticks=np.nan_to_num(opens).astype(np.int64),
        close_ticks=np.nan_to_num(closes).astype(np.int64),
        spread=np.where(live, volatility[:, None] * total, 0.0),
        signal=signal,
    )
