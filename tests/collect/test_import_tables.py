"""Files in the formats of others, with known content, come out as the bars that they say."""

from __future__ import annotations

import gzip
import hashlib
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather

from qlib_crypto.clock import HOUR_MS, parse_utc
from qlib_crypto.collect import import_data
from qlib_crypto.collect.import_tables import parse_map, said_by, table_files
from qlib_crypto.errors import ConfigError, SchemaError
from qlib_crypto.lake import Lake
from qlib_crypto.symbols import Instrument, Interval, Venue

T0 = parse_utc("2025-01-01")
H1 = Interval.parse("1h")
BTC = Instrument("BTC", "USDT", Venue.BINANCE)
HOURS = 24


@pytest.fixture
def lake(tmp_path):
    store = Lake(tmp_path / "lake")
    yield store
    store.close()


@pytest.fixture
def bars():
    """What every file says."""
    rng = np.random.default_rng(1)
    close = 100 + rng.normal(0, 1, HOURS).cumsum()
    opened = np.r_[100, close[:-1]]
    volume = rng.exponential(50, HOURS)
    return pd.DataFrame(
        {
            "open": opened, "high": np.maximum(opened, close) + 1, "low": np.minimum(opened, close) - 1,
            "close": close, "volume": volume, "quote_volume": volume * (opened + close) / 2,
            "trades": rng.integers(1, 99, HOURS),
        },
        index=T0 + np.arange(HOURS) * HOUR_MS,
    )  # fmt: skip


def archive_csv(bars, *, header):
    """As Binance publishes it."""
    names = "open_time,open,high,low,close,volume,close_time,quote_volume,count"
    names += ",taker_buy_volume,taker_buy_quote_volume,ignore"
    lines = [names] if header else []
    for at, row in bars.iterrows():
        numbers = [*row.tolist()[:5], at + HOUR_MS - 1, row["quote_volume"], int(row["trades"]), 1.0, 2.0, 0]
        lines.append(",".join([str(at), *map(str, numbers)]))
    return "\n".join(lines) + "\n"


def zipped(path, text, *, checksum=None, members=1):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(members):
            packed.writestr(f"{path.stem}{number or ''}.csv", text)
    if checksum is not None:
        said = checksum or hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(f"{path.name}.CHECKSUM").write_text(f"{said}  {path.name}\n")
    return path


def check(lake, bars, *, more=True):
    table = lake.bars(BTC, H1)
    times = [int(time.timestamp() * 1000) for time in table["timestamp"].to_pylist()]
    assert times == bars.index.tolist()
    for name in ("open", "high", "low", "close", "volume", *["quote_volume", "trades"] * more):
        np.testing.assert_array_equal(table[name].to_numpy(), bars[name])
    assert more or table["quote_volume"].null_count == HOURS


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("checksum", [None, ""])
def test_a_zip_of_binances_archive(lake, tmp_path, bars, header, checksum):
    path = zipped(tmp_path / "BTCUSDT-1h-2025-01.zip", archive_csv(bars, header=header), checksum=checksum)
    result = import_data(lake, [path], Venue.BINANCE, "kline", H1)
    assert result.rows == HOURS, "the last bar of a finished file was closed"
    check(lake, bars)


def test_funding_of_binances_archive(lake, tmp_path):
    lines = [f"{T0 + 8 * k * HOUR_MS + 3},8,{1e-4 * (k + 1)}" for k in range(5)]
    text = "\n".join(["calc_time,funding_interval_hours,last_funding_rate", *lines])
    path = zipped(tmp_path / "BTCUSDT-fundingRate-2025-01.zip", text)
    import_data(lake, [path], Venue.BINANCE, "funding")
    table = lake.settlements(Venue.BINANCE, BTC)
    np.testing.assert_allclose(table["funding_rate"].to_numpy(), [1e-4, 2e-4, 3e-4, 4e-4, 5e-4])
    assert table["symbol"].to_pylist() == ["BTC_USDT"] * 5


def test_feather_of_freqtrade(lake, tmp_path, bars):
    frame = bars[["open", "high", "low", "close", "volume"]].copy()
    frame.insert(0, "date", pd.to_datetime(bars.index, unit="ms", utc=True))
    path = tmp_path / "BTC_USDT_USDT-1h-futures.feather"
    frame.reset_index(drop=True).to_feather(path, compression="lz4")
    import_data(lake, [path], Venue.BINANCE, "kline", H1)
    check(lake, bars, more=False)
    rates = pa.table({"date": frame["date"].iloc[::8], "open": [1e-4, 2e-4, 3e-4], "close": [0.0] * 3})
    path = tmp_path / "BTC_USDT_USDT-8h-funding_rate.feather"
    feather.write_feather(rates, path)
    import_data(lake, [path], Venue.BINANCE, "funding")
    assert lake.settlements(Venue.BINANCE, BTC)["funding_rate"].to_pylist() == [1e-4, 2e-4, 3e-4]


