from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_lake import BTC, H1, M1, T0, bar

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, iso, parse_utc
from qlib_crypto.collect import import_data
from qlib_crypto.collect.import_files import settlements_of
from qlib_crypto.collect.import_holes import bar_holes
from qlib_crypto.collect.import_rates import check_rates
from qlib_crypto.collect.import_times import Prices, hours_of
from qlib_crypto.errors import ConfigError, SchemaError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.quality import Flag
from qlib_crypto.symbols import Instrument, Interval, Venue

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
    lake.store([bar(2, close=7.0), bar(5)])
    files = write(tmp_path, "BTC-USDT-SWAP.parquet", candles())
    assert import_data(lake, files, Venue.OKX, "kline", M1) == (5, [], [], None, [])
    rows = lake.bars(BTC, M1)
    assert rows.column("close").to_pylist() == [100.5, 101.5, 102.5, 103.5, 104.5, 100.0]
    assert rows.column("source").to_pylist() == ["import"] * 5 + ["ws"]
    seals = len(lake.ledger(Venue.OKX))
    assert import_data(lake, files, Venue.OKX, "kline", M1).rows == 5
    assert len(lake.ledger(Venue.OKX)) == seals


def test_a_download_with_close_time_loses_its_open_last_bar_and_says_so(lake, tmp_path):
    table = candles(
        trades=pa.array([1, 2, None, 4, 5]), quote_volume=pa.array([1.5, None, 3.5, float("nan"), 5.0]),
        close_time=pa.array([T0 + (k + 1) * MINUTE_MS - 1 for k in range(5)], UTC),
    )  # fmt: skip
    result = import_data(lake, write(tmp_path, "BTCUSDT.parquet", table), Venue.BINANCE, "kline", M1)
    assert result.rows == 4
    assert len(result.messages) == 1
    assert "BTCUSDT.parquet: left out the last bar, which may have been open" in result.messages[0]
    rows = lake.bars(Instrument("BTC", "USDT", Venue.BINANCE), M1)
    assert rows.column("trades").to_pylist() == [1, 2, None, 4]
    assert rows.column("quote_volume").to_pylist() == [1.5, None, 3.5, None]
    whole = import_data(lake, [tmp_path / "BTCUSDT.parquet"], Venue.BINANCE, "kline", M1, keep_last=True)
    assert (whole.rows, whole.messages) == (5, [])


def test_another_coin_and_another_unit_are_refused_by_what_the_lake_has_of_the_contract(lake, tmp_path):
    minutes = walk(180)
    import_data(lake, [put(tmp_path / "own", "BTC-USDT-SWAP", minutes)], Venue.OKX, "kline", M1)
    right = lake.bars(BTC, M1)
    for name, factor in (("thousand", 1000.0), ("coin", 0.02)):
        other = minutes
        for column in ("open", "high", "low", "close"):
            at = other.schema.get_field_index(column)
            other = other.set_column(at, column, pa.array(other[column].to_numpy() * factor))
        (tmp_path / name).mkdir()
        path = put(tmp_path / name, "BTC-USDT-SWAP", other)
        with pytest.raises(SchemaError, match=rf"prices are {factor:g} times those of the lake's 1m .* --replace"):
            import_data(lake, [path], Venue.OKX, "kline", M1)
        assert lake.bars(BTC, M1).equals(right)
    assert import_data(lake, [path], Venue.OKX, "kline", M1, replace=True).rows == 180
    near = np.random.default_rng(9).permutation(180)
    shuffled = minutes
    for column in ("open", "high", "low", "close"):
        values = minutes[column].to_numpy() * 0.02 * (1 + 0.1 * (near % 2))
        shuffled = shuffled.set_column(shuffled.schema.get_field_index(column), column, pa.array(values))
    (told,) = import_data(lake, [put(tmp_path / "coin", "BTC-USDT-SWAP", shuffled)], Venue.OKX, "kline", M1).messages
    assert "is it the same coin?" in told


def test_finer_bars_and_quote_volumes_that_are_lost_are_told(lake, tmp_path):
    quoted = candles(180, quote_volume=pa.array([5.0] * 180))
    import_data(lake, write(tmp_path, "BTC-USDT-SWAP.parquet", quoted), Venue.OKX, "kline", M1)
    result = import_data(lake, write(tmp_path, "BTC-USDT-SWAP.parquet", candles(90)), Venue.OKX, "kline", M1)
    assert ["no quote_volume for 90 bars that had one" in line for line in result.messages] == [True]
    hours = candles(4, step=HOUR_MS, close=pa.array([159.5, 219.5, 279.5, 250.0]), high=pa.array([300.0] * 4))
    result = import_data(
        lake, write(tmp_path, "BTC-USDT-SWAP.parquet", hours), Venue.OKX, "kline", Interval.parse("1h")
    )
    assert ["has all 1m bars of 3 bars of it; a provider makes its 1h bars of those" in m for m in result.messages] == [
        True
    ]


