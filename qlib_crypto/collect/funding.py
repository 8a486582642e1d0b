"""When settlements are due: from the estimates of the stream, and from the clock when those stay away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.schemas import Estimate
from qlib_crypto.symbols import Instrument

#: A settlement that is so late, without an estimate that leads to the next one, is asked for.
_LATE_MS = 10 * MINUTE_MS

#: `(kind, instrument, start_ms, end_ms, cause)`: has settlements fetched.
type Ask = Callable[[str, Instrument, int, int, str], None]


@dataclass(slots=True)
class _Known:
    complete_ms: int
    due_ms: int | None = None


class FundingWatch:
    """Of each followed instrument: until when settlements are stored or asked for."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._of: dict[Instrument, _Known] = {}

    def follow(self, instrument: Instrument, begin_ms: int, now_ms: int, cause: str) -> None:
        """Fetch everything since `begin_ms`, or of the last day, and watch from now on."""
        if instrument not in self._of:
            self._ask("funding", instrument, min(begin_ms, now_ms - DAY_MS), now_ms, cause)
            self._of[instrument] = _Known(now_ms)

    def forget(self, instruments: Iterable[Instrument]) -> None:
        """Watch these no more."""
        for instrument in instruments:
            self._of.pop(instrument, None)

    def complete_ms(self, instrument: Instrument) -> int:
        """Settlements before this are stored or asked for."""
        return self._of[instrument].complete_ms

    def seen(self, row: Estimate) -> None:
        """Ask for what settled since the last estimate, when this one leads to a later settlement."""
        known = self._of.get(row.instrument)
        if known is None:
            return
        complete, due = known.complete_ms, known.due_ms
        if row.settles_ms > complete:
            last = row.settles_ms - round((row.interval_hours or 0.0) * HOUR_MS)
            passed = last if complete <= last <= row.time_ms else due
            if passed is not None:
                self._ask("settled", row.instrument, complete - DAY_MS, passed, "")
            # an outage, in which more than one may have settled, or the first estimate: nothing said what was due
            if row.time_ms - complete > HOUR_MS or (due is None and complete // HOUR_MS < row.time_ms // HOUR_MS):
                self._ask("funding", row.instrument, complete - DAY_MS, row.time_ms, "")
        known.complete_ms = known.due_ms = row.settles_ms

    def look(self, now_ms: int) -> None:
        """Ask for settlements that are due by the clock while no estimate comes; both venues settle on the hour."""
        for instrument, known in self._of.items():
            hour = now_ms - now_ms % HOUR_MS
            if known.complete_ms <= hour and hour + _LATE_MS <= now_ms:
                self._ask("funding", instrument, known.complete_ms - DAY_MS, now_ms, "")
                known.complete_ms = now_ms

    def finish(self, until_ms: int) -> None:
        """Ask for everything that settled by `until_ms`."""
        for instrument, known in self._of.items():
            if known.complete_ms <= until_ms:
                self._ask("funding", instrument, known.complete_ms - DAY_MS, until_ms, "")
                known.complete_ms = until_ms + 1
