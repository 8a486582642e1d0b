"""Coverage: of each instrument and UTC day what should be there, what is, and why the rest is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, HOUR_MS, day_start
from qlib_crypto.lake.store import Lake
from qlib_crypto.lake.tables import LONG_SHORT_RATIO, OPEN_INTEREST, SETTLEMENTS, Table, dataset_table
from qlib_crypto.market.funding import VENUE_INTERVALS_MS, holes
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import PERIOD_MS
from qlib_crypto.symbols import Instrument, Venue

NOT_LISTED, NOT_COLLECTED = "not_listed", "not_collected"
#: Every contract settles at 00:00, 08:00 and 16:00 UTC, whatever its interval.
_SETTLES_MS = 8 * HOUR_MS
#: So long before and after a span its settlements show which interval held, and so many gaps on either side.
_CONTEXT_MS, _AROUND = 7 * DAY_MS, 3
_GRID_MS = {SETTLEMENTS: _SETTLES_MS, OPEN_INTEREST: PERIOD_MS, LONG_SHORT_RATIO: PERIOD_MS}


class DayCoverage(NamedTuple):
    """One instrument's UTC day of one dataset, as far as it lies in the span asked for.

    Attributes
    ----------
    expected
        Rows that the grid has, and rows between them that are there; what is not over yet is not expected.
    have
        Rows that are there.
    missing
        The rest by cause: `no_trade` and `venue_down` (the venue itself has none), `delisted` (it serves none any
        more), `not_listed` (before the listing, after the delisting, or after the last row and the last sight of a
        contract that the venue lists no more), `not_collected`. Only causes that occur.

    """

    instrument: Instrument
    dataset: str
    day_ms: int
    expected: int
    have: int
    missing: Mapping[str, int]

    @property
    def explained(self) -> bool:
        """True when nothing is missing but what the venue does not have."""
        return NOT_COLLECTED not in self.missing


def coverage(
    lake: Lake,
    venue: Venue,
    dataset: str,
    instruments: Iterable[Instrument],
    start_ms: int,
    end_ms: int,
    now_ms: int,
) -> list[DayCoverage]:
    """The coverage of each instrument and day in `[start_ms, end_ms)`, in the order of the instruments.

    Datasets without a grid (estimates, liquidations, trades, books) expect what they have. Settlements are expected
    every 8 hours, the longest interval, and where those around show that some between are missing
    (`market.funding.holes`); otherwise those between count where they are.

    Raises
    ------
    ConfigError
        No such dataset is known.

    """
    table, interval = dataset_table(dataset)
    step_ms = interval.ms if interval else _GRID_MS.get(table)
    specs = lake.specs(venue)
    newest = max((spec.seen_ms for spec in specs.values()), default=0)
    out: list[DayCoverage] = []
    for instrument in instruments:
        have = lake.times(table, instrument, start_ms, end_ms, interval=interval)
        grid = _grid(table, step_ms, start_ms, end_ms, now_ms) if step_ms else have[:0]
        if table is SETTLEMENTS:
            grid = np.union1d(grid, _between(lake, instrument, start_ms, min(end_ms, now_ms)))
        missing = np.setdiff1d(grid, have, assume_unique=True)
        causes = _causes(lake, venue, dataset, instrument, missing)
        if (spec := specs.get(instrument)) is not None:
            causes[_unlisted(spec, missing, step_ms or 0, have, newest)] = NOT_LISTED
        out += _days(instrument, dataset, have, missing, causes, start_ms, end_ms)
    return out


def _grid(table: Table, step_ms: int, start_ms: int, end_ms: int, now_ms: int) -> NDArray[np.int64]:
    """Slots in `[start_ms, end_ms)` that are over at `now_ms`: a period at its end, a settlement at its time."""
    over_ms = now_ms if table is SETTLEMENTS else now_ms - step_ms + 1
    return np.arange(-(-start_ms // step_ms) * step_ms, min(end_ms, over_ms), step_ms, dtype=np.int64)


def _between(lake: Lake, instrument: Instrument, start_ms: int, end_ms: int) -> NDArray[np.int64]:
    """Times in `[start_ms, end_ms)` of settlements that must be missing, by the interval that holds on both sides."""
    times = lake.times(SETTLEMENTS, instrument, start_ms - _CONTEXT_MS, end_ms + _CONTEXT_MS)
    gaps = np.diff(times)
    slots: list[int] = []
    for at in np.flatnonzero(holes(times)).tolist():
        sides = gaps[max(0, at - _AROUND) : at], gaps[at + 1 : at + 1 + _AROUND]
        shortest = max(side.min(initial=_SETTLES_MS) for side in sides)
        step = next(interval for interval in VENUE_INTERVALS_MS if interval >= shortest)
        slots += range(int(times[at]) // step * step + step, int(times[at + 1]), step)
    return np.array([slot for slot in slots if start_ms <= slot < end_ms], dtype=np.int64)


def _causes(
    lake: Lake, venue: Venue, dataset: str, instrument: Instrument, missing: NDArray[np.int64]
) -> NDArray[np.str_]:
    causes = np.full(len(missing), NOT_COLLECTED, dtype="<U32")
    if not len(missing):
        return causes
    for hole in lake.holes(venue, dataset, instrument, int(missing[0]), int(missing[-1]) + 1):
        causes[(missing >= hole.start_ms) & (missing < hole.end_ms)] = hole.cause
    return causes


def _unlisted(
    spec: InstrumentSpec, missing: NDArray[np.int64], step_ms: int, have: NDArray[np.int64], newest_ms: int
) -> NDArray[np.bool_]:
    """Whether the contract was not listed; `newest_ms` is when the venue's list was seen last."""
    unlisted = np.zeros(len(missing), dtype=np.bool_)
    if spec.listed_ms is not None:
        unlisted |= missing + step_ms <= spec.listed_ms
    if spec.delisted_ms is not None:
        unlisted |= missing >= spec.delisted_ms
    elif spec.seen_ms < newest_ms:  # it vanished without notice, some time after it was seen or had a row last
        unlisted |= missing >= max(spec.seen_ms, int(have[-1]) if len(have) else 0)
    return unlisted


def _days(
    instrument: Instrument,
    dataset: str,
    have: NDArray[np.int64],
    missing: NDArray[np.int64],
    causes: NDArray[np.str_],
    start_ms: int,
    end_ms: int,
) -> Iterator[DayCoverage]:
    days = np.arange(day_start(start_ms), end_ms, DAY_MS, dtype=np.int64)
    if not len(days):
        return
    edges = [*days.tolist(), int(days[-1]) + DAY_MS]
    rows, gaps = np.searchsorted(have, edges).tolist(), np.searchsorted(missing, edges).tolist()
    for at, day in enumerate(days.tolist()):
        held = rows[at + 1] - rows[at]
        names, counts = np.unique(causes[gaps[at] : gaps[at + 1]], return_counts=True)
        absent = dict(zip(names.tolist(), counts.tolist(), strict=True))
        yield DayCoverage(instrument, dataset, day, held + sum(absent.values()), held, absent)
