"""What changed in the lake, put into the provider that is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qlib_crypto.provider import dirty, specs
from qlib_crypto.provider.calendar import Grid, calendar_files
from qlib_crypto.provider.conversion import ALL_TIME, FIELDS, Conversion, Extents, by_symbol, first_slots, grids_of
from qlib_crypto.provider.dirty import Dirty, Seen
from qlib_crypto.provider.funding import price_sources, series_of
from qlib_crypto.provider.instruments import market_texts
from qlib_crypto.provider.manifest import NAME, Manifest, manifest_text, membership_hash
from qlib_crypto.provider.rebuild import rebuild
from qlib_crypto.provider.revise import Extent, Held, News, Reviser
from qlib_crypto.provider.settlements import read_series, series_bytes, series_name
from qlib_crypto.provider.sinks import Update
from qlib_crypto.provider.summary import ConvertSummary
from qlib_crypto.provider.verify import structure_problems
from qlib_crypto.schemas import FUNDING
from qlib_crypto.symbols import Instrument, Interval


def update(task: Conversion, old: Manifest, before: Seen) -> ConvertSummary:
    """Put in place what changed.

    Raises
    ------
    OlderThanCalendarError
        Bars came that are older than a calendar.

    """
    content = task.lake.content_hash(task.now.files)
    unchanged = ConvertSummary(changed=False, provider_dir=task.provider_dir, manifest=old)
    if content == old.lake_content and membership_hash(task.memberships) == old.memberships:
        if structure_problems(task.provider_dir, old):
            return rebuild(task)
        if task.now == before:
            return unchanged
    held = _held(old)
    lengths = {
        (instrument, interval): (last - first) // interval.ms + 1
        for instrument, extents in held.items()
        for interval, (first, last) in extents.items()
    }
    with Update(task.provider_dir, task.work, lengths, FIELDS) as sink:
        summary = _fill(task, sink, old, before, held, content)
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
    content: str,
) -> ConvertSummary | None:
    """Write aside what differs; None when nothing does."""
    origins = {Interval.parse(name): frequency.origin_ms for name, frequency in old.frequencies.items()}
    reviser = Reviser(task.lake, task.now.stored(), task.targets, sink, origins)
    prices = dict(old.settlement_prices)
    extents: dict[Instrument, Mapping[Interval, Extent]] = dict(held)
    for instrument, news in _news(task, dirty.dirty(task.now, before), held):
        own = held.get(instrument)
        series = read_series(task.provider_dir, instrument) if own is not None else None
        then = reviser.revise(instrument, Held() if own is None or series is None else Held(own, series), news)
        if not then.extents:
            continue
        task.check_name(instrument, extents)
        extents[instrument] = dict(then.extents)
        prices[instrument.qlib] = price_sources(then.series)
        sink.whole(series_name(instrument), series_bytes(then.series))
        if task.progress is not None:
            task.progress(f"{instrument} converted")
    grids = grids_of(extents, {name: frequency.origin_ms for name, frequency in old.frequencies.items()})
    sink.first_slots(first_slots(extents, grids))
    _small_files(task, sink, old, extents, grids, before)
    manifest = task.manifest(extents, grids, prices, content)
    if not sink.changes and manifest == old.model_copy(update={"generation": manifest.generation}):
        return None
    sink.whole(NAME, manifest_text(manifest))
    return task.summary(manifest, reviser.bars, grids, rebuilt=False)


def _news(task: Conversion, changes: Dirty, held: Mapping[Instrument, object]) -> Iterable[tuple[Instrument, News]]:
    """What changed of each instrument; of one that is not held, everything there is."""
    rows = {
        venue: [(span, by_symbol(task.lake.settlements(venue, None, *span))) for span in spans]
        for venue, spans in changes.funding.items()
    }
    none = FUNDING.empty_table()
    touched = set(changes.bars) | {i for i in held if i.venue in rows}
    everything = dirty.dirty(task.now, Seen()).bars if touched - set(held) else {}
    for instrument in sorted(touched):
        if instrument in held:
            settlements = [
                (span, series_of(of.get(instrument.symbol, none))) for span, of in rows.get(instrument.venue, ())
            ]
            yield instrument, News(changes.bars.get(instrument, ()), settlements)
        elif instrument in everything:
            table = task.lake.settlements(instrument.venue, instrument)
            yield instrument, News(everything[instrument], [(ALL_TIME, series_of(table))])


def _small_files(
    task: Conversion,
    sink: Update,
    old: Manifest,
    extents: Extents,
    grids: Mapping[Interval, Grid],
    before: Seen,
) -> None:
    """Markets, calendars and order rules."""
    markets = market_texts(extents, task.memberships)
    for name, text in markets.items():
        sink.whole(f"instruments/{name}", text)
    for path in (task.provider_dir / "instruments").glob("*.txt"):
        if path.name not in markets:
            sink.remove(f"instruments/{path.name}")
    for interval, grid in grids.items():
        held = old.frequencies.get(interval.qlib)
        lengths = (held.length, held.future_length) if held else (0, 0)
        for (name, whole), length in zip(calendar_files(grid, task.settings.future_days).items(), lengths, strict=True):
            if not length:
                sink.whole(f"calendars/{name}", whole.text())
            elif whole.length != length:
                sink.longer(f"calendars/{name}", whole.text(length))
    if set(extents) != {Instrument.parse(name) for name in old.instruments} or _specs_changed(task, before):
        sink.whole(specs.NAME, specs.specs_text(task.lake, extents))


def _specs_changed(task: Conversion, before: Seen) -> bool:
    return any(
        task.now.files.get(within) != before.files.get(within)
        for within in {*task.now.files, *before.files}
        if within.endswith("/instruments")
    )


def _held(manifest: Manifest) -> dict[Instrument, dict[Interval, Extent]]:
    """The extents that a provider has."""
    return {
        Instrument.parse(name): {Interval.parse(frequency): manifest.span_ms(name, frequency) for frequency in own}
        for name, own in manifest.instruments.items()
    }
