"""What a change of the lake makes of instruments' feature files: the one computation, for a whole history or a bar.

Time goes in blocks of whole days, or weeks where weeks are asked for, and instruments with the same days go together,
so memory does not grow with the history. A block is computed from the bars in it and a day (a week) on either side,
whatever changed in it: the same bars make the same bytes, however they came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import batched
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, iso
from qlib_crypto.errors import DataError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.tables import BARS, Table
from qlib_crypto.provider import funding
from qlib_crypto.provider.dirty import Span, Stored, whole
from qlib_crypto.provider.extra_fields import EXTRA_FIELDS, ExtraBlock, Heard
from qlib_crypto.provider.flags import Flags
from qlib_crypto.provider.funding import FUNDING_FIELDS, SERIES, Settled, funding_fields
from qlib_crypto.provider.news import Counts, Extent, Held, News, around, together, unit_of
from qlib_crypto.provider.panel import BAR_FIELDS, COLUMNS, bar_fields, no_bars, resample, spread
from qlib_crypto.provider.sinks import RebuildError, Sink
from qlib_crypto.symbols import Instrument, Interval

#: Days of bars of one instrument that are computed at once.
_DAYS = 64
#: Groups of instruments in the making at once.
_THREADS = 2
#: Slots of funding that are computed at once.
_SLOTS = 100_000

#: More settlements than what one tells depends on.
_AROUND = 12


@dataclass(slots=True)
class _Work:
    """One instrument in the making."""

    news: News
    extents: dict[Interval, Extent]
    series: NDArray[np.void]
    blocks: list[Span]

    @classmethod
    def of(cls, news: News, unit: Interval) -> _Work:
        """With the blocks that bars are needed of, for themselves or to price settlements."""
        series, unpriced = news.held.series.copy(), []
        for (start, end), rows in news.settlements:
            if not _same_rows(series, rows, start, end):
                series = funding.replaced(series, rows, start, end)
                unpriced.append((start, end) if len(news.held.series) or not len(rows) else around(rows))
        blocks = list(whole([*news.bars, *unpriced], unit, _DAYS * DAY_MS))
        return cls(news, dict(news.held.extents), series, blocks)

    def new_spans(self, target: Interval) -> list[Span]:
        """Slots that the provider does not have."""
        first, last = self.extents[target]
        held = self.news.held.extents.get(target, (first, first - target.ms))
        return [(first, held[0]), (held[1] + target.ms, last + target.ms)]

    def tails(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """The settlements of before and of now, from some before their first difference and before a new slot on.

        What a settlement tells depends on a few on either side of it (`market.funding`), so what an update costs does
        not grow with the history.
        """
        old, now = self.news.held.series, self.series
        few = min(len(old), len(now))
        one, other = (of[:few].view(np.uint8).reshape(few, SERIES.itemsize) for of in (old, now))
        same = (one == other).all(axis=1)
        cut = few if same.all() else int(np.argmin(same))
        times = [start for target in self.extents for start, end in self.new_spans(target) if start < end]
        first = max(cut - _AROUND, 0)  # what a difference tells of those before it may differ, too
        times += [int(of["time_ms"][first]) for of in (old, now) if cut < len(of)]
        if times:  # the bars that hold the first of these, and the one before: a week of hours is many settlements
            begin = min(target.floor(min(times)) - target.ms for target in self.extents) if self.extents else min(times)
            cut = min(int(np.searchsorted(of["time_ms"], begin)) for of in (old, now))
        cut = max(cut - _AROUND, 0)
        return old[cut:], now[cut:]


@dataclass(slots=True)
class Reviser:
    """Computes what instruments' files hold now, and hands it to a sink, which several threads may call.

    Attributes
    ----------
    lake, stored, flags, targets, sink
        From where, what there is and what is doubtful of it, which frequencies, whereto.
    origins
        Opens of the first slots; nothing may be older (`RebuildError`). A frequency without one may.
    heard
        Of the lake.
    counts
        Of the blocks looked at.

    """

    lake: Lake
    stored: Stored
    flags: Flags
    targets: Sequence[Interval]
    sink: Sink
    origins: Mapping[Interval, int]
    heard: Heard
    counts: Counts = field(default_factory=Counts)

    @property
    def unit(self) -> Interval:
        """What blocks are whole numbers of."""
        return unit_of(self.targets)

    def revise(self, news: Iterable[News]) -> Iterator[tuple[Instrument, Held]]:
        """What the provider holds of each instrument then; those of one venue follow each other.

        Raises
        ------
        DataError
            A first or last bar of the provider is no longer in the lake.
        SchemaError
            A bar is off its grid, or two settlements fall on one minute.

        """
        with ThreadPoolExecutor(_THREADS) as pool:  # reading and writing wait for the disk, and decode without Python
            waiting: deque[Future[tuple[list[tuple[Instrument, Held]], Counts]]] = deque()
            try:
                for group in together(news, self.unit):
                    waiting.append(pool.submit(self._revise_together, group))
                    if len(waiting) > _THREADS:  # memory is that of so many groups
                        yield from self._done(waiting.popleft())
                while waiting:
                    yield from self._done(waiting.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _done(self, future: Future[tuple[list[tuple[Instrument, Held]], Counts]]) -> list[tuple[Instrument, Held]]:
        held, counts = future.result()
        self.counts.add(counts.bars, counts.incomplete)
        return held

    def _revise_together(self, news: Sequence[News]) -> tuple[list[tuple[Instrument, Held]], Counts]:
        """Instruments of one venue whose bars fit into memory together."""
        works, counts = [_Work.of(one, self.unit) for one in news], Counts()
        for block in sorted({block for work in works for block in work.blocks}):
            self._revise_block(block, [work for work in works if block in work.blocks], counts)
        self._revise_funding(works)
        return [(work.news.instrument, Held(work.extents, work.series)) for work in works], counts

    def _revise_block(self, block: Span, works: Sequence[_Work], counts: Counts) -> None:
        start, end = block
        instruments = [work.news.instrument for work in works]
        window = start - self.unit.ms, end + self.unit.ms
        sources = [
            spread(
                self.lake.columns(BARS, instruments, window, COLUMNS, interval=interval), instruments, interval, window
            )
            for interval in self.stored.intervals(BARS, instruments)
        ]
        for row, work in enumerate(works):
            funding.price(work.series, sources, row, start, end)
        rows = [row for row, work in enumerate(works) if any(a < end and b > start for a, b in work.news.bars)]
        if not rows:
            return
        made = resample(self.flags.on(sources, instruments), self.targets)
        extra = ExtraBlock(self.lake, self.stored, self.heard, instruments, window, self.targets)
        for target in self.targets:
            panel = made.get(target) or no_bars(target, window, len(instruments))
            before = self.unit.ms // target.ms
            window_of = panel.slots(before - 1, before + (end - start) // target.ms + 1)
            fields = bar_fields(window_of)
            present = window_of.present[:, 1:]
            more = {table: extra.fields(table, target, start, window_of) for table in extra.used}
            for values in more.values():
                values[:, ~present] = np.nan  # how far files reach between bars depends on how those came
            broken = window_of.begun[:, 1:] & ~present
            for row in rows:
                own = {table: more[table][:, row] for table in extra.tables[instruments[row]]}
                self._revise_bars(works[row], target, block, present[row], fields[:, row], own)
                first, last = works[row].extents.get(target, (end, start))
                inside = slice(max((first - start) // target.ms, 0), max((last - start) // target.ms, 0))
                counts.add(
                    {target: int(np.count_nonzero(present[row, :-1]))},
                    {target: int(np.count_nonzero(broken[row, :-1][inside]))},
                )

    def _revise_bars(
        self,
        work: _Work,
        target: Interval,
        block: Span,
        present: NDArray[np.bool_],
        fields: NDArray[np.float32],
        more: Mapping[Table, NDArray[np.float32]],
    ) -> None:
        """One block at one frequency, and the slot after it, whose `change` looks back into it."""
        start, end = block
        instrument, held = work.news.instrument, work.extents.get(target)
        _refuse_less(instrument, target, held, present[:-1], start)
        there = np.flatnonzero(present[:-1])
        if there.size:
            own = start + int(there[0]) * target.ms, start + int(there[-1]) * target.ms
            if own[0] < self.origins.get(target, own[0]):
                raise RebuildError(f"{instrument} has a {target} bar at {iso(own[0])}, before the calendar")
            if held is not None and own[0] < held[0]:
                self.sink.shift(instrument, target, own[0], (held[0] - own[0]) // target.ms)
            held = own if held is None else (min(own[0], held[0]), max(own[1], held[1]))
            work.extents[target] = held
        if held is None:
            return
        first, last = max(start, held[0]), min(end, held[1]) + target.ms
        if first >= last:
            return
        part, at = slice((first - start) // target.ms, (last - start) // target.ms), (first - held[0]) // target.ms
        self.sink.put(instrument, target, BAR_FIELDS, held[0], at, fields[:, part])
        for table, values in more.items():
            self.sink.put(instrument, target, EXTRA_FIELDS[table], held[0], at, values[:, part])

    def _revise_funding(self, works: Sequence[_Work]) -> None:
        tails = Settled.of_all([tail for work in works for tail in work.tails()])
        asked: dict[tuple[Interval, Span], list[tuple[_Work, Settled]]] = {}
        for work, old, now in zip(works, tails[::2], tails[1::2], strict=True):
            differing = funding.differing(old, now) if work.news.held.extents else None
            for target, (first, last) in work.extents.items():
                spans = work.new_spans(target)
                if differing is not None:
                    spans.append((target.floor(differing[0]) - target.ms, min(differing[1], last) + target.ms))
                for span in _chunks(spans, target, (first, last + target.ms)):
                    asked.setdefault((target, span), []).append((work, now))
        for (target, (start, end)), same in sorted(asked.items(), key=itemgetter(0)):
            length = (end - start) // target.ms
            for some in batched(same, max(_SLOTS // length, 1)):
                fields = funding_fields([now for _, now in some], target, start, length)
                for at, (work, _) in enumerate(some):
                    first, _ = work.extents[target]
                    slot = (start - first) // target.ms
                    self.sink.put(work.news.instrument, target, FUNDING_FIELDS, first, slot, fields[:, at])


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


def _chunks(spans: Sequence[Span], target: Interval, within: Span) -> Iterator[Span]:
    """The union of the spans as whole slots inside `within`, cut to so many slots each."""
    covered = within[0]
    for start, end in sorted(spans):
        begin, stop = max(target.floor(start), covered), min(target.floor(end), within[1])
        for at in range(begin, stop, _SLOTS * target.ms):
            yield at, min(at + _SLOTS * target.ms, stop)
        covered = max(covered, stop)
