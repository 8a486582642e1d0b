from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support_lake import BTC, H1, M1, T0, bar

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.collect import import_parquet
from qlib_crypto.errors import ConfigError, SchemaError
from qlib_crypto.symbols import Instrument, Venue

UTC = pa.timestamp("ms", tz="UTC")


def candles(n=5, *, step=MINUTE_MS, tz="UTC", **changes):
    columns = {
        "timestamp": pa.array([T0 + k * step for k in range(n)], pa.timestamp("ms", tz=tz)),
        "open": pa.array([100.0 + k for k in range(n)]),
        "high": pa.array([101.0 + k for k in range(n)]),
        "low": pa.array([99.0 + k for k in range(n)]),
        "close": pa.array([100.5 + k for k in range(n)]),
        "volume": pa.array([float(k) for k in range(n)]),
    }
    return pa.table({**columns, **changes})


def write(folder, name, table):
    pq.write_table(table, folder / name)
    return [folder / name]


def test_candles_replace_what_the_stream_gave_and_a_second_import_changes_nothing(lake, tmp_path):
    lake.store([bar(2, close=7.0), bar(9)])
    files = write(tmp_path, "BTC-USDT-SWAP.parquet", candles())
    assert import_parquet(lake, files, Venue.OKX, "kline", M1) == (5, [])
    rows = lake.bars(BTC, M1)
    assert rows.column("close").to_pylist() == [100.5, 101.5, 102.5, 103.5, 104.5, 100.0]
    assert rows.column("source").to_pylist() == ["import"] * 5 + ["ws"]
    seals = len(lake.ledger(Venue.OKX))
    assert import_parquet(lake, files, Venue.OKX, "kline", M1).rows == 5
    assert len(lake.ledger(Venue.OKX)) == seals


def test_a_download_with_close_time_loses_its_open_last_bar_and_says_so(lake, tmp_path):
    table = candles(
        trades=pa.array([1, 2, None, 4, 5]), quote_volume=pa.array([1.5, None, 3.5, float("nan"), 5.0]),
        close_time=pa.array([T0 + (k + 1) * MINUTE_MS - 1 for k in range(5)], UTC),
    )  # fmt: skip
    result = import_parquet(lake, write(tmp_path, "BTCUSDT.parquet", table), Venue.BINANCE, "kline", M1)
    assert result.rows == 4
    assert result.messages == ["BTCUSDT.parquet: dropped the last bar, which was open when it was downloaded"]
    rows = lake.bars(Instrument("BTC", "USDT", Venue.BINANCE), M1)
    assert rows.column("trades").to_pylist() == [1, 2, None, 4]
    assert rows.column("quote_volume").to_pylist() == [1.5, None, 3.5, None]


@pytest.mark.parametrize(
    ("name", "table", "words"),
    [
        ("BTC-USDT-SWAP", candles(tz=None), "no time zone"),
        ("BTC-USDT-SWAP", candles().drop_columns(["high"]), "lacks high"),
        ("BTC-USDT-SWAP", candles(close=pa.array([1.0, 2.0, None, 4.0, 5.0])), "close has no value in row 2"),
        ("BTC-USDT-SWAP", candles(close=pa.array([1.0, 2.0, float("nan"), 4.0, 5.0])), "close has no value in row 2"),
        ("BTC-USDT-SWAP", candles(low=pa.array([99.0, 0.0, 99.0, 99.0, 99.0])), r"2025-04-01 00:01.*prices"),
        ("BTC-USDT-SWAP", candles(open=pa.array(["x"] * 5)), "not a number"),
        ("BTC-USDT-SWAP", candles(timestamp=pa.array(range(5))), "make it a timestamp"),
        ("BTC-USDT-SWAP", candles(timestamp=pa.array([T0 + 7 + k for k in range(5)], UTC)), "grid"),
        ("BTC-USDT-SWAP", pa.concat_tables([candles(2), candles(2)]), "out of order at 2025-04-01 00:00:00"),
        ("BTC-USDT-SWAP", pa.concat_tables([candles(1), candles(1)]), "repeat 2025-04-01 00:00:00"),
        ("BTC-USD-SWAP", candles(), "no linear perpetual"),
        ("BTC-USDT-SWAP", candles(timestamp=pa.array([2**42 + k for k in range(5)], UTC)), "2109.*future"),
        ("BTC-USDT-SWAP", candles(timestamp=pa.array([2**52 + k for k in range(5)], UTC)), "4503599627430500.*future"),
        ("BTC-USDT-SWAP", candles(6, step=5 * MINUTE_MS), "multiple of 5 minutes apart, so they are no 1m bars"),
        ("BTC-USDT-SWAP", candles(trades=pa.array([1.0, 2.0, 1.5, 4.0, 5.0])), "a trade count is 1.5"),
        ("BTC-USDT-SWAP", candles(trades=pa.array([1.0, 2.0, float("inf"), 4.0, 5.0])), "a trade count is inf"),
    ],
)  # fmt: skip
def test_a_candle_file_that_cannot_be_right_is_refused_whole_by_name(lake, tmp_path, name, table, words):
    with pytest.raises(SchemaError, match=rf"{name}\.parquet.*{words}") as error:
        import_parquet(lake, write(tmp_path, f"{name}.parquet", table), Venue.OKX, "kline", M1)
    assert "\n" not in str(error.value)
    assert lake.instruments(Venue.OKX) == []


