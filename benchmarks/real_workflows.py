"""The three workflows on real history, every step the command that a user types.

Four cases: `okx_60min` and `okx_day` on 30 OKX swaps since 2022 (bars and three months of funding by REST from the
sandbox, older settlements from the file), `binance_60min` on 50 USD-M perpetuals, once under `qlib-crypto run` and
once under plain `qrun`, and `okx_5min` on 30 days of 1m bars of nine swaps.

A measure's `equal` is the check that goes with it: the parts of a return sum to it, the plain `qrun` gave the same.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _measures import measure

_ROOT = Path(__file__).resolve().parent.parent
#: The market time at which the sandbox stands still: the end of the OKX settlements' dense part.
_OKX_NOW = "2025-05-10 16:00"
_EXACT = 1e-9
_QRUN = "from qlib.cli.run import run; run()"


@dataclass(frozen=True, slots=True)
class Case:
    """One workflow on one lake: `home` names the folder of lake, provider and runs, which cases may share."""

    home: str
    workflow: str
    variables: Mapping[str, str] = field(default_factory=dict)
    plain_qrun: bool = False


CASES = {
    "okx_60min": Case("okx_1h", "lightgbm_60min"),
    "okx_day": Case("okx_1h", "lightgbm_day"),
    # funding of the 8-hourly contracts is known from 2026-01-12 16:00, of the others from 02-14 or later
    "binance_60min": Case(
        "binance_1h",
        "lightgbm_60min",
        {
            "MARKET": "binance_60min",
            "TRAIN_START": "2025-09-13 08:00:00",
            "TRAIN_END": "2026-02-08 23:00:00",
            "VALID_START": "2026-02-10 00:00:00",
            "VALID_END": "2026-02-22 23:00:00",
            "TEST_START": "2026-02-24 00:00:00",
            "TEST_END": "2026-03-19 16:00:00",
        },
        plain_qrun=True,
    ),
    "okx_5min": Case("okx_1m", "lightgbm_5min"),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took: wall and CPU seconds, and its largest resident memory in MiB."""

    wall_s: float
    cpu_s: float
    peak_mib: float


