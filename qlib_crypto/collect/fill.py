"""Missing rows asked of REST or the archive, stored, written into the ledger; what the venue lacks gets its cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.collect.holes import typed
from qlib_crypto.collect.series import FUNDING, Series, time_of
from qlib_crypto.collect.settled import unknown_settlements
from qlib_crypto.collect.spans import Span, both, minus
from qlib_crypto.errors import VenueError
from qlib_crypto.feeds import History, RestClient
from qlib_crypto.lake import Lake, missing_ranges
from qlib_crypto.lake.checks import sift
from qlib_crypto.lake.gaps import joined
from qlib_crypto.lake.ledger import Hole, Repair
from qlib_crypto.schemas import Row, Settlement
from qlib_crypto.symbols import Instrument

#: A hole gets its cause no sooner after its end: until then the venue may only be late.
SETTLED_MS = 10 * MINUTE_MS
#: How many steps from a hole a row may lie that shows an answer to be whole.
_AROUND = 1_000
_WITNESSES = ("BTC", "ETH")


@dataclass
class Tally:
    """Rows since the start; read from any thread. `rows` is by dataset and source, the others by cause."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    gaps: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    holes: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    newest: dict[Instrument, int] = field(default_factory=dict)
    last_settlement_ms: int | None = None


class Filler:
    """What one lake lacks of one venue, from any source.

    Parameters
    ----------
    lake, client
        The lake, and the venue's REST client, which also says whether the venue was up.
    say
        Gets a line for each row of the venue that cannot be right.
    others
        The instruments that are collected: where one of them has a row the venue was up.
    now_ms
        Market time.

    """

    def __init__(
        self,
        lake: Lake,
        client: RestClient,
        say: Callable[[str], None],
        others: Callable[[], Iterable[Instrument]],
        now_ms: Callable[[], int],
    ) -> None:
        self.lake, self.client = lake, client
        self._say, self.others, self._now_ms = say, others, now_ms
        self.tally = Tally()

    def lacking(
        self, series: Series, instrument: Instrument, start_ms: int, end_ms: int, *, but: str = ""
    ) -> list[Span]:
        """What the lake lacks, less what it has a cause for; holes of the cause `but` are lacking all the same."""
        missing = self._absent(series, instrument, start_ms, end_ms)
        if not missing:
            return []
        known = self.lake.holes(instrument.venue, series.dataset, instrument, start_ms, end_ms)
        return minus(missing, [(hole.start_ms, hole.end_ms) for hole in known if hole.cause != but])

    def ask(
        self, source: History, name: str, series: Series, instrument: Instrument, spans: Sequence[Span], cause: str = ""
    ) -> set[int]:
        """Fetch and store the spans, each page durable at once; the times of all rows that came.

        With a page goes into the ledger what is missing no more, with the cause, unless that is empty.
        """
        if not spans:
            return set()
        missing = self._absent(series, instrument, spans[0][0], spans[-1][1]) if cause else []
        came: set[int] = set()
        for span in joined(spans, self.client.page_rows(series.dataset) * series.step_ms):
            for page in series.pages(source, instrument, *span):
                came.update(map(time_of, page))
                _, filled = self.repair(page, name, series, instrument, missing, cause)
                missing = minus(missing, filled)
        if came and series.interval is not None:
            self.tally.newest[instrument] = max(*came, self.tally.newest.get(instrument, 0))
        return came

    def repair(
        self, rows: Sequence[Row], source: str, series: Series, instrument: Instrument, missing: list[Span], cause: str
    ) -> tuple[int, list[Span]]:
        """How many rows of a page were stored, and what of `missing` they fill: that is in the ledger with them."""
        step, now_ms = series.step_ms, self._now_ms()
        times = [time_of(row) for row in sift(rows)[0]] if missing else []
        filled = both(missing, [(at, at + step) for at in times])
        lines = [Repair(now_ms, instrument, series.dataset, a, b, (b - a) // step, source, cause) for a, b in filled]
        return self.store(rows, source, series.dataset, lines), filled

    def settle(self, instrument: Instrument, rows: Sequence[Settlement], source: str, span: Span, cause: str) -> int:
        """The count of settlements that are new, stored with their line in the ledger, unless the cause is empty."""
        new = unknown_settlements(self.lake, instrument, rows)
        good = len(sift(new)[0]) if cause else 0
        line = Repair(self._now_ms(), instrument, FUNDING, *span, good, source, cause)
        return self.store(new, source, FUNDING, [line] if good else [])

    def store(self, rows: Sequence[Row], source: str, dataset: str, repairs: Sequence[Repair] = ()) -> int:
        """The count of new or replaced rows; what cannot be right goes to the quarantine and is told."""
        done = self.lake.admit(rows, repairs)
        for of in repairs:
            self.tally.repaired[of.cause] += of.rows
        self.tally.rows[dataset, source] += done.stored
        self.tally.refused += len(done.refused)
        for line in done.refused:
            self._say(line)
        return done.stored

    def conclude(self, series: Series, instrument: Instrument, spans: Sequence[Span], cause: str = "") -> list[Span]:
        """Ask once more for what the venue did not give; what it still lacks becomes a hole with a cause.

        An answer counts only when it also shows the nearest rows around the span, and one after it there must be: an
        empty, cut or stale page says nothing. The spans without such an answer come back.
        """
        unclear: list[Span] = []
        step = series.step_ms
        around = [(span, *self._around(series, instrument, *span)) for span in spans]
        wide = [(min([a, *before]), max([b, *(at + step for at in after)])) for (a, b), before, after in around]
        for first, last in joined(wide, self.client.page_rows(series.dataset) * step):
            came = self.ask(self.client, "rest", series, instrument, [(first, last)], cause)
            answered: list[Span] = []
            while around and around[0][0][1] <= last:
                span, before, after = around.pop(0)
                left = self.lacking(series, instrument, *span)
                if not after or not came.issuperset([*before, *after]):
                    unclear += left
                else:  # a row that came and was refused is no hole: the quarantine names it
                    answered += minus(left, [(at, at + step) for at in came])
            self._type(series, instrument, answered)
        return unclear

    def _absent(self, series: Series, instrument: Instrument, start_ms: int, end_ms: int) -> list[Span]:
        """What the lake lacks, for whatever cause."""
        times = series.times(self.lake, instrument, start_ms, end_ms)
        return missing_ranges(times, start_ms, end_ms, series.step_ms)

    def _around(self, series: Series, instrument: Instrument, start: int, end: int) -> tuple[list[int], list[int]]:
        """The times of the nearest row before and of the nearest after, as far as the lake has them."""
        reach = _AROUND * series.step_ms
        before = series.times(self.lake, instrument, start - reach, start)[-1:]
        return before.tolist(), series.times(self.lake, instrument, end, end + reach)[:1].tolist()

    def _type(self, series: Series, instrument: Instrument, spans: list[Span]) -> None:
        if not spans:
            return
        parts = typed(spans, self._alive(series, instrument, spans), series.step_ms)
        now_ms = self._now_ms()
        self.lake.record_holes([Hole(instrument, series.dataset, a, b, cause, now_ms) for a, b, cause in parts])
        for a, b, cause in parts:
            self.tally.holes[cause] += (b - a) // series.step_ms

    def _alive(self, series: Series, instrument: Instrument, spans: list[Span]) -> NDArray[np.int64]:
        """Times within the spans at which the venue had a row of any other instrument."""
        start, end = spans[0][0], spans[-1][1]
        alive = np.empty(0, dtype=np.int64)
        for other in self.others():
            if other != instrument:
                alive = np.union1d(alive, series.times(self.lake, other, start, end))
        dark = [part for span in spans for part in missing_ranges(alive, *span, series.step_ms)]
        for base in _WITNESSES:
            witness = Instrument(base, "USDT", instrument.venue)
            if dark and witness != instrument:
                try:
                    pages = [page for span in dark for page in series.pages(self.client, witness, *span)]
                except VenueError as error:
                    if not error.final:
                        raise
                    continue  # the venue does not list it: ask the next
                return np.union1d(alive, np.asarray([time_of(row) for page in pages for row in page], dtype=np.int64))
        return alive
