"""What an import does to the bars that the lake has: those of an earlier import, finer ones, values that are lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.collect.import_times import FURTHEST_MS
from qlib_crypto.errors import counted
from qlib_crypto.lake import Lake
from qlib_crypto.schemas import Bar


def left_over(lake: Lake, bars: Sequence[Bar]) -> NDArray[np.int64]:
    """Opens of imported bars that are not among these, ascending, of each import that these replace as a whole.

    Those are imports of the coin that share a bar with these and reach no further beyond them than clocks of the world
    are apart: the same file, read in another time zone. What reaches further was of more than this file.
    """
    instrument, interval = bars[0].instrument, bars[0].interval
    own = np.array([bar.open_ms for bar in bars], dtype=np.int64)
    table = lake.bars(instrument, interval)
    opens = table.column("timestamp").cast(pa.int64()).to_numpy()
    stamp = table.column("received_at").cast(pa.int64()).to_numpy()
    imported = np.array(table.column("source").to_pylist()) == "import"
    shared = imported & np.isin(opens, own)
    out = np.empty(0, dtype=np.int64)
    for at in np.unique(stamp[shared]):
        mine = opens[imported & (stamp == at)]
        if mine[0] >= own[0] - FURTHEST_MS and mine[-1] <= own[-1] + FURTHEST_MS:
            out = np.union1d(out, np.setdiff1d(mine, own))
    return out


def beside(lake: Lake, path: Path, bars: Sequence[Bar]) -> list[str]:
    """What the user must know of bars that are there: finer ones that go before these, and values that are lost."""
    if not bars:
        return []
    instrument, interval, first, last = bars[0].instrument, bars[0].interval, bars[0].open_ms, bars[-1].open_ms
    told = []
    without = [bar.open_ms for bar in bars if bar.volume_quote is None]
    if without:
        there = lake.bars(instrument, interval, first, last + 1)
        had = there.filter(there["quote_volume"].is_valid())["timestamp"].cast("int64").to_numpy()
        if lost := len(np.intersect1d(without, had)):
            told.append(
                f"{path.name}: it has no quote_volume for {counted(lost, 'bar')} that had one; their amount and vwap "
                "are unknown now"
            )
    for finer in lake.intervals(instrument.venue):
        if finer < interval and interval.ms % finer.ms == 0:
            opens = lake.bar_times(instrument, finer, first, last + interval.ms)
            starts, parts = np.unique(opens // interval.ms * interval.ms, return_counts=True)
            whole = starts[parts == interval.ms // finer.ms]
            if covered := len(np.intersect1d(whole, [bar.open_ms for bar in bars])):
                told.append(
                    f"{path.name}: the lake has all {finer} bars of {counted(covered, 'bar')} of it; a provider makes "
                    f"its {interval} bars of those"
                )
                break
    return told
