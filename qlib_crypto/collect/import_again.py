"""What an earlier import left that the file which replaces it does not have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.collect.import_times import FURTHEST_MS
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
