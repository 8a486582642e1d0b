"""Arithmetic of spans and the typing of holes, against sets of minutes."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.collect.holes import typed
from qlib_crypto.collect.spans import length, minus, union

STEP = 5
SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)
GRIDDED = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=5)


def instants(spans):
    return {at for start, end in spans for at in range(start, end)}


def maximal(spans):
    return all(a < b for a, b in spans) and all(b < c for (_, b), (c, _) in itertools.pairwise(spans))


@given(SPANS, SPANS)
def test_minus_and_union_are_those_of_sets(spans, others):
    assert instants(minus(spans, others)) == instants(spans) - instants(others)
    assert instants(union(spans)) == instants(spans)
    assert maximal(union(spans))
    assert maximal(minus(spans, others))
    assert length(union(spans)) == len(instants(spans))


@given(GRIDDED, st.sets(st.integers(-5, 90)))
def test_a_hole_is_the_venues_where_nobody_has_a_row_and_a_quiet_market_elsewhere(spans, alive):
    spans = union((a * STEP, (a + n) * STEP) for a, n in spans)
    parts = typed(spans, np.asarray(sorted(alive), dtype=np.int64), STEP)
    assert parts == sorted(parts)
    cause_of = {at: cause for start, end, cause in parts for at in range(start, end, STEP)}
    assert set(cause_of) == {at for start, end in spans for at in range(start, end, STEP)}  # each slot once, no other
    assert sum(end - start for start, end, _ in parts) == length(spans)
    for at, cause in cause_of.items():
        assert cause == ("no_trade" if at in alive else "venue_down")
