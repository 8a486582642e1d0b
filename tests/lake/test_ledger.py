"""Holes, repairs, quarantine and flags: what is told about rows survives, joins and gives way to rows."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_lake import BTC, ETH, H1, M1, PEPE, T0, bar, estimate, index, mark, settlement

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.ledger import Hole, Repair
from qlib_crypto.lake.quality import Flag
from qlib_crypto.lake.sql import query
from qlib_crypto.lake.tables import INDEXES, MARKS
from qlib_crypto.symbols import Venue


def hole(first, last, cause="no_trade", *, of=BTC, dataset="kline_1m", found_ms=7):
    return Hole(of, dataset, T0 + first * MINUTE_MS, T0 + last * MINUTE_MS, cause, found_ms)


SPANS = st.tuples(st.integers(0, 20), st.integers(1, 8), st.sampled_from(["no_trade", "venue_down"]))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SPANS.map(lambda s: ("hole", *s)) | st.integers(0, 27) | st.just("seal"), max_size=12))
def test_holes_are_a_painted_line_that_rows_wipe(tmp_path_factory, steps):
    """Oracle: one cause or none a minute; the newest cause holds, a stored minute is never painted."""
    lake, line, stored = Lake(tmp_path_factory.mktemp("lake")), {}, set()
    for step in steps:
        if step == "seal":
            lake.seal(BTC.venue)
        elif isinstance(step, int):
            lake.store([bar(step)])
            stored.add(step)
            line.pop(step, None)
        else:
            _, first, minutes, cause = step
            lake.record_holes([hole(first, first + minutes, cause)])
            line |= {k: cause for k in range(first, first + minutes) if k not in stored}
    found = lake.holes(BTC.venue, "kline_1m", BTC)
    painted = {}
    for one in found:
        for at in range(one.start_ms, one.end_ms, MINUTE_MS):
            assert at not in painted
            painted[at] = one.cause
    assert painted == {T0 + k * MINUTE_MS: cause for k, cause in line.items()}
    for left, right in pairwise(found):
        assert left.end_ms < right.start_ms or left.cause != right.cause
    lake.close()


def test_holes_are_told_apart_by_dataset_instrument_and_time(lake):
    lake.record_holes([hole(0, 5), hole(5, 9, found_ms=3), hole(0, 5, of=ETH), hole(0, 5, "venue_down", of=PEPE)])
    lake.record_holes([hole(0, 60, dataset="funding")])
    assert lake.holes(BTC.venue, "kline_1m", BTC) == [hole(0, 9, found_ms=3)]
    assert len(lake.holes(BTC.venue)) == 3
    assert lake.holes(PEPE.venue) == [hole(0, 5, "venue_down", of=PEPE)]
    assert lake.holes(BTC.venue, start_ms=T0 + 9 * MINUTE_MS) == [hole(0, 60, dataset="funding")]
    assert lake.holes(BTC.venue, end_ms=T0) == []
    assert lake.store([bar(2, interval=H1)]) == 1  # another dataset
    assert len(lake.holes(BTC.venue)) == 3
    lake.store([settlement(T0 + 30 * MINUTE_MS - 2)])
    assert lake.holes(BTC.venue, "funding") == [hole(0, 30, dataset="funding"), hole(31, 60, dataset="funding")]
    with pytest.raises(ConfigError, match="kline_7x"):
        lake.record_holes([hole(0, 1, dataset="kline_7x")])


def test_pages_that_follow_each_other_are_one_repair(lake):
    def page(k, at=0, *, rows=10, cause="new"):
        start = T0 + k * MINUTE_MS
        return Repair(T0 + at, BTC, "kline_1m", start, start + rows * MINUTE_MS, rows, "rest", cause)

    for line in (page(20), page(30, 5), page(10, 9), page(50), page(60, cause="lost"), page(70, 11 * MINUTE_MS)):
        lake.admit([], [line])
    found = [((r.start_ms - T0) // MINUTE_MS, r.rows, r.at_ms - T0, r.cause) for r in lake.repairs(BTC.venue)]
    assert found == [(10, 30, 9, "new"), (50, 10, 0, "new"), (60, 10, 0, "lost"), (70, 10, 11 * MINUTE_MS, "new")]


def test_what_is_told_survives_a_restart_and_can_be_queried(lake, tmp_path):
    repairs = [Repair(T0, BTC, "kline_1m", T0, T0 + HOUR_MS, 60, "rest", "disconnected"),
               Repair(T0 + 1, PEPE, "funding", T0, T0 + 1, 1, "archive", "new")]  # fmt: skip
    lake.admit([], repairs)
    lake.record_holes([hole(0, 5)])
    lake.flag(BTC, M1, {T0: Flag.GAP_BEFORE, T0 + MINUTE_MS: Flag.OUTLIER})
    lake.flag(BTC, M1, {T0: Flag.HIGH_BELOW_LOW})
    lake.admit([bar(0, close=float("nan"))])
    other = Lake(tmp_path)
    assert other.repairs(BTC.venue) == repairs[:1]
    assert other.repairs(PEPE.venue, T0 + 1) == []
    assert other.repairs(PEPE.venue, end_ms=T0 + 1) == repairs[1:]
    assert other.holes(BTC.venue) == [hole(0, 5)]
    times, masks = other.flags(BTC, M1)
    assert (times.tolist(), masks.tolist()) == ([T0, T0 + MINUTE_MS], [3, 8])
    assert other.flags(BTC, M1, T0 + 1)[1].tolist() == [8]
    assert len(other.flags(BTC, H1)[0]) == len(other.flags(PEPE, M1)[0]) == 0
    other.close()
    assert query(lake, "select venue, cause, epoch_ms(end_at - start_at) from holes").to_numpy().tolist()[0][:2] == [
        "okx", "no_trade",
    ]  # fmt: skip
    assert query(lake, "select venue, rows, source from repairs order by venue").to_numpy().tolist() == [
        ["binance", 1, "archive"], ["okx", 60, "rest"],
    ]  # fmt: skip
    assert query(lake, "select mask from flags order by open_at")["mask"].tolist() == [3, 8]
    assert query(lake, "select dataset, symbol from quarantine").to_numpy().tolist() == [["kline_1m", "BTC_USDT"]]


def test_admitting_keeps_the_good_names_the_bad_and_flags_the_doubtful(lake):
    bad = bar(1, close=float("nan"))
    doubtful = bar(2)._replace(high=90.0)
    rows = [bar(0), bad, doubtful, settlement(rate=float("inf")), settlement(), bar(0, of=PEPE)._replace(open=-1.0)]
    for again in (False, True):
        admitted = lake.admit(rows)
        assert admitted.stored == (0 if again else 3)
        assert len(admitted.refused) == 3
        assert "nan" in admitted.refused[0]
        assert lake.bar_times(BTC, M1).tolist() == [T0, T0 + 2 * MINUTE_MS]
        assert len(lake.settlements(BTC.venue)) == 1
        told = lake.quarantined(BTC.venue)  # each once, however often it comes
        assert [(q.dataset, q.symbol, q.time_ms) for q in told] == [
            ("kline_1m", "BTC_USDT", T0 + MINUTE_MS), ("funding", "BTC_USDT", T0),
        ]  # fmt: skip
        assert told[0].reason == admitted.refused[0]
        row = json.loads(told[0].row)
        assert (row["instrument"], row["interval"], row["close"], row["volume_base"]) == (BTC.qlib, "1m", "nan", 2.5)
        assert len(lake.quarantined(Venue.BINANCE)) == 1
        times, masks = lake.flags(BTC, M1)
        assert (times.tolist(), masks.tolist()) == ([T0 + 2 * MINUTE_MS], [int(Flag.HIGH_BELOW_LOW)])


def test_rows_of_one_time_and_reason_are_all_kept_each_once(lake):
    rows = [bar(1, close=-1.0), bar(1, close=-1.0, volume_base=7.0), bar(1, close=-1.0, source="rest")]
    for later in (0, 9):
        lake.admit([row._replace(received_ms=row.received_ms + later) for row in rows])
        told = [json.loads(line.row) for line in lake.quarantined(BTC.venue)]
        assert [(row["volume_base"], row["source"]) for row in told] == [(2.5, "ws"), (7.0, "ws"), (2.5, "rest")]


def test_a_file_of_the_version_before_keeps_its_lines_and_takes_new_ones(lake):
    """As version 2 made it: one quarantined row a time and reason, and of replaced rows those that said otherwise."""
    lake.admit([bar(0), bar(1, close=-1.0)])
    before = lake.quarantined(BTC.venue)
    lake.close()
    with closing(sqlite3.connect(lake.folder(BTC.venue) / "hot.sqlite")) as file, file:
        file.execute("ALTER TABLE quarantine RENAME TO now")
        file.execute(
            "CREATE TABLE quarantine (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, dataset TEXT NOT NULL, symbol "
            "TEXT NOT NULL, time_ms INTEGER NOT NULL, reason TEXT NOT NULL, row TEXT NOT NULL, "
            "UNIQUE (dataset, symbol, time_ms, reason))"
        )
        file.execute("INSERT INTO quarantine SELECT * FROM now")
        file.execute("DROP TABLE now")
        file.execute("DROP TRIGGER bars_flags")
        file.execute("DROP TRIGGER bars_restated")
        file.execute("CREATE TRIGGER bars_restated AFTER UPDATE ON bars WHEN 0 BEGIN SELECT 1; END")
        file.execute("PRAGMA user_version=2")
    with closing(sqlite3.connect(lake.folder(BTC.venue) / "hot.sqlite")) as older:  # a process that goes on
        insert = (
            "INSERT OR IGNORE INTO quarantine (at_ms, dataset, symbol, time_ms, reason, row) VALUES (?, ?, ?, ?, ?, ?)"
        )
        with older:
            older.execute(insert, before[0])
        assert lake.quarantined(BTC.venue) == before
        lake.admit([bar(1, close=-1.0, volume_base=7.0), bar(0, close=5.0, source="rest")])
        with older:
            older.executemany(insert, [before[0], before[0]._replace(symbol="LATE")])
    assert [line.symbol for line in lake.quarantined(BTC.venue)] == ["BTC_USDT", "BTC_USDT", "LATE"]
    assert lake.quarantined(BTC.venue)[0] == before[0]
    assert query(lake, "select close from restated_kline_1m")["close"].tolist() == [100.0]
    lake.close()
    assert len(Lake(lake.root).quarantined(BTC.venue)) == 3


def test_a_file_of_the_version_before_the_index_takes_index_rows(lake):
    """As version 3 made it: no table of index candles; what it holds stays."""
    lake.store([bar(0), mark(0)])
    lake.close()
    with closing(sqlite3.connect(lake.folder(BTC.venue) / "hot.sqlite")) as file, file:
        for table in ("index_bars", "restated_index_bars"):
            file.execute(f"DROP TABLE {table}")
        file.execute("PRAGMA user_version=3")
    assert len(lake.read(INDEXES, BTC.venue, interval=M1)) == 0
    lake.store([index(0), index(0, price=98.0)])
    for _ in range(2):
        assert lake.read(INDEXES, BTC.venue, interval=M1).column("close").to_pylist() == [98.0]
        assert query(lake, "select close from restated_index_1m")["close"].tolist() == [99.0]
        assert len(lake.read(MARKS, BTC.venue, interval=M1)) == len(lake.bars(BTC, M1)) == 1
        lake.seal(BTC.venue)


@pytest.mark.parametrize("at", [float("nan"), None, "soon", 10**30, -5])
def test_a_row_with_any_time_at_all_can_be_quarantined(lake, at):
    admitted = lake.admit([bar(0)._replace(open_ms=at), estimate()._replace(time_ms=at)])
    assert admitted.stored == 0
    assert len(lake.quarantined(BTC.venue)) == len(admitted.refused) == 2


def test_admitting_nothing_writes_nothing(lake):
    assert lake.admit([]) == (0, [])
    assert not lake.folder(BTC.venue).exists()
