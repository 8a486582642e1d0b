"""Real market data through the sandbox's wire, the feeds and the collector into the lake, compared with the files.

The oracle reads the Parquet files itself with pandas and knows nothing of tape, feeds or lake.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qlib_crypto.clock import HOUR_MS, VenueClock, parse_utc
from qlib_crypto.collect import Pace, backfill, backfill_funding, collect, repair
from qlib_crypto.feeds import rest_client
from qlib_crypto.lake import Lake
from qlib_crypto.lake.tables import INDEXES, MARKS
from qlib_crypto.market.funding import settlement_intervals
from qlib_crypto.sandbox.events import EventConfig, EventTape
from qlib_crypto.sandbox.serve import running
from qlib_crypto.sandbox.tape_files import FileTape
from qlib_crypto.settings import BinanceSettings, OkxSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

M1, H1 = Interval.parse("1m"), Interval.parse("1h")
UNLIMITED = 10_000.0
FOLDER = {Venue.OKX: "okx_swap", Venue.BINANCE: "binance_um"}
FUNDING = {Venue.OKX: "okx_swap_funding", Venue.BINANCE: "binance_um_funding_2025"}
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "replay.py"
PACE = Pace(look_s=0.1, grace_s=2.0, retry_s=0.2)


def in_span(times: pd.Series, span: tuple[int, int]) -> pd.Series:
    return (times >= pd.Timestamp(span[0], unit="ms", tz="UTC")) & (times < pd.Timestamp(span[1], unit="ms", tz="UTC"))


def expected_bars(data: Path, instrument: Instrument, interval: Interval, span) -> pd.DataFrame:
    path = data / "candles" / f"{FOLDER[instrument.venue]}_{interval}" / f"{instrument.venue_id}.parquet"
    frame = pd.read_parquet(path)
    return frame[in_span(frame.timestamp, span)].reset_index(drop=True)


def assert_bars(lake: Lake, data: Path, instruments, interval: Interval, span) -> int:
    """The lake has exactly the files' rows of the span, equal in the columns that the files have."""
    count = 0
    for instrument in instruments:
        wanted = expected_bars(data, instrument, interval, span)
        got = lake.bars(instrument, interval).to_pandas()
        pd.testing.assert_frame_equal(got[list(wanted.columns)], wanted, check_exact=True)
        assert set(got.symbol) <= {instrument.symbol}
        count += len(got)
    assert lake.instruments(instruments[0].venue, interval) == sorted(instruments)
    return count


def assert_funding(lake: Lake, data: Path, instruments, span) -> list[float]:
    """The lake has exactly the file's settlements of the span; their intervals in hours."""
    frame = pd.read_parquet(data / "funding" / f"{FUNDING[instruments[0].venue]}.parquet")
    hours: list[float] = []
    for instrument in instruments:
        wanted = frame[(frame.symbol == instrument.venue_id) & in_span(frame.funding_time, span)]
        got = lake.settlements(instrument.venue, instrument, *span).to_pandas()
        assert got.timestamp.tolist() == wanted.funding_time.tolist()
        assert got.funding_rate.tolist() == wanted.funding_rate.tolist()
        assert len(got)
        raw = np.diff(wanted.funding_time.astype("int64").to_numpy()) / HOUR_MS
        own = settlement_intervals(got.timestamp.astype("int64").to_numpy())[1:]
        np.testing.assert_allclose(own, raw, atol=0.01)
        hours += own.tolist()
    return hours


def settings_of(venue: Venue, url: str, scale: float = UNLIMITED):
    return (OkxSettings if venue is Venue.OKX else BinanceSettings)(rate_scale=scale, datasets=()).at(url)


def replay(data, venue, symbols, span, root, meanwhile: Callable[..., None] | None = None, speed="max"):
    """The span, by websocket, into a fresh lake; `meanwhile(sandbox)` runs beside it."""
    instruments = [Instrument.parse(symbol, venue) for symbol in symbols]
    told: list[str] = []
    with running(
        [FileTape(data, venue)], speed=speed, at=span[0], until=span[1], hold_streams=2 * len(instruments),
        rate_scale=UNLIMITED,
    ) as sandbox:  # fmt: skip
        settings = settings_of(venue, sandbox.url)
        client, lake = rest_client(venue, settings), Lake(root)
        beside = threading.Thread(target=meanwhile or (lambda _sandbox: None), args=(sandbox,))
        beside.start()
        try:
            summary = collect(
                lake, client, settings, instruments, M1, clock=VenueClock(client.server_time_ms, refresh_s=0.2),
                since_ms=span[0], until_ms=span[1], say=told.append, pace=PACE,
            )  # fmt: skip
        finally:
            client.close()
            beside.join()
        assert sandbox.status()["failed"] is None
    return lake, instruments, summary, told


