"""What a change of the lake makes of one instrument's feature files: the one computation, for a whole history or a bar.

Time goes in blocks of whole days, so memory does not grow with the history. A block is computed from the bars in it
and a day on either side, whatever changed in it: the same bars make the same bytes, however they came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, iso
from qlib_crypto.errors import DataError
from qlib_crypto.lake import Lake
from qlib_crypto.provider import funding
from qlib_crypto.provider.dirty import Span, by_days
from qlib_crypto.provider.funding import SERIES, Settled, funding_fields
from qlib_crypto.provider.resample import GridBars, bar_fields, cut, on_grid, resample
from qlib_crypto.provider.write import FLOAT
from qlib_crypto.symbols import Instrument, Interval

#: Days of bars that are computed at once.
_DAYS = 128
#: Slots of funding that are computed at once.
_SLOTS = 200_000

#: Opens of the first and the last bar.
Extent = tuple[int, int]


class Sink(Protocol):
    """Takes the values of feature files."""

    def put(self, instrument: Instrument, interval: Interval, field: str, at: int, values: NDArray[np.float32]) -> None:
        """Values from a slot on, counted from the file's first; a gap before them becomes NaN."""

    def shift(self, instrument: Instrument, interval: Interval, slots: int) -> None:
        """Older bars come: all files of the frequency begin so many slots earlier, with NaN."""


class OlderThanCalendarError(Exception):
    """A bar lies before the first slot of its frequency's calendar."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a provider has of one instrument: extents by frequency, and settlements as `funding.SERIES`."""

    extents: Mapping[Interval, Extent] = field(default_factory=dict)
    series: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, SERIES))


@dataclass(frozen=True, slots=True)
class News:
    """What may differ of one instrument: spans of bars, and the settlements of spans as they are now."""

    bars: Sequence[Span]
    settlements: Sequence[tuple[Span, NDArray[np.void]]]


