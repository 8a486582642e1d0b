"""What the long-running commands do: sandbox, collector, back-fill and daemon, built from settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qlib_crypto.cli.options import instruments_from
from qlib_crypto.cli.progress import row_progress, say
from qlib_crypto.clock import DAY_MS, MINUTE_MS, Clock, VenueClock, WallClock, iso, parse_utc
from qlib_crypto.errors import ConfigError, QlibCryptoError, counted
from qlib_crypto.feeds import RestClient, rest_client
from qlib_crypto.sandbox.tape import Tape
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Instrument, Interval, Venue

_SANDBOX_DAYS = 2
_CLOCKS_APART_MS = 5 * MINUTE_MS
#: Groups of instruments whose holes are named.
_SHOWN = 5
#: How far back OKX's settled funding reaches.
_OKX_FUNDING_MS = 90 * DAY_MS


def open_tape(tape: str, venue: Venue, *, seed: int | None = None, signal_strength: float | None = None) -> Tape:
    """The tape of a folder of Parquet, or the generator's market when `tape` is empty or `generator`."""
    if tape in {"", "generator"}:
        from qlib_crypto.sandbox.generator import GeneratorTape
        from qlib_crypto.sandbox.generator_config import GeneratorConfig

        config = GeneratorConfig(venue=venue)
        if seed is not None:
            config = dataclasses.replace(config, seed=seed)
        if signal_strength is not None:
            config = dataclasses.replace(config, signal_strength=signal_strength)
        return GeneratorTape(config)
    from qlib_crypto.sandbox.tape_files import FileTape

    return FileTape(Path(tape), venue)


def market_clock(kind: str, client: RestClient) -> Clock:
    """The wall, or the venue's own time.

    Raises
    ------
    ConfigError
        The kind is unknown, or the wall is asked for while the venue's clock reads another time: every bar would
        then be due at the wrong time.

    """
    if kind == "wall":
        theirs, ours = client.server_time_ms(), WallClock().now_ms()
        if abs(theirs - ours) > _CLOCKS_APART_MS:
            raise ConfigError(
                f"{client.venue}'s clock reads {iso(theirs)}, this machine's {iso(ours)}; against a sandbox add "
                "--clock venue, otherwise set this machine's clock"
            )
        return WallClock()
    if kind == "venue":
        return VenueClock(client.server_time_ms, refresh_s=1.0)
    raise ConfigError(f"--clock {kind!r}: write wall or venue")


def run_sandbox(
    *,
    tape: str,
    venues: Sequence[Venue],
    port: int,
    speed: str,
    at: str,
    until: str,
    hold_streams: int,
    seed: int | None,
    signal_strength: float | None,
    rate_scale: float | None,
) -> None:
    """Serve the tape of every venue that has one, until a signal."""
    from qlib_crypto.sandbox.serve import serve
    from qlib_crypto.sandbox.server import SandboxOptions

    if tape not in {"", "generator"} and not Path(tape).is_dir():
        raise ConfigError(f"tape {tape} is no folder; give one with candles/ and funding/, or `generator`")
    tapes, refused = [], []
    for venue in venues:
        try:
            tapes.append(open_tape(tape, venue, seed=seed, signal_strength=signal_strength))
        except QlibCryptoError as error:
            refused.append(error)
    if not tapes:
        raise refused[0]
    start = parse_utc(at) if at else max(t.span_ms[1] for t in tapes) - _SANDBOX_DAYS * DAY_MS
    options = SandboxOptions(
        speed=speed,
        at=start,
        until=until or None,
        hold_streams=hold_streams,
        rate_scale=1.0 if rate_scale is None else rate_scale,
    )
    serve(tapes, port=port, options=options, say=lambda line: print(line, flush=True))  # noqa: T201 - the address


def run_daemon(settings: Settings, *, venues: Sequence[Venue], clock: str, passed: Mapping[str, Any]) -> None:
    """Run the daemon; every command gets the options it knows of those that were given."""
    from qlib_crypto.daemon import Daemon

    known = {
        "rank": ("--config", "--lake", "--endpoint", "--rate-scale"),
        "collect": ("--config", "--lake", "--endpoint", "--rate-scale", "--clock"),
        "convert": ("--config", "--lake", "--provider"),
    }

    def options(command: str) -> list[str]:
        given = [(name, passed[name]) for name in known[command] if passed.get(name) is not None]
        return [part for name, value in given for part in (name, str(value))]

    client = rest_client(venues[0], settings.venue(venues[0]))
    try:
        Daemon(market_clock(clock, client), settings.schedule, venues, options=options).run()
    finally:
        client.close()


