"""Children: they end with their parent, whatever they do and however it ends; answers and errors come back whole."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from support_daemon import gone, wait_for

from qlib_crypto.daemon.child import Child
from qlib_crypto.daemon.kinds import KINDS, checked, command_line
from qlib_crypto.daemon.lane import _verdict
from qlib_crypto.daemon.lock import daemon_lock
from qlib_crypto.daemon.worker import Request, read_answer
from qlib_crypto.errors import ConfigError, StorageError


def python(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


DEAF = """
import os, signal, subprocess, sys, time
from qlib_crypto.daemon.leash import leash
signal.signal(signal.SIGTERM, signal.SIG_IGN)
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
leash(grace_s=0.3)
print(os.getpid(), own.pid, flush=True)
time.sleep(60)
"""

PARENT = """
import sys, time
from qlib_crypto.daemon.child import Child
child = Child([sys.executable, "-c", {code!r}], piped=True)
while not (lines := child.listen(1.0)): pass
print(lines[0], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_deaf_child_and_its_own_children_die_with_their_parent(number):
    parent = subprocess.Popen(python(PARENT.format(code=DEAF)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.send_signal(number)
    parent.communicate()
    wait_for(lambda: all(gone(pid) for pid in pids))


def test_end_kills_a_deaf_child_and_what_it_started_after_the_grace_time():
    child = Child(python(DEAF), piped=True)
    lines = []
    wait_for(lambda: lines.extend(child.listen(0.5)) or lines)
    assert child.end(0.2) == -signal.SIGKILL
    wait_for(lambda: all(gone(int(pid)) for pid in lines[0].split()))


def test_ctrl_c_at_the_terminal_does_not_reach_a_child():
    child = Child(python("import time; time.sleep(60)"))
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    assert child.end() == -signal.SIGTERM


def test_what_a_child_writes_comes_whole_however_much_it_is(capfd):
    child = Child(
        python("""
        import sys
        print("x" * 300_000)
        sys.stderr.write("z" * 200_000 + "\\nqlib-crypto: the last word\\n")
        print("tail", end="")
        """),
        piped=True,
    )
    lines = []
    wait_for(lambda: lines.extend(child.listen(0.2)) or child.exit_code is not None)
    lines += child.listen(0)
    assert lines == ["x" * 300_000]
    assert child.said == "the last word"
    assert child.end() == 0
    assert capfd.readouterr().err.count("z") == 200_000


def test_a_command_that_does_not_exist_is_a_line():
    with pytest.raises(StorageError, match="cannot be started"):
        Child(["/nowhere/qlib-crypto"])


# -------------------------------------------------------------------------------------------------------------- worker

WORKER = """
from qlib_crypto.daemon.worker import serve
from qlib_crypto.errors import *
def do(request):
    print("a job prints what it wants")
    if request.kind == "config": raise ConfigError("set it")
    if request.kind == "final": raise VenueError("no such contract", final=True)
    if request.kind == "venue": raise VenueError("does not answer")
    if request.kind == "bug": raise KeyError("x")
    return {"got": [request.kind, request.arguments, request.period_ms, request.since_ms]}
serve(do)
"""


@pytest.fixture
def worker():
    child = Child(python(WORKER), piped=True)
    yield child
    child.end()


def test_a_worker_answers_one_line_a_request_whatever_jobs_print_or_raise(worker, capfd):
    def ask(kind):
        worker.tell(Request(kind, {"venue": "okx"}, 60, None).line())
        lines = []
        wait_for(lambda: lines.extend(worker.listen(0.5)) or lines)
        (line,) = lines
        return read_answer(line)

    assert ask("seal").result == {"got": ["seal", {"venue": "okx"}, 60, None]}
    assert ask("config")[1:] == ("set it", True)
    assert ask("final")[1:] == ("no such contract", True)
    assert ask("venue")[1:] == ("does not answer", False)
    assert ask("bug")[1:] == ("KeyError: 'x'", False)
    assert ask("seal").result is not None
    assert "a job prints" in capfd.readouterr().err


def test_telling_a_dead_worker_is_no_error(worker):
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: worker.exit_code is not None)
    worker.tell("anything")
    assert worker.listen(0) == []


# ---------------------------------------------------------------------------------------------------------------- lock


def test_the_lock_names_its_holder_and_is_free_again_afterwards(tmp_path):
    with (
        daemon_lock(tmp_path, wait_s=0),
        pytest.raises(StorageError, match=f"daemon {os.getpid()} works on"),
        daemon_lock(tmp_path, wait_s=0),
    ):
        pass
    with daemon_lock(tmp_path, wait_s=0):
        pass


def test_children_hold_the_lock_until_the_last_has_ended(tmp_path):
    with daemon_lock(tmp_path, wait_s=0) as keep:
        child = Child(python("import time; time.sleep(60)"), keep=[keep])
    begin = time.monotonic()
    with pytest.raises(StorageError, match="was killed still work here"), daemon_lock(tmp_path, wait_s=0.3):
        pass
    assert time.monotonic() - begin >= 0.3
    child.end()
    with daemon_lock(tmp_path, wait_s=5):
        pass


def test_a_lake_that_cannot_be_written_is_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="check the lake's folder"), daemon_lock(tmp_path / "file", wait_s=0):
        pass


# --------------------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("dance", {}, "choose one of: rank"),
        ("rank", {}, "job rank needs venue"),
        ("rank", {"venue": "kraken"}, "kraken"),
        ("rank", {"venue": "okx", "size": "5"}, "takes no size"),
        ("repair", {"venue": "okx", "since": "yesterday"}, "yesterday"),
        ("run", {}, "needs workflow"),
        ("run", {"workflow": "w.yaml", "TOPK": "3"}, "var.NAME="),
        ("backfill", {"venue": "okx"}, "needs start"),
        ("convert", {"full": "maybe"}, "full=true"),
        ("run", {"workflow": "w.yaml", "fit_segments": "yes"}, "fit_segments=true"),
        ("health", {"venue": "okx", "days": "few"}, "number of days"),
    ],
)
def test_what_no_job_is_like_is_refused_with_what_to_write(kind, given, said):
    with pytest.raises(ConfigError) as refused:
        checked(kind, given)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_arguments_are_spelled_one_way_so_that_equal_jobs_are_one():
    assert checked("repair", {"venue": "OKX", "since": ""}) == {"venue": "okx"}


