"""One conversion: what is asked for, and what an update and a rebuild have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from qlib_crypto import __version__
from qlib_crypto.clock import day_start, iso
from qlib_crypto.errors import DataError, counted
from qlib_crypto.lake import Lake
from qlib_crypto.provider.calendar import Grid
from qlib_crypto.provider.dirty import Seen, Stored
from qlib_crypto.provider.extra_fields import extra_fields
from qlib_crypto.provider.flags import Flags
from qlib_crypto.provider.funding import FUNDING_FIELDS
from qlib_crypto.provider.instruments import MEMBERS, Memberships
from qlib_crypto.provider.manifest import Frequency, Manifest, membership_hash
from qlib_crypto.provider.news import Counts, Extent
from qlib_crypto.provider.panel import BAR_FIELDS
from qlib_crypto.provider.shards import Engine
from qlib_crypto.provider.summary import ConvertSummary
from qlib_crypto.provider.write import folder_name
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval

FIELDS = (*BAR_FIELDS, *FUNDING_FIELDS)
#: Every time there is, [start, end) in Unix milliseconds.
ALL_TIME = 0, 1 << 62

#: Takes a line of text as the work goes on.
Progress = Callable[[str], None]
#: Opens of first and last bars, by frequency.
Extents = Mapping[Instrument, Mapping[Interval, Extent]]


@dataclass(frozen=True)
class Conversion:
    """What is asked for.

    Attributes
    ----------
    lake, provider_dir, work
        From where, whereto, and the folder beside it that work is done in.
    settings, memberships, full, durable, progress, jobs, engine
        As `convert` has them.
    now, flags
        The lake as it is seen, and its doubtful bars.
    old
        What is there; None when nothing is, or nobody can read it.

    """

    lake: Lake
    provider_dir: Path
    work: Path
    settings: ProviderSettings
    memberships: Memberships
    now: Seen
    flags: Flags
    old: Manifest | None
    full: bool
    durable: bool
    progress: Progress | None
    jobs: int = 1
    engine: Engine = "local"

    @cached_property
    def stored(self) -> Stored:
        """What the lake has of which instrument."""
        return self.now.stored()

    def fields(self, instrument: Instrument) -> tuple[str, ...]:
        """Those that an instrument has then."""
        return (*FIELDS, *extra_fields(self.stored, instrument))

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
            extra_fields={of.qlib: more for of in extents if (more := extra_fields(self.stored, of))},
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
        counts: Counts,
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
            bars={interval.qlib: counts.bars.get(interval, 0) for interval in sorted(grids)},
            incomplete={i.qlib: number for i, number in sorted(counts.incomplete.items()) if number},
            skipped=tuple(target.qlib for target in self.targets if target not in grids),
            notes=(*notes, *self._without(manifest)),
        )

    def _without(self, manifest: Manifest) -> Iterator[str]:
        """Instruments of markets of one's own that have no bars; that a ranking names some is no news."""
        for market, members in self.memberships.items():
            absent = sorted(of for of in members if of.qlib not in manifest.instruments)
            if absent and market != MEMBERS:
                number = counted(len(absent), "instrument")
                yield f"market {market}: {number} of it not in the provider, such as {absent[0]}"


def check_names(instruments: Iterable[Instrument]) -> None:
    """Refuse two instruments of one folder: Qlib's folders are in lower case.

    Raises
    ------
    DataError
        Two names differ only in case.

    """
    folders: dict[str, Instrument] = {}
    for instrument in sorted(instruments):
        other = folders.setdefault(folder_name(instrument), instrument)
        if other != instrument:
            raise DataError(f"{other} and {instrument} differ only in case; remove one from the lake")


def refuse_fewer(provider_dir: Path, old: Manifest, new: Manifest) -> None:
    """A conversion never drops a field that the provider has of an instrument, unless told to.

    Raises
    ------
    DataError
        The lake has no rows any more that make one.

    """
    for instrument, fields in old.extra_fields.items():
        lost = [name for name in fields if name not in new.extra_fields.get(instrument, ())]
        if lost and instrument in new.instruments:
            raise DataError(
                f"{provider_dir} has {' '.join(lost)} of {instrument}, the lake has no rows of it any more; restore "
                "the lake's files, or accept fewer fields with: qlib-crypto convert --full"
            )


def refuse_less(provider_dir: Path, old: Manifest, new: Manifest) -> None:
    """A conversion never shortens a history that the provider has, and drops no field, unless told to.

    Raises
    ------
    DataError
        The lake no longer has some bars, or the rows that make a field.

    """
    refuse_fewer(provider_dir, old, new)
    for instrument, frequencies in old.instruments.items():
        for frequency in frequencies:
            if Interval.parse(frequency).name not in new.settings.intervals:
                continue
            first, last = old.span_ms(instrument, frequency)
            if frequency in new.instruments.get(instrument, {}):
                new_first, new_last = new.span_ms(instrument, frequency)
                if new_first <= first and new_last >= last:
                    continue
                holds = f"only {iso(new_first)} to {iso(new_last)}"
            else:
                holds = "none of it"
            raise DataError(
                f"{provider_dir} has {frequency} bars of {instrument} from {iso(first)} to {iso(last)}, the lake "
                f"{holds}; restore the lake's files, or accept less history with: qlib-crypto convert --full"
            )


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
