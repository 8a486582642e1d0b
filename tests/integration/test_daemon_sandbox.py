"""The daemon for real: its own processes against the sandbox, market time 60 times as fast as the wall."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from qlib_crypto.clock import HOUR_MS, parse_utc
from qlib_crypto.daemon.jobs import JobTable
from qlib_crypto.daemon.schedule import scheduled
from qlib_crypto.lake import Lake
from qlib_crypto.provider import verify
from qlib_crypto.provider.convert import convert
from qlib_crypto.provider.manifest import read_manifest
from qlib_crypto.sandbox.generator import GeneratorTape
from qlib_crypto.sandbox.generator_config import GeneratorConfig
from qlib_crypto.sandbox.serve import running
from qlib_crypto.settings import ProviderSettings, ScheduleSettings
from qlib_crypto.symbols import Interval, Venue
from qlib_crypto.universe import membership_spans

WAIT_S = 240


def wait_for(what, daemon):
    end = time.monotonic() + WAIT_S
    while not what():
        assert daemon.poll() is None, "the daemon ended by itself"
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.5)


def jobs(root):
    table = JobTable(root / "jobs.sqlite")
    try:
        return table.list()
    finally:
        table.close()


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
            wait_for(lambda: any(j.kind == "convert" and j.state == "completed" for j in jobs(tmp_path)), daemon)
        finally:
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(90)
            log.close()
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    assert "Traceback" not in said
    rows = jobs(tmp_path)
    assert {(job.kind, job.period_ms) for job in rows if job.state == "completed"} >= {
        ("rank", parse_utc("2025-03-02 16:05")),
        ("rank", parse_utc("2025-03-03 00:05")),
        ("repair", parse_utc("2025-03-03 00:03")),
        ("seal", parse_utc("2025-03-03 00:10")),
        ("convert", parse_utc("2025-03-03 00:10")),
    }
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
    # rows that came after the conversion, until the daemon stopped, are the only difference
    assert all("the lake changed since" in problem for problem in verify(lake, tmp_path / "qlib_data"))
    convert(lake, tmp_path / "qlib_data", ProviderSettings())
    assert verify(lake, tmp_path / "qlib_data") == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_and_stopped_by_turns_it_completes_every_period_once(tmp_path):
    start = parse_utc("2025-03-02 12:00")
    stop = start + 30 * HOUR_MS
    tape = GeneratorTape(
        GeneratorConfig(Venue.OKX, start_ms=parse_utc("2025-03-01"), end_ms=parse_utc("2025-03-06"), minute_days=5)
    )
    (tmp_path / "config.yaml").write_text("universe: {size: 5}\nwatch: {metrics_port: 0}\nokx: {timer_scale: 0.1}\n")
    log = (tmp_path / "log").open("wb")
    want = {(e.kind, p) for e in scheduled(ScheduleSettings(), [Venue.OKX]) for p in e.period.between(start, stop)}
    want.add(("rank", parse_utc("2025-03-02 08:05")))

    def begin(url):
        return subprocess.Popen(
            [sys.executable, "-m", "qlib_crypto.cli", "daemon", "--venue", "okx", "--endpoint", url, "--rate-scale",
             "5000", "--clock", "venue", "--lake", str(tmp_path), "--provider", str(tmp_path / "qlib_data")],
            cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    with running([tape], process=True, at=start, speed=0, rate_scale=5000) as sandbox:
        daemon = begin(sandbox.url)
        try:
            wait_for((tmp_path / "top50_symbols.json").is_file, daemon)
            wait_for(lambda: len(table_marks(tmp_path)) == 9, daemon)  # everything is on the schedule from here
            sandbox.set_clock(speed=600)
            for n in range(1, 5):
                until = start + n * 6 * HOUR_MS
                wait_for(lambda until=until: sandbox.status()["market_ms"] >= until, daemon)
                daemon.send_signal(signal.SIGKILL if n % 2 else signal.SIGTERM)
                daemon.wait(60)
                daemon = begin(sandbox.url)
            # the market goes on meanwhile: it may be in an outage, which nobody can repair before its end
            wait_for(lambda: want <= set(completed(tmp_path)), daemon)
        finally:
            daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(90)
            log.close()
    said = (tmp_path / "log").read_text()
    assert code == 0, said
    assert "Traceback" not in said
    assert set(completed(tmp_path).values()) == {1}


def completed(root):
    """How often each (kind, period) was completed."""
    return Counter((job.kind, job.period_ms) for job in jobs(root) if job.state == "completed")


def table_marks(root):
    """The schedules that the daemon has begun."""
    table = JobTable(root / "jobs.sqlite")
    try:
        entries = scheduled(ScheduleSettings(), [Venue.OKX])
        return [e for e in entries if table.submitted_to(e.kind, e.arguments) is not None]
    finally:
        table.close()
