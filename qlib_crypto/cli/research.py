"""Commands of research: run report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from qlib_crypto.cli.options import (
    ConfigOption,
    JsonOption,
    LakeSourceOption,
    ProviderOption,
    reading_settings,
    settings_from,
)
from qlib_crypto.cli.progress import say
from qlib_crypto.cli.segments import stored_segments
from qlib_crypto.errors import ConfigError, counted


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(run)
    app.command()(report)


def run(
    workflow: Annotated[Path, typer.Argument(help="Such as workflows/lightgbm_60min.yaml.")],
    var: Annotated[
        list[str] | None, typer.Option("--var", help="NAME=VALUE for a {{ NAME }} of the workflow; may be repeated.")
    ] = None,
    fit_segments: Annotated[
        bool, typer.Option("--fit-segments", help="Train, validate and test on all that the provider holds.")
    ] = False,
    as_json: JsonOption = False,
    lake: LakeSourceOption = None,
    provider: ProviderOption = None,
    config: ConfigOption = None,
) -> None:
    """Check the data and the workflow, run it as qrun would, and store a manifest with the results."""
    # read when the library loads: LightGBM's threads would else spin while another process has their core
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from qlib_crypto.workflow.run import run as run_workflow

    settings = reading_settings(config, lake=lake, provider=provider)
    variables = dict(_split(item) for item in var or [])
    if fit_segments:
        variables = {**stored_segments(settings.provider_dir, workflow), **variables}
    result = run_workflow(
        workflow,
        variables=variables,
        settings=settings,
        progress=say,
    )
    if as_json:
        print(json.dumps(result.to_json()))  # noqa: T201 - the command's output
    else:
        for name, value in result_lines(result.metrics or {}):
            say(f"{name:15}{value}")
        say(f"{'report':15}{result.report}")
        say(f"{'summary':15}{result.summary}")


def report(
    experiment: Annotated[str, typer.Argument(help="Experiment name, as in the workflow.")],
    run_id: Annotated[str, typer.Option("--run", help="Run id; the newest finished run when left out.")] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; reports/EXPERIMENT, with --run reports/EXPERIMENT/ID.")
    ] = None,
    provider: ProviderOption = None,
    config: ConfigOption = None,
) -> None:
    """Write the report of a stored run again."""
    from qlib_crypto.report.record import rewrite_report

    settings = settings_from(config, provider=provider)
    path = rewrite_report(settings, experiment, run_id or None, out or settings.reports_dir / experiment / run_id)
    say(f"report   {path}")


def result_lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a run came to, from its `summary.json`: a name and a value each; empty without one."""
    if not summary:
        return []
    ic, se, rank, rank_se = (_in("{:.4f}", summary[key]) for key in ("ic", "ic_se", "rank_ic", "rank_ic_se"))
    net, gross, fall = (_in("{:+.2%}", summary[key]) for key in ("net_return", "gross_return", "max_drawdown"))
    sharpe, a_day = (_in("{:.2f}", summary[key]) for key in ("sharpe_365", "turnover_per_day"))
    fees, funding = (_in("{:+,.0f}", value) for value in (-summary["fees"], summary["funding_net"]))
    known = _in("{:.1%}", summary["assumptions"].get("funding_coverage"))
    return [
        ("IC", f"{ic} ± {se}, rank IC {rank} ± {rank_se}"),
        ("return", f"{net} net, {gross} gross"),
        ("Sharpe, 365 d", f"{sharpe}, max drawdown {fall}"),
        ("fees, funding", f"{fees}, {funding} {summary['quote']}"),
        ("turnover", f"{summary['turnover']:.1f} x equity, {a_day} a day, {counted(summary['trades'], 'trade')}"),
        (
            "coverage",
            f"{counted(summary['symbols'], 'instrument')}, {counted(summary['bars'], 'bar')}, funding known in {known}",
        ),
    ]


def _in(pattern: str, value: float | None) -> str:
    return "undefined" if value is None else pattern.format(value)


def _split(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise ConfigError(f"--var {item!r}: write NAME=VALUE such as --var TOPK=10")
    return name, value
