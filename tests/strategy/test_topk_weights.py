"""TopkWeights against plain dictionaries, and against the class inside Qlib's loop."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_strategy import market

from qlib_crypto.backtest.qlib_position import PerpPosition
from qlib_crypto.strategy.long_short import LongShortTopk
from qlib_crypto.strategy.topk import TopkWeights

EMPTY = pd.DataFrame({"score": []}, index=pd.MultiIndex.from_tuples([], names=["datetime", "instrument"]))


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
    strategy = TopkWeights(
        topk=topk, gross_exposure=1.5, rebalance_every=every, drop_buffer=buffer, n_drop=n_drop,
        min_names=min(least, topk),
    )  # fmt: skip
    got = strategy.targets(known)
    for t, row in enumerate(oracle(known, topk, 1.5, every, buffer, n_drop, min(least, topk))):
        assert got.rebalance[t] == (row is not None)
        weights = {known.names[i]: got.weights[t, i] for i in np.flatnonzero(got.weights[t])}
        assert weights == pytest.approx(row or {})


@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), topk=st.integers(1, 4), buffer=st.integers(0, 3))
@settings(max_examples=60)
def test_a_row_is_that_of_the_class_inside_qlib_holding_the_last_row(seed, n, topk, buffer):
    known = market(12, n, seed, untradable=0.2, levels=5)
    kwargs = {"topk": topk, "drop_buffer": buffer, "min_names": 1, "gross_exposure": 2.0}
    got = TopkWeights(**kwargs).targets(known)
    inside, held = LongShortTopk(signal=EMPTY, **kwargs), {}
    for t in np.flatnonzero(got.rebalance):
        there = [i for i in range(n) if known.tradable[t, i] and not np.isnan(known.signal[t, i])]
        ranked = [name for _, name in sorted((-known.signal[t, i], known.names[i]) for i in there)]
        held = inside._weights(ranked, held, PerpPosition(1_000.0))
        assert {known.names[i]: got.weights[t, i] for i in np.flatnonzero(got.weights[t])} == pytest.approx(held)
    assert got.notes.get("fewer than 1 names a leg: flat", 0) == inside.notes["fewer than 1 names a leg: flat"]


def test_at_most_n_drop_names_of_a_leg_are_replaced_the_worst_first():
    known = market(2, 12, gaps=0.0, untradable=0.0)
    known.signal[0] = np.arange(12)
    known.signal[1] = [11, 10, 9, 5, 4, 3, 8, 7, 6, 2, 1, 0]  # all six held names leave their leg
    got = TopkWeights(topk=3, n_drop=1).targets(known).weights
    assert np.flatnonzero(got[0] > 0).tolist() == [9, 10, 11]
    assert np.flatnonzero(got[1] > 0).tolist() == [0, 9, 10]  # 11 was the worst of them
    assert np.flatnonzero(got[1] < 0).tolist() == [1, 2, 11]
    free = TopkWeights(topk=3).targets(known).weights
    assert np.flatnonzero(free[1] > 0).tolist() == [0, 1, 2]


def test_a_missed_rebalance_waits_for_the_next_signal():
    known = market(9, 4, gaps=0.0, untradable=0.0)
    known.signal[[0, 4, 5]] = np.nan
    got = TopkWeights(topk=1, rebalance_every=3).targets(known)
    assert np.flatnonzero(got.rebalance).tolist() == [1, 6]
    assert got.notes == {"no signal: position kept": 3}
