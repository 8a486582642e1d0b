"""The market clock against a hand-turned monotonic clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_crypto.errors import ConfigError
from qlib_crypto.sandbox.clock import MAX_SPEED, MarketClock, parse_speed

START, END = 1_000_000, 2_000_000


class Wall:
    def __init__(self):
        self.s = 50.0

    def __call__(self):
        return self.s


@settings(deadline=None)
@given(speed=st.floats(0, 1e5), steps=st.lists(st.floats(0, 5), max_size=10))
def test_it_runs_at_its_speed_and_stops_at_its_end(speed, steps):
    wall = Wall()
    clock = MarketClock(START, END, speed=speed, monotonic=wall)
    for step in steps:
        wall.s += step
        assert clock.now_ms() == min(END, START + int((wall.s - 50.0) * 1000 * speed))
    assert clock.at_end == (clock.now_ms() == END)


def test_a_held_clock_stands_and_then_starts_from_where_it_stood():
    wall = Wall()
    clock = MarketClock(START, END, speed=10, held=True, monotonic=wall)
    wall.s += 100
    assert clock.now_ms() == START
    clock.release()
    wall.s += 2
    assert clock.now_ms() == START + 20_000


def test_at_maximum_speed_only_the_replay_moves_it():
    wall = Wall()
    clock = MarketClock(START, END, speed=MAX_SPEED, monotonic=wall)
    wall.s += 100
    assert clock.now_ms() == START
    clock.advance(START + 5)
    clock.advance(START + 3)
    assert clock.now_ms() == START + 5
    clock.advance(END + 5)
    assert (clock.now_ms(), clock.at_end) == (END, True)


def test_a_change_of_speed_goes_on_from_now_and_a_jump_is_counted():
    wall = Wall()
    clock = MarketClock(START, END, speed=1, monotonic=wall)
    wall.s += 10
    clock.set(speed=100)
    assert (clock.now_ms(), clock.jumps) == (START + 10_000, 0)
    wall.s += 1
    assert clock.now_ms() == START + 110_000
    clock.set(at_ms=START + 1)
    assert (clock.now_ms(), clock.jumps) == (START + 1, 1)
    clock.set(speed=0, until_ms=END + 7, at_ms=END + 7)
    wall.s += 99
    assert clock.now_ms() == END + 7


def test_a_jump_past_the_end_is_refused_and_changes_nothing():
    clock = MarketClock(START, END, speed=0)
    with pytest.raises(ConfigError, match="past its end"):
        clock.set(at_ms=END + 1)
    with pytest.raises(ConfigError, match="past its end"):
        clock.set(until_ms=START - 1)
    assert (clock.now_ms(), clock.until_ms, clock.jumps) == (START, END, 0)


@pytest.mark.parametrize(("text", "speed"), [("max", math.inf), ("2000", 2000.0), (0, 0.0), (0.5, 0.5)])
def test_speeds(text, speed):
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["fast", -1, "nan", None])
def test_impossible_speeds(text):
    with pytest.raises(ConfigError, match="speed"):
        parse_speed(text)
