"""History by REST: what is wanted minus what the lake has, page by page, each page durable at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds import RestClient
from qlib_crypto.lake import Lake, missing_ranges
from qlib_crypto.lake.checks import sift
from qlib_crypto.lake.gaps import joined
from qlib_crypto.market.funding import LONGEST_INTERVAL_MS, holes, snap_to_minute
from qlib_crypto.symbols import Instrument, Interval, Venue

#: `(what, done, total)`: called after every page and every symbol; `done` and `total` count rows.
type Progress = Callable[[str, int, int], None]
type Span = tuple[int, int]

#: Rows of one answer (the venues' published page sizes): holes closer than a page cost one request together.
BAR_PAGE = {Venue.OKX: 300, Venue.BINANCE: 499}
FUNDING_PAGE = {Venue.OKX: 400, Venue.BINANCE: 1000}


@dataclass(frozen=True, slots=True)
class BackfillSummary:
    """What a back-fill asked for and got.

    Attributes
    ----------
    instruments
        How many were looked at.
    requests
        Pages that the missing rows need, about; what `dry_run` is for.
    rows
        Missing rows that were asked for; for funding those of an 8 h interval, since the real number is unknown.
    stored
        New or replaced rows.
    missing
        What the venue did not have either, by instrument, in ascending spans `[start, end)`; empty after `dry_run`.
    refused
        Why rows of the venue that cannot be right were not stored, a line each; they count as missing.

    """

    instruments: int
    requests: int
    rows: int
    stored: int
    missing: dict[Instrument, list[Span]]
    refused: tuple[str, ...]


def backfill(
    lake: Lake,
    client: RestClient,
    instruments: Sequence[Instrument],
    interval: Interval,
    start_ms: int,
    end_ms: int,
    *,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> BackfillSummary:
    """Confirmed bars with opens in `[start_ms, end_ms)` that the lake lacks, fetched, stored and sealed.

    The range is clipped to each listing and delisting and to the last bar that has closed by the venue's time. Every
    page is durable before the next is asked, and the lake is what remembers: after an interruption the same call goes
    on where it stopped. A hole that the venue has too is asked for once a call, at the cost of one request a page.

    Raises
    ------
    ConfigError
        An instrument is no linear perpetual of the venue; nothing was asked.
    VenueError, StorageError
        What was stored before is kept.
    SchemaError
        A file of the lake is torn or foreign.

    """
    ranges = _clipped(client, instruments, start_ms, end_ms, interval)
    todo = {
        instrument: joined(
            missing_ranges(lake.bar_times(instrument, interval, *span), *span, interval.ms),
            BAR_PAGE[client.venue] * interval.ms,
        )
        for instrument, span in ranges.items()
    }

    refused: list[str] = []

    def fetch(instrument: Instrument, span: Span) -> Iterable[int]:
        for page in client.bars(instrument, interval, *span):
            good, told = sift(page)
            refused.extend(told)
            yield lake.store(good)

    def seal(instrument: Instrument) -> list[Span]:
        lake.seal(client.venue, instrument=instrument)
        span = ranges[instrument]
        return missing_ranges(lake.bar_times(instrument, interval, *span), *span, interval.ms)

    return _run(todo, interval.ms, BAR_PAGE[client.venue], fetch, seal, progress, refused, dry_run=dry_run)


def backfill_funding(
    lake: Lake,
    client: RestClient,
    instruments: Sequence[Instrument],
    start_ms: int,
    end_ms: int,
    *,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> BackfillSummary:
    """Settled funding in `[start_ms, end_ms)` that the lake lacks, fetched, stored and sealed.

    Asked for is what lies before the first settlement, between two where some are missing (`market.funding.holes`),
    and after the last; each such span is durable as a whole. Resumable and clipped as `backfill`. OKX serves three
    months only: older spans stay missing.

    Raises
    ------
    ConfigError, VenueError, StorageError, SchemaError
        As `backfill`.

    """
    ranges = _clipped(client, instruments, start_ms, end_ms, None)

    refused: list[str] = []

    def lacking(instrument: Instrument) -> list[Span]:
        return funding_holes(settlement_times(lake, instrument, *ranges[instrument]), *ranges[instrument])

    def fetch(instrument: Instrument, span: Span) -> Iterable[int]:
        # a span in one commit: half of an hourly span, next to a known settlement, would no longer look like a hole
        good, told = sift(row for page in client.settlements(instrument, *span) for row in page)
        refused.extend(told)
        yield lake.store(good)

    def missing(instrument: Instrument) -> list[Span]:
        spans, end = lacking(instrument), ranges[instrument][1]
        waits = bool(spans) and spans[-1][1] == end and end - spans[-1][0] <= LONGEST_INTERVAL_MS
        return spans[:-1] if waits else spans  # the time since the last settlement is no hole

    todo = {instrument: lacking(instrument) for instrument in ranges}
    page = FUNDING_PAGE[client.venue]
    try:
        return _run(todo, 8 * HOUR_MS, page, fetch, missing, progress, refused, dry_run=dry_run)
    finally:
        if not dry_run:
            lake.seal(client.venue)  # a day's file holds all symbols: written once, at the end


def settlement_times(lake: Lake, instrument: Instrument, start_ms: int, end_ms: int) -> NDArray[np.int64]:
    """Times of the lake's settlements in the range, as the venue sent them, ascending."""
    times = lake.settlements(instrument.venue, instrument, start_ms, end_ms).column("timestamp")
    return np.asarray(times.cast(pa.int64()).to_numpy(), dtype=np.int64)


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
    client: RestClient, instruments: Sequence[Instrument], start_ms: int, end_ms: int, interval: Interval | None
) -> dict[Instrument, Span]:
    specs = {spec.instrument: spec for spec in client.specs()}
    unknown = [str(instrument) for instrument in instruments if instrument not in specs]
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}: no linear perpetual that {client.venue} "  # noqa: PLR2004 - enough to see
            "lists now; correct --symbols, or rank again"
        )
    now = client.server_time_ms()
    closed = interval.floor(now) if interval else now
    out = {}
    for instrument in dict.fromkeys(instruments):
        listed, delisted = specs[instrument].listed_ms, specs[instrument].delisted_ms
        start = max(start_ms, interval.floor(listed) if interval and listed else listed or 0)
        end = min(end_ms, closed, delisted or closed)
        out[instrument] = (start, max(start, end))
    return out


def _run(
    todo: dict[Instrument, list[Span]],
    step_ms: int,
    page: int,
    fetch: Callable[[Instrument, Span], Iterable[int]],
    finish: Callable[[Instrument], list[Span]],
    progress: Progress | None,
    refused: list[str],
    *,
    dry_run: bool,
) -> BackfillSummary:
    rows = {instrument: sum(_rows(span, step_ms) for span in spans) for instrument, spans in todo.items()}
    requests = sum(-(-_rows(span, step_ms) // page) for spans in todo.values() for span in spans)
    total, stored, done = sum(rows.values()), 0, 0
    missing: dict[Instrument, list[Span]] = {}
    for instrument, spans in todo.items() if not dry_run else ():
        fetched = 0
        for span in spans:
            for count in fetch(instrument, span):
                fetched += count
                if progress:
                    progress(instrument.symbol, done + min(fetched, rows[instrument]), total)
        left = finish(instrument)
        if left:
            missing[instrument] = left
        stored, done = stored + fetched, done + rows[instrument]
        if progress:
            progress(instrument.symbol, done, total)
    return BackfillSummary(len(todo), requests, total, stored, missing, tuple(refused))


def _rows(span: Span, step_ms: int) -> int:
    return max(1, (span[1] - span[0]) // step_ms)
