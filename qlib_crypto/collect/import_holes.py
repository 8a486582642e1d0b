"""What an imported file lacks between its rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qlib_crypto.clock import MINUTE_MS, iso
from qlib_crypto.lake.files import write_bytes
from qlib_crypto.market.funding import holes, snap_to_minute
from qlib_crypto.schemas import Bar, Settlement


class FileHole(NamedTuple):
    """What an imported file lacks between its rows, and those that the lake has: nothing in `[start_ms, end_ms)`.

    `rows` is the number of bars; None for settlements, of which a hole does not say how many were due.
    """

    file: str
    symbol: str
    dataset: str
    start_ms: int
    end_ms: int
    rows: int | None


def bar_holes(path: Path, bars: Sequence[Bar], before: Sequence[int] = (), after: Sequence[int] = ()) -> list[FileHole]:
    """Every hole between ascending bars of one instrument, and from opens that the lake has before and after them."""
    if not bars:
        return []
    interval, symbol = bars[0].interval, bars[0].instrument.symbol
    spans = ((a + interval.ms, b) for a, b in pairwise([*before, *(bar.open_ms for bar in bars), *after]))
    return [
        FileHole(path.name, symbol, f"kline_{interval}", start, end, (end - start) // interval.ms)
        for start, end in spans
        if end > start
    ]


def funding_holes(path: Path, rows: Sequence[Settlement]) -> list[FileHole]:
    """Every hole of each symbol's settlements, as `market.funding.holes` tells them."""
    times: dict[str, list[int]] = {}
    for row in rows:
        times.setdefault(row.instrument.symbol, []).append(row.time_ms)
    out = []
    for symbol in sorted(times):
        minutes = snap_to_minute(np.array(times[symbol], np.int64))
        out += [
            FileHole(path.name, symbol, "funding", int(minutes[at]) + MINUTE_MS, int(minutes[at + 1]), None)
            for at in np.flatnonzero(holes(minutes))
        ]
    return out


def write_holes(path: Path, found: Iterable[FileHole]) -> None:
    """Write the holes as CSV, times in UTC."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("file", "symbol", "dataset", "start", "end", "rows"))
    table.writerows((*hole[:3], iso(hole.start_ms), iso(hole.end_ms), hole.rows) for hole in found)
    write_bytes(path, text.getvalue().encode())
