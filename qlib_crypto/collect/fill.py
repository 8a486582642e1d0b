"""What the collector's worker does over REST: fill spans of bars, fetch settlements, refresh specs, seal days."""

from __future__ import annotations

import queue
from collections.abc import Callable

from qlib_crypto.clock import MINUTE_MS, iso
from qlib_crypto.collect.backfill import BAR_PAGE, settlement_times
from qlib_crypto.collect.worker import Again
from qlib_crypto.errors import counted
from qlib_crypto.feeds import RestClient
from qlib_crypto.lake import Lake, missing_ranges
from qlib_crypto.lake.checks import sift
from qlib_crypto.lake.gaps import joined
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.symbols import Instrument, Interval

#: So long after its time a settlement may not be served yet, which is no failure.
_SETTLE_SLACK_MS = 2 * MINUTE_MS
_NAMED = 3


class Filler:
    """The jobs, each a method for `Worker`; `specs` is what the venue lists, refreshed by `refresh`.

    `now_ms` gives market time.
    """

    def __init__(
        self,
        lake: Lake,
        client: RestClient,
        interval: Interval,
        say: Callable[[str], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._lake = lake
        self._client = client
        self._interval = interval
        self._say = say
        self._now_ms = now_ms
        self.specs: dict[Instrument, InstrumentSpec] = {}
        self.bars = 0
        self.settlements = 0
        self._lacks: queue.SimpleQueue[tuple[str, int, int, int]] = queue.SimpleQueue()

    def refresh(self, _instrument: Instrument | None, _start_ms: int, _end_ms: int, _last: bool) -> None:
        """Store the instruments table as it is now."""
        specs = self._client.specs()
        self._lake.store_specs(self._client.venue, specs)
        self.specs |= {spec.instrument: spec for spec in specs}

    def seal(self, _instrument: Instrument | None, _start_ms: int, end_ms: int, _last: bool) -> None:
        """Seal the days that ended by `end_ms`."""
        files = self._lake.seal(self._client.venue, before_ms=end_ms)
        if files:
            self._say(f"sealed {counted(len(files), 'file')} of days before {iso(end_ms)}")

    def fill(self, instrument: Instrument | None, start_ms: int, end_ms: int, last: bool) -> Again | None:
        """Fetch the bars of the span that the lake lacks; what is not closed yet, or not served yet, is left over."""
        assert instrument is not None  # noqa: S101 - bars are always of one; for the type checker
        step = self._interval.ms
        start_ms, end_ms = self._tradable(instrument, start_ms, end_ms)
        closed = self._interval.floor(self._now_ms())
        now_ms = min(end_ms, closed)
        have = self._lake.bar_times(instrument, self._interval, start_ms, end_ms)
        for span in joined(missing_ranges(have, start_ms, now_ms, step), BAR_PAGE[instrument.venue] * step):
            for page in self._client.bars(instrument, self._interval, *span):
                good, refused = sift(page)
                self._tell(refused)
                self.bars += self._lake.store(good)
        have = self._lake.bar_times(instrument, self._interval, start_ms, end_ms)
        left = missing_ranges(have, start_ms, end_ms, step)
        if not left:
            return None
        early = [span for span in left if span[0] < now_ms]
        if early and last:
            count = sum(min(b, now_ms) - a for a, b in early) // step
            self._lacks.put((instrument.symbol, count, early[0][0], min(early[-1][1], now_ms)))
        if end_ms > closed and (last or not early):
            return Again(max(closed, start_ms), end_ms, counted=False)
        return Again(left[0][0], left[-1][1])

    def settled(self, instrument: Instrument | None, start_ms: int, end_ms: int, last: bool) -> Again | None:
        """Fetch settlements from `start_ms` until now; asked again until the one due at `end_ms` is there."""
        assert instrument is not None  # noqa: S101 - settlements are always asked of one; for the type checker
        self.catch_up(instrument, start_ms, end_ms, last)
        due = settlement_times(self._lake, instrument, end_ms - MINUTE_MS, end_ms + MINUTE_MS + 1)
        if len(due):
            return None
        if last:
            self._say(f"{instrument}: the venue has no settlement of {iso(end_ms)}, though its estimate moved on")
        return Again(start_ms, end_ms, counted=self._now_ms() > end_ms + _SETTLE_SLACK_MS)

    def catch_up(self, instrument: Instrument | None, start_ms: int, end_ms: int, _last: bool) -> None:
        """Fetch settlements from the start of the span until now."""
        assert instrument is not None  # noqa: S101 - as above
        for page in self._client.settlements(instrument, start_ms, max(end_ms, self._now_ms()) + MINUTE_MS):
            good, refused = sift(page)
            self._tell(refused)
            self.settlements += self._lake.store(good)

    def tell_lacking(self) -> None:
        """Say, in one line, which bars the venue turned out to lack since this was called last."""
        told = [self._lacks.get_nowait() for _ in range(self._lacks.qsize())]
        if not told:
            return
        symbols = sorted({symbol for symbol, *_ in told})
        names = ", ".join(symbols[:_NAMED]) + (", …" if len(symbols) > _NAMED else "")
        count = counted(sum(count for _, count, _, _ in told), f"{self._interval} bar")
        start, end = min(start for *_, start, _ in told), max(end for *_, end in told)
        self._say(
            f"{self._client.venue} lacks {count} of {counted(len(symbols), 'instrument')} ({names}), "
            f"opens from {iso(start)} to {iso(end - self._interval.ms)}"
        )

    def _tell(self, lines: list[str]) -> None:
        for line in lines:
            self._say(line)

    def _tradable(self, instrument: Instrument, start_ms: int, end_ms: int) -> tuple[int, int]:
        spec = self.specs.get(instrument)
        if spec is not None and spec.listed_ms:
            start_ms = max(start_ms, self._interval.floor(spec.listed_ms))
        if spec is not None and spec.delisted_ms:
            end_ms = min(end_ms, self._interval.floor(spec.delisted_ms))
        return start_ms, max(start_ms, end_ms)
