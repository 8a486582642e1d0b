"""Venues, intervals and instruments: the one place that spells them.

Every other module passes `Venue`, `Interval` and `Instrument` values; nobody cuts strings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import total_ordering

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS
from qlib_crypto.errors import ConfigError


class Venue(StrEnum):
    """A venue, by the name used in folders, options and settings."""

    OKX = "okx"
    BINANCE = "binance"

    @classmethod
    def parse(cls, text: str) -> Venue:
        """The venue of a name in any case.

        Raises
        ------
        ConfigError
            When no such venue is supported.

        """
        try:
            return cls(text.lower())
        except ValueError:
            names = ", ".join(cls)
            raise ConfigError(f"venue {text!r} is not supported; choose one of: {names}") from None


#: Quote coins of the linear perpetuals we know, longest first, because Binance writes no separator.
QUOTES = ("USDT", "USDC")

_UNITS = {
    "m": MINUTE_MS, "min": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "day": DAY_MS, "w": WEEK_MS, "week": WEEK_MS,
}  # fmt: skip
#: Qlib's own words for a day and a week.
_LABEL = {"1d": "day", "1w": "1week"}
#: The first Monday of Unix time, 00:00 UTC: weeks begin on Mondays.
_MONDAY_MS = 4 * DAY_MS


@total_ordering
@dataclass(frozen=True, slots=True)
class Interval:
    """A bar length; `name` is the lake's spelling (`1m 5m 1h 4h 1d`, and `1w`, which only a provider has).

    Attributes
    ----------
    name
        Canonical lake spelling.
    ms
        Length in milliseconds; divides a UTC day, or is a week.

    """

    name: str
    ms: int

    @classmethod
    def parse(cls, text: str) -> Interval:
        """The interval of a lake (`5m`, `1h`, `1d`) or Qlib (`5min`, `60min`, `day`, `week`) spelling.

        Raises
        ------
        ConfigError
            When the text is no interval, or neither divides a UTC day nor is a week.

        """
        match = re.fullmatch(r"(\d*)(m|min|h|d|day|w|week)", str(text).strip().lower())
        ms = int(match[1] or 1) * _UNITS[match[2]] if match else 0
        if ms == 0 or (DAY_MS % ms and ms != WEEK_MS):
            raise ConfigError(
                f"interval {text!r} is unknown; write minutes or hours that divide a UTC day, a day or a week, "
                "such as 1m 5m 15m 1h 4h 1d 1w"
            )
        return cls.of_ms(ms)

    @classmethod
    def parse_candle(cls, text: str) -> Interval:
        """`parse` of what a lake may hold: no week.

        Raises
        ------
        ConfigError
            As `parse`, and for a week: venues disagree on when one begins.

        """
        found = cls.parse(text)
        if found.ms > DAY_MS:
            raise ConfigError(f"candles of {text!r} are not collected; collect 1d or finer, convert makes weeks of it")
        return found

    @classmethod
    def of_ms(cls, ms: int) -> Interval:
        """The interval of a length in milliseconds that divides a UTC day or is a week."""
        if ms >= DAY_MS:
            return cls("1d" if ms == DAY_MS else "1w", ms)
        return cls(f"{ms // HOUR_MS}h" if ms % HOUR_MS == 0 else f"{ms // MINUTE_MS}m", ms)

    @property
    def qlib(self) -> str:
        """Qlib's canonical spelling: `1min`, `60min`, `240min`, `day`, `1week`."""
        return _LABEL.get(self.name) or f"{self.ms // MINUTE_MS}min"

    @property
    def by_month(self) -> bool:
        """True when the lake keeps one file a symbol-month (an hour and more), False for one a symbol-day."""
        return self.ms >= HOUR_MS

    def floor(self, ms: int) -> int:
        """The open of the bar that holds the instant `ms`."""
        return ms - (ms - _MONDAY_MS) % self.ms

    def __lt__(self, other: Interval) -> bool:
        return self.ms < other.ms

    def __str__(self) -> str:
        return self.name


