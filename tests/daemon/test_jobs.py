"""The job table: one row a job and period, claimed once, completed once, whatever dies when."""

import contextlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qlib_crypto.daemon import jobs
from qlib_crypto.daemon.job import State
from qlib_crypto.daemon.jobs import JobTable
from qlib_crypto.errors import ConfigError, StorageError

OKX, BINANCE = {"venue": "okx"}, {"venue": "binance"}
KINDS = ["rank", "repair"]
LONGEST_MS = 300_000


class Wall:
    def __init__(self, ms=1_000_000):
        self.ms = ms

    def __call__(self):
        return self.ms


@pytest.fixture
def wall():
    return Wall()


@pytest.fixture
def table(tmp_path, wall):
    made = JobTable(tmp_path / "jobs.sqlite", now_ms=wall)
    yield made
    made.close()


def states(table):
    return {(job.kind, job.period_ms): job.state for job in table.list()}


def test_a_period_is_one_job_however_often_it_is_submitted(table):
    first = table.submit("repair", OKX, period_ms=60, by="schedule")
    assert table.submit("repair", {"venue": "okx"}, period_ms=60, by="command line") == first
    assert table.submit("repair", BINANCE, period_ms=60, by="schedule") != first
    assert len(table.list()) == 2


def test_work_asked_for_by_hand_is_as_many_jobs_as_requests(table):
    assert table.submit("seal", OKX, by="command line") != table.submit("seal", OKX, by="command line")


def test_an_empty_table_answers_without_making_a_file(table):
    assert table.list() == []
    assert table.get(1) is None
    assert table.claim(KINDS, 1) is None
    assert table.submitted_to("rank", OKX) is None
    assert table.last_done("rank", OKX, 10) is None
    assert not table.path.exists()


def test_a_job_keeps_its_story(table, wall):
    number = table.submit("repair", {"venue": "okx", "since": "2025-04-01"}, period_ms=60, by="schedule")
    wall.ms += 5
    claimed = table.claim(KINDS, 77)
    assert (claimed.id, claimed.pid, claimed.attempts, claimed.started_ms) == (number, 77, 1, 1_000_005)
    assert claimed == table.get(number)
    wall.ms += 7
    assert table.complete(number, {"rows": 3, "by_cause": {"late": 3}})
    done = table.get(number)
    assert (done.state, done.result, done.pid, done.submitted_by) == (
        "completed", {"rows": 3, "by_cause": {"late": 3}}, None, "schedule",
    )  # fmt: skip
    assert (done.submitted_ms, done.started_ms, done.ended_ms) == (1_000_000, 1_000_005, 1_000_012)
    assert not table.complete(number, {"rows": 4})
    assert table.get(number).result["rows"] == 3


def test_the_newest_period_is_done_and_covers_those_before_it(table):
    table.submit_periods("repair", OKX, [10, 20, 30], up_to_ms=35, by="schedule")
    table.submit("repair", BINANCE, period_ms=10, by="schedule")
    newest = table.claim(KINDS, 1, lambda job: job.arguments == OKX)
    assert newest.period_ms == 30
    assert table.claim(KINDS, 1, lambda job: job.arguments == OKX) is None, "older ones wait for the newest"
    table.complete(newest.id, {})
    ours = [job for job in table.list() if job.arguments == OKX]
    assert [job.state for job in ours] == ["completed"] * 3
    assert [job.result for job in ours] == [{"covered_by": newest.id}] * 2 + [{}]
    assert table.get(4).state == "pending", "the other venue's is not covered"


def test_every_missed_ranking_is_done_by_itself_the_oldest_first(table):
    table.submit_periods("rank", OKX, [10, 20, 30], up_to_ms=35, by="schedule")
    seen = []
    while job := table.claim(KINDS, 1):
        seen.append(job.period_ms)
        table.complete(job.id, {})
    assert seen == [10, 20, 30]
    assert all(job.result == {} for job in table.list())


def test_urgent_kinds_go_first_and_all_others_in_the_order_of_submission(table):
    for kind, period in (("repair", 50), ("seal", None), ("check", 20), ("rank", 60)):
        table.submit(kind, OKX, period_ms=period, by="schedule")
    kinds = ["check", "seal", "repair", "rank"]
    order = [table.claim(kinds, 1, urgent=["rank"]).kind for _ in range(4)]
    assert order == ["rank", "repair", "seal", "check"]
    assert table.claim(kinds, 1) is None
    assert table.claim([], 1) is None


