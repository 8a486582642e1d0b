"""Rate limits against hand-turned clocks and a brute-force count."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_crypto.sandbox.limits import JITTER_S, OKX_WINDOW_S, PATIENCE, Weights, Windows


class Wall:
    def __init__(self, s=0.0):
        self.s = s

    def __call__(self):
        return self.s


@settings(deadline=None)
@given(st.lists(st.floats(0, 1.5), min_size=1, max_size=80), st.integers(1, 8))
def test_no_window_ever_holds_more_than_the_limit(pauses, limit):
    wall, allowed = Wall(), []
    windows = Windows(1.0, wall)
    for pause in pauses:
        wall.s += pause
        recent = [s for s in allowed if s > wall.s - (OKX_WINDOW_S - JITTER_S)]
        granted = windows.take(("a",), limit)
        assert granted == (len(recent) < limit)
        if granted:
            allowed.append(wall.s)


def test_keys_have_windows_of_their_own_and_the_scale_raises_them():
    windows = Windows(2.0, Wall())
    assert [windows.take(("a",), 2) for _ in range(5)] == [True] * 4 + [False]
    assert windows.take(("b",), 2)
    unlimited = Windows(math.inf, Wall())
    assert all(unlimited.take(("a",), 1) for _ in range(1000))


def test_a_small_scale_still_lets_one_through():
    windows = Windows(0.01, Wall())
    assert [windows.take(("a",), 10) for _ in range(2)] == [True, False]


def test_weight_adds_up_within_a_minute_and_starts_anew_on_the_minute():
    wall = Wall(60.0)
    weights = Weights(1.0, now=wall)
    assert [weights.take(1000).used for _ in range(2)] == [1000, 2000]
    wall.s = 95.5
    refused = weights.take(1000)
    assert (refused.status, refused.used, refused.retry_after_s) == (429, 2000, 25)
    wall.s = 120.0
    assert weights.take(1000) == (200, 1000, 0)


def test_going_on_after_429_is_banned_longer_each_time():
    wall = Wall(60.0)
    weights = Weights(1.0, ban_s=120.0, now=wall)
    statuses = [weights.take(2000).status for _ in range(PATIENCE + 3)]
    assert statuses == [200] + [429] * PATIENCE + [418, 418]
    wall.s = 60.0 + 119.0
    assert weights.take(1).status == 418
    wall.s = 60.0 + 121.0
    assert weights.take(2000).status == 200
    for _ in range(PATIENCE):
        weights.take(2000)
    banned = weights.take(2000)
    assert (banned.status, banned.retry_after_s) == (418, 240)


def test_funding_has_a_limit_of_its_own_over_five_minutes():
    wall = Wall(300.0)
    weights = Weights(0.01, now=wall)
    assert [weights.take(0, funding=True).status for _ in range(6)] == [200] * 5 + [429]
    assert weights.take(1).status == 200
    wall.s = 599.0
    assert weights.take(0, funding=True).status == 429
    wall.s = 600.0
    assert weights.take(0, funding=True).status == 200
