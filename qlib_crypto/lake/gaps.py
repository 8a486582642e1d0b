"""Which bars are missing: arithmetic on open times, nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def missing_ranges(have: NDArray[np.int64], start_ms: int, end_ms: int, step_ms: int) -> list[tuple[int, int]]:
    """The maximal spans `[start, end)` of the grid in `[start_ms, end_ms)` without a bar in `have`, ascending.

    Parameters
    ----------
    have
        Open times that are there, Unix milliseconds, any order, repeats allowed; those off the grid or outside the
        range do not count.
    start_ms, end_ms
        The range; the grid is the multiples of `step_ms` in it, the last one below `end_ms`.
    step_ms
        Bar length.

    """
    first, stop = -(-start_ms // step_ms), -(-end_ms // step_ms)
    if stop <= first:
        return []
    present = np.zeros(stop - first, dtype=bool)
    slots, offset = np.divmod(np.asarray(have, dtype=np.int64), step_ms)
    present[slots[(offset == 0) & (slots >= first) & (slots < stop)] - first] = True
    edges = np.flatnonzero(np.diff(np.r_[True, present, True].astype(np.int8)))
    return [(int(a + first) * step_ms, int(b + first) * step_ms) for a, b in edges.reshape(-1, 2)]


def joined(ranges: Iterable[tuple[int, int]], reach_ms: int) -> list[tuple[int, int]]:
    """Ascending disjoint ranges, neighbours joined while the joined span stays within `reach_ms`.

    Many small holes then cost one request a page instead of one each; a range that is longer by itself stays whole.
    """
    out: list[tuple[int, int]] = []
    for start, end in ranges:
        if out and end - out[-1][0] <= reach_ms:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out
