"""Retention against a lake that was never retained: every answer stays, through every crash, while others read."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_lake import BTC, ETH, H1, M1, PEPE, RECEIVED, T0, bar, estimate, settlement

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, month_start, next_month
from qlib_crypto.errors import StorageError
from qlib_crypto.lake import Lake, files, retention, sql
from qlib_crypto.lake.paths import all_files, datasets
from qlib_crypto.lake.retention import retain
from qlib_crypto.lake.sql import query
from qlib_crypto.lake.tables import (
    BARS,
    BOOKS,
    ESTIMATES,
    INDEXES,
    LIQUIDATIONS,
    LONG_SHORT_RATIO,
    MARKS,
    OPEN_INTEREST,
    SETTLEMENTS,
    TABLES,
    TRADES,
)  # fmt: skip
from qlib_crypto.provider import convert
from qlib_crypto.schemas import (
    Bar,
    Book,
    IndexBar,
    Liquidation,
    LongShortRatio,
    MarkBar,
    OpenInterest,
    Settlement,
    Trade,
)  # fmt: skip
from qlib_crypto.settings import ProviderSettings, RetentionSettings
from qlib_crypto.symbols import Interval, Venue

KEEP = RetentionSettings(bulky_days=90, compact_after_days=90)
KEPT = [table for table in TABLES if not table.bulky]
NOW = T0 + 400 * DAY_MS


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(retention, "_LISTED_S", 0.0)


def mark(k=0, *, of=BTC, close=100.0, source="rest"):
    return MarkBar(of, M1, T0 + k * MINUTE_MS, close, close, close, close, source, RECEIVED)


def rows_of_a_day(day, *, of=BTC):
    """Something of every kind."""
    at = T0 + day * DAY_MS
    return [
        *(bar(day * 1440 + k, of=of, close=100.0 + day + k / 7) for k in (0, 1, 2, 777, 1439)),
        bar(day * 24, of=of, interval=H1),
        mark(day * 1440 + 5, of=of),
        IndexBar(*mark(day * 1440 + 5, of=of, close=99.0)),
        *(settlement(at + k * 8 * HOUR_MS - (2 if k == 0 else 0), of=of, rate=1e-4 * day) for k in range(3)),
        estimate(at + 90_000, of=of),
        OpenInterest(of, at + 300_000, 5.0 + day, None, "rest", RECEIVED),
        LongShortRatio(of, at + 600_000, 1.5, "rest", RECEIVED),
        Liquidation(of, at + 12_345, "sell", 99.0, 0.5, RECEIVED),
        Liquidation(of, at + 12_345, "sell", 98.0, 0.5, RECEIVED),
        Trade(of, at + 5_000, day, "buy", 100.0, 1.0, RECEIVED),
        Book(of, at + 9_000, (99.0, 98.0), (1.0, 2.0), (101.0,), (3.0,), RECEIVED),
    ]


def answers(lake, *, tables=KEPT, known_ms=None):
    """Everything that can be read of the tables, as one object that compares."""
    out = {}
    for venue in Venue:
        for table in tables:
            for interval in (M1, H1) if table.by_interval else (None,):
                read = lake.read(table, venue, interval=interval, known_ms=known_ms)
                out[venue, table.name, str(interval)] = read.to_pydict()
                for of in (BTC, ETH, PEPE):
                    if of.venue is venue:
                        out[table.name, of, str(interval)] = (
                            lake.times(table, of, interval=interval).tolist(),
                            lake.read(
                                table, venue, of, T0 + 20 * DAY_MS, T0 + 40 * DAY_MS, interval=interval
                            ).to_pydict(),
                        )
    return out


@pytest.fixture(scope="module")
def year(tmp_path_factory):
    """A sealed lake of 100 days of every kind, some of them restated, and some rows still hot."""
    lake = Lake(tmp_path_factory.mktemp("year"))
    for day in range(0, 100, 4):
        lake.store([*rows_of_a_day(day), *rows_of_a_day(day, of=ETH)])
    lake.seal(BTC.venue)
    lake.store([bar(2, close=55.0, source="import", received_ms=RECEIVED + 9)])
    lake.store([settlement(T0 + 4 * DAY_MS, rate=0.5, source="archive")])
    lake.seal(BTC.venue)
    lake.store([bar(4, close=56.0)])
    lake.close()
    return lake.root


@pytest.fixture(scope="module")
def spring(tmp_path_factory):
    """A small sealed lake: six days of one symbol in April and May."""
    lake = Lake(tmp_path_factory.mktemp("spring"))
    for day in range(0, 48, 8):
        lake.store(rows_of_a_day(day))
    lake.seal(BTC.venue)
    lake.store([bar(2, close=55.0, source="import", received_ms=RECEIVED + 9)])
    lake.seal(BTC.venue)
    lake.close()
    return lake.root


@pytest.fixture
def small(tmp_path, spring):
    shutil.copytree(spring, tmp_path / "small")
    store = Lake(tmp_path / "small")
    yield store
    store.close()


@pytest.fixture
def lake(tmp_path, year):
    shutil.copytree(year, tmp_path / "lake")
    store = Lake(tmp_path / "lake")
    yield store
    store.close()


def test_a_dry_run_says_what_would_be_done_and_does_nothing(small):
    folder = small.folder(BTC.venue)
    before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    plan = retain(small, BTC.venue, KEEP, NOW, dry_run=True)
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == before
    done = retain(small, BTC.venue, KEEP, NOW)
    assert done.dropped
    assert done.compacted
    for name in ("dropped", "compacted", "removed", "problems"):
        assert sorted(getattr(plan, name)) == sorted(getattr(done, name))


def test_months_take_the_place_of_days_and_every_answer_stays(lake):
    before, identity = answers(lake), lake.content_hash()
    known = answers(lake, known_ms=RECEIVED + 5)
    rows = query(lake, "select * from kline_1m order by all")
    lines = []
    done = retain(lake, BTC.venue, KEEP, NOW, say=lines.append)
    assert answers(lake) == before
    assert answers(lake, known_ms=RECEIVED + 5) == known
    assert known != before
    assert lake.content_hash() != identity  # a hot row was sealed first
    assert query(lake, "select * from kline_1m order by all").equals(rows)
    folder = lake.folder(BTC.venue)
    assert [f.name for f in sorted((folder / "kline_1m").iterdir())] == [
        f"{symbol}_USDT_2025{month:02}.parquet" for symbol in ("BTC", "ETH") for month in (4, 5, 6, 7)
    ]
    assert sorted(f.name for f in (folder / "funding").iterdir()) == [
        f"funding_rates_2025{month:02}.parquet" for month in (4, 5, 6, 7)
    ]
    assert [f.name for f in (folder / "restated").iterdir() if "2025" in f.name] != []
    assert all(len(f.stem.rsplit("_", 1)[1]) == 6 for f in (folder / "restated").iterdir())
    assert {path.parent.name for path in done.dropped} == {"trades", "books"}
    assert len(done.compacted) == len(lines)
    assert done.problems == []
    assert not any(path.exists() for path in (*done.dropped, *done.removed))
    assert len(lake.read(TRADES, BTC.venue)) == len(lake.read(BOOKS, BTC.venue)) == 0
    again = retain(lake, BTC.venue, KEEP, NOW)
    assert (again.dropped, again.compacted, again.removed) == ([], [], [])


def test_a_lakes_identity_does_not_know_of_compaction_or_of_dropped_captures(lake):
    lake.seal(BTC.venue)
    before = lake.content_hash()
    retain(lake, BTC.venue, KEEP, NOW)
    assert lake.content_hash() == before
    lake.store([bar(5)])
    lake.seal(BTC.venue)
    assert lake.content_hash() != before
    for path in (lake.folder(BTC.venue) / "kline_1m").iterdir():  # as another program would write it
        pa.parquet.write_table(pa.parquet.ParquetFile(path).read().replace_schema_metadata(None), path)
    assert lake.content_hash() != before


def test_only_whole_months_that_are_old_enough_are_compacted_and_only_old_captures_go(lake):
    june_over = T0 + 91 * DAY_MS
    assert next_month(month_start(june_over - 1)) == june_over
    longer = RetentionSettings(bulky_days=400, compact_after_days=90)
    early = retain(lake, BTC.venue, longer, T0 + 30 * DAY_MS + 90 * DAY_MS - 1)
    assert (early.compacted, early.dropped) == ([], [])
    done = retain(lake, BTC.venue, KEEP, T0 + 30 * DAY_MS + 90 * DAY_MS)
    assert {path.stem[-6:] for path in done.compacted} == {"202504"}
    assert {path.stem[-8:] for path in done.dropped} == {f"202504{day:02}" for day in range(1, 31, 4)}
    assert {path.stem[-6:] for path in retain(lake, BTC.venue, KEEP, june_over + 90 * DAY_MS).compacted} == {
        "202505", "202506",
    }  # fmt: skip


def test_what_arrives_late_goes_into_the_month(lake, tmp_path):
    shutil.copytree(lake.root, tmp_path / "other")
    other = Lake(tmp_path / "other")
    retain(lake, BTC.venue, KEEP, NOW)
    for late in ([bar(9), bar(1440, close=7.0), settlement(T0 + 4 * DAY_MS, rate=0.7, source="import")], [bar(9)]):
        for store in (lake, other):
            store.store(late)
            assert store.seal(BTC.venue) or late == [bar(9)]
        assert answers(lake) == answers(other)
        assert answers(lake, known_ms=RECEIVED + 5) == answers(other, known_ms=RECEIVED + 5)
    assert lake.content_hash() == other.content_hash()
    assert not [f for f in all_files(lake.folder(BTC.venue), "kline_1m") if f.end_ms - f.start_ms == DAY_MS]
    other.close()


ROWS = st.builds(
    lambda kind, day, k, of, value, source: {
        BARS: lambda: bar(day * 1440 + k, of=of, close=value, source=source),
        MARKS: lambda: mark(day * 1440 + k, of=of, close=value, source=source),
        INDEXES: lambda: IndexBar(*mark(day * 1440 + k, of=of, close=value, source=source)),
        SETTLEMENTS: lambda: settlement(T0 + day * DAY_MS + k * 8 * HOUR_MS - 2, of=of, rate=value, source=source),
        OPEN_INTEREST: lambda: OpenInterest(of, T0 + day * DAY_MS + k * 300_000, value, None, source, RECEIVED),
        LONG_SHORT_RATIO: lambda: LongShortRatio(of, T0 + day * DAY_MS + k * 300_000, value, source, RECEIVED),
        LIQUIDATIONS: lambda: Liquidation(of, T0 + day * DAY_MS + k, "buy", value, 1.0, RECEIVED),
        ESTIMATES: lambda: estimate(T0 + day * DAY_MS + k, of=of, rate=value),
    }[kind](),
    st.sampled_from(KEPT),
    st.integers(0, 70),
    st.integers(0, 2),
    st.sampled_from([BTC, ETH, PEPE]),
    st.sampled_from([1.5, 2.0, 3.25]),
    st.sampled_from(["ws", "rest", "archive"]),
)
STEPS = st.lists(st.lists(ROWS, max_size=10) | st.integers(0, 200), max_size=6)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_any_order_of_storing_sealing_and_retaining_reads_as_without_retention(tmp_path_factory, steps):
    lake, plain = (Lake(tmp_path_factory.mktemp(name)) for name in ("retained", "plain"))
    for step in steps:
        if isinstance(step, int):
            for venue in Venue:
                retain(lake, venue, RetentionSettings(compact_after_days=1, bulky_days=1), T0 + step * DAY_MS)
                plain.seal(venue)
                lake.seal(venue)
        else:
            for store in (lake, plain):
                store.store(step)
    assert answers(lake) == answers(plain)
    assert answers(lake, known_ms=RECEIVED) == answers(plain, known_ms=RECEIVED)
    assert lake.content_hash() == plain.content_hash()
    lake.close()
    plain.close()


class Crash(BaseException):
    """A kill: nothing handles it."""


STEPS_OF_A_RUN = {
    "month written aside": (files, "write_bytes", 0),
    "another month written aside": (files, "write_bytes", 5),
    "month compared": (retention, "read_table", 3),
    "first rename": (Path, "replace", 1),
    "later rename": (Path, "replace", 9),
    "folder synced": (retention, "sync_folder", 2),
    "ledger": (Lake, "record_seals", 0),
    "later ledger": (Lake, "record_seals", 4),
    "waiting": (retention.time, "sleep", 0),
    "first file removed": (Path, "unlink", 0),
    "some files removed": (Path, "unlink", 12),
    "many files removed": (Path, "unlink", 24),
}


@pytest.mark.parametrize("step", STEPS_OF_A_RUN)
@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.long)], ids=["before", "after"])
def test_a_crash_at_any_step_changes_no_answer_and_the_next_run_finishes(small, monkeypatch, step, after):
    lake = small
    before, identity = answers(lake), lake.content_hash()
    rows = query(lake, "select count(*) as n from kline_1m")["n"][0]
    target, name, skip = STEPS_OF_A_RUN[step]
    original, calls = getattr(target, name), []

    def crash(*args, **options):
        calls.append(args)
        if len(calls) > skip and after:
            original(*args, **options)
        if len(calls) > skip:
            raise Crash
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, crash)
        with pytest.raises(Crash):
            retain(lake, BTC.venue, KEEP, NOW)
    assert answers(lake) == before
    assert lake.content_hash() == identity
    assert query(lake, "select count(*) as n from kline_1m")["n"][0] == rows
    retain(lake, BTC.venue, KEEP, NOW)
    assert answers(lake) == before
    assert lake.content_hash() == identity
    ledger = {line.file: line.content_hash for line in lake.ledger(BTC.venue)}
    folder = lake.folder(BTC.venue)
    assert not (folder / ".compacting").exists()
    for name in ("kline_1m", "funding", "open_interest", "liquidations"):
        for path in (folder / name).iterdir():
            assert len(path.stem.rsplit("_", 1)[1]) == 6
            pool = {
                "kline_1m": BARS,
                "funding": SETTLEMENTS,
                "open_interest": OPEN_INTEREST,
                "liquidations": LIQUIDATIONS,
            }
            assert ledger[f"{name}/{path.name}"] == files.recorded_digest(path, pool[name].schema)


KILLED = """
import os, signal, sys
from pathlib import Path
from qlib_crypto.lake import Lake, retention
from qlib_crypto.settings import RetentionSettings
from qlib_crypto.symbols import Venue
def counted(call, left):
    def kill_or(*args, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)
    return kill_or
