"""History: what is wanted minus what the lake has, page by page from REST or the archive, each page durable at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.collect.plan import BackfillPlan, Choice, plan, rows_of
from qlib_crypto.collect.series import FUNDING, Series, candles
from qlib_crypto.collect.spans import Span
from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds import Archive, History, RestClient
from qlib_crypto.lake import Lake, missing_ranges
from qlib_crypto.lake.gaps import joined
from qlib_crypto.lake.listings import numbered
from qlib_crypto.market.funding import LONGEST_INTERVAL_MS, holes, snap_to_minute
from qlib_crypto.schemas import Row, Settlement
from qlib_crypto.symbols import Instrument, Interval

#: `(what, done, total)`: called after every page and every symbol; `done` and `total` count rows.
type Progress = Callable[[str, int, int], None]


class How(TypedDict, total=False):
    """The options of every back-fill.

    Attributes
    ----------
    progress
        Gets what was fetched.
    announce
        Gets the plan before the first request.
    dry_run
        Ask for no row.
    archive, source
        The bulk files, if they may be used, and whether they must.

    """

    progress: Progress | None
    announce: Callable[[BackfillPlan], None] | None
    dry_run: bool
    archive: Archive | None
    source: Choice


@dataclass(frozen=True, slots=True)
class BackfillSummary:
    """What a back-fill asked for and got.

    Attributes
    ----------
    instruments
        How many were looked at.
    plan
        What was to be asked, from where, at what cost.
    stored
        New or replaced rows.
    missing
        What nobody had either, by instrument, in ascending spans `[start, end)`; empty after `dry_run`.
    refused
        Why rows of the venue that cannot be right went to the quarantine, a line each; they count as missing.

    """

    instruments: int
    plan: BackfillPlan
    stored: int
    missing: dict[Instrument, list[Span]]
    refused: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Missing rows that were asked for; for funding those of an 8 h interval."""
        return self.plan.rows

    @property
    def requests(self) -> int:
        """Pages of REST that they need, about."""
        return self.plan.requests


def backfill(
    lake: Lake,
    client: RestClient,
    instruments: Sequence[Instrument],
    interval: Interval,
    start_ms: int,
    end_ms: int,
    **how: Unpack[How],
) -> BackfillSummary:
    """Confirmed bars with opens in `[start_ms, end_ms)` that the lake lacks, fetched, stored, sealed; see `fetch`."""
    return fetch(lake, client, instruments, candles(interval), start_ms, end_ms, **how)


def fetch(
    lake: Lake,
    client: RestClient,
    instruments: Sequence[Instrument],
    series: Series,
    start_ms: int,
    end_ms: int,
    **how: Unpack[How],
) -> BackfillSummary:
    """Closed rows of a series in `[start_ms, end_ms)` that the lake lacks, fetched, stored and sealed.

    The range is clipped to each listing and delisting and to the last row that has closed by the venue's time. Every
    page is durable before the next is asked, and the lake is what remembers: after an interruption the same call goes
    on where it stopped. A hole that the venue has too is asked for once a call, at the cost of one request a page.
    With an archive, what is older than REST reaches comes from there, and what it has faster.

    Raises
    ------
    ConfigError
        An instrument is no linear perpetual of the venue; nothing was asked.
    VenueError, StorageError
        What was stored before is kept.
    SchemaError
        A file of the lake is torn or foreign.

    """
    ranges, now_ms = _clipped(lake, client, instruments, start_ms, end_ms, series.step_ms)

    def lacking(instrument: Instrument) -> list[Span]:
        span = ranges[instrument]
        return missing_ranges(series.times(lake, instrument, *span), *span, series.step_ms)

    page_ms = client.page_rows(series.dataset) * series.step_ms
    todo = {instrument: joined(lacking(instrument), page_ms) for instrument in ranges}
    cost = plan(client, how.get("archive"), series.dataset, todo, series.step_ms, now_ms, how.get("source", "auto"))
    run = _Run(lake, client, cost, series.step_ms, how)

    def pages(source: History, instrument: Instrument, span: Span) -> Iterable[int]:
        return (run.store(page) for page in series.pages(source, instrument, *span))

    def finish(instrument: Instrument) -> list[Span]:
        if series.interval is not None and series.dataset.startswith("kline"):
            lake.seal(client.venue, instrument=instrument)
        return lacking(instrument)

    try:
        return run.done(ranges, pages, finish)
    finally:
        if not how.get("dry_run") and not series.dataset.startswith("kline"):
            lake.seal(client.venue)  # files that hold all symbols are written once, at the end


def backfill_funding(
    lake: Lake,
    client: RestClient,
    instruments: Sequence[Instrument],
    start_ms: int,
    end_ms: int,
    **how: Unpack[How],
) -> BackfillSummary:
    """Settled funding in `[start_ms, end_ms)` that the lake lacks, fetched, stored and sealed.

    Asked for is what lies before the first settlement, between two where some are missing (`market.funding.holes`),
    and after the last; each such span is durable as a whole. Resumable and clipped as `fetch`. OKX serves three
    months by REST: older spans come from the archive, or stay missing.

    Raises
    ------
    ConfigError, VenueError, StorageError, SchemaError
        As `fetch`.

    """
    ranges, now_ms = _clipped(lake, client, instruments, start_ms, end_ms, 1)

    def lacking(instrument: Instrument) -> list[Span]:
        return funding_holes(settlement_times(lake, instrument, *ranges[instrument]), *ranges[instrument])

    def pages(source: History, instrument: Instrument, span: Span) -> Iterable[int]:
        # a span in one commit: half of an hourly span, next to a known settlement, would no longer look like a hole
        yield run.store([row for page in source.settlements(instrument, *span) for row in page])

    def finish(instrument: Instrument) -> list[Span]:
        spans, end = lacking(instrument), ranges[instrument][1]
        waits = bool(spans) and spans[-1][1] == end and end - spans[-1][0] <= LONGEST_INTERVAL_MS
        return spans[:-1] if waits else spans  # the time since the last settlement is no hole

    todo = {instrument: lacking(instrument) for instrument in ranges}
    cost = plan(client, how.get("archive"), FUNDING, todo, 8 * HOUR_MS, now_ms, how.get("source", "auto"))
    run = _Run(lake, client, cost, 8 * HOUR_MS, how)
    try:
        return run.done(ranges, pages, finish)
    finally:
        if not how.get("dry_run"):
            lake.seal(client.venue)  # a day's file holds all symbols: written once, at the end


