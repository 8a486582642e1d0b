"""A small tape on which everything happens that a collector must survive, and nothing else.

Minutes of random walks. With `events`, at fixed parts of its span (see `Happens`): a contract lists, one is delisted,
one changes its contract value (on Binance its lot and tick), a ticker is reused after its contract was delisted, a
funding interval changes, one contract has minutes in which nobody trades and the venue prints no bar, and the venue is
down for a while, in which it prints no bar at all. Otherwise the symbols trade from before the start to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, parse_utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.derived import Derived, beside, mixed
from qlib_crypto.sandbox.series import empty_bars, take
from qlib_crypto.sandbox.tape import BarSeries, FundingNow, SettlementSeries
from qlib_crypto.symbols import Instrument, Interval, Venue

FEWEST, MOST = 8, 1_000
#: The symbols of the events, by position; BTC and ETH only trade.
LISTS, LEAVES, CHANGES, REUSED, FUNDING, QUIET = 2, 3, 4, 5, 6, 7
_BASES = ("BTC", "ETH", "NEWCO", "GONE", "RESIZE", "LUNA", "SOON", "THIN")
_HISTORY_MS = 200 * DAY_MS
_STILL = 0.03
_JITTER_MS = 17
_TICK = 0.01
_MAJORS = (90_000.0, 3_000.0)
_MINUTE = Interval.parse("1m")


class Happens(NamedTuple):
    """When each event happens, market milliseconds; spans are closed left and open right."""

    lists: int
    leaves: int
    contract_changes: int
    reuse_leaves: int
    reuse_lists: int
    interval_changes: int
    quiet: tuple[int, int]
    outage: tuple[int, int]


@dataclass(frozen=True, slots=True)
class EventConfig:
    """An `EventTape`; equal configurations give equal tapes, and only this is pickled.

    Attributes
    ----------
    hours
        Length of the tape; 4 or more with events.
    n_symbols
        8 to 1,000; beyond the eight of the events they only trade.
    events
        False: everybody only trades.
    funding_hours
        Funding interval; the one that changes goes from this to half of it (from 1 hour to 2).

    """

    venue: Venue
    start_ms: int = parse_utc("2026-06-24T12:00")
    hours: int = 36
    n_symbols: int = FEWEST
    seed: int = 7
    events: bool = True
    funding_hours: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot be made.

        Raises
        ------
        ConfigError
            A value is out of its range; the message names it.

        """
        rules = (
            ("start_ms", self.start_ms, self.start_ms % HOUR_MS == 0, "a whole hour"),
            ("hours", self.hours, self.hours >= (4 if self.events else 1), "4 or more, without events 1 or more"),
            ("n_symbols", self.n_symbols, FEWEST <= self.n_symbols <= MOST, f"{FEWEST} to {MOST}"),
            ("funding_hours", self.funding_hours, self.funding_hours in (1, 2, 4, 8), "1, 2, 4 or 8"),
        )
        for name, value, good, wanted in rules:
            if not good:
                raise ConfigError(f"event tape: {name} is {value!r}; write {wanted}")

    @property
    def end_ms(self) -> int:
        """Close of the last bar."""
        return self.start_ms + self.hours * HOUR_MS

    @property
    def happens(self) -> Happens:
        """When what happens; all on whole minutes, the interval change at a settlement."""
        minutes = self.hours * 60

        def at(part: float) -> int:
            return self.start_ms + int(minutes * part) * MINUTE_MS

        longest = self.later_hours * self.funding_hours // min(self.later_hours, self.funding_hours) * HOUR_MS
        change = -(-at(0.5) // longest) * longest
        down = max(5, minutes // 90) * MINUTE_MS
        return Happens(
            lists=at(0.2),
            leaves=at(0.55),
            contract_changes=at(0.45),
            reuse_leaves=at(0.3),
            reuse_lists=at(0.65),
            interval_changes=change,
            quiet=(at(0.8), at(0.8) + 7 * MINUTE_MS),
            outage=(at(0.72), at(0.72) + down),
        )

    @property
    def later_hours(self) -> int:
        """The interval of the contract that changes it, from then on."""
        return self.funding_hours // 2 or 2


class EventTape(Derived):
    """The tape of an `EventConfig`; `happens` is its truth."""

    def __init__(self, config: EventConfig) -> None:
        self.config = config
        self.happens = config.happens
        specs = [_spec(config, i) for i in range(config.n_symbols)]
        if config.events:
            specs += _touch(specs, self.happens)
        self.specs = {spec.instrument: spec for spec in specs}
        self._index = {instrument: i for i, instrument in enumerate(self.specs)}
        self.outages: tuple[tuple[int, int], ...] = (self.happens.outage,) if config.events else ()
        self._made: dict[Instrument, BarSeries] = {}
        self._near: dict[tuple[Instrument, int], BarSeries] = {}
        self._paid: dict[Instrument, SettlementSeries] = {}
        self._said: dict[Instrument, FundingNow] = {}

    def __reduce__(self) -> tuple[type[EventTape], tuple[EventConfig]]:
        return EventTape, (self.config,)

    @property
    def venue(self) -> Venue:
        return self.config.venue

    @property
    def span_ms(self) -> tuple[int, int]:
        return self.config.start_ms, self.config.end_ms

    def versions(self, instrument: Instrument) -> Sequence[InstrumentSpec]:
        """Two of the contract that changes: ten times smaller (on Binance its lot and tick), one of every other."""
        spec = self.specs[instrument]
        if not self.config.events or self._index[instrument] != CHANGES:
            return (spec,)
        later = replace(spec, seen_ms=self.happens.contract_changes)
        if self.venue is Venue.OKX:
            return spec, replace(later, contract_value_base=spec.contract_value_base / 10)
        return spec, replace(later, tick_size=spec.tick_size / 10, lot_contracts=spec.lot_contracts / 10)

    def intervals(self, _instrument: Instrument) -> tuple[Interval, ...]:
        return (_MINUTE,)

    def bars(self, instrument: Instrument, interval: Interval) -> BarSeries:
        """Minutes from listing to delisting, none in the outage, and none of the quiet one in its quiet minutes."""
        if interval != _MINUTE:
            return empty_bars()
        if instrument not in self._made:
            self._made[instrument] = self._make(instrument)
        return self._made[instrument]

    def mark_bars(self, instrument: Instrument, interval: Interval) -> BarSeries:
        """The bars a tick or two above the traded ones, all four prices alike, without volume."""
        return self._beside(instrument, interval, 1)

    def index_bars(self, instrument: Instrument, interval: Interval) -> BarSeries:
        """As far below the traded ones."""
        return self._beside(instrument, interval, -1)

    def settlements(self, instrument: Instrument) -> SettlementSeries:
        """Every interval from a hundred days before the start; Binance stamps some milliseconds late."""
        if instrument not in self._paid:
            every = self._settles(instrument)
            late = mixed(every, self._index[instrument] + 1)
            jitter = (late % np.uint64(_JITTER_MS + 1)).astype(np.int64) if self.venue is Venue.BINANCE else 0
            price = self._price_at(instrument, every)
            self._paid[instrument] = SettlementSeries(every + jitter, _rates(late), price)
        return self._paid[instrument]

    def funding_now(self, instrument: Instrument, at_ms: int) -> FundingNow | None:
        """The rate that will be settled, from the start of its interval on (a tape of known rates has no estimate)."""
        spec = self.specs[instrument]
        if not (spec.listed_ms or 0) <= at_ms < (spec.delisted_ms or at_ms + 1):
            return None
        hours = self._hours(instrument, at_ms)
        settles = at_ms - at_ms % (hours * HOUR_MS) + hours * HOUR_MS
        said = self._said.get(instrument)
        if said is None or (said.settles_ms, said.interval_ms) != (settles, hours * HOUR_MS):
            rate = _rates(mixed(np.array([settles]), self._index[instrument] + 1))
            self._said[instrument] = said = FundingNow(float(rate[0]), settles, hours * HOUR_MS)
        return said

    def _beside(self, instrument: Instrument, interval: Interval, side: int) -> BarSeries:
        key = instrument, side
        if interval == _MINUTE and key not in self._near:
            self._near[key] = beside(self.bars(instrument, interval), side * _TICK, self._index[instrument])
        return self._near[key] if interval == _MINUTE else empty_bars()

    def _hours(self, instrument: Instrument, at_ms: int) -> int:
        """The funding interval in force at a time."""
        changed = self._index[instrument] == FUNDING and at_ms >= self.happens.interval_changes
        return self.config.later_hours if self.config.events and changed else self.config.funding_hours

    def _settles(self, instrument: Instrument) -> NDArray[np.int64]:
        spec, end = self.specs[instrument], self.config.end_ms
        first = max(self.config.start_ms - _HISTORY_MS // 2, spec.listed_ms or 0)
        change = self.happens.interval_changes if self._index[instrument] == FUNDING and self.config.events else end
        before, after = self.config.funding_hours * HOUR_MS, self.config.later_hours * HOUR_MS
        early = np.arange(first + -first % before, change + 1, before, dtype=np.int64)
        late = np.arange(change + after, end + 1, after, dtype=np.int64) if change < end else early[:0]
        times = np.concatenate([early, late])
        return times[(times > (spec.listed_ms or 0)) & (times <= min(end, (spec.delisted_ms or end + 1) - 1))]

    def _price_at(self, instrument: Instrument, times: NDArray[np.int64]) -> NDArray[np.float64]:
        bars = self.bars(instrument, _MINUTE)
        i = np.searchsorted(bars.open_ms, times)
        there = (i < len(bars.open_ms)) & (bars.open_ms[np.minimum(i, len(bars.open_ms) - 1)] == times)
        return np.where(there, bars.open[np.minimum(i, len(bars.open_ms) - 1)], np.nan)

    def _make(self, instrument: Instrument) -> BarSeries:
        config, i, spec = self.config, self._index[instrument], self.specs[instrument]
        n = config.hours * 60
        draw = np.random.default_rng([config.seed, i, list(Venue).index(config.venue)])
        steps, spread = draw.normal(0, 1e-3, n), np.abs(draw.normal(0, 5e-4, (2, n)))
        lots, still = draw.integers(1, 5_000, n), draw.random(n) < _STILL
        price = np.maximum(np.rint(_price(i) / _TICK * np.exp(np.cumsum(np.where(still, 0, steps)))), 100)
        opened = np.concatenate([[np.rint(_price(i) / _TICK)], price[:-1]])
        top, bottom = np.maximum(opened, price), np.minimum(opened, price)
        high = np.where(still, top, np.ceil(top * (1 + spread[0])))
        low = np.where(still, bottom, np.floor(bottom * (1 - spread[1])))
        volume = np.where(still, 0, lots) * spec.lot_base
        times = config.start_ms + MINUTE_MS * np.arange(n, dtype=np.int64)
        trades = np.where(still, 0, lots // 3 + 1) if config.venue is Venue.BINANCE else np.full(n, -1)
        o, h, l, c = (_prices(values * _TICK) for values in (opened, high, low, price))
        volume = np.round(volume, 8)
        quote = np.round(volume * (o + c) / 2, 8)
        bars = BarSeries(times, o, h, l, c, volume, quote, trades.astype(np.int64))
        return take(bars, self._prints(instrument, times))

    def _prints(self, instrument: Instrument, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which minutes have a bar."""
        spec = self.specs[instrument]
        out = (times >= (spec.listed_ms or 0)) & (times + MINUTE_MS <= (spec.delisted_ms or self.config.end_ms))
        if self.config.events:
            down, quiet = self.happens.outage, self.happens.quiet
            out &= (times < down[0]) | (times >= down[1])
            if self._index[instrument] == QUIET:
                out &= (times < quiet[0]) | (times >= quiet[1])
        return out


def _rates(noise: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Funding rates from -0.04 % to 0.06 %, shape as given."""
    unit = ((noise >> np.uint64(20)) % np.uint64(1_001)).astype(np.int64) - 400
    return np.asarray(np.round(unit * 1e-6, 8), np.float64)


def _prices(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.round(values, 6), np.float64)


def _price(i: int) -> float:
    return _MAJORS[i] if i < len(_MAJORS) else 5.0 + 7.3 * (i % 97)


def _spec(config: EventConfig, i: int) -> InstrumentSpec:
    base = _BASES[i] if i < len(_BASES) else f"C{i:03}"
    okx = config.venue is Venue.OKX
    return InstrumentSpec(
        instrument=Instrument(base, "USDT", config.venue), seen_ms=config.start_ms - _HISTORY_MS, state="live",
        category="crypto", rule_type="normal", tick_size=_TICK, contract_value_base=0.1 if okx else 1.0,
        lot_contracts=1.0 if okx else 0.1, min_contracts=1.0 if okx else 0.1,
        min_notional_quote=None if okx else 5.0, max_leverage=50.0, listed_ms=config.start_ms - _HISTORY_MS,
        delisted_ms=None, spec_source="generated",
    )  # fmt: skip


def _touch(specs: list[InstrumentSpec], happens: Happens) -> list[InstrumentSpec]:
    """Give the specs their events in place; the second contract of the reused ticker."""
    specs[LISTS] = replace(specs[LISTS], listed_ms=happens.lists)
    specs[LEAVES] = replace(specs[LEAVES], delisted_ms=happens.leaves)
    specs[REUSED] = replace(specs[REUSED], delisted_ms=happens.reuse_leaves)
    again = replace(specs[REUSED].instrument, listing=2)
    return [replace(specs[REUSED], instrument=again, listed_ms=happens.reuse_lists, delisted_ms=None)]