def test_a_websocket_replay_of_okx_minutes_ends_with_exactly_the_files_rows(real_data, tmp_path):
    span = parse_utc("2025-03-20T04:30"), parse_utc("2025-03-20T18:10")
    symbols = [f"{base}_USDT" for base in ("ADA", "BNB", "BTC", "DOGE", "ETH", "SOL", "TON", "TRX", "XRP")]
    lake, instruments, summary, told = replay(real_data, Venue.OKX, symbols, span, tmp_path)
    rows = assert_bars(lake, real_data, instruments, M1, span)
    assert rows == summary.stream_bars == 9 * 820
    assert set(assert_funding(lake, real_data, instruments, span)) == {8.0}
    assert summary.refused == 0
    rows = lake.bars(instruments[2], M1)
    assert rows.column("trades").null_count == rows.column("quote_volume").null_count == 820  # never invented
    assert [line for line in told if not line.startswith(("sealed", "reached"))] == []
    lake.close()


@pytest.mark.parametrize("venue", list(Venue))
def test_mark_and_index_of_a_replay_are_the_tapes(venue, tmp_path):
    """Two hours on a sandbox with prices of its own for both; afterwards nothing is left to repair."""
    tape = EventTape(EventConfig(venue, hours=2, events=False))
    instruments = [Instrument(base, "USDT", venue) for base in ("BTC", "ETH")]
    kind = OkxSettings if venue is Venue.OKX else BinanceSettings
    names = ("mark", "index")
    with running(
        [tape], speed=1_200, at=tape.span_ms[0], until=tape.span_ms[1], hold_streams=4, rate_scale=UNLIMITED
    ) as sandbox:
        settings = kind(rate_scale=UNLIMITED, datasets=names).at(sandbox.url)
        client, lake = rest_client(venue, settings), Lake(tmp_path)
        collect(
            lake, client, settings, instruments, M1, clock=VenueClock(client.server_time_ms, refresh_s=0.2),
            since_ms=tape.span_ms[0], until_ms=tape.span_ms[1], pace=PACE,
        )  # fmt: skip
        summary = repair(
            lake, client, None, instruments, M1, names, now_ms=client.server_time_ms(), since_ms=tape.span_ms[0]
        )
        client.close()
    assert (sum(summary.missing.values()), summary.holes) == (0, {})
    for instrument in instruments:
        for table, bars in ((MARKS, tape.mark_bars(instrument, M1)), (INDEXES, tape.index_bars(instrument, M1))):
            got = lake.read(table, venue, instrument, interval=M1)
            assert got.column("timestamp").cast("int64").to_pylist() == bars.open_ms.tolist()
            for name in ("open", "high", "low", "close"):
                assert got.column(name).to_pylist() == getattr(bars, name).tolist()
    lake.close()


def test_a_websocket_replay_of_binance_minutes_with_hourly_funding(real_data, tmp_path):
    span = parse_utc("2025-05-20T05:30"), parse_utc("2025-05-20T16:30")
    symbols = [f"{base}_USDT" for base in ("BTC", "ENA", "ETC", "LAYER", "XMR")]
    lake, instruments, summary, _ = replay(real_data, Venue.BINANCE, symbols, span, tmp_path)
    assert assert_bars(lake, real_data, instruments, M1, span) == summary.stream_bars == 5 * 660
    intervals = {i.base: assert_funding(lake, real_data, [i], span) for i in instruments}
    assert set(intervals["BTC"]) == {8.0}
    assert set(intervals["ENA"]) == {4.0}
    assert set(intervals["LAYER"]) <= {1.0, 2.0, 4.0}
    assert len(intervals["LAYER"]) > len(intervals["BTC"])
    lake.close()


