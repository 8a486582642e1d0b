"""Repair: every hole of the last days asked for once more, and what the venue lacks given its cause."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from qlib_crypto.clock import DAY_MS, MINUTE_MS
from qlib_crypto.collect.fill import SETTLED_MS, Filler
from qlib_crypto.collect.holes import DELISTED, NO_TRADE
from qlib_crypto.collect.listed import Listings
from qlib_crypto.collect.series import FUNDING, Series, candles, polled
from qlib_crypto.collect.settled import funding_holes, settlement_times
from qlib_crypto.collect.spans import Span, length, minus
from qlib_crypto.errors import DataError, VenueError
from qlib_crypto.feeds import Archive, History, RestClient
from qlib_crypto.lake import Lake
from qlib_crypto.lake.ledger import Hole
from qlib_crypto.market.funding import LONGEST_INTERVAL_MS, due_times, snap_to_minute
from qlib_crypto.schemas import Settlement
from qlib_crypto.symbols import Instrument, Interval

#: How far back callers have holes looked for unless told otherwise.
WINDOW_MS = 3 * DAY_MS
#: How far before that a row shows that one collected then.
_BEFORE_MS = 30 * DAY_MS
_CAUSE = "not_collected"
_ARCHIVE = "archive"


def _zeros() -> dict[str, int]:
    return defaultdict(int)  # a Counter does not survive `dataclasses.asdict`


@dataclass(frozen=True)
class RepairSummary:
    """What a repair found and did: rows by dataset that were `missing`, `stored` and `left`, and `holes` by cause.

    The missing rows are those stored, left and in holes. Settlements, of which nobody knows how many are missing, are
    in `stored` alone.
    """

    instruments: int
    missing: dict[str, int] = field(default_factory=_zeros)
    stored: dict[str, int] = field(default_factory=_zeros)
    holes: dict[str, int] = field(default_factory=_zeros)
    left: dict[str, int] = field(default_factory=_zeros)


def repair(
    lake: Lake,
    client: RestClient,
    archive: Archive | None,
    instruments: Sequence[Instrument],
    interval: Interval,
    datasets: Sequence[str],
    *,
    now_ms: int,
    since_ms: int,
    leavers: Mapping[Instrument, int] | None = None,
    say: Callable[[str], None] = lambda _line: None,
    stop: threading.Event | None = None,
) -> RepairSummary:
    """Fetch what the lake lacks of its own past: candles, settlements, and the polled series among `datasets`.

    Looked at is from `since_ms`, or from the first row there when nothing was collected before, to ten minutes before
    now; not what has its cause already. REST is asked first, the archive for what is older than
    REST reaches. What REST lacks is asked for again after everything else; what it then lacks too, in an answer that
    shows the rows around it, becomes a hole (`Lake.record_holes`). Safe to run beside a collector, and to repeat.
    `leavers` are looked at as well, each until the time beside it: while they were followed a collector may have been
    away, and the next one follows them no more.

    Raises
    ------
    VenueError
        The venue does not answer; what came before is stored.
    StorageError, SchemaError
        As `Lake.store`.

    """
    now_ms = min(now_ms, client.server_time_ms())
    end_ms = now_ms - SETTLED_MS
    until = {i: min(at, end_ms) for i, at in (leavers or {}).items()} | dict.fromkeys(instruments, end_ms)
    work = _Repair(lake, client, archive, until, now_ms, say, stop or threading.Event())
    return work.run([candles(interval), *polled(datasets)], since_ms)


class _Repair:
    def __init__(
        self,
        lake: Lake,
        client: RestClient,
        archive: Archive | None,
        until: Mapping[Instrument, int],
        now_ms: int,
        say: Callable[[str], None],
        stop: threading.Event,
    ) -> None:
        self._lake, self._client, self._archive, self._until = lake, client, archive, until
        self._now_ms, self._say, self._stop = now_ms, say, stop
        self._listings = Listings(lake, client)
        self._filler = Filler(lake, client, say, lambda: until, lambda: now_ms)
        self._done = RepairSummary(len(until))

    def run(self, all_series: Sequence[Series], start_ms: int) -> RepairSummary:
        self._listings.refresh(self._now_ms)
        pairs = [(series, instrument) for series in all_series for instrument in self._until]
        left = {pair: self._told(self._ask, *pair, start_ms) for pair in pairs}
        for (series, instrument), spans in left.items():
            if spans:
                self._told(self._conclude, series, instrument, spans)
        for instrument in self._until:
            self._told(self._funding, all_series[0], instrument, start_ms)
        for cause, count in self._filler.tally.holes.items():
            self._done.holes[cause] += count
        return self._done

    def _told[**P, R](self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Do it, unless stopped; what is wrong with this very instrument is told and costs the others nothing."""
        if self._stop.is_set():
            return None
        try:
            return work(*args, **kwargs)
        except VenueError as error:
            if not error.final:
                raise
            self._say(str(error))
        except DataError as error:
            self._say(str(error))
        return None

    @contextmanager
    def _gently(self, source: str) -> Iterator[None]:
        """Where the archive does not answer, it is told and left alone from now on: REST goes on without it."""
        try:
            yield
        except VenueError as error:
            if source != _ARCHIVE or error.final:
                raise
            self._archive = None
            self._say(str(error))

    def _ask(self, series: Series, instrument: Instrument, start_ms: int) -> list[Span]:
        """What is missing after asking once: REST as far as it reaches, the archive beyond."""
        start, end = self._listings.span(instrument, start_ms, series.floor(self._until[instrument]), series.step_ms)
        begin = self._collected_from(series, instrument, start, end)
        spans = self._filler.lacking(series, instrument, begin, end, but=DELISTED)
        if not spans:
            return []
        try:
            for source, name, part in self._sources(series.dataset, instrument, spans):
                with self._gently(name):
                    self._filler.ask(source, name, series, instrument, part, _CAUSE)
        finally:
            named = self._filler.lacking(series, instrument, spans[0][0], spans[-1][1], but=DELISTED)
            left = self._filler.lacking(series, instrument, spans[0][0], spans[-1][1])
            stored = length(spans) - length(named)
            self._done.missing[series.dataset] += (stored + length(left)) // series.step_ms
            self._done.stored[series.dataset] += stored // series.step_ms
            self._done.left[series.dataset] += length(left) // series.step_ms
        return left

    def _conclude(self, series: Series, instrument: Instrument, spans: list[Span]) -> None:
        """Give the spans their cause: REST is asked once more, or the contract is gone and all that it had."""
        if not self._listings.trades(instrument, self._now_ms):
            self._name_gone(instrument, series.dataset, spans)
            self._done.left[series.dataset] -= length(spans) // series.step_ms
            self._done.holes[DELISTED] += length(spans) // series.step_ms
            return
        recent = minus(spans, [(0, self._reached(series.dataset))])
        typed = self._filler.tally.holes.total()
        self._filler.conclude(series, instrument, recent, _CAUSE)
        typed = self._filler.tally.holes.total() - typed
        still = self._filler.lacking(series, instrument, spans[0][0], spans[-1][1])
        settled = (length(spans) - length(still)) // series.step_ms
        self._done.left[series.dataset] -= settled
        self._done.stored[series.dataset] += settled - typed  # what came at the second asking

    def _name_gone(self, instrument: Instrument, dataset: str, spans: Sequence[Span]) -> None:
        self._lake.record_holes([Hole(instrument, dataset, *span, DELISTED, self._now_ms) for span in spans])

    def _sources(
        self, dataset: str, instrument: Instrument, spans: list[Span]
    ) -> Iterator[tuple[History, str, list[Span]]]:
        """REST as far as it reaches, which is nowhere for a contract that is delisted; the archive beyond."""
        listed = self._listings.trades(instrument, self._now_ms)
        old = minus(spans, [(self._reached(dataset), self._now_ms)]) if listed else spans
        yield self._client, "rest", minus(spans, old)
        if old and self._archive is not None and self._archive.serves(dataset):
            published = self._archive.published_until_ms(self._now_ms, dataset)
            yield self._archive, _ARCHIVE, minus(old, [(published, self._now_ms)])

    def _reached(self, dataset: str) -> int:
        reach = self._client.reach_ms(dataset)
        return 0 if reach is None else self._now_ms - reach + SETTLED_MS

    def _collected_from(self, series: Series, instrument: Instrument, start_ms: int, end_ms: int) -> int:
        """From when on rows are wanted: the start when anything was collected before it, else the first row."""
        if len(series.times(self._lake, instrument, start_ms - _BEFORE_MS, start_ms)):
            return start_ms
        first = series.times(self._lake, instrument, start_ms, end_ms)[:1]
        return int(first[0]) if len(first) else end_ms

    def _funding(self, bars: Series, instrument: Instrument, start_ms: int) -> None:
        """Settlements, where some may be missing; between two that come in one answer the venue has no other."""
        until = self._until[instrument] + SETTLED_MS
        start, end = self._listings.span(instrument, start_ms - DAY_MS, until, MINUTE_MS)
        known = settlement_times(self._lake, instrument, start, end)
        first = int(known[0]) if len(known) else end
        begin = self._collected_from(bars, instrument, start, end)
        begin = begin if first - begin > LONGEST_INTERVAL_MS else first
        recorded = [of for of in self._lake.holes(instrument.venue, FUNDING, instrument) if of.cause != DELISTED]
        for first, last in minus(funding_holes(known, begin, end), [(of.start_ms, of.end_ms) for of in recorded]):
            for source, name, part in self._sources(FUNDING, instrument, [(first, last)]):
                if not part:
                    continue
                rows: list[Settlement] = []
                with self._gently(name):
                    pages = source.settlements(instrument, first - 2 * MINUTE_MS, last + 2 * MINUTE_MS)
                    rows = [row for page in pages for row in page]
                stored = self._filler.settle(instrument, rows, name, (first, last), _CAUSE)
                self._done.stored[FUNDING] += stored
                minutes = snap_to_minute(np.asarray([row.time_ms for row in rows], dtype=np.int64)).tolist()
                if not stored and sorted(minutes) == [first - MINUTE_MS, last]:
                    self._lake.record_holes([Hole(instrument, FUNDING, first, last, NO_TRADE, self._now_ms)])
        if not self._listings.trades(instrument, self._now_ms):
            known = settlement_times(self._lake, instrument, start, end)
            due = int(due_times(known)[-1]) if len(known) else 0
            spans = [span for span in funding_holes(known, begin, end) if span[1] < end or due < end]
            self._name_gone(instrument, FUNDING, spans)
