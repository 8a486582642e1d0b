from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.clock import DAY_MS, MINUTE_MS
from qlib_crypto.errors import DataError
from qlib_crypto.provider.calendar import MAX_SLOTS, Grid, write_calendar
from qlib_crypto.symbols import Interval

MINUTE = Interval.parse("1m")
NAMES = ("1m", "3m", "5m", "15m", "1h", "4h", "8h", "1d")


def expected(grid: Grid) -> str:
    style = "%Y-%m-%d" if grid.interval.name == "1d" else "%Y-%m-%d %H:%M:%S"
    start = pd.Timestamp(grid.origin_ms, unit="ms")
    times = pd.date_range(start, periods=grid.length, freq=pd.Timedelta(grid.interval.ms, "ms"))
    return "".join(f"{line}\n" for line in times.strftime(style))


@given(st.sampled_from(NAMES), st.integers(0, 25_000), st.integers(0, 3_000))
def test_text_is_every_open_of_the_grid(name, day, length):
    grid = Grid(Interval.parse(name), day * DAY_MS, length)
    assert grid.text().decode() == expected(grid)


@given(st.sampled_from(NAMES), st.integers(0, 25_000), st.integers(1, 3_000))
def test_a_slot_is_arithmetic(name, day, length):
    grid = Grid(Interval.parse(name), day * DAY_MS, length)
    assert [grid.slot(int(at)) for at in grid.opens()] == list(range(length))
    assert grid.open_ms(length) == grid.end_ms


def test_future_holds_the_whole_grid_and_the_horizon(tmp_path):
    grid = Grid(MINUTE, 20_000 * DAY_MS, 1_500)
    write_calendar(tmp_path, grid, 7)
    stored, future = (tmp_path / "1min.txt").read_bytes(), (tmp_path / "1min_future.txt").read_bytes()
    assert future.startswith(stored)
    assert future.count(b"\n") - stored.count(b"\n") == 7 * 24 * 60
    assert {path.name for path in tmp_path.iterdir()} == {"1min.txt", "1min_future.txt"}


def test_a_grid_begins_at_midnight_and_ends_where_float32_stops_counting():
    with pytest.raises(DataError, match="not 00:00 UTC"):
        Grid(MINUTE, MINUTE_MS, 1)
    assert Grid(MINUTE, 0, MAX_SLOTS).length == MAX_SLOTS
    with pytest.raises(DataError, match=r"drop 1m from provider\.intervals"):
        Grid(MINUTE, 0, MAX_SLOTS + 1)
