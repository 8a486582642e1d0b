"""Doctor: each trouble it looks for, made here, is found, named, and answered with what to do."""

import asyncio
import fcntl
import json
import os
import resource
import sqlite3
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from aiohttp import web
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_feeds import ArrayTape, loopback
from support_watch import status, watched_settings

from qlib_crypto.cli.app import app
from qlib_crypto.collect.status import write_status
from qlib_crypto.feeds import rest_client
from qlib_crypto.lake import Lake
from qlib_crypto.sandbox.serve import running
from qlib_crypto.settings import BinanceSettings, OkxSettings, ScheduleSettings, Settings, WatchSettings
from qlib_crypto.symbols import Interval, Venue
from qlib_crypto.watch import doctor, doctor_lake
from qlib_crypto.watch.findings import Level
from qlib_crypto.watch.holders import holder
from qlib_crypto.watch.live import Outcome, Subject, VenueTime, Waits, ask_venue, recording

OKX = [Venue.OKX]
M1 = Interval.parse("1m")
KIND = {Venue.OKX: OkxSettings, Venue.BINANCE: BinanceSettings}


def only(findings, key=None):
    found = [f for f in findings if key is None or f.key == key]
    assert len(found) == 1, found
    return found[0]


def at(venue, url, folder=Path()):
    return Settings.model_construct(lake_dir=folder, **{str(venue): KIND[venue](rate_scale=1000).at(url)})


@pytest.fixture
def no_libraries(monkeypatch):
    """Loading them takes seconds; one test does."""
    monkeypatch.setattr(doctor, "_LOADED", ("json",))


# --------------------------------------------------------------------------------------------------- installation


def test_this_installation_is_good():
    assert only(doctor._python()).level is Level.OK
    assert only(doctor._packages()).level is Level.OK


def test_a_missing_and_a_wrong_package_are_named(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda _: ["pyarrow<1", "no-such-thing>=2", 'ruff>=1; extra == "dev"'])
    finding = only(doctor._packages())
    assert finding.level is Level.FAIL
    assert "no-such-thing is missing" in finding.seen
    assert "pyarrow" in finding.seen
    assert "ruff" not in finding.seen
    assert "scripts/setup.sh" in finding.do


def test_a_library_that_does_not_load_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "_LOADED", ("json", "no_such_library"))
    assert "no_such_library" in only(doctor._libraries()).key


def test_another_python_is_refused(monkeypatch):
    monkeypatch.setattr(doctor, "_PYTHON", (3, 13))
    assert only(doctor._python()).level is Level.FAIL


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(tmp_path, monkeypatch, no_libraries):
    monkeypatch.setattr(doctor, "_packages", lambda: iter([][1:] or [1 / 0]))
    found = list(doctor.diagnose(watched_settings(tmp_path), OKX, config=None, offline=True))
    assert "division by zero" in only(found, "packages").seen
    assert only(found, "lake").level is Level.OK


# --------------------------------------------------------------------------------------------------- lake and locks


def test_an_absent_lake_says_where_to_run(tmp_path):
    finding = only(doctor_lake.folders(watched_settings(tmp_path / "absent"), OKX))
    assert (finding.level, "--lake" in finding.do) == (Level.FAIL, True)


def test_a_torn_database_is_found(tmp_path):
    folder = tmp_path / "okx_data"
    folder.mkdir()
    hot = folder / "hot.sqlite"
    with sqlite3.connect(hot) as connection:
        connection.execute("CREATE TABLE a (x)")
        connection.executemany("INSERT INTO a VALUES (?)", [("x" * 500,)] * 500)
    connection.close()
    settings = watched_settings(tmp_path)
    assert only(doctor_lake.folders(settings, OKX), "okx hot store").level is Level.OK
    whole = hot.read_bytes()
    hot.write_bytes(whole[:8192] + b"\xff" * 4096 + whole[12288:])
    assert only(doctor_lake.folders(settings, OKX), "okx hot store").level is Level.FAIL
    hot.write_bytes(b"no database at all" * 100)
    assert only(doctor_lake.folders(settings, OKX), "okx hot store").level is Level.FAIL


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_found(tmp_path):
    tmp_path.chmod(0o500)
    assert only(doctor_lake.folders(watched_settings(tmp_path), OKX)).level is Level.FAIL
    tmp_path.chmod(0o700)


def test_a_lake_on_a_network_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_lake, "_file_system", lambda _: "nfs4")
    finding = only(doctor_lake.folders(watched_settings(tmp_path), OKX))
    assert (finding.level, "nfs4" in finding.seen) == (Level.FAIL, True)


def test_the_file_system_of_a_path_is_that_of_the_innermost_mount():
    assert doctor_lake._file_system(Path("/proc/self")) == "proc"


