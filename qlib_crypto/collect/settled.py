"""Settlements of the lake: when they are, which of the venue's are new, and where some may be missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.collect.spans import Span
from qlib_crypto.lake import Lake
from qlib_crypto.market.funding import holes, snap_to_minute
from qlib_crypto.schemas import Settlement
from qlib_crypto.symbols import Instrument


def settlement_times(lake: Lake, instrument: Instrument, start_ms: int, end_ms: int) -> NDArray[np.int64]:
    """Times of the lake's settlements in the range, as the venue sent them, ascending."""
    times = lake.settlements(instrument.venue, instrument, start_ms, end_ms).column("timestamp")
    return np.asarray(times.cast(pa.int64()).to_numpy(), dtype=np.int64)


def unknown_settlements(lake: Lake, instrument: Instrument, rows: Sequence[Settlement]) -> list[Settlement]:
    """The rows that the lake does not have at their minute with that rate."""
    if not rows:
        return []
    times = [row.time_ms for row in rows]
    table = lake.settlements(instrument.venue, instrument, min(times) - MINUTE_MS, max(times) + 2 * MINUTE_MS)
    minutes = snap_to_minute(np.asarray(table.column("timestamp").cast(pa.int64()).to_numpy())).tolist()
    known = set(zip(minutes, table.column("funding_rate").to_pylist(), strict=True))
    own = snap_to_minute(np.asarray(times, dtype=np.int64)).tolist()
    return [row for row, minute in zip(rows, own, strict=True) if (minute, row.rate) not in known]


def funding_holes(time_ms: NDArray[np.int64], start_ms: int, end_ms: int) -> list[Span]:
    """Spans of `[start_ms, end_ms)` in which settlements may be missing, ascending.

    Within the shortest interval (1 h) after a settlement none can be missing.
    """
    minutes = snap_to_minute(time_ms)
    minutes = minutes[(minutes >= start_ms) & (minutes < end_ms)]
    edges = np.r_[start_ms - MINUTE_MS, minutes, end_ms]
    wide = np.diff(edges) > MINUTE_MS
    if len(minutes):
        wide[1:] = np.r_[holes(minutes), end_ms - minutes[-1] > HOUR_MS]
    return [(int(a) + MINUTE_MS, int(b)) for a, b in zip(edges[:-1][wide], edges[1:][wide], strict=True)]
