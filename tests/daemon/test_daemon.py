"""The daemon with a stand-in command line that notes what it was asked, and a clock the test moves."""

import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from support_daemon import StandIn, gone, wait_for

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, parse_utc
from qlib_crypto.daemon import kinds
from qlib_crypto.daemon.job import State
from qlib_crypto.daemon.jobs import JobTable
from qlib_crypto.daemon.run import Daemon
from qlib_crypto.daemon.schedule import scheduled
from qlib_crypto.daemon.supervise import Limits
from qlib_crypto.errors import ConfigError, StorageError, VenueError
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Venue

NOON = parse_utc("2025-04-17 12:00")
FAST = {"okx": {"timer_scale": 0.01}, "binance": {"timer_scale": 0.01}}


class MovedClock:
    """Market time as the test sets it; None: out of reach."""

    def __init__(self, at):
        self.ms = at

    def now_ms(self):
        if self.ms is None:
            raise VenueError("okx: no answer from the clock")
        return self.ms


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    monkeypatch.setenv("LAKE", str(tmp_path))
    folder = tmp_path / "stand_in"
    folder.mkdir()
    return StandIn(folder).install()


@pytest.fixture
def table(tmp_path):
    made = JobTable(tmp_path / "jobs.sqlite")
    yield made
    made.close()


@pytest.fixture
def start(stand_in, tmp_path):
    """Starts a daemon in a thread; ends it after the test whatever happened."""
    started = []

    def go(clock, venues=(Venue.OKX,), has_newer=lambda _: False, limits=None, grace_s=5.0, **settings):
        daemon = Daemon(
            lambda: clock, Settings(lake_dir=tmp_path, **{**FAST, **settings}), venues, has_newer,
            command=stand_in.command, tick_s=0.05, grace_s=grace_s,
        )  # fmt: skip
        if limits is not None:
            daemon.limits = limits
        thread = threading.Thread(target=daemon.run)
        thread.start()
        started.append((daemon, thread))
        return daemon, thread

    yield go
    for daemon, thread in started:
        daemon.stop()
        thread.join(30)
        assert not thread.is_alive()


def stop(daemon, thread):
    daemon.stop()
    thread.join(30)
    assert not thread.is_alive()


def completed(table):
    """How often each (kind, period) was completed, and how many times really done."""
    rows = [job for job in table.list(state=State.COMPLETED) if job.period_ms is not None]
    return Counter((job.kind, job.arguments.get("venue"), job.period_ms) for job in rows)


def test_ranks_before_it_collects_and_stops_every_child(stand_in, start, table):
    daemon, thread = start(MovedClock(NOON), (Venue.OKX, Venue.BINANCE))
    wait_for(lambda: stand_in.names().count("collect") == 2)
    assert set(stand_in.names()[:1]) == {"rank"}
    wait_for(lambda: len(table.list(state=State.COMPLETED)) == 2)
    stop(daemon, thread)
    assert stand_in.names().count("stopped") == 2
    assert all(gone(pid) for pid in stand_in.pids())
    assert {job.period_ms for job in table.list()} == {parse_utc("2025-04-17 08:05")}


def test_a_collector_has_longer_than_a_job_to_end_and_not_for_ever(stand_in, start, capsys):
    stand_in.set("slow", "1.5")
    daemon, thread = start(MovedClock(NOON), grace_s=0.1)
    wait_for(lambda: "collect" in stand_in.names())
    stop(daemon, thread)
    assert "stopped" in stand_in.names()
    stand_in.set("slow", "600")
    daemon, thread = start(MovedClock(NOON))
    daemon.collector_grace_s = 0.3
    wait_for(lambda: stand_in.names().count("collect") == 2)
    stop(daemon, thread)
    assert stand_in.names().count("stopped") == 1
    assert "did not end in time" in capsys.readouterr().out
    assert all(gone(pid) for pid in stand_in.pids())


