"""Commands of research: run report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from qlib_crypto.cli.options import ConfigOption, JsonOption, LakeOption, ProviderOption, settings_from
from qlib_crypto.cli.progress import say
from qlib_crypto.cli.segments import stored_segments
from qlib_crypto.errors import ConfigError


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
    lake: LakeOption = None,
    provider: ProviderOption = None,
    config: ConfigOption = None,
) -> None:
    """Check the data and the workflow, run it as qrun would, and store a manifest with the results."""
    # read when the library loads: LightGBM's threads would else spin while another process has their core
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from qlib_crypto.workflow.run import run as run_workflow

    settings = settings_from(config, lake=lake, provider=provider)
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
        say(f"report   {result.report}")
        say(f"summary  {result.summary}")


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


def _split(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name:
        raise ConfigError(f"--var {item!r}: write NAME=VALUE such as --var TOPK=10")
    return name, value
