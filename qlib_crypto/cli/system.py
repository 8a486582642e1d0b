"""Commands that run things: sandbox demo bench."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from qlib_crypto.cli.options import RateScaleOption
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Venue


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(sandbox)
    app.command()(demo)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(bench)


def sandbox(
    tape: Annotated[str, typer.Option(help="Folder of real Parquet, or `generator`.")] = "generator",
    venue: Annotated[str, typer.Option(help="okx, binance or both.")] = "both",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8180,
    speed: Annotated[str, typer.Option(help="Multiple of real time, or max.")] = "1",
    at: Annotated[str, typer.Option(help="Market time to start at, UTC; empty: 2 days before the tape's end.")] = "",
    until: Annotated[str, typer.Option(help="Market time to stand still at; empty: the tape's end.")] = "",
    hold_streams: Annotated[int, typer.Option(help="The clock waits for this many websocket streams.", min=0)] = 0,
    seed: Annotated[int | None, typer.Option(help="Generator: seed.")] = None,
    signal_strength: Annotated[float | None, typer.Option(help="Generator: strength of the planted signal.")] = None,
    rate_scale: RateScaleOption = None,
) -> None:
    """Run the local exchange: OKX v5 and Binance USD-M, REST and websocket, on loopback."""
    from qlib_crypto.cli.running import run_sandbox

    run_sandbox(
        tape=tape,
        venues=list(Venue) if venue == "both" else [Venue.parse(venue)],
        port=port,
        speed=speed,
        at=at,
        until=until,
        hold_streams=hold_streams,
        seed=seed,
        signal_strength=signal_strength,
        rate_scale=rate_scale,
    )


def demo(
    tape: Annotated[str, typer.Option(help="Folder of real Parquet; without it a generated market.")] = "",
    venue: Annotated[str, typer.Option(help="okx or binance.")] = "okx",
    interval: Annotated[str, typer.Option(help="Bar length of the history by REST.")] = "1h",
    out: Annotated[Path, typer.Option(help="Lake and provider of the demo.")] = Path("demo"),
) -> None:
    """The main job from a local exchange to a report, without an account or a network."""
    from qlib_crypto.cli.demo import run_demo

    run_demo(tape=tape, venue=Venue.parse(venue), interval=interval, out=out)


def bench(ctx: typer.Context, name: Annotated[str, typer.Argument(help="A file of benchmarks/.")] = "") -> None:
    """Run benchmarks/NAME.py with the remaining options."""
    folder = Path("benchmarks")
    known = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
    if name not in known:
        raise ConfigError(f"benchmark {name!r} is unknown; choose one of: {' '.join(known) or 'none here'}")
    sys.path.insert(0, str(folder.resolve()))  # benchmarks share modules
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None  # noqa: S101,PT018 - the file was just listed
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    raise typer.Exit(module.main(ctx.args))