def test_a_hole_to_what_the_lake_has_is_told(lake, tmp_path):
    first, second, third = (
        put(tmp_path / name, "BTC-USDT-SWAP", walk(60 * hours).slice(60 * start, 30))
        for name, hours, start in (("a", 1, 0), ("b", 3, 2), ("c", 2, 1))
    )
    assert import_data(lake, [first], Venue.OKX, "kline", M1).holes == []
    (hole,) = import_data(lake, [second], Venue.OKX, "kline", M1).holes
    assert (hole.start_ms, hole.end_ms, hole.rows) == (T0 + 30 * MINUTE_MS, T0 + 120 * MINUTE_MS, 90)
    holes = import_data(lake, [third], Venue.OKX, "kline", M1).holes
    assert [(hole.start_ms - T0) // MINUTE_MS for hole in holes] == [30, 90]
    assert [hole.rows for hole in holes] == [30, 30]


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
        ("BTC-USDT-SWAP", candles(6, step=MINUTE_MS // 2), "on the 1m grid"),
        ("BTC-USDT-SWAP", candles(trades=pa.array([1.0, 2.0, 1.5, 4.0, 5.0])), "a trade count is 1.5"),
        ("BTC-USDT-SWAP", candles(trades=pa.array([1.0, 2.0, float("inf"), 4.0, 5.0])), "a trade count is inf"),
        ("BTC-USDT-SWAP", candles(trades=pa.array([1.0, 2.0, 1e30, 4.0, 5.0])), "trades 10.*must not be .*2\\*\\*53"),
        ("BTC-USDT-SWAP", candles(trades=pa.array([2**63 + 5] * 5, pa.uint64())), "trades 92.*must not be .*2\\*\\*53"),
        ("BTC-USDT-SWAP", candles(close=pa.array([True] * 5)), "close is bool, not a number"),
        ("BTC-USDT-SWAP", candles(high=pa.array([1e300] * 5)), "high 1e.300: prices must be finite and above 0, below"),
        ("BTC-USDT-SWAP", candles(volume=pa.array([1e300] * 5)), "volume 1e.300: must be finite and not negative, bel"),
        ("BTC-USDT-SWAP", candles().append_column("close", pa.array([1.0] * 5)), "more than one column close"),
    ],
)  # fmt: skip
def test_a_candle_file_that_cannot_be_right_is_refused_whole_by_name(lake, tmp_path, name, table, words):
    with pytest.raises(SchemaError, match=rf"{name}\.parquet.*{words}") as error:
        import_data(lake, write(tmp_path, f"{name}.parquet", table), Venue.OKX, "kline", M1)
    assert "\n" not in str(error.value)
    assert lake.instruments(Venue.OKX) == []


def test_a_trade_count_that_no_store_holds_goes_to_the_quarantine(lake, tmp_path):
    files = write(tmp_path, "BTC-USDT-SWAP.parquet", candles(trades=pa.array([1.0, 2.0, 1e30, 4.0, 2.0**53 - 1])))
    result = import_data(lake, files, Venue.OKX, "kline", M1, quarantine=True)
    assert (result.rows, len(result.refused), len(lake.quarantined(Venue.OKX))) == (4, 1, 1)
    assert lake.bars(BTC, M1).column("trades").to_pylist() == [1, 2, 4, 2**53 - 1]


def test_a_file_without_rows_is_told(lake, tmp_path):
    files = write(tmp_path, "BTC-USDT-SWAP.parquet", candles(0))
    assert import_data(lake, files, Venue.OKX, "kline", M1)[:2] == (0, ["BTC-USDT-SWAP.parquet: it has no rows"])
    files = write(tmp_path, "f.parquet", funding([], []).cast(funding(["x"], [0]).schema))
    assert import_data(lake, files, Venue.OKX, "funding")[:2] == (0, ["f.parquet: it has no rows"])


def funding(symbols, hours, **changes):
    columns = {
        "symbol": pa.array(symbols),
        "funding_time": pa.array([T0 + round(h * HOUR_MS) for h in hours], UTC),
        "funding_rate": pa.array([1e-4 * k for k in range(len(symbols))]),
    }
    return pa.table({**columns, **changes})


def test_a_funding_file_is_split_by_symbol(lake, tmp_path):
    table = funding(["ETH-USDT-SWAP", "BTC-USDT-SWAP", "BTC-USDT-SWAP", "BTC-USD-SWAP"], [0, 0, 8, 0])
    result = import_data(lake, write(tmp_path, "f.parquet", table), Venue.OKX, "funding")
    assert result[:2] == (3, ["f.parquet: left out 1 row of BTC-USD-SWAP, no linear perpetuals"])
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
        import_data(lake, write(tmp_path, "f.parquet", table), Venue.OKX, "funding")
    assert len(lake.settlements(Venue.OKX)) == 0


def test_wrong_use(lake, tmp_path):
    with pytest.raises(ConfigError, match="dataset"):
        import_data(lake, [], Venue.OKX, "books")
    with pytest.raises(ConfigError, match="interval"):
        import_data(lake, [], Venue.OKX, "kline")
    (tmp_path / "BTC-USDT-SWAP.parquet").write_bytes(b"torn")
    with pytest.raises(SchemaError, match="torn or no Parquet"):
        import_data(lake, [tmp_path / "BTC-USDT-SWAP.parquet"], Venue.OKX, "kline", M1)
    (tmp_path / "BTC_USDT.csv").write_text("timestamp,open\n")
    with pytest.raises(SchemaError, match=r"lacks high, low, close, volume; it has timestamp, open; .* --map high="):
        import_data(lake, [tmp_path / "BTC_USDT.csv"], Venue.OKX, "kline", M1)


def test_real_files(lake, real_data):
    path = real_data / "candles" / "binance_um_1h" / "BTCUSDT.parquet"
    result = import_data(lake, [path], Venue.BINANCE, "kline", H1)
    source = pq.ParquetFile(path).read()
    assert result.rows == len(source) - 1
    names = ["timestamp", "open", "high", "low", "close", "volume", "quote_volume", "trades"]
    rows = lake.bars(Instrument("BTC", "USDT", Venue.BINANCE), H1)
    assert rows.select(names).to_pydict() == source.select(names).slice(0, len(source) - 1).to_pydict()

    path = real_data / "funding" / "okx_swap_funding.parquet"
    result = import_data(lake, [path], Venue.OKX, "funding")
    source = pq.ParquetFile(path).read()
    assert (result.rows, result.messages) == (len(source), [])
    assert {hole.symbol for hole in result.holes} >= {"IP_USDT", "KAITO_USDT"}  # between their downloads
    rows = lake.settlements(Venue.OKX)
    order = np.lexsort((source.column("funding_time").cast("int64"), source.column("symbol").to_numpy()))
    assert rows.column("funding_rate").to_pylist() == source.column("funding_rate").take(pa.array(order)).to_pylist()


# ------------------------------------------------------------------------------------------------------- the hour


def walk(n=2000, *, start=T0, step=MINUTE_MS, seed=7, tz="UTC", scale=1.0, shift_h=0.0, every=1):
    """Candles of a random walk; the same seed is the same coin. `shift_h` is added to what the clock shows."""
    log = np.random.default_rng(seed).normal(0, 1e-3, n).cumsum()
    close = scale * 100 * np.exp(log)
    at = [start + k * step + round(shift_h * HOUR_MS) for k in range(n)]
    table = pa.table({
        "timestamp": pa.array(at, pa.timestamp("ms", tz=tz)), "open": close, "high": close * 1.01,
        "low": close * 0.99, "close": close, "volume": np.ones(n),
    })  # fmt: skip
    return table.take(pa.array(range(0, n, every)))


def put(folder, name, table):
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


@pytest.mark.parametrize(
    ("zone", "hours"),
    [("+08:00", 8), ("UTC+8", 8), ("-05:30", -5.5), ("UTC", 0), ("Z", 0), ("Asia/Shanghai", 8), ("Asia/Kolkata", 5.5)],
)
def test_naive_stamps_are_read_in_the_zone_that_is_given(lake, tmp_path, zone, hours):
    path = put(tmp_path / "in", "BTC-USDT-SWAP", walk(60, tz=None, shift_h=hours))
    result = import_data(lake, [path], Venue.OKX, "kline", M1, time_zone=zone)
    (told,) = result.messages
    assert told == (
        f"BTC-USDT-SWAP.parquet: its times were read as {zone}: its first bar opens 2025-04-01 00:00:00 UTC; "
        "no prices in the lake show whether that is right, --against gives some"
    )
    assert lake.bar_times(BTC, M1).tolist() == [T0 + k * MINUTE_MS for k in range(60)]


def test_summer_time_is_read_where_it_is_clear_and_refused_where_it_is_not(lake, tmp_path):
    at = [parse_utc("2025-03-09T06:30"), parse_utc("2025-03-09T07:30")]  # 01:30 EST, 03:30 EDT
    local = [parse_utc("2025-03-09T01:30"), parse_utc("2025-03-09T03:30")]
    table = walk(2).set_column(0, "timestamp", pa.array(local, pa.timestamp("ms")))
    path = put(tmp_path / "in", "BTC-USDT-SWAP", table)
    result = import_data(lake, [path], Venue.OKX, "kline", M1, time_zone="America/New_York")
    assert lake.bar_times(BTC, M1).tolist() == at
    assert [hole.rows for hole in result.holes] == [59]
    for text in ("2025-03-09T02:30", "2025-11-02T01:30"):  # never was, was twice
        path = put(tmp_path / "in", "BTC-USDT-SWAP", walk(1, start=parse_utc(text), tz=None))
        with pytest.raises(SchemaError, match=r"cannot be of America/New_York.*give its offset"):
            import_data(lake, [path], Venue.OKX, "kline", M1, time_zone="America/New_York")


@pytest.mark.parametrize("zone", ["Mars/Base", "8", "+25:00", "+08:00:00", "", "../etc"])
def test_an_unknown_zone_is_refused(lake, zone):
    with pytest.raises(ConfigError, match="--time-zone"):
        import_data(lake, [], Venue.OKX, "kline", M1, time_zone=zone)


def test_a_zone_for_stamps_that_have_one_is_refused(lake, tmp_path):
    path = put(tmp_path / "in", "BTC-USDT-SWAP", walk(60))
    with pytest.raises(SchemaError, match="has the time zone UTC already; leave --time-zone out"):
        import_data(lake, [path], Venue.OKX, "kline", M1, time_zone="+08:00")


def test_stamps_that_are_hours_off_are_refused_by_what_the_lake_has(lake, tmp_path):
    right = put(tmp_path / "a", "BTC-USDT-SWAP", walk(1500))
    import_data(lake, [right], Venue.OKX, "kline", M1)
    for hours, zone in ((8, r"\+08:00"), (-5, "-05:00"), (5.75, r"\+05:45")):
        wrong = put(tmp_path / "b", "BTC-USDT-SWAP", walk(2000, shift_h=hours))
        with pytest.raises(SchemaError, match=rf"at UTC{zone}: against the lake's 1m bars.*--time-zone {zone}"):
            import_data(lake, [wrong], Venue.OKX, "kline", M1)
    naive = put(tmp_path / "b", "BTC-USDT-SWAP", walk(2000, tz=None, shift_h=8))
    with pytest.raises(SchemaError, match=r"no time zone.*; by the lake's 1m bars of BTC_USDT.OKX it is \+08:00"):
        import_data(lake, [naive], Venue.OKX, "kline", M1)
    for tried in ("UTC", "+09:00", "-03:30"):  # whatever was tried first, the advice is right
        with pytest.raises(SchemaError, match=r"clock at UTC\+08:00: .*; give --time-zone \+08:00"):
            import_data(lake, [naive], Venue.OKX, "kline", M1, time_zone=tried)
    assert len(lake.bars(BTC, M1)) == 1500
    result = import_data(lake, [naive], Venue.OKX, "kline", M1, time_zone="+08:00")
    assert result.messages[0].endswith("its first bar opens 2025-04-01 00:00:00 UTC")
    assert result.messages[1].startswith("BTC-USDT-SWAP.parquet: its hours agree with the lake's 1m bars of BTC_USDT")
    assert len(lake.bars(BTC, M1)) == 2000


def test_another_venues_bars_in_the_lake_and_longer_ones_tell_the_hour_too(lake, tmp_path):
    hourly = walk(3000, every=60)  # the close of an hour's first minute stands for none of its hour: shift it
    close = walk(3000).column("close").take(pa.array(range(59, 3000, 60)))
    hourly = hourly.set_column(4, "close", close)
    import_data(lake, [put(tmp_path / "a", "BTCUSDT", hourly)], Venue.BINANCE, "kline", H1)
    wrong = put(tmp_path / "b", "BTC-USDT-SWAP", walk(3000, scale=1.0004, shift_h=8))
    with pytest.raises(SchemaError, match=r"UTC\+08:00: against the lake's 1h bars of BTC_USDT.BINANCE"):
        import_data(lake, [wrong], Venue.OKX, "kline", M1)
    right = put(tmp_path / "b", "BTC-USDT-SWAP", walk(3000, scale=1.0004))
    assert "agree with the lake's 1h bars of BTC_USDT.BINANCE: 4.0 bp apart" in import_data(
        lake, [right], Venue.OKX, "kline", M1
    ).messages[0]  # fmt: skip


def test_against_gives_the_prices_and_then_every_file_is_checked(lake, tmp_path):
    known = put(tmp_path / "known", "BTCUSDT", walk(1500, step=5 * MINUTE_MS, seed=1))
    put(tmp_path / "known", "ETHUSDT", walk(1500, seed=2))
    right = put(tmp_path / "in", "BTC-USDT-SWAP", walk(1500, step=5 * MINUTE_MS, seed=1))
    five = Interval.parse("5m")
    result = import_data(lake, [right], Venue.OKX, "kline", five, against=[tmp_path / "known"])
    assert "agree with BTCUSDT.parquet" in result.messages[0]
    wrong = put(tmp_path / "in", "BTC-USDT-SWAP", walk(1500, step=5 * MINUTE_MS, seed=1, shift_h=-3))
    with pytest.raises(SchemaError, match=r"UTC-03:00: against BTCUSDT.parquet"):
        import_data(lake, [wrong], Venue.OKX, "kline", five, against=[known])
    for other in (walk(10), walk(1500, start=T0 - 90 * DAY_MS), walk(1500, seed=9)):  # few, elsewhere, another coin
        known = put(tmp_path / "known", "BTCUSDT", other)
        with pytest.raises(SchemaError, match="its hour cannot be checked"):
            import_data(lake, [right], Venue.OKX, "kline", five, against=[known])
    known = put(tmp_path / "known", "BTCUSDT", walk(1500, tz=None))
    with pytest.raises(SchemaError, match=r"BTCUSDT.parquet: to compare with.*time zone"):
        import_data(lake, [right], Venue.OKX, "kline", five, against=[known])
    with pytest.raises(ConfigError, match=r"no file at.*none that is read"):
        import_data(lake, [right], Venue.OKX, "kline", five, against=[tmp_path / "none"])


@given(st.integers(-55, 55), st.integers(0, 2**32), st.sampled_from([1.0, 1000.0, 1.0005]), st.sampled_from([1, 5, 15]))
@settings(max_examples=40)
def test_a_shift_of_any_quarters_is_found_or_nothing_is_said(quarters, seed, scale, minutes):
    random = np.random.default_rng(seed)
    step = minutes * MINUTE_MS
    at = T0 + np.arange(1, 4000 // minutes) * step
    close = 100 * np.exp(random.normal(0, 1e-3 * minutes**0.5, len(at)).cumsum())
    other = scale * close * np.exp(random.normal(0, 2e-4, len(at)))
    found = hours_of(Prices("known", at, close), at + quarters * 15 * MINUTE_MS, other)
    assert found is not None
    assert found.shift_ms == -quarters * 15 * MINUTE_MS
    assert found.there < 7e-4


def test_prices_that_say_nothing_of_the_hour_are_not_judged():
    at = T0 + np.arange(1, 3000) * MINUTE_MS
    random = np.random.default_rng(1)
    close, other = (100 * np.exp(random.normal(0, 1e-3, len(at)).cumsum()) for _ in range(2))
    assert hours_of(Prices("other coin", at, close), at, other) is None
    assert hours_of(Prices("elsewhere", at + 90 * DAY_MS, close), at, close) is None
    assert hours_of(Prices("few", at[:200], close[:200]), at[:200], close[:200]) is None
    noise = close * np.exp(random.normal(0, 1, len(at)))
    assert hours_of(Prices("noise", at, close), at, noise) is None
    flat = np.ones(len(at))
    assert hours_of(Prices("a coin that never moves", at, flat), at, flat) is None


# ------------------------------------------------------------------------------------------- holes and the quarantine


@given(st.lists(st.integers(1, 6), max_size=40))
def test_every_hole_is_listed(steps):
    opens = (T0 + np.cumsum([0, *steps]) * MINUTE_MS).tolist()
    rows = [bar()._replace(open_ms=at) for at in opens]
    there = set(opens)
    lacking = [at for at in range(opens[0], opens[-1], MINUTE_MS) if at not in there]
    found = bar_holes(Path("x.parquet"), rows)
    assert [at for hole in found for at in range(hole.start_ms, hole.end_ms, MINUTE_MS)] == lacking
    assert sum(hole.rows for hole in found) == len(lacking)
    assert all(hole.start_ms - MINUTE_MS in there and hole.end_ms in there for hole in found)


def test_holes_are_in_the_result_in_a_file_and_in_the_flags(lake, tmp_path):
    table = candles(12).take(pa.array([0, 1, 2, 5, 6, 8, 11]))
    lake.store([bar(3), bar(4), bar(9)])
    result = import_data(lake, write(tmp_path, "BTC-USDT-SWAP.parquet", table), Venue.OKX, "kline", M1)
    assert [(hole.start_ms, hole.end_ms, hole.rows) for hole in result.holes] == [
        (T0 + 3 * MINUTE_MS, T0 + 5 * MINUTE_MS, 2), (T0 + 7 * MINUTE_MS, T0 + 8 * MINUTE_MS, 1),
        (T0 + 9 * MINUTE_MS, T0 + 11 * MINUTE_MS, 2),
    ]  # fmt: skip
    assert result.holes_file.parent == lake.folder(Venue.OKX) / "imports"
    assert result.holes_file.read_text().splitlines() == [
        "file,symbol,dataset,start,end,rows",
        "BTC-USDT-SWAP.parquet,BTC_USDT,kline_1m,2025-04-01 00:03:00,2025-04-01 00:05:00,2",
        "BTC-USDT-SWAP.parquet,BTC_USDT,kline_1m,2025-04-01 00:07:00,2025-04-01 00:08:00,1",
        "BTC-USDT-SWAP.parquet,BTC_USDT,kline_1m,2025-04-01 00:09:00,2025-04-01 00:11:00,2",
    ]
    opens, masks = lake.flags(BTC, M1)  # only what the lake lacks too
    assert opens.tolist() == [T0 + 8 * MINUTE_MS, T0 + 11 * MINUTE_MS]
    assert set(masks.tolist()) == {int(Flag.GAP_BEFORE)}


def test_holes_of_settlements_are_listed_by_symbol(lake, tmp_path):
    hours = [*range(0, 48, 8), *range(72, 120, 8)]
    table = funding(["ETH-USDT-SWAP"] * 12 + ["BTC-USDT-SWAP"] * 3, [*hours, 0, 8, 16])
    result = import_data(lake, write(tmp_path, "f.parquet", table), Venue.OKX, "funding")
    assert [(h.symbol, h.dataset, h.start_ms - T0, h.end_ms - T0, h.rows) for h in result.holes] == [
        ("ETH_USDT", "funding", 40 * HOUR_MS + MINUTE_MS, 72 * HOUR_MS, None)
    ]


def test_a_refused_file_names_where_the_holes_of_those_before_it_are(lake, tmp_path):
    files = write(tmp_path, "BTC-USDT-SWAP.parquet", candles(12).take(pa.array([0, 5, 6])))
    files += write(tmp_path, "ETH-USDT-SWAP.parquet", candles(tz=None))
    with pytest.raises(
        SchemaError, match=r"ETH.*no time zone.*; 1 file before it was imported, the holes are in \S+csv$"
    ):
        import_data(lake, files, Venue.OKX, "kline", M1)
    assert len(lake.bars(BTC, M1)) == 3


def test_the_quarantine_takes_impossible_rows_and_the_good_ones_are_imported(lake, tmp_path):
    table = candles(
        7, close=pa.array([100.5, None, 102.5, float("nan"), 104.5, 105.5, 106.5]),
        low=pa.array([99.0, 99.0, -1.0, 99.0, 99.0, 108.0, 99.0]),
    )  # fmt: skip
    files = write(tmp_path, "BTC-USDT-SWAP.parquet", table)
    with pytest.raises(SchemaError, match="close has no value in row 1"):
        import_data(lake, files, Venue.OKX, "kline", M1)
    result = import_data(lake, files, Venue.OKX, "kline", M1, quarantine=True)
    assert (result.rows, len(result.refused)) == (4, 3)
    assert lake.bar_times(BTC, M1).tolist() == [T0 + k * MINUTE_MS for k in (0, 4, 5, 6)]
    assert [(q.dataset, q.symbol, q.time_ms) for q in lake.quarantined(Venue.OKX)] == [
        ("kline_1m", "BTC_USDT", T0 + k * MINUTE_MS) for k in (1, 2, 3)
    ]
    assert [(hole.start_ms, hole.rows) for hole in result.holes] == [(T0 + MINUTE_MS, 3)]
    flags = dict(zip(*(column.tolist() for column in lake.flags(BTC, M1)), strict=True))
    assert flags == {T0 + 4 * MINUTE_MS: Flag.GAP_BEFORE, T0 + 5 * MINUTE_MS: Flag.HIGH_BELOW_LOW}


def test_a_high_below_its_low_is_refused_unless_asked_for(lake, tmp_path):
    files = write(tmp_path, "BTC-USDT-SWAP.parquet", candles(low=pa.array([99.0, 99.0, 200.0, 99.0, 99.0])))
    with pytest.raises(SchemaError, match=r"BTC_USDT.OKX 2025-04-01 00:02:00 refused: high 103.0 is below low 200.0"):
        import_data(lake, files, Venue.OKX, "kline", M1)


def test_an_impossible_settlement_goes_to_the_quarantine(lake, tmp_path):
    table = funding(["BTC-USDT-SWAP"] * 3, [0, 8, 16], funding_rate=pa.array([1e-4, None, 2e-4]))
    result = import_data(lake, write(tmp_path, "f.parquet", table), Venue.OKX, "funding", quarantine=True)
    assert (result.rows, len(result.refused), len(lake.quarantined(Venue.OKX))) == (2, 1, 1)
    assert lake.settlements(Venue.OKX).column("funding_rate").to_pylist() == [1e-4, 2e-4]


# ------------------------------------------------------------------------------------------------------ funding rates


def settled(folder, name, n=150, *, factor=1.0, moved_h=0, every=8, seed=3, constant=0.0):
    """Settlements of a coin; the same seed is the same coin, of whose rates a share is a venue's constant one."""
    random = np.random.default_rng(seed)
    rates = np.where(random.random(n) < constant, 1e-4, random.normal(5e-5, 1e-4, n))
    hours = [k * every + moved_h for k in range(n)]
    return put(folder, name, funding(["BTC-USDT-SWAP"] * n, hours, funding_rate=pa.array(rates * factor)))


def mean_rate(lake):
    return np.abs(lake.settlements(Venue.OKX, BTC).column("funding_rate").to_numpy()).mean()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"factor": 100.0}, "half the funding rates .*write fractions of notional"),
        (
            {"factor": 100.0, "n": 40},
            "of 40 settlements .*, 40 have another rate.*they are 100 times as large; correct",
        ),
        ({"factor": 0.01, "n": 40}, "they are 0.01 times as large"),
        ({"factor": -1.0}, "their sign is the other"),
        ({"moved_h": -8}, r"they agree when moved by \+08:00 h; correct the file, or give --replace"),
        ({"moved_h": 8, "every": 1}, "they agree when moved by -08:00 h"),
        ({"moved_h": -8, "factor": 100.0, "n": 40}, r"moved by \+08:00 h and they are 100 times as large"),
        ({"moved_h": 8, "constant": 0.9}, "they agree when moved by -08:00 h"),
        ({"factor": 100.0, "constant": 0.9, "n": 100}, "they are 100 times as large"),
        ({"seed": 4}, "another coin's or venue's funding"),
        ({"moved_h": -5.5}, "none of 150 settlements .* 00:00, 08:00 or 16:00 UTC"),
        ({"moved_h": 1, "every": 4}, "none of 150 settlements .* 00:00, 08:00 or 16:00 UTC"),
    ],
)
def test_funding_that_the_lake_knows_better_is_refused(lake, tmp_path, changes, words):
    same = {name: changes[name] for name in ("every", "constant", "n") if name in changes}
    import_data(lake, [settled(tmp_path / "a", "right", **same)], Venue.OKX, "funding")
    right = lake.content_hash()
    wrong = settled(tmp_path / "b", "wrong", **changes)
    with pytest.raises(SchemaError, match=rf"wrong\.parquet: .*{words}"):
        import_data(lake, [wrong], Venue.OKX, "funding")
    assert lake.content_hash() == right
    import_data(lake, [settled(tmp_path / "a", "right", **same)], Venue.OKX, "funding")


