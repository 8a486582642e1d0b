"""Commands that look after the lake: check, retain, push."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qlib_crypto.cli.options import ConfigOption, JsonOption, LakeOption, settings_from
from qlib_crypto.cli.progress import line_progress, say
from qlib_crypto.clock import iso, parse_utc
from qlib_crypto.errors import ConfigError, DataError, counted
from qlib_crypto.settings_values import is_address
from qlib_crypto.symbols import Venue

if TYPE_CHECKING:
    from qlib_crypto.lake import Lake
    from qlib_crypto.lake.inspect import CheckReport

SomeVenueOption = Annotated[str, typer.Option("--venue", help="okx or binance; empty: every venue that has data.")]
_NOT_GOOD = 3
#: Faults that are listed on the terminal.
_FIRST = 10


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(check)
    app.command()(retain)
    app.command()(push)


def check(
    venue: SomeVenueOption = "",
    start: Annotated[str, typer.Option(help="First time to look at, UTC; empty: all there is.")] = "",
    end: Annotated[str, typer.Option(help="Exclusive; empty: all there is.")] = "",
    as_json: JsonOption = False,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Put what cannot be right into quarantine (exit code 3 when there is any), flag what is doubtful."""
    from qlib_crypto.lake import Lake
    from qlib_crypto.lake.inspect import check as inspect

    store = Lake(settings_from(config, lake=lake).lake_dir)
    span = [parse_utc(text) if text else None for text in (start, end)]
    reports = {at: inspect(store, at, *span) for at in _venues(store, venue)}
    if as_json:
        print(json.dumps({str(at): _as_json(report) for at, report in reports.items()}))  # noqa: T201 - the command's output
    else:
        for at, report in reports.items():
            _show(at, report, store.folder(at))
    raise typer.Exit(0 if all(report.good for report in reports.values()) else _NOT_GOOD)


def retain(
    venue: SomeVenueOption = "",
    as_of: Annotated[
        str,
        typer.Option("--as-of", help="Market time, UTC, that ages count from; empty: now, by the collector's clock."),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go and what would be made of it.")] = False,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Drop bulky captures and make months of days, each after its time in the settings; nothing else changes."""
    from qlib_crypto.collect.status import read_status
    from qlib_crypto.lake import Lake
    from qlib_crypto.lake.retention import retain as keep
    from qlib_crypto.watch.observe import market_now

    settings = settings_from(config, lake=lake)
    store = Lake(settings.lake_dir)
    wall_ms, problems = time.time_ns() // 1_000_000, []
    for at in _venues(store, venue):
        now_ms = parse_utc(as_of) if as_of else market_now(read_status(store, at), wall_ms)
        done = keep(store, at, settings.retention, now_ms, say=say, dry_run=dry_run)
        became, dropped = ("would become", "would be dropped") if dry_run else ("became", "dropped")
        say(
            f"{at}: {counted(len(done.removed), 'day file')} {became} {counted(len(done.compacted), 'month')}, "
            f"{counted(len(done.dropped), 'bulky file')} {dropped} after {settings.retention.bulky_days} days, "
            f"counted from {iso(now_ms)}"
        )
        for path in (*done.dropped, *done.compacted) if dry_run else ():
            say(f"  {'drop' if path in done.dropped else 'write'} {path.relative_to(store.folder(at))}")
        problems += done.problems
    for problem in problems:
        say(f"left as it is: {problem}")
    if problems:
        raise DataError(f"{counted(len(problems), 'file')} cannot be read; run: qlib-crypto check")


def push(
    address: Annotated[
        str, typer.Argument(help="Such as s3://bucket/path; schedule.push of the settings when left out.")
    ] = "",
    venue: SomeVenueOption = "",
    as_json: JsonOption = False,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Send the sealed files that are new or changed to an fsspec address, where --lake of other machines reads them.

    Days that became a month go there once their month is there; nothing else is ever removed.
    """
    from qlib_crypto.lake import Lake
    from qlib_crypto.lake.address import shown
    from qlib_crypto.lake.remote import push as send

    settings = settings_from(config, lake=lake)
    to = address or settings.schedule.push
    if not is_address(to):
        raise ConfigError(f"{to!r} is no address to push to; write such as s3://bucket/path, or set schedule.push")
    store = Lake(settings.lake_dir)
    with line_progress(f"pushing to {shown(to)}") as progress:
        done = send(store.root, to, _venues(store, venue), progress=progress)
    if as_json:
        print(json.dumps(done._asdict()))  # noqa: T201 - the command's output
    else:
        say(
            f"{shown(to)} has all {counted(done.files, 'sealed file')}: {done.sent:,} sent, "
            f"{counted(done.removed, 'day')} removed whose month is there"
        )


def _venues(store: Lake, venue: str) -> list[Venue]:
    chosen = [Venue.parse(venue)] if venue else list(Venue)
    found = [at for at in chosen if store.folder(at).is_dir()]
    if not found:
        raise DataError(f"no lake in {store.root.resolve()}; run in the repository's folder, or give --lake")
    return found


def _as_json(report: CheckReport) -> dict[str, object]:
    return {
        "good": report.good, "files": report.files, "rows": report.rows, "bad_files": report.bad_files,
        "quarantined": report.quarantined, "bad_rows": report.bad_rows, "rewritten": report.rewritten,
        "flagged": dict(report.flagged), "notes": report.notes,
    }  # fmt: skip


def _show(venue: Venue, report: CheckReport, folder: Path) -> None:
    from qlib_crypto.lake.inspect import QUARANTINE

    say(f"{venue}: {counted(report.files, 'file')}, {counted(report.rows, 'row')} checked")
    for reason in report.bad_files[:_FIRST]:
        say(f"  file moved to {folder / QUARANTINE}: {reason}")
    for reason in report.bad_rows[:_FIRST]:
        say(f"  row: {reason}")
    more = len(report.bad_files[_FIRST:]) + report.quarantined - len(report.bad_rows[:_FIRST])
    if more:
        say(f"  and {more:,} more, all in the view quarantine of: qlib-crypto sql")
    told = ", ".join(f"{count:,} {flag}" for flag, count in report.flagged.items() if count)
    say(f"  bars flagged as doubtful: {told or 'none'}")
    for note in report.notes:
        say(f"  {note}")
    if not report.good:
        say(
            f"  {counted(report.quarantined, 'row')} and {counted(len(report.bad_files), 'file')} are in quarantine; "
            "fetch their spans again: qlib-crypto backfill, or repair"
        )
