"""How fast the hot store takes bars that are on disk before the call returns, beside what one would do without it.

Four parts, each with its equality check: what was acknowledged is what is read back.

- `sustained`: bars of 300 symbols in calls of 9,900 for 60 s; the time to make the rows counts too.
- `burst`: one bar of 300 symbols a call. In turn with it, in the same folder: a plain append and `fdatasync` of as many
  bytes, and a JSON-lines journal with `fsync`.
- `seal`: a day of 300 symbols is sealed by another process while bursts go on.
- `parquet`: the day's Parquet file rewritten durably for each row, as simple collectors do.

    qlib-crypto bench ingest [--part burst] [--seconds 60] [--bursts 1000] [--folder DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from _measures import measure, several

from qlib_crypto.clock import DAY_MS, parse_utc
from qlib_crypto.lake import Lake
from qlib_crypto.lake.files import read_table, write_table
from qlib_crypto.lake.tables import BARS
from qlib_crypto.schemas import KLINE, Bar
from qlib_crypto.symbols import Instrument, Interval, Venue

M1 = Interval.parse("1m")
SYMBOLS = [Instrument(f"C{k:03d}", "USDT", Venue.OKX) for k in range(300)]
T0 = parse_utc("2025-01-01")
RECEIVED_MS = parse_utc("2030-01-01")
MINUTES_A_CALL = 33
PARQUET_ROWS = 300
_LINE = struct.Struct("<16sqqqqddddddqq")


def columns(minute: int) -> dict[str, np.ndarray]:
    """What the bars of one minute say, by column, in the order of `SYMBOLS`; different in every row."""
    base = 100.0 + np.arange(len(SYMBOLS)) + minute * 1e-6
    return {
        "open": base, "high": base + 1.25, "low": base - 1.25, "close": base + 0.5,
        "volume": base * 1e3, "quote_volume": base * base * 1e3,
    }  # fmt: skip


def bars(first: int, minutes: int = 1) -> list[Bar]:
    """The bars of all symbols for some minutes, as a feed hands them over."""
    rows: list[Bar] = []
    for minute in range(first, first + minutes):
        numbers = [values.tolist() for values in columns(minute).values()]
        at = repeat(T0 + minute * M1.ms)
        rest = repeat(minute), repeat("ws"), repeat(RECEIVED_MS)
        rows += map(Bar._make, zip(SYMBOLS, repeat(M1), at, *numbers, *rest, strict=False))
    return rows


def equal(lake: Lake, minutes: Sequence[int]) -> bool:
    """True when the lake holds exactly the bars of these ascending minutes."""
    span = T0 + minutes[0] * M1.ms, T0 + (minutes[-1] + 1) * M1.ms
    table = lake.read(BARS, Venue.OKX, None, *span, interval=M1).sort_by([("timestamp", "ascending")])
    names = [of.symbol for of in SYMBOLS]
    if len(table) != len(minutes) * len(SYMBOLS) or table.column("symbol").to_pylist() != names * len(minutes):
        return False
    times = np.repeat(T0 + np.array(minutes) * M1.ms, len(SYMBOLS))
    expected = [columns(minute) for minute in minutes]
    return np.array_equal(table.column("timestamp").cast(pa.int64()).to_numpy(), times) and all(
        np.array_equal(table.column(name).to_numpy(), np.concatenate([said[name] for said in expected]))
        for name in expected[0]
    )


def sustained(folder: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rows a second of wall time, from the first call to the last."""
    lake, minute, within = Lake(folder), 0, 0.0
    began = time.perf_counter()
    while (wall := time.perf_counter() - began) < arguments.seconds:
        rows = bars(minute, MINUTES_A_CALL)
        called = time.perf_counter()
        if lake.store(rows) != len(rows):
            raise RuntimeError("a row that was new was not counted")
        within += time.perf_counter() - called
        minute += MINUTES_A_CALL
    lake.close()
    again = Lake(folder)
    same = all(equal(again, range(at, at + MINUTES_A_CALL)) for at in range(0, minute, MINUTES_A_CALL))
    same &= len(again.read(BARS, Venue.OKX, None, T0 + minute * M1.ms, interval=M1)) == 0
    again.close()
    rows_stored = minute * len(SYMBOLS)
    return {
        "ingest_rows_per_s": measure(rows_stored / wall, "rows/s", equal=same),
        "ingest_rows": measure(rows_stored, "rows", equal=same),
        "ingest_us_per_row": measure(within / rows_stored * 1e6, "us", equal=same),
    }