@pytest.mark.parametrize(
    ("style", "zone"),
    [("%Y-%m-%d %H:%M:%S", "UTC"), ("%Y-%m-%dT%H:%M:%SZ", None), ("s", None), ("ms", None), ("us", None)],
)
@pytest.mark.parametrize("packed", [False, True])
def test_csv_with_a_map(lake, tmp_path, bars, style, zone, packed):
    times = pd.to_datetime(bars.index, unit="ms", utc=True)
    stamps = times.strftime(style) if "%" in style else (bars.index * 1000) // {"s": 10**6, "ms": 1000, "us": 1}[style]
    frame = bars.rename(columns={"open": "o", "quote_volume": "turnover"}).assign(when=stamps, close_time=7)
    text = frame.drop(columns="close_time").to_csv(index=False)
    path = tmp_path / ("BTCUSDT.csv.gz" if packed else "BTCUSDT.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    columns = parse_map(["timestamp=when", "open=o", "quote_volume=turnover"])
    import_data(lake, [path], Venue.BINANCE, "kline", H1, time_zone=zone, columns=columns)
    check(lake, bars)


def test_parquet_with_a_map(lake, tmp_path, bars):
    frame = bars.rename(columns={"close": "c", "volume": "close"}).assign(
        t=pd.to_datetime(bars.index, unit="ms", utc=True)
    )
    frame.to_parquet(tmp_path / "BTCUSDT.parquet", index=False)
    columns = {"timestamp": "t", "close": "c", "volume": "close"}
    import_data(lake, [tmp_path / "BTCUSDT.parquet"], Venue.BINANCE, "kline", H1, columns=columns)
    check(lake, bars)


def test_what_the_name_says_must_fit(lake, tmp_path, bars):
    text = archive_csv(bars, header=True)
    cases = [
        ("BTCUSDT-1m-2025-01.zip", "kline", "its name says 1m bars, not 1h; give --interval 1m"),
        ("BTCUSDT-fundingRate-2025-01.zip", "kline", "its name says funding, not kline"),
        ("BTC_USDT_USDT-1h-mark.feather", "kline", "its name says mark, not kline"),
    ]
    for name, dataset, words in cases:
        path = zipped(tmp_path / name, text)
        with pytest.raises(SchemaError, match=words):
            import_data(lake, [path], Venue.BINANCE, dataset, H1)


def test_what_is_damaged_or_foreign_is_refused(lake, tmp_path, bars):
    text = archive_csv(bars, header=True)
    name = "BTCUSDT-1h-2025-01.zip"
    cases = [
        (
            zipped(tmp_path / name, text, checksum="0" * 64),
            "is not what BTCUSDT-1h-2025-01.zip.CHECKSUM beside it says",
        ),
        (zipped(tmp_path / "BTCUSDT-1h-2025-02.zip", text, members=2), "holds 2 CSV files, not one"),
        (zipped(tmp_path / "BTCUSDT-1h-2025-03.zip", "1,2,3\n"), "names no columns and has 3, not 12"),
    ]
    torn = tmp_path / "BTCUSDT-1h-2025-04.zip"
    torn.write_bytes(zipped(tmp_path / "whole.zip", text).read_bytes()[:-30])
    cases.append((torn, "torn or no zip"))
    for kind in ("feather", "csv.gz"):
        path = tmp_path / f"BTCUSDT.{kind}"
        path.write_bytes(b"nothing of the kind")
        cases.append((path, "torn or no"))
    (tmp_path / "BTCUSDT.xlsx").write_bytes(b"x")
    cases.append((tmp_path / "BTCUSDT.xlsx", "is none of .parquet .feather .csv .csv.gz .zip"))
    (tmp_path / "BTCUSDT.csv").write_text("timestamp,open,high,low,close,volume\n123,1,1,1,1,1\n")
    cases.append((tmp_path / "BTCUSDT.csv", "timestamp 123 is no Unix time"))
    for path, words in cases:
        with pytest.raises(SchemaError, match=words):
            import_data(lake, [path], Venue.BINANCE, "kline", H1)
    with pytest.raises(SchemaError, match="has no column nowhere; it has timestamp"):
        import_data(lake, [tmp_path / "BTCUSDT.csv"], Venue.BINANCE, "kline", H1, columns={"close": "nowhere"})
    assert lake.instruments(Venue.BINANCE) == []


def test_of_a_folder_what_holds_something_else_is_left_out(tmp_path):
    names = ["BTC_USDT_USDT-1h-futures.feather", "BTC_USDT_USDT-1h-mark.feather", "BTC_USDT_USDT-1m-futures.feather",
             "BTC_USDT_USDT-8h-funding_rate.feather", "ETH_USDT.csv", "notes.txt"]  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in table_files([tmp_path], "kline", H1)] == [names[0], names[4]]
    assert [path.name for path in table_files([tmp_path], "funding")] == [names[3], names[4]]
    assert [path.name for path in table_files([tmp_path / names[1]], "kline", H1)] == [names[1]], "it is refused later"
    (tmp_path / names[4]).unlink()
    with pytest.raises(ConfigError, match="no file at"):
        table_files([tmp_path], "kline", Interval.parse("5m"))


def test_a_map_is_checked():
    assert parse_map(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    for wrong in (["a"], ["=b"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(ConfigError, match="OURS=THEIRS"):
            parse_map(wrong)


@pytest.mark.parametrize(
    ("name", "symbol", "dataset", "interval"),
    [
        ("BTC-USDT-SWAP.parquet", "BTC-USDT-SWAP", None, None),
        ("1000PEPE_USDT_USDT-5m-futures.feather", "1000PEPE_USDT", "kline", "5m"),
        ("BTCUSDT-1m-2025-01-02.zip", "BTCUSDT", "kline", "1m"),
        ("BTCUSDT.csv.gz", "BTCUSDT", None, None),
        ("LUNA_USDT~2.parquet", "LUNA_USDT~2", None, None),
    ],
)
def test_what_a_name_says(tmp_path, name, symbol, dataset, interval):
    said = said_by(tmp_path / name)
    assert (said.symbol, said.dataset, said.interval and said.interval.name) == (symbol, dataset, interval)
