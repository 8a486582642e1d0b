"""What a conversion costs, beside Qlib's own dump and beside the least that it could cost.

A lake of 50 symbols for 60 days of minutes in 3,000 files a symbol and day, with missing minutes and late first bars;
the same days merged to a file a symbol and month; and one of 720 days, as the lake keeps them: months, and days for the
last 90. Contenders take turns, each time in a new process, once what was written before is on the disk; imports are
not counted on either side.

- `full_wall`, `full_cpu`: minutes alone from merged files, `DumpDataAll` over ours. Ours writes twice as many fields,
  and compares some of its values with a second computation. `full_synced_s` is ours with everything on the disk.
- `from_days_limit`: all six frequencies from the small files, over the fastest decode of them and a raw write of as
  many bytes into as many files.
- `append_unsynced`, `append_synced`: one day more of minutes, `DumpDataUpdate` over ours, in a process that has
  converted before; `append_named` unsynced, from the moment the lake names the files. `append_wrong_files` counts the
  files that `DumpDataUpdate` then has wrong.
- `append_history`: one day more at six frequencies, 720 days over 60 days.
- `late_bar_ms`: a restated bar of a year ago at six frequencies, from the moment that its file is named;
  `late_scan_ms`: with a look at every file of the lake.
- `peak_mb`, `peak_growth`: memory of a full conversion at six frequencies, and that of 720 days over it.
- `calendar`: `D.calendar` of four years of minutes in a new process, Qlib's own over ours.

    qlib-crypto bench convert [--dump-bin QLIB] [--part full] [--runs 3] [--folder DIR] [--json]

`--dump-bin` is a checkout of Qlib, for its `scripts/dump_bin.py`; without one its storage class is dumped through.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _market import T0, day, instruments, whole_months, write
from _measures import several

from qlib_crypto.clock import DAY_MS
from qlib_crypto.lake import Lake
from qlib_crypto.provider.calendar import Grid
from qlib_crypto.symbols import Interval

#: What a dump of Qlib writes.
FIELDS = ("open", "high", "low", "close", "volume", "amount", "vwap", "factor")
COUNT, DAYS, TIMES, RECENT = 50, 60, 12, 90
ONE = ["1m"]
SIX = ["1m", "5m", "15m", "1h", "4h", "1d"]
LATE = 11
CALENDAR_DAYS = 4 * 365

Measures = dict[str, dict[str, Any]]


@dataclass
class Bench:
    """One run of all parts: its folder, and what was seen."""

    root: Path
    dump_bin: str | None
    runs: int
    days: int
    measures: Measures = field(default_factory=dict)

    def put(self, name: str, values: Sequence[float], unit: str, *, equal: bool | None = None) -> None:
        """A figure: median, lowest, highest."""
        self.measures[name] = several(values, unit, equal=equal)

    def lake(self, name: str) -> Path:
        """A lake, made when it is first asked for."""
        root = self.root / "lakes" / name
        if not root.exists():
            print(f"making lake {name}", file=sys.stderr, flush=True)
            lake = Lake(root)
            if name == "long":
                since = whole_months(max(self.days * TIMES - RECENT, 0))
                write(lake, COUNT, 0, since, by_month=True)
                write(lake, COUNT, since, self.days * TIMES)
            elif name == "small":
                write(lake, 2, 0, 3)
            else:
                write(lake, COUNT, 0, self.days, by_month=name == "months")
            lake.close()
        return root

    def part(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Run a part in a process of its own."""
        file = "_qlibs.py" if name in {"qlib", "calendar"} else "_ours.py"
        command = [sys.executable, str(Path(__file__).with_name(file)), name, json.dumps(arguments)]
        os.sync()  # what was written before is not this part's work
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name} {arguments}:\n{done.stderr[-4000:]}")
        took: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        said = {key: round(value, 3) for key, value in took.items() if isinstance(value, float)}
        print(f"{name} {arguments.get('provider', arguments.get('target', ''))} {said}", file=sys.stderr, flush=True)
        return took

    def ours(self, lake: Path, provider: Path, intervals: Sequence[str], **more: Any) -> dict[str, Any]:
        """One conversion."""
        return self.part("ours", lake=str(lake), provider=str(provider), intervals=intervals, **more)

    def fresh(self, name: str) -> Path:
        """A path for a provider that is not there."""
        shutil.rmtree(self.root / name, ignore_errors=True)
        return self.root / name / "qlib_data"


def full(bench: Bench) -> None:
    """Minutes from merged files, ours and Qlib's in turn."""
    lake, data = bench.lake("months"), merged(bench, "merged", 0, bench.days)
    mine, theirs, synced, same = [], [], [], True
    for _ in range(bench.runs):
        provider, target = bench.fresh("full"), bench.fresh("full_qlib")
        mine.append(bench.ours(lake, provider, ONE))
        theirs.append(bench.part("qlib", step="all", data=str(data), target=str(target), dump_bin=bench.dump_bin))
        same &= differing(provider, target) == []
        synced.append(bench.ours(lake, bench.fresh("full"), ONE, durable=True))
    for name in ("wall", "cpu"):
        ratios = [their[name] / my[name] for my, their in zip(mine, theirs, strict=True)]
        bench.put(f"full_{name}", ratios, "times", equal=same)
        bench.put(f"full_{name}_s", [took[name] for took in mine], "s", equal=same)
        bench.put(f"full_{name}_qlib_s", [took[name] for took in theirs], "s")
    bench.put("full_synced_s", [took["wall"] for took in synced], "s")


