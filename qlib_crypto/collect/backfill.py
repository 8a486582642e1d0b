"""History: what is wanted minus what the lake has, page by page from REST or the archive, each page durable at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.collect.fill import SETTLED_MS, Filler
from qlib_crypto.collect.plan import BackfillPlan, Choice, plan, rows_of
from qlib_crypto.collect.series import FUNDING, Series, candles
from qlib_crypto.collect.settled import funding_holes, settlement_times
from qlib_crypto.collect.spans import Span, minus
from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds import Archive, History, RestClient
from qlib_crypto.lake import Lake, missing_ranges
from qlib_crypto.lake.gaps import joined
from qlib_crypto.lake.listings import numbered
from qlib_crypto.market.funding import LONGEST_INTERVAL_MS
from qlib_crypto.schemas import Row
from qlib_crypto.symbols import Instrument, Interval

#: `(what, done, total)`: called after every page and every symbol; `done` and `total` count rows.
type Progress = Callable[[str, int, int], None]
_EVER_MS = 2**62


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
        Rows that the lake did not have and has now.
    missing
        What nobody had either, by instrument, in ascending spans `[start, end)`; empty after `dry_run`.
    holes
        How many of those rows got their cause, by cause: the venue lacked them twice, in answers that show the rows
        around them.
    refused
        Why rows of the venue that cannot be right went to the quarantine, a line each; they count as missing.

    """

    instruments: int
    plan: BackfillPlan
    stored: int
    missing: dict[Instrument, list[Span]]
    holes: Mapping[str, int]
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
    on where it stopped. With an archive, what is older than REST reaches comes from there, and what it has faster.
    What is still missing between rows is asked of REST once more, as far as that reaches: what the venue then lacks
    too is kept as a hole with its cause (`Lake.record_holes`) and not asked for again.

    Raises
    ------
    ConfigError
        An instrument is no linear perpetual of the venue; nothing was asked.
    VenueError, StorageError
        What was stored before is kept.
    SchemaError
        A file of the lake is torn or foreign.

    """
    ranges, trading, now_ms = _clipped(lake, client, instruments, start_ms, end_ms, series.step_ms)
    filler = Filler(lake, client, lambda _line: None, lambda: ranges, lambda: now_ms)
    page_ms = client.page_rows(series.dataset) * series.step_ms
    todo = {i: joined(filler.lacking(series, i, *span), page_ms) for i, span in ranges.items()}
    cost = plan(client, how.get("archive"), series.dataset, todo, series.step_ms, now_ms, how.get("source", "auto"))
    run = _Run(lake, client, cost, series.step_ms, how)

    def held(instrument: Instrument) -> NDArray[np.int64]:
        return series.times(lake, instrument, *ranges[instrument])

    def pages(source: History, instrument: Instrument, span: Span) -> Iterable[int]:
        return (run.store(page) for page in series.pages(source, instrument, *span))

    def sealed(instrument: Instrument) -> None:
        if series.dataset.startswith("kline"):
            lake.seal(client.venue, instrument=instrument)

    def missing() -> dict[Instrument, list[Span]]:
        for instrument in ranges:  # when all are there: they show whether the venue was up
            if instrument in trading and how.get("source") != "archive":
                outside = [(0, cost.reached_ms), *_edges(held(instrument), now_ms - SETTLED_MS)]
                spans = filler.lacking(series, instrument, *ranges[instrument])
                if between := minus(spans, outside):
                    filler.conclude(series, instrument, between)
                    sealed(instrument)
        return {i: missing_ranges(held(i), *span, series.step_ms) for i, span in ranges.items()}

    try:
        done = run.done(ranges, held, pages, sealed, missing)
        return replace(done, holes=dict(filler.tally.holes))
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
    ranges, _, now_ms = _clipped(lake, client, instruments, start_ms, end_ms, 1)

    def held(instrument: Instrument) -> NDArray[np.int64]:
        return settlement_times(lake, instrument, *ranges[instrument])

    def lacking(instrument: Instrument) -> list[Span]:
        return funding_holes(held(instrument), *ranges[instrument])

    def pages(source: History, instrument: Instrument, span: Span) -> Iterable[int]:
        # a span in one commit: half of an hourly span, next to a known settlement, would no longer look like a hole
        yield run.store([row for page in source.settlements(instrument, *span) for row in page])

    def left(instrument: Instrument) -> list[Span]:
        spans, end = lacking(instrument), ranges[instrument][1]
        waits = bool(spans) and spans[-1][1] == end and end - spans[-1][0] <= LONGEST_INTERVAL_MS
        return spans[:-1] if waits else spans  # the time since the last settlement is no hole

    todo = {instrument: lacking(instrument) for instrument in ranges}
    cost = plan(client, how.get("archive"), FUNDING, todo, 8 * HOUR_MS, now_ms, how.get("source", "auto"))
    run = _Run(lake, client, cost, 8 * HOUR_MS, how)
    try:
        return run.done(ranges, held, pages, lambda _: None, lambda: {i: left(i) for i in ranges})
    finally:
        if not how.get("dry_run"):
            lake.seal(client.venue)  # a day's file holds all symbols: written once, at the end


def _edges(held: NDArray[np.int64], settled_ms: int) -> list[Span]:
    """What is not between rows: there nothing shows an answer to be whole; and what the venue may only be late with."""
    first, last = (int(held[0]), int(held[-1])) if len(held) else (_EVER_MS, 0)
    return [(0, first), (min(last, settled_ms), _EVER_MS)]


def _clipped(
    lake: Lake, client: RestClient, instruments: Sequence[Instrument], start_ms: int, end_ms: int, step_ms: int
) -> tuple[dict[Instrument, Span], set[Instrument], int]:
    """The range as each instrument was listed in it, those that trade, and the venue's time."""
    specs = {spec.instrument: spec for spec in numbered(client.specs(), lake.specs(client.venue))}
    unknown = [str(instrument) for instrument in instruments if instrument not in specs]
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}: no linear perpetual that {client.venue} "  # noqa: PLR2004 - enough to see
            "lists now; correct --symbols, or rank again"
        )
    now = client.server_time_ms()
    closed = now - now % step_ms
    out: dict[Instrument, Span] = {}
    trading: set[Instrument] = set()
    for instrument in dict.fromkeys(instruments):
        listed, delisted = specs[instrument].listed_ms, specs[instrument].delisted_ms
        start = max(start_ms, listed - listed % step_ms if listed else 0)
        end = min(end_ms, closed, delisted or closed)
        out[instrument] = (start, max(start, end))
        if delisted is None or delisted > now:
            trading.add(instrument)
    return out, trading, now


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
        instruments: Iterable[Instrument],
        held: Callable[[Instrument], NDArray[np.int64]],
        pages: Callable[[History, Instrument, Span], Iterable[int]],
        finish: Callable[[Instrument], None],
        missing: Callable[[], dict[Instrument, list[Span]]],
    ) -> BackfillSummary:
        """What came of it: pages of each instrument, then its finish, and of all what is missing; held counts rows."""
        progress = self._how.get("progress") or (lambda _what, _done, _total: None)
        if announce := self._how.get("announce"):
            announce(self._cost)
        wanted = list(instruments)
        if self._how.get("dry_run"):
            return BackfillSummary(len(wanted), self._cost, 0, {}, {}, ())
        had = sum(len(held(instrument)) for instrument in wanted)
        before, total = 0, self._cost.rows
        for instrument in wanted:
            parts = [(s, span) for s, of in self._cost.spans.items() for span in of.get(instrument, [])]
            mine, fetched = sum(rows_of(span, self._step_ms) for _, span in parts), 0
            for name, span in sorted(parts, key=lambda part: part[1]):
                source = self._sources[name]
                assert source is not None  # noqa: S101 - planned only where there is one; for the type checker
                for count in pages(source, instrument, span):
                    fetched += count
                    progress(instrument.symbol, before + min(fetched, mine), total)
            finish(instrument)
            before += mine
            progress(instrument.symbol, before, total)
        left = {instrument: spans for instrument, spans in missing().items() if spans}
        stored = sum(len(held(instrument)) for instrument in wanted) - had
        return BackfillSummary(len(wanted), self._cost, stored, left, {}, tuple(self._refused))
