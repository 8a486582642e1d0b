from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.clock import DAY_MS, MINUTE_MS
from qlib_crypto.errors import DataError
from qlib_crypto.provider.calendar import MAX_SLOTS, Grid, calendar_files
from qlib_crypto.symbols import Interval

MINUTE = Interval.parse("1m")
NAMES = ("1m", "3m", "5m", "15m", "1h", "4h", "8h", "1d", "1w")
MONDAY = 20_000 // 7 * 7 + 4


def expected(grid: Grid) -> str:
    style = "%Y-%m-%d" if grid.interval.ms >= DAY_MS else "%Y-%m-%d %H:%M:%S"
    start = pd.Timestamp(grid.origin_ms, unit="ms")
    times = pd.date_range(start, periods=grid.length, freq=pd.Timedelta(grid.interval.ms, "ms"))
    return "".join(f"{line}\n" for line in times.strftime(style))


@given(st.sampled_from(NAMES), st.integers(0, 25_000), st.integers(0, 3_000))
def test_text_is_every_open_of_the_grid(name, day, length):
    grid = Grid(Interval.parse(name), Interval.parse(name).floor((day + 7) * DAY_MS), length)
    assert grid.text().decode() == expected(grid)


@given(st.sampled_from(NAMES), st.integers(0, 25_000), st.integers(1, 3_000))
def test_a_slot_is_arithmetic(name, day, length):
    grid = Grid(Interval.parse(name), Interval.parse(name).floor((day + 7) * DAY_MS), length)
    assert [grid.slot(int(at)) for at in grid.opens()] == list(range(length))
    assert grid.open_ms(length) == grid.end_ms


@given(st.sampled_from(NAMES), st.integers(1, 3_000), st.integers(0, 3_000))
def test_the_tail_of_a_text_is_the_rest_of_it(name, length, since):
    grid = Grid(Interval.parse(name), MONDAY * DAY_MS, length)
    since = min(since, length)
    lines = grid.text().splitlines(keepends=True)
    assert grid.text(since) == b"".join(lines[since:])


@given(st.sampled_from(NAMES[:-1]), st.integers(1, 5_000), st.integers(2, 9))
def test_future_holds_the_whole_grid_and_a_horizon_that_seldom_moves(name, length, days):
    grid = Grid(Interval.parse(name), MONDAY * DAY_MS, length)
    stored, future = calendar_files(grid, days).values()
    assert stored == grid
    assert future.origin_ms == grid.origin_ms
    assert DAY_MS <= future.end_ms - grid.end_ms <= days * DAY_MS
    assert (future.end_ms - future.origin_ms) % DAY_MS == 0
    per_day = DAY_MS // grid.interval.ms
    later = [Grid(grid.interval, grid.origin_ms, length + more * per_day).extended(days).length for more in range(days)]
    assert len(set(later)) == 2, "every days - 1 days"


def test_a_grid_begins_at_midnight_and_ends_where_float32_stops_counting():
    with pytest.raises(DataError, match="not 00:00 UTC"):
        Grid(MINUTE, MINUTE_MS, 1)
    assert Grid(MINUTE, 0, MAX_SLOTS).length == MAX_SLOTS
    with pytest.raises(DataError, match=r"drop 1m from provider\.intervals"):
        Grid(MINUTE, 0, MAX_SLOTS + 1)
