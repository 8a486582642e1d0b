"""What the collector's workers do, a method for each kind of job: fill spans, settlements, specs, seals."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from functools import partial

from qlib_crypto.clock import MINUTE_MS, iso
from qlib_crypto.collect.fill import SETTLED_MS, Filler
from qlib_crypto.collect.listed import Listings
from qlib_crypto.collect.margin_tiers import DailyTiers
from qlib_crypto.collect.series import Series
from qlib_crypto.collect.settled import settlement_times
from qlib_crypto.collect.spans import Span, length
from qlib_crypto.collect.worker import Again, Job, Work
from qlib_crypto.errors import VenueError, counted
from qlib_crypto.symbols import Instrument

#: So often a missing row is asked for at once; after that once more when the hole has settled, for its cause.
_QUICK = 3
ATTEMPTS = _QUICK + 3
#: So long after its time a settlement may not be served yet, which is no failure.
_SETTLE_SLACK_MS = 2 * MINUTE_MS
_NAMED = 3
_TELL_S = 600.0


class Tasks:
    """The jobs; `now_ms` gives market time."""

    def __init__(
        self, filler: Filler, listings: Listings, say: Callable[[str], None], now_ms: Callable[[], int]
    ) -> None:
        self._filler, self._listings = filler, listings
        self._tiers = DailyTiers(filler.lake, filler.client, say)
        self._say, self._now_ms = say, now_ms
        self._told_s = -_TELL_S
        self._lacks: queue.SimpleQueue[tuple[str, str, int, int, int]] = queue.SimpleQueue()

    def refresh(self, _job: Job, _last: bool) -> None:
        """Look at the instruments table."""
        self._listings.refresh(self._now_ms())

    def tiers(self, _job: Job, _last: bool) -> None:
        """Look at the margin tiers of what is collected, where that was not done today."""
        now_ms, specs = self._now_ms(), self._listings.specs
        followed = [of for of in self._filler.others() if of in specs and self._listings.trades(of, now_ms)]
        self._tiers.refresh([specs[of] for of in followed], now_ms)

    def seal(self, job: Job, _last: bool) -> None:
        """Seal the days that ended by the job's end."""
        files = self._filler.lake.seal(self._filler.client.venue, before_ms=job.end_ms)
        if files:
            self._say(f"sealed {counted(len(files), 'file')} of days before {iso(job.end_ms)}")

    def filling(self, series: Series) -> Work:
        """The job that fetches what the lake lacks of a series."""
        return partial(self._fill, series)

    def _fill(self, series: Series, job: Job, _last: bool) -> Again | None:
        instrument, step = _of(job), series.step_ms
        now_ms = self._now_ms()
        start, end = self._listings.span(instrument, job.start_ms, job.end_ms, step)
        start = max(start, self._reached(series, now_ms))
        ready = min(end, series.floor(now_ms))
        spans = self._filler.lacking(series, instrument, start, ready)
        if job.cause and not job.attempt:
            self._filler.tally.gaps[job.cause] += length(spans) // step
        try:
            left = self._asked(series, job, spans, now_ms)
        except VenueError as error:
            if error.final and not self._listings.trades(instrument, now_ms):
                return None  # it is gone, and so is its history
            raise
        if left and job.attempt >= _QUICK and not self._followed(instrument, now_ms):
            return None  # nothing will come after it any more that could show an answer to be whole
        if left and job.attempt < _QUICK:
            due_ms = 0
            if job.attempt == _QUICK - 1:
                due_ms = left[-1][1] + SETTLED_MS
                self._lacks.put((instrument.symbol, series.dataset, length(left) // step, left[0][0], left[-1][1]))
            return Again(left[0][0], end, due_ms=due_ms)
        if left:
            settled = left[-1][1] + SETTLED_MS <= now_ms
            return Again(
                left[0][0], end, counted=settled, due_ms=now_ms + SETTLED_MS if settled else left[-1][1] + SETTLED_MS
            )
        return Again(max(ready, start), end, counted=False) if ready < end else None

    def _asked(self, series: Series, job: Job, spans: list[Span], now_ms: int) -> list[Span]:
        """What is still missing after asking: quickly at first, then for the cause once it has settled."""
        instrument, filler = _of(job), self._filler
        if not spans:
            return []
        if job.attempt < _QUICK:
            filler.ask(filler.client, "rest", series, instrument, spans, job.cause)
            return filler.lacking(series, instrument, spans[0][0], spans[-1][1])
        settled = [span for span in spans if span[1] + SETTLED_MS <= now_ms]
        late = [span for span in spans if span[1] + SETTLED_MS > now_ms]
        return sorted([*filler.conclude(series, instrument, settled, job.cause), *late])

    def _followed(self, instrument: Instrument, now_ms: int) -> bool:
        return self._listings.trades(instrument, now_ms) and instrument in self._filler.others()

    def _reached(self, series: Series, now_ms: int) -> int:
        """The first time that REST still has."""
        reach = self._filler.client.reach_ms(series.dataset)
        return 0 if reach is None else series.floor(now_ms - reach) + 2 * series.step_ms

    def settled(self, job: Job, last: bool) -> Again | None:
        """Fetch settlements from the job's start until now; asked again until the one due at its end is there."""
        self.funding(job, last)
        end_ms = job.end_ms
        due = settlement_times(self._filler.lake, _of(job), end_ms - MINUTE_MS, end_ms + MINUTE_MS + 1)
        if len(due):
            return None
        if last:
            self._say(f"{job.instrument}: the venue has no settlement of {iso(end_ms)}, though it was due")
            return None
        return Again(job.start_ms, end_ms, counted=self._now_ms() > end_ms + _SETTLE_SLACK_MS)

    def funding(self, job: Job, _last: bool) -> None:
        """Fetch settlements from the start of the span until now."""
        instrument, filler = _of(job), self._filler
        end_ms = max(job.end_ms, self._now_ms()) + MINUTE_MS
        rows = [row for page in filler.client.settlements(instrument, job.start_ms, end_ms) for row in page]
        filler.settle(instrument, rows, "rest", (job.start_ms, job.end_ms), job.cause)
        newest = max((row.time_ms for row in rows), default=0)
        filler.tally.last_settlement_ms = max(newest, filler.tally.last_settlement_ms or 0)

    def tell_lacking(self, *, at_once: bool = True) -> None:
        """Say, a line a dataset, which rows the venue turned out to lack since it was said last.

        Unless `at_once`, no sooner than some minutes after that: a quiet contract lacks a minute every now and then.
        """
        now_s = time.monotonic()
        if self._lacks.empty() or not (at_once or now_s - self._told_s >= _TELL_S):
            return
        self._told_s = now_s
        told = [self._lacks.get_nowait() for _ in range(self._lacks.qsize())]
        for dataset in dict.fromkeys(entry[1] for entry in told):
            mine = [entry for entry in told if entry[1] == dataset]
            symbols = sorted({symbol for symbol, *_ in mine})
            names = ", ".join(symbols[:_NAMED]) + (", …" if len(symbols) > _NAMED else "")
            count = counted(sum(count for _, _, count, _, _ in mine), f"{dataset} row")
            start, end = min(start for *_, start, _ in mine), max(end for *_, end in mine)
            self._say(
                f"{self._filler.client.venue} lacks {count} of {counted(len(symbols), 'instrument')} ({names}) "
                f"in {iso(start)} → {iso(end)}"
            )


def _of(job: Job) -> Instrument:
    assert job.instrument is not None  # noqa: S101 - these jobs are always of one; for the type checker
    return job.instrument