class Bench:
    """Runs commands in a home folder, so that every setting keeps its default; remembers what each cost."""

    def __init__(self, data: Path, work: Path) -> None:
        self.data = data
        self.work = work
        self.costs: dict[str, Cost] = {}

    def step(self, home: str, label: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """One `qlib-crypto` command, to its end."""
        self._run(home, label, ["-m", "qlib_crypto.cli", *arguments], env or {})

    def qrun(self, home: str, label: str, workflow: Path, variables: Mapping[str, str]) -> None:
        """The workflow under Qlib's own runner; variables come from the environment there."""
        self._run(home, label, ["-c", _QRUN, str(workflow)], variables)

    def _run(self, home: str, label: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        _say(f"[{home}] $ {shlex.join(arguments).replace('-m qlib_crypto.cli', 'qlib-crypto')}")
        begin = time.perf_counter()
        with (self.work / home / f"{label}.log").open("wb") as log:
            process = _start(arguments, self.work / home, log, env)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        cost = Cost(time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
        self.costs[f"{home}.{label}"] = cost
        _say(f"[{home}] {label}: {cost.wall_s:.1f} s, {cost.cpu_s:.1f} s CPU, {cost.peak_mib:,.0f} MiB")
        if process.returncode:
            lines = Path(log.name).read_text(errors="replace").strip().splitlines()
            message = lines[-1] if lines else "no output"
            raise SystemExit(f"real_workflows: {label} ended with exit code {process.returncode}: {message}")

    def prepare(self, home: str) -> None:
        """Lake and provider of a home."""
        (self.work / home).mkdir(parents=True, exist_ok=True)
        {"okx_1h": self._okx_1h, "okx_1m": self._okx_1m, "binance_1h": self._binance_1h}[home]()
        self.step(home, "convert", "convert")
        self.step(home, "verify", "verify")

    def _okx_1h(self) -> None:
        with self._sandbox("okx_1h") as url:
            span = ["--start", "2022-01-01", "--end", _OKX_NOW, "--interval", "1h", "--symbols", "all"]
            self.step("okx_1h", "rank", "rank", "--venue", "okx", "--endpoint", url, *_RAISED)  # also stores the specs
            self.step("okx_1h", "backfill", "backfill", "--venue", "okx", *span, "--endpoint", url, *_RAISED)
        self._import("okx_1h", "funding", "okx", "funding", "okx_swap_funding.parquet")

    def _okx_1m(self) -> None:
        self._import("okx_1m", "kline", "okx", "candles", "okx_swap_1m", "--interval", "1m")
        self._import("okx_1m", "funding", "okx", "funding", "okx_swap_funding.parquet")

    def _binance_1h(self) -> None:
        self._import("binance_1h", "kline", "binance", "candles", "binance_um_1h", "--interval", "1h")
        self._import("binance_1h", "funding", "binance", "funding", "binance_um_funding_2026_all.parquet")

    def _import(self, home: str, dataset: str, venue: str, folder: str, name: str, *more: str) -> None:
        path = str(self.data / folder / name)
        self.step(home, f"import_{dataset}", "import", path, "--venue", venue, "--dataset", dataset, *more)

    @contextmanager
    def _sandbox(self, home: str) -> Iterator[str]:
        arguments = ["sandbox", "--tape", str(self.data), "--venue", "okx", "--port", "0", "--speed", "0"]
        with (self.work / home / "sandbox.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "qlib_crypto.cli", *arguments, "--at", _OKX_NOW, *_RAISED],
                cwd=self.work / home,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            try:
                assert process.stdout is not None
                found = re.search(r"http://\S+?:\d+", process.stdout.readline().decode())
                if found is None:
                    raise SystemExit(f"real_workflows: the sandbox did not start; see {log.name}")
                yield found.group()
            finally:
                process.terminate()
                process.wait(30)


_RAISED = ("--rate-scale", "1000")


def run_case(bench: Bench, name: str) -> dict[str, dict[str, Any]]:
    """The measures of one case, by `CASE.MEASURE`."""
    case = CASES[name]
    workflow = _ROOT / "workflows" / f"{case.workflow}.yaml"
    variables = {"NAME": name, "MISSING_FUNDING": "untradable", **case.variables}
    options = [part for key, value in variables.items() for part in ("--var", f"{key}={value}")]
    bench.step(case.home, f"run_{name}", "run", str(workflow), *options)
    summary = _summary(bench.work / case.home, name)
    found = measures(summary)
    for what, value in _cost(bench.costs[f"{case.home}.run_{name}"]).items():
        found[f"run_{what}"] = value
    if case.plain_qrun:
        plain = {**variables, "NAME": f"{name}_qrun"}
        bench.qrun(case.home, f"qrun_{name}", workflow, plain)
        other = measures(_summary(bench.work / case.home, f"{name}_qrun"))
        results = [key for key in found if not key.startswith(("seconds_", "run_"))]
        same = [key for key in results if found[key]["value"] == other[key]["value"]]
        found["equal_to_qrun"] = measure(len(same) / len(results), "fraction", equal=len(same) == len(results))
    return {f"{name}.{key}": value for key, value in found.items()}


def measures(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures of a `summary.json`; the account's identity is the check beside the net return."""
    parts = summary["gross_return"] + (summary["funding_net"] - summary["fees"]) / summary["start_equity"]
    values = {
        **{key: (summary[key], "count") for key in ("symbols", "bars", "rows", "trades")},
        **{key: (summary[key], "correlation") for key in ("ic", "ic_se", "rank_ic", "rank_ic_se")},
        "turnover": (summary["turnover"], "times equity"),
        "gross_return": (summary["gross_return"], "fraction"),
        "fees": (summary["fees"], summary["quote"]),
        "funding_paid": (summary["funding_paid"], summary["quote"]),
        "funding_received": (summary["funding_received"], summary["quote"]),
        "settlements": (summary["settlements"], "count"),
        "sharpe_365": (summary["sharpe_365"], "ratio"),
        "max_drawdown": (summary["max_drawdown"], "fraction"),
        "benchmark_btc": (summary["benchmarks"]["btc"], "fraction"),
        "benchmark_equal": (summary["benchmarks"]["equal"], "fraction"),
        "dropped_features": (len(summary["dropped_features"]), "count"),
        "funding_coverage": (summary["assumptions"]["funding_coverage"], "fraction"),
        **{f"seconds_{stage}": (seconds, "s") for stage, seconds in summary["seconds"].items()},
    }
    found = {key: measure(value, unit) for key, (value, unit) in values.items()}
    net = summary["net_return"]
    found["net_return"] = measure(net, "fraction", equal=math.isclose(parts, net, rel_tol=0, abs_tol=_EXACT))
    return found


def main(argv: list[str]) -> int:
    """Run the chosen cases; 0 when every check held, otherwise 1."""
    parser = argparse.ArgumentParser(prog="qlib-crypto bench real_workflows", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/real"), help="folder of real Parquet")
    parser.add_argument("--only", action="append", choices=CASES, help="a case; may be repeated")
    parser.add_argument("--work", type=Path, help="folder for lakes, providers and reports; a temporary one otherwise")
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON object")
    options = parser.parse_args(argv)
    if not (options.data / "candles").is_dir():
        _say(f"real_workflows: {options.data} has no folder candles; give --data the folder of real Parquet")
        return 2
    with tempfile.TemporaryDirectory() if options.work is None else _kept(options.work) as folder:
        bench = Bench(options.data.resolve(), Path(folder).resolve())
        found: dict[str, dict[str, Any]] = {}
        chosen = options.only or list(CASES)
        for home in dict.fromkeys(CASES[name].home for name in chosen):
            bench.prepare(home)
        for name in chosen:
            found |= run_case(bench, name)
        for label, cost in bench.costs.items():
            if ".run_" not in label:
                found |= {f"{label}_{what}": value for what, value in _cost(cost).items()}
    if not options.json:
        _table(found, chosen)
    print(json.dumps({"bench": "real_workflows", "runs": 1, "measures": found}))
    return 0 if all(measure["equal"] is not False for measure in found.values()) else 1


def _start(arguments: Sequence[str], cwd: Path, log: Any, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **env})


def _summary(home: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((home / "reports" / name / "summary.json").read_text(encoding="utf-8"))
    return content


def _cost(cost: Cost) -> dict[str, dict[str, Any]]:
    return {
        "seconds": measure(cost.wall_s, "s"),
        "cpu_seconds": measure(cost.cpu_s, "s"),
        "peak_memory": measure(cost.peak_mib, "MiB"),
    }


def _table(found: Mapping[str, Mapping[str, Any]], cases: Sequence[str]) -> None:
    keys = dict.fromkeys(key.split(".", 1)[1] for key in found if key.split(".", 1)[0] in cases)
    _say(f"{'':24}" + "".join(f"{case:>16}" for case in cases))
    for key in keys:
        values = (found.get(f"{case}.{key}", {}).get("value") for case in cases)
        _say(f"{key:24}" + "".join(f"{'' if value is None else f'{value:,.5g}':>16}" for value in values))


@contextmanager
def _kept(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
