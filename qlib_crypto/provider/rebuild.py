"""The whole provider built aside, verified, and swapped in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from qlib_crypto.clock import DAY_MS, day_start, iso
from qlib_crypto.errors import DataError
from qlib_crypto.provider import dirty, specs
from qlib_crypto.provider.calendar import Grid, calendar_files
from qlib_crypto.provider.compare import glance
from qlib_crypto.provider.conversion import (
    ALL_TIME,
    Conversion,
    Extents,
    check_names,
    first_slots,
    grids_of,
    refuse_less,
)  # fmt: skip
from qlib_crypto.provider.dirty import Dirty, Seen, Span
from qlib_crypto.provider.funding import price_sources, series_by_symbol
from qlib_crypto.provider.instruments import market_texts
from qlib_crypto.provider.manifest import NAME, Manifest, manifest_text
from qlib_crypto.provider.news import Counts, Extent, Held, News
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
    check_names(changes.bars)
    likely = _likely_origins(changes.bars, task.stored.bars, task.targets, origins)
    work = Build(task.lake, task.stored, task.flags, task.targets, new, likely)
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
        refuse_less(task.provider_dir, old, manifest)
    _finish(task, new, likely, extents, grids, manifest)
    problems = [*size_problems(new, manifest), *glance(task.lake, new, manifest, task.stored.bars)]
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
        spans = changes.fields_of(instrument, changes.bars[instrument])
        yield News(instrument, Held(), spans, [] if series is None else [(ALL_TIME, series)])


def _likely_origins(
    bars: Mapping[Instrument, Sequence[Span]],
    stored: Mapping[Instrument, Collection[Interval]],
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
            first = target.floor(day_start(min(firsts)) + max(target.ms, DAY_MS) - 1)  # a week begins on a Monday
            out[target] = min(first, had.get(target.qlib, first))
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
            set_first_slot(new, instrument, interval, task.fields(instrument), slot)
    texts = {f"instruments/{name}": text for name, text in market_texts(extents, task.memberships).items()}
    for grid in grids.values():
        for name, whole in calendar_files(grid, task.settings.future_days).items():
            texts[f"calendars/{name}"] = whole.text()
    texts |= specs.spec_files(task.lake, extents)
    texts[dirty.NAME] = task.now.text()
    texts[NAME] = manifest_text(manifest)
    for name, text in texts.items():
        (new / name).parent.mkdir(exist_ok=True)
        (new / name).write_bytes(text)
    if task.durable:
        sync_all(new)
