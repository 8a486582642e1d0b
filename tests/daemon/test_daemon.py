"""The daemon with a stand-in command line that records what it was asked, and a clock the test moves."""

import json
import os
import re
import sys
import threading
import time

import pytest

from qlib_crypto.clock import HOUR_MS, parse_utc
from qlib_crypto.daemon import Daemon
from qlib_crypto.settings import ScheduleSettings
from qlib_crypto.symbols import Venue

COMMAND = """
import json, os, signal, sys, time
name = sys.argv[1]
with open({log!r}, "a") as f:
    f.write(json.dumps([sys.argv[1:], os.getpid()]) + "\\n")
if name == "collect":
    if os.path.exists({crash!r}):
        os.remove({crash!r}); sys.exit(1)
    def stop(*_):
        with open({log!r}, "a") as f:
            f.write(json.dumps([["stopped"], os.getpid()]) + "\\n")
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    while True: time.sleep(0.02)
if name == "convert" and os.path.exists({fail!r}):
    os.remove({fail!r}); sys.exit(3)
"""


class MovedClock:
    def __init__(self, at):
        self.ms = at

    def now_ms(self):
        return self.ms


@pytest.fixture
def stand_in(tmp_path):
    class StandIn:
        log, crash, fail = tmp_path / "log", tmp_path / "crash", tmp_path / "fail"
        command = (sys.executable, str(tmp_path / "command.py"))

        def calls(self):
            return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

        def names(self):
            return [c[0][0] for c in self.calls()]

    made = StandIn()
    (tmp_path / "command.py").write_text(COMMAND.format(log=str(made.log), crash=str(made.crash), fail=str(made.fail)))
    return made


@pytest.fixture
def running(stand_in):
    """Starts a daemon in a thread; ends it after the test whatever happened."""
    started = []

    def start(clock, venues=(Venue.OKX,)):
        daemon = Daemon(clock, ScheduleSettings(), venues, command=stand_in.command, tick_s=0.05)
        thread = threading.Thread(target=daemon.run)
        thread.start()
        started.append((daemon, thread))
        return daemon, thread

    yield start
    for daemon, thread in started:
        daemon.stop()
        thread.join(20)
        assert not thread.is_alive()


def wait_for(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_ranks_before_it_collects_and_stops_every_child(stand_in, running):
    daemon, thread = running(MovedClock(parse_utc("2025-04-17 12:00")), (Venue.OKX, Venue.BINANCE))
    wait_for(lambda: stand_in.names().count("collect") == 2)
    assert stand_in.names()[:2] == ["rank", "rank"]
    daemon.stop()
    thread.join(20)
    assert stand_in.names().count("stopped") == 2
    for _, pid in stand_in.calls():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_runs_each_period_once_while_time_moves(stand_in, running):
    clock = MovedClock(parse_utc("2025-04-17 12:00"))
    running(clock)
    wait_for(lambda: "collect" in stand_in.names())
    for hours in range(1, 25):
        clock.ms = parse_utc("2025-04-17 12:00") + hours * HOUR_MS + 15 * 60_000
        time.sleep(0.15)
    wait_for(lambda: stand_in.names().count("convert") == 1 and stand_in.names().count("rank") == 1 + 3)
    time.sleep(0.3)
    assert stand_in.names().count("convert") == 1
    assert stand_in.names().count("rank") == 1 + 3


def test_a_failed_job_is_tried_again_in_its_period(stand_in, running):
    stand_in.fail.touch()
    clock = MovedClock(parse_utc("2025-04-17 23:59"))
    running(clock)
    wait_for(lambda: "collect" in stand_in.names())
    clock.ms = parse_utc("2025-04-18 00:11")
    wait_for(lambda: stand_in.names().count("convert") == 2)


def test_a_dead_collector_is_started_again(stand_in, running):
    stand_in.crash.touch()
    running(MovedClock(parse_utc("2025-04-17 12:00")))
    wait_for(lambda: stand_in.names().count("collect") == 2)


def test_the_log_names_venues_and_is_silent_about_ticks_that_a_job_outlasts(stand_in, running, caplog, capsys):
    script = stand_in.log.with_name("command.py")
    script.write_text(script.read_text() + 'if name == "convert": time.sleep(0.5)\n')
    clock = MovedClock(parse_utc("2025-04-17 12:00"))
    daemon, thread = running(clock, (Venue.OKX, Venue.BINANCE))
    wait_for(lambda: stand_in.names().count("collect") == 2)
    clock.ms += 24 * HOUR_MS
    wait_for(lambda: "convert" in stand_in.names())
    time.sleep(0.4)
    daemon.stop()
    thread.join(20)
    assert "venues='okx, binance'" in re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert "maximum number of running instances" not in caplog.text
