"""Where a collector is: a line now and then, and the status file for machines."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from qlib_crypto.clock import iso
from qlib_crypto.collect.fill import Tally
from qlib_crypto.collect.intake import WS, Intake
from qlib_crypto.collect.parts import CollectSummary
from qlib_crypto.collect.series import FUNDING
from qlib_crypto.collect.status import CollectorStatus, pid_namespace, write_status
from qlib_crypto.errors import counted
from qlib_crypto.lake import Lake
from qlib_crypto.lake.paths import kline_dataset
from qlib_crypto.symbols import Instrument, Interval, Venue


class Report:
    """Tells the state of one collector to `status` and to the venue's `collector.json`."""

    def __init__(
        self,
        lake: Lake,
        venue: Venue,
        interval: Interval,
        tally: Tally,
        intake: Intake,
        say: Callable[[str], None],
        status: Callable[[str], None],
    ) -> None:
        self._lake, self._venue, self._interval = lake, venue, interval
        self._tally, self._intake = tally, intake
        self._say, self._status = say, status
        self._started_ms = _wall_ms()
        self._unwritten = False

    def tell(
        self,
        market_ms: int,
        followed: Sequence[Instrument],
        counters: Mapping[str, int],
        queue: int,
        revived: int,
        *,
        running: bool,
    ) -> None:
        """Say it and write it; a file that cannot be written is told once."""
        rows, newest = self._tally.rows, self._tally.newest
        last = max((newest[instrument] for instrument in followed if instrument in newest), default=0)
        bars = kline_dataset(self._interval)
        self._status(
            f"{self._venue} at {iso(market_ms)}: {counted(len(followed), 'instrument')}, newest "
            f"bar {iso(last) if last else 'none yet'}, {rows[bars, WS]:,} bars by stream and "
            f"{rows[bars, 'rest']:,} by REST, {counted(rows[FUNDING, 'rest'], 'settlement')}, "
            f"{counted(queue, 'REST request')} queued"
        )
        state = self._state(market_ms, followed, counters, queue, revived, running=running)
        try:
            write_status(self._lake, state)
            self._unwritten = False
        except OSError as error:
            if not self._unwritten:
                self._say(f"the status file cannot be written: {error}")
            self._unwritten = True

    def summary(self, files: int) -> CollectSummary:
        """What was stored since the start, and how many files were written."""
        rows, bars = self._tally.rows, kline_dataset(self._interval)
        return CollectSummary(
            rows[bars, WS], rows[bars, "rest"], rows[FUNDING, "rest"], rows["funding_estimate", WS],
            self._tally.refused, files,
        )  # fmt: skip

    def _state(
        self,
        market_ms: int,
        followed: Sequence[Instrument],
        counters: Mapping[str, int],
        queue: int,
        revived: int,
        *,
        running: bool,
    ) -> CollectorStatus:
        tally, intake = self._tally, self._intake
        sources: Counter[str] = Counter()
        datasets: Counter[str] = Counter()
        for (dataset, source), count in list(tally.rows.items()):
            sources[source] += count
            datasets[dataset] += count
        return CollectorStatus(
            venue=self._venue.value,
            pid=os.getpid(),
            running=running,
            started_ms=self._started_ms,
            wall_ms=_wall_ms(),
            market_ms=market_ms,
            interval=self._interval.name,
            streamed_s=None if intake.last_s is None else time.monotonic() - intake.last_s,
            newest={instrument.symbol: tally.newest.get(instrument) for instrument in followed},
            rows=dict(sources),
            datasets=dict(datasets),
            gaps=dict(tally.gaps),
            repaired=dict(tally.repaired),
            holes=dict(tally.holes),
            stream=dict(counters),
            queue=queue,
            inbox=intake.waiting,
            refused=tally.refused,
            dropped=intake.dropped,
            revived=revived,
            last_settlement_ms=tally.last_settlement_ms,
            commit_ms=intake.commit_ms,
            trouble=intake.trouble,
            namespace=pid_namespace(),
        )


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
