"""lake → provider: built aside, verified, then put in place at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from qlib_crypto import __version__
from qlib_crypto.clock import day_start, iso
from qlib_crypto.errors import DataError, SchemaError, StorageError
from qlib_crypto.lake import Lake
from qlib_crypto.provider.calendar import Grid, write_calendar
from qlib_crypto.provider.funding import FUNDING_FIELDS, funding_fields, settled
from qlib_crypto.provider.instruments import Memberships, write_markets
from qlib_crypto.provider.manifest import Frequency, Manifest, membership_hash, read_manifest, write_manifest
from qlib_crypto.provider.resample import BAR_FIELDS, bar_fields, on_grid, resample
from qlib_crypto.provider.specs import write_specs
from qlib_crypto.provider.summary import ConvertSummary
from qlib_crypto.provider.swap import swap, workplace
from qlib_crypto.provider.verify import structure_problems, verify
from qlib_crypto.provider.write import feature_dir, feature_file, place_features, sync, write_feature
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

FIELDS = (*BAR_FIELDS, *FUNDING_FIELDS)

#: Takes a line of text as the work goes on.
Progress = Callable[[str], None]


@dataclass(slots=True)
class _Built:
    """What has been written so far."""

    extents: dict[Instrument, dict[Interval, tuple[int, int]]]
    bars: dict[Interval, int]
    settlement_prices: dict[str, dict[str, int]]


def convert(
    lake: Lake,
    provider_dir: Path,
    settings: ProviderSettings,
    *,
    memberships: Memberships | None = None,
    full: bool = False,
    progress: Progress | None = None,
) -> ConvertSummary:
    """Make the provider of everything the lake holds, and put it in the place of the old one once it is verified.

    Parameters
    ----------
    lake
        The source.
    provider_dir
        The provider, such as `qlib_data`; files in it that are no provider's stay.
    settings
        Frequencies and horizon.
    memberships
        Who was in the universe when: spans [start, end) by symbol, by venue; they make the market `top50`.
    full
        Rebuild even when nothing changed, and also when the result holds less history than the provider has.
    progress
        Called with a line of text after each instrument.

    Raises
    ------
    DataError
        The lake is empty, has less history than the provider, or the new provider does not verify.
    StorageError
        The disk refuses, or another conversion is running. The old provider is as before.
    ConfigError
        `provider_dir` holds something that no conversion wrote.

    """
    provider_dir = provider_dir.resolve()
    try:
        with workplace(provider_dir) as new:
            old = _previous(provider_dir, full=full)
            wanted = _Wanted(lake.content_hash(), settings, memberships or {})
            if old is not None and not full and wanted.is_held_by(old) and not structure_problems(provider_dir, old):
                return ConvertSummary(changed=False, provider_dir=provider_dir, manifest=old)
            return _rebuild(lake, provider_dir, new, wanted, old, full=full, progress=progress)
    except OSError as error:
        raise StorageError(
            f"cannot write provider {provider_dir}: {error}; it is as it was before. "
            "Make room or correct permissions, then convert again"
        ) from error


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a provider shall be made from."""

    lake_content: str
    settings: ProviderSettings
    memberships: Memberships

    def is_held_by(self, manifest: Manifest) -> bool:
        held = (
            manifest.code_version, manifest.fields, manifest.lake_content, manifest.settings, manifest.memberships,
        )  # fmt: skip
        return held == (
            __version__, FIELDS, self.lake_content, self.settings, membership_hash(self.memberships),
        )  # fmt: skip


def _previous(provider_dir: Path, *, full: bool) -> Manifest | None:
    """The manifest of the provider that will be replaced; one that cannot be read counts as none in a full rebuild."""
    try:
        return read_manifest(provider_dir)
    except SchemaError:
        if full:
            return None
        raise


def _rebuild(
    lake: Lake,
    provider_dir: Path,
    new: Path,
    wanted: _Wanted,
    old: Manifest | None,
    *,
    full: bool,
    progress: Progress | None,
) -> ConvertSummary:
    targets = sorted(Interval.parse(name) for name in wanted.settings.intervals)
    built = _write_instruments(lake, new, targets, progress)
    origins = None if full or old is None else {name: f.origin_ms for name, f in old.frequencies.items()}
    grids = _grids(built, origins or {})
    manifest = _manifest(built, grids, wanted, old)
    if old is not None and not full:
        _refuse_less(provider_dir, old, manifest)
    _finish(new, lake, built, grids, manifest, wanted)
    problems = verify(lake, new)
    if problems:
        changed = lake.content_hash() != wanted.lake_content
        raise DataError(
            f"the new provider does not equal the lake in {len(problems)} places, first: {problems[0]}; "
            + ("the lake changed meanwhile, convert again" if changed else "the old one stays, please report this")
        )
    swap(new, provider_dir)
    return ConvertSummary(
        changed=True,
        provider_dir=provider_dir,
        manifest=manifest,
        bars={interval.qlib: built.bars[interval] for interval in sorted(built.bars)},
        skipped=tuple(target.qlib for target in targets if target not in grids),
        notes=tuple(
            f"{interval.qlib} now starts at {iso(grid.origin_ms)}, not {iso(origins[interval.qlib])}: older bars came"
            for interval, grid in grids.items()
            if origins and grid.origin_ms < origins.get(interval.qlib, grid.origin_ms)
        ),
    )