@dataclass(slots=True)
class Reviser:
    """Computes what instruments' files hold now, and hands it to a sink.

    Attributes
    ----------
    lake, stored, targets, sink
        From where, the intervals that each instrument has there, which frequencies, whereto.
    origins
        Opens of the first slots; nothing may be older (`OlderThanCalendarError`). A frequency without one may.
    bars
        Bars in the blocks looked at, by frequency.

    """

    lake: Lake
    stored: Mapping[Instrument, Sequence[Interval]]
    targets: Sequence[Interval]
    sink: Sink
    origins: Mapping[Interval, int]
    bars: dict[Interval, int] = field(default_factory=dict)

    def revise(self, instrument: Instrument, held: Held, news: News) -> Held:
        """What the provider holds of the instrument then.

        Raises
        ------
        DataError
            A first or last bar of the provider is no longer in the lake.
        SchemaError
            A bar is off its grid, or two settlements fall on one minute.

        """
        series, unpriced = held.series.copy(), []
        for (start, end), rows in news.settlements:
            if not _same_rows(series, rows, start, end):
                series = funding.replaced(series, rows, start, end)
                unpriced.append((start, end) if len(held.series) or not len(rows) else _around(rows))
        extents = dict(held.extents)
        intervals = self.stored.get(instrument, ())
        for start, end in by_days([*news.bars, *unpriced], _DAYS):
            sources = self._sources(instrument, intervals, start - DAY_MS, end + DAY_MS)
            funding.price(series, sources, start, end)
            if any(a < end and b > start for a, b in news.bars):
                for target in self.targets:
                    self._revise_bars(instrument, target, sources, (start, end), extents)
        self._revise_funding(instrument, held, extents, Settled.of(series))
        return Held(extents, series)

    def _sources(
        self, instrument: Instrument, intervals: Sequence[Interval], start_ms: int, end_ms: int
    ) -> list[GridBars]:
        found = (on_grid(self.lake.bars(instrument, i, start_ms, end_ms), i) for i in intervals)
        return [bars for bars in found if bars is not None]

    def _revise_bars(
        self,
        instrument: Instrument,
        target: Interval,
        sources: Sequence[GridBars],
        block: Span,
        extents: dict[Interval, Extent],
    ) -> None:
        """One block at one frequency, and the slot after it, whose `change` looks back into it."""
        start, end = block
        window = cut(resample(sources, target), target, start - target.ms, end + target.ms)
        present = window.present[1:]
        held = extents.get(target)
        _refuse_less(instrument, target, held, present, start)
        there = np.flatnonzero(present)
        if there.size:
            own = start + int(there[0]) * target.ms, start + int(there[-1]) * target.ms
            if own[0] < self.origins.get(target, own[0]):
                raise OlderThanCalendarError
            if held is not None and own[0] < held[0]:
                self.sink.shift(instrument, target, (held[0] - own[0]) // target.ms)
            held = own if held is None else (min(own[0], held[0]), max(own[1], held[1]))
            extents[target] = held
        if held is None:
            return
        first, last = max(start, held[0]), min(end, held[1]) + target.ms
        if first >= last:
            return
        self.bars[target] = self.bars.get(target, 0) + int(np.count_nonzero(present[:-1]))
        rows = slice(1 + (first - start) // target.ms, 1 + (last - start) // target.ms)
        for name, values in bar_fields(window).items():
            self.sink.put(instrument, target, name, (first - held[0]) // target.ms, values[rows].astype(FLOAT))

    def _revise_funding(
        self, instrument: Instrument, held: Held, extents: Mapping[Interval, Extent], now: Settled
    ) -> None:
        differing = funding.differing(Settled.of(held.series), now) if held.extents else None
        for target, (first, last) in extents.items():
            before = held.extents.get(target, (first, first - target.ms))
            spans = [(first, before[0]), (before[1] + target.ms, last + target.ms)]
            if differing is not None:
                spans.append((target.floor(differing[0]) - target.ms, min(differing[1], last) + target.ms))
            for start, end in _chunks(spans, target, (first, last + target.ms)):
                fields = funding_fields(now, target, start, (end - start) // target.ms)
                for name, values in fields.items():
                    self.sink.put(instrument, target, name, (start - first) // target.ms, values.astype(FLOAT))


def _refuse_less(
    instrument: Instrument, target: Interval, held: Extent | None, present: NDArray[np.bool_], start_ms: int
) -> None:
    """A conversion never shortens a history that the provider has, unless told to."""
    for edge in held or ():
        at = (edge - start_ms) // target.ms
        if 0 <= at < len(present) and not present[at]:
            raise DataError(
                f"the provider has a {target.qlib} bar of {instrument} at {iso(edge)}, where its history "
                f"{'begins' if held and edge == held[0] else 'ends'}, the lake no longer; restore the lake's files, "
                "or accept less history with: qlib-crypto convert --full"
            )


def _same_rows(series: NDArray[np.void], rows: NDArray[np.void], start_ms: int, end_ms: int) -> bool:
    """Whether the series has these settlements already, whatever the prices that are no marks."""
    begin, stop = np.searchsorted(series["time_ms"], (start_ms, end_ms))
    own = series[begin:stop]
    if len(own) != len(rows):
        return False
    mark = funding.PRICE_SOURCES.index("mark")
    one, other = (np.where(of["price_source"] == mark, of["price"], np.nan) for of in (own, rows))
    return (
        np.array_equal(own["time_ms"], rows["time_ms"])
        and np.array_equal(own["rate"], rows["rate"])
        and np.array_equal(one, other, equal_nan=True)
    )


def _around(rows: NDArray[np.void]) -> Span:
    return int(rows["time_ms"][0]), int(rows["time_ms"][-1]) + 1


def _chunks(spans: Sequence[Span], target: Interval, within: Span) -> Iterator[Span]:
    """The union of the spans as whole slots inside `within`, cut to so many slots each."""
    covered = within[0]
    for start, end in sorted(spans):
        begin, stop = max(target.floor(start), covered), min(target.floor(end), within[1])
        for at in range(begin, stop, _SLOTS * target.ms):
            yield at, min(at + _SLOTS * target.ms, stop)
        covered = max(covered, stop)
