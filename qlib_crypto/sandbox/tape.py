"""What the sandbox replays: bars, settlements and contract specs of one venue, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.symbols import Instrument, Interval, Venue


@dataclass(frozen=True, slots=True)
class BarSeries:
    """Bars of one instrument and interval, ascending by open time; every array has shape (n_bars,).

    `volume_quote` is NaN and `trades` is -1 where the source has none.
    """

    open_ms: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume_base: NDArray[np.float64]
    volume_quote: NDArray[np.float64]
    trades: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SettlementSeries:
    """Settled funding, ascending; arrays of shape (n_settlements,); `mark_price` is NaN where unknown."""

    time_ms: NDArray[np.int64]
    rate: NDArray[np.float64]
    mark_price: NDArray[np.float64]


class FundingNow(NamedTuple):
    """The running estimate: `rate` for the settlement at `settles_ms`, one `interval_ms` after the last."""

    rate: float
    settles_ms: int
    interval_ms: int


class Tape(Protocol):
    """A market that already happened; the server shows it no further than its own clock."""

    @property
    def venue(self) -> Venue: ...

    @property
    def span_ms(self) -> tuple[int, int]:
        """First bar open and last bar close."""
        ...

    @property
    def specs(self) -> Mapping[Instrument, InstrumentSpec]:
        """Every instrument, with `listed_ms` and `delisted_ms` (announced delisting time, None when none)."""
        ...

    def intervals(self, instrument: Instrument) -> tuple[Interval, ...]:
        """Intervals with bars of their own, finest first."""
        ...

    def bars(self, instrument: Instrument, interval: Interval) -> BarSeries:
        """The stored bars; an empty series when there are none."""
        ...

    def settlements(self, instrument: Instrument) -> SettlementSeries: ...

    def funding_now(self, instrument: Instrument, at_ms: int) -> FundingNow | None:
        """The estimate a client would see at `at_ms`, from nothing later than that; None when there is none yet."""
        ...


@dataclass(frozen=True, slots=True)
class OpenInterestSeries:
    """Open interest at the end of each 5 minutes, ascending; arrays of shape (n,).

    In base coins, and in the quote coin, NaN where unknown.
    """

    time_ms: NDArray[np.int64]
    base: NDArray[np.float64]
    quote: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RatioSeries:
    """Accounts long over accounts short at the end of each 5 minutes, ascending; arrays of shape (n,)."""

    time_ms: NDArray[np.int64]
    ratio: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prints:
    """Trades or forced orders, ascending by time; arrays of shape (n,); `buys` tells the side, ids count up."""

    time_ms: NDArray[np.int64]
    trade_id: NDArray[np.int64]
    buys: NDArray[np.bool_]
    price: NDArray[np.float64]
    quantity_base: NDArray[np.float64]


class Levels(NamedTuple):
    """The best levels of a book, best first: prices and base quantities of bids and asks."""

    bids: tuple[tuple[float, float], ...]
    asks: tuple[tuple[float, float], ...]


@runtime_checkable
class HasOutages(Protocol):
    """A tape with maintenance windows, `[start, end)` in market milliseconds."""

    @property
    def outages(self) -> Sequence[tuple[int, int]]: ...


@runtime_checkable
class HasOpenInterest(Protocol):
    """A tape that knows open interest."""

    def open_interest_series(self, instrument: Instrument) -> OpenInterestSeries: ...


@runtime_checkable
class HasFlow(Protocol):
    """A tape that knows ratios of accounts, forced orders, trades and books."""

    def ratio_series(self, instrument: Instrument) -> RatioSeries: ...

    def liquidations(self, instrument: Instrument) -> Prints: ...

    def trades(self, instrument: Instrument) -> Prints: ...

    def book(self, instrument: Instrument, at_ms: int, depth: int) -> Levels | None:
        """The book at `at_ms`; None before the first bar."""
        ...


class Price(Enum):
    """Which price of a contract: that of its trades, its mark price, or the index it follows."""

    TRADED = auto()
    MARK = auto()
    INDEX = auto()


@runtime_checkable
class HasMarks(Protocol):
    """A tape whose mark price is not its last price."""

    def mark_bars(self, instrument: Instrument, interval: Interval) -> BarSeries: ...


@runtime_checkable
class HasIndex(Protocol):
    """A tape whose index is not its last price."""

    def index_bars(self, instrument: Instrument, interval: Interval) -> BarSeries: ...


@runtime_checkable
class HasVersions(Protocol):
    """A tape whose contracts change."""

    def versions(self, instrument: Instrument) -> Sequence[InstrumentSpec]:
        """Ascending by `seen_ms`, from which on each holds; the first one holds before, too."""
        ...