def burst(folder: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Milliseconds until 300 bars are on disk; store, raw file and journal take turns."""
    lake = Lake(folder)
    lake.store(bars(0))  # the file is made once
    took: dict[str, list[float]] = {"burst": [], "raw": [], "jsonl": []}
    raw_path, journal_path = folder / "raw.bin", folder / "journal.jsonl"
    with raw_path.open("wb", buffering=0) as raw, journal_path.open("wb", buffering=0) as journal:
        for minute in range(1, arguments.bursts + 1):
            rows = bars(minute)
            data = packed(rows)
            marks = [time.perf_counter()]
            lake.store(rows)
            marks.append(time.perf_counter())
            append(raw, data, os.fdatasync)
            marks.append(time.perf_counter())
            append(journal, lines(rows), os.fsync)
            marks.append(time.perf_counter())
            for name, (start, end) in zip(took, pairwise(marks), strict=True):
                took[name].append(end - start)
    lake.close()
    again, minutes = Lake(folder), range(arguments.bursts + 1)
    same = {
        "burst": all(equal(again, minutes[at : at + 100]) for at in minutes[::100]),
        "raw": raw_path.read_bytes() == b"".join(packed(bars(minute)) for minute in minutes[1:]),
        "jsonl": [orjson.loads(line) for line in journal_path.read_bytes().splitlines()]
        == [list(said(bar)) for minute in minutes[1:] for bar in bars(minute)],
    }
    again.close()
    out = {}
    for name, seconds in took.items():
        for share in (50, 99):
            out[f"{name}_p{share}_ms"] = measure(float(np.percentile(seconds, share)) * 1e3, "ms", equal=same[name])
    ratio = out["burst_p99_ms"]["value"] / out["raw_p99_ms"]["value"]
    rate = len(SYMBOLS) / statistics.fmean(took["jsonl"])
    return out | {
        "burst_over_raw_p99": measure(ratio, "times", equal=same["burst"]),
        "jsonl_rows_per_s": measure(rate, "rows/s", equal=same["jsonl"]),
    }


def seal(folder: Path, _: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A day that another process seals, and the bursts of the day after meanwhile."""
    lake, day = Lake(folder), DAY_MS // M1.ms
    for first in range(0, day, 30):
        lake.store(bars(first, 30))
    minute, took = day, []
    command = [sys.executable, str(Path(__file__).resolve()), "--seal", str(folder), str(T0 + DAY_MS)]
    began = time.perf_counter()
    with subprocess.Popen(command) as sealer:
        while sealer.poll() is None:
            rows, called = bars(minute), time.perf_counter()
            lake.store(rows)
            took.append(time.perf_counter() - called)
            minute += 1
            time.sleep(0.01)
    wall = time.perf_counter() - began
    lake.close()
    again, minutes = Lake(folder), range(minute)
    same = sealer.returncode == 0 and again.seal(Venue.OKX, before_ms=T0 + DAY_MS) == []
    same &= len(list((again.folder(Venue.OKX) / "kline_1m").iterdir())) == len(SYMBOLS)
    same &= all(equal(again, minutes[at : at + 240]) for at in minutes[::240])
    again.close()
    return {
        "seal_rows_per_s": measure(day * len(SYMBOLS) / wall, "rows/s", equal=same),
        "burst_while_sealing_p99_ms": measure(float(np.percentile(took, 99)) * 1e3, "ms", equal=same),
    }


def parquet(folder: Path, _: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Rows a second when each row rewrites its symbol's file, durably."""
    folder.mkdir(parents=True, exist_ok=True)
    path, rows = folder / "C000_USDT_20250101.parquet", [bars(minute)[0] for minute in range(PARQUET_ROWS)]
    began = time.perf_counter()
    for row in rows:
        old = read_table(path, KLINE) if path.exists() else KLINE.empty_table()
        values = dict(zip(KLINE.names, said(row), strict=True))
        new = {field.name: pa.array([values[field.name]], type=field.type) for field in KLINE}
        write_table(path, pa.concat_tables([old, pa.table(new, schema=KLINE)]))
    rate = PARQUET_ROWS / (time.perf_counter() - began)
    back = read_table(path, KLINE).drop_columns(["timestamp", "received_at"]).to_pylist()
    asked = [dict(zip(KLINE.names, said(row), strict=True)) for row in rows]
    same = back == [{name: row[name] for name in back[0]} for row in asked]
    return {"parquet_rows_per_s": measure(rate, "rows/s", equal=same)}


def said(bar: Bar) -> Iterator[object]:
    """The bar's values in the order of its Parquet columns."""
    return iter((bar.instrument.symbol, *bar[2:]))


def packed(rows: Sequence[Bar]) -> bytes:
    """The rows as bytes, about as many as the store keeps of them."""
    return b"".join(
        _LINE.pack(
            row.instrument.symbol.encode(), M1.ms, row.open_ms, 0, row.open_ms, *row[3:9], row.trades, RECEIVED_MS
        )
        for row in rows
    )


def lines(rows: Sequence[Bar]) -> bytes:
    """The rows as JSON lines."""
    return b"".join(orjson.dumps(list(said(row)), option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def append(file: Any, data: bytes, sync: Callable[[int], None]) -> None:
    """Write at the end and wait for the disk."""
    file.write(data)
    sync(file.fileno())


def together(runs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The measures of several runs: median, lowest, highest; equal when every run was."""
    out = {}
    for name, first in runs[0].items():
        values = [run[name]["value"] for run in runs]
        out[name] = several(values, first["unit"], equal=all(run[name]["equal"] for run in runs))
    return out


PARTS = {"sustained": sustained, "burst": burst, "seal": seal, "parquet": parquet}


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; the exit status is 0 when everything was equal, else 3."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["--seal"]:
        Lake(Path(given[1])).seal(Venue.OKX, before_ms=int(given[2]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the sustained part")
    parser.add_argument("--bursts", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder otherwise")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one object and nothing else")
    arguments = parser.parse_args(given)
    measures: dict[str, dict[str, Any]] = {}
    for part in arguments.part or PARTS:
        runs = []
        for _ in range(arguments.runs):
            with tempfile.TemporaryDirectory(prefix="ingest-", dir=arguments.folder) as name:
                runs.append(PARTS[part](Path(name), arguments))
        found = together(runs)
        measures |= found
        for name, one in found.items() if not arguments.json else ():
            print(f"{name:28} {one['value']:>12,.2f} {one['unit']:7} {'' if one['equal'] else 'NOT EQUAL'}", flush=True)
    if arguments.json:
        print(json.dumps({"bench": "ingest", "runs": arguments.runs, "measures": measures}))
    return 0 if all(one["equal"] for one in measures.values()) else 3


if __name__ == "__main__":
    sys.exit(main())
