"""What changed in the lake since a conversion looked at it: spans of time, by instrument and by venue.

A file that came, went or was exchanged makes all that its name covers dirty; so do rows that are not sealed yet, and
those that were not when the conversion before looked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.lake import Lake
from qlib_crypto.lake.identity import FileMark, Marks
from qlib_crypto.lake.paths import parse_name, venue_folder
from qlib_crypto.lake.tables import (
    BARS,
    ESTIMATES,
    INDEXES,
    LIQUIDATIONS,
    LONG_SHORT_RATIO,
    MARKS,
    OPEN_INTEREST,
    SETTLEMENTS,
    Table,
    find_table,
)  # fmt: skip
from qlib_crypto.provider.flags import Flags
from qlib_crypto.symbols import Instrument, Interval, Venue

NAME = "lake_files.json"

#: [start, end), Unix milliseconds.
Span = tuple[int, int]
#: No row but a bar or a settlement tells of a bar that opens later than this after it.
REACH_MS = HOUR_MS
#: What fields are made of.
TABLES = (BARS, SETTLEMENTS, MARKS, INDEXES, OPEN_INTEREST, LONG_SHORT_RATIO, LIQUIDATIONS, ESTIMATES)


class FlaggedDay(NamedTuple):
    """A day on which an instrument has doubtful bars of an interval, with a hash of which and as what."""

    venue: Venue
    symbol: str
    interval_ms: int
    day_ms: int
    told: str


class Unsealed(NamedTuple):
    """Rows that were in no file."""

    venue: Venue
    dataset: str
    symbol: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What a lake has: the intervals of each instrument, by table, and the venues that have rows of a table."""

    by_interval: Mapping[Table, Mapping[Instrument, Collection[Interval]]]
    by_venue: Mapping[Table, Collection[Venue]]

    @property
    def bars(self) -> Mapping[Instrument, Collection[Interval]]:
        """The intervals that each instrument has bars of."""
        return self.by_interval.get(BARS, {})

    def intervals(self, table: Table, instruments: Iterable[Instrument]) -> list[Interval]:
        """Those that any of the instruments has, finest first."""
        of = self.by_interval.get(table, {})
        return sorted({interval for instrument in instruments for interval in of.get(instrument, ())})

    def has(self, table: Table, instrument: Instrument) -> bool:
        """Whether there may be rows of an instrument."""
        if table.by_interval:
            of = self.by_interval.get(table)
            return of is not None and instrument in of
        return instrument.venue in self.by_venue.get(table, ())


@dataclass(frozen=True, slots=True)
class Seen:
    """The lake as a conversion saw it."""

    files: Marks = field(default_factory=dict)
    unsealed: Sequence[Unsealed] = ()
    flags: Sequence[FlaggedDay] = ()

    @classmethod
    def of(cls, lake: Lake, flags: Flags, before: Seen, changed: Iterable[Path] | None = None) -> Seen:
        """The lake now; files are opened only where they are not as they were `before`.

        With `changed`, no other files are looked at.
        """
        unsealed = [
            Unsealed(
                venue, table.dataset(of.interval_ms), of.symbol, of.first_ms, of.last_ms + (of.interval_ms or MINUTE_MS)
            )
            for venue in Venue
            for table in TABLES
            for of in lake.unsealed(venue, table)
        ]
        files = lake.files(before.files, changed)  # after the hot rows: what is sealed meanwhile is in both
        return cls(files, unsealed, [FlaggedDay(*day, told) for day, told in flags.days()])

    @classmethod
    def read(cls, folder: Path) -> Seen | None:
        """What a conversion wrote; None where it cannot be read, or is not what was written."""
        try:
            data = (folder / NAME).read_bytes()
        except OSError:
            return None
        body = b"{" + data[len(_sealed(b"")) :]
        if data != _sealed(body):
            return None
        plain = orjson.loads(body)
        unsealed = [Unsealed(Venue(venue), *rest) for venue, *rest in plain["unsealed"]]
        return cls(plain["files"], unsealed, [FlaggedDay(Venue(venue), *rest) for venue, *rest in plain["flags"]])

    def stored(self) -> Stored:
        """What there is of which instrument and venue."""
        intervals: dict[Table, dict[Instrument, set[Interval]]] = {}
        venues: dict[Table, set[Venue]] = {}

        def add(venue: Venue, dataset: str, symbols: Iterable[str]) -> None:
            table, interval = find_table(dataset) or (None, None)
            if table is None or table not in TABLES:
                return
            venues.setdefault(table, set()).add(venue)
            if interval is not None:
                own = intervals.setdefault(table, {})
                for symbol in symbols:
                    own.setdefault(Instrument.parse(symbol, venue), set()).add(interval)

        for venue in Venue:
            folder = venue_folder(Path(), venue).name
            for within, files in self.files.items():
                at, _, dataset = within.partition("/")
                if at == folder and files:
                    add(venue, dataset, {name.rpartition("_")[0] for name in files})
        for of in self.unsealed:
            add(of.venue, of.dataset, [of.symbol])
        return Stored(intervals, venues)

    def text(self) -> bytes:
        """For `lake_files.json`."""
        said = {"files": self.files, "unsealed": self.unsealed, "flags": self.flags}
        return _sealed(orjson.dumps(said, default=list, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))