def from_days(bench: Bench) -> None:
    """Six frequencies from small files, beside the least that must be done; and memory."""
    lake, mine, least = bench.lake("days"), [], []
    for _ in range(bench.runs):
        provider = bench.fresh("six")
        mine.append(bench.ours(lake, provider, SIX))
        least.append(bench.part("limit", lake=str(lake), provider=str(provider), target=str(bench.fresh("raw"))))
    again = bench.fresh("six_months")
    bench.ours(bench.lake("months"), again, SIX)
    same = contents(provider, settlements=True) == contents(again, settlements=True)
    ratios = [my["wall"] / limit["wall"] for my, limit in zip(mine, least, strict=True)]
    bench.put("from_days_limit", ratios, "times", equal=same)
    bench.put("from_days_s", [took["wall"] for took in mine], "s", equal=same)
    bench.put("from_days_raw_s", [took["wall"] for took in least], "s")
    bench.put("peak_mb", [took["rss_mb"] for took in mine], "MB", equal=same)


def append(bench: Bench) -> None:
    """Day after day of minutes: ours, ours on the disk, and Qlib's."""
    lake, days = bench.root / "lakes" / "growing", range(bench.days, bench.days + bench.runs)
    shutil.copytree(bench.lake("days"), lake)
    providers = {name: bench.fresh(f"append_{name}") for name in ("unsynced", "named", "synced")}
    for provider in providers.values():
        bench.ours(lake, provider, ONE)
    target = bench.fresh("append_qlib")
    data = merged(bench, "merged", 0, bench.days)
    bench.part("qlib", step="all", data=str(data), target=str(target), dump_bin=bench.dump_bin)
    took: dict[str, list[float]] = {name: [] for name in (*providers, "qlib")}
    for at in days:
        paths = [str(path) for path in write(Lake(lake), COUNT, at, at + 1)]
        for name, provider in providers.items():
            more = {"durable": name == "synced", "warm": str(small(bench))}
            more["named"] = paths if name == "named" else None
            took[name].append(bench.ours(lake, provider, ONE, **more)["wall"])
        if bench.dump_bin:
            data = merged(bench, f"merged_{at}", at, at + 1)
            found = bench.part("qlib", step="update", data=str(data), target=str(target), dump_bin=bench.dump_bin)
        else:
            found = bench.ours(lake, bench.fresh("append_full"), ONE, full=True)
        took["qlib"].append(found["wall"])
    whole = bench.fresh("append_full")
    bench.ours(lake, whole, ONE)
    same = all(contents(provider) == contents(whole) for provider in providers.values())
    equal = None if bench.dump_bin is None else same
    for name in providers:
        ratios = [their / my for my, their in zip(took[name], took["qlib"], strict=True)]
        bench.put(f"append_{name}", ratios, "times", equal=equal)
        bench.put(f"append_{name}_ms", [1e3 * wall for wall in took[name]], "ms", equal=same)
    bench.put("append_qlib_s", took["qlib"], "s")
    if bench.dump_bin:
        bench.put("append_wrong_files", [len(differing(whole, target))], f"files of {COUNT * len(FIELDS)}", equal=same)


def history(bench: Bench) -> None:
    """A day more, and a late bar, of a short and of a long history."""
    lakes = {1: bench.root / "lakes" / "short", TIMES: bench.lake("long")}
    shutil.copytree(bench.lake("days"), lakes[1])
    providers = {times: bench.fresh(f"history_{times}") for times in lakes}
    peak = {times: bench.ours(lakes[times], providers[times], SIX)["rss_mb"] for times in lakes}
    took: dict[int, list[float]] = {times: [] for times in lakes}
    for turn in range(bench.runs):
        for times, lake in lakes.items():
            at = bench.days * times + turn
            write(Lake(lake), COUNT, at, at + 1)
            found = bench.ours(lake, providers[times], SIX, warm=str(small(bench)))
            took[times].append(found["wall"])
    places = [[7 * turn % COUNT, bench.days * TIMES - 365 - turn] for turn in range(2 * LATE)]
    late = bench.part("late", lake=str(lakes[TIMES]), provider=str(providers[TIMES]), intervals=SIX, at=places)
    same = True
    for times, lake in lakes.items():
        whole = bench.fresh(f"history_{times}_full")
        again = bench.ours(lake, whole, SIX)
        peak[times] = max(peak[times], again["rss_mb"])
        same &= contents(whole, settlements=True) == contents(providers[times], settlements=True)
    ratios = [long / short for short, long in zip(took[1], took[TIMES], strict=True)]
    bench.put("append_history", ratios, "times", equal=same)
    for times in lakes:
        bench.put(f"append_six_{bench.days * times}_days_ms", [1e3 * wall for wall in took[times]], "ms", equal=same)
    for name, walls in (("late_bar_ms", late["named"]), ("late_scan_ms", late["scanned"])):
        bench.put(name, [1e3 * wall for wall in walls[1:]], "ms", equal=same)
    bench.put("peak_growth", [peak[TIMES] / peak[1]], "times", equal=same)


