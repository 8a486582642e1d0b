"""Commands that bring market data into the lake, and read it: collect backfill import seal rank sql."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qlib_crypto.cli.options import (
    ClockOption,
    ConfigOption,
    EndpointOption,
    IntervalOption,
    JsonOption,
    LakeOption,
    RateScaleOption,
    SymbolsOption,
    VenueOption,
    parse_interval,
    settings_from,
    span_from,
)
from qlib_crypto.cli.progress import say
from qlib_crypto.errors import ConfigError, DataError, counted
from qlib_crypto.symbols import Venue

#: Members that `rank` shows.
_FIRST = 5
_EIGHT_HOURS = 8.0


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(collect)
    app.command()(backfill)
    app.command(name="import")(import_files)
    app.command()(seal)
    app.command()(rank)
    app.command()(sql)


def collect(
    venue: VenueOption,
    symbols: SymbolsOption = "",
    interval: IntervalOption = "",
    until: Annotated[str, typer.Option(help="Stop by itself once market time passes this UTC time.")] = "",
    clock: ClockOption = "wall",
    endpoint: EndpointOption = None,
    rate_scale: RateScaleOption = None,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Stream confirmed bars and funding into the lake until stopped (Ctrl-C or SIGTERM)."""
    from qlib_crypto.cli.running import run_collector

    run_collector(
        Venue.parse(venue),
        symbols=symbols,
        interval=interval,
        until=until,
        clock=clock,
        settings=settings_from(config, lake=lake, venue=Venue.parse(venue), endpoint=endpoint, rate_scale=rate_scale),
    )


def backfill(
    venue: VenueOption,
    start: Annotated[str, typer.Option(help="First bar open, UTC.")],
    end: Annotated[str, typer.Option(help="Exclusive; empty means up to the last closed bar.")] = "",
    symbols: SymbolsOption = "",
    interval: IntervalOption = "1m",
    funding: Annotated[bool, typer.Option(help="Also fetch settled funding of the span.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be asked, ask nothing.")] = False,
    endpoint: EndpointOption = None,
    rate_scale: RateScaleOption = None,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Fetch history by REST; what is there already is skipped, an interrupted run goes on where it stopped."""
    from qlib_crypto.cli.running import run_backfill

    at = Venue.parse(venue)
    settings = settings_from(config, lake=lake, venue=at, endpoint=endpoint, rate_scale=rate_scale)
    run_backfill(
        at,
        settings=settings,
        symbols=symbols,
        interval=parse_interval(interval),
        span_ms=span_from(start, end),
        funding=funding,
        dry_run=dry_run,
    )


def import_files(
    files: Annotated[list[Path], typer.Argument(help="Parquet files, or folders of them.")],
    venue: VenueOption,
    dataset: Annotated[str, typer.Option(help="kline or funding.")] = "kline",
    interval: IntervalOption = "1m",
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Import candle or funding Parquet into the lake, whole files checked first."""
    from qlib_crypto.collect import import_parquet
    from qlib_crypto.lake import Lake

    if dataset not in {"kline", "funding"}:
        raise ConfigError(f"dataset {dataset!r} is unknown; write kline or funding")
    settings = settings_from(config, lake=lake)
    paths = [p for f in files for p in (sorted(f.glob("*.parquet")) if f.is_dir() else [f])]
    missing = [str(p) for p in paths if not p.is_file()]
    if missing or not paths:
        raise ConfigError(f"no Parquet file at {', '.join(missing) or files[0]}; give existing files or a folder")
    kind = parse_interval(interval) if dataset == "kline" else None
    result = import_parquet(Lake(settings.lake_dir), paths, Venue.parse(venue), dataset, kind)
    for message in result.messages:
        say(message)
    say(f"imported {counted(result.rows, 'row')} from {counted(len(paths), 'file')}")


def seal(venue: VenueOption, lake: LakeOption = None, config: ConfigOption = None) -> None:
    """Move every row of the hot store into its dated Parquet file."""
    from qlib_crypto.lake import Lake

    store, at = Lake(settings_from(config, lake=lake).lake_dir), Venue.parse(venue)
    if not store.folder(at).is_dir():
        raise DataError(f"no {store.folder(at).resolve()} to seal; run in the repository's folder, or give --lake")
    files = store.seal(at)
    say(f"sealed {counted(len(files), 'file')}")


def rank(
    venue: VenueOption = "okx",
    size: Annotated[int | None, typer.Option(help="How many; settings say 50.", min=1)] = None,
    per_8h: Annotated[bool | None, typer.Option("--per-8h/--as-quoted", help="Normalise rates to 8 hours.")] = None,
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
    rate_scale: RateScaleOption = None,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Rank live perpetuals by absolute current funding rate; writes top50_symbols.json and the dated record."""
    from qlib_crypto.feeds import rest_client
    from qlib_crypto.lake import Lake
    from qlib_crypto.lake.paths import UNIVERSE
    from qlib_crypto.universe import universe_path, update_universe

    at = Venue.parse(venue)
    settings = settings_from(config, lake=lake, venue=at, endpoint=endpoint, rate_scale=rate_scale)
    changes = {k: v for k, v in {"size": size, "per_8h": per_8h}.items() if v is not None}
    universe = settings.universe.model_copy(update=changes)
    store, client = Lake(settings.lake_dir), rest_client(at, settings.venue(at))
    try:
        rows = update_universe(store, client, universe, settings.lake_dir)
    finally:
        client.close()
    members = [row for row in rows if row.member]
    if as_json:
        print(json.dumps([row.symbol for row in members]))  # noqa: T201 - the command's output
    else:
        by = "per 8 h" if universe.per_8h else "as quoted"
        say(f"{at}: {len(members)} of {counted(len(rows), 'eligible perpetual')}, by |funding rate| {by}; the first:")
        for row in members[:_FIRST]:
            hours = row.interval_hours
            every = f" per {hours:g} h" if hours else ", interval unknown"
            also = "" if hours == _EIGHT_HOURS else f", {row.rate_per_8h:+.4%} per 8 h"
            say(f"  {row.rank} {row.symbol:16} {row.funding_rate:+.4%}{every}{also}")
        say(f"written to {universe_path(settings.lake_dir, at)}; the whole ranking is in {store.folder(at) / UNIVERSE}")


def sql(
    query: Annotated[str, typer.Argument(help='Such as "select * from kline_1m limit 5".')],
    as_json: JsonOption = False,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask the lake in SQL (DuckDB): views kline_1m, kline_1h, …, funding, funding_estimate, instruments, membership."""
    from qlib_crypto.lake import Lake
    from qlib_crypto.lake.sql import query as ask

    source = Lake(settings_from(config, lake=lake).lake_dir)
    frame = ask(source, query)
    if not any(source.folder(venue).is_dir() for venue in Venue):
        raise DataError(f"no lake in {source.root.resolve()}; run in the repository's folder, or give --lake")
    if as_json:
        print(frame.to_json(orient="records", date_format="iso"))  # noqa: T201 - the command's output
    else:
        print(frame.to_string(index=False))  # noqa: T201 - the command's output
