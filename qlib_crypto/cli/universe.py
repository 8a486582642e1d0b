"""Commands about who is in the universe: rank members."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from qlib_crypto.cli.options import (
    ConfigOption,
    EndpointOption,
    JsonOption,
    LakeOption,
    LakeSourceOption,
    RateScaleOption,
    VenueOption,
    reading_settings,
    settings_from,
)
from qlib_crypto.cli.progress import say
from qlib_crypto.clock import DAY_MS, iso, parse_utc
from qlib_crypto.errors import ConfigError, DataError, counted
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Venue

#: Members that `rank` shows, and groups of what could not be rebuilt.
_FIRST = 5
_EIGHT_HOURS = 8.0


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(rank)
    app.command()(members)


def rank(
    venue: VenueOption = "okx",
    size: Annotated[int | None, typer.Option(help="How many; settings say 50.", min=1)] = None,
    per_8h: Annotated[bool | None, typer.Option("--per-8h/--as-quoted", help="Normalise rates to 8 hours.")] = None,
    due: Annotated[
        str, typer.Option("--due", help="Do nothing when a ranking was made since this UTC time, at which it was due.")
    ] = "",
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
        rows = update_universe(store, client, universe, settings.lake_dir, at_ms=parse_utc(due) if due else None)
    finally:
        client.close()
    chosen = [row for row in rows if row.member]
    if as_json:
        print(json.dumps([row.symbol for row in chosen]))  # noqa: T201 - the command's output
    else:
        by = "per 8 h" if universe.per_8h else "as quoted"
        say(f"{at}: {len(chosen)} of {counted(len(rows), 'eligible perpetual')}, by |funding rate| {by}; the first:")
        for row in chosen[:_FIRST]:
            hours = row.interval_hours
            every = f" per {hours:g} h" if hours else ", interval unknown"
            also = "" if hours == _EIGHT_HOURS else f", {row.rate_per_8h:+.4%} per 8 h"
            say(f"  {row.rank} {row.symbol:16} {row.funding_rate:+.4%}{every}{also}")
        say(f"written to {universe_path(settings.lake_dir, at)}; the whole ranking is in {store.folder(at) / UNIVERSE}")


def members(
    venue: VenueOption = "okx",
    at: Annotated[str, typer.Option("--at", help="UTC time; empty: the newest ranking.")] = "",
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First rank the past from settled funding, where no ranking was made.")
    ] = False,
    start: Annotated[str, typer.Option(help="With --rebuild: from this UTC time.")] = "",
    end: Annotated[
        str, typer.Option(help="With --rebuild: exclusive; empty: the first ranking made, or the last funding.")
    ] = "",
    as_json: JsonOption = False,
    lake: LakeSourceOption = None,
    config: ConfigOption = None,
) -> None:
    """Who was in the universe at a time, the best first; --rebuild ranks the time before collection began."""
    from qlib_crypto.lake import Lake
    from qlib_crypto.universe import ranking_at, rankings

    where = Venue.parse(venue)
    settings = (settings_from if rebuild else reading_settings)(config, lake=lake)  # to rebuild is to write
    store = Lake(settings.lake_dir)
    if rebuild:
        _rebuild(where, settings, start, end)
        if not at:
            return
    elif start or end:
        raise ConfigError("--start and --end are for --rebuild; give --at for the members of one time")
    if at:
        at_ms = parse_utc(at)
    elif known := rankings(store, where):
        at_ms = known[-1].start_ms
    else:
        raise DataError(f"no ranking of {where} yet in {store.folder(where)}; run: qlib-crypto rank --venue {where}")
    ranking = ranking_at(store, where, at_ms)
    ranked = iso(ranking.start_ms)
    if as_json:
        told = {"venue": where, "at": iso(at_ms), "ranked": ranked, "members": ranking.symbols}
        print(json.dumps(told))  # noqa: T201 - the command's output
    else:
        far = at_ms - ranking.start_ms > DAY_MS
        by = f", by the ranking of {ranked}: none was made nearer before that time" if far else ""
        say(f"{where}: {counted(len(ranking.symbols), 'member')} at {iso(at_ms)}{by}")
        for symbol in ranking.symbols:
            print(symbol)  # noqa: T201 - the command's output


def _rebuild(venue: Venue, settings: Settings, start: str, end: str) -> None:
    from qlib_crypto.lake import Lake
    from qlib_crypto.universe import rebuild

    if not start:
        raise ConfigError("--rebuild needs --start, the UTC time from which the past is ranked, such as 2025-01-01")
    start_ms = parse_utc(start)
    lake = Lake(settings.lake_dir)
    made = lake.memberships(venue).column("timestamp").cast("int64").to_pylist()
    later = [at for at in made if at > start_ms]
    end_ms = parse_utc(end) if end else min(later, default=parse_utc("2100-01-01"))
    done = rebuild(lake, venue, start_ms, end_ms, settings.universe, settings.schedule)
    span = f", {iso(done.times_ms[0])} to {iso(done.times_ms[-1])}" if done.times_ms else ""
    few, most = done.contracts
    say(
        f"{venue}: {counted(len(done.times_ms), 'ranking')} of {few if few == most else f'{few} to {most}'} contracts "
        f"rebuilt from settled funding{span}"
    )
    if not lake.specs(venue):
        say(
            "the lake has no instruments table, so a contract counts as listed while its funding is there, and nobody "
            f"knows whose is missing; qlib-crypto backfill --venue {venue} stores one"
        )
    if done.made:
        say(f"{counted(done.made, 'ranking')} made at the time {'was' if done.made == 1 else 'were'} left alone")
    for at_ms, known, listed in done.thin[:_FIRST]:
        have = (
            f"funding of only {known} of {counted(listed, 'perpetual')} then listed"
            if listed
            else "no funding of that time"
        )
        say(f"none at {iso(at_ms)}: {have} is in the lake")
    if len(done.thin) > _FIRST:
        say(f"and none at {counted(len(done.thin) - _FIRST, 'more time')}")
    if done.outside:
        names = ", ".join(done.outside[:_FIRST]) + (", …" if len(done.outside) > _FIRST else "")
        say(f"left out funding of {names} from outside the time that the venue says they were listed in")
