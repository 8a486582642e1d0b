"""The whole provider built aside, verified, and swapped in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from qlib_crypto.clock import day_start, iso
from qlib_crypto.errors import DataError
from qlib_crypto.provider import dirty, specs
from qlib_crypto.provider.calendar import Grid, calendar_files
from qlib_crypto.provider.compare import glance
from qlib_crypto.provider.conversion import ALL_TIME, FIELDS, Conversion, Extents, check_names, first_slots, grids_of
from qlib_crypto.provider.dirty import Dirty, Seen, Span
from qlib_crypto.provider.funding import price_sources, series_by_symbol
from qlib_crypto.provider.instruments import market_texts
from qlib_crypto.provider.manifest import NAME, Manifest, manifest_text
from qlib_crypto.provider.revise import Counts, Extent, Held, News
from qlib_crypto.provider.settlements import FOLDER, series_name
from qlib_crypto.provider.shards import Build, build
from qlib_crypto.provider.sinks import set_first_slot
from qlib_crypto.provider.summary import ConvertSummary
from qlib_crypto.provider.swap import swap
from qlib_crypto.provider.verify import size_problems
from qlib_crypto.provider.write import sync_all
from qlib_crypto.symbols import Instrument, Interval


def rebuild(task: Conversion) -> ConvertSummary:
    """Build everything aside, verify it, and put it in place."""
    new = task.work / "new"
    new.mkdir()
    content = task.lake.content_hash(
        task.now.files
    )  # before anything is read: what comes meanwhile is for the next one
    changes = dirty.dirty(task.now, Seen())
    if not changes.bars:
        raise DataError(
            f"lake {task.lake.root} has no bars; collect some first: qlib-crypto collect, backfill or import"
        )
    old = None if task.full else task.old
    origins = {name: frequency.origin_ms for name, frequency in old.frequencies.items()} if old else {}
    stored = task.now.stored()
    check_names(changes.bars)
    likely = _likely_origins(changes.bars, stored, task.targets, origins)
    work = Build(task.lake, stored, task.targets, new, likely)
    counts = Counts()
    extents: dict[Instrument, Mapping[Interval, Extent]] = {}
    prices: dict[str, dict[str, int]] = {}
    (new / FOLDER).mkdir()
    made = build(work, list(_news(task, changes)), counts, jobs=task.jobs, engine=task.engine)
    for count, (instrument, then) in enumerate(made, start=1):
        if then.extents:
            extents[instrument] = then.extents
            prices[instrument.qlib] = price_sources(then.series)
            (new / series_name(instrument)).write_bytes(then.series.tobytes())
        if task.progress is not None:
            task.progress(f"{instrument} converted, {count} of {len(changes.bars)}")
    if not extents:
        names = " ".join(target.name for target in task.targets)
        raise DataError(
            f"lake {task.lake.root} has no complete bar of {names}; collect more, or add a finer provider.intervals"
        )
    grids = grids_of(extents, origins)
    manifest = task.manifest(extents, grids, prices, content)
    if old is not None:
        _refuse_less(task.provider_dir, old, manifest)
    _finish(task, new, likely, extents, grids, manifest)
    problems = [*size_problems(new, manifest), *glance(task.lake, new, manifest, stored)]
    if problems:
        raise DataError(
            f"the new provider does not equal the lake in {len(problems)} places, first: {problems[0]}; the old one "
            "stays. If converting again does not help, please report this"
        )
    swap(new, task.provider_dir)
    notes = tuple(
        f"{interval.qlib} now starts at {iso(grid.origin_ms)}, not {iso(origins[interval.qlib])}: older bars came"
        for interval, grid in grids.items()
        if grid.origin_ms < origins.get(interval.qlib, grid.origin_ms)
    )
    return task.summary(manifest, counts, grids, rebuilt=True, notes=notes)


def _news(task: Conversion, changes: Dirty) -> Iterator[News]:
    """Everything there is of each instrument."""
    settlements = {venue: series_by_symbol(task.lake.settlements(venue)) for venue in changes.funding}
    for instrument in sorted(changes.bars):
        series = settlements.get(instrument.venue, {}).get(instrument.symbol)
        yield News(instrument, Held(), changes.bars[instrument], [] if series is None else [(ALL_TIME, series)])


def _likely_origins(
    bars: Mapping[Instrument, Sequence[Span]],
    stored: Mapping[Instrument, Sequence[Interval]],
    targets: Sequence[Interval],
    had: Mapping[str, int],
) -> dict[Interval, int]:
    """Where the calendars will begin, if the first days of the lake's files have complete bars."""
    out = {}
    for target in targets:
        firsts = [
            bars[instrument][0][0]
            for instrument, intervals in stored.items()
            if instrument in bars and any(target.ms % interval.ms == 0 for interval in intervals)
        ]
        if firsts:
            out[target] = min(day_start(min(firsts)), had.get(target.qlib, day_start(min(firsts))))
    return out


def _finish(
    task: Conversion,
    new: Path,
    likely: Mapping[Interval, int],
    extents: Extents,
    grids: Mapping[Interval, Grid],
    manifest: Manifest,
) -> None:
    """First slots, markets, calendars, order rules and manifest, all on the disk on return."""
    for (instrument, interval), slot in first_slots(extents, grids).items():
        first, _ = extents[instrument][interval]
        if slot != (first - likely.get(interval, first)) // interval.ms:
            set_first_slot(new, instrument, interval, FIELDS, slot)
    texts = {f"instruments/{name}": text for name, text in market_texts(extents, task.memberships).items()}
    for grid in grids.values():
        for name, whole in calendar_files(grid, task.settings.future_days).items():
            texts[f"calendars/{name}"] = whole.text()
    texts[specs.NAME] = specs.specs_text(task.lake, extents)
    texts[dirty.NAME] = task.now.text()
    texts[NAME] = manifest_text(manifest)
    for name, text in texts.items():
        (new / name).parent.mkdir(exist_ok=True)
        (new / name).write_bytes(text)
    if task.durable:
        sync_all(new)


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