def settlement_times(lake: Lake, instrument: Instrument, start_ms: int, end_ms: int) -> NDArray[np.int64]:
    """Times of the lake's settlements in the range, as the venue sent them, ascending."""
    times = lake.settlements(instrument.venue, instrument, start_ms, end_ms).column("timestamp")
    return np.asarray(times.cast(pa.int64()).to_numpy(), dtype=np.int64)


def unknown_settlements(lake: Lake, instrument: Instrument, rows: Sequence[Settlement]) -> list[Settlement]:
    """The rows that the lake does not have at their minute with that rate."""
    if not rows:
        return []
    times = [row.time_ms for row in rows]
    table = lake.settlements(instrument.venue, instrument, min(times) - MINUTE_MS, max(times) + 2 * MINUTE_MS)
    minutes = snap_to_minute(np.asarray(table.column("timestamp").cast(pa.int64()).to_numpy())).tolist()
    known = set(zip(minutes, table.column("funding_rate").to_pylist(), strict=True))
    own = snap_to_minute(np.asarray(times, dtype=np.int64)).tolist()
    return [row for row, minute in zip(rows, own, strict=True) if (minute, row.rate) not in known]


def funding_holes(time_ms: NDArray[np.int64], start_ms: int, end_ms: int) -> list[Span]:
    """Spans of `[start_ms, end_ms)` in which settlements may be missing, ascending.

    Within the shortest interval (1 h) after a settlement none can be missing.
    """
    minutes = snap_to_minute(time_ms)
    minutes = minutes[(minutes >= start_ms) & (minutes < end_ms)]
    edges = np.r_[start_ms - MINUTE_MS, minutes, end_ms]
    wide = np.diff(edges) > MINUTE_MS
    if len(minutes):
        wide[1:] = np.r_[holes(minutes), end_ms - minutes[-1] > HOUR_MS]
    return [(int(a) + MINUTE_MS, int(b)) for a, b in zip(edges[:-1][wide], edges[1:][wide], strict=True)]


def _clipped(
    lake: Lake, client: RestClient, instruments: Sequence[Instrument], start_ms: int, end_ms: int, step_ms: int
) -> tuple[dict[Instrument, Span], int]:
    """The range as each instrument was listed in it, and the venue's time."""
    specs = {spec.instrument: spec for spec in numbered(client.specs(), lake.specs(client.venue))}
    unknown = [str(instrument) for instrument in instruments if instrument not in specs]
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}: no linear perpetual that {client.venue} "  # noqa: PLR2004 - enough to see
            "lists now; correct --symbols, or rank again"
        )
    now = client.server_time_ms()
    closed = now - now % step_ms
    out = {}
    for instrument in dict.fromkeys(instruments):
        listed, delisted = specs[instrument].listed_ms, specs[instrument].delisted_ms
        start = max(start_ms, listed - listed % step_ms if listed else 0)
        end = min(end_ms, closed, delisted or closed)
        out[instrument] = (start, max(start, end))
    return out, now


class _Run:
    """The fetching of a plan, whatever its rows are."""

    def __init__(self, lake: Lake, client: RestClient, cost: BackfillPlan, step_ms: int, how: How) -> None:
        self._lake, self._cost, self._step_ms, self._how = lake, cost, step_ms, how
        self._sources: dict[str, History | None] = {"archive": how.get("archive"), "rest": client}
        self._refused: list[str] = []

    def store(self, rows: Sequence[Row]) -> int:
        """The count of new or replaced rows; what cannot be right goes to the quarantine."""
        done = self._lake.admit(rows)
        self._refused += done.refused
        return done.stored

    def done(
        self,
        ranges: Mapping[Instrument, Span],
        pages: Callable[[History, Instrument, Span], Iterable[int]],
        finish: Callable[[Instrument], list[Span]],
    ) -> BackfillSummary:
        """What came of it."""
        progress = self._how.get("progress") or (lambda _what, _done, _total: None)
        if announce := self._how.get("announce"):
            announce(self._cost)
        stored, before, total = 0, 0, self._cost.rows
        missing: dict[Instrument, list[Span]] = {}
        for instrument in () if self._how.get("dry_run") else ranges:
            parts = [(s, span) for s, of in self._cost.spans.items() for span in of.get(instrument, [])]
            mine, fetched = sum(rows_of(span, self._step_ms) for _, span in parts), 0
            for name, span in sorted(parts, key=lambda part: part[1]):
                source = self._sources[name]
                assert source is not None  # noqa: S101 - planned only where there is one; for the type checker
                for count in pages(source, instrument, span):
                    fetched += count
                    progress(instrument.symbol, before + min(fetched, mine), total)
            left = finish(instrument)
            if left:
                missing[instrument] = left
            stored, before = stored + fetched, before + mine
            progress(instrument.symbol, before, total)
        return BackfillSummary(len(ranges), self._cost, stored, missing, tuple(self._refused))
