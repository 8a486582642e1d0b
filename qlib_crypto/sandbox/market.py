"""A tape seen from the market clock: nothing here shows more than a client could know at that time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.clock import MarketClock
from qlib_crypto.sandbox.series import Grid, chain, collapse, empty_bars, first_prints, resample, take, union
from qlib_crypto.sandbox.tape import (
    BarSeries,
    FundingNow,
    HasIndex,
    HasMarks,
    HasOpenInterest,
    HasOutages,
    HasVersions,
    OpenInterestSeries,
    Price,
    SettlementSeries,
    Tape,
)
from qlib_crypto.symbols import Instrument, Interval, Venue

#: A delisting is announced this long before, a listing appears as `preopen` (`PENDING_TRADING`) this long before.
ANNOUNCED_MS = 7 * DAY_MS
PREOPEN_MS = DAY_MS


class Day(NamedTuple):
    """The last 24 h of closed bars, and the last price; volumes in base and quote coin."""

    last: float
    last_ms: int
    open: float
    high: float
    low: float
    volume_base: float
    volume_quote: float
    trades: int


class Market:
    """One venue's tape behind the market clock.

    Bars of an interval are the tape's own where it has that interval, otherwise resampled: per bar from the finest
    interval that covers it completely, else there is no bar.
    """

    def __init__(self, tape: Tape, clock: MarketClock) -> None:
        self.tape = tape
        self.clock = clock
        self.venue: Venue = tape.venue
        #: Maintenance windows of the tape, and those that were asked for as faults.
        self.outages: list[tuple[int, int]] = (
            [(int(start), int(end)) for start, end in tape.outages] if isinstance(tape, HasOutages) else []
        )
        self._series: dict[tuple[Instrument, Grid, Price], BarSeries] = {}
        self._by_id: dict[str, list[InstrumentSpec]] = {}
        for spec in tape.specs.values():
            tape.settlements(spec.instrument)  # read now, not while a clock runs
        for spec in sorted(tape.specs.values(), key=lambda s: (s.instrument.venue_id, s.listed_ms or 0)):
            self._by_id.setdefault(spec.instrument.venue_id, []).append(spec)

    def now(self) -> int:
        """Market time, milliseconds."""
        return self.clock.now_ms()

    def outage(self, at_ms: int) -> tuple[int, int] | None:
        """The maintenance window that holds `at_ms`."""
        return next((window for window in self.outages if window[0] <= at_ms < window[1]), None)

    def find(self, venue_id: str, at_ms: int | None = None) -> InstrumentSpec | None:
        """The contract that trades under a venue's id at `at_ms` (now), as it is then: the latest listed by then."""
        at = self.now() if at_ms is None else at_ms
        listed = [spec for spec in self._by_id.get(venue_id, ()) if (spec.listed_ms or 0) <= at]
        return self.version(listed[-1], at) if listed else None

    def all_of(self, venue_id: str) -> list[InstrumentSpec]:
        """Every contract that ever used a venue's id, by listing."""
        return self._by_id.get(venue_id, [])

    @property
    def ids(self) -> list[str]:
        """Every venue's id there ever was, ascending."""
        return sorted(self._by_id)

    def version(self, spec: InstrumentSpec, at_ms: int) -> InstrumentSpec:
        """A contract as it is at `at_ms`."""
        if not isinstance(self.tape, HasVersions):
            return spec
        known = self.tape.versions(spec.instrument)
        return next((one for one in reversed(known) if one.seen_ms <= at_ms), known[0])

    def contracts(self, instrument: Instrument, times_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """Base coins in one contract at each time, shape (n,): bars are counted in the contracts of their day."""
        if not isinstance(self.tape, HasVersions):
            return np.full(len(times_ms), self.tape.specs[instrument].contract_value_base)
        known = self.tape.versions(instrument)
        at = np.searchsorted([one.seen_ms for one in known], times_ms, side="right") - 1
        return np.array([one.contract_value_base for one in known])[np.maximum(at, 0)]

    def find_any(self, venue_id: str) -> InstrumentSpec | None:
        """The contract of a venue's id, also one that is not listed yet: what a websocket may subscribe to."""
        return self.find(venue_id) or next(iter(self._by_id.get(venue_id, ())), None)

    def trading(self, at_ms: int) -> list[InstrumentSpec]:
        """The contracts that are listed and not yet delisted at `at_ms`, by id."""
        found = (self.find(venue_id, at_ms) for venue_id in self._by_id)
        return [spec for spec in found if spec is not None and not gone(spec, at_ms)]

    def coming(self, at_ms: int) -> list[InstrumentSpec]:
        """The contracts that list within a day of `at_ms`."""
        specs = (spec for specs in self._by_id.values() for spec in specs)
        return [spec for spec in specs if at_ms < (spec.listed_ms or 0) <= at_ms + PREOPEN_MS]

    def series(self, instrument: Instrument, grid: Grid, price: Price = Price.TRADED) -> BarSeries:
        """Every bar of a length, of one of the prices, whatever the clock says: the caller cuts it there."""
        key = (instrument, grid, price)
        if key not in self._series:
            self._series[key] = self._make(instrument, grid, price)
        return self._series[key]

    def closed(self, instrument: Instrument, grid: Grid, at_ms: int, price: Price = Price.TRADED) -> BarSeries:
        """The bars that have closed by `at_ms`."""
        series = self.series(instrument, grid, price)
        return take(series, slice(0, int(np.searchsorted(series.open_ms, at_ms - grid.ms, side="right"))))

    def open_bar(self, instrument: Instrument, grid: Grid, at_ms: int, price: Price = Price.TRADED) -> BarSeries:
        """The bar that is open at `at_ms` (strictly inside it), of nothing later than that; empty when unknown.

        Built from closed finer bars and the open of the finest, where the tape covers the time since the open;
        otherwise `first_prints` of the tape's own bar: its open price and one lot.
        """
        start = grid.floor(at_ms)
        if start == at_ms:
            return empty_bars()
        lot = self.tape.specs[instrument].lot_base
        for interval in self.tape.intervals(instrument):
            if interval.ms < grid.ms:
                built = self._build(self._bars(instrument, interval, price), interval, start, at_ms, lot)
                if len(built.open_ms):
                    return built
        series = self.series(instrument, grid, price)
        return first_prints(_at(series, start), lot)

    def last(self, instrument: Instrument, at_ms: int, price: Price = Price.TRADED) -> tuple[float, int] | None:
        """The last known price and the market time it is of; None before the first bar."""
        best: tuple[float, int] | None = None
        for interval in self.tape.intervals(instrument):
            series = self._bars(instrument, interval, price)
            i = int(np.searchsorted(series.open_ms, at_ms, side="left")) - 1
            if i < 0:
                continue
            opened = int(series.open_ms[i])
            is_open = at_ms < opened + interval.ms
            known = (float(series.open[i]), opened) if is_open else (float(series.close[i]), opened + interval.ms)
            if best is None or known[1] > best[1]:
                best = known
        return best

    def day(self, instrument: Instrument, at_ms: int) -> Day | None:
        """The 24 h up to `at_ms`, from the interval that covers most of them; None before the first bar.

        Where the tape has no quote volume, turnover is base volume times the bar's close.
        """
        last = self.last(instrument, at_ms)
        if last is None:
            return None
        window = max((self._last_day(i, instrument, at_ms) for i in self.tape.intervals(instrument)), key=_coverage)
        bars = window[1]
        if not len(bars.open_ms):
            return Day(last[0], last[1], last[0], last[0], last[0], 0.0, 0.0, 0)
        quote = np.where(np.isnan(bars.volume_quote), bars.volume_base * bars.close, bars.volume_quote)
        return Day(
            *last,
            float(bars.open[0]),
            max(last[0], float(bars.high.max())),
            min(last[0], float(bars.low.min())),
            float(bars.volume_base.sum()),
            float(quote.sum()),
            int(np.maximum(bars.trades, 0).sum()),
        )

    def settled(self, instrument: Instrument, at_ms: int) -> SettlementSeries:
        """The settlements up to and including `at_ms`."""
        series = self.tape.settlements(instrument)
        n = int(np.searchsorted(series.time_ms, at_ms, side="right"))
        return SettlementSeries(series.time_ms[:n], series.rate[:n], series.mark_price[:n])

    def last_settled(self, instrument: Instrument, at_ms: int) -> tuple[int, float] | None:
        """Time and rate of the last settlement by `at_ms`."""
        series = self.tape.settlements(instrument)
        n = int(series.time_ms.searchsorted(at_ms, side="right"))
        return (int(series.time_ms[n - 1]), float(series.rate[n - 1])) if n else None

    def funding(self, instrument: Instrument, at_ms: int) -> FundingNow | None:
        """The running estimate at `at_ms`."""
        return self.tape.funding_now(instrument, at_ms)

    def open_interest(self, instrument: Instrument, at_ms: int) -> float | None:
        """Open interest in base coins as last known by `at_ms`, None where the tape has none."""
        series = self.open_interest_series(instrument)
        i = int(np.searchsorted(series.time_ms, at_ms, side="right")) - 1 if series else -1
        return float(series.base[i]) if series and i >= 0 else None

    def open_interest_series(self, instrument: Instrument) -> OpenInterestSeries | None:
        """All open interest, whatever the clock says; None where the tape has none."""
        return self.tape.open_interest_series(instrument) if isinstance(self.tape, HasOpenInterest) else None

    def _bars(self, instrument: Instrument, interval: Interval, price: Price) -> BarSeries:
        """The tape's own bars; mark price and index are the traded price where it knows no other."""
        if price is Price.MARK and isinstance(self.tape, HasMarks):
            return self.tape.mark_bars(instrument, interval)
        if price is Price.INDEX and isinstance(self.tape, HasIndex):
            return self.tape.index_bars(instrument, interval)
        return self.tape.bars(instrument, interval)

    def _make(self, instrument: Instrument, grid: Grid, price: Price) -> BarSeries:
        own = next((i for i in self.tape.intervals(instrument) if i.ms == grid.ms), None)
        if own is not None and grid.offset_ms == 0:
            return self._bars(instrument, own, price)
        series = empty_bars()
        for interval in self.tape.intervals(instrument):
            if interval.ms < grid.ms and grid.ms % interval.ms == 0 and grid.offset_ms % interval.ms == 0:
                bars = self._bars(instrument, interval, price)
                series = union(series, resample(bars, interval.ms, grid))
        return series

    def _build(self, bars: BarSeries, interval: Interval, start: int, at_ms: int, lot: float) -> BarSeries:
        newest = interval.floor(at_ms)
        lo, hi = (int(i) for i in np.searchsorted(bars.open_ms, [start, newest]))
        if hi - lo != (newest - start) // interval.ms or (newest - start) % interval.ms:
            return empty_bars()
        built = take(bars, slice(lo, hi))
        if newest < at_ms:
            newest_bar = _at(bars, newest)
            if not len(newest_bar.open_ms):
                return empty_bars()
            built = chain(built, first_prints(newest_bar, lot))
        return collapse(built, start)

    def _last_day(self, interval: Interval, instrument: Instrument, at_ms: int) -> tuple[Interval, BarSeries]:
        bars = self.tape.bars(instrument, interval)
        lo, hi = np.searchsorted(bars.open_ms, [at_ms - DAY_MS, at_ms - interval.ms + 1])
        return interval, take(bars, slice(int(lo), int(max(lo, hi))))


def _at(series: BarSeries, open_ms: int) -> BarSeries:
    """The bar that opens at `open_ms`, if there is one."""
    return take(series, slice(*np.searchsorted(series.open_ms, [open_ms, open_ms + 1]).tolist()))


def gone(spec: InstrumentSpec, at_ms: int) -> bool:
    """True once a contract is delisted."""
    return spec.delisted_ms is not None and spec.delisted_ms <= at_ms


def announced(spec: InstrumentSpec, at_ms: int) -> int | None:
    """The delisting time as far as it is announced by `at_ms`."""
    if spec.delisted_ms is None or at_ms < spec.delisted_ms - ANNOUNCED_MS:
        return None
    return spec.delisted_ms


def _coverage(window: tuple[Interval, BarSeries]) -> tuple[int, int]:
    interval, bars = window
    return len(bars.open_ms) * interval.ms, -interval.ms


def made_up(spec: InstrumentSpec) -> dict[str, str]:
    """`specSource`, which no venue sends, where the contract is not the venue's own: results must say so."""
    return {} if spec.spec_source == "venue" else {"specSource": spec.spec_source}