def test_a_job_that_takes_longer_than_its_period_starves_no_other(table):
    table.submit_periods("repair", OKX, [10], up_to_ms=10, by="schedule")
    running = table.claim(["repair", "seal"], 1)
    table.submit("seal", OKX, period_ms=10, by="schedule")
    table.submit_periods("repair", OKX, [20, 30], up_to_ms=30, by="schedule")
    table.complete(running.id, {})
    assert table.claim(["repair", "seal"], 1).kind == "seal"
    assert table.claim(["repair", "seal"], 1).period_ms == 30


def test_a_failed_attempt_waits_longer_each_time_then_the_job_has_failed(table, wall):
    number = table.submit("repair", OKX, period_ms=60, by="schedule")
    waits = []
    for attempt in range(1, 8):
        job = table.claim(KINDS, 1)
        assert job.attempts == attempt
        state = table.fail(number, "no\nroute", attempts=7)
        begin = wall.ms
        if state == "failed":
            break
        while table.claim(KINDS, 1, lambda _: False) is None and not _claimable(table):
            wall.ms += 500
        waits.append((wall.ms - begin) / 1000)
    assert waits == [2, 5, 15, 60, 300, 300]
    assert (table.get(number).state, table.get(number).error) == ("failed", "no route")
    wall.ms += 10**9
    assert table.claim(KINDS, 1) is None


def _claimable(table):
    seen = []
    table.claim(KINDS, 1, lambda job: bool(seen.append(job)))
    return bool(seen)


def test_a_clock_that_went_back_keeps_nothing_waiting(table, wall):
    number = table.submit("repair", OKX, by="command line")
    table.claim(KINDS, 1)
    table.fail(number, "no", attempts=3)
    assert not _claimable(table)
    wall.ms -= 7_200_000
    assert _claimable(table)


def test_a_failed_period_is_covered_by_the_next_that_completes(table):
    table.submit("repair", OKX, period_ms=10, by="schedule")
    job = table.claim(KINDS, 1)
    assert table.fail(job.id, "venue down", attempts=1) == "failed"
    table.submit("repair", OKX, period_ms=20, by="schedule")
    table.complete(table.claim(KINDS, 1).id, {"rows": 9})
    assert (table.get(job.id).result, table.get(job.id).error) == ({"covered_by": 2}, None)
    assert table.last_done("repair", OKX, 99) == 20
    assert table.last_done("repair", OKX, 20) == 10


def test_cancelling_a_running_job_wins_over_its_completion(table):
    number = table.submit("repair", OKX, period_ms=10, by="schedule")
    table.claim(KINDS, 1)
    assert table.cancel(number) == "running"
    assert not table.complete(number, {})
    assert table.fail(number, "ended") is None
    assert not table.release(number)
    assert table.recover() == 0
    assert table.get(number).state == "cancelled"
    assert table.cancel(number) == "cancelled"
    with pytest.raises(ConfigError, match="job 99 is not in"):
        table.cancel(99)


def test_a_cancelled_newest_period_leaves_the_older_ones_to_be_done(table):
    table.submit_periods("repair", OKX, [10, 20], up_to_ms=25, by="schedule")
    table.cancel(2)
    assert table.claim(KINDS, 1).period_ms == 10


def test_released_costs_no_attempt_and_recovered_costs_one(table):
    number = table.submit("repair", OKX, period_ms=10, by="schedule")
    table.claim(KINDS, 1)
    assert table.release(number)
    assert table.claim(KINDS, 1).attempts == 1
    assert table.recover() == 1
    assert table.claim(KINDS, 1).attempts == 2


def test_a_job_that_kills_its_daemon_again_and_again_has_failed(table):
    number = table.submit("repair", OKX, by="command line")
    for _ in range(jobs._DEATHS):
        assert table.claim(KINDS, 1).id == number
        table.recover()
    assert table.get(number).state == "failed"
    assert "daemon ended abruptly" in table.get(number).error


def test_periods_and_how_far_they_reach_are_one_step(table):
    assert table.submit_periods("rank", OKX, [], up_to_ms=5, by="schedule") == 0
    assert table.submitted_to("rank", OKX) == 5
    assert table.submit_periods("rank", OKX, [10, 20], up_to_ms=21, by="schedule") == 2
    assert table.submit_periods("rank", OKX, [20, 30], up_to_ms=33, by="schedule") == 1
    assert table.submitted_to("rank", OKX) == 33
    assert [job.period_ms for job in table.list()] == [10, 20, 30]


def test_lists_by_state_and_kind_and_the_newest_so_many(table):
    for period in range(5):
        table.submit("rank" if period % 2 else "repair", OKX, period_ms=period, by="schedule")
    table.claim(["rank"], 1)
    assert [job.period_ms for job in table.list(kind="repair")] == [0, 2, 4]
    assert [job.period_ms for job in table.list(state=State.RUNNING)] == [1]
    assert [job.period_ms for job in table.list(limit=2)] == [3, 4]


