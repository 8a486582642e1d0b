"""A kill, a full disk, a torn file, a stranger's file: nothing acknowledged is lost, and the error says what to do."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from unittest.mock import ANY

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support_lake import BTC, ETH, M1, T0, bar, settlement

from qlib_crypto import schemas
from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.errors import SchemaError, StorageError
from qlib_crypto.lake import Lake, files, load_bars, seal
from qlib_crypto.lake.hot import HotStore
from qlib_crypto.lake.sql import query

#: Stores bars, restates half of them by REST, seals now and then; says after each call what it has.
WRITER = """
import sys, os
sys.path.insert(0, {tests!r})
from pathlib import Path
from support_lake import bar, estimate
from qlib_crypto.lake import Lake
lake = Lake(Path(sys.argv[1]))
k = int(sys.argv[2])
while True:
    lake.store([bar(k + i, close=100.0 + i) for i in range(20)] + [estimate(bar(k).open_ms)])
    os.write(1, b"stored %d\n" % (k + 20))
    lake.admit([bar(k + i, close=500.0 + i, source="rest") for i in range(0, 20, 2)])
    os.write(1, b"restated %d\n" % (k + 20))
    k += 20
    if k % 400 == 0:
        lake.seal(bar().instrument.venue)
        os.write(1, b"sealed %d\n" % k)
