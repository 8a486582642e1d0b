"""The command that brings files of others into the lake: import."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from qlib_crypto.cli.options import (
    ConfigOption,
    IntervalOption,
    JsonOption,
    LakeOption,
    VenueOption,
    parse_interval,
    settings_from,
)
from qlib_crypto.cli.progress import say
from qlib_crypto.clock import iso
from qlib_crypto.errors import ConfigError, counted
from qlib_crypto.symbols import Venue

#: Files with holes, and refused rows, that are shown; the list of holes and the quarantine have all.
_FILES, _FIRST = 20, 5


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(name="import")(import_files)


def import_files(
    files: Annotated[list[Path], typer.Argument(help="Parquet, CSV, freqtrade's Feather, Binance's zips; or folders.")],
    venue: VenueOption,
    dataset: Annotated[str, typer.Option(help="kline or funding.")] = "kline",
    interval: IntervalOption = "1m",
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", help="A column of ours and its name in the files, timestamp=open_time; repeatable."),
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option("--time-zone", help="Of stamps without one: +08:00, UTC, Asia/Shanghai.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Candle files or a folder of the same coin, to check the hour; repeatable."),
    ] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Import the good rows of a file that has impossible ones.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Do not compare with what the lake has: it is wrong.")
    ] = False,
    keep_last: Annotated[
        bool, typer.Option("--keep-last", help="The last bar of files with close_time was closed: take it.")
    ] = False,
    as_json: JsonOption = False,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Import candle or funding files into the lake, whole files checked first; every hole is listed."""
    from qlib_crypto.collect import import_data
    from qlib_crypto.collect.import_tables import parse_map, table_files
    from qlib_crypto.lake import Lake

    if dataset not in {"kline", "funding"}:
        raise ConfigError(f"dataset {dataset!r} is unknown; write kline or funding")
    settings = settings_from(config, lake=lake)
    kind = parse_interval(interval) if dataset == "kline" else None
    paths = table_files(files, dataset, kind)
    result = import_data(
        Lake(settings.lake_dir),
        paths,
        Venue.parse(venue),
        dataset,
        kind,
        time_zone=time_zone,
        against=against or (),
        quarantine=quarantine,
        replace=replace,
        keep_last=keep_last,
        columns=parse_map(columns or ()),
    )
    if as_json:
        plain = {
            "files": len(paths),
            **result._asdict(),
            "holes": [hole._asdict() for hole in result.holes],
            "holes_file": None if result.holes_file is None else str(result.holes_file),
        }
        print(json.dumps(plain))  # noqa: T201 - the command's output
        return
    for message in result.messages:
        say(message)
    by_file = {name: list(holes) for name, holes in groupby(result.holes, lambda hole: hole.file)}
    for name, holes in list(by_file.items())[:_FILES]:
        bars = sum(hole.rows or 0 for hole in holes)
        lost = f", {counted(bars, 'bar')} missing" if bars else ""
        first = f"from {iso(holes[0].start_ms)} to {iso(holes[0].end_ms)}"
        say(f"{name}: {counted(len(holes), 'hole')}{lost}; the first {first}")
    if result.holes:
        say(f"{counted(len(result.holes), 'hole')} in all, each listed in {result.holes_file}")
    for line in result.refused[:_FIRST]:
        say(line)
    if result.refused:
        say(f"{counted(len(result.refused), 'impossible row')} in quarantine")
    say(f"imported {counted(result.rows, 'row')} from {counted(len(paths), 'file')}")