def test_little_room_is_found(tmp_path):
    settings = watched_settings(tmp_path, watch=WatchSettings(disk_free_gb=1e6))
    assert only(doctor_lake.disks(settings)).level is Level.FAIL
    assert only(doctor_lake.disks(watched_settings(tmp_path, watch=WatchSettings(disk_free_gb=0)))).level is Level.OK


def test_few_open_files_are_found(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert only(doctor_lake.open_files()).do == "ulimit -n 4096"


def test_who_holds_a_lock_is_known_without_touching_it(tmp_path):
    path = tmp_path / "daemon.lock"
    assert holder(path) is None
    path.write_text("1\n")
    assert holder(path) is None, "the file names a process that lives and holds nothing"
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder(path) == os.getpid()
        assert only(doctor_lake.locks(watched_settings(tmp_path), []), "daemon").seen.endswith(str(os.getpid()))
    assert holder(path) is None


def test_where_the_kernel_tells_nothing_the_named_process_counts_while_it_lives(tmp_path):
    path, absent = tmp_path / "a.lock", tmp_path / "absent"
    path.write_text(f"{os.getpid()}\n")
    assert holder(path, locks=absent) == os.getpid()
    path.write_text("4194399\n")
    assert holder(path, locks=absent) is None
    path.write_text("")
    assert holder(path, locks=absent) is None


def test_a_collector_that_was_killed_is_told(tmp_path):
    write_status(Lake(tmp_path), status())
    finding = only(doctor_lake.locks(watched_settings(tmp_path), OKX), "okx collector")
    assert (finding.level, "killed" in finding.do) == (Level.WARN, True)


# --------------------------------------------------------------------------------------------------------- settings


def test_settings_alerts_and_universe_are_told_and_no_secret_is(tmp_path, monkeypatch, no_libraries):
    monkeypatch.setenv("QLIB_CRYPTO_ALERT_URLS", "json://user:secret@127.0.0.1:9")
    settings = Settings(lake_dir=tmp_path, okx=OkxSettings(proxy="http://me:secret@127.0.0.1:3128", rate_scale=5))
    found = list(doctor.diagnose(settings, OKX, config=None, offline=True))
    assert "secret" not in str(found)
    assert only(found, "alerts").seen == "1 address of Apprise"
    assert only(found, "okx settings").level is Level.WARN, "a rate scale above 1 against the venue"
    assert "127.0.0.1:3128" in only(found, "okx settings").seen
    assert "QLIB_CRYPTO_ALERT_URLS" in only(found, "settings").seen
    assert only(found, "okx universe").do.startswith("qlib-crypto rank")


def test_settings_that_cannot_be_read_do_not_end_the_doctor(tmp_path, monkeypatch, no_libraries):
    (tmp_path / "config.yaml").write_text("univers: {size: 3}\n")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["doctor", "--offline", "--json"])
    assert result.exit_code == 1
    told = {f["key"]: f for f in json.loads(result.stdout)["findings"] if f["level"] == "fail"}
    assert set(told) == {"settings"}
    assert "univers" in told["settings"]["seen"]