def funding(symbols, hours, **changes):
    columns = {
        "symbol": pa.array(symbols),
        "funding_time": pa.array([T0 + round(h * HOUR_MS) for h in hours], UTC),
        "funding_rate": pa.array([1e-4 * k for k in range(len(symbols))]),
    }
    return pa.table({**columns, **changes})


def test_a_funding_file_is_split_by_symbol(lake, tmp_path):
    table = funding(["ETH-USDT-SWAP", "BTC-USDT-SWAP", "BTC-USDT-SWAP", "BTC-USD-SWAP"], [0, 0, 8, 0])
    result = import_parquet(lake, write(tmp_path, "f.parquet", table), Venue.OKX, "funding")
    assert result == (3, ["f.parquet: left out 1 row of BTC-USD-SWAP, no linear perpetuals"])
    rows = lake.settlements(Venue.OKX)
    assert rows.column("symbol").to_pylist() == ["BTC_USDT", "BTC_USDT", "ETH_USDT"]
    assert rows.column("funding_rate").to_pylist() == [1e-4, 2e-4, 0.0]
    assert rows.column("source").to_pylist() == ["import"] * 3


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (funding(["BTC-USDT-SWAP"] * 2, [8, 8.001]), "BTC_USDT.OKX repeat"),
        (funding(["BTC-USDT-SWAP"] * 2, [8, 0]), "BTC_USDT.OKX are out of order"),
        (funding(["BTC-USDT-SWAP"], [0], funding_rate=pa.array([None], pa.float64())), "funding_rate has no value"),
        (funding(["BTC-USDT-SWAP"], [0], funding_rate=pa.array([0.3])), "a funding rate is 0.3; write fractions"),
        (funding(["BTC-USDT-SWAP", "ETH-USDT-SWAP"], [1_000_000, 0]), "reaches to 2139-0.*future"),
        (funding(["BTCUSD_PERP"], [0]), "no symbol in it"),
        (funding(["BTC-USDT-SWAP"], [0]).drop_columns(["symbol"]), "lacks symbol"),
    ],
)
def test_a_funding_file_that_cannot_be_right_is_refused(lake, tmp_path, table, words):
    with pytest.raises(SchemaError, match=words):
        import_parquet(lake, write(tmp_path, "f.parquet", table), Venue.OKX, "funding")
    assert len(lake.settlements(Venue.OKX)) == 0


def test_wrong_use(lake, tmp_path):
    with pytest.raises(ConfigError, match="dataset"):
        import_parquet(lake, [], Venue.OKX, "books")
    with pytest.raises(ConfigError, match="interval"):
        import_parquet(lake, [], Venue.OKX, "kline")
    (tmp_path / "BTC-USDT-SWAP.parquet").write_bytes(b"torn")
    with pytest.raises(SchemaError, match="torn or no Parquet"):
        import_parquet(lake, [tmp_path / "BTC-USDT-SWAP.parquet"], Venue.OKX, "kline", M1)


def test_real_files(lake, real_data):
    path = real_data / "candles" / "binance_um_1h" / "BTCUSDT.parquet"
    result = import_parquet(lake, [path], Venue.BINANCE, "kline", H1)
    source = pq.ParquetFile(path).read()
    assert result.rows == len(source) - 1
    names = ["timestamp", "open", "high", "low", "close", "volume", "quote_volume", "trades"]
    rows = lake.bars(Instrument("BTC", "USDT", Venue.BINANCE), H1)
    assert rows.select(names).to_pydict() == source.select(names).slice(0, len(source) - 1).to_pydict()

    path = real_data / "funding" / "okx_swap_funding.parquet"
    result = import_parquet(lake, [path], Venue.OKX, "funding")
    source = pq.ParquetFile(path).read()
    assert (result.rows, result.messages) == (len(source), [])
    rows = lake.settlements(Venue.OKX)
    order = np.lexsort((source.column("funding_time").cast("int64"), source.column("symbol").to_numpy()))
    assert rows.column("funding_rate").to_pylist() == source.column("funding_rate").take(pa.array(order)).to_pylist()

    gappy = real_data / "candles" / "binance_um_1m_gappy_utc8" / "CATIUSDT.parquet"
    with pytest.raises(SchemaError, match="no time zone"):
        import_parquet(lake, [gappy], Venue.BINANCE, "kline", M1)