"""


def check_written(lake, said):
    """Every call of the writer that returned is there, whole, and at most one that did not; sealing changes nothing."""
    at = {word: max((int(line.split()[1]) for line in said if line.startswith(word)), default=0)
          for word in ("stored", "restated")}  # fmt: skip
    for sealed in (False, True):
        table = lake.bars(BTC, M1)
        times = table.column("timestamp").cast("int64").to_pylist()
        assert times == [T0 + k * MINUTE_MS for k in range(len(times))]
        assert len(times) in {at["stored"], at["stored"] + 20}
        closes = table.column("close").to_pylist()
        better = [k for k in range(0, len(times), 2) if closes[k] == 500.0 + k % 20]
        assert better == list(range(0, len(better) * 2, 2))
        assert len(better) * 2 in {at["restated"], at["restated"] + 20}
        assert all(closes[k] == 100.0 + k % 20 for k in range(len(times)) if k not in set(better))
        assert len(lake.estimates(BTC.venue)) == len(times) // 20
        assert len(query(lake, "from restated_kline_1m where close < 200")) == (len(better) if sealed else ANY)
        lake.seal(BTC.venue)
        assert lake.seal(BTC.venue) == []


def killed(folder, random, first=0):
    """What a writer said before it was killed at a random instant, which some seals may lie behind."""
    code = WRITER.format(tests=str(Path(__file__).parents[1]))
    writer = subprocess.Popen([sys.executable, "-c", code, str(folder), str(first)], stdout=subprocess.PIPE, text=True)
    said = [writer.stdout.readline() for _ in range(random.randrange(1, 90))]
    time.sleep(random.random() * 0.03)
    os.kill(writer.pid, signal.SIGKILL)
    said += [line for line in writer.stdout if line.endswith("\n")]
    writer.wait()
    writer.stdout.close()
    return said


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(k, marks=pytest.mark.long) for k in range(3, 30))])
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path, seed):
    said = killed(tmp_path, Random(seed))
    lake = Lake(tmp_path)
    check_written(lake, said)
    lake.close()


@pytest.mark.parametrize("garbage", [False, True])
def test_a_torn_last_write_costs_only_what_was_not_acknowledged(tmp_path, garbage):
    """Power loss: the log ends anywhere, or in noise. What was synced before that point is there, calls are whole."""
    lake = Lake(tmp_path / "whole")
    lake.store([bar(0)])
    lake.close()  # moves all into the file; what follows is in the log
    folder = lake.folder(BTC.venue)
    lake.store([bar(1), bar(0, close=50.0, source="rest")])
    wal = folder / "hot.sqlite-wal"
    base, ends = (folder / "hot.sqlite").read_bytes(), [(wal.stat().st_size, 2)]
    for _ in range(6):
        lake.store([bar(len(ends) * 10 + k) for k in range(5)])
        ends.append((wal.stat().st_size, ends[-1][1] + 5))
    log = wal.read_bytes()
    lake.close()
    random = Random(7)
    cuts = [0, 1, 31, 33, *(end + off for end, _ in ends for off in (-1, 0, 1)), *random.sample(range(len(log)), 12)]
    for k, cut in enumerate(min(cut, len(log)) for cut in cuts):
        torn = Lake(tmp_path / f"torn{k}")
        torn.folder(BTC.venue).mkdir(parents=True)
        (torn.folder(BTC.venue) / "hot.sqlite").write_bytes(base)
        (torn.folder(BTC.venue) / "hot.sqlite-wal").write_bytes(
            log[:cut] + (random.randbytes(len(log) - cut) if garbage else b"")
        )
        kept = max((rows for end, rows in ends if end <= cut), default=1)
        table = torn.bars(BTC, M1)
        assert len(table) == kept
        assert table.column("close").to_pylist()[0] == (50.0 if kept > 1 else 100.0)
        assert torn.store([bar(500)]) == 1  # and goes on
        torn.seal(BTC.venue)
        assert len(torn.bars(BTC, M1)) == kept + 1
        torn.close()


@pytest.mark.parametrize("step", ["write", "record", "discard", "commit"])
def test_a_crash_at_any_step_of_a_seal_is_repaired_by_the_next(lake, monkeypatch, step):
    lake.store([bar(k) for k in range(3)])
    lake.seal(BTC.venue)
    lake.store([bar(1, close=105.0), bar(3)])

    class Crash(BaseException):
        pass

    def crash(*args):
        raise Crash

    with monkeypatch.context() as patch:
        if step == "write":
            patch.setattr(seal, "write_table", crash)
        else:
            patch.setattr(HotStore, {"record": "record", "discard": "discard", "commit": "discard"}[step], crash)
        with pytest.raises(Crash):
            lake.seal(BTC.venue)
    assert lake.bars(BTC, M1).column("close").to_pylist() == [100.0, 105.0, 100.0, 100.0]
    lake.seal(BTC.venue)
    assert lake.bars(BTC, M1).column("close").to_pylist() == [100.0, 105.0, 100.0, 100.0]
    assert len(lake.ledger(BTC.venue)) == 2
    (file,) = (lake.folder(BTC.venue) / "kline_1m").iterdir()
    assert lake.ledger(BTC.venue)[-1].content_hash == files.recorded_digest(file, schemas.KLINE)
    assert lake.seal(BTC.venue) == []


def test_a_full_disk_while_storing_keeps_what_was_stored(lake):
    lake.store([bar(k) for k in range(10)])
    connection = lake._hot[BTC.venue]._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StorageError, match="free disk space") as full:
        lake.store([bar(k) for k in range(10, 5000)])
    assert "\n" not in str(full.value)
    assert len(lake.bars(BTC, M1)) == 10
    connection.execute("PRAGMA max_page_count = 1000000")
    assert lake.store([bar(k) for k in range(10, 5000)]) == 4990


@pytest.mark.parametrize("where", ["write", "sync", "rename"])
@pytest.mark.parametrize("file", [0, 1, 2])
def test_a_full_disk_while_sealing_keeps_the_rows_hot(lake, monkeypatch, where, file):
    """At each step of each file: of replaced rows, of a day, of the next day."""
    lake.store([bar(k) for k in range(10)])
    lake.seal(BTC.venue)
    lake.store([bar(3, close=7.0), bar(1440), bar(10)])
    before = sorted(str(path) for path in lake.root.rglob("*.parquet"))
    count = iter(range(100))

    def full(original):
        def call(*args, **options):
            if next(count) >= file:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*args, **options)

        return call

    with monkeypatch.context() as patch:
        if where == "write":
            patch.setattr(files.Path, "open", opened(full))
        elif where == "sync":
            count = iter(range(100)) if not file else (n // 2 for n in range(100))  # the file's and the folder's
            patch.setattr(files.os, "fsync", full(os.fsync))
        else:
            patch.setattr(files.Path, "replace", full(Path.replace))
        with pytest.raises(StorageError, match="No space left on device"):
            lake.seal(BTC.venue)
    expected = [100.0, 100.0, 100.0, 7.0, *([100.0] * 8)]
    assert lake.bars(BTC, M1).column("close").to_pylist() == expected
    assert list(lake.root.rglob(".*.tmp")) == []
    if file == 0:
        assert sorted(str(path) for path in lake.root.rglob("*.parquet")) == before
    lake.seal(BTC.venue)
    assert lake.bars(BTC, M1).column("close").to_pylist() == expected
    assert query(lake, "select close from restated_kline_1m").close.tolist() == [100.0]
    assert lake.seal(BTC.venue) == []


def opened(full):
    """`Path.open` whose files are full, one after another."""
    real = Path.open

    def open_(self, mode="r", *args, **options):
        file = real(self, mode, *args, **options)
        if self.name.endswith(".tmp"):
            file = FullFile(file, full(file.write))
        return file

    return open_


class FullFile:
    def __init__(self, file, write):
        self.file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


LIMITED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from support_lake import bar
from qlib_crypto.errors import StorageError
from qlib_crypto.lake import Lake
lake = Lake(Path(sys.argv[1]))
k = 0
try:
    while k < 100_000:
        lake.store([bar(k + i) for i in range(500)])
        k += 500
        print(k, flush=True)
        if k == 1000:
            lake.seal(bar().instrument.venue)
except StorageError as error:
    print(error, flush=True)
"""


