"""A kill, a full disk, a torn file, a stranger's file: nothing acknowledged is lost, and the error says what to do."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support_lake import BTC, ETH, M1, T0, bar, settlement

from qlib_crypto import schemas
from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.errors import SchemaError, StorageError
from qlib_crypto.lake import Lake, files, load_bars, seal
from qlib_crypto.lake.hot import HotStore

WRITER = """
import sys, os
sys.path.insert(0, {tests!r})
from pathlib import Path
from support_lake import bar
from qlib_crypto.lake import Lake
lake = Lake(Path(sys.argv[1]))
k = 0
while True:
    lake.store([bar(k + i) for i in range(20)])
    k += 20
    if k % 400 == 0:
        lake.seal(bar().instrument.venue)
    os.write(1, b"%d\\n" % k)
"""


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path):
    code = WRITER.format(tests=str(Path(__file__).parents[1]))
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    lines = [writer.stdout.readline() for _ in range(41)]  # two seals lie behind it
    os.kill(writer.pid, signal.SIGKILL)
    lines += writer.stdout.readlines()
    writer.wait()
    writer.stdout.close()
    lake = Lake(tmp_path)
    times = lake.bar_times(BTC, M1).tolist()
    assert len(times) >= int(lines[-1])
    assert times == [T0 + k * MINUTE_MS for k in range(len(times))]
    lake.seal(BTC.venue)
    assert lake.bar_times(BTC, M1).tolist() == times
    lake.close()


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


def test_a_full_disk_while_sealing_keeps_the_rows_hot(lake, monkeypatch):
    lake.store([bar(k) for k in range(10)])

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            lake.seal(BTC.venue)
    assert list((lake.folder(BTC.venue) / "kline_1m").iterdir()) == []
    assert len(lake.bars(BTC, M1)) == 10
    assert len(lake.seal(BTC.venue)) == 1


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
except StorageError as error:
    print(error, flush=True)
"""


def test_a_disk_that_refuses_to_grow_stops_a_real_writer_without_loss(tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

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
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead, alive, other = (
        folder / name for name in (f".X.parquet.{gone.pid}.tmp", f".X.parquet.{os.getppid()}.tmp", ".notes.tmp")
    )
    for path in (dead, alive, other):
        path.write_bytes(b"half")
    lake.seal(BTC.venue)
    assert [path.exists() for path in (dead, alive, other)] == [False, True, True]
    alive.unlink()
    other.unlink()
