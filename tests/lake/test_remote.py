"""A lake at an address: pushed, pulled, killed on the way, refused; in memory, in a folder, on a local S3.

What is right is told by the files themselves: what was pulled has the bytes of what was sealed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_lake import BTC, ETH, H1, M1, PEPE, T0, bar, settlement, spec

from qlib_crypto.cli.app import app
from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.errors import ConfigError, DataError, QlibCryptoError, StorageError
from qlib_crypto.lake import Lake, journal, remote, retention
from qlib_crypto.lake.address import Store, cache_folder
from qlib_crypto.lake.remote import pull, push
from qlib_crypto.lake.retention import retain
from qlib_crypto.settings import RetentionSettings
from qlib_crypto.symbols import Venue

fsspec = pytest.importorskip("fsspec", reason="fsspec, of the extra `s3`, is not installed")

MONTH, DAY = "okx_data/kline_1m/BTC_USDT_202504.parquet", "okx_data/kline_1m/BTC_USDT_20250401.parquet"
KILLED = -9
LONG_AFTER = T0 + 70 * DAY_MS

#: Pulls or pushes in small batches, and is killed at the n-th step; exit code 7 where there are fewer.
WORKER = """
import os, signal, sys
from pathlib import Path
from qlib_crypto.lake import remote
from qlib_crypto.lake.address import Store
from qlib_crypto.lake.journal import Journal
verb, folder, address, left = *sys.argv[1:4], int(sys.argv[4])
remote._FILES_AT_ONCE = 3

def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def dying(of, name):
    function = getattr(of, name)
    def call(*args, **kwargs):
        step()
        result = function(*args, **kwargs)
        step()
        return result
    setattr(of, name, call)

for of, name in ((Store, "files"), (Store, "get"), (Store, "put"), (Store, "remove"), (Journal, "add"),
                 (Path, "replace"), (Path, "unlink")):
    dying(of, name)
remote.pull(address, Path(folder)) if verb == "pull" else remote.push(Path(folder), address)
sys.exit(7)
"""


@pytest.fixture(scope="module")
def s3():
    """Variables of the environment that lead to a local S3 with a bucket `lakes`."""
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed: scripts/setup.sh --extras")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("lakes")
        yield environment
    running.stop()


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.long)])
def address(request, tmp_path):
    """An empty place for a lake."""
    name = tmp_path.name
    if request.param == "memory":
        yield f"memory://{name}"
        fsspec.filesystem("memory").store.clear()
        return
    if request.param == "s3":
        request.getfixturevalue("s3")
    yield f"file://{tmp_path}/there/{name}" if request.param == "file" else f"s3://lakes/{name}"


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.long)])
def outer_address(request, tmp_path):
    """One that other processes reach too."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return f"file://{tmp_path}/there" if request.param == "file" else f"s3://lakes/{tmp_path.name}"


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch):
    """Nobody lists these lakes while they are compacted."""
    monkeypatch.setattr(retention, "_LISTED_S", 0)


@pytest.fixture
def lake(tmp_path):
    store = Lake(tmp_path / "lake")
    fill(store)
    yield store
    store.close()


def fill(lake, days=range(3), price=100.0):
    """Minutes and hours of three contracts, settlements and instruments, all sealed."""
    for day in days:
        rows = [bar(day * 1440 + k, of=of, close=price + k % 7) for of in (BTC, ETH, PEPE) for k in range(0, 1440, 5)]
        rows += [bar(day * 24 + k, of=of, interval=H1) for of in (BTC, PEPE) for k in range(24)]
        rows += [settlement(T0 + day * DAY_MS + h * HOUR_MS, of=of) for of in (BTC, ETH, PEPE) for h in (0, 8, 16)]
        lake.store(rows)
    lake.store_specs(Venue.OKX, [spec(BTC), spec(ETH)])
    seal(lake)


def seal(lake):
    for venue in Venue:
        lake.seal(venue)


