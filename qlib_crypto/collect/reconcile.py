"""Reconciliation: the same bars by websocket, by REST and from the archive, compared; the better source is kept."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from qlib_crypto.collect.fill import Filler
from qlib_crypto.collect.listed import Listings
from qlib_crypto.collect.series import Series, candles
from qlib_crypto.errors import VenueError
from qlib_crypto.feeds import Archive, History, RestClient
from qlib_crypto.lake import Lake
from qlib_crypto.schemas import SOURCES, Bar
from qlib_crypto.symbols import Instrument, Interval

#: What is compared, by the lake's columns.
COLUMNS = ("open", "high", "low", "close", "volume", "quote_volume", "trades")
type Values = tuple[float | None, ...]


@dataclass
class Comparison:
    """Bars of two sources; `differing` counts by column, `only_here` and `only_there` those that one of them lacks."""

    equal: int = 0
    different: int = 0
    differing: Counter[str] = field(default_factory=Counter)
    only_here: int = 0
    only_there: int = 0

    def __iadd__(self, other: Comparison) -> Comparison:  # noqa: PYI034 - a plain sum
        for part in dataclasses.fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))
        return self


@dataclass
class ReconcileReport:
    """Comparisons by pair of sources (`ws-rest`, `ws-archive`, `rest-archive`), and how many rows became better ones.

    The rows that a better source replaced with other values are kept as they were (`lake.tables.RESTATED`).
    """

    instruments: int
    pairs: dict[str, Comparison] = field(default_factory=dict)
    stored: int = 0
    refused: int = 0


def compare(here: Mapping[int, Values], there: Mapping[int, Values]) -> Comparison:
    """Two sources' bars by open time; a value that one of them does not state (None) is not compared."""
    both = here.keys() & there.keys()
    found = Comparison(only_here=len(here.keys() - both), only_there=len(there.keys() - both))
    for at in both:
        columns = [
            name
            for name, a, b in zip(COLUMNS, here[at], there[at], strict=True)
            if a is not None and b is not None and a != b
        ]
        found.differing.update(columns)
        found.different += bool(columns)
        found.equal += not columns
    return found


def reconcile(
    lake: Lake,
    client: RestClient,
    archive: Archive | None,
    instruments: Sequence[Instrument],
    interval: Interval,
    start_ms: int,
    end_ms: int,
    say: Callable[[str], None] = lambda _line: None,
) -> ReconcileReport:
    """What websocket, REST and archive say of the bars that open in `[start_ms, end_ms)`; the better is stored.

    Better is archive before REST before websocket. `ws` are the lake's rows of that source, `only_there` what the lake
    lacks altogether. Bars that are not closed, or that the archive has not published yet, do not count.

    Raises
    ------
    VenueError
        The venue does not answer; what was compared before is stored.

    """
    now_ms, series = client.server_time_ms(), candles(interval)
    end_ms = min(end_ms, series.floor(now_ms))
    listings = Listings(lake, client)
    filler = Filler(lake, client, say, lambda: instruments, lambda: now_ms)
    report = ReconcileReport(len(instruments))
    published = (
        archive.published_until_ms(now_ms, series.dataset)
        if archive is not None and archive.serves(series.dataset)
        else 0
    )
    for instrument in instruments:
        start, end = listings.span(instrument, start_ms, end_ms, series.step_ms)
        if start >= end:
            continue
        streamed, known = _of_lake(lake, instrument, interval, start, end)
        rest = _fetch(client, series, instrument, start, end, say)
        until = min(end, series.floor(published))
        filed = _fetch(archive, series, instrument, start, until, say) if archive is not None and start < until else []
        _add(report, "ws-rest", compare(streamed, _unless(_by_time(rest), known - streamed.keys())))
        if start < until:
            early = {at: values for at, values in streamed.items() if at < until}
            _add(report, "ws-archive", compare(early, _unless(_by_time(filed), known - streamed.keys())))
            _add(report, "rest-archive", compare(_by_time(b for b in rest if b.open_ms < until), _by_time(filed)))
        for name, rows in (("rest", rest), ("archive", filed)):
            report.stored += filler.store(rows, name, series.dataset) if rows else 0
    report.refused = filler.tally.refused
    return report


def _add(report: ReconcileReport, pair: str, found: Comparison) -> None:
    total = report.pairs.setdefault(pair, Comparison())
    total += found


def _fetch(
    source: History, series: Series, instrument: Instrument, start: int, end: int, say: Callable[[str], None]
) -> list[Bar]:
    try:
        return [row for page in series.pages(source, instrument, start, end) for row in page if isinstance(row, Bar)]
    except VenueError as error:
        if not error.final:
            raise
        say(str(error))
        return []


def _by_time(bars: Iterable[Bar]) -> dict[int, Values]:
    return {
        b.open_ms: (
            b.open,
            b.high,
            b.low,
            b.close,
            b.volume_base,
            b.volume_quote,
            None if b.trades is None else b.trades,
        )
        for b in bars
    }


def _unless(rows: dict[int, Values], elsewhere: set[int]) -> dict[int, Values]:
    return {at: values for at, values in rows.items() if at not in elsewhere}


def _of_lake(
    lake: Lake, instrument: Instrument, interval: Interval, start: int, end: int
) -> tuple[dict[int, Values], set[int]]:
    """The lake's streamed bars, and the times of all of its bars."""
    table = lake.bars(instrument, interval, start, end)
    times = table.column("timestamp").cast(pa.int64()).to_pylist()
    rows = zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True)
    streamed = {
        at: values
        for at, values, source in zip(times, rows, table.column("source").to_pylist(), strict=True)
        if source == SOURCES[0]
    }
    return streamed, set(times)
