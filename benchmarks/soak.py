"""A daemon for 24 simulated days with random faults and a restart each day: what is missing, which job did not run.

The sandbox plays a generated market at 2,100 times real time; the daemon ranks, collects, repairs, converts and keeps
up the lake by itself. Every day it is ended, by turns with SIGTERM and with SIGKILL, and started again
at once; faults of the venue come at random instants between. The market goes on for half an hour after the last day,
without new faults: what a venue did not have at first is asked for again ten minutes later. At the end every bar of the
days of every contract in the universe is compared with the tape, and every period of every scheduled job must have
exactly one completed row.

    qlib-crypto bench soak [--days 24] [--speed 2100] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from _faults import FAULTS
from _measures import measure
from _site import M1, UNLIMITED, end
from _truth import Difference, bars_differ, settlements_differ

from qlib_crypto.clock import DAY_MS, MINUTE_MS, iso
from qlib_crypto.daemon.job import State
from qlib_crypto.daemon.jobs import JobTable
from qlib_crypto.daemon.schedule import scheduled
from qlib_crypto.lake import Lake
from qlib_crypto.sandbox.generator import GeneratorTape
from qlib_crypto.sandbox.generator_config import GeneratorConfig
from qlib_crypto.sandbox.serve import SandboxHandle, running
from qlib_crypto.settings import Settings, load_settings
from qlib_crypto.symbols import Instrument, Venue
from qlib_crypto.universe import membership_spans

#: The venue is left alone in the last part of a day, so that a restart does not fall on a fault.
_FAULTS_A_DAY = 4
_PATIENCE_S = 180.0
_AFTER_MS = 30 * MINUTE_MS
_TIMER_SCALE = 0.02


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; the exit status is 0 when coverage is whole and no job was missed, else 3."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=24.0)
    parser.add_argument("--speed", type=float, default=2_100.0)
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--venue", type=Venue, default=Venue.OKX)
    parser.add_argument("--seed", type=int, default=20250501)
    parser.add_argument("--keep", type=Path, help="folder for lake and log, kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    folder: AbstractContextManager[Any] = tempfile.TemporaryDirectory(prefix="soak-")
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        folder = nullcontext(arguments.keep.resolve())
    with folder as root:
        measures = soak(Path(root), arguments)
    if arguments.json:
        print(json.dumps({"bench": "soak", "runs": 1, "measures": measures}))
    else:
        for name, found in measures.items():
            print(f"{name:<24} {found['value']} {found['unit']}")
    return 0 if all(found["equal"] for found in measures.values()) else 3


def soak(root: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The measures of one run."""
    days = int(-(-arguments.days // 1)) + 2
    config = GeneratorConfig(venue=arguments.venue, n_symbols=30, minute_days=days)
    config = GeneratorConfig(
        venue=arguments.venue, n_symbols=30, minute_days=days, end_ms=config.start_ms + (days + 2) * DAY_MS
    )
    tape = GeneratorTape(config)
    start = config.end_ms - days * DAY_MS + DAY_MS
    stop = start + int(arguments.days * DAY_MS)
    settings = _settings(root, arguments)
    until = stop + _AFTER_MS
    with running(
        [tape], process=True, speed=arguments.speed, at=start, until=until, rate_scale=UNLIMITED, awkward=True
    ) as sandbox:
        restarts, since, took, settled = _days(root, sandbox, arguments, settings, stop)
    found = _lake(root, tape, arguments.venue, (start, stop))
    missed = _missed(root, arguments.venue, settings, since, stop)
    told = f"  lake: {found}; jobs not done once: {', '.join(missed[:5]) or 'none'}"
    print(told, file=sys.stderr)
    coverage = 100.0 * (found.rows - found.lost) / max(1, found.rows)
    return {
        "soak_coverage": measure(coverage, "%", equal=found.equal),
        "soak_rows": measure(found.rows, "rows", equal=found.equal),
        "soak_rows_named": measure(found.named, "rows", equal=found.equal),
        "soak_jobs_missed": measure(len(missed), "jobs", equal=not missed),
        "soak_restarts": measure(restarts, "restarts", equal=True),
        "soak_speed": measure((stop - start) / 1_000 / took, "x real time", equal=True),
        "soak_settle_s": measure(settled, "s", equal=True),
    }


def _days(
    root: Path, sandbox: SandboxHandle, arguments: argparse.Namespace, settings: Settings, stop: int
) -> tuple[int, dict[str, int], float, float]:
    """Live through the days.

    How often the daemon was ended and started again, since when each job is due, how many seconds the days took, and
    how many more until nothing was left to do.
    """
    began = time.monotonic()
    draw = random.Random(arguments.seed)
    faults = [f for f in FAULTS if arguments.venue in f.venues]
    restarts, now = 0, sandbox.status()["market_ms"]
    with (root / "log.txt").open("a") as log:
        daemon = _daemon(root, sandbox, arguments, log)
        try:
            since = _since(root, arguments.venue, settings)
            while now < stop:
                for _ in range(_FAULTS_A_DAY):
                    _sleep(sandbox, now + int(draw.uniform(0.05, 0.3) * DAY_MS), stop)
                    now = sandbox.status()["market_ms"]
                    if now < stop:
                        draw.choice(faults).arm(sandbox, arguments.venue)
                if now < stop:
                    restarts += 1
                    end(daemon, signal.SIGKILL if restarts % 2 else signal.SIGTERM)
                    daemon = _daemon(root, sandbox, arguments, log)
            took = time.monotonic() - began
            _settle(root, daemon)
        finally:
            end(daemon)
    return restarts, since, took, time.monotonic() - began - took


def _settle(root: Path, daemon: subprocess.Popen[bytes]) -> None:
    """The market stands still half an hour after the days: let the daemon finish what is due."""
    until = time.monotonic() + _PATIENCE_S
    table = JobTable(root / "jobs.sqlite")
    quiet = 0
    while time.monotonic() < until and quiet < 5:
        time.sleep(1.0)
        if daemon.poll() is not None:
            raise RuntimeError(f"the daemon ended with {daemon.returncode}")
        open_jobs = [*table.list(state=State.PENDING), *table.list(state=State.RUNNING)]
        quiet = 0 if open_jobs else quiet + 1
    table.close()


def _sleep(sandbox: SandboxHandle, until_ms: int, stop: int) -> None:
    while sandbox.status()["market_ms"] < min(until_ms, stop):
        time.sleep(0.05)


def _daemon(root: Path, sandbox: SandboxHandle, arguments: argparse.Namespace, log: Any) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "qlib_crypto.cli", "daemon", "--venue", arguments.venue, "--clock", "venue",
        "--endpoint", sandbox.url, "--rate-scale", str(UNLIMITED), "--config", str(root / "config.yaml"),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _settings(root: Path, arguments: argparse.Namespace) -> Settings:
    path = root / "config.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "lake_dir": str(root),
                "provider_dir": str(root / "qlib_data"),
                "universe": {"size": arguments.symbols},
                "watch": {"metrics_port": 0},
                arguments.venue.value: {"timer_scale": _TIMER_SCALE},
            }
        )
    )
    return load_settings(path)


