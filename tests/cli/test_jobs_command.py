"""`qlib-crypto jobs` and the start and stop of `qlib-crypto daemon`, as processes."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata

import pytest

from qlib_crypto.cli.app import app
from qlib_crypto.daemon.jobs import JobTable

LINE = [sys.executable, "-m", "qlib_crypto.cli"]


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a jobs command in this process; what it printed."""

    def go(*words):
        app(args=["jobs", *words, "--lake", str(tmp_path)], standalone_mode=False)
        return capsys.readouterr()

    return go


def test_submit_list_and_cancel(run, tmp_path):
    assert "job 1 submitted to" in (said := run("submit", "repair", "--venue", "okx", "since=2025-04-01").err)
    assert "no daemon works on this lake" in said
    assert json.loads(run("submit", "convert", "--json").out) == {"id": 2, "kind": "convert", "arguments": {}}
    table = JobTable(tmp_path / "jobs.sqlite")
    number = table.claim(["repair"], 7).id
    table.complete(number, {"instruments": 3, "stored": {"kline_1m": 5, "mark_1m": 2}})
    table.submit_periods("seal", {"venue": "okx"}, [1743467400000], up_to_ms=1743467400000, by="schedule")
    listed = run("list").out.splitlines()
    assert len(listed) == 4, "a job is one line"
    assert "repair okx since=2025-04-01" in listed[1]
    assert "completed" in listed[1]
    assert "instruments 3, stored 7" in listed[1]
    assert "2025-04-01 00:30" in listed[3]
    rows = json.loads(run("list", "--json", "--state", "pending").out)
    assert [(row["kind"], row["period_ms"]) for row in rows] == [("convert", None), ("seal", 1743467400000)]
    assert "job 2 was pending; cancelled" in run("cancel", "2").err
    assert "job 2 was cancelled and stays so" in run("cancel", "2").err
    assert "job 1 was completed and stays so" in run("cancel", "1").err
    assert [job.id for job in table.list(kind="seal")] == [3]
    table.close()


def test_a_result_is_listed_in_a_few_words(run, tmp_path):
    table = JobTable(tmp_path / "jobs.sqlite")
    for result in (
        {"said": "10 stored"},
        {"instruments": 3, "bars": {"day": 9, "60min": 1}, "skipped": [], "notes": []},
    ):
        table.submit("convert", {}, by="test")
        table.complete(table.claim(["convert"], 7).id, result)
    table.close()
    _, words, numbers = run("list").out.splitlines()
    assert words.rstrip().endswith("s  10 stored"), "nothing before"
    assert "instruments 3, bars 10" in numbers
    assert "skipped" not in numbers


def test_the_version_is_said(capsys):
    assert app(args=["--version"], standalone_mode=False) == 0
    assert capsys.readouterr().out == f"qlib-crypto {metadata.version('qlib-crypto')}\n"


@pytest.mark.parametrize("words", [["jobs", "list"], ["jobs", "cancel", "5"]])
def test_where_the_log_is_json_every_line_of_a_command_is_too(words, tmp_path):
    done = subprocess.run(
        [*LINE, *words, "--lake", str(tmp_path)],
        check=False, capture_output=True, text=True, env={**os.environ, "LOG_FORMAT": "json"},
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert told["level"] == ("error" if done.returncode else "info")
    assert "qlib-crypto: " not in told["event"]
    assert told["time"].endswith("Z")


def test_an_empty_list_is_said_and_makes_no_file(run, tmp_path):
    assert "no jobs" in run("list").err
    assert list(tmp_path.iterdir()) == []


def test_a_workflow_is_kept_with_its_whole_path(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text("")
    given = json.loads(run("submit", "run", "workflow=w.yaml", "var.TOPK=3", "--json").out)["arguments"]
    assert given == {"workflow": str(tmp_path / "w.yaml"), "var.TOPK": "3"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("submit", "dance"), "choose one of: rank"),
        (("submit", "repair", "okx"), "write NAME=VALUE"),
        (("submit", "run", "workflow=nowhere.yaml"), "does not exist"),
        (("list", "--state", "odd"), "choose one of: pending"),
        (("list", "--kind", "odd"), "choose one of: rank"),
        (("cancel", "5"), "see: qlib-crypto jobs list"),
    ],
)
def test_mistakes_are_one_line(words, said, run):
    with pytest.raises(Exception, match=said) as refused:
        run(*words)
    assert "\n" not in str(refused.value)


def test_wrong_settings_end_the_daemon_with_one_line(tmp_path):
    def once(*words):
        line = [*LINE, "daemon", "--lake", str(tmp_path), *words]
        done = subprocess.run(line, check=False, capture_output=True, text=True)
        return done.returncode, json.loads(done.stderr.splitlines()[-1])["event"]

    assert once("--clock", "sun") == (2, "--clock 'sun': write wall or venue")
    (tmp_path / "c.yaml").write_text("schedule: {workflows: [{workflow: w.yaml, cron: '0 0 1 * 1'}]}\n")
    code, said = once("--config", str(tmp_path / "c.yaml"))
    assert code == 2
    assert "write two schedules" in said


def test_heavy_libraries_load_only_in_the_command_that_needs_them():
    code = "import sys, qlib_crypto.cli.app; print({'numpy', 'pandas', 'pyarrow', 'polars', 'qlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def stopped_after(seconds, number, tmp_path):
    """Exit code and output of a daemon that gets a signal so long after its start; nothing listens at its venue."""
    daemon = subprocess.Popen(
        [*LINE, "daemon", "--lake", str(tmp_path), "--venue", "okx", "--clock", "venue",
         "--endpoint", "http://127.0.0.1:9"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "QLIB_CRYPTO_WATCH__METRICS_PORT": "0"},
    )  # fmt: skip
    time.sleep(seconds)
    daemon.send_signal(number)
    try:
        said, _ = daemon.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        daemon.kill()
        said, _ = daemon.communicate()
        pytest.fail(f"signal {number} after {seconds:.1f} s did not stop it: {said}")
    return daemon.returncode, said


def shows_where_it_was(said):
    """A traceback of ours; what Python shows while it starts, before `main` can mind a signal, is not."""
    return "Traceback" in said and ("in main" in said or "KeyboardInterrupt" not in said)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_place_where_python_drops_exceptions_ends_the_command_all_the_same(number, code):
    command = f"""
import os, sys, time, weakref, typer
from qlib_crypto.cli.app import app, main

class Held: ...

@app.command()
def hold():
    held = Held()
    seen = weakref.ref(held, lambda _: os.kill(os.getpid(), {int(number)}))
    del held
    time.sleep(30)

sys.argv = ["qlib-crypto", "hold"]
main()
"""
    done = subprocess.run([sys.executable, "-c", command], check=False, capture_output=True, text=True, timeout=25)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("seconds", "number"), [(0.25, signal.SIGINT), (1.0, signal.SIGTERM), (5.0, signal.SIGINT)])
def test_a_signal_during_the_start_stops_it_without_a_traceback(seconds, number, tmp_path):
    code, said = stopped_after(seconds, number, tmp_path)
    assert not shows_where_it_was(said)
    assert code in {0, 130, 143, -number}


@pytest.mark.long
@pytest.mark.parametrize(("number", "first"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_at_any_instant_of_the_start_a_signal_stops_it_without_a_traceback(number, first, tmp_path):
    for step in range(first, 41, 2):
        code, said = stopped_after(0.1 * step, number, tmp_path)
        assert not shows_where_it_was(said), f"after {0.1 * step:.1f} s: {said}"
        assert code in {0, 130, 143, -number}