@pytest.mark.long
def test_a_replay_with_broken_sockets_lost_data_and_failing_requests_ends_with_the_same_rows(real_data, tmp_path):
    """Four market hours a second: what a second without a socket loses must come by REST."""
    span = parse_utc("2025-03-20T04:30"), parse_utc("2025-03-21T04:30")
    faults = [("silence", {"seconds": 5400}), ("error", {}), ("abort", {}), ("rate_limit", {"retry_after": 1}),
              ("drop", {}), ("silence", {"seconds": 60})]  # fmt: skip

    def trouble(sandbox):
        for k, (kind, parameters) in enumerate(faults, start=1):
            due = span[0] + k * (span[1] - span[0]) // (len(faults) + 2)
            deadline = time.monotonic() + 60
            while sandbox.status()["market_ms"] < due and time.monotonic() < deadline:
                time.sleep(0.01)
            sandbox.fault(kind, **parameters)

    symbols = ["BTC_USDT", "ETH_USDT", "TRX_USDT"]
    lake, instruments, summary, told = replay(real_data, Venue.OKX, symbols, span, tmp_path, trouble, speed=14_400)
    assert assert_bars(lake, real_data, instruments, M1, span) == 3 * 1440
    assert set(assert_funding(lake, real_data, instruments, span)) == {8.0}
    assert summary.rest_bars >= 3 * 80  # the first silence at least
    assert told
    lake.close()


def test_a_backfill_killed_half_way_goes_on_where_it_stopped(real_data, tmp_path):
    span = parse_utc("2024-12-01"), parse_utc("2025-05-10T16:00")
    instruments = [Instrument(base, "USDT", Venue.OKX) for base in ("BTC", "DOGE", "TRUMP")]
    with running([FileTape(real_data, Venue.OKX)], speed=0, at=span[1], rate_scale=UNLIMITED) as sandbox:
        command = [
            sys.executable, str(BENCHMARK), "--worker", "okx", sandbox.url, str(tmp_path), "1h", *map(str, span),
            *(i.symbol for i in instruments),
        ]  # fmt: skip
        first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        acknowledged = 0
        for line in first.stdout:
            acknowledged = int(line.split()[1])
            if acknowledged > 5000:
                break
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        first.stdout.close()
        lake = Lake(tmp_path)
        kept = sum(len(lake.bars(i, H1)) for i in instruments)
        assert kept >= acknowledged > 5000
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        asked = int(done.stdout.split()[-1])
        total = assert_bars(lake, real_data, instruments, H1, span)
        assert kept < total
        assert asked == total - kept  # no row was asked for twice
        client = rest_client(Venue.OKX, settings_of(Venue.OKX, sandbox.url))
        assert backfill(lake, client, instruments, H1, *span).rows == 0
        client.close()
    lake.close()


@pytest.mark.parametrize("venue", list(Venue))
def test_at_the_venues_true_limits_nothing_is_refused(real_data, tmp_path, venue):
    at = parse_utc("2025-05-10T16:00")
    interval, count = (H1, 9000) if venue is Venue.OKX else (M1, 4000)
    span = at - count * interval.ms, at
    of = [Instrument("BTC", "USDT", venue)]
    with running([FileTape(real_data, venue)], speed=0, at=at) as sandbox:
        client, lake = rest_client(venue, settings_of(venue, sandbox.url, 1.0)), Lake(tmp_path)
        began = time.monotonic()
        assert backfill(lake, client, of, interval, *span).missing == {}
        took = time.monotonic() - began
        funding = at - 5 * 24 * HOUR_MS, at
        backfill_funding(lake, client, of, *funding)
        client.close()
        status = sandbox.status()
    assert assert_bars(lake, real_data, of, interval, span) == count
    assert set(assert_funding(lake, real_data, of, funding)) == {8.0}
    assert status["refused"] == 0
    if venue is Venue.OKX:  # 30 pages at 20 in 2 s
        assert took > 1.0
    lake.close()


@pytest.mark.long
def test_the_benchmark_runs_whole_parts(real_data):
    command = [sys.executable, str(BENCHMARK), "--data", str(real_data), "--days", "1", "--symbols", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["bench"] == "replay"
    assert all(measure["equal"] for measure in answer["measures"].values())
