"""What a backtest costs, beside stock Qlib and vectorbt, with their results compared.

A lake of generated minutes of 50 symbols and 365 days, converted to 1min and 60min; a signal as one time x instrument
matrix on disk. Every part runs in a new process; compiled code is cached before and run once, `array_cold_s` is that
first run. Imports are not counted.

- `array_vs_qlib`: stock Qlib's TopkDropout of a year of hours over the array engine's, loading included; equal equity
  at every step and equal fees and turnover, so equal orders. `array_s` is ours, `qlib_s` stock Qlib.
- `qlib_engine_vs_qlib`: the same over Qlib's own loop on our account.
- `array_vs_vectorbt`: target weights at every bar, vectorbt 1.0.0 (orders and value, without funding) over the array
  engine with fees, funding, cross margin of one tier, both warm, in turn; a turn is the median of five runs, after one
  that takes back the memory which the other gave away.
- `minute_year_s`, `minute_year_gb`: a year of minutes, rebalanced each hour, loading included; `minute_raw_s` is what
  the machine takes to read the same files with numpy and to put them into memory of that shape. In turn, three of each.
- `sweep_scaling`, `backtests_per_s`: 1,000 parameter sets of TopkDropout over a year of hours, two processes over one.

    qlib-crypto bench backtest [--part array] [--days 365] [--sets 1000] [--folder DIR] [--json]

vectorbt is one of the extras (`scripts/setup.sh --extras`); without it its part is left out and said.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _market import write
from _measures import measure, several

from qlib_crypto.lake import Lake
from qlib_crypto.provider.convert import convert
from qlib_crypto.provider.funding import SERIES
from qlib_crypto.settings import ProviderSettings

COUNT = 50


class Bench:
    """One run of all parts: its provider, its signal, and what was seen."""

    def __init__(self, root: Path, days: int, sets: int) -> None:
        self.root, self.days, self.sets = root, days, sets
        self.measures: dict[str, dict[str, Any]] = {}
        self.plain = str(root / "without_funding")
        self.provider, self.signal = str(root / "qlib_data"), str(root / "signal.npy")

    def make(self) -> None:
        """The provider and the signal."""
        print(f"making {self.days} days of {COUNT} symbols", file=sys.stderr, flush=True)
        lake = Lake(self.root / "lake")
        write(lake, COUNT, 0, self.days, by_month=True)
        convert(lake, Path(self.provider), ProviderSettings(intervals=("1m", "1h")))
        lake.close()
        self._without_funding(Path(self.provider), Path(self.plain))
        rng = np.random.default_rng(0)
        walk = np.cumsum(rng.normal(size=(self.days * 24, COUNT)), axis=0)
        np.save(self.signal, walk - np.vstack([np.zeros((48, COUNT)), walk[:-48]]))

    @staticmethod
    def _without_funding(provider: Path, plain: Path) -> None:
        """The same provider with rates of 0, for stock Qlib, which pays none."""
        (plain / "settlements").mkdir(parents=True)
        for entry in provider.iterdir():
            if entry.name != "settlements":
                (plain / entry.name).symlink_to(entry)
        for path in (provider / "settlements").iterdir():
            series = np.fromfile(path, SERIES)
            series["rate"] = 0.0
            series.tofile(plain / "settlements" / path.name)

    def start(self, name: str, **arguments: Any) -> subprocess.Popen[str]:
        """A part in a process of its own."""
        command = [sys.executable, str(Path(__file__).with_name("_engines.py")), name, json.dumps(arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def took(self, name: str, process: subprocess.Popen[str]) -> dict[str, Any]:
        """What it printed."""
        out, said = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{name}:\n{said[-4000:]}")
        took: dict[str, Any] = json.loads(out.splitlines()[-1])
        shown = {key: value for key, value in took.items() if isinstance(value, int | float)}
        print(f"{name} {shown}", file=sys.stderr, flush=True)
        return took

    def part(self, name: str, **arguments: Any) -> dict[str, Any]:
        """A part, start to end."""
        places = {"provider": self.provider, "signal": self.signal}
        return self.took(name, self.start(name, **{**places, **arguments}))


def array(bench: Bench) -> None:
    """TopkDropout three times."""
    ours = bench.part("array", provider=bench.plain, out=str(bench.root / "array.npz"), runs=5)
    stock = bench.part("stock", provider=bench.plain, out=str(bench.root / "stock.npz"), ours=False)
    inside = bench.part("stock", provider=bench.plain, out=str(bench.root / "inside.npz"), ours=True)
    again = bench.part("array", provider=bench.plain, out=str(bench.root / "array.npz"), runs=5)
    seconds = ours["seconds"] + again["seconds"]
    mine, theirs, ours_in_qlib = (np.load(bench.root / f"{name}.npz") for name in ("array", "stock", "inside"))
    fills = mine["fills"]
    traded = np.add.reduceat(np.abs(fills[:, 2]) * fills[:, 3], np.flatnonzero(np.diff(fills[:, 0], prepend=-1)))
    equal = bool(
        np.allclose(mine["equity"], theirs["equity"], rtol=1e-9)
        and np.isclose(fills[:, 5].sum(), theirs["cost"][-1], rtol=1e-9)
        and np.isclose(traded.sum(), theirs["turnover"][-1], rtol=1e-9)
    )
    same = bool(np.allclose(ours_in_qlib["equity"], theirs["equity"], rtol=1e-9))
    put = bench.measures
    put["array_vs_qlib"] = several([stock["wall"] / each for each in seconds], "x", equal=equal)
    put["array_s"], put["qlib_s"] = several(seconds, "s"), measure(stock["wall"], "s")
    put["array_cold_s"], put["orders"] = measure(ours["cold"], "s"), measure(len(fills), "")
    put["qlib_engine_vs_qlib"] = measure(stock["wall"] / inside["wall"], "x", equal=same)


def peer(bench: Bench) -> None:
    """Vectorbt in turn with ours."""
    if importlib.util.find_spec("vectorbt") is None:
        print("vectorbt is not installed: array_vs_vectorbt left out (scripts/setup.sh --extras)", file=sys.stderr)
        return
    took = bench.part("peer", runs=15)
    ratios = [theirs / mine for mine, theirs in zip(took["mine"], took["theirs"], strict=True)]
    equal = took["orders"][0] == took["orders"][1] and took["apart"] <= 1e-9
    put = bench.measures
    put["array_vs_vectorbt"] = several(ratios, "x", equal=equal)
    put["array_ms"] = several([each * 1e3 for each in took["mine"]], "ms")
    put["vectorbt_ms"] = several([each * 1e3 for each in took["theirs"]], "ms")


def minutes(bench: Bench) -> None:
    """A year of minutes."""
    raws, tooks = zip(*((bench.part("raw"), bench.part("minutes")) for _ in range(3)), strict=True)
    for name, parts in (("minute_year_s", tooks), ("minute_raw_s", raws)):
        bench.measures[name] = several([took["wall"] for took in parts], "s")
    bench.measures["minute_year_gb"] = measure(max(took["gb"] for took in tooks), "GB")


def sweep(bench: Bench) -> None:
    """One process, then two."""
    one = bench.part("sweep", first=0, stop=bench.sets)
    half = bench.sets // 2
    places = {"provider": bench.provider, "signal": bench.signal}
    two = [bench.start("sweep", first=first, stop=stop, **places) for first, stop in ((0, half), (half, bench.sets))]
    both = [bench.took("sweep", process) for process in two]
    equal = [*both[0]["ends"], *both[1]["ends"]] == one["ends"]
    wall = max(each["wall"] for each in both)
    bench.measures["sweep_scaling"] = measure(one["wall"] / wall, "x", equal=equal)
    bench.measures["backtests_per_s"] = measure(bench.sets / wall, "/s")


PARTS: dict[str, Callable[[Bench], None]] = {"array": array, "peer": peer, "minutes": minutes, "sweep": sweep}


def _shown(measures: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, one in measures.items():
        equal = {True: "equal", False: "NOT EQUAL", None: ""}[one["equal"]]
        yield f"{name:28} {one['value']:>12,.2f} {one['unit']:4} {one['min']:,.2f} to {one['max']:,.2f}  {equal}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; the exit status is 0 when everything was equal, else 3."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--sets", type=int, default=1000, help="parameter sets of the sweep")
    parser.add_argument("--folder", type=Path, help="where to write (4 GB); a temporary folder otherwise")
    parser.add_argument("--json", action="store_true", help="one object and nothing else")
    arguments = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="backtest-", dir=arguments.folder) as name:
        bench = Bench(Path(name), arguments.days, arguments.sets)
        bench.make()
        for part in arguments.part or PARTS:
            PARTS[part](bench)
    if arguments.json:
        print(json.dumps({"bench": "backtest", "measures": bench.measures}))
    else:
        print("\n".join(_shown(bench.measures)))
    return 3 if any(one["equal"] is False for one in bench.measures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
