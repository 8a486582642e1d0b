from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from support_strategy import market

from qlib_crypto.strategy.rank import RankWeighted, centred_ranks


def row(scores, **kwargs):
    known = market(1, len(scores), gaps=0.0, untradable=0.0)
    known.signal[0] = scores
    got = RankWeighted(**kwargs).targets(known)
    return got.weights[0].tolist(), got.notes


def test_weights_are_proportional_to_the_centred_rank():
    assert row([10, 40, 20, 30])[0] == pytest.approx([-3 / 8, 3 / 8, -1 / 8, 1 / 8])
    assert row([10, 40, 20, 30, np.nan], gross_exposure=2.0)[0] == pytest.approx([-3 / 4, 3 / 4, -1 / 4, 1 / 4, 0])
    assert row([1, 2, 3])[0] == pytest.approx([-0.5, 0, 0.5])


def test_equal_scores_share_their_mean_rank():
    assert row([1, 2, 2, 3])[0] == pytest.approx([-0.5, 0, 0, 0.5])
    assert row([5, 5, 5]) == ([0, 0, 0], {"all scores equal: flat": 1})


def test_a_power_moves_weight_to_the_ends_and_legs_stay_equal():
    assert row([1, 2, 3, 4], power=2.0)[0] == pytest.approx([-9 / 20, -1 / 20, 1 / 20, 9 / 20])
    # one short at rank -1.5, three longs at 0.5: each leg keeps its half
    assert row([1, 2, 2, 2], power=3.0)[0] == pytest.approx([-0.5, 1 / 6, 1 / 6, 1 / 6])


def test_too_few_names_are_flat():
    assert row([1, 2, 3], min_names=2) == ([0, 0, 0], {"fewer than 2 names a leg: flat": 1})


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_ranks_are_those_of_scipy_less_their_mean(scores):
    values = np.array(scores, dtype=float)
    assert centred_ranks(values) == pytest.approx(rankdata(values) - (len(values) + 1) / 2)
