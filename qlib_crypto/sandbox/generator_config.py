"""What a generated market is asked to be: its settings, the times of its events, its random streams."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from qlib_crypto.clock import DAY_MS, HOUR_MS, parse_utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Venue

#: Fewest symbols: below it a cross-section says little. Most: the invented names end there.
MIN_SYMBOLS, MAX_SYMBOLS = 30, 120

# where the events lie, as parts of `event_days`
_LISTINGS = (0.2, 0.4, 0.65)
_INTERVAL_CHANGE = 0.5
_OUTAGE = 0.55
_OUTAGE_HOURS = 2
_DELISTING = 0.93
#: An interval changes where the longest one (8 h) settles.
_LONGEST_HOURS = 8


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    """A market to generate; equal configurations give equal tapes, byte for byte.

    Attributes
    ----------
    venue
        Whose instruments, intervals and quirks. The two venues of one seed are two separate markets.
    seed
        Of every random stream.
    n_symbols
        All instruments, with the three that are listed later and the one that is delisted.
    start_ms, end_ms
        The span, closed left and open right: whole UTC days at the start, whole hours at the end.
    minute_days
        Days at the end that have 1m bars beside the 1h bars; 0 for none.
    signal_strength
        Standard deviation of the planted part of next hour's residual return over that of the noise, 0 to 1. The
        expected IC is a little below `strength / sqrt(1 + strength**2)`; `GeneratorTape.theoretical_ic` is exact.
    hourly_volatility
        Standard deviation of a typical symbol's 1h return; 0 for a market that never moves.
    premium_volatility
        Standard deviation of a typical symbol's funding premium per 8 h; 0 prints 0.01 % per 8 h for ever.
    event_days
        Days over which listings, interval change, outage and delisting are laid out; the span when None. With it fixed,
        a later `end_ms` only appends: opens, closes, volumes, trade counts, settlements and 1m bars of the past stay
        as they are, and so do 1h highs, lows and quote volumes of hours with 1m bars on both tapes or on neither.

    """

    venue: Venue
    seed: int = 20250501
    n_symbols: int = 32
    start_ms: int = parse_utc("2025-01-01")
    end_ms: int = parse_utc("2025-05-31")
    minute_days: int = 3
    signal_strength: float = 0.1
    hourly_volatility: float = 0.008
    premium_volatility: float = 0.0008
    event_days: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be generated.

        Raises
        ------
        ConfigError
            A value is out of its range; the message names it.

        """
        rules = (
            ("seed", self.seed, self.seed >= 0, "0 or more"),
            ("n_symbols", self.n_symbols, MIN_SYMBOLS <= self.n_symbols <= MAX_SYMBOLS, "30 to 120"),
            ("start_ms", self.start_ms, self.start_ms % DAY_MS == 0, "00:00 UTC of a day"),
            (
                "end_ms",
                self.end_ms,
                self.end_ms % HOUR_MS == 0 and self.end_ms - self.start_ms >= DAY_MS,
                "a whole hour, a day or more after the start",
            ),
            ("minute_days", self.minute_days, self.minute_days >= 0, "0 or more"),
            ("signal_strength", self.signal_strength, 0 <= self.signal_strength <= 1, "0 to 1"),
            ("hourly_volatility", self.hourly_volatility, 0 <= self.hourly_volatility <= 0.03, "0 to 0.03"),  # noqa: PLR2004 - beyond it prices cross zero
            ("premium_volatility", self.premium_volatility, 0 <= self.premium_volatility <= 0.01, "0 to 0.01"),  # noqa: PLR2004 - a premium of percents is no market
            ("event_days", self.event_days, self.event_days is None or self.event_days >= 1, "1 or more"),
        )
        for name, value, good, wanted in rules:
            if not good:
                raise ConfigError(f"generator setting {name} is {value!r}; write {wanted}")

    @property
    def hours(self) -> int:
        """Number of 1h bars of the span."""
        return (self.end_ms - self.start_ms) // HOUR_MS

    @property
    def first_minute_hour(self) -> int:
        """The first hour that has 1m bars; `hours` when none has."""
        return max(0, self.hours - 24 * self.minute_days)

    def stream(self, name: str, *key: int) -> np.random.Generator:
        """The random stream of a name; drawn in time order, so that a longer span only appends."""
        entropy = [self.seed, list(Venue).index(self.venue), zlib.crc32(name.encode()), *key]
        return np.random.default_rng(entropy)


@dataclass(frozen=True, slots=True)
class Events:
    """When something happens, in hours after the start; an hour beyond the span means that it does not."""

    listings: tuple[int, ...]
    delisting: int
    interval_change: int
    outage: tuple[int, int]

    @classmethod
    def of(cls, config: GeneratorConfig) -> Events:
        """The events of a configuration, at fixed parts of `event_days`."""
        hours = config.hours if config.event_days is None else config.event_days * 24
        change = int(hours * _INTERVAL_CHANGE / _LONGEST_HOURS) * _LONGEST_HOURS
        outage = int(hours * _OUTAGE)
        return cls(
            listings=tuple(int(hours * part) for part in _LISTINGS),
            delisting=int(hours * _DELISTING),
            interval_change=change,
            outage=(outage, outage + _OUTAGE_HOURS),
        )
