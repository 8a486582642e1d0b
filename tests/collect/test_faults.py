"""The real collector process under every fault of the sandbox: afterwards the lake says what the tape says.

The oracle is the tape; a row that is missing must be named by a hole. A sample runs every day, everything with `long`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support_collect import UNLIMITED, lake_paid, lake_rows, paid, tape_rows
from support_lake import M1

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.lake import Lake
from qlib_crypto.sandbox.events import EventConfig, EventTape
from qlib_crypto.sandbox.faults import KINDS
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Venue

SPEED = 120.0
TIMER_SCALE = 0.05
PATIENCE_S = 90.0
#: What is done for each kind, and how many wall seconds the venue is unwell; market data is lost so that REST is asked.
HOLE = ("silence", {"seconds": 600})
FAULTS = {
    "drop": [("drop", {"code": 1000})],
    "abort": [("abort", {})],
    "half_open": [("half_open", {"seconds": 8})],
    "mute": [("mute", {"seconds": 2}), ("abort", {})],
    "stall": [("stall", {"seconds": 3})],
    "silence": [HOLE],
    "lose": [("lose", {"count": 6})],
    "duplicate": [("duplicate", {"seconds": 2})],
    "reorder": [("reorder", {"seconds": 2})],
    "malformed": [("malformed", {"count": 40})],
    "unknown_instrument": [("unknown_instrument", {"count": 40})],
    "unknown_channel": [("unknown_channel", {"count": 2}), ("abort", {})],
    "notice": [("notice", {"seconds": 1})],
    "lifetime": [("lifetime", {})],
    "maintenance": [("maintenance", {"seconds": 300})],
    "rate_limit": [("rate_limit", {"count": 4, "retry_after": 1}), ("rate_limit", {"count": 3}), HOLE],
    "ban": [("ban", {"seconds": 2}), HOLE],
    "error": [("error", {"count": 6}), HOLE],
    "okx_200": [("okx_200", {"count": 6}), HOLE],
    "empty_page": [("empty_page", {"count": 6}), HOLE],
    "short_page": [("short_page", {"count": 6}), HOLE],
    "slow_page": [("slow_page", {"count": 3, "seconds": 2}), HOLE],
}
#: `revise` makes websocket and REST disagree on purpose, which reconciliation settles; `checksum` is of bulk files.
ELSEWHERE = {"revise", "checksum"}


class Site:
    """A venue in a process of its own, the collector in another, the lake between them."""

    def __init__(self, venue, root, sandbox, tape):
        self.venue, self.root, self.sandbox, self.tape = venue, Path(root), sandbox, tape
        self.of = list(tape.specs)[:4]
        self.start_ms = self.now_ms()
        self.log = (self.root / "log").open("a")

    def now_ms(self):
        return self.sandbox.status()["market_ms"]

    def run(self, command, *options):
        environment = os.environ | {
            f"QLIB_CRYPTO_{self.venue.upper()}__TIMER_SCALE": str(TIMER_SCALE), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        arguments = ["--venue", self.venue, "--lake", str(self.root), *options]
        if command != "seal":
            arguments += ["--endpoint", self.sandbox.url, "--rate-scale", str(UNLIMITED)]
        return subprocess.Popen(
            [sys.executable, "-m", "qlib_crypto.cli", command, *arguments], env=environment, cwd=self.root,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
        )  # fmt: skip

    def collect(self):
        return self.run("collect", "--symbols", ",".join(i.symbol for i in self.of), "--clock", "venue")

    def begins(self):
        """Wait for the collector; what it collects counts from its first bars on."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            lake = Lake(self.root)
            firsts = [lake.bar_times(instrument, M1)[:1] for instrument in self.of]
            lake.close()
            if all(len(first) for first in firsts):
                self.start_ms = max(int(first[0]) for first in firsts)
                return
            time.sleep(0.2)
        raise AssertionError(f"no bars: {(self.root / 'log').read_text()[-3000:]}")

    def lacks(self, until_ms):
        """What differs from the tape up to a market time, a line each; rows that a hole names are no difference."""
        span, out = (self.start_ms, M1.floor(until_ms)), []
        lake = Lake(self.root)
        try:
            for instrument in self.of:
                got, want = lake_rows(lake, instrument, span), tape_rows(self.tape, instrument, span)
                holes = lake.holes(self.venue, "kline_1m", instrument)
                named = {row for row in want if any(h.start_ms <= row[0] < h.end_ms for h in holes)}
                missing = [row for row in want if row not in set(got) and row not in named]
                foreign = [row for row in got if row not in set(want)]
                if missing or foreign or len(got) != len(set(got)):
                    out.append(f"{instrument}: {len(missing)} missing, {len(foreign)} foreign or wrong")
                funded = span[0], span[1] - 2 * MINUTE_MS
                if lake_paid(lake, instrument, funded) != paid(self.tape, instrument, funded):
                    out.append(f"{instrument}: settlements differ")
        finally:
            lake.close()
        return out

    def settles(self, until_ms=None):
        """Wait until everything up to now is there; what is not, after patience has ended."""
        until_ms = until_ms or self.now_ms()
        end = time.monotonic() + PATIENCE_S
        while (left := self.lacks(until_ms)) and time.monotonic() < end:
            time.sleep(0.2)
        return left

    def close(self):
        self.log.close()