def test_a_lake_that_is_wrong_is_corrected_when_asked_for(lake, tmp_path):
    import_data(lake, [settled(tmp_path / "a", "wrong", 40, factor=100.0)], Venue.OKX, "funding")
    right = settled(tmp_path / "b", "right", 40)
    with pytest.raises(SchemaError, match=r"0\.01 times as large.*--replace if the lake is wrong"):
        import_data(lake, [right], Venue.OKX, "funding")
    before = mean_rate(lake)
    import_data(lake, [right], Venue.OKX, "funding", replace=True)
    assert mean_rate(lake) == pytest.approx(before / 100)

    import_data(lake, [put(tmp_path / "a", "BTC-USDT-SWAP", walk(1500, shift_h=8))], Venue.OKX, "kline", M1)
    right = put(tmp_path / "b", "BTC-USDT-SWAP", walk(1500))
    with pytest.raises(SchemaError, match=r"clock at UTC-08:00.*; those bars were imported: if they .* give --replace"):
        import_data(lake, [right], Venue.OKX, "kline", M1)
    result = import_data(lake, [right], Venue.OKX, "kline", M1, replace=True)
    assert (result.rows, len(lake.bars(BTC, M1))) == (1500, 1500)
    assert result.messages[0].startswith("BTC-USDT-SWAP.parquet: 480 bars of an earlier import that it does not have")
    assert len(lake.quarantined(Venue.OKX)) == 480
    clean = Lake(tmp_path / "clean")
    import_data(clean, [right], Venue.OKX, "kline", M1)
    told = ("timestamp", "close", "source")
    assert lake.bars(BTC, M1).select(told).equals(clean.bars(BTC, M1).select(told))


