"""LongShortTopk against plain dictionaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_strategy import market

from qlib_crypto.strategy.long_short import LongShortTopk


def oracle(known, topk, gross, every, buffer, n_drop, min_names):
    """The rows as dictionaries, None where nothing is traded."""
    held, due, rows = {}, 0, []
    for t in range(known.bars):
        scores = {name: float(known.signal[t, i]) for i, name in enumerate(known.names)}
        scores = {name: score for name, score in scores.items() if not math.isnan(score)}
        if t < due or not scores:
            rows.append(None)
            continue
        due = t + every
        can = {name for i, name in enumerate(known.names) if known.tradable[t, i]}
        best = sorted((name for name in scores if name in can), key=lambda name: (-scores[name], name))
        size = min(topk, len(best) // 2)
        if size < min_names:
            held = {}
            rows.append(held)
            continue
        book = {}
        for side, order in ((1, best), (-1, best[::-1])):
            within = order[: min(size + buffer, len(best) // 2)]
            mine = [name for name in order if held.get(name, 0) * side > 0]
            stay = [name for name in mine if name in within][:size]
            go = [name for name in mine if name not in stay]
            while n_drop is not None and len(go) > n_drop and len(stay) < size:
                stay.append(go.pop(0))
            book.update(dict.fromkeys(stay, side))
        for side, order in ((1, best), (-1, best[::-1])):
            for name in order:
                if name not in book and sum(s == side for s in book.values()) < size:
                    book[name] = side
        held = {name: side * gross / 2 / size for name, side in book.items()}
        rows.append(held)
    return rows


@given(
    seed=st.integers(0, 10_000), n=st.integers(2, 12), topk=st.integers(1, 4), every=st.integers(1, 3),
    buffer=st.integers(0, 3), n_drop=st.none() | st.integers(1, 3), least=st.integers(1, 4),
    levels=st.sampled_from([0, 3]),
)  # fmt: skip
@settings(max_examples=150)
def test_rows_are_those_of_plain_dictionaries(seed, n, topk, every, buffer, n_drop, least, levels):
    known = market(25, n, seed, levels=levels, gaps=0.2, untradable=0.2)
    strategy = LongShortTopk(
        topk=topk, gross_exposure=1.5, rebalance_every=every, drop_buffer=buffer, n_drop=n_drop,
        min_names=min(least, topk),
    )  # fmt: skip
    got = strategy.targets(known)
    for t, row in enumerate(oracle(known, topk, 1.5, every, buffer, n_drop, min(least, topk))):
        assert got.rebalance[t] == (row is not None)
        weights = {known.names[i]: got.weights[t, i] for i in np.flatnonzero(got.weights[t])}
        assert weights == pytest.approx(row or {})


def test_at_most_n_drop_names_of_a_leg_are_replaced_the_worst_first():
    known = market(2, 12, gaps=0.0, untradable=0.0)
    known.signal[0] = np.arange(12)
    known.signal[1] = [11, 10, 9, 5, 4, 3, 8, 7, 6, 2, 1, 0]  # all six held names leave their leg
    got = LongShortTopk(topk=3, n_drop=1).targets(known).weights
    assert np.flatnonzero(got[0] > 0).tolist() == [9, 10, 11]
    assert np.flatnonzero(got[1] > 0).tolist() == [0, 9, 10]  # 11 was the worst of them
    assert np.flatnonzero(got[1] < 0).tolist() == [1, 2, 11]
    free = LongShortTopk(topk=3).targets(known).weights
    assert np.flatnonzero(free[1] > 0).tolist() == [0, 1, 2]


def test_a_missed_rebalance_waits_for_the_next_signal():
    known = market(9, 4, gaps=0.0, untradable=0.0)
    known.signal[[0, 4, 5]] = np.nan
    got = LongShortTopk(topk=1, rebalance_every=3).targets(known)
    assert np.flatnonzero(got.rebalance).tolist() == [1, 6]
    assert got.notes == {"no signal: position kept": 3}
