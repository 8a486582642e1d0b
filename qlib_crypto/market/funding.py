"""Funding times: the minute a settlement belongs to, the interval it was for, and where funding is known at all.

Arrays of times are ascending Unix milliseconds as the venue sent them (Binance jitters by some ms); everything here
works on the minute they snap to.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS, MINUTE_MS

#: The longest interval of either venue, and a minute of lateness. Settlements further apart are a hole in the data.
LONGEST_INTERVAL_MS = 8 * HOUR_MS + MINUTE_MS
#: The intervals that either venue uses, shortest first; both settle at whole multiples of them, UTC.
VENUE_INTERVALS_MS = (HOUR_MS, 2 * HOUR_MS, 4 * HOUR_MS, 8 * HOUR_MS)


def snap_to_minute(time_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """The nearest whole minute of each time, Unix milliseconds, same shape; 30 s rounds up."""
    times = np.asarray(time_ms, dtype=np.int64) + MINUTE_MS // 2
    return times - times % MINUTE_MS


def settlement_intervals(time_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    """The hours of the interval that each settlement ended, shape (n,): what its rate is for.

    The time since the settlement before; where that is no interval of a venue, because the interval became longer
    in the middle of one (hourly until 21:00, then every four hours: the next is at 00:00), the shortest that is
    longer and settles at this hour. NaN for the first, and where the settlement before is further away than
    `LONGEST_INTERVAL_MS`: one or more settlements between are missing, so the interval is unknown.

    Raises
    ------
    ValueError
        When the times do not strictly ascend by whole minutes.

    """
    times = snap_to_minute(time_ms)
    gaps = _gaps(times)
    hours = np.full(len(gaps) + 1 if len(time_ms) else 0, np.nan)
    hours[1:] = np.where(gaps <= LONGEST_INTERVAL_MS, _venue_interval(gaps, times[1:]) / HOUR_MS, np.nan)
    return hours


def _venue_interval(gaps: NDArray[np.int64], at_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    longer = gaps
    for interval in VENUE_INTERVALS_MS[::-1]:
        longer = np.where((gaps < interval) & (at_ms % interval == 0), interval, longer)
    return np.where(np.isin(gaps, VENUE_INTERVALS_MS), gaps, longer)


def known_ranges(time_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where funding is known: disjoint ascending spans `[start, end)`, shape (n_spans, 2), Unix milliseconds.

    A span of time without a settlement in it has zero funding inside a known range and unknown funding elsewhere.
    Known begins with the minute of a settlement. It ends one interval after the last settlement (the next one would
    fall exactly there); a settlement that a hole follows (the next is further away than `LONGEST_INTERVAL_MS`), or
    whose own interval is unknown at the end, is known for its own minute only.

    Raises
    ------
    ValueError
        When the times do not strictly ascend by whole minutes.

    """
    minutes = snap_to_minute(time_ms)
    if not len(minutes):
        return np.empty((0, 2), dtype=np.int64)
    gaps = _gaps(minutes)
    hole = gaps > LONGEST_INTERVAL_MS
    starts = minutes[np.r_[True, hole]]
    ends = minutes[np.r_[hole, True]] + MINUTE_MS
    if len(gaps) and not hole[-1]:
        ends[-1] = minutes[-1] + _venue_interval(gaps[-1:], minutes[-1:])[0]
    return np.column_stack([starts, ends])


def _gaps(minutes: NDArray[np.int64]) -> NDArray[np.int64]:
    gaps = np.diff(minutes)
    if np.any(gaps <= 0):
        at = int(np.argmax(gaps <= 0))
        raise ValueError(f"settlement times must strictly ascend by minutes; {minutes[at]} is followed by another")
    return gaps