def test_a_disk_that_refuses_to_grow_stops_a_real_writer_without_loss(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))

    code = LIMITED.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, preexec_fn=limit, check=True,
    )  # fmt: skip
    *counts, error = done.stdout.splitlines()
    assert "hot store" in error
    assert "what was acknowledged before is kept" in error
    lake = Lake(tmp_path)
    assert len(lake.bars(BTC, M1)) == int(counts[-1])
    lake.close()


def test_a_torn_file_is_named_with_what_to_do(lake, tmp_path):
    lake.store([bar(0), bar(1440), bar(0, of=ETH)])
    paths = lake.seal(BTC.venue)
    whole = paths[1].read_bytes()
    for torn in (b"", whole[:200], whole[:-5], b"time,open\n1,2\n"):
        paths[1].write_bytes(torn)
        for ask in (
            lambda: lake.bars(BTC, M1),
            lambda: load_bars("BTC_USDT.OKX", "1m", lake_dir=tmp_path),
            lake.content_hash,
        ):
            with pytest.raises(SchemaError, match=rf"{paths[1].name} is torn or no Parquet.*back-fill") as error:
                ask()
            assert "\n" not in str(error.value)
    assert len(lake.bars(ETH, M1)) == 1
    lake.store([bar(1441)])
    with pytest.raises(SchemaError, match="torn"):
        lake.seal(BTC.venue)
    paths[1].unlink()
    assert lake.bar_times(BTC, M1).tolist() == [T0, T0 + 1441 * MINUTE_MS]


def test_a_foreign_file_is_named(lake):
    lake.store([bar(0), bar(1440)])
    first, second = lake.seal(BTC.venue)
    table = pq.ParquetFile(second).read()
    nulls = pa.nulls(len(table), pa.float64())
    for foreign, words in (
        (table.drop_columns(["trades"]), "has columns"),
        (table.set_column(2, "open", pa.array(["x"])), "does not fit"),
        (table.set_column(2, pa.field("open", pa.float64()), nulls), "does not fit the schema.*null"),
    ):
        pq.write_table(foreign, second)
        with pytest.raises(SchemaError, match=rf"{second.name} .*{words}"):
            lake.bars(BTC, M1)
    first.with_name("notes.parquet").write_bytes(b"")
    with pytest.raises(SchemaError, match=r"notes\.parquet is not named as a lake file"):
        lake.instruments(BTC.venue)


