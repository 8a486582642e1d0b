"""What collect, backfill, repair and reconcile do, built from settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from qlib_crypto.cli.options import instruments_from
from qlib_crypto.cli.progress import row_progress, say
from qlib_crypto.cli.running import market_clock
from qlib_crypto.clock import iso, parse_utc
from qlib_crypto.collect import BackfillSummary
from qlib_crypto.collect.backfill import How
from qlib_crypto.collect.plan import Choice
from qlib_crypto.collect.series import FUNDING, POLLED, Series, candles, polled
from qlib_crypto.collect.status import followed
from qlib_crypto.errors import ConfigError, counted
from qlib_crypto.feeds import Archive, RestClient, rest_client
from qlib_crypto.lake import Lake
from qlib_crypto.lake.listings import numbered
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Instrument, Interval, Venue

#: Groups of instruments whose holes are named.
_SHOWN = 5
_CHOICES: dict[str, Choice] = {"auto": "auto", "rest": "rest", "archive": "archive"}


@contextmanager
def _venue(venue: Venue, settings: Settings) -> Iterator[tuple[Lake, RestClient, Archive]]:
    part = settings.venue(venue)
    lake, client, archive = Lake(settings.lake_dir), rest_client(venue, part), Archive(venue, part)
    try:
        yield lake, client, archive
    finally:
        archive.close()
        client.close()
        lake.close()


def run_collector(venue: Venue, *, symbols: str, interval: str, until: str, clock: str, settings: Settings) -> None:
    """Collect until a signal, or until market time passes `until`."""
    from qlib_crypto.collect import collect
    from qlib_crypto.universe import universe_path

    part = settings.venue(venue)
    instruments = instruments_from(symbols, venue, settings)
    follows = (symbols or part.symbols) == "top50"
    lake, client = Lake(settings.lake_dir), rest_client(venue, part)
    try:
        time = market_clock(clock, client)
        _refuse_unlisted(lake, client, instruments)
        summary = collect(
            lake,
            client,
            part,
            instruments,
            Interval.parse_candle(interval or part.interval),
            clock=time,
            membership=universe_path(settings.lake_dir, venue) if follows else None,
            until_ms=parse_utc(until) if until else None,
            say=say,
            status=say,
        )
    finally:
        client.close()
    say(
        f"{venue}: {counted(summary.stream_bars, 'bar')} by stream, {summary.rest_bars:,} by REST, "
        f"{counted(summary.settlements, 'settlement')}, {counted(summary.estimates, 'estimate')}, "
        f"{counted(summary.files, 'file')} written"
    )


def _refuse_unlisted(lake: Lake, client: RestClient, instruments: Sequence[Instrument]) -> None:
    """Say which are not listed; refuse when none is, since nothing would ever come."""
    listed = {spec.instrument for spec in numbered(client.specs(), lake.specs(client.venue))}
    missing = ", ".join(i.symbol for i in instruments if i not in listed)
    if missing and listed.isdisjoint(instruments):
        raise ConfigError(
            f"{missing}: no linear perpetual that {client.venue} lists now; correct --symbols, or rank again"
        )
    if missing:
        say(f"{client.venue} does not list {missing} now; nothing comes of it unless it is listed")


def run_backfill(
    venue: Venue,
    *,
    settings: Settings,
    symbols: str,
    interval: Interval,
    span_ms: tuple[int, int],
    funding: bool,
    datasets: str,
    source: str,
    dry_run: bool,
) -> None:
    """Fetch history of bars, of settled funding unless told not to, and of other datasets; `all` symbols trade now."""
    from qlib_crypto.collect import backfill_funding, fetch, refresh_tiers
    from qlib_crypto.universe import is_eligible

    if source not in _CHOICES:
        raise ConfigError(f"--source {source!r}: write one of {' '.join(_CHOICES)}")
    others = _series(datasets)
    with _venue(venue, settings) as (lake, client, archive):
        now_ms = client.server_time_ms()
        if span_ms[0] >= now_ms:
            raise ConfigError(
                f"--start {iso(span_ms[0])} lies after {venue}'s clock, {iso(now_ms)}; give an earlier one"
            )
        specs = numbered(client.specs(), lake.specs(venue))
        if symbols == "all":
            instruments = sorted(spec.instrument for spec in specs if is_eligible(spec))
        else:
            instruments = instruments_from(symbols, venue, settings)
        if not dry_run:
            lake.store_specs(venue, specs)  # a backtest rounds orders by them
            wanted = set(instruments)
            refresh_tiers(lake, client, [spec for spec in specs if spec.instrument in wanted], say)
        how: How = {
            "archive": archive,
            "source": _CHOICES[source],
            "dry_run": dry_run,
            "announce": lambda plan: say(f"{venue} {plan}"),
        }
        with row_progress() as progress:
            done = {}
            for series in [candles(interval), *others]:
                how["progress"] = progress(f"asked for {series.dataset}")
                done[series.dataset] = fetch(lake, client, instruments, series, *span_ms, **how)
            if funding:
                how["progress"] = progress("asked for funding")
                done["settlements"] = backfill_funding(lake, client, instruments, *span_ms, **how)
    for what, summary in () if dry_run else done.items():
        lacks = f", {sum(summary.holes.values()):,} the venue lacks ({_counts(summary.holes)})" if summary.holes else ""
        say(f"{venue} {what}: {summary.stored:,} new for {counted(summary.instruments, 'instrument')}{lacks}")
        _say_missing(what, summary)


def _series(names: str) -> list[Series]:
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    found = polled(wanted)
    unknown = [name for name in wanted if not polled([name])]
    if unknown:
        raise ConfigError(f"--datasets {unknown[0]!r}: history is fetched of {', '.join(POLLED)}")
    return found


def run_repair(venue: Venue, *, settings: Settings, symbols: str, interval: str, since: str, as_json: bool) -> None:
    """Ask once more for what the lake lacks of its last days, and name the cause of what the venue lacks too."""
    from qlib_crypto.collect import recent_leavers, repair
    from qlib_crypto.collect.repair import WINDOW_MS

    part = settings.venue(venue)
    with _venue(venue, settings) as (lake, client, archive):
        instruments, now_ms = _collected(lake, symbols, venue, settings), client.server_time_ms()
        since_ms = parse_utc(since) if since else now_ms - WINDOW_MS
        leavers = {} if symbols else recent_leavers(lake, venue, part, now_ms, since_ms)
        done = repair(
            lake, client, archive, instruments, Interval.parse_candle(interval or part.interval), part.datasets,
            now_ms=now_ms, since_ms=since_ms, leavers=leavers, say=say,
        )  # fmt: skip
    if as_json:
        print(json.dumps({"venue": venue.value, **dataclasses.asdict(done)}))  # noqa: T201 - the command's output
        return
    settled = done.stored.get(FUNDING, 0)
    say(
        f"{venue}: {sum(done.missing.values()):,} rows of {counted(done.instruments, 'instrument')} missing, "
        f"{sum(done.stored.values()) - settled:,} fetched, {sum(done.holes.values()):,} that the venue lacks "
        f"({_counts(done.holes)}), {sum(done.left.values()):,} without a cause; "
        f"{counted(settled, 'settlement')} fetched"
    )


def run_reconcile(
    venue: Venue, *, settings: Settings, symbols: str, interval: str, span_ms: tuple[int, int], as_json: bool
) -> None:
    """Compare what websocket, REST and archive say of the same bars, and keep the better."""
    from qlib_crypto.collect import reconcile

    with _venue(venue, settings) as (lake, client, archive):
        instruments = _collected(lake, symbols, venue, settings)
        at = Interval.parse_candle(interval or settings.venue(venue).interval)
        report = reconcile(lake, client, archive, instruments, at, *span_ms, say=say)
    if as_json:
        print(json.dumps({"venue": venue.value, **dataclasses.asdict(report)}))  # noqa: T201 - the command's output
        return
    for pair, found in report.pairs.items():
        here, there = pair.split("-")
        say(
            f"{venue} {pair}: {found.equal:,} equal, {found.different:,} differ ({_counts(found.differing)}), "
            f"{found.only_here:,} only {here}, {found.only_there:,} only {there}"
        )
    say(f"{venue}: {counted(report.stored, 'row')} replaced or added by a better source; the older ones are kept")


def _collected(lake: Lake, symbols: str, venue: Venue, settings: Settings) -> list[Instrument]:
    """The instruments that were asked for, else those that the collector follows, else those of the settings."""
    return (not symbols and followed(lake, venue)) or instruments_from(symbols, venue, settings)


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items())) or "none"


def _say_missing(what: str, summary: BackfillSummary) -> None:
    """What nobody had either: instruments with the same spans in one line; and the rows that were refused."""
    alike: dict[tuple[tuple[int, int], ...], list[Instrument]] = {}
    for instrument, spans in summary.missing.items():
        alike.setdefault(tuple(spans), []).append(instrument)
    reached = summary.plan.reached_ms
    for gaps, instruments in sorted(alike.items(), key=lambda item: -len(item[1]))[:_SHOWN]:
        names = ", ".join(i.symbol for i in sorted(instruments)[:3]) + ("" if len(instruments) <= 3 else ", …")  # noqa: PLR2004 - three names
        edges = ", ".join(f"{iso(a)} → {iso(b)}" for a, b in gaps[:2]) + ("" if len(gaps) <= 2 else ", …")  # noqa: PLR2004 - two spans
        why = f"; REST ends at {iso(reached)}" if gaps[0][0] < reached else ""
        say(f"  the venue has no {what} of {counted(len(instruments), 'instrument')} ({names}) in {edges}{why}")
    if len(alike) > _SHOWN:
        say(f"  and of others in {counted(len(alike) - _SHOWN, 'more group')} of spans")
    for line in summary.refused[:_SHOWN]:
        say(f"  {line}")
    if len(summary.refused) > _SHOWN:
        say(f"  and {counted(len(summary.refused) - _SHOWN, 'more impossible row')} of the venue, in the quarantine")
