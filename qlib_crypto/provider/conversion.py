"""One conversion: what is asked for, and what an update and a rebuild have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto import __version__
from qlib_crypto.clock import day_start
from qlib_crypto.errors import DataError
from qlib_crypto.lake import Lake
from qlib_crypto.provider.calendar import Grid
from qlib_crypto.provider.dirty import Seen
from qlib_crypto.provider.funding import FUNDING_FIELDS
from qlib_crypto.provider.instruments import Memberships
from qlib_crypto.provider.manifest import Frequency, Manifest, membership_hash
from qlib_crypto.provider.resample import BAR_FIELDS
from qlib_crypto.provider.revise import Extent
from qlib_crypto.provider.summary import ConvertSummary
from qlib_crypto.provider.write import feature_dir
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval

FIELDS = (*BAR_FIELDS, *FUNDING_FIELDS)
#: Every time there is, [start, end) in Unix milliseconds.
ALL_TIME = 0, 1 << 62

#: Takes a line of text as the work goes on.
Progress = Callable[[str], None]
#: Opens of first and last bars, by frequency.
Extents = Mapping[Instrument, Mapping[Interval, Extent]]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is asked for.

    Attributes
    ----------
    lake, provider_dir, work
        From where, whereto, and the folder beside it that work is done in.
    settings, memberships, full, durable, progress
        As `convert` has them.
    now
        The lake as it is seen.
    old
        What is there; None when nothing is, or nobody can read it.

    """

    lake: Lake
    provider_dir: Path
    work: Path
    settings: ProviderSettings
    memberships: Memberships
    now: Seen
    old: Manifest | None
    full: bool
    durable: bool
    progress: Progress | None

    @property
    def targets(self) -> list[Interval]:
        """The frequencies asked for, finest first."""
        return sorted(Interval.parse(name) for name in self.settings.intervals)

    def manifest(
        self,
        extents: Extents,
        grids: Mapping[Interval, Grid],
        prices: dict[str, dict[str, int]],
        content: str,
    ) -> Manifest:
        """The manifest of what is there then."""
        return Manifest(
            generation=1 if self.old is None else self.old.generation + 1,
            code_version=__version__,
            lake_content=content,
            settings=self.settings,
            memberships=membership_hash(self.memberships),
            fields=FIELDS,
            frequencies={i.qlib: Frequency.of(grid, self.settings.future_days) for i, grid in grids.items()},
            instruments={
                instrument.qlib: {
                    i.qlib: (grids[i].slot(first), (last - first) // i.ms + 1) for i, (first, last) in own.items()
                }
                for instrument, own in extents.items()
            },
            settlement_prices=prices,
        )

    def summary(
        self,
        manifest: Manifest,
        bars: Mapping[Interval, int],
        grids: Mapping[Interval, Grid],
        *,
        rebuilt: bool,
        notes: Sequence[str] = (),
    ) -> ConvertSummary:
        """What was done."""
        return ConvertSummary(
            changed=True,
            provider_dir=self.provider_dir,
            manifest=manifest,
            rebuilt=rebuilt,
            bars={interval.qlib: bars.get(interval, 0) for interval in sorted(grids)},
            skipped=tuple(target.qlib for target in self.targets if target not in grids),
            notes=tuple(notes),
        )

    def check_name(self, instrument: Instrument, others: Iterable[Instrument]) -> None:
        """Refuse a second instrument in one folder: Qlib's folders are in lower case."""
        folder = feature_dir(self.provider_dir, instrument)
        if any(other != instrument and feature_dir(self.provider_dir, other) == folder for other in others):
            raise DataError(f"{instrument} differs from another instrument only in case; remove one from the lake")


def by_symbol(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of each symbol, of a table that is sorted by it."""
    symbols = table["symbol"].combine_chunks().dictionary_encode()
    codes: NDArray[np.int32] = np.asarray(symbols.indices.to_numpy())
    starts = np.flatnonzero(np.diff(codes, prepend=-1)).tolist()
    ends = [*starts[1:], len(codes)]
    return {
        symbols.dictionary[int(codes[start])].as_py(): table.slice(start, end - start)
        for start, end in zip(starts, ends, strict=True)
    }


def grids_of(extents: Extents, origins: Mapping[str, int]) -> dict[Interval, Grid]:
    """The calendar of each frequency: from 00:00 UTC of its first bar, or the origin it had, to its last bar."""
    grids = {}
    for interval in sorted({interval for own in extents.values() for interval in own}):
        spans = [own[interval] for own in extents.values() if interval in own]
        first = day_start(min(span[0] for span in spans))
        origin = min(first, origins.get(interval.qlib, first))
        length = (max(span[1] for span in spans) - origin) // interval.ms + 1
        grids[interval] = Grid(interval, origin, length)
    return grids


def first_slots(extents: Extents, grids: Mapping[Interval, Grid]) -> dict[tuple[Instrument, Interval], int]:
    """Where each instrument's files begin in the calendar."""
    return {
        (instrument, interval): grids[interval].slot(first)
        for instrument, own in extents.items()
        for interval, (first, _) in own.items()
    }