retention._LISTED_S = 0.0
for line in sys.stdin:
    root, step = line.rsplit(maxsplit=1)
    child = os.fork()
    if child == 0:
        left = [int(step)]
        for target, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir")):
            setattr(target, name, counted(getattr(target, name), left))
        try:
            retention.retain(Lake(Path(root)), Venue.OKX, RetentionSettings(), int(sys.argv[1]))
            os._exit(0)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def kill_at():
    """Retains a lake in a process that kills itself before its n-th change to the disk; False when it had fewer."""
    parent = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(NOW)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def kill(lake, step):
        parent.stdin.write(f"{lake.root} {step}\n")
        parent.stdin.flush()
        code = int(parent.stdout.readline())
        assert code in {0, -signal.SIGKILL}
        return code != 0

    with parent:
        yield kill
        parent.stdin.close()


@pytest.mark.parametrize("step", [30, 90])
def test_a_killed_process_changes_no_answer(small, kill_at, step):
    before = answers(small)
    assert kill_at(small, step)
    assert answers(small) == before
    retain(small, BTC.venue, KEEP, NOW)
    assert answers(small) == before


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_process_killed_at_every_change_to_the_disk_changes_no_answer(spring, tmp_path, kill_at):
    before, step = answers(Lake(spring)), 0
    while True:
        step += 1
        lake = Lake(Path(shutil.copytree(spring, tmp_path / f"{step}")))
        killed = kill_at(lake, step)
        assert answers(lake) == before
        if not killed:
            break
        retain(lake, BTC.venue, KEEP, NOW)
        assert answers(lake) == before
        lake.close()
        shutil.rmtree(lake.root)
    assert step > 60