@pytest.mark.long
def test_the_command_line_ends_with_a_total_and_an_exit_code(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "qlib_crypto.cli", "doctor", "--offline"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    *lines, total = result.stdout.splitlines()
    assert total == "2 to look at", "neither venue was ranked"
    assert any(line.startswith("ok   libraries") for line in lines)


# ------------------------------------------------------------------------------------------------------------ venues


@pytest.mark.parametrize("venue", list(Venue))
def test_a_venue_that_answers_is_good_and_its_other_clock_is_told(venue, tmp_path, no_libraries):
    tape = ArrayTape(venue, M1, 500, bases=("BTC", "AAA"))
    with running([tape], speed=1, rate_scale=1000) as sandbox:
        found = list(doctor.diagnose(at(venue, sandbox.url, tmp_path), [venue], config=None))
    assert only(found, f"{venue} REST").level is Level.OK
    assert only(found, f"{venue} websocket").level is Level.OK
    assert only(found, f"{venue} clock").level is Level.WARN, "the tape is of another year"
    assert "daemon --clock venue" in only(found, f"{venue} clock").do


def test_a_machine_whose_clock_is_wrong_fails(monkeypatch):
    monkeypatch.setattr(doctor, "venue_time_ms", lambda *_: 0)
    assert only(doctor._rest(Settings(), Venue.OKX), "okx clock").level is Level.FAIL


@pytest.mark.parametrize(
    ("workflow", "cron", "level", "seen"),
    [("w.yaml", "0 6 * * *", "ok", "1 workflow"), ("gone.yaml", "0 6 * * *", "fail", "gone.yaml"),
     ("w.yaml", "x", "fail", "cron 'x'")],
)  # fmt: skip
def test_a_schedule_that_cannot_be_kept_is_found(workflow, cron, level, seen, tmp_path, monkeypatch, no_libraries):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text("")
    settings = watched_settings(tmp_path, schedule=ScheduleSettings(workflows=[{"workflow": workflow, "cron": cron}]))
    finding = only(doctor.diagnose(settings, OKX, config=None, offline=True), "schedule")
    assert (finding.level, seen in finding.seen) == (level, True)


def test_a_blocked_address_is_named(tmp_path, no_libraries):
    async def blocked(_request):
        return web.Response(status=451, text="unavailable for legal reasons")

    with loopback(blocked) as url:
        found = list(doctor.diagnose(at(Venue.OKX, url, tmp_path), OKX, config=None))
    for key in ("okx REST", "okx websocket"):
        assert only(found, key).level is Level.FAIL
        assert "geo-block" in only(found, key).seen
        assert only(found, key).do


# -------------------------------------------------------------------------------------------------------------- live


def live(venue, url, path):
    settings = KIND[venue](rate_scale=1000).at(url)
    client = rest_client(venue, settings)
    try:
        with recording(path) as tape:
            waits = Waits(minutes=1, listen_s=0.5, idle_s=1.0, grace_s=1.0)
            subject = Subject(venue, settings, client, VenueTime.read(client), waits, tape)
            return {a.question: a for a in asyncio.run(ask_venue(subject))}
    finally:
        client.close()


def test_the_open_questions_to_okx_are_answered_by_the_sandbox_as_we_assume(tmp_path):
    tape = ArrayTape(Venue.OKX, M1, 500, bases=("BTC", "AAA", "BBB"))
    with running([tape], speed=120, rate_scale=1000, okx_idle_s=1.0) as sandbox:
        answers = live(Venue.OKX, sandbox.url, tmp_path / "tape.jsonl")
    assert {q: a.outcome for q, a in answers.items()} == {
        "1a": Outcome.PASS, "1b": Outcome.PASS, "2a": Outcome.PASS, "2b": Outcome.PASS, "3": Outcome.PASS,
        "6a": Outcome.DIFFERS, "6b": Outcome.PASS,
    }, answers  # fmt: skip
    assert "code 4004" in answers["1a"].seen
    assert "60018" in answers["2a"].seen
    assert "LISTING" in answers["2b"].seen
    assert "without a trade" in answers["3"].seen
    heard = [json.loads(line) for line in (tmp_path / "tape.jsonl").read_text().splitlines()]
    assert {"opened", "sent", "heard", "closed"} <= {h["what"] for h in heard}
    assert any('"candle1m"' in h["text"] for h in heard if h["what"] == "sent")


def test_the_open_questions_to_binance_are_answered_by_the_sandbox_as_we_assume(tmp_path):
    bases = ("BTC", *(f"LONGNAME{i:03}" for i in range(90)))
    tape = ArrayTape(Venue.BINANCE, M1, 200, bases=bases)
    with running([tape], speed=120, rate_scale=1000) as sandbox:
        answers = live(Venue.BINANCE, sandbox.url, tmp_path / "tape.jsonl")
    assert {q: a.outcome for q, a in answers.items()} == {
        "4a": Outcome.PASS, "4b": Outcome.PASS, "4c": Outcome.UNKNOWN, "5a": Outcome.PASS, "5b": Outcome.PASS,
        "6a": Outcome.DIFFERS, "6b": Outcome.PASS,
    }, answers  # fmt: skip
    assert "1,024 streams" in answers["5a"].seen
    assert "--minutes 1440" in answers["4c"].seen


def test_a_venue_that_cannot_be_asked_is_unknown_not_a_crash(tmp_path):
    async def strange(request):
        if request.path.endswith("/time"):
            return web.json_response({"code": "0", "data": [{"ts": "1750000000000"}]})
        return web.json_response({"code": "0", "data": [["odd"]]})

    with loopback(strange) as url:
        answers = live(Venue.OKX, url, tmp_path / "tape.jsonl")
    outcomes = {q: a.outcome for q, a in answers.items()}
    assert outcomes.pop("6a") is Outcome.DIFFERS
    assert outcomes.pop("1b") is Outcome.DIFFERS, "no port opens"
    assert set(outcomes.values()) == {Outcome.UNKNOWN}, answers


@pytest.mark.long
def test_live_on_the_command_line_says_what_it_saw_and_where_the_recording_is(tmp_path):
    tape = ArrayTape(Venue.BINANCE, M1, 500, bases=("BTC", "AAA"))
    with running([tape], speed=120, rate_scale=1000) as sandbox:
        result = subprocess.run(
            [sys.executable, "-m", "qlib_crypto.cli", "doctor", "--live", "--venue", "binance", "--minutes", "1",
             "--endpoint", sandbox.url, "--rate-scale", "1000", "--out", "seen/tape.jsonl"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    assert result.returncode == 3, result.stderr
    assert "6a differs" in result.stdout, result.stdout
    assert "5b pass" in result.stdout
    assert "recorded in seen/tape.jsonl" in result.stdout
    assert (tmp_path / "seen" / "tape.jsonl").stat().st_size > 0