def _lake(root: Path, tape: GeneratorTape, venue: Venue, span: tuple[int, int]) -> Difference:
    """Lake against tape, for the time that each contract was in the universe."""
    lake, found = Lake(root), Difference()
    try:
        for of in _followed(lake, tape, venue, span):
            found += bars_differ(lake, tape, of, M1)
            found += settlements_differ(lake, tape, {i: (a, max(a, b - 2 * MINUTE_MS)) for i, (a, b) in of.items()})
    finally:
        lake.close()
    return found


def _followed(
    lake: Lake, tape: GeneratorTape, venue: Venue, span: tuple[int, int]
) -> list[dict[Instrument, tuple[int, int]]]:
    """While each contract was in the universe: what a collector had to have, as dicts of one span an instrument."""
    out: list[dict[Instrument, tuple[int, int]]] = []
    for symbol, pieces in membership_spans(lake, venue).items():
        instrument = Instrument.parse(symbol, venue)
        spec = tape.specs[instrument]
        for number, (since, until) in enumerate(pieces):
            a = max(M1.floor(since) + M1.ms, spec.listed_ms or 0, span[0])
            b = min(until or span[1], spec.delisted_ms or span[1], span[1])
            while len(out) <= number:
                out.append({})
            out[number][instrument] = (a, max(a, M1.floor(b)))
    return out


def _since(root: Path, venue: Venue, settings: Settings) -> dict[str, int]:
    """From when on each job is due: what the first daemon noted at its start."""
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        time.sleep(0.2)
        if not (root / "jobs.sqlite").exists():
            continue
        table = JobTable(root / "jobs.sqlite")
        noted = {e.kind: table.submitted_to(e.kind, e.arguments) for e in scheduled(settings.schedule, [venue])}
        table.close()
        if all(at is not None for at in noted.values()):
            return {kind: at for kind, at in noted.items() if at is not None}
    raise RuntimeError("the daemon noted no schedule")


def _missed(root: Path, venue: Venue, settings: Settings, since: dict[str, int], stop: int) -> list[str]:
    """Periods that do not have exactly one completed row, and why."""
    table = JobTable(root / "jobs.sqlite")
    rows: dict[tuple[str, int], list[str]] = {}
    for job in table.list():
        if job.period_ms is not None:
            rows.setdefault((job.kind, job.period_ms), []).append(f"{job.state} {job.error or ''}".strip())
    table.close()
    return [
        f"{entry.kind} {iso(due)} ({', '.join(states) or 'no row'})"
        for entry in scheduled(settings.schedule, [venue])
        for due in entry.period.between(since[entry.kind], stop)
        if (states := rows.get((entry.kind, due), [])) != ["completed"]
    ]


if __name__ == "__main__":
    sys.exit(main())