def calendar(bench: Bench) -> None:
    """Four years of minutes, Qlib's own and ours in turn."""
    provider = bench.root / "calendar" / "qlib_data"
    for name in ("calendars", "instruments", "features"):
        (provider / name).mkdir(parents=True, exist_ok=True)
    text = Grid(Interval.parse("1m"), T0 - 1461 * DAY_MS, CALENDAR_DAYS * 1440).text()
    (provider / "calendars" / "1min.txt").write_bytes(text)
    stock, mine = [], []
    for _ in range(bench.runs):
        stock.append(bench.part("calendar", provider=str(provider), grid=False))
        mine.append(bench.part("calendar", provider=str(provider), grid=True))
    same = len({took["content"] for took in (*stock, *mine)}) == 1
    bench.put("calendar", [a["wall"] / b["wall"] for a, b in zip(stock, mine, strict=True)], "times", equal=same)
    bench.put("calendar_ms", [1e3 * took["wall"] for took in mine], "ms", equal=same)
    bench.put("calendar_qlib_ms", [1e3 * took["wall"] for took in stock], "ms")


def small(bench: Bench) -> Path:
    """A folder with a small lake, for a process to warm up on."""
    folder = bench.root / "warm"
    if not folder.exists():
        write(Lake(folder / "lake"), 2, 0, 3)
    return folder


def merged(bench: Bench, name: str, first: int, last: int) -> Path:
    """What `DumpDataAll` reads: a file a symbol with its own fields ready, from the lake's rows."""
    folder = bench.root / name
    if folder.exists():
        return folder
    folder.mkdir()
    for number, instrument in enumerate(instruments(COUNT)):
        table = pa.concat_tables([day(number, at) for at in range(first, last)])
        volume, amount = table["volume"].to_numpy(), table["quote_volume"].to_numpy()
        columns = {name: table[name] for name in ("open", "high", "low", "close", "volume")}
        columns |= {"amount": amount, "vwap": amount / volume, "factor": np.ones(len(table))}
        date = table["timestamp"].cast(pa.timestamp("ms"))
        pq.write_table(pa.table({"date": date, **columns}), folder / f"{instrument.qlib}.parquet")
    return folder


def differing(provider: Path, target: Path) -> list[str]:
    """Files of Qlib's dump that are not what ours are, its calendar too."""
    paths = [path for path in target.rglob("*") if path.suffix == ".bin" or path.name == "1min.txt"]
    if len(paths) != COUNT * len(FIELDS) + 1:
        raise RuntimeError(f"{target} has {len(paths)} files instead of {COUNT * len(FIELDS) + 1}")
    names = (path.relative_to(target) for path in paths)
    return [str(name) for name in names if (provider / name).read_bytes() != (target / name).read_bytes()]


def contents(provider: Path, *, settlements: bool = False) -> dict[str, int]:
    """A hash of every file that readers read."""
    parts = ("calendars", "features", "instruments", *["settlements"] * settlements)
    paths = (path for part in parts for path in (provider / part).rglob("*") if path.is_file())
    return {str(path.relative_to(provider)): hash(path.read_bytes()) for path in paths}


PARTS: dict[str, Callable[[Bench], None]] = {
    "full": full, "from_days": from_days, "append": append, "history": history, "calendar": calendar,
}  # fmt: skip


def _shown(measures: Measures) -> Iterator[str]:
    for name, one in measures.items():
        equal = {True: "equal", False: "NOT EQUAL", None: ""}[one["equal"]]
        yield f"{name:28} {one['value']:>12,.2f} {one['unit']:9} {one['min']:,.2f} to {one['max']:,.2f}  {equal}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; the exit status is 0 when everything was equal, else 3."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--dump-bin", help="a checkout of Qlib")
    parser.add_argument("--runs", type=int, default=3, help="how often contenders take turns")
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--folder", type=Path, help="where to write (12 GB); a temporary folder otherwise")
    parser.add_argument("--json", action="store_true", help="one object and nothing else")
    arguments = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="convert-", dir=arguments.folder) as name:
        bench = Bench(Path(name), arguments.dump_bin, arguments.runs, arguments.days)
        for part in arguments.part or PARTS:
            PARTS[part](bench)
    if arguments.json:
        print(json.dumps({"bench": "convert", "runs": arguments.runs, "measures": bench.measures}))
    else:
        print("\n".join(_shown(bench.measures)))
    return 3 if any(one["equal"] is False for one in bench.measures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
