"""Reconciliation: the same bars by websocket, by REST and from the archive, compared; the better source is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from qlib_crypto.collect.fill import Filler
from qlib_crypto.collect.listed import Listings
from qlib_crypto.collect.series import Series, candles
from qlib_crypto.collect.spans import union
from qlib_crypto.errors import DataError, VenueError
from qlib_crypto.feeds import Archive, History, RestClient
from qlib_crypto.lake import Lake
from qlib_crypto.lake.checks import fault
from qlib_crypto.schemas import SOURCES, Bar
from qlib_crypto.symbols import Instrument, Interval

#: What is compared, by the lake's columns.
COLUMNS = ("open", "high", "low", "close", "volume", "quote_volume", "trades")
type Values = tuple[float | None, ...]
#: The lake's bars by open time: the rank of their source, and what they say.
type _Held = dict[int, tuple[int, Values]]


@dataclass
class Comparison:
    """Bars of two sources; `differing` counts by column, `only_here` and `only_there` those that one of them lacks."""

    equal: int = 0
    different: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    only_here: int = 0
    only_there: int = 0

    def __iadd__(self, other: Comparison) -> Comparison:  # noqa: PYI034 - a plain sum
        for name in ("equal", "different", "only_here", "only_there"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.differing = dict(Counter(self.differing) + Counter(other.differing))
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
    differing: Counter[str] = Counter()
    for at in both:
        columns = [
            name
            for name, a, b in zip(COLUMNS, here[at], there[at], strict=True)
            if a is not None and b is not None and a != b
        ]
        differing.update(columns)
        found.different += bool(columns)
        found.equal += not columns
    found.differing = dict(differing)
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
        until = min(end, series.floor(published))
        if start >= end:
            continue
        rest, filed = _fetch(client, series, instrument, start, end, say), []
        if archive is not None and start < until:
            try:
                filed = _fetch(archive, series, instrument, start, until, say)
            except VenueError as error:  # it does not answer: REST goes on without it
                archive = None
                say(str(error))
        try:
            held = _of_lake(lake, instrument, interval, start, end)
        except DataError as error:  # a torn file: `check` takes it away, and repair fills the hole
            say(str(error))
            continue
        _compare(report, held, rest, filed, until)
        for name, rows in (("rest", rest), ("archive", filed)):
            report.stored += _keep(filler, series, instrument, name, rows, held)
    report.refused = filler.tally.refused
    return report


def _keep(filler: Filler, series: Series, instrument: Instrument, source: str, rows: Sequence[Bar], held: _Held) -> int:
    """How many rows were stored, those that are better than what the lake holds."""
    better = [row for row in rows if _is_better(row, held.get(row.open_ms))]
    if not better:
        return 0
    lacked = union((row.open_ms, row.open_ms + series.step_ms) for row in better if row.open_ms not in held)
    stored, _ = filler.repair(better, source, series, instrument, lacked, "not_collected")
    held |= {row.open_ms: (SOURCES.index(source), _values(row)) for row in better if fault(row) is None}
    return stored


def _compare(report: ReconcileReport, held: _Held, rest: Sequence[Bar], filed: Sequence[Bar], until: int) -> None:
    """Add one instrument's comparisons; what the lake has from elsewhere is nothing that the stream lacked."""
    streamed = {at: values for at, (rank, values) in held.items() if rank == 0}

    def by_time(bars: Iterable[Bar]) -> dict[int, Values]:
        return {bar.open_ms: _values(bar) for bar in bars}

    def lacked(rows: dict[int, Values]) -> dict[int, Values]:
        return {at: values for at, values in rows.items() if at in streamed or at not in held}

    _add(report, "ws-rest", compare(streamed, lacked(by_time(rest))))
    if filed:
        early = {at: values for at, values in streamed.items() if at < until}
        _add(report, "ws-archive", compare(early, lacked(by_time(filed))))
        _add(report, "rest-archive", compare(by_time(bar for bar in rest if bar.open_ms < until), by_time(filed)))


def _is_better(row: Bar, held: tuple[int, Values] | None) -> bool:
    """True when the lake has no such row, one from a worse source, or one from this source that says otherwise."""
    rank = SOURCES.index(row.source)
    return held is None or held[0] < rank or (held[0] == rank and held[1] != _values(row))


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
    except DataError as error:
        say(str(error))
    return []


def _values(bar: Bar) -> Values:
    return bar.open, bar.high, bar.low, bar.close, bar.volume_base, bar.volume_quote, bar.trades


def _of_lake(lake: Lake, instrument: Instrument, interval: Interval, start: int, end: int) -> _Held:
    table = lake.bars(instrument, interval, start, end)
    times = table.column("timestamp").cast(pa.int64()).to_pylist()
    rows = zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True)
    ranks = map(SOURCES.index, table.column("source").to_pylist())
    return {at: (rank, values) for at, rank, values in zip(times, ranks, rows, strict=True)}
