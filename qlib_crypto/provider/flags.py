"""Bars that the lake has flagged as doubtful: which, as what, and on which days that changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS
from qlib_crypto.lake import Lake
from qlib_crypto.provider.panel import FLAGS, Panel
from qlib_crypto.symbols import Instrument, Interval, Venue

#: A day of one instrument's bars of an interval: opens [day, day + 24 h).
Day = tuple[Venue, str, int, int]


@dataclass(frozen=True, slots=True)
class Flags:
    """Open times and masks (`lake.quality.Flag`) of doubtful bars, shape (n, 2), ascending; by instrument, interval."""

    rows: Mapping[tuple[Instrument, Interval], NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def read(cls, lake: Lake) -> Flags:
        """Those of a lake."""
        rows = {}
        for venue in Venue:
            for (symbol, interval_ms), of in groupby(lake.flagged(venue), itemgetter(0, 1)):
                own = np.array([(open_ms, mask) for _, _, open_ms, mask in of], dtype=np.int64)
                rows[Instrument.parse(symbol, venue), Interval.of_ms(interval_ms)] = own
        return cls(rows)

    def days(self) -> Iterator[tuple[Day, str]]:
        """Each day that has some, with a hash of them."""
        for (instrument, interval), rows in self.rows.items():
            day = rows[:, 0] // DAY_MS
            starts = np.flatnonzero(np.diff(day, prepend=-1))
            for at, own in zip(starts.tolist(), np.split(rows, starts[1:]), strict=True):
                told = hashlib.blake2b(own.tobytes(), digest_size=16).hexdigest()
                yield (instrument.venue, instrument.symbol, interval.ms, int(day[at]) * DAY_MS), told

    def on(self, panels: Sequence[Panel], instruments: Sequence[Instrument]) -> Sequence[Panel]:
        """The panels of these instruments with `FLAGS`, when any of their bars has one."""
        if not self.rows:
            return panels
        found = []
        for panel in panels:
            count, n = panel.present.shape
            flags = np.zeros((count, n))
            for row, instrument in enumerate(instruments):
                rows = self.rows.get((instrument, panel.interval))
                if rows is not None:
                    slot, off = np.divmod(rows[:, 0] - panel.start_ms, panel.interval.ms)
                    inside = (slot >= 0) & (slot < n) & (off == 0)
                    flags[row, slot[inside]] = rows[inside, 1]
            found.append(flags)
        if not any(flags.any() for flags in found):
            return panels
        return [replace(panel, data={**panel.data, FLAGS: of}) for panel, of in zip(panels, found, strict=True)]