def test_a_full_disk_refuses_and_leaves_what_was_there(table):
    table.submit("rank", OKX, period_ms=1, by="schedule")
    connection = table._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="free disk space") as full:
        table.submit_periods("repair", OKX, range(5000), up_to_ms=5000, by="schedule")
    assert "\n" not in str(full.value)
    assert table.submitted_to("repair", OKX) is None
    assert len(table.list()) == 1
    connection.execute("PRAGMA max_page_count = 1000000")
    assert table.submit_periods("repair", OKX, range(5000), up_to_ms=5000, by="schedule") == 5000


def test_a_damaged_file_is_told_with_what_to_do(tmp_path):
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match="move it away"):
        JobTable(path).list()


# ------------------------------------------------------------------------------------------- crash between statements


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs, not even a rollback."""


class Dying:
    """A connection whose process dies before or after its n-th statement."""

    def __init__(self, connection, fuse):
        self._connection, self._fuse = connection, fuse

    def execute(self, statement, bound=()):
        return self._step(self._connection.execute, statement, bound)

    def executemany(self, statement, bound):
        return self._step(self._connection.executemany, statement, bound)

    def _step(self, do, statement, bound):
        if self._fuse["left"] == 0:
            raise Killed
        self._fuse["left"] -= 1
        answer = do(statement, bound)
        if self._fuse["left"] == 0 and self._fuse["after"]:
            raise Killed
        return answer

    @property
    def in_transaction(self):
        return False  # the dead do not roll back

    def close(self):
        self._connection.close()


class CrashMachine(RuleBasedStateMachine):
    """Any order of calls, any of which dies anywhere; the file is then opened by a new process."""

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.wall = Wall()
        self.path = f"{self.folder.name}/jobs.sqlite"
        self.open()
        self.table.submit("repair", OKX, by="command line")
        self.done = {}
        self.acknowledged = set()

    def open(self):
        self.table = JobTable(self.path, now_ms=self.wall)
        self.table._open().execute("PRAGMA synchronous = OFF")  # a process dies here, not the machine

    def teardown(self):
        try:
            self.finish()
        finally:
            self.table.close()
            self.folder.cleanup()

    def call(self, name, *arguments, dies=None, **named):
        """The answer, or None when the process died in it."""
        if dies is None:
            return getattr(self.table, name)(*arguments, **named)
        self.table.list()
        real = self.table._connection
        self.table._connection = Dying(real, {"left": dies[0], "after": dies[1]})
        with contextlib.suppress(Killed):
            answer = getattr(self.table, name)(*arguments, **named)
            self.table._connection = real
            return answer
        real.close()  # only here, where no traceback keeps a statement open
        self.open()
        self.table.recover()
        return None

    deaths = st.none() | st.tuples(st.integers(0, 5), st.booleans())
    kinds = st.sampled_from(KINDS)
    venues = st.sampled_from([OKX, BINANCE])

    @rule(kind=kinds, venue=venues, periods=st.lists(st.integers(0, 9), max_size=4), dies=deaths)
    def submit(self, kind, venue, periods, dies):
        before = {job.period_ms for job in self.table.list(kind=kind) if job.arguments == venue}
        made = self.call("submit_periods", kind, venue, periods, up_to_ms=max(periods, default=0), by="s", dies=dies)
        after = {job.period_ms for job in self.table.list(kind=kind) if job.arguments == venue}
        assert after in (before, before | set(periods)), "all of a call or nothing"
        if made is not None:
            assert after == before | set(periods)
            assert self.table.submitted_to(kind, venue) == max(periods, default=0)

    @rule(dies=deaths)
    def claim(self, dies):
        job = self.call("claim", KINDS, 1, dies=dies)
        if job is not None:
            assert self.table.get(job.id).state == "running"

    def running(self):
        return self.table.list(state=State.RUNNING)

    @precondition(lambda self: self.running())
    @rule(pick=st.randoms(use_true_random=False), dies=deaths)
    def complete(self, pick, dies):
        job = pick.choice(self.running())
        if self.call("complete", job.id, {"by": "us"}, dies=dies):
            assert self.table.get(job.id).state == "completed"

    @precondition(lambda self: self.running())
    @rule(pick=st.randoms(use_true_random=False), attempts=st.integers(1, 3), dies=deaths)
    def fail(self, pick, attempts, dies):
        self.call("fail", pick.choice(self.running()).id, "bad", attempts=attempts, dies=dies)

    @precondition(lambda self: self.running())
    @rule(pick=st.randoms(use_true_random=False), dies=deaths)
    def release(self, pick, dies):
        self.call("release", pick.choice(self.running()).id, dies=dies)

    @rule(dies=deaths)
    def die_and_recover(self, dies):
        self.call("recover", dies=dies)
        self.table.recover()
        assert not self.running()

    @rule(ms=st.integers(-LONGEST_MS, LONGEST_MS))
    def time_passes(self, ms):
        self.wall.ms += ms

    @invariant()
    def each_period_is_one_row_and_what_is_completed_stays_so(self):
        if not hasattr(self, "table"):
            return
        rows = self.table.list()
        keys = [(job.kind, json.dumps(job.arguments), job.period_ms) for job in rows]
        assert len(set(keys)) == len(keys)
        for job in rows:
            if job.id in self.done:
                assert (job.state, job.result) == self.done[job.id]
            if job.state in {"completed", "failed"} and not (job.state == "failed" and job.kind == "repair"):
                self.done[job.id] = (job.state, job.result)
            assert (job.state == "running") == (job.pid is not None)
            assert (job.state == "completed") == (job.result is not None)

    def finish(self):
        """Whatever happened, a daemon that now works quietly reaches the end: every period completed, or failed."""
        self.table.recover()
        for kind in KINDS:
            for venue in (OKX, BINANCE):
                self.table.submit_periods(kind, venue, [100], up_to_ms=100, by="s")
        for _ in range(200):
            self.wall.ms += LONGEST_MS
            job = self.table.claim(KINDS, 1)
            if job is None:
                break
            assert self.table.complete(job.id, {"by": "us"})
        for job in self.table.list():
            covered = job.kind == "repair" and job.period_ms is not None
            ended = {"completed"} if covered else {"completed", "failed"}
            assert job.state in ended, job


CrashMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
test_any_calls_dying_anywhere = CrashMachine.TestCase


# ------------------------------------------------------------------------------------------------------ real processes

WORKER = """
import os, sys, time
from pathlib import Path
from qlib_crypto.daemon.jobs import JobTable
table = JobTable(Path(sys.argv[1]), back_off_scale=0.0)
empty = 0
while empty < 20:
    job = table.claim(["rank", "repair"], os.getpid())
    if job is None:
        empty += 1
        time.sleep(0.005)
        continue
    empty = 0
    with open(sys.argv[2], "a") as effects:
        effects.write(f"{job.id}\\n")
    table.complete(job.id, {"pid": os.getpid()})
