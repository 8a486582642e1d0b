"""Commands on the Qlib provider: convert verify export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qlib_crypto.cli.options import (
    ConfigOption,
    IntervalOption,
    JsonOption,
    LakeSourceOption,
    ProviderOption,
    reading_settings,
    settings_from,
)
from qlib_crypto.cli.progress import line_progress, say
from qlib_crypto.clock import iso, parse_utc
from qlib_crypto.errors import DataError, counted
from qlib_crypto.symbols import Instrument, Interval, Venue

if TYPE_CHECKING:
    from qlib_crypto.lake import Lake


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(convert)
    app.command()(verify)
    app.command()(export)


def convert(
    full: Annotated[bool, typer.Option("--full", help="Build everything anew, also from a shorter lake.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes that build everything anew; -1: one a core.")] = 1,
    on: Annotated[Literal["local", "ray"], typer.Option(help="Where they run.")] = "local",
    as_json: JsonOption = False,
    lake: LakeSourceOption = None,
    provider: ProviderOption = None,
    config: ConfigOption = None,
) -> None:
    """Lake → Qlib binary, every frequency: what changed is put in place, a full build is verified and swapped in."""
    from qlib_crypto.lake import Lake
    from qlib_crypto.provider import convert as run
    from qlib_crypto.provider.instruments import MEMBERS, read_market
    from qlib_crypto.universe import membership_spans

    settings = reading_settings(config, lake=lake, provider=provider)
    own = {name: read_market(name, path) for name, path in settings.markets.items()}
    source = Lake(settings.lake_dir)
    ranked = {
        Instrument.parse(symbol, venue): spans
        for venue in Venue
        for symbol, spans in membership_spans(source, venue).items()
    }
    with line_progress("converting") as progress:
        summary = run(
            source,
            settings.provider_dir,
            settings.provider,
            memberships={MEMBERS: ranked, **own},
            full=full,
            jobs=jobs,
            on=on,
            progress=progress,
        )
    if as_json:
        print(json.dumps(summary.as_json()))  # noqa: T201 - the command's output
    else:
        say(str(summary))


def verify(
    cells: Annotated[Literal["sample", "all"], typer.Option(help="How many values to compare.")] = "sample",
    as_json: JsonOption = False,
    lake: LakeSourceOption = None,
    provider: ProviderOption = None,
    config: ConfigOption = None,
) -> None:
    """Compare the provider with the lake; exit code 3 and a list when anything differs or the lake went on."""
    from qlib_crypto.lake import Lake
    from qlib_crypto.provider import verify as run
    from qlib_crypto.provider.manifest import read_manifest

    settings = reading_settings(config, lake=lake, provider=provider)
    source = Lake(settings.lake_dir)
    problems = run(source, settings.provider_dir, cells=cells)
    manifest = read_manifest(settings.provider_dir)
    stale = manifest is not None and manifest.lake_content != source.content_hash()
    if stale:
        problems.append(
            f"stale: the lake changed since this provider was made ({_newest(source)}); run: qlib-crypto convert"
        )
    if as_json:
        print(json.dumps({"provider": str(settings.provider_dir), "problems": problems}))  # noqa: T201 - output
    else:
        for problem in problems:
            print(problem)  # noqa: T201 - the command's output
    if problems:
        raise DataError(
            f"{settings.provider_dir} differs from the lake in {counted(len(problems), 'place')}; "
            f"run: qlib-crypto convert{'' if stale else ' --full'}"
        )
    say(f"{settings.provider_dir} equals the lake ({cells} cells)")


def _newest(lake: Lake) -> str:
    """The newest bar of each venue that has any."""
    opens = {
        venue: [
            last
            for interval in lake.intervals(venue)
            for instrument in lake.instruments(venue, interval)
            if (last := lake.last_open(instrument, interval)) is not None
        ]
        for venue in Venue
    }
    return "; ".join(f"newest bar of {venue} {iso(max(times))}" for venue, times in opens.items() if times) or "no bars"


def export(
    out: Annotated[Path, typer.Argument(help="Folder for a file an instrument.")] = Path("export"),
    interval: IntervalOption = "1h",
    symbols: Annotated[str, typer.Option(help="BTC_USDT.OKX,ETH_USDT.OKX; all when left out.")] = "",
    columns: Annotated[
        str, typer.Option(help="Fields of the provider, by comma; open high low close volume when left out.")
    ] = "",
    layout: Annotated[
        Literal["plain", "master"], typer.Option(help="master: time Open High Low Close Volume ATR.")
    ] = "plain",
    kind: Annotated[Literal["csv", "parquet"], typer.Option("--format")] = "csv",
    start: Annotated[str, typer.Option(help="First bar, UTC; all there is when left out.")] = "",
    end: Annotated[str, typer.Option(help="UTC; bars open before it.")] = "",
    provider: ProviderOption = None,
    config: ConfigOption = None,
) -> None:
    """Bars with chosen columns as CSV or Parquet, one file an instrument; a missing bar has no row."""
    from qlib_crypto.provider.export import export as run

    settings = settings_from(config, provider=provider)
    with line_progress("exporting") as progress:
        paths = run(
            settings.provider_dir,
            out,
            Interval.parse(interval),
            instruments=[Instrument.parse(name.strip()) for name in symbols.split(",") if name.strip()] or None,
            columns=[name.strip() for name in columns.split(",") if name.strip()],
            span_ms=(parse_utc(start) if start else None, parse_utc(end) if end else None),
            layout=layout,
            kind=kind,
            progress=progress,
        )
    say(f"{counted(len(paths), 'file')} in {out}")
