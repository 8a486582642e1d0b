"""A market with known truth: the tape that `GeneratorConfig` describes.

It has correlated, fat-tailed returns with volatility clusters, funding that follows a premium, mixed funding intervals
and one change of them, three listings, a delisting, an outage, and one planted predictor (see `generator_signal`).
No price is off the tick, every open is the previous close, and outside the outage no minute is without a trade.

In the outage every bar exists, flat at the last close with zero volume, as OKX printed on 2022-12-18.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.sandbox.derived import Derived
from qlib_crypto.sandbox.generator_bars import Counts, build_bars
from qlib_crypto.sandbox.generator_config import Events, GeneratorConfig
from qlib_crypto.sandbox.generator_funding import FundingBook
from qlib_crypto.sandbox.generator_path import build_path
from qlib_crypto.sandbox.generator_signal import expected_ic
from qlib_crypto.sandbox.generator_universe import build_universe, decimal
from qlib_crypto.sandbox.series import empty_bars, moved
from qlib_crypto.sandbox.tape import BarSeries, FundingNow, SettlementSeries
from qlib_crypto.symbols import Instrument, Interval, Venue

__all__ = ["GeneratorConfig", "GeneratorTape"]

_MINUTE, _HOUR = Interval.parse("1m"), Interval.parse("1h")
#: Of an index beyond those of the tick, on which it does not lie.
_MORE_DECIMALS = 4


class GeneratorTape(Derived):
    """A `Tape` that is generated, with its truth beside it.

    Attributes
    ----------
    config
        What was asked for.
    instruments
        Every instrument, in the order of the columns of `planted_signal`.
    outages
        Spans `(start_ms, end_ms)`, closed left and open right, in which the venue does not answer.

    """

    def __init__(self, config: GeneratorConfig) -> None:
        self.config = config
        self._universe = build_universe(config)
        self.instruments: tuple[Instrument, ...] = self._universe.instruments
        self._position = {instrument: i for i, instrument in enumerate(self.instruments)}
        #: Every instrument's contract; an instrument may be listed or delisted beyond a short span.
        self.specs = dict(zip(self.instruments, self._universe.specs, strict=True))
        self._funding = FundingBook(config, self._universe)
        self._path = build_path(config, self._universe, self._funding.known())
        hours, minutes = build_bars(config, self._universe, self._path)
        self._counts = {_HOUR: hours, _MINUTE: minutes}
        outage = Events.of(config).outage
        self.outages: tuple[tuple[int, int], ...] = (
            ((config.start_ms + outage[0] * HOUR_MS, min(config.start_ms + outage[1] * HOUR_MS, config.end_ms)),)
            if outage[0] < config.hours
            else ()
        )
        self._indexes: dict[tuple[Instrument, Interval], BarSeries] = {}
        self._settlements = tuple(self._settled(i) for i in range(config.n_symbols))
        self._bars = {
            (instrument, interval): self._series(i, interval)
            for i, instrument in enumerate(self.instruments)
            for interval in (_MINUTE, _HOUR)
        }

    @property
    def venue(self) -> Venue:
        return self.config.venue

    @property
    def span_ms(self) -> tuple[int, int]:
        """First bar open and last bar close."""
        return self.config.start_ms, self.config.end_ms

    def intervals(self, instrument: Instrument) -> tuple[Interval, ...]:
        """Intervals with bars of their own, finest first."""
        return tuple(interval for interval in (_MINUTE, _HOUR) if len(self.bars(instrument, interval).open_ms))

    def bars(self, instrument: Instrument, interval: Interval) -> BarSeries:
        """The stored bars (1h of the span, 1m of its last days); an empty series for any other interval."""
        self._of(instrument)
        return self._bars.get((instrument, interval)) or empty_bars()

    def index_bars(self, instrument: Instrument, interval: Interval) -> BarSeries:
        """The stored bars without their hour's premium over the index: price = index x (1 + premium)."""
        i, key = self._of(instrument), (instrument, interval)
        if key not in self._indexes:
            bars = self.bars(instrument, interval)
            over = 1 + self._funding.premium(i, (bars.open_ms - self.config.start_ms) // HOUR_MS)
            decimals = int(self._universe.price_decimals[i]) + _MORE_DECIMALS
            self._indexes[key] = moved(bars, lambda price: _frozen(np.round(price / over, decimals)))
        return self._indexes[key]

    def settlements(self, instrument: Instrument) -> SettlementSeries:
        """Settled funding in the span; the mark is the price at that instant, the open of the bar that begins there."""
        return self._settlements[self._of(instrument)]

    def funding_now(self, instrument: Instrument, at_ms: int) -> FundingNow | None:
        """The estimate at `at_ms`, from the premium up to then; None while the instrument is not listed.

        It becomes the settled rate as `at_ms` reaches the settlement.
        """
        return self._funding.now(self._of(instrument), at_ms)

    @property
    def hours_ms(self) -> NDArray[np.int64]:
        """Opens of the 1h bars: the rows of `planted_signal` and `expected_ic`, shape (hours,)."""
        return self.config.start_ms + np.arange(self.config.hours) * HOUR_MS

    def planted_signal(self) -> NDArray[np.float64]:
        """The planted signal at each hour's close, shape (hours, n_symbols); NaN where a symbol has none.

        Row t predicts the return from open(t+1) to open(t+2): `Ref($open,-2)/Ref($open,-1)-1` at t.
        """
        return self._path.signal.copy()

    def scored(self) -> NDArray[np.bool_]:
        """Which cells of `planted_signal` have a next return that can be scored: signal and bars at t, t+1 and t+2.

        No symbol is scored when the next bar lies in the outage, where no price moves. Shape (hours, n_symbols).
        """
        live = self._path.live
        out = np.isfinite(self._path.signal)
        out[:-1] &= live[1:]
        out[:-2] &= live[2:]
        out[-2:] = False
        first, end = Events.of(self.config).outage
        out[max(first - 1, 0) : end - 1] = False
        return out

    def expected_ic(self) -> NDArray[np.float64]:
        """The expected cross-sectional Pearson IC of the planted signal in each hour, shape (hours,); NaN where none.

        Given the signal of the hour, over the `scored` symbols; the formula is in `generator_signal.expected_ic`.
        """
        universe = self._universe
        return expected_ic(
            self._path.signal,
            self.scored(),
            self.config.signal_strength,
            universe.market_loading,
            universe.own_volatility,
        )

    @cached_property
    def theoretical_ic(self) -> float:
        """The mean of `expected_ic` over the hours that have one: what a perfect researcher's mean IC tends to.

        Exactly 0 for strength 0; NaN for a market that never moves.
        """
        hourly = self.expected_ic()
        known = hourly[np.isfinite(hourly)]
        return float(known.mean()) if len(known) else float("nan")

    def _of(self, instrument: Instrument) -> int:
        try:
            return self._position[instrument]
        except KeyError:
            raise ConfigError(f"{instrument} is not on this generated tape; take one of its `instruments`") from None

    def _settled(self, i: int) -> SettlementSeries:
        schedule = self._funding.schedules[i]
        marks = decimal(self._path.open_ticks[schedule.hour, i], int(self._universe.price_decimals[i]))
        return SettlementSeries(_frozen(schedule.time_ms), _frozen(schedule.rate), _frozen(marks))

    def _series(self, i: int, interval: Interval) -> BarSeries:
        counts: Counts = self._counts[interval]
        universe = self._universe
        minutes_first = self.config.first_minute_hour * HOUR_MS // MINUTE_MS if interval == _MINUTE else 0
        slot = minutes_first + np.arange(len(counts.open))
        rows = np.flatnonzero(counts.open[:, i] > 0)
        ticks, lots = int(universe.price_decimals[i]), int(universe.lot_decimals[i])
        binance = self.venue is Venue.BINANCE
        return BarSeries(
            open_ms=_frozen(self.config.start_ms + slot[rows] * interval.ms),
            open=_frozen(decimal(counts.open[rows, i], ticks)),
            high=_frozen(decimal(counts.high[rows, i], ticks)),
            low=_frozen(decimal(counts.low[rows, i], ticks)),
            close=_frozen(decimal(counts.close[rows, i], ticks)),
            volume_base=_frozen(decimal(counts.lots[rows, i], lots)),
            volume_quote=_frozen(decimal(counts.quote[rows, i], ticks + lots)),
            trades=_frozen(counts.trades[rows, i] if binance else np.full(len(rows), -1, dtype=np.int64)),
        )


def _frozen[T: np.generic](array: NDArray[T]) -> NDArray[T]:
    """The same array, no longer writable: a tape does not change."""
    array.setflags(write=False)
    return array
