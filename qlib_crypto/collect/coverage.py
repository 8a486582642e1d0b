"""Until when every followed instrument is covered: its rows before that are stored or asked for, a cursor a series."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from qlib_crypto.clock import DAY_MS
from qlib_crypto.collect.funding import FundingWatch
from qlib_crypto.collect.listed import Listings
from qlib_crypto.collect.series import Series
from qlib_crypto.lake import Lake
from qlib_crypto.schemas import PERIOD_MS, Bar
from qlib_crypto.symbols import Instrument, Interval

#: So much of a newcomer's past is fetched.
NEWCOMER_MS = 7 * DAY_MS
#: Series that no stream brings are asked for so often, market time.
_POLL_MS = PERIOD_MS

#: `(kind, instrument, start_ms, end_ms, cause)`: has rows fetched.
type Ask = Callable[[str, Instrument, int, int, str], None]


@dataclass(slots=True)
class _Streamed:
    """How a stream serves one instrument: reconnects when it was up to date, since when a bar is late."""

    reconnects: int
    bar_s: float
    late_open: int = -1
    late_s: float = 0.0
    missed: int = 0


class Coverage:
    """The cursors of all followed instruments; whatever lies behind one and is missing was asked for.

    Parameters
    ----------
    lake
        Keeps the marks, from which the next collector goes on.
    candles, polled
        The series that the stream brings, and those that are asked for.
    ask
        Has rows fetched.
    reconnects
        How often the stream had to connect anew.

    """

    def __init__(
        self,
        lake: Lake,
        candles: Series,
        polled: Sequence[Series],
        listings: Listings,
        ask: Ask,
        reconnects: Callable[[], int],
    ) -> None:
        assert candles.interval is not None  # noqa: S101 - candles have one; for the type checker
        self._interval: Interval = candles.interval
        self._lake, self._candles, self._all = lake, candles, [candles, *polled]
        self._listings, self._ask, self._reconnects = listings, ask, reconnects
        self._cursor: dict[Instrument, dict[Series, int]] = {}
        self._streamed: dict[Instrument, _Streamed] = {}
        self._marks: dict[Instrument, int] = {}
        self.funding = FundingWatch(ask)

    @property
    def instruments(self) -> list[Instrument]:
        """Those that are followed."""
        return list(self._cursor)

    def follow(
        self, instruments: Sequence[Instrument], now_ms: int, *, since_ms: int | None = None, new_ms: int | None = None
    ) -> None:
        """Follow these and no others: where each was complete when it was followed last, else from its last bar on.

        One that never was begins at `new_ms`, by default `NEWCOMER_MS` ago, or with its listing; all begin with
        `since_ms` when that is earlier.
        """
        gone = [instrument for instrument in self._cursor if instrument not in instruments]
        for instrument in gone:
            self._finish(instrument, now_ms)
        self.funding.forget(gone)
        new_ms = now_ms - NEWCOMER_MS if new_ms is None else new_ms
        starts = {i: self._begin(i, now_ms, since_ms, new_ms) for i in instruments if i not in self._cursor}
        begun = {instrument: self._interval.floor(begin) for instrument, (begin, _) in starts.items()}
        self._lake.store_marks(begun, self._interval)  # before the first bar, after which the span would look complete
        self._marks |= begun
        for instrument, (begin, cause) in starts.items():
            self._start(instrument, begin, now_ms, cause)

    def _begin(self, instrument: Instrument, now_ms: int, since_ms: int | None, new_ms: int) -> tuple[int, str]:
        """From when on, and why that is missing."""
        begin, cause = self._lake.mark(instrument, self._interval), "stopped"
        if begin is None:
            last = self._lake.last_open(instrument, self._interval)
            begin = None if last is None else last + self._interval.ms
        if begin is None:
            begin, cause = self._listings.span(instrument, new_ms, now_ms, self._interval.ms)[0], "new"
        return min(begin, now_ms if since_ms is None else since_ms), cause

    def _start(self, instrument: Instrument, begin_ms: int, now_ms: int, cause: str) -> None:
        cursors: dict[Series, int] = {}
        for series in self._all:
            begin, due = series.floor(begin_ms), series.floor(now_ms)
            if begin < due:
                self._ask(series.dataset, instrument, begin, due, cause)
            cursors[series] = max(begin, due)
        self._cursor[instrument] = cursors
        self._streamed[instrument] = _Streamed(self._reconnects(), time.monotonic())
        self.funding.follow(instrument, begin_ms, now_ms, cause)

    def _finish(self, instrument: Instrument, now_ms: int) -> None:
        """Ask for the rest of one that is followed no longer."""
        for series, cursor in self._cursor.pop(instrument).items():
            if cursor < series.floor(now_ms):
                self._ask(series.dataset, instrument, cursor, series.floor(now_ms), "late")
        del self._streamed[instrument]
        self._marks.pop(instrument, None)

    def came(self, bar: Bar, now_s: float) -> None:
        """Move on to a streamed bar that is durable; ask for what was skipped."""
        cursors = self._cursor.get(bar.instrument)
        if cursors is None:
            return
        streamed, cursor = self._streamed[bar.instrument], cursors[self._candles]
        streamed.bar_s, streamed.missed = now_s, 0
        if bar.open_ms < cursor:
            return
        if bar.open_ms > cursor:
            self._ask(self._candles.dataset, bar.instrument, cursor, bar.open_ms, self._cause(streamed, "lost"))
        streamed.reconnects = self._reconnects()
        cursors[self._candles] = bar.open_ms + self._interval.ms

    def look(self, now_ms: int, now_s: float, grace_s: float) -> None:
        """Ask for bars that have been due for `grace_s` of wall time, and for what no stream brings."""
        due = self._interval.floor(now_ms)
        for instrument, cursors in self._cursor.items():
            streamed, cursor = self._streamed[instrument], cursors[self._candles]
            if cursor < due:
                if streamed.late_open != cursor:
                    streamed.late_open, streamed.late_s = cursor, now_s
                elif now_s - streamed.late_s >= grace_s:
                    self._ask(self._candles.dataset, instrument, cursor, due, self._cause(streamed, "late"))
                    streamed.missed += (due - cursor) // self._interval.ms
                    cursors[self._candles] = due
            self._poll(instrument, cursors, now_ms, _POLL_MS)
        self.funding.look(now_ms)

    def finish(self, until_ms: int) -> bool:
        """Ask for whatever is due by `until_ms`; True when the candles have all come or were asked for."""
        for instrument, cursors in self._cursor.items():
            self._poll(instrument, cursors, until_ms, 0)
        if any(cursors[self._candles] < self._interval.floor(until_ms) for cursors in self._cursor.values()):
            return False
        self.funding.finish(until_ms)
        return True

    def dead(self, newest: Mapping[Instrument, int], now_s: float, patience_s: float) -> list[Instrument]:
        """Instruments whose stream gave nothing for so long while REST had several bars; each is named once a while."""
        out = []
        for instrument, streamed in self._streamed.items():
            behind = streamed.missed * self._interval.ms
            has = newest.get(instrument, 0) >= self._cursor[instrument][self._candles] - behind
            if streamed.missed >= 3 and has and now_s - streamed.bar_s >= patience_s:  # noqa: PLR2004 - several
                streamed.bar_s, streamed.missed = now_s, 0
                out.append(instrument)
        return out

    def keep_marks(self, unfinished: Iterable[Mapping[Instrument | None, int]]) -> None:
        """Make durable how far the instruments are complete: all stored, and nothing before asked for any more."""
        open_from: dict[Instrument | None, int] = {}
        for found in unfinished:
            for key, start_ms in found.items():
                open_from[key] = min(start_ms, open_from.get(key, start_ms))
        moved = {}
        for instrument, cursors in self._cursor.items():
            mark = min(*cursors.values(), self.funding.complete_ms(instrument))
            mark = self._interval.floor(min(mark, open_from.get(instrument, mark)))
            if mark > self._marks[instrument]:
                moved[instrument] = mark
        self._lake.store_marks(moved, self._interval)
        self._marks |= moved

    def incomplete(self, until_ms: int) -> int:
        """How many instruments have marks that lag behind their candles by more than what is merely not due yet."""
        lag = max(series.step_ms for series in self._all) + _POLL_MS
        return sum(
            self._marks[i] < min(cursors[self._candles], until_ms) - (lag if len(self._all) > 1 else 0)
            for i, cursors in self._cursor.items()
        )

    def _poll(self, instrument: Instrument, cursors: dict[Series, int], now_ms: int, every_ms: int) -> None:
        for series in self._all[1:]:
            due, cursor = series.floor(now_ms), cursors[series]
            if due - cursor >= max(every_ms, series.step_ms):
                self._ask(series.dataset, instrument, cursor, due, "")
                cursors[series] = due

    def _cause(self, streamed: _Streamed, otherwise: str) -> str:
        return "disconnected" if self._reconnects() != streamed.reconnects else otherwise
