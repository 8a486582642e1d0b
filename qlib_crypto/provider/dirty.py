"""What changed in the lake since a conversion looked at it: spans of time, by instrument and by venue.

A file that came, went or was exchanged makes all that its name covers dirty; so do rows that are not sealed yet, and
those that were not when the conversion before looked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import orjson

from qlib_crypto.clock import DAY_MS, MINUTE_MS, day_start
from qlib_crypto.lake import Lake
from qlib_crypto.lake.identity import FileMark, Marks
from qlib_crypto.lake.paths import FUNDING, dataset_interval, parse_name, venue_folder
from qlib_crypto.lake.tables import BARS, SETTLEMENTS
from qlib_crypto.symbols import Instrument, Interval, Venue

NAME = "lake_files.json"

#: [start, end), Unix milliseconds.
Span = tuple[int, int]


class Unsealed(NamedTuple):
    """Rows that were in no file: settlements where the interval is 0, bars elsewhere."""

    venue: Venue
    symbol: str
    interval_ms: int
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Seen:
    """The lake as a conversion saw it."""

    files: Marks = field(default_factory=dict)
    unsealed: Sequence[Unsealed] = ()

    @classmethod
    def of(cls, lake: Lake, before: Seen, changed: Iterable[Path] | None = None) -> Seen:
        """The lake now; files are opened only where they are not as they were `before`.

        With `changed`, no other files are looked at.
        """
        unsealed = [
            Unsealed(venue, of.symbol, of.interval_ms, of.first_ms, of.last_ms + (of.interval_ms or MINUTE_MS))
            for venue in Venue
            for table in (BARS, SETTLEMENTS)
            for of in lake.unsealed(venue, table)
        ]
        return cls(
            lake.files(before.files, changed), unsealed
        )  # after the hot rows: what is sealed meanwhile is in both

    @classmethod
    def read(cls, folder: Path) -> Seen:
        """What a conversion wrote; nothing where it cannot be read, so that everything counts as changed."""
        try:
            plain = orjson.loads((folder / NAME).read_bytes())
            files = {
                within: {name: FileMark(*mark) for name, mark in of.items()} for within, of in plain["files"].items()
            }
            return cls(files, [Unsealed(Venue(venue), *rest) for venue, *rest in plain["unsealed"]])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def stored(self) -> dict[Instrument, list[Interval]]:
        """The intervals that each instrument has bars of, finest first."""
        found: set[tuple[Interval, Venue, str]] = set()
        for venue in Venue:
            folder = venue_folder(Path(), venue).name
            for within, files in self.files.items():
                at, _, dataset = within.partition("/")
                if at == folder and (interval := dataset_interval(dataset)) is not None:
                    symbols = {name.rpartition("_")[0] for name in files}
                    found |= {(interval, venue, symbol) for symbol in symbols}
        found |= {(Interval.of_ms(of.interval_ms), of.venue, of.symbol) for of in self.unsealed if of.interval_ms}
        out: dict[Instrument, list[Interval]] = {}
        for interval, venue, symbol in sorted(found):
            out.setdefault(Instrument.parse(symbol, venue), []).append(interval)
        return out

    def text(self) -> bytes:
        """For `lake_files.json`."""
        said = {"files": self.files, "unsealed": self.unsealed}
        return orjson.dumps(said, default=list, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


@dataclass(frozen=True, slots=True)
class Dirty:
    """Spans of changed bars by instrument, and of changed settlements by venue; disjoint and ascending."""

    bars: Mapping[Instrument, Sequence[Span]]
    funding: Mapping[Venue, Sequence[Span]]

    def __bool__(self) -> bool:
        return bool(self.bars or self.funding)


def dirty(now: Seen, before: Seen) -> Dirty:
    """What changed between two looks."""
    bars: dict[Instrument, list[Span]] = {}
    funding: dict[Venue, list[Span]] = {}
    for venue in Venue:
        folder = venue_folder(Path(), venue).name
        for within in {*now.files, *before.files}:
            at, _, dataset = within.partition("/")
            bar = dataset_interval(dataset) is not None
            if at != folder or not (bar or dataset == FUNDING):
                continue
            for name in _differing(now.files.get(within, {}), before.files.get(within, {})):
                file = parse_name(Path(within, name))
                spans = (
                    bars.setdefault(Instrument.parse(file.stem, venue), []) if bar else funding.setdefault(venue, [])
                )
                spans.append((file.start_ms, file.end_ms))
    for of in (*now.unsealed, *before.unsealed):
        into = (
            bars.setdefault(Instrument.parse(of.symbol, of.venue), [])
            if of.interval_ms
            else funding.setdefault(of.venue, [])
        )
        into.append((of.start_ms, of.end_ms))
    return Dirty({i: merged(spans) for i, spans in bars.items()}, {v: merged(spans) for v, spans in funding.items()})


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


def by_days(spans: Iterable[Span], most: int) -> Iterator[Span]:
    """The union as whole UTC days, cut to at most so many days each, ascending."""
    for start, end in merged((day_start(a), day_start(b - 1) + DAY_MS) for a, b in spans if a < b):
        for at in range(start, end, most * DAY_MS):
            yield at, min(at + most * DAY_MS, end)
