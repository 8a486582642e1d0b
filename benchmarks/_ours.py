"""Our parts of `bench convert`, each in a process of its own: python _ours.py PART '{"argument": …}'."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from _market import T0, instruments
from _measures import Took, run_part, timed

from qlib_crypto.clock import DAY_MS, MINUTE_MS
from qlib_crypto.lake import Lake
from qlib_crypto.lake.files import read_table, write_table
from qlib_crypto.lake.paths import kline_file
from qlib_crypto.provider import convert
from qlib_crypto.schemas import KLINE
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Interval, Venue


def ours(
    lake: str,
    provider: str,
    intervals: list[str],
    *,
    durable: bool = False,
    full: bool = False,
    warm: str = "",
    named: Sequence[str] | None = None,
) -> Took:
    """One conversion; with `warm` after another one of a small lake, as in a process that has converted before.

    With `named` the files that changed are told, otherwise every file is looked at.
    """
    settings, took = ProviderSettings(intervals=tuple(intervals)), Took()
    if warm:
        convert(Lake(Path(warm) / "lake"), Path(warm) / f"{os.getpid()}", settings, durable=False)
    changed = None if named is None else [Path(name) for name in named]
    with timed(took):
        summary = convert(Lake(Path(lake)), Path(provider), settings, durable=durable, full=full, changed=changed)
    return took | {"rebuilt": summary.rebuilt, "changed": summary.changed}


def late(lake: str, provider: str, intervals: list[str], at: list[list[int]]) -> Took:
    """A bar of each (instrument, day) restated, then converted: its file named, and found by a look at every file."""
    settings, minute = ProviderSettings(intervals=tuple(intervals)), Interval.parse("1m")
    store, took = Lake(Path(lake)), Took(named=[], scanned=[])
    for turn, (number, day) in enumerate(at):
        instrument = instruments(number + 1)[-1]
        time_ms = T0 + day * DAY_MS
        path = kline_file(store.folder(Venue.OKX), instrument, minute, time_ms)
        table = read_table(path, KLINE)
        close = table["close"].to_numpy().copy()
        row = int(np.searchsorted(table["timestamp"].cast(pa.int64()).to_numpy(), time_ms + 700 * MINUTE_MS))
        close[row] = table["high"][row].as_py()
        write_table(path, table.set_column(table.schema.get_field_index("close"), "close", pa.array(close)))
        named, part = turn % 2 == 0, Took()
        with timed(part):
            summary = convert(store, Path(provider), settings, durable=False, changed=[path] if named else None)
        if not summary.changed or summary.rebuilt:
            raise RuntimeError(f"the late bar in {path} was not put in place")
        took["named" if named else "scanned"].append(part["wall"])
    return took


def limit(lake: str, provider: str, target: str) -> Took:
    """The least that a conversion must do: decode the lake's bars, and write as many bytes into as many files."""
    paths = sorted(str(path) for path in (Path(lake) / "okx_data" / "kline_1m").glob("*.parquet"))
    written = [path for path in Path(provider).rglob("*") if path.is_file()]
    contents = {path.relative_to(provider): path.read_bytes() for path in written}
    took, decode = Took(), Took()
    columns = ["timestamp", "open", "high", "low", "close", "volume", "quote_volume"]
    with timed(took):
        with timed(decode):
            pl.scan_parquet(paths, glob=False, hive_partitioning=False).select(columns).collect()
        for folder in {Path(target) / name.parent for name in contents}:
            folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with (Path(target) / name).open("wb", buffering=0) as file:
                file.write(content)
    return took | {"decode": decode["wall"]}


if __name__ == "__main__":
    run_part({"ours": ours, "late": late, "limit": limit})
