"""Weeks: from Monday to Monday, UTC; the same bytes however the rows came."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from provider_lakes import MemoryLake, make_bars, make_settlements
from test_convert import content

from qlib_crypto.clock import DAY_MS, HOUR_MS, WEEK_MS, parse_utc
from qlib_crypto.errors import ConfigError
from qlib_crypto.provider import convert, read_manifest, verify
from qlib_crypto.provider.calendar import Grid
from qlib_crypto.provider.write import feature_file
from qlib_crypto.settings import ProviderSettings, VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

THURSDAY = parse_utc("2025-03-13")
HOUR, WEEK = Interval.parse("1h"), Interval.parse("week")
BTC, ETH = Instrument("BTC", "USDT", Venue.OKX), Instrument("ETH", "USDT", Venue.OKX)
PROVIDER = ProviderSettings(intervals=("4h", "1d", "week"), future_days=3)


def lake_of(days, *, eth=0):
    rng = np.random.default_rng(3)
    btc = make_bars(rng, HOUR, THURSDAY, 24 * 60)[: 24 * days]
    frames = {BTC: {HOUR: btc.drop(btc.index[24 * 30 + 5 : 24 * 30 + 6])}}
    if eth:
        frames[ETH] = {HOUR: make_bars(rng, HOUR, THURSDAY + 9 * DAY_MS, 24 * 60)[: 24 * eth]}
    funding = make_settlements(rng, THURSDAY - 8 * HOUR_MS, [8] * (3 * days), jitter_ms=17, marked=0.5)
    return MemoryLake(frames, {BTC: funding})


def test_what_a_week_is():
    assert (WEEK.name, WEEK.qlib, WEEK.ms) == ("1w", "1week", WEEK_MS)
    assert Interval.parse("1week") == Interval.parse("1w") == Interval.of_ms(WEEK_MS) == WEEK
    for text in ("2025-03-10", "2025-03-10 00:00:01", "2025-03-16 23:59:59"):
        assert WEEK.floor(parse_utc(text)) == parse_utc("2025-03-10")
    assert Grid(WEEK, parse_utc("2025-03-10"), 2).text() == b"2025-03-10\n2025-03-17\n"
    with pytest.raises(ConfigError, match="interval '2w' is unknown"):
        Interval.parse("2w")
    with pytest.raises(ConfigError, match="convert makes weeks of it"):
        Interval.parse_candle("week")
    with pytest.raises(ValueError, match="convert makes weeks of it"):
        VenueSettings(interval="1w")


def test_weeks_are_whole_and_equal_what_pandas_makes(tmp_path):
    provider = tmp_path / "qlib_data"
    lake = lake_of(58)
    convert(lake, provider, PROVIDER)
    manifest = read_manifest(provider)
    assert manifest.frequencies["1week"].origin == "2025-03-17 00:00:00"  # the first whole one
    assert (provider / "calendars" / "1week.txt").read_text().splitlines()[:2] == ["2025-03-17", "2025-03-24"]
    future = (provider / "calendars" / "1week_future.txt").read_bytes()
    assert future.count(b"\n") > manifest.frequencies["1week"].length
    bars = lake.frames[BTC][HOUR].set_axis(pd.to_datetime(lake.frames[BTC][HOUR].index, unit="ms"))
    weeks = bars.resample("W-MON", closed="left", label="left")
    whole = weeks["close"].count() == 24 * 7
    expected = weeks.agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"})[whole]
    first, count = manifest.instruments["BTC_USDT.OKX"]["1week"]
    times = pd.to_datetime([manifest.grid("1week").open_ms(first + k) for k in range(count)], unit="ms")
    assert [times[0], times[-1]] == [expected.index[0], expected.index[-1]]
    assert len(expected) == count - 1  # the week of the hole is missing
    for name in expected.columns:
        found = np.fromfile(feature_file(provider, BTC, name, WEEK), "<f4")[1:]
        np.testing.assert_array_equal(found, expected[name].reindex(times).to_numpy(np.float32))
    funding = np.fromfile(feature_file(provider, BTC, "funding", WEEK), "<f4")[1:]
    settled = lake.funding[BTC]["rate"]
    at = settled.index.to_numpy() + 100
    first_ms = times[0].value // 10**6
    assert funding[0] == pytest.approx(settled[(at >= first_ms) & (at < first_ms + WEEK_MS)].sum(), rel=1e-6)
    assert verify(lake, provider, cells="all") == []
    assert verify(lake, provider) == []


def test_the_same_bytes_day_by_day(tmp_path):
    provider, other = tmp_path / "qlib_data", tmp_path / "other"
    for days, eth in ((5, 0), (12, 0), (13, 3), (26, 16), (33, 17), (40, 30)):
        convert(lake_of(days, eth=eth), provider, PROVIDER, durable=False)
        convert(lake_of(days, eth=eth), other, PROVIDER, durable=False, full=True)
        assert content(provider) == content(other)
        assert verify(lake_of(days, eth=eth), provider, cells="all") == []


def test_qlib_reads_them(tmp_path):
    convert(lake_of(40), tmp_path / "qlib_data", PROVIDER)
    code = """
import json, sys, qlib
from qlib.data import D
qlib.init(provider_uri=sys.argv[1], kernels=1, calendar_provider={
    "class": "GridCalendarProvider", "module_path": "qlib_crypto.provider.qlib_calendar"})
frame = D.features(["BTC_USDT.OKX"], ["$close", "Ref($close, 1)"], freq="1week")
print(json.dumps([len(D.calendar(freq="1week")), [str(t) for t in frame.index.get_level_values("datetime")[:2]],
    bool((frame.iloc[1:, 1].to_numpy() == frame.iloc[:-1, 0].to_numpy())[:2].all())]))
"""
    run = [sys.executable, "-c", code, str(tmp_path / "qlib_data")]
    said = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120).stdout
    length = read_manifest(tmp_path / "qlib_data").frequencies["1week"].length
    assert json.loads(said.splitlines()[-1]) == [length, ["2025-03-17 00:00:00", "2025-03-24 00:00:00"], True]