def test_every_period_is_completed_once_while_days_pass(start, table):
    clock = MovedClock(NOON)
    start(clock)
    wait_for(lambda: table.list(state=State.COMPLETED))
    end = NOON + 2 * DAY_MS
    for hour in range(1, 49):
        clock.ms = NOON + hour * HOUR_MS
        threading.Event().wait(0.06)
    want = {
        (entry.kind, entry.arguments.get("venue"), period)
        for entry in scheduled(Settings().schedule, [Venue.OKX])
        for period in entry.period.between(NOON, end)
    } | {("rank", "okx", parse_utc("2025-04-17 08:05"))}
    wait_for(lambda: set(completed(table)) == want)
    assert set(completed(table).values()) == {1}
    assert not table.list(state=State.FAILED)


def test_what_came_due_while_it_was_down_is_caught_up_by_the_next_start(stand_in, start, table):
    clock = MovedClock(NOON)
    first = start(clock)
    wait_for(lambda: table.list(state=State.COMPLETED))
    stop(*first)
    clock.ms = NOON + DAY_MS
    start(clock)
    want = [p for e in scheduled(Settings().schedule, [Venue.OKX]) for p in e.period.between(NOON, NOON + DAY_MS)]
    wait_for(lambda: len(completed(table)) == 1 + len(want))
    assert set(completed(table).values()) == {1}
    names = Counter(stand_in.names())
    assert names["rank"] == 1 + 3, "each missed ranking by itself"
    assert names["repair"] == 1, "one repair covers those before it"
    repairs = table.list(kind="repair")
    assert [job.result for job in repairs[:-1]] == [{"covered_by": repairs[-1].id}] * 23
    assert repairs[-1].result == {"period": repairs[-1].period_ms, "since": None}


def test_a_job_is_told_when_it_was_done_last(start, table):
    clock = MovedClock(NOON)
    start(clock)
    wait_for(table.list)
    clock.ms = NOON + 4 * MINUTE_MS
    wait_for(lambda: table.list(kind="repair", state=State.COMPLETED))
    clock.ms = NOON + 64 * MINUTE_MS
    wait_for(lambda: len(table.list(kind="repair", state=State.COMPLETED)) == 2)
    assert table.list(kind="repair")[-1].result == {
        "period": NOON + 63 * MINUTE_MS, "since": NOON + 3 * MINUTE_MS,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["repair", "convert"])
def test_a_failed_job_is_tried_again_and_an_error_of_usage_is_not(kind, stand_in, start, table):
    start(MovedClock(NOON))
    arguments = {"venue": "okx"} if kind == "repair" else {}
    stand_in.set(f"fail.{kind}", "2")
    number = table.submit(kind, arguments, by="test")
    wait_for(lambda: table.get(number).state == "completed")
    assert table.get(number).attempts == 3
    stand_in.set(f"wrong.{kind}")
    number = table.submit(kind, arguments, by="test")
    wait_for(lambda: table.get(number).state == "failed")
    assert (table.get(number).attempts, table.get(number).error) == (1, f"{kind} is set wrong")


@pytest.mark.parametrize("kind", ["repair", "convert"])
def test_cancelling_ends_what_runs(kind, stand_in, start, table):
    stand_in.set(f"hang.{kind}")
    start(MovedClock(NOON))
    number = table.submit(kind, {"venue": "okx"} if kind == "repair" else {}, by="test")
    wait_for(lambda: kind in stand_in.names())
    pid = next(pid for words, pid in stand_in.calls() if words[0] == kind)
    assert table.cancel(number) == "running"
    wait_for(lambda: gone(pid))
    assert table.get(number).state == "cancelled"
    stand_in.unset(f"hang.{kind}")
    again = table.submit(kind, {"venue": "okx"} if kind == "repair" else {}, by="test")
    wait_for(lambda: table.get(again).state == "completed")


@pytest.mark.parametrize("kind", ["repair", "convert"])
def test_a_job_that_never_ends_is_ended_even_when_it_is_deaf(kind, stand_in, start, table, monkeypatch):
    short = kinds.KINDS[kind].__class__((), 0.5, 1, command=kinds.KINDS[kind].command)
    monkeypatch.setattr("qlib_crypto.daemon.lane.KINDS", {**kinds.KINDS, kind: short})
    stand_in.set(f"deaf.{kind}")
    start(MovedClock(NOON), grace_s=0.5)
    wait_for(lambda: table.list(state=State.COMPLETED))  # the worker is warm
    number = table.submit(kind, {"venue": "okx"} if kind == "repair" else {}, by="test")
    wait_for(lambda: table.get(number).state == "failed")
    stand_in.unset(f"deaf.{kind}")
    assert "not done after" in table.get(number).error
    assert all(gone(pid) for words, pid in stand_in.calls() if words[0] == kind)