def test_readers_see_every_row_at_every_instant(lake, monkeypatch):
    monkeypatch.setattr(retention, "_LISTED_S", 0.2)
    lake.seal(BTC.venue)
    expected, identity = answers(lake), lake.content_hash()
    stop, wrong, rounds = threading.Event(), [], []
    finest = {key: value for key, value in expected.items() if "bars" in str(key) or "settlements" in str(key)}

    def watch():
        reader = Lake(lake.root)
        while not stop.is_set():
            try:
                if {
                    k: v for k, v in answers(reader, tables=[BARS, SETTLEMENTS, MARKS, INDEXES]).items() if k in finest
                } != finest:
                    wrong.append("another answer")
                if reader.content_hash() != identity:
                    wrong.append("another identity")
            except Exception as error:  # noqa: BLE001 - whatever a reader meets is a failure of this test
                wrong.append(error)
            rounds.append(1)
        reader.close()

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    done = retain(lake, BTC.venue, KEEP, NOW)
    stop.set()
    for watcher in watchers:
        watcher.join()
    assert wrong == []
    assert len(rounds) >= 2
    assert len(done.removed) > 100


def test_a_query_that_listed_the_days_before_they_went_asks_again(small, monkeypatch):
    expected = query(small, "select * from kline_1m order by all")
    stale = {name: sql.listed(small.folder(BTC.venue), name) for name in datasets(small.folder(BTC.venue))}
    retain(small, BTC.venue, KEEP, NOW)
    views, create, listed = [], sql._create_views, sql.listed

    def counted(*args):
        views.append(args)
        create(*args)

    def once_stale(folder, dataset, *args):
        if len(views) == 1 and folder == small.folder(BTC.venue) and not any(args):
            return stale.get(dataset, [])
        return listed(folder, dataset, *args)

    monkeypatch.setattr(sql, "_create_views", counted)
    monkeypatch.setattr(sql, "listed", once_stale)
    assert query(small, "select * from kline_1m order by all").equals(expected)
    assert len(views) == 2