def sealed(folder):
    """Bytes by name of every Parquet file that is not on its way."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.parquet"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def marks(folder):
    return {name: ((folder / name).stat().st_mtime_ns, (folder / name).stat().st_ino) for name in sealed(folder)}


def foreign_file(address, name="notes.parquet", content=b"not ours"):
    fs, root = fsspec.url_to_fs(address)
    if "file" in fs.protocol:
        fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
    fs.pipe_file(f"{root}/{name}", content)
    return fs, f"{root}/{name}"


# ----------------------------------------------------------------------------------------------- there and back


def test_what_was_pulled_is_what_was_pushed(lake, address, tmp_path):
    lines = []
    right = sealed(lake.root)
    assert push(lake.root, address, progress=lines.append) == (len(right), len(right), 0)
    assert pull(address, tmp_path / "copy", progress=lines.append) == (len(right), len(right), 0)
    assert sealed(tmp_path / "copy") == right
    assert Lake(tmp_path / "copy").content_hash() == lake.content_hash()
    assert any(line.startswith("pulled") for line in lines)
    assert any(line.startswith("pushed") for line in lines)


def test_what_did_not_change_stays_the_same_file(lake, address, tmp_path):
    push(lake.root, address)
    pull(address, tmp_path / "copy")
    before = marks(tmp_path / "copy")
    assert push(lake.root, address).sent == 0
    assert pull(address, tmp_path / "copy") == (len(before), 0, 0)
    assert marks(tmp_path / "copy") == before
    lake.store([bar(5, close=111.0, source="rest")])  # a better source: the day is written again, and what it said
    written = {str(path.relative_to(lake.root)) for path in lake.seal(Venue.OKX)}
    restated = {name for name in sealed(lake.root) if "/restated/" in name}
    assert push(lake.root, address).sent == len(written | restated)
    assert pull(address, tmp_path / "copy").fetched == len(written | restated)
    assert sealed(tmp_path / "copy") == sealed(lake.root)
    after = marks(tmp_path / "copy")
    assert {name for name in after if after[name] != before.get(name)} == written | restated


def test_days_that_became_a_month(lake, address, tmp_path):
    push(lake.root, address)
    pull(address, tmp_path / "copy")
    retain(lake, Venue.OKX, RetentionSettings(compact_after_days=1), LONG_AFTER)
    assert MONTH in sealed(lake.root)
    assert DAY not in sealed(lake.root)
    pushed = push(lake.root, address)
    assert pushed.removed == 9  # three days of BTC, of ETH and of settlements
    assert pull(address, tmp_path / "copy").removed == 9
    assert sealed(tmp_path / "copy") == sealed(lake.root)
    assert push(lake.root, address) == (pushed.files, 0, 0)


def test_a_day_beside_its_month_goes_when_the_lake_was_stopped_before_it_could(lake, address, tmp_path):
    days = sealed(lake.root)
    push(lake.root, address)
    retain(lake, Venue.OKX, RetentionSettings(compact_after_days=1), LONG_AFTER)
    (lake.root / DAY).write_bytes(days[DAY])
    assert push(lake.root, address).removed == 9
    pull(address, tmp_path / "copy")
    assert set(sealed(lake.root)) - set(sealed(tmp_path / "copy")) == {DAY}


def test_what_is_not_sealed_is_not_there(lake, address, tmp_path):
    lake.store([bar(5 * 1440)])
    push(lake.root, address)
    pull(address, tmp_path / "copy")
    assert len(Lake(tmp_path / "copy").bars(BTC, M1)) == len(lake.bars(BTC, M1)) - 1


def test_one_venue_alone(lake, address):
    sent = push(lake.root, address, [Venue.OKX]).sent
    assert sent == sum(name.startswith("okx_data") for name in sealed(lake.root))
    assert push(lake.root, address).sent == len(sealed(lake.root)) - sent


def test_files_of_others_stay_and_are_not_pulled(lake, address, tmp_path):
    names = (
        "notes.txt",
        "okx_data/readme.md",
        "okx_data/kline_1m/mine.parquet",
        "okx_data/quarantine/A_20250401.parquet",
    )
    others = [foreign_file(address, name) for name in names]
    push(lake.root, address)
    retain(lake, Venue.OKX, RetentionSettings(compact_after_days=1), LONG_AFTER)
    push(lake.root, address)
    assert [fs.cat_file(path) for fs, path in others] == [b"not ours"] * len(names)
    pull(address, tmp_path / "copy")
    assert sealed(tmp_path / "copy") == sealed(lake.root)


def test_a_file_that_the_lake_lost_stays_there(lake, address, tmp_path):
    push(lake.root, address)
    lost = (lake.root / DAY).read_bytes()
    (lake.root / DAY).unlink()  # as `check` moves a torn one away
    assert push(lake.root, address).removed == 0
    pull(address, tmp_path / "copy")
    assert sealed(tmp_path / "copy")[DAY] == lost


def test_what_is_gone_there_goes_and_what_was_spoilt_here_comes_again(lake, address, tmp_path):
    push(lake.root, address)
    pull(address, tmp_path / "copy")
    fs, root = fsspec.url_to_fs(address)
    fs.rm(f"{root}/{DAY}")
    spoilt = tmp_path / "copy" / "okx_data" / "kline_1m" / "ETH_USDT_20250401.parquet"
    spoilt.write_bytes(b"")
    stray = tmp_path / "copy" / "okx_data" / "kline_1m" / "SOL_USDT_20250401.parquet"
    stray.write_bytes(b"")
    assert pull(address, tmp_path / "copy") == (len(sealed(lake.root)) - 1, 1, 2)
    assert sealed(tmp_path / "copy") == {k: v for k, v in sealed(lake.root).items() if k != DAY}


# ---------------------------------------------------------------------------------------- others, and other states


def test_another_lake_is_not_overwritten(lake, address, tmp_path):
    push(lake.root, address)
    other = Lake(tmp_path / "other")
    fill(other, days=range(1, 4), price=50.0)
    with pytest.raises(ConfigError, match="is not what this lake put there"):
        push(other.root, address)
    pull(address, tmp_path / "copy")
    assert sealed(tmp_path / "copy") == sealed(lake.root)


def test_an_older_copy_of_the_lake_does_not_replace_a_later_state(lake, address, tmp_path):
    push(lake.root, address)
    shutil.copytree(lake.root, tmp_path / "older")
    lake.store([bar(5, close=111.0, source="rest")])
    seal(lake)
    push(lake.root, address)
    older = Lake(tmp_path / "older")
    older.store([bar(10, close=222.0, source="rest")])
    seal(older)
    with pytest.raises(ConfigError, match="a later state of this one"):
        push(older.root, address)


def test_a_lake_that_was_moved_sends_nothing_again(lake, address, tmp_path):
    push(lake.root, address)
    shutil.copytree(lake.root, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "hot.sqlite", ignore_errors=True)
    assert push(tmp_path / "moved", address).sent == 0


def test_a_lost_journal_is_made_up_for_by_the_bytes(lake, address):
    push(lake.root, address)
    shutil.rmtree(lake.root / ".push")
    assert push(lake.root, address).sent == 0
    lake.store([bar(5, close=111.0, source="rest")])
    seal(lake)
    assert push(lake.root, address).sent == 2


def test_a_folder_with_another_lake_is_not_a_cache(lake, address, tmp_path):
    push(lake.root, address)
    right = sealed(lake.root)
    with pytest.raises(ConfigError, match="was not pulled from"):
        pull(address, lake.root)
    pull(address, tmp_path / "copy")
    with pytest.raises(ConfigError, match="was not pulled from"):
        pull(f"{address}/elsewhere", tmp_path / "copy")
    assert sealed(lake.root) == sealed(tmp_path / "copy") == right


# ---------------------------------------------------------------------------------------------- reading meanwhile


def test_a_pull_in_the_middle_of_a_push(lake, address, tmp_path, monkeypatch):
    """Days vanish between their listing and their coming; a listing that saw neither month nor days removes nothing."""
    push(lake.root, address)
    listed = Store(address).files()
    pull(address, tmp_path / "copy")
    retain(lake, Venue.OKX, RetentionSettings(compact_after_days=1), LONG_AFTER)
    push(lake.root, address)
    torn = {name: of for name, of in listed.items() if name != DAY}
    answers = [listed, torn]
    files = Store.files
    monkeypatch.setattr(Store, "files", lambda self: answers.pop(0) if answers else files(self))
    pull(address, tmp_path / "other")
    assert not answers
    assert sealed(tmp_path / "other") == sealed(lake.root)
    answers[:] = [torn]
    pull(address, tmp_path / "copy")
    assert Lake(tmp_path / "copy").content_hash() == lake.content_hash()
    pull(address, tmp_path / "copy")  # days that the first listing had go now
    assert sealed(tmp_path / "copy") == sealed(lake.root)


def test_a_store_that_never_rests_is_said(lake, address, tmp_path, monkeypatch):
    push(lake.root, address)
    listed = {name: [size + 1, *rest] for name, (size, *rest) in Store(address).files().items()}
    monkeypatch.setattr(Store, "files", lambda _: listed)
    with pytest.raises(StorageError, match="changes faster"):
        pull(address, tmp_path / "copy")
    assert sealed(tmp_path / "copy") == {}


def test_one_at_a_time(lake, address, tmp_path):
    push(lake.root, address)
    with journal.desk(tmp_path / "copy", ".pull", address), pytest.raises(StorageError, match=f"process {os.getpid()}"):
        pull(address, tmp_path / "copy")
    with journal.desk(lake.root, ".push", address), pytest.raises(StorageError, match="another push"):
        push(lake.root, address)


# ---------------------------------------------------------------------------------------------------------- kills


def killed(verb, folder, address, step):
    done = subprocess.run(
        [sys.executable, "-c", WORKER, verb, str(folder), address, str(step)],
        check=False, capture_output=True, text=True, timeout=120, cwd=folder.parent,
    )  # fmt: skip
    assert done.returncode in {KILLED, 7}, done.stderr
    return done.returncode == KILLED


def grown(lake, address, copy):
    """A lake that was pushed and pulled, and has since a later day, a restated one and a month of days."""
    push(lake.root, address)
    pull(address, copy)
    lake.store([bar(5, close=111.0, source="rest")])
    seal(lake)
    retain(lake, Venue.OKX, RetentionSettings(compact_after_days=1), LONG_AFTER)
    fill(lake, days=[60])


@pytest.mark.timeout(600)
def test_a_push_that_is_killed_leaves_a_good_lake_and_the_next_one_finishes_it(lake, outer_address, tmp_path):
    grown(lake, outer_address, tmp_path / "copy")
    before, step, reached = Lake(tmp_path / "copy").bars(BTC, M1), 1, True
    while reached:
        reached = killed("push", lake.root, outer_address, step)
        pull(outer_address, tmp_path / "seen")
        seen = Lake(tmp_path / "seen")
        assert seen.damaged() == []
        assert len(seen.bars(BTC, M1)) >= len(before)
        step += 9
    assert step > 20
    pull(outer_address, tmp_path / "copy")
    assert sealed(tmp_path / "copy") == sealed(tmp_path / "seen") == sealed(lake.root)
    assert push(lake.root, outer_address).sent == 0


@pytest.mark.timeout(600)
def test_a_pull_that_is_killed_leaves_a_good_lake_and_the_next_one_finishes_it(lake, outer_address, tmp_path):
    grown(lake, outer_address, tmp_path / "copy")
    push(lake.root, outer_address)
    before, step, reached = len(Lake(tmp_path / "copy").bars(BTC, M1)), 1, True
    while reached:
        reached = killed("pull", tmp_path / "copy", outer_address, step)
        seen = Lake(tmp_path / "copy")
        assert seen.damaged() == []
        assert len(seen.bars(BTC, M1)) >= before
        step += 13
    assert step > 30
    assert sealed(tmp_path / "copy") == sealed(lake.root)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert killed("pull", fresh, outer_address, 20)
    pull(outer_address, fresh)
    assert sealed(fresh) == sealed(lake.root)
    assert [path.name for path in (fresh / ".pull").iterdir() if path.name.startswith("new.")] == []


# ----------------------------------------------------------------------------------------------- the command line


def command(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "qlib_crypto.cli", *map(str, arguments)],
        cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def one_line(result, code, *words):
    assert result.returncode == code, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


def here(*arguments):
    """A command in this process, which saves loading everything."""
    app(args=[str(argument) for argument in arguments], standalone_mode=False)


def refused(*arguments):
    """The exit code and the line of a command that must not go on."""
    with pytest.raises(QlibCryptoError) as error:
        here(*arguments)
    return error.value.exit_code, str(error.value)


def provider(folder):
    """Every byte of a provider but what it remembers of the lake's files: their times and inodes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lake_files.json"
    }


