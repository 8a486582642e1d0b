"""Every kind of rows takes the same way: hot, sealed, read back as it was stored, each once."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support_lake import BTC, ETH, H1, M1, RECEIVED, T0, bar, estimate, settlement

from qlib_crypto.clock import DAY_MS, MINUTE_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.lake import Lake, seal
from qlib_crypto.lake.sql import query
from qlib_crypto.lake.tables import BARS, INDEXES, MARKS, OPEN_INTEREST, SETTLEMENTS, TABLE_OF, TRADES, dataset_table
from qlib_crypto.schemas import Book, IndexBar, Liquidation, LongShortRatio, MarkBar, OpenInterest, Trade
from qlib_crypto.symbols import Instrument

LATER = T0 + DAY_MS
SAMPLES = {
    "kline_1m": ([bar(0), bar(1440), bar(0, of=ETH)], ["BTC_USDT_20250401", "BTC_USDT_20250402", "ETH_USDT_20250401"]),
    "kline_1h": ([bar(0, interval=H1), bar(725, interval=H1)], ["BTC_USDT_202504", "BTC_USDT_202505"]),
    "funding": ([settlement(T0), settlement(LATER, of=ETH)], ["funding_rates_20250401", "funding_rates_20250402"]),
    "funding_estimate": ([estimate(T0), estimate(T0, of=ETH)], ["funding_estimate_20250401"]),
    "mark_1m": (
        [MarkBar(of, M1, T0, 1.0, 2.0, 0.5, 1.5, "rest", RECEIVED) for of in (BTC, ETH)],
        ["BTC_USDT_20250401", "ETH_USDT_20250401"],
    ),
    "index_1m": (
        [IndexBar(of, M1, T0, 1.0, 2.0, 0.5, 1.5, "rest", RECEIVED) for of in (BTC, ETH)],
        ["BTC_USDT_20250401", "ETH_USDT_20250401"],
    ),
    "mark_4h": ([MarkBar(BTC, H1, T0, 1.0, 2.0, 0.5, 1.5, "rest", RECEIVED)], ["BTC_USDT_202504"]),
    "open_interest": (
        [OpenInterest(BTC, T0, 5.0, None, "rest", RECEIVED), OpenInterest(ETH, LATER, 5.0, 6.0, "archive", RECEIVED)],
        ["open_interest_20250401", "open_interest_20250402"],
    ),
    "long_short_ratio": ([LongShortRatio(BTC, T0, 1.5, "rest", RECEIVED)], ["long_short_ratio_20250401"]),
    "liquidations": (
        [Liquidation(BTC, T0, side, price, 2.0, RECEIVED) for side in ("buy", "sell") for price in (5.0, 6.0)],
        ["liquidations_20250401"],
    ),
    "trades": (
        [Trade(of, T0 + 7, number, "buy", 5.0, 0.1, RECEIVED) for of in (BTC, ETH) for number in (1, 2)],
        ["BTC_USDT_20250401", "ETH_USDT_20250401"],
    ),
    "books": (
        [Book(BTC, T0, (5.0, 4.0), (1.0, 2.0), (6.0,), (3.0,), RECEIVED), Book(BTC, LATER, (), (), (6.0,), (3.0,), 1)],
        ["BTC_USDT_20250401", "BTC_USDT_20250402"],
    ),
}
SAMPLES["mark_1h"] = SAMPLES.pop("mark_4h")


def as_stored(row, table):
    """The row as its Parquet line."""
    fields = list(row)
    del fields[1 if table.by_interval else 0 : 2 if table.by_interval else 0]
    fields[0] = row.instrument.symbol
    return [list(value) if isinstance(value, tuple) and not isinstance(value, str) else value for value in fields]


def lines(table):
    found = []
    for line in table.to_pylist():
        values = list(line.values())
        found.append([round(v.timestamp() * 1000) if hasattr(v, "timestamp") else v for v in values])
    return found


@pytest.mark.parametrize("dataset", SAMPLES)
def test_what_is_stored_is_read_hot_and_sealed(lake, dataset):
    rows, names = SAMPLES[dataset]
    table, interval = dataset_table(dataset)
    assert TABLE_OF[type(rows[0])] is table
    expected = sorted((as_stored(row, table) for row in rows), key=lambda line: line[:3])
    assert lake.store(rows) == len(rows)
    assert lake.store(reversed(rows)) == 0
    empty = Lake(lake.root / "empty").content_hash()
    for sealed in (False, True, True):
        read = lake.read(table, BTC.venue, interval=interval)
        assert read.schema.equals(table.schema)
        assert sorted(lines(read), key=lambda line: line[:3]) == expected
        assert query(lake, f"from {dataset}").shape == (len(rows), len(table.schema) + 1)
        for of in (BTC, ETH):
            own = [line for line in expected if line[0] == of.symbol]
            assert lines(lake.read(table, BTC.venue, of, interval=interval)) == own
            assert lake.times(table, of, interval=interval).tolist() == sorted({line[1] for line in own})
            early = lake.read(table, BTC.venue, of, T0, T0 + DAY_MS, interval=interval)
            assert lines(early) == [line for line in own if line[1] < T0 + DAY_MS]
        assert (lake.content_hash() == empty) == table.bulky  # what may be dropped is no part of a lake's identity
        files = lake.seal(BTC.venue)
        assert [file.name for file in files] == ([] if sealed else [f"{name}.parquet" for name in names])
        assert all(file.parent.name == dataset for file in files)
        lake.store(rows)  # what is sealed comes once more and changes nothing
    assert len(lake.ledger(BTC.venue)) == len(names)


def test_an_interval_belongs_to_bars_and_to_nothing_else(lake):
    with pytest.raises(ConfigError, match="kline rows need an interval"):
        lake.read(BARS, BTC.venue)
    with pytest.raises(ConfigError, match="funding rows have no interval"):
        lake.times(SETTLEMENTS, BTC, interval=M1)
    for name in ("kline_7x", "kline_60m", "nothing", "trades_1m"):
        with pytest.raises(ConfigError, match=name):
            dataset_table(name)


def test_of_rows_without_a_source_the_later_at_a_key_stays(lake):
    book = SAMPLES["books"][0][0]
    trade = SAMPLES["trades"][0][0]
    lake.store([book, trade])
    for _ in range(2):
        assert lake.store([book._replace(ask_prices=(7.0,)), trade._replace(price=9.0)]) == 2
        lake.seal(BTC.venue)
        assert lake.read(TRADES, BTC.venue).column("price").to_pylist() == [9.0]
        assert lake.read(dataset_table("books")[0], BTC.venue).column("ask_prices").to_pylist() == [[7.0]]
        lake.store([book, trade])
    assert not (lake.folder(BTC.venue) / "restated").exists()


def test_one_call_may_hold_rows_of_any_kind_and_numbers_of_any_type(lake):
    rows = [row for kind, _ in SAMPLES.values() for row in kind]
    assert lake.store(rows) == len(rows)
    odd = bar(7)._replace(
        open_ms=np.int64(T0 + 7 * MINUTE_MS), close=np.float64(100), volume_base=3, trades=np.int32(4)
    )
    assert lake.store([odd]) == 1
    line = lake.bars(BTC, M1).to_pylist()[1]
    assert (line["close"], line["volume"], line["trades"]) == (100.0, 3.0, 4)


OLD = """CREATE TABLE bars (symbol TEXT NOT NULL, interval_ms INTEGER NOT NULL, slot_ms INTEGER NOT NULL,
rank INTEGER NOT NULL, timestamp INTEGER NOT NULL, open REAL NOT NULL, high REAL NOT NULL, low REAL NOT NULL,
close REAL NOT NULL, volume REAL NOT NULL, quote_volume REAL, trades INTEGER, received_at INTEGER NOT NULL,
PRIMARY KEY (symbol, interval_ms, slot_ms)) WITHOUT ROWID"""


def test_a_hot_store_of_the_first_version_is_read_and_written(lake):
    path = lake.folder(BTC.venue) / "hot.sqlite"
    path.parent.mkdir()
    old = sqlite3.connect(path)
    old.execute("PRAGMA journal_mode=WAL")
    old.execute(OLD)
    for k, symbol in enumerate(["BTC_USDT", "BTC_USDT", "ETH_USDT"]):
        at = T0 + k * MINUTE_MS
        old.execute("INSERT INTO bars VALUES (?, ?, ?, 0, ?, 100, 101, 99, 100, 2.5, NULL, NULL, ?)",
                    (symbol, M1.ms, at, at, RECEIVED))  # fmt: skip
    old.commit()
    old.close()
    assert lake.bar_times(BTC, M1).tolist() == [T0, T0 + MINUTE_MS]
    assert lake.bars(BTC, M1).to_pylist()[0]["close"] == 100.0
    assert lake.store([bar(0, close=7.0), bar(5)]) == 2
    assert lake.bars(BTC, M1, T0 + MINUTE_MS).column("close").to_pylist() == [100.0, 100.0]
    assert lake.read(BARS, BTC.venue, BTC, interval=M1, known_ms=RECEIVED).column("close").to_pylist()[0] == 7.0
    assert lake.last_open(BTC, M1) == T0 + 5 * MINUTE_MS
    assert len(lake.seal(BTC.venue)) == 2
    assert lake.bars(BTC, M1).column("close").to_pylist() == [7.0, 100.0, 100.0]
    assert lake.bar_times(ETH, M1).tolist() == [T0 + 2 * MINUTE_MS]


def test_storing_goes_on_while_a_day_is_sealed_and_what_came_meanwhile_stays(lake, monkeypatch):
    lake.store([bar(k) for k in range(3)])
    write = seal.write_table
    meanwhile = []

    def slow(path, table):
        digest = write(path, table)
        if not meanwhile:
            meanwhile.append(lake.store([bar(1, close=50.0), bar(3)]))  # one better, one late
            with ThreadPoolExecutor(1) as pool:  # not the thread that seals
                meanwhile.append(pool.submit(lake.store, [bar(4)]).result(timeout=30))
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(seal, "write_table", slow)
        assert len(lake.seal(BTC.venue)) == 1
    assert meanwhile == [2, 1]
    for _ in range(2):
        assert lake.bars(BTC, M1).column("close").to_pylist() == [100.0, 50.0, 100.0, 100.0, 100.0]
        lake.seal(BTC.venue)
    assert [(line.rows, line.added, line.replaced) for line in lake.ledger(BTC.venue)] == [(3, 3, 0), (5, 2, 1)]
    assert query(lake, "select close from restated_kline_1m").close.tolist() == [100.0]


def test_many_symbols_and_days_are_sealed_in_parts(lake, monkeypatch):
    monkeypatch.setattr(seal, "_FILES_AT_ONCE", 2)
    monkeypatch.setattr(seal, "_ROWS_AT_ONCE", 3)
    of = [Instrument(f"C{k}", "USDT", BTC.venue) for k in range(5)]
    rows = [bar(k, of=one, close=10.0 + k) for k in (0, 1, 1439, 1440) for one in of]
    lake.store(rows)
    assert len(lake.seal(BTC.venue)) == 10
    lake.store([bar(1, of=one, close=99.0) for one in of])
    assert len(lake.seal(BTC.venue)) == 5
    for one in of:
        assert lake.bars(one, M1).column("close").to_pylist() == [10.0, 99.0, 1449.0, 1450.0]
    assert len(query(lake, "from restated_kline_1m")) == 5
    assert len(list((lake.folder(BTC.venue) / "restated").iterdir())) == 1
    assert all(lake._hot[BTC.venue].held(table) == [] for table in TABLE_OF.values())


@pytest.mark.parametrize(("dataset", "table"), [("mark_1m", MARKS), ("index_1m", INDEXES)])
def test_mark_and_index_bars_have_intervals_of_their_own(lake, dataset, table):
    lake.store(SAMPLES[dataset][0])
    lake.store([bar(0, interval=H1)])
    assert lake.intervals(BTC.venue) == [H1]
    for _ in range(2):
        assert lake.intervals(BTC.venue, table) == [M1]
        lake.seal(BTC.venue)
    assert lake.times(OPEN_INTEREST, BTC).tolist() == []


def test_mark_and_index_of_one_minute_are_two_rows(lake):
    lake.store([SAMPLES["mark_1m"][0][0], SAMPLES["index_1m"][0][0]._replace(close=1.0)])
    lake.seal(BTC.venue)
    assert query(lake, "select close from mark_1m")["close"].tolist() == [1.5]
    assert query(lake, "select close from index_1m")["close"].tolist() == [1.0]
