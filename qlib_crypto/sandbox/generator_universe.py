"""Who trades in a generated market: names, contract specs, price levels, betas, volatilities, funding intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.generator_config import Events, GeneratorConfig
from qlib_crypto.symbols import Instrument, Venue

_BTC, _ETH, _CHANGING = 0, 1, 3
_MAJORS = 2
_ONSETS = ("KA", "LU", "ZO", "MI", "VE", "RO", "TA", "NY", "DO", "PI", "SU", "FE")
_ENDS = ("VEX", "RIN", "LOT", "MUX", "DAR", "NIX", "ZEN", "POL", "GRA", "TIK")
_MEME_NAME = "MOCHI"
#: Binance quotes a thousand of a coin that costs less than a thousandth; OKX quotes one.
_SCALED, _SCALE = "1000", 1000

_MAJOR_PRICES = (94_000.0, 3_350.0)
_MEME_PRICE = 2.4e-5
#: Decades of the other prices, evenly spread.
_LOW_DECADE, _HIGH_DECADE = -2.9, 2.8
_MAJOR_TURNOVER = (2e8, 1e8)

#: Funding interval in hours by position in the list; majors every 8 h as on both venues.
_INTERVALS = (8, 8, 4, 8, 8, 4, 1, 8, 4, 8)
_CHANGED_INTERVAL = 4
#: Parts of a typical symbol's volatility; 0.6² + 0.8² = 1.
_MARKET_PART, _OWN_PART = 0.6, 0.8
_NEVER = 2**40


@dataclass(frozen=True, slots=True)
class Universe:
    """Everything about the instruments that does not change by the hour; arrays have shape (n_symbols,).

    Attributes
    ----------
    instruments, specs
        In the order of every array; BTC first, ETH second.
    price_decimals, lot_decimals
        A tick is `10**-price_decimals` quote, a lot `10**-lot_decimals` base.
    first_ticks
        First open, in ticks.
    market_loading, own_volatility
        Standard deviations of the hourly return that come from the market factor and from the symbol itself.
    premium_scale, funding_cap
        Of the premium's volatility; of the funding rate per 8 h.
    turnover_quote
        Typical quote volume of an hour.
    listed_hour, delisted_hour
        First hour with a bar and first hour after the last one, counted from the start.
    interval_hours, later_interval_hours, change_hour
        Funding interval before and from `change_hour` on.

    """

    instruments: tuple[Instrument, ...]
    specs: tuple[InstrumentSpec, ...]
    price_decimals: NDArray[np.int64]
    lot_decimals: NDArray[np.int64]
    first_ticks: NDArray[np.int64]
    market_loading: NDArray[np.float64]
    own_volatility: NDArray[np.float64]
    premium_scale: NDArray[np.float64]
    funding_cap: NDArray[np.float64]
    turnover_quote: NDArray[np.float64]
    listed_hour: NDArray[np.int64]
    delisted_hour: NDArray[np.int64]
    interval_hours: NDArray[np.int64]
    later_interval_hours: NDArray[np.int64]
    change_hour: int

    def live(self, hours: int) -> NDArray[np.bool_]:
        """Which symbols have a bar, shape (hours, n_symbols)."""
        hour = np.arange(hours)[:, None]
        return (hour >= self.listed_hour) & (hour < self.delisted_hour)


def build_universe(config: GeneratorConfig) -> Universe:
    """The universe of a configuration."""
    n, events = config.n_symbols, Events.of(config)
    draw = config.stream("universe")
    prices = _prices(config, draw)
    listed = np.zeros(n, dtype=np.int64)
    listed[n - len(events.listings) :] = events.listings
    delisted = np.full(n, _NEVER)
    delisted[n - len(events.listings) - 1] = events.delisting
    intervals = np.resize(np.array(_INTERVALS), n)
    later = intervals.copy()
    later[_CHANGING] = _CHANGED_INTERVAL
    price_decimals = _price_decimals(prices)
    lot_decimals = _lot_decimals(config.venue, prices)
    instruments = tuple(Instrument(base, "USDT", config.venue) for base in _bases(config))
    beta, own = _risk(n, draw)
    turnover = 10 ** draw.uniform(5.7, 6.7, n)
    turnover[:_MAJORS] = _MAJOR_TURNOVER
    caps = np.full(n, 0.0075)
    caps[:_MAJORS] = 0.00375
    scale = np.ones(n)
    scale[:_MAJORS] = 0.5
    specs = tuple(
        _spec(config, instrument, i, int(price_decimals[i]), int(lot_decimals[i]), int(listed[i]), int(delisted[i]))
        for i, instrument in enumerate(instruments)
    )
    return Universe(
        instruments=instruments,
        specs=specs,
        price_decimals=price_decimals,
        lot_decimals=lot_decimals,
        first_ticks=np.rint(prices * 10.0**price_decimals).astype(np.int64),
        market_loading=config.hourly_volatility * _MARKET_PART * beta,
        own_volatility=config.hourly_volatility * _OWN_PART * own,
        premium_scale=scale,
        funding_cap=caps,
        turnover_quote=turnover,
        listed_hour=listed,
        delisted_hour=delisted,
        interval_hours=intervals,
        later_interval_hours=later,
        change_hour=events.interval_change,
    )


def _bases(config: GeneratorConfig) -> list[str]:
    invented = [
        _ONSETS[k % len(_ONSETS)] + _ENDS[(k + k // 60) % len(_ENDS)]  # 60 = lcm(12, 10): unique up to 120 names
        for k in range(config.n_symbols - 3)
    ]
    meme = _SCALED + _MEME_NAME if config.venue is Venue.BINANCE else _MEME_NAME
    return ["BTC", "ETH", meme, *invented]


def _prices(config: GeneratorConfig, draw: np.random.Generator) -> NDArray[np.float64]:
    rest = config.n_symbols - 3
    decades = np.linspace(_LOW_DECADE, _HIGH_DECADE, rest) + draw.uniform(-0.08, 0.08, rest)
    meme = _MEME_PRICE * (_SCALE if config.venue is Venue.BINANCE else 1)
    return np.concatenate([_MAJOR_PRICES, [meme], draw.permutation(10**decades)])


def _risk(n: int, draw: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Betas around 1, and own volatilities with mean square 1; majors move less by themselves."""
    beta = draw.uniform(0.75, 1.25, n)
    own = draw.uniform(0.75, 1.25, n)
    beta[:_MAJORS] = (0.85, 1.0)
    own[:_MAJORS] = (0.5, 0.65)
    return beta, own / np.sqrt(np.mean(own**2))


