"""The universe of a past time, from the funding that had settled by then: for the time before rankings were made."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, day_start, iso
from qlib_crypto.errors import ConfigError, DataError, counted
from qlib_crypto.lake import Lake
from qlib_crypto.lake.snapshots import store_rebuilt
from qlib_crypto.market.funding import LONGEST_INTERVAL_MS, known_ranges, settlement_intervals, snap_to_minute
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.settings import ScheduleSettings, UniverseSettings
from qlib_crypto.symbols import Instrument, Venue
from qlib_crypto.universe.membership import SAME_RANKING_MS, made_in
from qlib_crypto.universe.rank import ENOUGH, membership_table, ordered

#: Funding so long before a time tells which rate had settled last, and for which interval.
_LEAD_MS = 2 * LONGEST_INTERVAL_MS


class Rebuilt(NamedTuple):
    """What a rebuild did.

    Attributes
    ----------
    times_ms
        The rankings that were stored, ascending.
    made
        How many ranking times of the span have a ranking that was made then, and were left alone.
    thin
        `(at_ms, known, listed)` of the times without a ranking, because too few of the listed contracts have funding
        in the lake.
    contracts
        The fewest and the most contracts that one of them ranked.
    outside
        Symbols with funding outside the time that the venue says they were listed in; it was not used.

    """

    times_ms: list[int]
    made: int
    thin: list[tuple[int, int, int]]
    contracts: tuple[int, int]
    outside: list[str]


class _Known(NamedTuple):
    """One contract: its settlements by minute, where they are known, and when it was eligible."""

    instrument: Instrument
    minutes: NDArray[np.int64]
    rates: NDArray[np.float64]
    hours: NDArray[np.float64]
    spans: NDArray[np.int64]
    listed: tuple[int, int]

    def at(self, at_ms: int) -> tuple[float, float | None] | None:
        """The rate last settled by `at_ms` and its interval in hours; None while unlisted or unknown."""
        place = int(np.searchsorted(self.spans[:, 0], at_ms, side="right")) - 1
        if place < 0 or at_ms >= self.spans[place, 1] or not self.listed[0] <= at_ms < self.listed[1]:
            return None
        last = int(np.searchsorted(self.minutes, at_ms, side="right")) - 1
        hours = float(self.hours[last])
        return float(self.rates[last]), None if np.isnan(hours) else hours


def ranking_times(start_ms: int, end_ms: int, schedule: ScheduleSettings) -> list[int]:
    """When rankings are due in `[start_ms, end_ms)`: every so many hours from 00:00 UTC, the offset later."""
    every, offset = schedule.rank_every_hours * HOUR_MS, schedule.rank_offset_minutes * MINUTE_MS
    first = day_start(start_ms - offset)
    hours = [day + at for day in range(first, end_ms, DAY_MS) for at in range(0, DAY_MS, every)]
    return [hour + offset for hour in hours if start_ms <= hour + offset < end_ms]


def rebuild(
    lake: Lake,
    venue: Venue,
    start_ms: int,
    end_ms: int,
    settings: UniverseSettings,
    schedule: ScheduleSettings | None = None,
) -> Rebuilt:
    """Store, for every ranking time in `[start_ms, end_ms)` without a ranking, the one that settled funding gives.

    Ranked are contracts that were listed at that time by their list times in the instruments table, are crypto and not
    pre-market, and whose funding is known at that time (`market.funding.known_ranges`), by the rate last settled by
    then: what anybody could know then, though not the running rate that a ranking of the time itself uses. A contract
    without an entry in the instruments table counts as listed while its funding is known. Turnovers are unknown, so
    equal rates go by symbol. Doing it again gives the same files.

    Raises
    ------
    ConfigError
        The span is empty.
    DataError
        No ranking could be made: the lake has no funding of the span, or of too few contracts.

    """
    schedule = schedule or ScheduleSettings()
    if end_ms <= start_ms:
        raise ConfigError(f"--end {iso(end_ms)} is not after --start {iso(start_ms)}; the span is [start, end)")
    settled = lake.settlements(venue, None, start_ms - _LEAD_MS, end_ms)
    last_ms = pc.max(settled.column("timestamp").cast(pa.int64())).as_py() or start_ms
    due = ranking_times(start_ms, min(end_ms, last_ms + LONGEST_INTERVAL_MS), schedule)
    todo = _without(due, lake, venue, schedule.rank_every_hours * HOUR_MS)
    specs = lake.specs(venue)
    contracts = _contracts(settled, venue, specs)
    sure = _surely_listed(specs)
    times: dict[int, int] = {}
    thin: list[tuple[int, int, int]] = []
    for at_ms in todo:
        rates = {c.instrument: rate for c in contracts if (rate := c.at(at_ms)) is not None}
        listed = [instrument for instrument, (start, end) in sure.items() if start <= at_ms < end]
        known = sum(instrument in rates for instrument in listed)
        if not rates or known < ENOUGH * len(listed):
            thin.append((at_ms, known, len(listed)))
            continue
        ranked = ordered(rates, {}, size=settings.size, per_8h=settings.per_8h)
        store_rebuilt(lake.folder(venue), membership_table(ranked, at_ms), at_ms)
        times[at_ms] = len(ranked)
    if not times and (todo or not due):
        raise _too_thin(venue, thin[0] if thin else (start_ms, 0, 0))
    counts = times.values()
    span = min(counts, default=0), max(counts, default=0)
    return Rebuilt(list(times), len(due) - len(todo), thin, span, _outside(contracts))


def _contracts(table: pa.Table, venue: Venue, specs: dict[Instrument, InstrumentSpec]) -> list[_Known]:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    out = []
    for (symbol,), rows in frame.group_by(["symbol"], maintain_order=True):
        instrument = Instrument.parse(str(symbol), venue)
        spec = specs.get(instrument)
        if spec is not None and not _may_rank(spec):
            continue
        minutes = snap_to_minute(rows["timestamp"].dt.epoch("ms").to_numpy())
        hours = settlement_intervals(minutes)
        spans = known_ranges(minutes)
        out.append(_Known(instrument, minutes, rows["funding_rate"].to_numpy(), hours, spans, _listed(spec)))
    return out


def _may_rank(spec: InstrumentSpec) -> bool:
    """Whether the contract is of the kind that is ranked; its state is of today and says nothing of then."""
    return spec.category == "crypto" and spec.rule_type != "pre_market"


def _listed(spec: InstrumentSpec | None) -> tuple[int, int]:
    """`[start, end)` in which the contract was listed, as far as the venue says."""
    listed = spec.listed_ms if spec else None
    delisted = spec.delisted_ms if spec else None
    return listed or 0, np.iinfo(np.int64).max if delisted is None else delisted


def _surely_listed(specs: dict[Instrument, InstrumentSpec]) -> dict[Instrument, tuple[int, int]]:
    """When each contract that may be ranked was listed without doubt: one that vanished, until it was seen last."""
    newest = max((spec.seen_ms for spec in specs.values()), default=0)
    out = {}
    for instrument, spec in specs.items():
        if _may_rank(spec) and spec.listed_ms is not None:
            start, end = _listed(spec)
            out[instrument] = start, end if spec.seen_ms == newest else min(end, spec.seen_ms)
    return out


def _outside(contracts: list[_Known]) -> list[str]:
    return [
        c.instrument.symbol
        for c in contracts
        if len(c.minutes) and (c.minutes[0] < c.listed[0] - MINUTE_MS or c.minutes[-1] > c.listed[1] + MINUTE_MS)
    ]


def _without(due: list[int], lake: Lake, venue: Venue, every_ms: int) -> list[int]:
    """The due times that no ranking was made for: none near them, and none of less than a period before."""
    made = lake.memberships(venue).column("timestamp").cast(pa.int64()).unique().to_pylist()
    return [at for at, there in zip(due, made_in(made, due, every_ms - SAME_RANKING_MS), strict=True) if not there]


def _too_thin(venue: Venue, first: tuple[int, int, int]) -> DataError:
    at_ms, known, listed = first
    have = f"settled funding of {known} of the {counted(listed, 'perpetual')} then listed" if listed else "no funding"
    return DataError(
        f"the universe of {venue} at {iso(at_ms)} cannot be rebuilt: the lake has {have}; fetch it first: "
        f"qlib-crypto backfill --venue {venue} --symbols all --start {iso(at_ms - DAY_MS)[:10]}"
    )