@total_ordering
@dataclass(frozen=True, slots=True)
class Instrument:
    """A linear perpetual on one venue, in every spelling.

    Attributes
    ----------
    base, quote
        Coins, upper case; a scaled coin keeps the venue's prefix (`1000PEPE`).
    venue
        Where it trades.
    listing
        1, or n for the n-th contract that used this ticker (`LUNA_USDT~2`).

    """

    base: str
    quote: str
    venue: Venue
    listing: int = 1

    @property
    def symbol(self) -> str:
        """`BTC_USDT`, as in file names; `LUNA_USDT~2` for a reused ticker."""
        return f"{self.base}_{self.quote}" + (f"~{self.listing}" if self.listing > 1 else "")

    @property
    def qlib(self) -> str:
        """`BTC_USDT.OKX`, the name in Qlib."""
        return f"{self.symbol}.{self.venue.upper()}"

    @property
    def venue_id(self) -> str:
        """The venue's own id: `BTC-USDT-SWAP` or `BTCUSDT`."""
        if self.venue is Venue.OKX:
            return f"{self.base}-{self.quote}-SWAP"
        return f"{self.base}{self.quote}"

    @property
    def index_id(self) -> str:
        """The venue's own id of the index that the contract follows: `BTC-USDT` or `BTCUSDT`."""
        return f"{self.base}-{self.quote}" if self.venue is Venue.OKX else self.venue_id

    @property
    def cryptofeed(self) -> str:
        """`BTC-USDT-PERP`, as cryptofeed normalises it."""
        return f"{self.base}-{self.quote}-PERP"

    @classmethod
    def parse(cls, text: str, venue: Venue | None = None) -> Instrument:
        """The instrument of `BTC_USDT.OKX`, or of `BTC_USDT` with a venue.

        Raises
        ------
        ConfigError
            When the text is neither.

        """
        match = re.fullmatch(r"([^\s_./~]+)_([A-Z0-9]+)(?:~(\d+))?(?:\.([A-Za-z]+))?", text.strip())
        if not match:
            raise ConfigError(f"symbol {text!r} is unknown; write BASE_QUOTE such as BTC_USDT, or BTC_USDT.OKX")
        at = Venue.parse(match[4]) if match[4] else venue
        if at is None:
            raise ConfigError(f"symbol {text!r} is of no venue; write {text.strip()}.OKX or {text.strip()}.BINANCE")
        return cls(match[1], match[2], at, int(match[3] or 1))

    @classmethod
    def from_venue_id(cls, venue: Venue, venue_id: str) -> Instrument | None:
        """The instrument of a venue's own id, None for what is no linear perpetual in USDT or USDC.

        Total on any text: placeholders (`LISTING-SWAP-…`), inverse and dated contracts give None.
        """
        if venue is Venue.OKX:
            parts = venue_id.split("-")
            if len(parts) == 3 and parts[0] and parts[1] in QUOTES and parts[2] == "SWAP":  # noqa: PLR2004
                return cls(parts[0], parts[1], venue)
            return None
        for quote in QUOTES:
            if venue_id.endswith(quote) and len(venue_id) > len(quote) and "_" not in venue_id:
                return cls(venue_id.removesuffix(quote), quote, venue)
        return None

    def __lt__(self, other: Instrument) -> bool:
        return (self.venue, self.symbol) < (other.venue, other.symbol)

    def __str__(self) -> str:
        return self.qlib


#: How each venue spells an interval in requests and streams. OKX opens 6H and longer at UTC+8 without `utc`.
OKX_BAR = {
    "1m": "1m", "3m": "3m", "5m": "5m", "15m": "15m", "30m": "30m", "1h": "1H", "2h": "2H", "4h": "4H",
    "6h": "6Hutc", "12h": "12Hutc", "1d": "1Dutc",
}  # fmt: skip
BINANCE_BAR = {
    "1m": "1m", "3m": "3m", "5m": "5m", "15m": "15m", "30m": "30m", "1h": "1h", "2h": "2h", "4h": "4h",
    "6h": "6h", "8h": "8h", "12h": "12h", "1d": "1d",
}  # fmt: skip


def venue_bar(venue: Venue, interval: Interval) -> str:
    """The venue's own spelling of an interval.

    Raises
    ------
    ConfigError
        When the venue serves no bars of that length.

    """
    table = OKX_BAR if venue is Venue.OKX else BINANCE_BAR
    if interval.name not in table:
        raise ConfigError(f"interval {interval} is not served by {venue}; choose one of: {' '.join(table)}")
    return table[interval.name]