def run_collector(venue: Venue, *, symbols: str, interval: str, until: str, clock: str, settings: Settings) -> None:
    """Collect until a signal, or until market time passes `until`."""
    from qlib_crypto.collect import collect
    from qlib_crypto.lake import Lake
    from qlib_crypto.universe import universe_path

    part = settings.venue(venue)
    instruments = instruments_from(symbols, venue, settings)
    follows = (symbols or part.symbols) == "top50"
    client = rest_client(venue, part)
    try:
        time = market_clock(clock, client)
        _refuse_unlisted(client, instruments)
        summary = collect(
            Lake(settings.lake_dir),
            client,
            part,
            instruments,
            Interval.parse(interval or part.interval),
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


def _refuse_unlisted(client: RestClient, instruments: Sequence[Instrument]) -> None:
    """Say which are not listed; refuse when none is, since nothing would ever come."""
    listed = {spec.instrument for spec in client.specs()}
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
    dry_run: bool,
) -> None:
    """Fetch history of bars and, unless told not to, of settled funding; `all` symbols are those that trade now."""
    from qlib_crypto.collect import BackfillSummary, backfill, backfill_funding
    from qlib_crypto.lake import Lake
    from qlib_crypto.universe import is_eligible

    lake, client = Lake(settings.lake_dir), rest_client(venue, settings.venue(venue))
    try:
        now_ms = client.server_time_ms()
        if span_ms[0] >= now_ms:
            raise ConfigError(
                f"--start {iso(span_ms[0])} lies after {venue}'s clock, {iso(now_ms)}; give an earlier one"
            )
        specs = client.specs()
        if symbols == "all":
            instruments = sorted(spec.instrument for spec in specs if is_eligible(spec))
        else:
            instruments = instruments_from(symbols, venue, settings)
        if not dry_run:
            lake.store_specs(venue, specs)  # a backtest rounds orders by them
        done: dict[str, BackfillSummary] = {}
        with row_progress() as progress:
            done[f"{interval} bars"] = backfill(
                lake, client, instruments, interval, *span_ms, progress=progress("bars"), dry_run=dry_run
            )
            if funding:
                done["settlements"] = backfill_funding(
                    lake, client, instruments, *span_ms, progress=progress("funding"), dry_run=dry_run
                )
    finally:
        client.close()
    reach_ms = now_ms - _OKX_FUNDING_MS if venue is Venue.OKX else None
    for what, summary in done.items():
        if dry_run:
            say(
                f"{venue} {what}: would ask for {counted(summary.rows, 'row')} "
                f"in about {counted(summary.requests, 'request')}"
            )
            continue
        say(f"{venue} {what}: {summary.stored:,} stored for {counted(summary.instruments, 'instrument')}")
        _say_missing(what, summary.missing, reach_ms if what == "settlements" else None)
        for line in summary.refused[:_SHOWN]:
            say(f"  {line}")
        if len(summary.refused) > _SHOWN:
            more = counted(len(summary.refused) - _SHOWN, "more impossible row")
            say(f"  and {more} of the venue, left out")


def _say_missing(
    what: str, missing: Mapping[Instrument, Sequence[tuple[int, int]]], reach_ms: int | None = None
) -> None:
    """What the venue did not have either: instruments with the same spans in one line.

    What lies before `reach_ms` is older than the three months that OKX keeps.
    """
    alike: dict[tuple[tuple[int, int], ...], list[Instrument]] = {}
    for instrument, spans in missing.items():
        alike.setdefault(tuple(spans), []).append(instrument)
    for spans, instruments in sorted(alike.items(), key=lambda item: -len(item[1]))[:_SHOWN]:
        names = ", ".join(i.symbol for i in sorted(instruments)[:3]) + ("" if len(instruments) <= 3 else ", …")  # noqa: PLR2004 - three names
        edges = ", ".join(f"{iso(a)} → {iso(b)}" for a, b in spans[:2]) + ("" if len(spans) <= 2 else ", …")  # noqa: PLR2004 - two spans
        why = "; OKX keeps them for three months" if reach_ms is not None and spans[0][0] < reach_ms else ""
        say(f"  the venue has no {what} of {counted(len(instruments), 'instrument')} ({names}) in {edges}{why}")
    if len(alike) > _SHOWN:
        say(f"  and of others in {counted(len(alike) - _SHOWN, 'more group')} of spans")
