"""Commands on the job table: jobs submit, jobs list, jobs cancel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qlib_crypto.cli.options import ConfigOption, JsonOption, LakeOption, settings_from
from qlib_crypto.cli.progress import say
from qlib_crypto.clock import iso
from qlib_crypto.errors import ConfigError

if TYPE_CHECKING:
    from qlib_crypto.daemon.job import Job
    from qlib_crypto.daemon.jobs import JobTable

_COLOUR = {"pending": "cyan", "running": "blue", "completed": "green", "failed": "red", "cancelled": "yellow"}
#: Letters of a result that the list shows; --json has all.
_BRIEF = 100
#: Columns of the list where there is no terminal: a row stays one line.
_WIDE = 400

jobs = typer.Typer(help="Work for the daemon: submit it, see what was done, cancel it.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(jobs, name="jobs")


@jobs.command()
def submit(
    kind: Annotated[
        str,
        typer.Argument(help="rank repair seal push convert instruments reconcile check retain health run backfill."),
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="NAME=VALUE, such as start=2025-04-01; for run: workflow=w/a.yaml fit_segments=true var.TOPK=3."
        ),
    ] = None,
    venue: Annotated[str, typer.Option("--venue", help="okx or binance, for kinds that work on one.")] = "",
    as_json: JsonOption = False,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask the daemon of this lake for one piece of work; it begins when the daemon is free, or next starts."""
    from qlib_crypto.daemon.kinds import checked
    from qlib_crypto.daemon.lock import FILE as LOCK
    from qlib_crypto.watch.holders import holder

    given = {"venue": venue} if venue else {}
    for item in arguments or []:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise ConfigError(f"{item!r}: write NAME=VALUE such as start=2025-04-01")
        given[name] = value
    values = checked(kind, given)
    if kind == "run":
        path = Path(values["workflow"]).resolve()  # the daemon may run in another folder
        if not path.is_file():
            raise ConfigError(f"workflow {path} does not exist; give the path of a YAML file")
        values["workflow"] = str(path)
    with _table(lake, config) as table:
        number = table.submit(kind, values, by="command line")
        waits = "" if holder(table.path.with_name(LOCK)) else "; no daemon works on this lake: start qlib-crypto daemon"
    if as_json:
        print(json.dumps({"id": number, "kind": kind, "arguments": values}))  # noqa: T201 - the command's output
    else:
        say(f"job {number} submitted to {table.path}{waits}")


@jobs.command(name="list")
def list_(
    state: Annotated[str, typer.Option(help="pending, running, completed, failed or cancelled.")] = "",
    kind: Annotated[str, typer.Option(help="Such as repair.")] = "",
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1)] = 50,
    as_json: JsonOption = False,
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """The jobs of this lake, the newest last. Periods are market time, the other times this machine's, both UTC."""
    from qlib_crypto.daemon.job import State
    from qlib_crypto.daemon.kinds import KINDS

    if state and state not in set(State):
        raise ConfigError(f"--state {state!r} is unknown; choose one of: {' '.join(State)}")
    if kind and kind not in KINDS:
        raise ConfigError(f"--kind {kind!r} is unknown; choose one of: {' '.join(KINDS)}")
    with _table(lake, config) as table:
        found = table.list(state=State(state) if state else None, kind=kind or None, limit=limit)
    if as_json:
        print(json.dumps([job._asdict() for job in found]))  # noqa: T201 - the command's output
    else:
        _show(found)


@jobs.command()
def cancel(
    number: Annotated[int, typer.Argument(metavar="ID", help="As in the list.")],
    lake: LakeOption = None,
    config: ConfigOption = None,
) -> None:
    """Cancel a pending job, or end a running one; what it stored is kept."""
    from qlib_crypto.daemon.job import State

    with _table(lake, config) as table:
        before = table.cancel(number)
    ended = before not in {State.PENDING, State.RUNNING}
    say(f"job {number} was {before} and stays so" if ended else f"job {number} was {before}; cancelled")


@contextmanager
def _table(lake: Path | None, config: Path | None) -> Iterator[JobTable]:
    from qlib_crypto.daemon.jobs import FILE, JobTable
    from qlib_crypto.daemon.kinds import EACH

    table = JobTable(settings_from(config, lake=lake).lake_dir / FILE, each=EACH)
    try:
        yield table
    finally:
        table.close()


def _show(found: Sequence[Job]) -> None:
    if not found:
        say("no jobs")
        return
    table = Table("id", "job", "period", "state", "submitted", "took", "outcome", box=None, pad_edge=False)
    for job in found:
        subject = " ".join(f"{name}={value}" for name, value in job.arguments.items() if name != "venue")
        words = [job.kind, str(job.arguments.get("venue", "")), subject]
        took = (
            "" if job.started_ms is None or job.ended_ms is None else f"{(job.ended_ms - job.started_ms) / 1000:.1f} s"
        )
        outcome = job.error if job.error and job.state != "completed" else _brief(job)
        table.add_row(
            str(job.id), " ".join(filter(None, words)), "" if job.period_ms is None else iso(job.period_ms)[:16],
            f"[{_COLOUR[job.state]}]{job.state}[/]", iso(job.submitted_ms), took, escape(outcome),
        )  # fmt: skip
    terminal = Console(highlight=False)
    console = terminal if terminal.is_terminal else Console(highlight=False, width=_WIDE)
    console.print(table)


def _brief(job: Job) -> str:
    """The result in a few words: names and numbers, sums of those that have parts."""
    if job.result is None:
        return f"attempt {job.attempts}" if job.attempts else f"by {job.submitted_by}"
    words = []
    for name, value in job.result.items():
        if name == "said":  # the last words of a command that gives no numbers
            words.append(str(value))
            continue
        if value in (None, [], {}, ""):
            continue
        numbers = [v for v in value.values() if isinstance(v, (int, float))] if isinstance(value, dict) else []
        if not isinstance(value, dict):
            words.append(f"{name} {value}")
        elif numbers:
            words.append(f"{name} {sum(numbers):,}")
    return ", ".join(words)[:_BRIEF]
