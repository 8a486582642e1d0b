"""What may differ of an instrument, what the provider has of it, and which of them are computed together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS
from qlib_crypto.provider.dirty import Span
from qlib_crypto.provider.funding import SERIES
from qlib_crypto.symbols import Instrument, Interval

#: Days of bars of several instruments that are computed at once: memory counts.
_TOGETHER = 75

#: Opens of the first and the last bar.
Extent = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Held:
    """What a provider has of one instrument: extents by frequency, and settlements as `funding.SERIES`."""

    extents: Mapping[Interval, Extent] = field(default_factory=dict)
    series: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, SERIES))


@dataclass(frozen=True, slots=True)
class News:
    """What may differ of one instrument: spans of bars, and the settlements of spans as they are now."""

    instrument: Instrument
    held: Held
    bars: Sequence[Span]
    settlements: Sequence[tuple[Span, NDArray[np.void]]]

    def days(self, unit: Interval) -> int:
        """Days of bars to read at most, for themselves or to price settlements; the units on either side too."""
        more = 2 * unit.ms
        settled = (around(rows) for _, rows in self.settlements if len(rows))
        return max(sum((end - start + more) // DAY_MS for start, end in spans) for spans in (self.bars, settled))


@dataclass(frozen=True, slots=True)
class Counts:
    """Bars by frequency: those that there are, and those between them of which only a part is there."""

    bars: dict[Interval, int] = field(default_factory=dict)
    incomplete: dict[Interval, int] = field(default_factory=dict)

    def add(self, bars: Mapping[Interval, int], incomplete: Mapping[Interval, int]) -> None:
        """Count more."""
        for into, more in ((self.bars, bars), (self.incomplete, incomplete)):
            for interval, number in more.items():
                into[interval] = into.get(interval, 0) + number


def unit_of(targets: Iterable[Interval]) -> Interval:
    """A day, or a week where weeks are asked for."""
    return max([Interval.of_ms(DAY_MS), *targets])


def together(news: Iterable[News], unit: Interval) -> Iterator[list[News]]:
    """Instruments of one venue whose bars fit into memory together; one at least."""
    for _, of_venue in groupby(news, lambda one: one.instrument.venue):
        group: list[News] = []
        days = 0
        for one in of_venue:
            own = one.days(unit)
            if group and days + own > _TOGETHER:
                yield group
                group, days = [], 0
            group.append(one)
            days += own
        if group:
            yield group


def around(rows: NDArray[np.void]) -> Span:
    """The times that some settlements span."""
    return int(rows["time_ms"][0]), int(rows["time_ms"][-1]) + 1