def test_a_stop_puts_a_running_job_back_and_the_next_start_does_it(stand_in, start, table):
    stand_in.set("hang.convert")
    stand_in.set("hang.repair")
    first = start(MovedClock(NOON))
    numbers = [table.submit("convert", {}, by="test"), table.submit("repair", {"venue": "okx"}, by="test")]
    wait_for(lambda: {"convert", "repair"} <= set(stand_in.names()))
    stop(*first)
    assert [(table.get(n).state, table.get(n).attempts) for n in numbers] == [("pending", 0)] * 2
    stand_in.unset("hang.convert")
    stand_in.unset("hang.repair")
    start(MovedClock(NOON))
    wait_for(lambda: all(table.get(n).state == "completed" for n in numbers))


# ---------------------------------------------------------------------------------------------------------- collectors


def test_a_dead_collector_is_started_again(stand_in, start):
    stand_in.set("crash")
    start(MovedClock(NOON))
    wait_for(lambda: stand_in.names().count("collect") == 2)


def test_a_collector_that_hangs_is_ended_and_started_again(stand_in, start):
    start(MovedClock(NOON), limits=_Exact(hung_s=0.5))
    wait_for(lambda: stand_in.names().count("collect") == 1)
    threading.Event().wait(1.0)
    assert stand_in.names().count("collect") == 1, "one that writes its status is left alone"
    stand_in.set("mute")
    wait_for(lambda: stand_in.names().count("collect") >= 2)
    assert "stopped" in stand_in.names()


def test_a_dead_feed_is_told_from_a_quiet_market(stand_in, start):
    stand_in.set("stale")
    venue_has, asked = [], []

    def has_newer(status):
        asked.append(status.newest)
        return bool(venue_has)

    start(MovedClock(NOON), has_newer=has_newer, limits=_Exact(silent_s=0.3))
    wait_for(lambda: len(asked) >= 3)
    assert stand_in.names().count("collect") == 1, "nobody has newer bars: the market is quiet"
    venue_has.append(True)
    wait_for(lambda: stand_in.names().count("collect") >= 2)


def test_a_venue_that_does_not_answer_is_no_dead_feed(stand_in, start):
    stand_in.set("stale")
    asked = []

    def has_newer(_status):
        asked.append(True)
        raise VenueError("okx is down")

    start(MovedClock(NOON), has_newer=has_newer, limits=_Exact(silent_s=0.3))
    wait_for(lambda: len(asked) >= 3)
    assert stand_in.names().count("collect") == 1


class _Exact(Limits):
    def scaled(self, _by):
        return self


# -------------------------------------------------------------------------------------------------------- what is ill


def test_a_clock_out_of_reach_holds_up_nothing_that_is_submitted(stand_in, start, table, capsys):
    clock = MovedClock(None)
    start(clock, okx={"timer_scale": 0.01, "symbols": ["BTC_USDT"]})
    number = table.submit("seal", {"venue": "okx"}, by="test")
    wait_for(lambda: table.get(number).state == "completed")
    wait_for(lambda: "collect" in stand_in.names())
    assert not table.list(kind="rank")
    clock.ms = NOON
    wait_for(lambda: table.list(kind="rank", state=State.COMPLETED))
    clock.ms = None
    again = table.submit("seal", {"venue": "okx"}, by="test")
    wait_for(lambda: table.get(again).state == "completed")
    said = capsys.readouterr().out
    assert said.count("no answer from the clock") <= 4, "told once a cause and minute, not at every look"


def test_a_wrong_clock_setting_ends_the_daemon_with_its_reason(stand_in, tmp_path):
    def clock():
        raise ConfigError("--clock is wrong")

    daemon = Daemon(clock, Settings(lake_dir=tmp_path), [Venue.OKX], lambda _: False, command=stand_in.command)
    with pytest.raises(ConfigError, match="--clock is wrong"):
        daemon.run()
    assert all(gone(pid) for pid in stand_in.pids())


