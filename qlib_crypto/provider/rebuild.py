"""The whole provider built aside, verified, and swapped in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qlib_crypto.clock import iso
from qlib_crypto.errors import DataError
from qlib_crypto.provider import dirty, specs
from qlib_crypto.provider.calendar import Grid, calendar_files
from qlib_crypto.provider.conversion import ALL_TIME, FIELDS, Conversion, Extents, by_symbol, first_slots, grids_of
from qlib_crypto.provider.dirty import Seen
from qlib_crypto.provider.funding import price_sources, series_of
from qlib_crypto.provider.instruments import market_texts
from qlib_crypto.provider.manifest import NAME, Manifest, manifest_text
from qlib_crypto.provider.revise import Extent, Held, News, Reviser
from qlib_crypto.provider.settlements import FOLDER, series_bytes, series_name
from qlib_crypto.provider.sinks import WholeFiles, sync_all
from qlib_crypto.provider.summary import ConvertSummary
from qlib_crypto.provider.swap import swap
from qlib_crypto.provider.verify import verify
from qlib_crypto.symbols import Instrument, Interval


def rebuild(task: Conversion) -> ConvertSummary:
    """Build everything aside, verify it, and put it in place."""
    new = task.work / "new"
    new.mkdir()
    changes = dirty.dirty(task.now, Seen())
    if not changes.bars:
        raise DataError(
            f"lake {task.lake.root} has no bars; collect some first: qlib-crypto collect, backfill or import"
        )
    sink = WholeFiles(new)
    reviser = Reviser(task.lake, task.now.stored(), task.targets, sink, {})
    settlements = {venue: by_symbol(task.lake.settlements(venue)) for venue in changes.funding}
    extents: dict[Instrument, dict[Interval, Extent]] = {}
    prices: dict[str, dict[str, int]] = {}
    (new / FOLDER).mkdir()
    for count, instrument in enumerate(sorted(changes.bars), start=1):
        rows = settlements.get(instrument.venue, {}).get(instrument.symbol)
        news = [] if rows is None else [(ALL_TIME, series_of(rows))]
        then = reviser.revise(instrument, Held(), News(changes.bars[instrument], news))
        if then.extents:
            task.check_name(instrument, extents)
            extents[instrument] = dict(then.extents)
            prices[instrument.qlib] = price_sources(then.series)
            (new / series_name(instrument)).write_bytes(series_bytes(then.series))
        if task.progress is not None:
            task.progress(f"{instrument} converted, {count} of {len(changes.bars)}")
    if not extents:
        names = " ".join(target.name for target in task.targets)
        raise DataError(
            f"lake {task.lake.root} has no complete bar of {names}; collect more, or add a finer provider.intervals"
        )
    old = None if task.full else task.old
    origins = {name: frequency.origin_ms for name, frequency in old.frequencies.items()} if old else {}
    grids = grids_of(extents, origins)
    content = task.lake.content_hash(task.now.files)
    manifest = task.manifest(extents, grids, prices, content)
    if old is not None:
        _refuse_less(task.provider_dir, old, manifest)
    _finish(task, sink, extents, grids, manifest)
    problems = verify(task.lake, new)
    if problems:
        changed = task.lake.content_hash() != content
        raise DataError(
            f"the new provider does not equal the lake in {len(problems)} places, first: {problems[0]}; "
            + ("the lake changed meanwhile, convert again" if changed else "the old one stays, please report this")
        )
    swap(new, task.provider_dir)
    notes = tuple(
        f"{interval.qlib} now starts at {iso(grid.origin_ms)}, not {iso(origins[interval.qlib])}: older bars came"
        for interval, grid in grids.items()
        if grid.origin_ms < origins.get(interval.qlib, grid.origin_ms)
    )
    return task.summary(manifest, reviser.bars, grids, rebuilt=True, notes=notes)


def _finish(
    task: Conversion,
    sink: WholeFiles,
    extents: Extents,
    grids: Mapping[Interval, Grid],
    manifest: Manifest,
) -> None:
    """First slots, markets, calendars, order rules and manifest, all on the disk on return."""
    new = sink.root
    sink.first_slots(first_slots(extents, grids), FIELDS)
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