def test_a_plain_parquet_with_the_right_columns_is_as_good_as_ours(lake):
    lake.store([bar(0), bar(1440)])
    paths = lake.seal(BTC.venue)
    before = lake.content_hash()
    pq.write_table(pq.ParquetFile(paths[0]).read().replace_schema_metadata(None), paths[0], compression="zstd")
    assert lake.content_hash() == before
    assert len(lake.bars(BTC, M1)) == 2


def test_what_is_no_hot_store_is_named(lake):
    path = lake.folder(BTC.venue) / "hot.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database, but long enough to look like one" * 50)
    with pytest.raises(StorageError, match=r"hot.sqlite.*move it away"):
        lake.store([bar(0)])


def test_a_hot_store_held_by_another_is_a_storage_error(lake, monkeypatch):
    monkeypatch.setattr("qlib_crypto.lake.hot._BUSY_S", 0.05)
    lake.store([bar(0)])
    lake.close()
    with sqlite3.connect(lake.folder(BTC.venue) / "hot.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="another process holds it"):
            lake.store([bar(1)])
        assert len(lake.bars(BTC, M1)) == 1  # reading goes on
        other.execute("ROLLBACK")
    other.close()
    assert lake.store([bar(1)]) == 1


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "okx_data").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="okx_data"):
        Lake(tmp_path).store([settlement()])


def test_a_forked_child_uses_its_own_connection(lake):
    lake.store([bar(0)])
    child = os.fork()
    if child == 0:
        try:
            lake.store([bar(1)])
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    lake.store([bar(2)])
    assert len(lake.bars(BTC, M1)) == 3


def test_the_next_seal_removes_what_a_killed_writer_left(lake):
    lake.store([bar(0)])
    folder = lake.folder(BTC.venue) / "kline_1m"
    folder.mkdir()
    dead, earlier, other = (folder / name for name in (".X.parquet.0a1b2c.tmp", ".X.parquet.17.tmp", ".notes.tmp"))
    for path in (dead, earlier, other):
        path.write_bytes(b"half")
    lake.seal(BTC.venue)
    assert [path.exists() for path in (dead, earlier, other)] == [False, False, True]
    other.unlink()


def test_a_seal_leaves_what_a_writer_of_another_container_is_writing(lake, monkeypatch):
    """Its process id says nothing here: nobody has it, or somebody else."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    lake.store([bar(0)])
    path, real, seals = lake.folder(BTC.venue) / "universe" / "x.parquet", os.fsync, []

    def sync(file):
        real(file)
        if not seals:
            seals.append(file)
            lake.seal(BTC.venue)

    monkeypatch.setattr(files.os, "getpid", lambda: gone.pid)
    monkeypatch.setattr(files.os, "fsync", sync)
    files.write_bytes(path, b"all of it")
    assert seals
    assert path.read_bytes() == b"all of it"
    assert list(lake.root.rglob(".*.tmp")) == []


def test_a_temporary_file_that_is_taken_before_its_writer_locks_it_is_made_again(lake, monkeypatch):
    path, real, taken = lake.folder(BTC.venue) / "x.parquet", files.fcntl.flock, []

    def lock(file, how):
        if not taken:
            taken.append(file)
            files.remove_leftovers(path.parent)
        real(file, how)

    monkeypatch.setattr(files.fcntl, "flock", lock)
    files.write_bytes(path, b"all of it")
    assert path.read_bytes() == b"all of it"
    assert list(lake.root.rglob(".*.tmp")) == []
