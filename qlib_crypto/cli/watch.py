"""Commands that look: health, doctor."""

from __future__ import annotations

import json
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qlib_crypto.cli.options import (
    ConfigOption,
    EndpointOption,
    JsonOption,
    LakeOption,
    ProviderOption,
    RateScaleOption,
    settings_from,
)
from qlib_crypto.cli.progress import say
from qlib_crypto.clock import SECOND_MS, utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Venue

if TYPE_CHECKING:
    from qlib_crypto.settings import Settings
    from qlib_crypto.watch.findings import Finding
    from qlib_crypto.watch.live import Answer

_FAILED, _NOT_GOOD = 1, 3

SomeVenueOption = Annotated[str, typer.Option("--venue", help="okx or binance; empty: those that are collected here.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(health)
    app.command()(doctor)


def health(
    venue: SomeVenueOption = "",
    days: Annotated[int, typer.Option(help="UTC days of coverage, today's included.", min=1, max=366)] = 7,
    every: Annotated[bool, typer.Option("--all", help="List every instrument and day, complete ones too.")] = False,
    alert: Annotated[bool, typer.Option("--alert", help="Tell the alert addresses what is new or over.")] = False,
    as_json: JsonOption = False,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """What is collected, complete, late or missing and why; exit code 3 when something is not good."""
    from qlib_crypto.cli.health_page import show
    from qlib_crypto.watch.beside import alerts
    from qlib_crypto.watch.findings import Level
    from qlib_crypto.watch.health import examine
    from qlib_crypto.watch.logs import configure_logs

    settings = settings_from(config, lake=lake)
    found = examine(settings, [Venue.parse(venue)] if venue else _collected(settings), days=days)
    if alert:
        configure_logs()
        alerts(settings).look(found.findings)
    if as_json:
        print(json.dumps(found.as_json(every=every)))  # noqa: T201 - the command's output
    else:
        show(found, every=every)
    raise typer.Exit(0 if found.level is Level.OK else _NOT_GOOD)


def doctor(
    venue: SomeVenueOption = "",
    live: Annotated[bool, typer.Option("--live", help="Ask the venue what only it can answer; needs --venue.")] = False,
    minutes: Annotated[int, typer.Option(help="With --live: minutes of bars to watch.", min=1, max=2_000)] = 5,
    offline: Annotated[bool, typer.Option("--offline", help="Leave the venues out.")] = False,
    out: Annotated[Path | None, typer.Option(help="With --live: the recording; in reports/ when left out.")] = None,
    as_json: JsonOption = False,
    endpoint: EndpointOption = None,
    rate_scale: RateScaleOption = None,
    lake: LakeOption = None,
    provider: ProviderOption = None,
    config: ConfigOption = None,
) -> None:
    """Look at installation, settings, folders, disk, clock, venues and locks: what is wrong, and what to do.

    With --live the open questions about a real venue are asked, each answered pass, differs or unknown, and recorded.
    """
    from qlib_crypto.cli.health_page import show_answers, show_finding, show_total
    from qlib_crypto.watch.doctor import diagnose
    from qlib_crypto.watch.findings import Finding, Level, worst

    unread: list[Finding] = []
    try:
        settings = settings_from(config, lake=lake, provider=provider, endpoint=endpoint, rate_scale=rate_scale)
    except ConfigError as error:
        if live:
            raise
        from qlib_crypto.settings import Settings

        unread.append(Finding("settings", Level.FAIL, str(error), "correct it; the rest is looked at with defaults"))
        settings = Settings.model_construct(lake_dir=lake or Path(), provider_dir=provider or Path("qlib_data"))
    if live:
        if not venue:
            raise ConfigError("--live asks one venue; add --venue okx or --venue binance")
        at = Venue.parse(venue)
        stamp = utc(int(time.time() * SECOND_MS)).strftime("%Y%m%dT%H%M%S")
        path = out or settings.reports_dir / f"live_{at}_{stamp}.jsonl"
        answers = _ask(settings, at, minutes, path)
        if as_json:
            print(json.dumps({"venue": str(at), "recording": str(path), "answers": [a.as_json() for a in answers]}))  # noqa: T201 - the command's output
        else:
            show_answers(answers, path)
        raise typer.Exit(_NOT_GOOD if any(a.outcome == "differs" for a in answers) else 0)
    found: list[Finding] = []
    venues = [Venue.parse(venue)] if venue else [v for v in Venue if settings.venue(v).enabled]
    for finding in chain(unread, diagnose(settings, venues, config=config, offline=offline)):
        found.append(finding)
        if not as_json:
            show_finding(finding)
    if not as_json:
        show_total(found)
    if as_json:
        print(json.dumps({"level": str(worst(found)), "findings": [f.as_json() for f in found]}))  # noqa: T201 - the command's output
    raise typer.Exit(_FAILED if worst(found) is Level.FAIL else 0)


def _ask(settings: Settings, venue: Venue, minutes: int, path: Path) -> list[Answer]:
    import asyncio

    from qlib_crypto.feeds import rest_client
    from qlib_crypto.watch.live import Subject, VenueTime, Waits, ask_venue, recording

    part = settings.venue(venue)
    client = rest_client(venue, part)
    try:
        clock = VenueTime.read(client)
        say(f"asking {venue} at {part.rest_url} and {part.ws_url}, about {minutes + 2} minutes of its time")
        with recording(path) as tape:
            return asyncio.run(ask_venue(Subject(venue, part, client, clock, Waits(minutes=minutes), tape)))
    finally:
        client.close()


def _collected(settings: Settings) -> list[Venue]:
    """The enabled venues of which something is in the lake, all enabled ones when there is nothing yet."""
    from qlib_crypto.lake.paths import venue_folder

    enabled = [venue for venue in Venue if settings.venue(venue).enabled]
    known = [v for v in enabled if (venue_folder(settings.lake_dir, v) / "hot.sqlite").is_file()]
    if not enabled:
        raise ConfigError("no venue is enabled; set okx.enabled or binance.enabled in config.yaml, or give --venue")
    return known or enabled