"""


def test_two_processes_claiming_at_once_never_do_one_job_twice(tmp_path):
    path, effects = tmp_path / "jobs.sqlite", tmp_path / "effects"
    table = JobTable(path)
    table.submit_periods("rank", OKX, range(150), up_to_ms=150, by="schedule")
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, str(path), str(effects)]) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    done = [int(line) for line in effects.read_text().split()]
    assert sorted(done) == [job.id for job in table.list()]
    assert {job.state for job in table.list()} == {"completed"}
    table.close()


@pytest.mark.long
def test_kill_9_at_random_instants_leads_to_one_completion_each(tmp_path):
    path, effects = tmp_path / "jobs.sqlite", tmp_path / "effects"
    table = JobTable(path, back_off_scale=0.0)
    table.submit_periods("rank", OKX, range(400), up_to_ms=400, by="schedule")
    table.submit_periods("repair", OKX, range(40), up_to_ms=40, by="schedule")
    draw = random.Random(5)
    for _ in range(25):
        worker = subprocess.Popen([sys.executable, "-c", WORKER, str(path), str(effects)])
        time.sleep(draw.uniform(0.1, 0.35))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        table.recover()
    assert subprocess.run([sys.executable, "-c", WORKER, str(path), str(effects)], check=True).returncode == 0
    rows = table.list()
    assert {job.state for job in rows} == {"completed"}
    assert len(rows) == 440
    done = [int(line) for line in effects.read_text().split()]
    doubled = len(done) - len(set(done))
    assert doubled <= 25, "only what was under way at a kill is done again"
    table.close()


def test_the_file_is_plain_sqlite_that_others_may_read(table):
    table.submit("rank", OKX, period_ms=1, by="schedule")
    seen = sqlite3.connect(f"file:{table.path}?mode=ro", uri=True)
    assert seen.execute("SELECT kind, json_extract(arguments, '$.venue') FROM jobs").fetchall() == [("rank", "okx")]
    seen.close()
    assert table.path.stat().st_size > 0