def test_a_conversion_from_an_address_is_that_of_the_lake_and_costs_what_changed(
    lake, address, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    near, far = tmp_path / "near", tmp_path / "far"
    for change in (None, bar(5, close=111.0, source="rest")):
        if change:
            lake.store([change])
            seal(lake)
        here("push", address, "--lake", lake.root)
        here("convert", "--lake", lake.root, "--provider", near)
        capsys.readouterr()
        here("convert", "--lake", address, "--provider", far)
        told = capsys.readouterr().err
        assert f"pulled {address} into {tmp_path}/cache/qlib-crypto/lakes/" in told
        assert provider(far) == provider(near)
    assert "2 new or changed, 0 gone" in told
    marked = json.loads((far / "lake_files.json").read_bytes())["files"]
    assert marked == json.loads(json.dumps(Lake(cache_folder(address)).files()))
    here("verify", "--cells", "all", "--lake", address, "--provider", far)
    here("sql", "select count(*) as bars from kline_1h", "--lake", address)
    assert "144" in capsys.readouterr().out


@pytest.mark.long
def test_a_conversion_from_s3_by_the_command_line(lake, s3, tmp_path):
    address, cache = f"s3://lakes/{tmp_path.name}", {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    pushed = command("push", address, "--lake", lake.root, "--json", cwd=tmp_path)
    assert json.loads(pushed.stdout) == {"files": len(sealed(lake.root)), "sent": len(sealed(lake.root)), "removed": 0}
    far = command("convert", "--json", "--lake", address, "--provider", "far", cwd=tmp_path, **cache)
    assert far.returncode == 0, far.stderr
    assert far.stderr.startswith(f"pulled {address} into ")
    assert len(far.stderr.splitlines()) == 1, "nothing of the store's libraries is told at the end"


@pytest.mark.parametrize(
    "arguments",
    [
        ("seal", "--venue", "okx"), ("collect", "--venue", "okx"), ("check",), ("retain",), ("health",),
        ("backfill", "--venue", "okx", "--start", "2025-01-01"), ("rank",), ("push", "s3://b/other"),
        ("members", "--rebuild", "--start", "2025-01-01"), ("jobs", "list"), ("import", "x.csv", "--venue", "okx"),
    ],
    ids=lambda value: value[0],
)  # fmt: skip
def test_commands_that_work_in_the_lake_take_no_address(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, line = refused(*arguments, "--lake", "s3://b/lake")
    assert code == 2
    assert "--lake s3://b/lake is an address" in line
    assert "qlib-crypto push" in line
    assert list(tmp_path.iterdir()) == []


def test_nor_does_the_daemon(tmp_path):
    one_line(command("daemon", "--lake", "s3://b/lake", cwd=tmp_path), 2, "--lake s3://b/lake is", "qlib-crypto push")


@pytest.mark.parametrize(
    ("settings", "arguments", "code", "words"),
    [
        ("lake_dir: s3://b/lake", ("convert",), 2, ("lake_dir", "--lake")),
        ("schedule: {push: somewhere}", ("convert",), 2, ("schedule.push", "s3://bucket/path")),
        ("", ("push",), 2, ("schedule.push",)),
        ("", ("push", "somewhere"), 2, ("somewhere", "s3://bucket/path")),
        ("", ("push", "file:///nowhere/there"), 3, ("no sealed file", "seal")),
        ("", ("convert", "--lake", "file:///nowhere"), 1, ("no lake at file:///nowhere", "push")),
        ("", ("convert", "--lake", "nowhere://x"), 2, ("nowhere", "s3://bucket/path")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_addresses_are_one_line(settings, arguments, code, words, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(settings)
    (tmp_path / "okx_data").mkdir()
    told = refused(*arguments)
    assert told[0] == code
    assert "\n" not in told[1]
    for word in words:
        assert word in told[1]


def test_packages_that_are_not_installed_are_said(lake, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'qlib-crypto\[s3\]'"):
        push(lake.root, "s3://bucket/path")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"pip install 'qlib-crypto\[s3\]'"):
        pull("memory://x", tmp_path / "copy")


def test_a_cache_is_an_address_s_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("s3://a/b") != cache_folder("s3://a/c")
    assert cache_folder("s3://a/b") == cache_folder("s3://a/b/")
    assert cache_folder("s3://a/b").parent == tmp_path / "qlib-crypto" / "lakes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("s3://a/b").is_relative_to(tmp_path / ".cache")


def test_no_sealed_file_is_said(tmp_path, address):
    with pytest.raises(DataError, match="qlib-crypto seal"):
        push(tmp_path, address)


def test_a_store_that_may_not_be_written_is_one_line(lake, tmp_path):
    (tmp_path / "there").write_text("a file, no folder")
    with pytest.raises(StorageError, match="cannot be read or written"):
        push(lake.root, f"file://{tmp_path}/there/lake")


# ------------------------------------------------------------------------------------------------------- local S3


@pytest.mark.long
def test_s3_says_what_is_wrong_in_one_line(lake, s3, tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    where = ("--lake", lake.root)
    one_line(command("push", "s3://no-such-bucket/lake", *where, cwd=tmp_path), 1, "no-such-bucket", "bucket")
    one_line(
        command("convert", "--lake", "s3://no-such-bucket/x", cwd=tmp_path, **cache), 1, "no-such-bucket", "bucket"
    )
    began = time.monotonic()
    dead = command("push", "s3://lakes/dead", *where, cwd=tmp_path, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    one_line(dead, 1, "s3://lakes/dead", "network")
    assert time.monotonic() - began < 100
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    one_line(command("push", "s3://lakes/nobody", *where, cwd=tmp_path, **nobody), 1, "credentials")


@pytest.mark.long
def test_s3_that_refuses_our_credentials_is_one_line(lake, s3, tmp_path):
    import requests  # noqa: PLC0415 - only here

    reset = f"{s3['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
    requests.post(reset, data=b"0", timeout=10).raise_for_status()
    try:
        one_line(command("push", "s3://lakes/wrong", "--lake", lake.root, cwd=tmp_path), 1, "credentials")
        refused = command("convert", "--lake", "s3://lakes/wrong", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
        one_line(refused, 1, "credentials")
    finally:
        requests.post(reset, data=b"inf", timeout=10).raise_for_status()


@pytest.mark.long
def test_large_files_and_many(lake, s3, tmp_path, monkeypatch):
    """A batch for each file: what is asked for at once is bounded."""
    monkeypatch.setattr(remote, "_BYTES_AT_ONCE", 1)
    address = f"s3://lakes/{tmp_path.name}"
    push(lake.root, address)
    pull(address, tmp_path / "copy")
    assert sealed(tmp_path / "copy") == sealed(lake.root)
