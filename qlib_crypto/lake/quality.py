"""Quality flags of a bar: it is stored as the venue says it, and known to be doubtful (WARN).

The tolerances were chosen on real candles so that none of those is flagged: quote volume over volume lies within low
and high in all of 208,304 Binance 1h bars (50 contracts), and of the 7,380 prices of 1,845 hours that OKX and Binance
share (10 coins) the widest apart are 2.1 % (LAYER in its crash of May 2025), the 99th percentile 0.9 %. A quote volume
ten times too large is caught in every one of those bars, one 5 % too large in 98 %.
"""

from __future__ import annotations

import math
from enum import IntFlag
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.schemas import Bar

#: A step to the bar before that is longer than so many intervals is a gap.
GAP_FACTOR = 1.1
#: How far quote volume over volume may lie outside low and high, as a fraction; units are wrong by more.
UNIT_TOLERANCE = 0.01
#: What rounding may take from a quote volume, in the quote coin; it matters to bars of a few cents.
_ROUNDING_QUOTE = 0.01
#: How far a price may be from the other venue's at the same time, as a log ratio.
OUTLIER_TOLERANCE = 0.05


class Flag(IntFlag):
    """Why a bar is doubtful; flags add up."""

    HIGH_BELOW_LOW = 1
    GAP_BEFORE = 2
    UNIT_MISMATCH = 4
    OUTLIER = 8

    @property
    def words(self) -> str:
        """`gap before, outlier`; for people."""
        return ", ".join(flag.name.lower().replace("_", " ") for flag in self if flag.name)


def row_flags(bar: Bar) -> int:
    """The flags that a bar shows by itself: HIGH_BELOW_LOW and UNIT_MISMATCH; 0 for a good one."""
    quote = math.nan if bar.volume_quote is None else bar.volume_quote
    if bar.low <= bar.high and (quote != quote or _in_units(bar.low, bar.high, bar.volume_base, quote)):  # noqa: PLR0124 - NaN is not equal to itself; faster than a call
        return 0
    return int(_own(bar.low, bar.high, bar.volume_base, quote))


def own_flags(bars: pa.Table) -> NDArray[np.int64]:
    """`row_flags` of each row of a table of schema KLINE."""
    low, high, base, quote = (
        np.asarray(bars.column(name).to_numpy(), dtype=np.float64) for name in ("low", "high", "volume", "quote_volume")
    )
    return np.asarray(_own(low, high, base, quote), dtype=np.int64)


def gap_flags(open_ms: NDArray[np.int64], step_ms: int) -> NDArray[np.int64]:
    """GAP_BEFORE for each ascending open whose bar before is more than 1.1 intervals away; 0 for the first."""
    times = np.asarray(open_ms, dtype=np.int64)
    apart = times - np.concatenate([times[:1], times[:-1]])
    return np.where(apart > GAP_FACTOR * step_ms, int(Flag.GAP_BEFORE), 0).astype(np.int64)


def outlier_flags(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.int64]:
    """OUTLIER for each bar of which a price is too far from the other venue's of the same coin and time.

    Parameters
    ----------
    ours, theirs
        Prices of the same bars, shape (n,) or (n, prices), in the same unit. NaN where a venue has no bar: not judged.

    """
    apart = np.abs(np.log(np.asarray(ours, dtype=np.float64) / np.asarray(theirs, dtype=np.float64)))
    far = np.asarray(apart > OUTLIER_TOLERANCE)
    return np.where(far.any(axis=1) if far.ndim > 1 else far, int(Flag.OUTLIER), 0).astype(np.int64)


def _own(low: Any, high: Any, base: Any, quote: Any) -> Any:
    """Both flags of values or arrays; NaN as quote volume is not judged."""
    mismatch = ~np.isnan(quote) & ~_in_units(np.minimum(low, high), np.maximum(low, high), base, quote)
    return (high < low) * int(Flag.HIGH_BELOW_LOW) + mismatch * int(Flag.UNIT_MISMATCH)


def _in_units(low: Any, high: Any, base: Any, quote: Any) -> Any:
    return (quote >= base * low * (1 - UNIT_TOLERANCE) - _ROUNDING_QUOTE) & (
        quote <= base * high * (1 + UNIT_TOLERANCE) + _ROUNDING_QUOTE
    )
