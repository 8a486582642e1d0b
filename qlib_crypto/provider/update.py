"""What changed in the lake, put into the provider that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.errors import SchemaError
from qlib_crypto.lake.paths import INSTRUMENTS, MARGIN_TIERS
from qlib_crypto.provider import dirty, specs
from qlib_crypto.provider.calendar import Grid, calendar_files
from qlib_crypto.provider.conversion import (
    ALL_TIME,
    Conversion,
    Extents,
    check_names,
    first_slots,
    grids_of,
    refuse_fewer,
    refuse_less,
)  # fmt: skip
from qlib_crypto.provider.dirty import Dirty, Seen, Span
from qlib_crypto.provider.extra_fields import Heard
from qlib_crypto.provider.funding import SERIES, price_sources, series_by_symbol
from qlib_crypto.provider.instruments import market_texts
from qlib_crypto.provider.manifest import NAME, Manifest, manifest_text, membership_hash
from qlib_crypto.provider.news import Extent, Held, News
from qlib_crypto.provider.rebuild import rebuild
from qlib_crypto.provider.revise import Reviser
from qlib_crypto.provider.settlements import read_series, series_name
from qlib_crypto.provider.sinks import RebuildError
from qlib_crypto.provider.summary import ConvertSummary
from qlib_crypto.provider.update_files import Update
from qlib_crypto.provider.verify import structure_problems
from qlib_crypto.symbols import Instrument, Interval


def update(task: Conversion, old: Manifest, before: Seen) -> ConvertSummary:
    """Put in place what changed.

    Raises
    ------
    RebuildError
        What is there cannot be updated: bars came that are older than a calendar, or files are damaged.

    """
    content = task.lake.content_hash(task.now.files)
    unchanged = ConvertSummary(changed=False, provider_dir=task.provider_dir, manifest=old)
    if content == old.lake_content and membership_hash(task.memberships) == old.memberships:
        if structure_problems(task.provider_dir, old):
            return rebuild(task)
        if task.now == before:
            return unchanged
    held = {of: extents for of, extents in old.spans_ms().items() if _has_fields(task, old, of)}
    lengths = {
        (instrument, interval): (last - first) // interval.ms + 1
        for instrument, extents in held.items()
        for interval, (first, last) in extents.items()
    }
    origins = {Interval.parse(name): frequency.origin_ms for name, frequency in old.frequencies.items()}
    with Update(task.provider_dir, task.work, lengths, origins, task.fields) as sink:
        summary = _fill(task, sink, old, before, held, origins, content)
        sink.whole(dirty.NAME, task.now.text())
        if sink.changes:
            sink.commit(durable=task.durable)
    return summary or unchanged


def _fill(
    task: Conversion,
    sink: Update,
    old: Manifest,
    before: Seen,
    held: Extents,
    origins: Mapping[Interval, int],
    content: str,
) -> ConvertSummary | None:
    """Write aside what differs; None when nothing does."""
    reviser = Reviser(task.lake, task.stored, task.flags, task.targets, sink, origins, Heard(task.lake))
    prices = dict(old.settlement_prices)
    extents: dict[Instrument, Mapping[Interval, Extent]] = dict(held)
    for instrument, then in reviser.revise(_news(task, dirty.dirty(task.now, before), held, old)):
        if not then.extents:
            continue
        extents[instrument] = dict(then.extents)
        prices[instrument.qlib] = price_sources(then.series)
        sink.records(series_name(instrument), then.series.tobytes())
        if task.progress is not None:
            task.progress(f"{instrument} converted")
    grids = grids_of(extents, {name: frequency.origin_ms for name, frequency in old.frequencies.items()})
    sink.first_slots(first_slots(extents, grids))
    _small_files(task, sink, old, held, extents, grids, before)
    manifest = task.manifest(extents, grids, prices, content)
    refuse_fewer(task.provider_dir, old, manifest)
    if len(held) < len(old.instruments):
        refuse_less(task.provider_dir, old, manifest)
    if not sink.changes and manifest == old.model_copy(update={"generation": manifest.generation}):
        return None
    sink.whole(NAME, manifest_text(manifest))
    return task.summary(manifest, reviser.counts, grids, rebuilt=False)


def _news(task: Conversion, changes: Dirty, held: Extents, old: Manifest) -> Iterable[News]:
    """What changed of each instrument; of one that is not held, everything there is."""
    rows = {
        venue: [(span, series_by_symbol(task.lake.settlements(venue, None, *span))) for span in spans]
        for venue, spans in changes.funding.items()
    }
    none = np.zeros(0, SERIES)
    other = {of for of in task.stored.bars if of in changes.extra or of.venue in changes.extra}
    touched = set(changes.bars) | other | {i for i in held if i.venue in rows}
    everything = dirty.dirty(task.now, Seen()) if touched - set(held) else Dirty({}, {}, {})
    check_names({*held, *everything.bars})
    for instrument in sorted(touched):
        if instrument in held:
            settlements = [(span, of.get(instrument.symbol, none)) for span, of in rows.get(instrument.venue, ())]
            own = Held(held[instrument], _series(task, old, instrument))
            spans = changes.fields_of(instrument, [*changes.bars.get(instrument, ()), *_whole(held[instrument])])
            yield News(instrument, own, spans, settlements)
        elif instrument in everything.bars:
            spans = everything.fields_of(instrument, everything.bars[instrument])
            of = series_by_symbol(task.lake.settlements(instrument.venue, instrument))
            yield News(instrument, Held(), spans, [(ALL_TIME, series) for series in of.values()])


def _whole(extents: Mapping[Interval, Extent]) -> list[Span]:
    return [(first, last + interval.ms) for interval, (first, last) in extents.items()]


def _has_fields(task: Conversion, old: Manifest, instrument: Instrument) -> bool:
    """Whether the provider has all fields of an instrument; if not, all of it is made again."""
    return set(task.fields(instrument)) <= set(old.fields_of(instrument.qlib))


def _series(task: Conversion, old: Manifest, instrument: Instrument) -> NDArray[np.void]:
    try:
        series = read_series(task.provider_dir, instrument)
    except SchemaError as error:
        raise RebuildError(str(error)) from None
    if len(series) != sum(old.settlement_prices[instrument.qlib].values()):
        raise RebuildError(f"{series_name(instrument)} has {len(series)} settlements, not those of manifest.json")
    return series


def _small_files(
    task: Conversion,
    sink: Update,
    old: Manifest,
    held: Extents,
    extents: Extents,
    grids: Mapping[Interval, Grid],
    before: Seen,
) -> None:
    """Markets, calendars, order rules and margin tiers."""
    if extents != held or membership_hash(task.memberships) != old.memberships:
        markets = market_texts(extents, task.memberships)
        for name, text in markets.items():
            sink.whole(f"instruments/{name}", text)
        for path in (task.provider_dir / "instruments").glob("*.txt"):
            if path.name not in markets:
                sink.remove(f"instruments/{path.name}")
    for interval, grid in grids.items():
        stored = old.frequencies.get(interval.qlib)
        lengths = (stored.length, stored.future_length) if stored else (0, 0)
        for (name, whole), length in zip(calendar_files(grid, task.settings.future_days).items(), lengths, strict=True):
            if not length:
                sink.whole(f"calendars/{name}", whole.text())
            elif whole.length != length:
                sink.longer(f"calendars/{name}", whole.text(length))
    other = set(extents) != {Instrument.parse(name) for name in old.instruments} or _specs_changed(task, before)
    for name, text in (specs.spec_files(task.lake, extents) if other else {}).items():
        sink.whole(name, text)


def _specs_changed(task: Conversion, before: Seen) -> bool:
    return any(
        task.now.files.get(within) != before.files.get(within)
        for within in {*task.now.files, *before.files}
        if within.endswith((f"/{INSTRUMENTS}", f"/{MARGIN_TIERS}"))
    )
