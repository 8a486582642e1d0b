from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.lake.gaps import joined, missing_ranges

STEP = 60_000


@given(
    st.lists(st.integers(-5, 40), max_size=60),
    st.integers(-STEP * 3, STEP * 30),
    st.integers(-STEP * 3, STEP * 30),
    st.integers(0, 3),
)
def test_the_ranges_are_exactly_the_grid_points_that_are_not_there(slots, start, end, off_grid):
    have = np.array([s * STEP for s in slots] + [s * STEP + 1 for s in slots[:off_grid]], dtype=np.int64)
    ranges = missing_ranges(have, start, end, STEP)
    wanted = {t for t in range(-10 * STEP, 50 * STEP, STEP) if start <= t < end}
    covered = [t for a, b in ranges for t in range(a, b, STEP)]
    assert covered == sorted(wanted - set(have.tolist()))
    # maximal: ascending, never touching
    assert all(a < b for a, b in ranges)
    assert all(left[1] < right[0] for left, right in pairwise(ranges))


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=12), st.integers(1, 60))
def test_joined_covers_the_same_and_only_grows_within_reach(steps, reach):
    ranges, at = [], 0
    for gap, length in steps:
        ranges.append((at + gap, at + gap + length))
        at += gap + length
    out = joined(ranges, reach)
    assert all(any(a <= start and end <= b for a, b in out) for start, end in ranges)
    assert all(span in ranges or span[1] - span[0] <= reach for span in out)
    assert {a for a, _ in out} <= {a for a, _ in ranges}
    assert {b for _, b in out} <= {b for _, b in ranges}
    # greedy: no two neighbours could have been one
    assert all(right[1] - left[0] > reach for left, right in pairwise(out)) or len(out) == len(ranges)


def test_examples():
    have = np.array([1, 2, 5]) * STEP
    assert missing_ranges(have, 0, 7 * STEP, STEP) == [(0, STEP), (3 * STEP, 5 * STEP), (6 * STEP, 7 * STEP)]
    assert missing_ranges(have, STEP + 1, 3 * STEP - 1, STEP) == []
    assert missing_ranges(np.array([], dtype=np.int64), 10, 10, STEP) == []
    assert joined([(0, 1), (3, 4), (9, 30), (31, 32)], 5) == [(0, 4), (9, 30), (31, 32)]