def test_a_file_that_replaces_a_part_of_an_import_leaves_the_rest(lake, tmp_path):
    import_data(lake, [put(tmp_path / "a", "BTC-USDT-SWAP", walk(3000))], Venue.OKX, "kline", M1)
    lake.store([bar(-3), bar(3001)])
    part = put(tmp_path / "b", "BTC-USDT-SWAP", walk(1500))
    assert import_data(lake, [part], Venue.OKX, "kline", M1, replace=True).messages == []
    assert (len(lake.bars(BTC, M1)), lake.quarantined(Venue.OKX)) == (3002, [])


def test_bars_of_the_venue_tell_the_hour_before_imported_ones(lake, tmp_path):
    import_data(lake, [put(tmp_path / "a", "BTC-USDT-SWAP", walk(3000, shift_h=8))], Venue.OKX, "kline", M1)
    known = walk(1500, scale=1.0002)
    rows = [bar(k, of=BTC, close=close) for k, close in enumerate(known.column("close").to_pylist()[:480])]
    lake.store(rows)  # what the wrong import has not replaced
    right = put(tmp_path / "b", "BTC-USDT-SWAP", walk(1500))
    assert "its hours agree" in import_data(lake, [right], Venue.OKX, "kline", M1).messages[0]


def test_some_settlements_that_are_stated_anew_are_no_other_unit_or_hour(lake, tmp_path):
    import_data(lake, [settled(tmp_path / "a", "old")], Venue.OKX, "funding")
    table = pq.ParquetFile(settled(tmp_path / "b", "new")).read()
    rates = table.column("funding_rate").to_numpy().copy()
    rates[:60] += 5e-5
    changed = put(tmp_path / "b", "new", table.set_column(2, "funding_rate", pa.array(rates)))
    import_data(lake, [changed], Venue.OKX, "funding")
    assert lake.settlements(Venue.OKX, BTC).column("funding_rate").to_pylist() == rates.tolist()