def _price_decimals(prices: NDArray[np.float64]) -> NDArray[np.int64]:
    """Five significant digits, six for the majors: what both venues quote."""
    decimals = 4 - np.floor(np.log10(prices)).astype(np.int64)
    decimals[:_MAJORS] += 1
    return decimals


def _lot_decimals(venue: Venue, prices: NDArray[np.float64]) -> NDArray[np.int64]:
    if venue is Venue.OKX:  # one contract of about 10 USDT; a hundredth of 0.01 BTC and of 0.1 ETH
        decimals = -np.rint(np.log10(10 / prices)).astype(np.int64)
        decimals[:_MAJORS] = (4, 3)
    else:  # Binance never steps in more than one coin
        decimals = np.maximum(0, np.ceil(np.log10(prices))).astype(np.int64)
        decimals[:_MAJORS] = 3
    return decimals


def _spec(
    config: GeneratorConfig,
    instrument: Instrument,
    i: int,
    price_decimals: int,
    lot_decimals: int,
    listed_hour: int,
    delisted_hour: int,
) -> InstrumentSpec:
    """The contract as the venue of this market states it: `spec_source` says that it is generated."""
    major, okx = i < _MAJORS, config.venue is Venue.OKX
    lot_contracts = 0.01 if okx and major else 1.0 if okx else power_of_ten(-lot_decimals)
    # contracts of 10**k base: their decimal text is exact, a quotient of floats need not be
    contract = power_of_ten(2 - lot_decimals) if okx and major else power_of_ten(-lot_decimals) if okx else 1.0
    before = (1 + i) * 30 * DAY_MS
    listed = config.start_ms + listed_hour * HOUR_MS if listed_hour else config.start_ms - before
    return InstrumentSpec(
        instrument=instrument,
        seen_ms=config.start_ms,
        state="live",
        category="crypto",
        rule_type="normal",
        tick_size=power_of_ten(-price_decimals),
        contract_value_base=contract,
        lot_contracts=lot_contracts,
        min_contracts=lot_contracts,
        min_notional_quote=None if okx else (100.0 if i == _BTC else 20.0 if i == _ETH else 5.0),
        max_leverage=100.0 if major else 50.0,
        listed_ms=listed,
        delisted_ms=None if delisted_hour == _NEVER else config.start_ms + delisted_hour * HOUR_MS,
        spec_source="generated",
    )


def power_of_ten(exponent: int) -> float:
    """The double nearest to `10**exponent`, the one that the decimal text parses to."""
    return float(f"1e{exponent}")


def decimal(units: NDArray[np.int64], decimals: int) -> NDArray[np.float64]:
    """The doubles nearest to `units * 10**-decimals`: one correctly rounded operation on two exact numbers.

    Holds for |units| below 2**53 and |decimals| up to 22.
    """
    value = units.astype(np.float64)
    return value / math.pow(10.0, decimals) if decimals >= 0 else value * math.pow(10.0, -decimals)
