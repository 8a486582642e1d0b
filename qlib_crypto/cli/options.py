"""The options that several commands share, and what they resolve to."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from qlib_crypto.cli.progress import line_progress, say
from qlib_crypto.clock import parse_utc
from qlib_crypto.errors import ConfigError, counted
from qlib_crypto.settings import Settings, load_settings
from qlib_crypto.settings_values import is_address
from qlib_crypto.symbols import Instrument, Interval, Venue

VenueOption = Annotated[str, typer.Option("--venue", help="okx or binance.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file; config.yaml when left out.")]
LakeOption = Annotated[Path | None, typer.Option("--lake", help="Folder that holds okx_data/ and binance_data/.")]
LakeSourceOption = Annotated[
    str | None,
    typer.Option(
        "--lake",
        help="Folder that holds okx_data/ and binance_data/, or an fsspec address (s3://bucket/path), which is first "
        "pulled into $XDG_CACHE_HOME/qlib-crypto/lakes (~/.cache).",
    ),
]
ProviderOption = Annotated[Path | None, typer.Option("--provider", help="Folder of the Qlib provider.")]
EndpointOption = Annotated[
    str | None, typer.Option("--endpoint", help="One address for REST and websocket, such as http://127.0.0.1:8180.")
]
SymbolsOption = Annotated[
    str, typer.Option("--symbols", help="top50, all (backfill), a JSON file, or a list such as BTC_USDT,ETH_USDT.")
]
IntervalOption = Annotated[str, typer.Option("--interval", help="Bar length: 1m, 5m, 1h, …")]
RateScaleOption = Annotated[
    float | None, typer.Option("--rate-scale", help="Multiplies the venue's request limits; only for the sandbox.")
]
ClockOption = Annotated[str, typer.Option("--clock", help="Market time: wall, or venue (its time endpoint).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]


def settings_from(
    config: Path | None,
    *,
    lake: str | Path | None = None,
    provider: Path | None = None,
    venue: Venue | None = None,
    endpoint: str | None = None,
    rate_scale: float | None = None,
) -> Settings:
    """The settings with the options of a command laid over them.

    Raises
    ------
    ConfigError
        A setting or option is impossible; the lake is an address, for which commands that only read have
        `reading_settings`.

    """
    if lake is not None and is_address(str(lake)):
        written = re.sub(":/+", "://", str(lake), count=1)  # a `Path` lost one of the two
        raise ConfigError(
            f"--lake {written} is an address, and this command works in a folder; give the folder, and send its sealed "
            "files to the address: qlib-crypto push"
        )
    settings = load_settings(config, options={"lake_dir": lake, "provider_dir": provider})
    changes: dict[str, Any] = {}
    for name in [venue] if venue else list(Venue):
        part = settings.venue(name).at(endpoint)
        if rate_scale is not None:
            if rate_scale <= 0:
                raise ConfigError(f"--rate-scale {rate_scale}: write a number above 0")
            part = part.model_copy(update={"rate_scale": rate_scale})
        changes[name.value] = part
    return settings.model_copy(update=changes)


def reading_settings(config: Path | None, *, lake: str | Path | None, provider: Path | None = None) -> Settings:
    """As `settings_from`, for commands that only read the lake: one at an address is pulled into its cache first."""
    if not (isinstance(lake, str) and is_address(lake)):
        return settings_from(config, lake=lake, provider=provider)
    from qlib_crypto.lake.address import cache_folder, shown
    from qlib_crypto.lake.remote import pull

    folder = cache_folder(lake)
    settings = settings_from(config, lake=folder, provider=provider)
    with line_progress(f"pulling {shown(lake)}") as progress:
        done = pull(lake, folder, progress=progress)
    say(
        f"pulled {shown(lake)} into {folder}: {counted(done.files, 'file')}, {done.fetched:,} new or changed, "
        f"{done.removed:,} gone"
    )
    return settings


def instruments_from(symbols: str, venue: Venue, settings: Settings) -> list[Instrument]:
    """The instruments of `--symbols`: `top50` (the ranked universe), a JSON file, or a comma-separated list.

    Raises
    ------
    ConfigError
        When the universe was not ranked yet, the file is no JSON array of symbols, or a symbol is not one.

    """
    from qlib_crypto.universe import read_universe, universe_path

    chosen: str | tuple[str, ...] = symbols or settings.venue(venue).symbols
    if isinstance(chosen, str) and chosen == "top50":
        path = universe_path(settings.lake_dir, venue)
        if not path.is_file():
            raise ConfigError(f"{path} does not exist; run: qlib-crypto rank --venue {venue}, or give --symbols")
        return read_universe(path, venue)
    if isinstance(chosen, str) and chosen.endswith(".json"):
        return read_universe(Path(chosen), venue)
    names = [s for s in chosen.split(",") if s.strip()] if isinstance(chosen, str) else list(chosen)
    if not names:
        raise ConfigError("--symbols names nothing; write such as --symbols BTC_USDT,ETH_USDT")
    instruments = [Instrument.parse(name, venue) for name in names]
    for instrument in instruments:
        if instrument.venue is not venue:
            raise ConfigError(f"symbol {instrument} is not on {venue}; leave the ending out or choose its venue")
    return instruments


def span_from(start: str, end: str) -> tuple[int, int]:
    """`[start, end)` in Unix milliseconds; `end` empty means now is decided by the venue (a far future)."""
    start_ms = parse_utc(start)
    end_ms = parse_utc(end) if end else parse_utc("2100-01-01")
    if end_ms <= start_ms:
        raise ConfigError(f"--end {end} is not after --start {start}; the span is [start, end)")
    return start_ms, end_ms


def parse_interval(text: str) -> Interval:
    """The interval of an option about candles of the lake."""
    return Interval.parse_candle(text)


def warn_outside_environment() -> None:
    """One line on stderr when this Python is neither the conda environment `qlib` nor the project's `.venv`."""
    inside = os.environ.get("CONDA_DEFAULT_ENV") == "qlib" or Path(sys.prefix).name in {"qlib", ".venv"}
    if not inside:
        print(  # noqa: T201 - this is the command line
            "qlib-crypto: running outside the conda environment qlib and outside .venv; see scripts/setup.sh",
            file=sys.stderr,
        )