def test_real_funding_in_per_cent_or_moved_by_its_interval(lake, tmp_path, real_data):
    path = real_data / "funding" / "okx_swap_funding.parquet"
    rows, _ = settlements_of(path, Venue.OKX, parse_utc("2030-01-01"), zone=None, lenient=False, columns={})
    check_rates(path, rows, None)
    coins = sorted({row.instrument for row in rows})
    for coin in coins:
        with pytest.raises(SchemaError, match=f"half the funding rates of {coin}.*write fractions"):
            check_rates(path, [row._replace(rate=row.rate * 100) for row in rows if row.instrument == coin], None)
    coin = Instrument("PI", "USDT", Venue.OKX)
    own = [row for row in rows if row.instrument == coin]
    lake.store(own)
    check_rates(path, own, lake)
    for hours, words in ((-8, r"\+08:00"), (8, "-08:00")):
        moved = [row._replace(time_ms=row.time_ms + hours * HOUR_MS) for row in own]
        with pytest.raises(SchemaError, match=f"agree when moved by {words} h"):
            check_rates(path, moved, lake)


# -------------------------------------------------------------------------------------------------------- the real one


@pytest.fixture
def gappy(real_data):
    """Real bars of five coins whose naive stamps are Beijing's, and what the manifest says of each."""
    folder = real_data / "candles" / "binance_um_1m_gappy_utc8"
    with (real_data / "MANIFEST.csv").open() as file:
        rows = {Path(row["file"]).stem: row for row in csv.DictReader(file) if folder.name in row["file"]}
    return folder, rows


