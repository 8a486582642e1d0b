"""Calendars by arithmetic against Qlib's own."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_lakes import T0, MemoryLake, make_bars, make_settlements

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.provider import convert
from qlib_crypto.provider.calendar import Grid
from qlib_crypto.provider.qlib_calendar import GridSlots, grid_times
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

INTERVALS = st.sampled_from(["1m", "5m", "1h", "4h", "1d"])

BOTH = """
import json, warnings
warnings.filterwarnings("ignore")
import numpy as np, pandas as pd, qlib
from qlib.backtest.utils import TradeCalendarManager
from qlib.data import D
from qlib.data.cache import H
from qlib.data.data import Cal

GRID = {"class": "GridCalendarProvider", "module_path": "qlib_crypto.provider.qlib_calendar"}
ASKED = [(None, None), ("2025-03-13 05:00:00", "2025-03-14 07:30:00"), ("2025-03-13 05:20", None), ("2030-01-01", None),
         (None, "2020-01-01"), (pd.Timestamp("2025-03-14"), pd.Timestamp("2025-03-14"))]

def seen():
    out = {}
    for freq in ("5min", "60min", "day"):
        for future in (False, True):
            for start, end in ASKED:
                times = D.calendar(start, end, freq=freq, future=future)
                assert isinstance(times, np.ndarray)
                out[f"{freq} {future} {start} {end}"] = [(type(t).__name__, str(t)) for t in times]
                if len(times) > 4:
                    out[f"{freq} {future} {start} {end} parts"] = [str(times[-1]), str(times[1:3][0]), str(times.max()),
                        str(times.min()), str(times[np.array([2, 0])][0]), str(list(times[:2].tolist()))]
        out[f"locate {freq}"] = [str(x) for x in Cal.locate_index("2025-03-13 05:20", "2025-03-14 07:30", freq)]
        frame = D.features(["BTC_USDT.OKX"], ["$close", "Ref($close, 3)"], "2025-03-13 06:10", freq=freq)
        out[f"features {freq}"] = frame.to_json(), [str(t) for t in frame.index.dtypes]
        out[f"listed {freq}"] = str(D.list_instruments(D.instruments(f"okx_{freq}"), freq=freq))
        H.clear()
    manager = TradeCalendarManager("60min", "2025-03-13 05:00:00", "2025-03-14 02:00:00")
    for _ in range(3):
        manager.step()
    out["step"] = [str(of) for of in manager.get_step_time()]
    return out

results = []
texts = []
for more in ({}, {"calendar_provider": GRID}):
    qlib.init(provider_uri="qlib_data", region="cn", kernels=1, logging_config=None, **more)
    H.clear()
    results.append(seen())
    texts.append(len(str(D.calendar(freq="60min"))) > 20 and len(repr(D.calendar(freq="day"))) > 20)
    kinds = type(D.calendar(freq="60min")).__name__
stock, grid = results
print(json.dumps({"differing": [key for key in stock if stock[key] != grid[key]], "seen": len(stock), "kind": kinds,
    "texts": texts}))
"""


def test_what_qlib_says_is_the_same_with_either(tmp_path):
    rng = np.random.default_rng(3)
    btc, five = Instrument("BTC", "USDT", Venue.OKX), Interval.parse("5m")
    lake = MemoryLake(
        {btc: {five: make_bars(rng, five, T0, 600)}},
        {btc: make_settlements(rng, T0, [8] * 6, jitter_ms=0, marked=1)},
    )
    convert(lake, tmp_path / "qlib_data", ProviderSettings(intervals=("5m", "1h", "1d")), durable=False)
    done = subprocess.run(
        [sys.executable, "-c", BOTH], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"differing": [], "seen": said["seen"], "kind": "GridTimes", "texts": [True, True]}


@given(INTERVALS, st.integers(2, 3000))
def test_a_calendar_file_is_read_by_its_first_lines(tmp_path_factory, name, length):
    interval = Interval.parse(name)
    grid = Grid(interval, T0 - 365 * DAY_MS, length)
    path = tmp_path_factory.getbasetemp() / "calendar.txt"
    path.write_bytes(grid.text())
    times = grid_times(path)
    assert times.astype("datetime64[ms]").astype(np.int64).tolist() == grid.opens().tolist()
    slots = GridSlots(times)
    assert list(slots) == list(times) == [pd.Timestamp(line) for line in path.read_text().splitlines()]
    assert [slots[time] for time in times[-3:]] == list(range(length))[-3:]
    for other in (times[0] - pd.Timedelta(interval.ms, "ms"), times[-1] + pd.Timedelta(interval.ms, "ms"),
                  times[0] + pd.Timedelta("1s"), times[0].tz_localize("UTC")):  # fmt: skip
        assert other not in slots


@given(INTERVALS, st.integers(3, 200), st.data())
def test_a_calendar_with_holes_is_left_to_qlib(tmp_path_factory, name, length, data):
    lines = Grid(Interval.parse(name), T0, length).text().decode().splitlines(keepends=True)
    gone = data.draw(st.sets(st.integers(1, length - 2), min_size=1, max_size=length - 2))
    kept = [line for at, line in enumerate(lines) if at not in gone]
    path = tmp_path_factory.getbasetemp() / "holes.txt"
    path.write_text("".join(kept))
    times = grid_times(path)
    assert times is None or list(times) == [pd.Timestamp(line.strip()) for line in kept]


ONE, TWO = "2025-01-01", "2025-01-02"


@pytest.mark.parametrize(
    "text", ["", f"{ONE}\n", f"{ONE}\n{ONE}\n", f"{TWO}\n{ONE}\n", f"{ONE}\n{TWO}", f"{ONE}\r\n{TWO}\r\n"]
)
def test_what_is_no_grid_is_left_to_qlib(tmp_path, text):
    path = tmp_path / "day.txt"
    path.write_bytes(text.encode())
    assert grid_times(path) is None


def test_hours_across_a_year_are_exact(tmp_path):
    grid = Grid(Interval.parse("1h"), T0, 24 * 800)
    (tmp_path / "60min.txt").write_bytes(grid.text())
    times = grid_times(tmp_path / "60min.txt")
    assert times[-1] == pd.Timestamp(T0 + (24 * 800 - 1) * HOUR_MS, unit="ms")