def test_a_torn_or_foreign_file_stays_is_told_and_stops_nothing_else(lake):
    folder = lake.folder(BTC.venue)
    torn = folder / "kline_1m" / "BTC_USDT_20250405.parquet"
    torn.write_bytes(torn.read_bytes()[:-9])
    (folder / "mark_1m" / "notes.parquet").write_bytes(b"x")
    days = {path.name for path in (folder / "kline_1m").iterdir() if path.name.startswith("BTC_USDT_202504")}
    done = retain(lake, BTC.venue, KEEP, NOW)
    assert len(done.problems) == 2
    assert "20250405.parquet is torn" in " ".join(done.problems)
    assert "notes.parquet is not named as a lake file" in " ".join(done.problems)
    left = {path.name for path in (folder / "kline_1m").iterdir()}
    assert days <= left
    assert "BTC_USDT_202504.parquet" not in left
    assert {"BTC_USDT_202505.parquet", "ETH_USDT_202504.parquet"} <= left


def test_a_disk_that_gives_back_something_else_costs_no_day(lake, monkeypatch):
    lake.seal(BTC.venue)
    before = answers(lake)

    def damaged(path, schema, columns=None):
        table = files.read_table(path, schema, columns)
        return table.slice(1) if ".compacting" in str(path) else table

    with monkeypatch.context() as patch:
        patch.setattr(retention, "read_table", damaged)
        with pytest.raises(StorageError, match="reads back other than it was written; the day files stay"):
            retain(lake, BTC.venue, KEEP, NOW)
    assert answers(lake) == before
    assert len(retain(lake, BTC.venue, KEEP, NOW).compacted) > 10
    assert answers(lake) == before


