from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.clock import DAY_MS, parse_utc
from qlib_crypto.errors import SchemaError
from qlib_crypto.lake import paths
from qlib_crypto.symbols import Instrument, Interval, Venue

NAMES = st.text("ABCXYZ0123456789币", min_size=1, max_size=9)
TIMES = st.integers(parse_utc("2019-01-01"), parse_utc("2040-01-01"))


@given(NAMES, st.integers(1, 12), st.sampled_from(["1m", "15m", "1h", "1d"]), TIMES)
def test_every_bar_file_name_is_parsed_back(base, listing, interval, ms):
    of, step = Instrument(base, "USDT", Venue.OKX, listing), Interval.parse(interval)
    start, end = paths.period(ms, by_month=step.by_month)
    assert start <= ms < end
    file = paths.parse_name(paths.kline_file(Path("okx_data"), of, step, start))
    assert (file.start_ms, file.end_ms) == (start, end)
    assert Instrument.parse(file.stem, Venue.OKX) == of


def test_the_names_of_the_architecture():
    folder, day = paths.venue_folder(Path("lake"), Venue.BINANCE), parse_utc("2025-04-17")
    luna = Instrument("LUNA", "USDT", Venue.BINANCE, 2)
    names = [
        paths.kline_file(folder, luna, Interval.parse("1m"), day),
        paths.kline_file(folder, luna, Interval.parse("4h"), parse_utc("2025-04-01")),
        paths.day_file(folder, paths.FUNDING, day),
        paths.day_file(folder, paths.ESTIMATE, day),
        paths.snapshot_file(folder, paths.UNIVERSE, parse_utc("2025-04-17T08:05")),
    ]
    assert [str(name.relative_to("lake/binance_data")) for name in names] == [
        "kline_1m/LUNA_USDT~2_20250417.parquet",
        "kline_4h/LUNA_USDT~2_202504.parquet",
        "funding/funding_rates_20250417.parquet",
        "funding_estimate/funding_estimate_20250417.parquet",
        "universe/membership_20250417T080500.parquet",
    ]


@pytest.mark.parametrize(
    "name", ["BTC_USDT.parquet", "BTC_USDT_20251301.parquet", "x_2025.parquet", "20250101.parquet"]
)
def test_a_name_without_a_date_is_refused_by_name(name):
    with pytest.raises(SchemaError, match=name):
        paths.parse_name(Path(name))


def test_listing_takes_the_symbol_exactly_and_the_range_by_its_edges(tmp_path):
    day = parse_utc("2025-04-17")
    minute = Interval.parse("1m")
    for symbol in ("BTC_USDT", "BTC_USDT~2", "BTC_USDC"):
        for k in range(3):
            path = paths.kline_file(tmp_path, Instrument.parse(symbol, Venue.OKX), minute, day + k * DAY_MS)
            path.parent.mkdir(exist_ok=True)
            path.touch()
    (tmp_path / "kline_1m" / ".BTC_USDT_20250417.parquet.1.tmp").touch()

    def starts(*bounds):
        return [(f.start_ms - day) // DAY_MS for f in paths.dated_files(tmp_path, "kline_1m", "BTC_USDT", *bounds)]

    assert starts() == [0, 1, 2]
    assert starts(day + DAY_MS, day + 2 * DAY_MS) == [1]
    assert starts(day + DAY_MS - 1, day + 2 * DAY_MS + 1) == [0, 1, 2]
    assert starts(None, day) == []
    assert paths.datasets(tmp_path) == ["kline_1m"]
    assert paths.dated_files(tmp_path, "nothing") == []