def test_a_full_disk_is_told_and_outlived(stand_in, start, table, monkeypatch, capsys):
    full = threading.Event()
    real = JobTable._transaction

    def transaction(self):
        if full.is_set():
            raise StorageError("job table: cannot write (database or disk is full); free disk space")
        return real(self)

    monkeypatch.setattr(JobTable, "_transaction", transaction)
    clock = MovedClock(NOON)
    stand_in.set("hang.repair")
    start(clock)
    number = table.submit("repair", {"venue": "okx"}, by="test")
    wait_for(lambda: "repair" in stand_in.names())
    full.set()
    stand_in.unset("hang.repair")  # it ends now, and its end cannot be recorded
    clock.ms = NOON + HOUR_MS  # nor can what is due be submitted
    threading.Event().wait(0.7)
    assert table.get(number).state == "running"
    full.clear()
    wait_for(lambda: table.get(number).state == "completed")
    wait_for(lambda: any(job.period_ms for job in table.list(kind="repair", state=State.COMPLETED)))
    assert Counter(stand_in.names())["repair"] == 2, "what was done is recorded, not done again"
    assert "disk is full" in capsys.readouterr().out


def test_a_list_of_the_universe_that_is_gone_is_ranked_again(stand_in, start, tmp_path, table):
    first = start(MovedClock(NOON))
    wait_for(lambda: "collect" in stand_in.names())
    stop(*first)
    (tmp_path / "top50_symbols.json").unlink()
    start(MovedClock(NOON))
    wait_for(lambda: stand_in.names().count("collect") == 2)
    assert [(job.period_ms is None, job.submitted_by) for job in table.list(kind="rank")] == [
        (False, "schedule"), (True, "daemon"),
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------- real processes

DAEMON = """
import sys, threading, signal
sys.path.insert(0, {tests!r})
from pathlib import Path
from support_daemon import StandIn
from test_daemon import MovedClock, NOON, FAST
from qlib_crypto.daemon.run import Daemon
from qlib_crypto.errors import QlibCryptoError
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Venue
stopping = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stopping.set())
try:
    Daemon(lambda: MovedClock(NOON), Settings(lake_dir=Path({lake!r}), **FAST), [Venue.OKX], lambda _: False,
           command=StandIn(Path({folder!r})).command, tick_s=0.05, stopping=stopping).run()
except QlibCryptoError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def process(stand_in, tmp_path):
    """Starts daemons in processes of their own."""
    started = []

    def go():
        code = DAEMON.format(tests=str(Path(__file__).parent), lake=str(tmp_path), folder=str(stand_in.folder))
        started.append(
            subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        )
        return started[-1]

    yield go
    for daemon in started:
        daemon.terminate()
        daemon.communicate(timeout=30)


def test_a_second_daemon_ends_with_a_line_that_names_the_first(process, stand_in):
    first = process()
    wait_for(lambda: "collect" in stand_in.names())
    second = process()
    assert second.wait(60) == 1
    said = second.stderr.read().decode().strip().splitlines()[-1]
    assert f"daemon {first.pid} works on this lake" in said
    assert first.poll() is None


@pytest.mark.parametrize("kind", ["repair", "convert"])
def test_after_kill_9_children_end_and_the_next_daemon_takes_up_what_ran(kind, process, stand_in, table):
    stand_in.set(f"hang.{kind}")
    first = process()
    wait_for(lambda: "collect" in stand_in.names())
    number = table.submit(kind, {"venue": "okx"} if kind == "repair" else {}, by="test")
    wait_for(lambda: kind in stand_in.names())
    children = stand_in.pids()
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = process()  # at once: it waits for the children of the first
    wait_for(lambda: all(gone(pid) for pid in children))
    wait_for(lambda: stand_in.names().count(kind) == 2)
    stand_in.unset(f"hang.{kind}")
    wait_for(lambda: table.get(number).state == "completed")
    assert table.get(number).attempts == 2
    assert second.poll() is None
    wait_for(lambda: stand_in.names().count("collect") == 2)