def test_command_lines_are_what_the_command_line_takes():
    run = checked("run", {"workflow": "w.yaml", "var.TOPK": "3"})
    assert command_line("run", run, ["--lake", "l"]) == [
        "run",
        "--lake",
        "l",
        "--json",
        "--var",
        "TOPK=3",
        "--",
        "w.yaml",
    ]
    fitted = checked("run", {"workflow": "w.yaml", "fit_segments": "true"})
    assert command_line("run", fitted, []) == ["run", "--json", "--fit-segments", "--", "w.yaml"]
    assert command_line("convert", {"full": "true"}, []) == ["convert", "--json", "--full"]
    fill = checked("backfill", {"venue": "okx", "start": "2025-04-01", "symbols": "BTC_USDT"})
    assert command_line("backfill", fill, []) == [
        "backfill", "--venue", "okx", "--start", "2025-04-01", "--symbols", "BTC_USDT",
    ]  # fmt: skip
    assert command_line("health", {"venue": "okx", "days": "2"}, []) == [
        "health", "--venue", "okx", "--days", "2", "--json",
    ]  # fmt: skip
    assert [kind for kind, of in KINDS.items() if of.command] == ["push", "health", "convert", "run", "backfill"]


@pytest.mark.parametrize("said", ["it broke", '{"event": "it broke", "level": "error"}'])
def test_the_last_words_of_a_command_are_its_error_however_the_log_is_written(said):
    ended = SimpleNamespace(exit_code=2, said=said)
    assert _verdict(ended, "", KINDS["run"]) == (None, "it broke", True)


def test_a_summary_becomes_plain_numbers_and_names():
    from qlib_crypto.daemon.work import as_result  # noqa: PLC0415 - loads everything a worker needs

    @dataclass
    class Inner:
        equal: int = 3

    @dataclass
    class Summary:
        rows: int = 2
        by: Counter[str] = field(default_factory=lambda: Counter(late=2))
        files: list[Path] = field(default_factory=lambda: [Path("a"), Path("b")])
        pairs: dict[tuple[str, str], Inner] = field(default_factory=lambda: {("ws", "rest"): Inner()})
        many: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(99), 0))

    found = as_result(Summary())
    assert found == {"rows": 2, "by": {"late": 2}, "files": 2, "pairs": {"('ws', 'rest')": {"equal": 3}}, "many": 99}
    assert json.loads(json.dumps(found)) == found
    assert as_result(7) == {"result": 7}