def test_a_lake_without_the_venue_has_nothing_to_retain(tmp_path):
    assert retain(Lake(tmp_path), Venue.BINANCE, KEEP, NOW) == retention.RetentionSummary()
    assert list(tmp_path.iterdir()) == []


M15 = Interval.parse("15m")


def simulated_day(day, symbols):
    """A symbol a venue: 15-minute bars with holes, funding; open interest, estimates and trades every fifth day."""
    rng, at, rows = np.random.default_rng(day), T0 + day * DAY_MS, []
    for number, of in enumerate(symbols):
        close = 100.0 * (number + 1) * np.exp(np.cumsum(rng.normal(0, 1e-3, 96)) + day / 500)
        for k in np.flatnonzero(rng.random(96) > 0.01).tolist():
            price = float(close[k])
            rows.append(
                Bar(
                    of,
                    M15,
                    at + k * M15.ms,
                    price,
                    price * 1.01,
                    price * 0.99,
                    price,
                    3.0,
                    3 * price,
                    k,
                    "ws",
                    RECEIVED,
                )
            )
        rows += [
            Settlement(of, at + k * 8 * HOUR_MS, float(rng.normal(0, 1e-4)), None, "rest", RECEIVED) for k in range(3)
        ]
        if day % 5 == 0:
            rows.append(estimate(at + 60_000, of=of))
            rows.append(OpenInterest(of, at, 10.0 + day, 1e6, "rest", RECEIVED))
            rows.append(Trade(of, at + 1, day, "sell", 100.0, 1.0, RECEIVED))
    return rows


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "every",
    [pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(1200)]), 20],
    ids="seal and retain every {} days".format,
)
def test_after_200_days_of_retention_a_full_rebuild_equals_the_one_without(tmp_path, every):
    lake, plain = Lake(tmp_path / "retained"), Lake(tmp_path / "plain")
    late = []
    for day in range(200):
        rows = simulated_day(day, (BTC, PEPE) if every == 1 else (BTC,))
        held_back, rows = (rows[:5], rows[5:]) if day % 40 == 7 else ([], rows)
        late += held_back
        for store in (lake, plain):
            store.store([*rows, *(late if day == 150 else ())])  # of months that were compacted long ago
        if (day + 1) % every == 0:
            for venue in Venue:
                lake.seal(venue, before_ms=T0 + (day + 1) * DAY_MS)
                retain(lake, venue, KEEP, T0 + (day + 1) * DAY_MS + 2 * HOUR_MS)
    kept = {name: len(all_files(lake.folder(Venue.OKX), name)) for name in datasets(lake.folder(Venue.OKX))}
    assert kept["trades"] == 90 // 5
    assert kept["funding_estimate"] == 3 + 200 // 5 - -(-91 // 5)
    assert kept["kline_15m"] == 3 + 200 - 91  # April to June whole, then days
    chosen = ProviderSettings(intervals=("15m", "1h", "1d"))
    for store, name in ((plain, "before"), (lake, "after")):
        assert convert(store, tmp_path / name, chosen).changed
    before, after = tree(tmp_path / "before"), tree(tmp_path / "after")
    manifests = [json.loads(files.pop("manifest.json")) for files in (before, after)]
    assert before.pop("lake_files.json") != after.pop("lake_files.json"), "other files of the same rows"
    assert before == after
    if every == 1:
        for venue in Venue:
            plain.seal(venue)
        assert lake.content_hash() == plain.content_hash() == manifests[1]["lake_content"]
    assert not convert(lake, tmp_path / "after", chosen).changed
    lake.close()
    plain.close()
