"""What the sandbox replays: bars, settlements and contract specs of one venue, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

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