def _write_instruments(lake: Lake, new: Path, targets: list[Interval], progress: Progress | None) -> _Built:
    """Every instrument's feature files, without their first slots."""
    stored: dict[Instrument, list[Interval]] = {}
    for venue in Venue:
        for interval in lake.intervals(venue):
            for instrument in lake.instruments(venue, interval):
                stored.setdefault(instrument, []).append(interval)
    if not stored:
        raise DataError(f"lake {lake.root} has no bars; collect some first: qlib-crypto collect, backfill or import")
    settlements = {venue: lake.settlements(venue) for venue in {instrument.venue for instrument in stored}}
    built = _Built({}, {}, {})
    for count, instrument in enumerate(sorted(stored), start=1):
        rows = _of_symbol(settlements[instrument.venue], instrument)
        _write_instrument(lake, new, instrument, stored[instrument], rows, targets, built)
        if progress is not None:
            progress(f"{instrument} converted, {count} of {len(stored)}")
    if not built.bars:
        names = " ".join(target.name for target in targets)
        raise DataError(
            f"lake {lake.root} has no complete bar of {names}; collect more, or add a finer provider.intervals"
        )
    return built


def _write_instrument(
    lake: Lake,
    new: Path,
    instrument: Instrument,
    intervals: list[Interval],
    settlements: pa.Table,
    targets: list[Interval],
    built: _Built,
) -> None:
    sources = [bars for i in intervals if (bars := on_grid(lake.bars(instrument, i), i)) is not None]
    funding = settled(settlements, sources)
    folder = feature_dir(new, instrument)
    for target in targets:
        bars = resample(sources, target)
        if bars is None:
            continue
        if instrument not in built.extents:
            if folder.exists():
                raise DataError(f"{instrument} differs from another instrument only in case; remove one from the lake")
            folder.mkdir(parents=True)
        values = bar_fields(bars) | funding_fields(funding, target, bars.first_ms, bars.length)
        for field in FIELDS:
            write_feature(feature_file(new, instrument, field, target), values[field])
        built.extents.setdefault(instrument, {})[target] = (bars.first_ms, bars.last_ms)
        built.bars[target] = built.bars.get(target, 0) + int(bars.present.sum())
    if instrument in built.extents:
        built.settlement_prices[instrument.qlib] = funding.price_sources


def _of_symbol(settlements: pa.Table, instrument: Instrument) -> pa.Table:
    """The settlements of one instrument, from those of its venue."""
    return settlements.filter(pc.equal(settlements["symbol"], instrument.symbol))


def _grids(built: _Built, origins: Mapping[str, int]) -> dict[Interval, Grid]:
    """The calendar of each frequency: from 00:00 UTC of its first bar, or the origin it had, to its last bar."""
    grids = {}
    for interval in sorted(built.bars):
        spans = [bars[interval] for bars in built.extents.values() if interval in bars]
        first = day_start(min(span[0] for span in spans))
        origin = min(first, origins.get(interval.qlib, first))
        length = (max(span[1] for span in spans) - origin) // interval.ms + 1
        grids[interval] = Grid(interval, origin, length)
    return grids


def _manifest(built: _Built, grids: Mapping[Interval, Grid], wanted: _Wanted, old: Manifest | None) -> Manifest:
    return Manifest(
        generation=1 if old is None else old.generation + 1,
        code_version=__version__,
        lake_content=wanted.lake_content,
        settings=wanted.settings,
        memberships=membership_hash(wanted.memberships),
        fields=FIELDS,
        frequencies={i.qlib: Frequency.of(grid, wanted.settings.future_days) for i, grid in grids.items()},
        instruments={
            instrument.qlib: {
                i.qlib: (grids[i].slot(first), (last - first) // i.ms + 1) for i, (first, last) in bars.items()
            }
            for instrument, bars in built.extents.items()
        },
        settlement_prices=built.settlement_prices,
    )


def _refuse_less(provider_dir: Path, old: Manifest, new: Manifest) -> None:
    """A conversion never shortens a history that the provider has, unless told to."""
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


def _finish(
    new: Path, lake: Lake, built: _Built, grids: Mapping[Interval, Grid], manifest: Manifest, wanted: _Wanted
) -> None:
    """First slots, markets, calendars, order rules and manifest, all on the disk on return."""
    place_features(
        (feature_file(new, instrument, field, interval), grids[interval].slot(first))
        for instrument, bars in built.extents.items()
        for interval, (first, _) in bars.items()
        for field in FIELDS
    )
    folders = [new / "instruments", new / "calendars"]
    for folder in folders:
        folder.mkdir()
    write_markets(folders[0], built.extents, wanted.memberships)
    for grid in grids.values():
        write_calendar(folders[1], grid, wanted.settings.future_days)
    specs = write_specs(new, lake, built.extents)
    write_manifest(new, manifest)
    written = [specs, *(path for folder in folders for path in folder.iterdir())]
    names = [*folders, new / "features", *(feature_dir(new, instrument) for instrument in built.extents), new]
    for path in [*written, new / "manifest.json", *names]:
        sync(path)
