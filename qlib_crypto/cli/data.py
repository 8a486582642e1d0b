"""Commands that bring market data into the lake, and read it: collect backfill repair reconcile seal sql."""

from __future__ import annotations

from typing import Annotated

import typer

from qlib_crypto.cli.options import (
    ClockOption,
    ConfigOption,
    EndpointOption,
    IntervalOption,
    JsonOption,
    LakeOption,
    LakeSourceOption,
    RateScaleOption,
    SymbolsOption,
    VenueOption,
    parse_interval,
    reading_settings,
    settings_from,
    span_from,
)
from qlib_crypto.cli.progress import say
from qlib_crypto.errors import DataError, counted
from qlib_crypto.symbols import Venue


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(collect)
    app.command()(backfill)
    app.command()(repair)
    app.command()(reconcile)
    app.command()(seal)
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
    """Collect candles, funding and what `datasets` of the settings name until stopped (Ctrl-C or SIGTERM)."""
    from qlib_crypto.cli.collecting import run_collector

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
    datasets: Annotated[
        str, typer.Option(help="Also mark, index, open_interest, long_short_ratio; a list with commas.")
    ] = "",
    source: Annotated[
        str, typer.Option(help="rest, archive (bulk files), or auto: what reaches and is faster.")
    ] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, ask for no row.")] = False,
    endpoint: EndpointOption = None,
    rate_scale: RateScaleOption = None,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Fetch history; what is there already is skipped, an interrupted run goes on where it stopped."""
    from qlib_crypto.cli.collecting import run_backfill

    at = Venue.parse(venue)
    settings = settings_from(config, lake=lake, venue=at, endpoint=endpoint, rate_scale=rate_scale)
    run_backfill(
        at,
        settings=settings,
        symbols=symbols,
        interval=parse_interval(interval),
        span_ms=span_from(start, end),
        funding=funding,
        datasets=datasets,
        source=source,
        dry_run=dry_run,
    )


def repair(
    venue: VenueOption,
    symbols: SymbolsOption = "",
    interval: IntervalOption = "",
    since: Annotated[str, typer.Option(help="Look from this UTC time on; empty means three days back.")] = "",
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
    rate_scale: RateScaleOption = None,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask once more for what the lake lacks of its last days; what the venue lacks too gets its cause."""
    from qlib_crypto.cli.collecting import run_repair

    at = Venue.parse(venue)
    settings = settings_from(config, lake=lake, venue=at, endpoint=endpoint, rate_scale=rate_scale)
    run_repair(at, settings=settings, symbols=symbols, interval=interval, since=since, as_json=as_json)


def reconcile(
    venue: VenueOption,
    start: Annotated[str, typer.Option(help="First bar open, UTC.")],
    end: Annotated[str, typer.Option(help="Exclusive; empty means up to the last closed bar.")] = "",
    symbols: SymbolsOption = "",
    interval: IntervalOption = "",
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
    rate_scale: RateScaleOption = None,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare what websocket, REST and archive say of the same bars; the better source is kept, the older too."""
    from qlib_crypto.cli.collecting import run_reconcile

    at = Venue.parse(venue)
    settings = settings_from(config, lake=lake, venue=at, endpoint=endpoint, rate_scale=rate_scale)
    span_ms = span_from(start, end)
    run_reconcile(at, settings=settings, symbols=symbols, interval=interval, span_ms=span_ms, as_json=as_json)


def seal(venue: VenueOption, lake: LakeOption = None, config: ConfigOption = None) -> None:
    """Move every row of the hot store into its dated Parquet file."""
    from qlib_crypto.lake import Lake

    store, at = Lake(settings_from(config, lake=lake).lake_dir), Venue.parse(venue)
    if not store.folder(at).is_dir():
        raise DataError(f"no {store.folder(at).resolve()} to seal; run in the repository's folder, or give --lake")
    files = store.seal(at)
    say(f"sealed {counted(len(files), 'file')}")


def sql(
    query: Annotated[str, typer.Argument(help='Such as "select * from kline_1m limit 5".')],
    as_json: JsonOption = False,
    lake: LakeSourceOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask the lake in SQL (DuckDB): `show tables` lists the views, such as kline_1m, funding, membership, holes.

    `describe funding` says the columns of one.
    """
    from qlib_crypto.lake import Lake
    from qlib_crypto.lake.sql import query as ask

    source = Lake(reading_settings(config, lake=lake).lake_dir)
    frame = ask(source, query)
    if not any(source.folder(venue).is_dir() for venue in Venue):
        raise DataError(f"no lake in {source.root.resolve()}; run in the repository's folder, or give --lake")
    if as_json:
        print(frame.to_json(orient="records", date_format="iso"))  # noqa: T201 - the command's output
    else:
        print(frame.to_string(index=False))  # noqa: T201 - the command's output