@contextlib.contextmanager
def site_of(venue, root):
    tape = EventTape(EventConfig(venue, hours=36, events=False, funding_hours=1))
    at = tape.span_ms[0] + 2 * HOUR_MS
    with running([tape], process=True, speed=SPEED, at=at, rate_scale=UNLIMITED) as sandbox:
        site = Site(venue, root, sandbox, tape)
        try:
            yield site
        finally:
            site.close()


def stopped(process):
    process.send_signal(signal.SIGTERM)
    return process.wait(60)


def under_faults(venue, root, kinds, times):
    with site_of(venue, root) as site:
        process = site.collect()
        try:
            site.begins()
            for kind in kinds:
                for _ in range(times):
                    for name, parameters in FAULTS[kind]:
                        site.sandbox.fault(name, venue=venue.value, **parameters)
                    time.sleep(0.5)
                    done_ms = site.now_ms()
                    left = site.settles(done_ms)
                    assert not left, (kind, left, (root / "log").read_text()[-3000:])
                    assert process.poll() is None, kind
        finally:
            code = stopped(process) if process.poll() is None else process.returncode
        assert code == 0
        assert not site.lacks(done_ms)
        lake = Lake(root)
        assert [hole for hole in lake.holes(venue) if hole.dataset.startswith("kline")] == []  # the tape has every bar
        lake.close()


def test_every_fault_of_the_sandbox_is_done():
    assert set(FAULTS) | ELSEWHERE == set(KINDS)


@pytest.mark.parametrize("venue", [Venue.OKX])
def test_a_sample_of_faults_loses_no_row(tmp_path, venue):
    under_faults(venue, tmp_path, ["abort", "empty_page"], 1)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("venue", list(Venue))
def test_no_fault_loses_a_row(tmp_path, venue):
    skipped = {kind for kind in FAULTS if KINDS[kind].only not in (None, venue)}
    under_faults(venue, tmp_path, [kind for kind in FAULTS if kind not in skipped], 1)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("venue", list(Venue))
def test_a_kill_at_any_instant_loses_no_row(tmp_path, venue):
    draw = random.Random(20260624)
    with site_of(venue, tmp_path) as site:
        process = site.collect()
        site.begins()
        try:
            for kind in ("collect", "seal", "collect", "repair", "collect", "collect"):
                time.sleep(draw.uniform(0.5, 5.0))
                if kind == "collect":
                    process.kill()
                    process.wait()
                    process = site.collect()
                else:
                    beside = site.run(kind)
                    time.sleep(draw.uniform(0.3, 2.0))
                    beside.kill()
                    beside.wait()
                left = site.settles()
                assert not left, (kind, left, (tmp_path / "log").read_text()[-3000:])
        finally:
            stopped(process)


_ALONE = ("unshare", "-Urm", "sh", "-c")
_SMALL = (
    'trap : TERM; mount -t tmpfs -o size=32m tmpfs "$0" || exit 99; out="$1"; shift; '
    '"$@"; code=$?; cp -a "$0"/. "$out"; exit $code'
)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_really_full_disk_is_waited_for(tmp_path):
    """The lake lies on a small file system of its own, which something else fills for some seconds."""
    inside, out = tmp_path / "small", tmp_path / "out"
    inside.mkdir()
    out.mkdir()
    if subprocess.run([*_ALONE, 'mount -t tmpfs tmpfs "$0"', str(inside)], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no mount namespace, so no small file system can be made")
    with site_of(Venue.OKX, tmp_path) as site:
        site.of = site.of[:2]
        symbols = ",".join(i.symbol for i in site.of)
        command = [sys.executable, "-m", "qlib_crypto.cli", "collect", "--venue", "okx", "--lake", str(inside),
                   "--symbols", symbols, "--clock", "venue", "--endpoint", site.sandbox.url,
                   "--rate-scale", str(UNLIMITED)]  # fmt: skip
        process = subprocess.Popen(
            [*_ALONE, _SMALL, str(inside), str(out), *command], stdout=site.log, stderr=site.log, cwd=tmp_path,
            start_new_session=True, env=os.environ | {"QLIB_CRYPTO_OKX__TIMER_SCALE": str(TIMER_SCALE)},
        )  # fmt: skip
        try:
            filler = Path(f"/proc/{process.pid}/root{inside}/filler")
            end = time.monotonic() + PATIENCE_S
            while not filler.with_name("okx_data").joinpath("collector.json").exists() and time.monotonic() < end:
                time.sleep(0.2)
            time.sleep(3)
            for _ in range(2):
                _fill(filler)
                time.sleep(4)
                filler.unlink()
                time.sleep(4)
            assert process.poll() is None
            until = site.now_ms()
            time.sleep(4)
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the shell goes on and copies
            process.wait(60)
        site.root = out
        site.begins()
        said = (tmp_path / "log").read_text()
        assert "waits and tries again" in said
        assert "rows are stored again" in said
        assert not site.lacks(until), said[-3000:]


def _fill(path):
    with path.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size >>= 1
