"""The daemon for real: its own processes against the sandbox, market time 60 times as fast as the wall."""

import os
import signal
import subprocess
import sys
import time

import pytest

from qlib_crypto.clock import parse_utc
from qlib_crypto.lake import Lake
from qlib_crypto.provider import verify
from qlib_crypto.provider.manifest import read_manifest
from qlib_crypto.sandbox.generator import GeneratorTape
from qlib_crypto.sandbox.generator_config import GeneratorConfig
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Interval, Venue
from qlib_crypto.universe import membership_spans

WAIT_S = 240


def wait_for(what, daemon):
    end = time.monotonic() + WAIT_S
    while not what():
        assert daemon.poll() is None, "the daemon ended by itself"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.5)


@pytest.mark.long
def test_ranks_collects_converts_over_midnight_and_stops_cleanly(tmp_path):
    start = parse_utc("2025-03-02 23:52")
    tape = GeneratorTape(
        GeneratorConfig(Venue.OKX, start_ms=parse_utc("2025-03-01"), end_ms=parse_utc("2025-03-04"), minute_days=3)
    )
    log = (tmp_path / "log").open("wb")
    with running([tape], process=True, at=start, speed=0, rate_scale=50) as sandbox:
        options = ["--endpoint", sandbox.url, "--rate-scale", "50", "--clock", "venue", "--lake", str(tmp_path)]
        daemon = subprocess.Popen(
            [sys.executable, "-m", "qlib_crypto.cli", "daemon", "--venue", "okx", *options,
             "--provider", str(tmp_path / "qlib_data")],
            cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            wait_for((tmp_path / "top50_symbols.json").is_file, daemon)
            wait_for(lambda: sandbox.status()["streams"] >= 2 * len(tape.specs) - 8, daemon)
            sandbox.set_clock(speed=60)
            wait_for(lambda: read_manifest(tmp_path / "qlib_data") is not None, daemon)
            wait_for(lambda: sandbox.status()["market_ms"] > parse_utc("2025-03-03 00:25"), daemon)
            sandbox.set_clock(speed=0)
        finally:
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(90)
            log.close()
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    assert "Traceback" not in said
    assert said.count("job done") >= 3, "ranked at the start and after 00:00, converted after 00:00"
    lake = Lake(tmp_path)
    minute = Interval.parse("1m")
    assert len({s for spans in membership_spans(lake, Venue.OKX).values() for s in spans}) >= 1
    stored = lake.instruments(Venue.OKX, minute)
    assert len(stored) >= 25
    for instrument in stored:
        opens = lake.bar_times(instrument, minute, start, parse_utc("2025-03-03 00:20"))
        want = tape.bars(instrument, minute).open_ms
        want = want[(want >= start) & (want < parse_utc("2025-03-03 00:20"))]
        assert opens.tolist() == want.tolist(), f"{instrument} lacks minutes"
    assert verify(lake, tmp_path / "qlib_data") == []
