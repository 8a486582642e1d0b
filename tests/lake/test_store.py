"""The lake against a plain dictionary that follows the stated rules."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_lake import BTC, ETH, H1, M1, PEPE, RECEIVED, T0, bar, estimate, settlement, spec

from qlib_crypto import schemas
from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, parse_utc
from qlib_crypto.errors import ConfigError, DataError, UnconfirmedBarError
from qlib_crypto.lake import Lake, load_bars
from qlib_crypto.symbols import Interval, Venue

RANK = {source: rank for rank, source in enumerate(schemas.SOURCES)}


class Model:
    """What the lake must answer: one row a key, the better source, of equals the later."""

    def __init__(self):
        self.rows = {}

    def store(self, bars):
        for b in bars:
            key = (b.instrument, b.interval, b.open_ms)
            if key not in self.rows or RANK[b.source] >= RANK[self.rows[key].source]:
                self.rows[key] = b

    def bars(self, instrument, interval, start, end):
        found = [b for (i, n, t), b in self.rows.items() if (i, n) == (instrument, interval) and start <= t < end]
        return sorted(found, key=lambda b: b.open_ms)


def as_bars(table, instrument, interval):
    return [
        schemas.Bar(
            instrument, interval, round(r["timestamp"].timestamp() * 1000), r["open"], r["high"], r["low"], r["close"],
            r["volume"], r["quote_volume"], r["trades"], r["source"], round(r["received_at"].timestamp() * 1000),
        )
        for r in table.to_pylist()
    ]  # fmt: skip


BARS = st.builds(
    lambda k, of, interval, close, source, quote, trades: bar(
        k * 11, of=of, interval=interval, close=close, source=source, volume_quote=quote, trades=trades
    ),
    st.integers(0, 300),  # 55 hours of minutes, 4.5 months of hours
    st.sampled_from([BTC, ETH, PEPE]),
    st.sampled_from([M1, H1]),
    st.floats(1.5, 1e6),
    st.sampled_from(schemas.SOURCES),
    st.none() | st.floats(0, 1e9),
    st.none() | st.integers(0, 10**9),
)
STEPS = st.lists(
    st.lists(BARS, max_size=12)
    | st.tuples(st.just("seal"), st.sampled_from([BTC.venue, PEPE.venue]), st.none() | st.integers(0, 60)),
    max_size=10,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.integers(0, 3000), st.integers(0, 3000))
def test_any_order_of_storing_and_sealing_reads_as_the_rules_say(tmp_path_factory, steps, lo, hi):
    lake, model = Lake(tmp_path_factory.mktemp("lake")), Model()
    for step in steps:
        if isinstance(step, tuple):
            lake.seal(step[1], before_ms=None if step[2] is None else T0 + step[2] * DAY_MS)
        else:
            lake.store(step)
            model.store(step)
    for of in (BTC, ETH, PEPE):
        for interval in (M1, H1):
            start, end = T0 + min(lo, hi) * interval.ms, T0 + max(lo, hi) * interval.ms
            table = lake.bars(of, interval, start, end)
            assert table.schema.equals(schemas.KLINE)
            assert as_bars(table, of, interval) == model.bars(of, interval, start, end)
            everything = model.bars(of, interval, 0, 10**15)
            assert lake.bar_times(of, interval).tolist() == [b.open_ms for b in everything]
    for venue in Venue:
        kept = [(b.instrument, b.interval) for b in model.rows.values() if b.instrument.venue is venue]
        assert lake.instruments(venue) == sorted({i for i, _ in kept})
        assert lake.instruments(venue, H1) == sorted({i for i, n in kept if n == H1})
        assert lake.intervals(venue) == sorted({n for _, n in kept})
    lake.close()


def test_store_counts_new_and_replaced_rows_only(lake):
    assert lake.store([bar(0), bar(1)]) == 2
    assert lake.store([bar(0), bar(1)]) == 0  # the same again
    assert lake.store([bar(0, close=101.0), bar(2)]) == 2  # a correction of equal rank, and a new one
    assert lake.store([bar(0, source="rest")]) == 1
    assert lake.store([bar(0, close=99.0)]) == 0  # the websocket never replaces REST
    assert lake.store([]) == 0


@given(st.integers(1, 700), st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_call_of_any_size_and_order_is_stored_whole(tmp_path_factory, size, random):
    lake = Lake(tmp_path_factory.mktemp("lake"))
    rows = [bar(k // 2, of=(BTC, ETH)[k % 2], close=2.0 + k) for k in range(size)]
    random.shuffle(rows)
    assert lake.store(rows[: size // 2]) == size // 2
    assert lake.store(rows) == size - size // 2
    for of in (BTC, ETH):
        assert as_bars(lake.bars(of, M1), of, M1) == sorted(b for b in rows if b.instrument == of)
    lake.close()


def test_a_stored_row_is_there_for_another_process_at_once(lake):
    lake.store([bar(0)])
    other = pickle.loads(pickle.dumps(lake))  # noqa: S301 - our own bytes; what a worker process would get
    assert other.bar_times(BTC, M1).tolist() == [T0]
    other.close()


def test_files_hold_what_their_names_say(lake):
    day = DAY_MS // MINUTE_MS
    lake.store([bar(k) for k in (0, day - 1, day, 3 * day)])
    lake.store([bar(k, interval=H1) for k in (0, 719, 720)])
    lake.store([settlement(T0 + DAY_MS - 2), settlement(T0 + DAY_MS + 17, of=ETH)])
    files = [str(f.relative_to(lake.folder(BTC.venue))) for f in lake.seal(BTC.venue)]
    assert files == [
        "funding/funding_rates_20250402.parquet",  # 23:59:59.998 is the settlement of 00:00
        "kline_1h/BTC_USDT_202504.parquet",
        "kline_1h/BTC_USDT_202505.parquet",
        "kline_1m/BTC_USDT_20250401.parquet",
        "kline_1m/BTC_USDT_20250402.parquet",
        "kline_1m/BTC_USDT_20250404.parquet",
    ]
    table = pa.parquet.ParquetFile(lake.folder(BTC.venue) / files[3]).read()
    assert table.schema.remove_metadata().equals(schemas.KLINE)
    assert table.column("timestamp").cast("int64").to_pylist() == [T0, T0 + (day - 1) * MINUTE_MS]
    column = pa.parquet.ParquetFile(lake.folder(BTC.venue) / files[3]).metadata.row_group(0).column(2)
    assert (column.compression, column.has_dictionary_page) == ("SNAPPY", False)


def test_sealing_again_is_a_no_op_and_the_ledger_tells_replacements(lake):
    lake.store([bar(k) for k in range(3)])
    (path,) = lake.seal(BTC.venue)
    stamp = path.stat().st_mtime_ns
    assert lake.seal(BTC.venue) == []
    lake.store([bar(1)])  # known already
    assert lake.seal(BTC.venue) == []
    assert path.stat().st_mtime_ns == stamp
    lake.store([bar(1, close=105.0, source="rest"), bar(3), bar(2, close=7.0)])
    assert lake.seal(BTC.venue) == [path]
    assert lake.bars(BTC, M1).column("close").to_pylist() == [100.0, 105.0, 7.0, 100.0]
    lines = [(line.file, line.rows, line.added, line.replaced) for line in lake.ledger(BTC.venue)]
    name = "kline_1m/BTC_USDT_20250401.parquet"
    assert lines == [(name, 3, 3, 0), (name, 4, 1, 2)]


def test_before_ms_seals_only_periods_that_have_ended(lake):
    lake.store([bar(0), bar(1440), bar(0, interval=H1)])
    lake.store([estimate(T0)])
    assert [f.name for f in lake.seal(BTC.venue, before_ms=T0 + DAY_MS)] == [
        "funding_estimate_20250401.parquet",
        "BTC_USDT_20250401.parquet",
    ]
    assert lake.seal(BTC.venue, before_ms=T0 + 2 * DAY_MS - 1) == []
    assert len(lake.bar_times(BTC, M1)) == 2
    assert len(lake.seal(BTC.venue)) == 2


def test_sealing_one_instrument_leaves_the_others_hot(lake):
    lake.store([bar(0), bar(0, of=ETH)])
    lake.store([settlement()])
    assert [f.name for f in lake.seal(BTC.venue, instrument=ETH)] == ["ETH_USDT_20250401.parquet"]
    assert len(lake.seal(BTC.venue)) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"close": float("nan")}, "prices"),
        ({"open": 0.0}, "prices"),
        ({"low": -1.0}, "prices"),
        ({"high": float("inf")}, "prices"),
        ({"volume_base": float("nan")}, "volume"),
        ({"volume_base": -1.0}, "volume"),
        ({"volume_quote": float("nan")}, "quote volume"),
        ({"trades": -1}, "trade count"),
        ({"open_ms": T0 + 1}, "grid"),
        ({"source": "guess"}, "source"),
    ],
)
def test_an_impossible_bar_is_refused_by_name_and_nothing_of_the_call_is_stored(lake, changes, words):
    with pytest.raises(DataError, match=rf"bar BTC_USDT.OKX 1m 2025-04-01 00:0.*{words}") as refused:
        lake.store([bar(0), bar(1)._replace(**changes)])
    assert "\n" not in str(refused.value)
    assert len(lake.bars(BTC, M1)) == 0


def test_a_bar_received_before_it_closed_is_refused(lake):
    with pytest.raises(UnconfirmedBarError, match="before it closed"):
        lake.store([bar(0, received_ms=T0 + 30_000)])
    assert lake.store([bar(0, received_ms=T0 + 59_000)]) == 1  # a clock that is a second behind
    assert lake.store([bar(1, received_ms=T0 - DAY_MS)]) == 1  # a replayed market that is ahead of the wall


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (settlement(rate=float("nan")), "rate"),
        (settlement(mark=0.0), "mark price"),
        (settlement(RECEIVED + HOUR_MS), "an estimate is no settlement"),
        (settlement(source="x"), "source"),
    ],
)
def test_an_impossible_settlement_is_refused(lake, row, words):
    with pytest.raises(DataError, match=words):
        lake.store([row])
    assert len(lake.settlements(BTC.venue)) == 0


@pytest.mark.parametrize(
    ("row", "words"),
    [(estimate(rate=float("inf")), "rate"), (estimate(hours=0.0), "interval"), (estimate(settles_ms=0), "times")],
)
def test_an_impossible_estimate_is_refused(lake, row, words):
    with pytest.raises(DataError, match=words):
        lake.store([row])


def test_settlements_are_one_a_minute_and_read_by_their_minute(lake):
    rows = [settlement(T0 + 8 * HOUR_MS - 2), settlement(T0 + 16 * HOUR_MS + 17, of=ETH), settlement(T0, of=ETH)]
    assert lake.store(rows) == 3
    lake.seal(BTC.venue)
    assert lake.store([settlement(T0 + 8 * HOUR_MS + 5, rate=2e-4, source="import")]) == 1
    for _ in range(2):
        table = lake.settlements(BTC.venue)
        assert table.schema.equals(schemas.FUNDING)
        assert table.column("symbol").to_pylist() == ["BTC_USDT", "ETH_USDT", "ETH_USDT"]
        assert table.column("funding_rate").to_pylist() == [2e-4, 1e-4, 1e-4]
        eight = T0 + 8 * HOUR_MS
        assert len(lake.settlements(BTC.venue, BTC, eight, eight + 1)) == 1
        assert len(lake.settlements(BTC.venue, BTC, eight + 1, None)) == 0
        assert len(lake.settlements(BTC.venue, ETH)) == 2
        lake.seal(BTC.venue)


def test_of_the_estimates_of_a_minute_the_last_stays(lake):
    lake.store([estimate(T0 + 20_000, rate=2.0), estimate(T0 + 5_000, rate=1.0), estimate(T0 + 60_000)])
    lake.seal(BTC.venue)
    lake.store([estimate(T0 + 10_000, rate=3.0), estimate(T0 + 59_999, rate=4.0)])
    for _ in range(2):
        assert lake.estimates(BTC.venue).column("funding_rate").to_pylist() == [4.0, 1e-4]
        lake.seal(BTC.venue)
    assert len(lake.settlements(BTC.venue)) == 0  # never mixed


def test_specs_as_last_seen_and_as_of(lake):
    first = lake.store_specs(BTC.venue, [spec(), spec(ETH)])
    assert lake.store_specs(BTC.venue, [spec(seen_ms=T0 + HOUR_MS), spec(ETH, seen_ms=T0 + HOUR_MS)]) == first
    changed = spec(seen_ms=T0 + DAY_MS, contract_value_base=0.1, delisted_ms=T0 + 9 * DAY_MS, min_notional_quote=5.0)
    assert lake.store_specs(BTC.venue, [changed]) != first
    assert lake.specs(BTC.venue) == {BTC: changed, ETH: spec(ETH)}  # ETH vanished from the list, not from the lake
    assert lake.specs(BTC.venue, T0 + DAY_MS - 1) == {BTC: spec(), ETH: spec(ETH)}
    assert lake.specs(BTC.venue, T0 - 1) == {}
    assert lake.specs(PEPE.venue) == {}
    with pytest.raises(DataError, match="empty"):
        lake.store_specs(BTC.venue, [])


def test_the_content_hash_is_of_the_data_not_of_its_way(tmp_path):
    one, two = Lake(tmp_path / "a"), Lake(tmp_path / "b")
    empty = one.content_hash()
    one.store([bar(k) for k in range(5)])
    hot = one.content_hash()
    one.seal(BTC.venue)
    for k in (3, 1, 0, 4, 2):
        two.store([bar(k, source="rest", received_ms=RECEIVED + k)])
        two.seal(BTC.venue)
    assert one.content_hash() == two.content_hash() == Lake(tmp_path / "a").content_hash()
    assert len({empty, hot, one.content_hash()}) == 3
    two.store([bar(2, close=100.5, source="rest")])
    assert one.content_hash() != two.content_hash()
    one.close()
    two.close()


def test_many_threads_and_stores_lose_nothing(lake, tmp_path):
    other = Lake(tmp_path)

    def work(k):
        target = (lake, other)[k % 2]
        target.store([bar(k * 10 + i) for i in range(10)])
        if k % 7 == 0:
            target.seal(BTC.venue)
        return len(target.bars(BTC, M1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(60)))
    lake.seal(BTC.venue)
    assert lake.bar_times(BTC, M1).tolist() == [T0 + k * MINUTE_MS for k in range(600)]
    other.close()


def test_load_bars_gives_a_utc_frame(lake, tmp_path):
    lake.store([bar(k, volume_quote=5.0 if k else None, trades=3 if k else None) for k in range(4)])
    lake.seal(BTC.venue)
    lake.store([bar(4)])
    frame = load_bars("BTC_USDT.OKX", "1m", "2025-04-01", "2025-04-01T00:05", lake_dir=tmp_path)
    assert str(frame.index.dtype) == "datetime64[ms, UTC]"
    assert frame.index.name == "timestamp"
    assert frame.index[0] == pd.Timestamp("2025-04-01", tz="UTC")
    assert len(frame) == 5
    assert list(frame.columns) == schemas.KLINE.names[2:]
    assert np.isnan(frame.quote_volume.iloc[0])
    assert frame.trades.iloc[0] is pd.NA
    assert frame.trades.iloc[1] == 3
    for span in (("2030-01-01", None), ("2025-04-01", "2025-04-01"), ("2025-04-02", "2025-04-01")):
        empty = load_bars("BTC_USDT.OKX", "1min", *span, lake_dir=tmp_path)
        assert len(empty) == 0
        assert empty.dtypes.equals(frame.dtypes)
        assert empty.index.dtype == frame.index.dtype
    with pytest.raises(DataError, match="backfill"):
        load_bars("ETH_USDT.OKX", "1h", lake_dir=tmp_path)
    with pytest.raises(DataError, match=r"it has 1m: name 1w in config\.yaml under provider\.intervals"):
        load_bars("BTC_USDT.OKX", "1w", lake_dir=tmp_path)
    with pytest.raises(ConfigError):
        load_bars("BTC_USDT", "1m", lake_dir=tmp_path)


def test_reading_an_empty_folder_makes_nothing(tmp_path):
    lake = Lake(tmp_path / "nothing")
    assert len(lake.bars(BTC, Interval.parse("5m"))) == 0
    assert lake.instruments(BTC.venue) == lake.intervals(BTC.venue) == []
    assert lake.seal(BTC.venue) == []
    assert len(lake.memberships(BTC.venue)) == 0
    lake.content_hash()
    assert not (tmp_path / "nothing").exists()


def test_only_files_of_the_range_are_opened(lake):
    lake.store([bar(k * 1440) for k in range(4)])
    first, *_, last = lake.seal(BTC.venue)
    first.write_bytes(b"torn")
    last.write_bytes(b"torn")
    assert len(lake.bars(BTC, M1, T0 + DAY_MS, T0 + 3 * DAY_MS)) == 2


def test_real_minutes_come_back_exactly(lake, real_data):
    source = pa.parquet.ParquetFile(real_data / "candles" / "okx_swap_1m" / "TRX-USDT-SWAP.parquet").read()
    rows = source.slice(0, 5000).to_pylist()
    lake.store(
        schemas.Bar(
            BTC, M1, round(r["timestamp"].timestamp() * 1000), r["open"], r["high"], r["low"], r["close"], r["volume"],
            None, None, "ws", parse_utc("2026-11-01"),
        )
        for r in rows
    )  # fmt: skip
    lake.seal(BTC.venue)
    names = ["timestamp", "open", "high", "low", "close", "volume"]
    assert lake.bars(BTC, M1).select(names).to_pydict() == source.slice(0, 5000).select(names).to_pydict()
