"""Funding times: the minute a settlement belongs to, the interval it was for, and where funding is known at all.

Arrays of times are ascending Unix milliseconds as the venue sent them (Binance jitters by some ms); everything here
works on the minute they snap to.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS, MINUTE_MS

#: The longest interval of either venue, and a minute of lateness. Settlements further apart are a hole in the data.
LONGEST_INTERVAL_MS = 8 * HOUR_MS + MINUTE_MS
#: The intervals that either venue uses, shortest first; both settle at whole multiples of them, UTC.
VENUE_INTERVALS_MS = (HOUR_MS, 2 * HOUR_MS, 4 * HOUR_MS, 8 * HOUR_MS)
#: So many gaps on either side show which interval holds; no venue made one longer and shorter again within so few.
_AROUND = 3


class Rhythm(NamedTuple):
    """What the times of settlements tell: see `settlement_intervals`, `due_times` and `known_ranges`."""

    interval_hours: NDArray[np.float64]
    due_ms: NDArray[np.int64]
    known_ms: NDArray[np.int64]


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
    return rhythm(time_ms).interval_hours


def due_times(time_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """When the settlement after each one is due, as far as the two before it tell, shape (n,), Unix milliseconds.

    The next whole multiple of the interval that the settlement ended; 0 where that interval is unknown or no venue's.
    An interval that becomes longer shows only when a due settlement stays away.

    Raises
    ------
    ValueError
        When the times do not strictly ascend by whole minutes.

    """
    return rhythm(time_ms).due_ms


def holes(time_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether settlements are missing between each one and the next, shape (n - 1,).

    True where the two are further apart than any interval of a venue, and where they are further apart than some of
    the three gaps before and some of the three after: an hourly coin without its settlements of 01:00 to 06:00. A gap
    that is only longer than those before is an interval that grew, as far as one can tell until the next ones come.

    Raises
    ------
    ValueError
        When the times do not strictly ascend by whole minutes.

    """
    return _holes(_gaps(snap_to_minute(time_ms)))


def _holes(gaps: NDArray[np.int64]) -> NDArray[np.bool_]:
    if not len(gaps):
        return np.zeros(0, dtype=np.bool_)
    beyond = np.full(_AROUND, gaps.max())
    padded = np.concatenate([beyond, gaps, beyond])
    shortest = padded[: len(gaps) + _AROUND + 1]
    for later in range(1, _AROUND):
        shortest = np.minimum(shortest, padded[later : later + len(gaps) + _AROUND + 1])
    around = np.maximum(shortest[: len(gaps)], shortest[_AROUND + 1 :])
    return np.asarray((gaps > LONGEST_INTERVAL_MS) | (gaps >= around + HOUR_MS // 2))


def _of_venue(intervals: NDArray[np.int64]) -> NDArray[np.bool_]:
    """`np.isin`, which costs many times as much."""
    out = np.zeros(len(intervals), dtype=np.bool_)
    for interval in VENUE_INTERVALS_MS:
        out |= intervals == interval
    return out


def _own_intervals(minutes: NDArray[np.int64], gaps: NDArray[np.int64]) -> NDArray[np.int64]:
    """The interval that each settlement ended, in ms; 0 where it is unknown."""
    own = np.zeros(len(minutes), dtype=np.int64)
    own[1:] = np.where(gaps <= LONGEST_INTERVAL_MS, _venue_interval(gaps, minutes[1:]), 0)
    return own


def _venue_interval(gaps: NDArray[np.int64], at_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    longer = gaps
    for interval in VENUE_INTERVALS_MS[::-1]:
        longer = np.where((gaps < interval) & (at_ms % interval == 0), interval, longer)
    return np.where(_of_venue(gaps), gaps, longer)


def known_ranges(time_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where funding is known: disjoint ascending spans `[start, end)`, shape (n_spans, 2), Unix milliseconds.

    A span of time without a settlement in it has zero funding inside a known range and unknown funding elsewhere.
    Known begins with the minute of a settlement. After the last settlement, and after one that a hole follows
    (`holes`), it ends one interval later: the next one would fall exactly there. Where that interval is unknown too, or
    reaches over the hole, it ends with the settlement's own minute.

    Raises
    ------
    ValueError
        When the times do not strictly ascend by whole minutes.

    """
    return rhythm(time_ms).known_ms


def rhythm(time_ms: NDArray[np.int64]) -> Rhythm:
    """All three at once, which share most of the work.

    Raises
    ------
    ValueError
        When the times do not strictly ascend by whole minutes.

    """
    minutes = snap_to_minute(time_ms)
    if not len(minutes):
        return Rhythm(np.empty(0), np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int64))
    gaps = _gaps(minutes)
    own = _own_intervals(minutes, gaps)
    hours = np.where(own > 0, own / HOUR_MS, np.nan)
    due = np.where(_of_venue(own), minutes - minutes % np.maximum(own, 1) + own, 0)
    hole = _holes(gaps)
    own[1:][hole] = 0
    own[:-1][hole & (own[:-1] >= gaps)] = 0
    ends = minutes + np.where(own > 0, own, MINUTE_MS)
    return Rhythm(hours, due, np.column_stack([minutes[np.r_[True, hole]], ends[np.r_[hole, True]]]))


def _gaps(minutes: NDArray[np.int64]) -> NDArray[np.int64]:
    gaps = np.diff(minutes)
    if np.any(gaps <= 0):
        at = int(np.argmax(gaps <= 0))
        raise ValueError(f"settlement times must strictly ascend by minutes; {minutes[at]} is followed by another")
    return gaps
