"""The stream's rows on their way to disk: none counts as received before it is durable."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import Counter
from collections.abc import Callable, Sequence

from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.collect.disk import will_pass
from qlib_crypto.collect.fill import Tally
from qlib_crypto.errors import StorageError, counted
from qlib_crypto.lake import Lake
from qlib_crypto.lake.checks import fault
from qlib_crypto.schemas import Bar, Book, Estimate, Liquidation, Row, Trade
from qlib_crypto.symbols import Instrument

_BATCH = 20_000
#: So many rows wait at most, some 100 MB; while the disk is full what comes on top is let go, and asked for later.
_MOST = 200_000
_TAKE_S = 0.1
_RETRY_S = 1.0
WS = "ws"
_NAMES: dict[type, str] = {
    Estimate: "funding_estimate", Liquidation: "liquidations", Trade: "trades", Book: "books",
}  # fmt: skip
_TOLD_A_MINUTE = 20


class Intake:
    """A bounded queue between the stream's thread, which puts, and the collector's, which stores.

    Attributes
    ----------
    trouble
        Why nothing can be stored now; None when all is well.
    dropped
        Rows that were let go while the queue was full.
    commit_ms, last_s
        What the last commit took, and when the last row was stored, `time.monotonic`.

    """

    def __init__(self, lake: Lake, tally: Tally, candles: str, say: Callable[[str], None]) -> None:
        self._lake, self._tally, self._say = lake, tally, say
        self._names = {**_NAMES, Bar: candles}
        self._queue: queue.SimpleQueue[Row] = queue.SimpleQueue()
        self._held: list[Row] = []
        self._again_s = 0.0
        self._told: tuple[float, int] = 0.0, 0
        self.trouble: str | None = None
        self.dropped = 0
        self.commit_ms = 0.0
        self.last_s: float | None = None

    def put(self, row: Row) -> None:
        """Take a row; returns at once."""
        if self._queue.qsize() >= _MOST:
            self.dropped += 1
        else:
            self._queue.put(row)

    @property
    def waiting(self) -> int:
        """Rows that are not durable yet."""
        return self._queue.qsize() + len(self._held)

    def next(self, keep: Callable[[Row], bool], *, wait_s: float = _TAKE_S) -> list[Row]:
        """The rows that became durable just now, those that cannot be right left out; empty while the disk refuses.

        Raises
        ------
        StorageError
            What no waiting mends.

        """
        if not self._held:
            self._held = [row for row in self._take(wait_s) if keep(row)]
        elif time.monotonic() < self._again_s:
            time.sleep(min(wait_s, _TAKE_S))
            return []
        try:
            return self._store()
        except StorageError as error:
            if not will_pass(error) or not wait_s:
                raise
            self._again_s = time.monotonic() + _RETRY_S
            if self.trouble is None:
                self._say(f"{error}; the collector waits and tries again")
            self.trouble = str(error)
            return []

    def _store(self) -> list[Row]:
        rows = self._sampled(self._held)
        if not rows:
            self._held = []
            return []
        began = time.monotonic()
        done = self._lake.admit(rows)
        self.last_s = time.monotonic()
        self.commit_ms = (self.last_s - began) * 1000
        self._held = []
        if self.trouble is not None:
            lost = f"; {counted(self.dropped, 'row')} let go so far" if self.dropped else ""
            self._say(f"rows are stored again{lost}")
            self.trouble = None
        self._tell(done.refused)
        good = [row for row in rows if fault(row) is None] if done.refused else rows
        self._count(good)
        return good

    def _count(self, rows: Sequence[Row]) -> None:
        newest = self._tally.newest
        for kind, count in Counter(map(type, rows)).items():
            self._tally.rows[self._names[kind], WS] += count
        for row in rows:
            if isinstance(row, Bar):
                newest[row.instrument] = max(row.open_ms, newest.get(row.instrument, 0))

    def _tell(self, refused: Sequence[str]) -> None:
        self._tally.refused += len(refused)
        minute, told = self._told
        if refused and time.monotonic() - minute >= MINUTE_MS / 1000:
            minute, told = time.monotonic(), 0
        for line in refused[: max(0, _TOLD_A_MINUTE - told)]:
            self._say(line)
        self._told = minute, told + len(refused)

    def _take(self, wait_s: float) -> list[Row]:
        rows: list[Row] = []
        with contextlib.suppress(queue.Empty):
            if wait_s:
                rows.append(self._queue.get(timeout=wait_s))
            while len(rows) < _BATCH:
                rows.append(self._queue.get_nowait())
        return rows

    @staticmethod
    def _sampled(rows: list[Row]) -> list[Row]:
        """Of an instrument's estimates in a minute the last: the lake keeps that one anyway."""
        last: dict[tuple[Instrument, int], Row] = {}
        others: list[Row] = []
        for row in rows:
            if isinstance(row, Estimate):
                last[row.instrument, row.time_ms // MINUTE_MS] = row
            else:
                others.append(row)
        return [*others, *last.values()]
