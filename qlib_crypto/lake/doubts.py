"""Flags of stored bars: each bar's own, gaps, and outliers against the same coin on another venue."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS
from qlib_crypto.lake.quality import Flag, gap_flags, outlier_flags, own_flags
from qlib_crypto.lake.read import listed
from qlib_crypto.lake.store import Lake
from qlib_crypto.lake.tables import BARS
from qlib_crypto.symbols import Instrument, Interval, Venue

_PRICES = ["open", "high", "low", "close"]
#: Where more of the bars that two venues share are apart, it is not the same coin, or another unit of it.
_SAME_COIN = 0.5


def flag_bars(
    lake: Lake, instrument: Instrument, interval: Interval, start_ms: int | None = None, end_ms: int | None = None
) -> tuple[Counter[str], list[str]]:
    """How many bars in `[start_ms, end_ms)` have each flag, and what is worth knowing.

    `Lake.flag` keeps these flags instead of what the bars were flagged with before.
    """
    notes: list[str] = []
    earlier_flags = _by_open(*lake.flags(instrument, interval, start_ms, end_ms))  # before the bars: no newer one goes
    before_ms = None if start_ms is None else start_ms - DAY_MS
    bars = lake.bars(instrument, interval, before_ms, end_ms)
    if not len(bars):
        lake.flag(instrument, interval, {}, instead_of=earlier_flags)
        return Counter(), notes
    opens = BARS.slots(bars)
    masks = own_flags(bars) | gap_flags(opens, interval.ms) | _outliers(lake, instrument, interval, bars, opens, notes)
    if before_ms is not None and start_ms is not None:
        if opens[0] >= start_ms and _any_before(lake, instrument, interval, before_ms):
            masks[0] |= int(Flag.GAP_BEFORE)  # nothing in the day before, but there was something once
        masks[opens < start_ms] = 0
    found = np.flatnonzero(masks)
    lake.flag(instrument, interval, _by_open(opens[found], masks[found]), instead_of=earlier_flags)
    return Counter({flag.words: int(np.count_nonzero(masks & int(flag))) for flag in Flag}), notes


def _any_before(lake: Lake, instrument: Instrument, interval: Interval, before_ms: int) -> bool:
    if listed(lake.folder(instrument.venue), BARS.dataset(interval.ms), instrument.symbol, None, before_ms):
        return True
    return len(lake.bar_times(instrument, interval, None, before_ms)) > 0


def _by_open(opens: NDArray[np.int64], masks: NDArray[np.int64]) -> dict[int, int]:
    return dict(zip(opens.tolist(), masks.tolist(), strict=True))


def _outliers(
    lake: Lake,
    instrument: Instrument,
    interval: Interval,
    bars: pa.Table,
    opens: NDArray[np.int64],
    notes: list[str],
) -> NDArray[np.int64]:
    """OUTLIER against the other venues' bars of the same coin and time."""
    masks = np.zeros(len(bars), dtype=np.int64)
    for other, scale in _same_coin(lake, instrument, interval):
        theirs = lake.bars(other, interval, int(opens[0]), int(opens[-1]) + 1)
        _, ours_at, theirs_at = np.intersect1d(opens, BARS.slots(theirs), assume_unique=True, return_indices=True)
        if not len(ours_at):
            continue
        apart = outlier_flags(_prices(bars)[ours_at], _prices(theirs)[theirs_at] * scale)
        if np.count_nonzero(apart) > _SAME_COIN * len(apart):
            notes.append(
                f"{instrument} and {other} are apart in most of {len(apart):,} {interval} bars they share: not one "
                "coin, or not in one unit; none is flagged as outlier"
            )
            continue
        masks[ours_at] |= apart
    return masks


def _same_coin(lake: Lake, instrument: Instrument, interval: Interval) -> Iterator[tuple[Instrument, float]]:
    """Instruments of other venues with the same coin, and what their prices are to be multiplied with."""
    coin, units = _coin(instrument.base)
    for venue in Venue:
        for other in lake.instruments(venue, interval) if venue is not instrument.venue else []:
            theirs, their_units = _coin(other.base)
            if (theirs, other.quote, other.listing) == (coin, instrument.quote, instrument.listing):
                yield other, units / their_units


def _coin(base: str) -> tuple[str, float]:
    """`1000PEPE` is 1,000 PEPE, `1MBABYDOGE` is 1,000,000 BABYDOGE."""
    match = re.fullmatch(r"(10{3,}|1M(?=[A-Z]{3}))([A-Z].*)", base)
    if not match:
        return base, 1.0
    return match[2], 1e6 if match[1] == "1M" else float(match[1])


def _prices(bars: pa.Table) -> NDArray[np.float64]:
    return np.column_stack([bars.column(name).to_numpy() for name in _PRICES])