def _sealed(body: bytes) -> bytes:
    """A JSON object with its own hash before the rest, so that a damaged one is not believed."""
    return b'{"blake2b":"%s",' % hashlib.blake2b(body, digest_size=16).hexdigest().encode() + body[1:]


@dataclass(frozen=True, slots=True)
class Dirty:
    """Spans of changed bars by instrument, and of changed settlements by venue; disjoint and ascending.

    `extra` are those of rows of other tables, by venue and by instrument where a file is one symbol's.
    """

    bars: Mapping[Instrument, Sequence[Span]]
    funding: Mapping[Venue, Sequence[Span]]
    extra: Mapping[Venue | Instrument, Sequence[Span]]

    def __bool__(self) -> bool:
        return bool(self.bars or self.funding or self.extra)

    def fields_of(self, instrument: Instrument, within: Sequence[Span]) -> list[Span]:
        """Times of which an instrument's fields may differ: of changed bars, and of other rows between these."""
        spans = [*self.extra.get(instrument, ()), *self.extra.get(instrument.venue, ())]
        if not spans or not within:
            return list(self.bars.get(instrument, ()))
        first, last = min(a for a, _ in within), max(b for _, b in within)
        clipped = ((max(a, first), min(b + REACH_MS, last)) for a, b in spans if a < last and b + REACH_MS > first)
        return merged([*self.bars.get(instrument, ()), *clipped])


def dirty(now: Seen, before: Seen) -> Dirty:
    """What changed between two looks."""
    bars: dict[Instrument, list[Span]] = {}
    funding: dict[Venue, list[Span]] = {}
    extra: dict[Venue | Instrument, list[Span]] = {}

    def add(venue: Venue, table: Table, symbol: str, span: Span) -> None:
        if table is BARS:
            bars.setdefault(Instrument.parse(symbol, venue), []).append(span)
        elif table is SETTLEMENTS:
            funding.setdefault(venue, []).append(span)
        else:
            extra.setdefault(Instrument.parse(symbol, venue) if table.by_symbol else venue, []).append(span)

    for venue in Venue:
        folder = venue_folder(Path(), venue).name
        for within in {*now.files, *before.files}:
            at, _, dataset = within.partition("/")
            table, _ = find_table(dataset) or (None, None)
            if at != folder or table is None or table not in TABLES:
                continue
            for name in _differing(now.files.get(within, {}), before.files.get(within, {})):
                file = parse_name(Path(within, name))
                add(venue, table, file.stem, (file.start_ms, file.end_ms))
    for of in (*now.unsealed, *before.unsealed):
        table, _ = find_table(of.dataset) or (BARS, None)
        add(of.venue, table, of.symbol, (of.start_ms, of.end_ms))
    for day in {*now.flags} ^ {*before.flags}:
        add(day.venue, BARS, day.symbol, (day.day_ms, day.day_ms + DAY_MS))
    return Dirty(
        {of: merged(spans) for of, spans in bars.items()},
        {of: merged(spans) for of, spans in funding.items()},
        {of: merged(spans) for of, spans in extra.items()},
    )


def _differing(now: Mapping[str, FileMark], before: Mapping[str, FileMark]) -> Iterable[str]:
    yield from (name for name, mark in now.items() if before.get(name) != mark)
    yield from (name for name in before if name not in now)


def merged(spans: Iterable[Span], *, within_ms: int = 0) -> list[Span]:
    """The union, ascending; spans that are no further apart than `within_ms` become one."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if out and start <= out[-1][1] + within_ms:
            out[-1] = out[-1][0], max(end, out[-1][1])
        else:
            out.append((start, end))
    return out


def whole(spans: Iterable[Span], unit: Interval, most_ms: int) -> Iterator[Span]:
    """The union as whole days or weeks, cut to as many as `most_ms` holds each, ascending."""
    step = most_ms - most_ms % unit.ms
    for start, end in merged((unit.floor(a), unit.floor(b - 1) + unit.ms) for a, b in spans if a < b):
        for at in range(start, end, step):
            yield at, min(at + step, end)