def test_real_candles_in_beijing_time(lake, tmp_path, gappy):
    folder, manifest = gappy
    files = sorted(folder.glob("*.parquet"))
    assert len(files) == 5
    for path in files:
        with pytest.raises(SchemaError, match=rf"{path.name}: timestamp has no time zone.*give --time-zone"):
            import_data(lake, [path], Venue.BINANCE, "kline", M1)
    assert lake.instruments(Venue.BINANCE) == []

    # the coin's known prices, as another venue has them: hours with a spread of their own, made with pandas
    for path in files:
        frame = pq.ParquetFile(path).read().to_pandas().set_index("timestamp").tz_localize("Asia/Shanghai")
        hours = frame.resample("1h").agg({"open": "first", "high": "max", "low": "min", "close": "last"}).dropna()
        last = frame.groupby(frame.index.floor("1h")).apply(lambda rows: rows.index[-1].minute)
        hours = hours[last.reindex(hours.index) == 59].tz_convert("UTC").reset_index()
        hours[["open", "high", "low", "close"]] *= 1.0006
        pq.write_table(pa.Table.from_pandas(hours, preserve_index=False), tmp_path / path.name)
    for path in files:
        with pytest.raises(SchemaError, match=r"clock at UTC\+08:00: against .* 6\.0 bp apart when moved by -08:00 h"):
            import_data(lake, [path], Venue.BINANCE, "kline", M1, time_zone="UTC", against=[tmp_path])
    assert lake.instruments(Venue.BINANCE) == []

    result = import_data(lake, files, Venue.BINANCE, "kline", M1, time_zone="+08:00", against=[tmp_path])
    assert result.rows == 45_343
    assert len(result.messages) == 10
    listed = result.holes_file.read_text().splitlines()
    assert len(listed) == 1 + len(result.holes)
    for path in files:
        told = manifest[path.stem]
        instrument = Instrument.from_venue_id(Venue.BINANCE, path.stem)
        times = lake.bar_times(instrument, M1)
        assert (len(times), iso(times[0]), iso(times[-1])) == (
            int(told["rows"]), *(told[name].rstrip("Z").replace("T", " ") for name in ("first_utc", "last_utc")),
        )  # fmt: skip
        own = [hole for hole in result.holes if hole.file == path.name]
        assert len(own) == int(told["notes"].split()[0].removeprefix("gaps="))
        assert len(own) == sum(line.startswith(path.name) for line in listed)
        assert len(times) + sum(hole.rows for hole in own) == (times[-1] - times[0]) // MINUTE_MS + 1
        assert len(lake.flags(instrument, M1)[0]) >= len(own)

    # now the lake itself knows: the same file called UTC, or as it is
    with pytest.raises(SchemaError, match=r"UTC\+08:00: against the lake's 1m bars of CATI_USDT.BINANCE"):
        import_data(lake, files[:1], Venue.BINANCE, "kline", M1, time_zone="UTC")
    with pytest.raises(SchemaError, match=r"no time zone.*by the lake's 1m bars of CATI_USDT.BINANCE it is \+08:00"):
        import_data(lake, files[:1], Venue.BINANCE, "kline", M1)


def test_real_candles_of_two_venues_tell_the_hour(lake, real_data, tmp_path):
    known = real_data / "candles" / "okx_swap_1h" / "ETH-USDT-SWAP.parquet"
    path = real_data / "candles" / "binance_um_1m" / "ETHUSDT.parquet"
    days = pq.ParquetFile(path).read().slice(0, 3 * 1440)
    right = put(tmp_path / "a", "ETHUSDT", days)
    result = import_data(lake, [right], Venue.BINANCE, "kline", M1, against=[known])
    assert "its hours agree with ETH-USDT-SWAP.parquet" in result.messages[0]
    moved = pc.add(days.column("timestamp"), pa.scalar(5 * HOUR_MS, pa.duration("ms")))
    wrong = put(tmp_path / "b", "ETHUSDT", days.set_column(0, "timestamp", moved))
    with pytest.raises(SchemaError, match=r"those of a clock at UTC\+05:00: against ETH-USDT-SWAP.parquet"):
        import_data(lake, [wrong], Venue.BINANCE, "kline", M1, against=[known])
