"""Columns of many instruments at once are what the reader gives for each."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qlib_crypto.clock import DAY_MS, parse_utc
from qlib_crypto.errors import SchemaError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.columns import _scan
from qlib_crypto.lake.files import write_table
from qlib_crypto.lake.paths import Dated, kline_file
from qlib_crypto.lake.retention import retain
from qlib_crypto.lake.tables import BARS, INDEXES, MARKS
from qlib_crypto.provider import convert
from qlib_crypto.schemas import Bar
from qlib_crypto.settings import ProviderSettings, RetentionSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

T0 = parse_utc("2025-01-30")
FIVE = Interval.parse("5m")
NAMES = ("open", "close", "quote_volume")
INSTRUMENTS = [Instrument(base, "USDT", Venue.OKX) for base in ("AAA", "BTC", "ETH", "NONE", "ZZZ")]


def bars(rng, instrument, first, count):
    out = []
    for at in range(first, first + count):
        if rng.random() < 0.9:
            price = rng.uniform(90, 110)
            quote = None if rng.random() < 0.2 else price
            open_ms = T0 + at * FIVE.ms
            out.append(
                Bar(instrument, FIVE, open_ms, price, price, price, price, 1.0, quote, None, "rest", open_ms + FIVE.ms)
            )
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sealed days, one compacted month, hot rows, a restated bar that waits."""
    rng = np.random.default_rng(5)
    lake = Lake(tmp_path_factory.mktemp("lake"))
    for number, instrument in enumerate(INSTRUMENTS):
        if instrument.base != "NONE":
            lake.store(bars(rng, instrument, 100 * number, 1200))
    lake.seal(Venue.OKX, before_ms=T0 + 4 * DAY_MS)
    retain(lake, Venue.OKX, RetentionSettings(compact_after_days=1), T0 + 3 * DAY_MS)
    lake.store(bars(rng, INSTRUMENTS[1], 1300, 20))
    lake.store([bars(rng, INSTRUMENTS[2], 500, 9)[0]._replace(source="archive")])
    return lake


@pytest.fixture
def lake(made, tmp_path):
    """A lake of one's own."""
    made.close()
    return Lake(shutil.copytree(made.root, tmp_path / "lake"))


@pytest.mark.parametrize(
    "window",
    [(0, 6), (1, 2), (1.5, 3.25), (4, 5), (40, 50), (-400, 400)],
)
@pytest.mark.parametrize("chosen", [[0], [1], [3], [0, 1, 2, 3, 4], [4, 3, 2]])
def test_columns_are_what_is_read_of_each(made, window, chosen):
    lake = made
    start, end = (T0 + int(day * DAY_MS) for day in window)
    instruments = [INSTRUMENTS[at] for at in chosen]
    found = lake.columns(BARS, instruments, (start, end), NAMES, interval=FIVE)
    tables = [lake.bars(instrument, FIVE, start, end) for instrument in instruments]
    assert found.counts.tolist() == [len(table) for table in tables]
    assert found.time_ms.tolist() == [int(t.timestamp() * 1000) for of in tables for t in of["timestamp"].to_pylist()]
    for name in NAMES:
        right = [np.nan if value is None else value for table in tables for value in table[name].to_pylist()]
        np.testing.assert_array_equal(found.values[name], right)


@pytest.mark.parametrize("table", [BARS, MARKS, INDEXES], ids=lambda table: table.name)
def test_files_as_the_lake_writes_them_are_read_the_quick_way(table, tmp_path):
    path = tmp_path / "AAA_USDT_20250130.parquet"
    row = {
        "symbol": "AAA_USDT",
        "timestamp": T0,
        "open": 1.0,
        "high": 2.0,
        "low": 0.5,
        "close": 1.5,
        "volume": 1.0,
        "source": "ws",
        "received_at": T0,
    }
    write_table(path, pa.Table.from_pylist([row], schema=table.schema))
    asked = [(0, [Dated(path, "AAA_USDT", T0, T0 + DAY_MS)])]
    found = _scan(table, asked, INSTRUMENTS[:1], (T0, T0 + DAY_MS), ("open", "close"))
    assert found is not None
    assert (found.time_ms.tolist(), found.values["close"].tolist()) == ([T0], [1.5])
    right = pq.read_table(path)
    others = [
        right.drop_columns("close"),
        right.rename_columns([name.replace("close", "end") for name in table.schema.names]),
    ]
    for name, kind in (
        ("close", pa.float32()),
        ("close", pa.int64()),
        ("timestamp", pa.timestamp("us", "UTC")),
    ):
        others.append(right.set_column(table.schema.get_field_index(name), name, right[name].cast(kind, safe=False)))
    for other in others:
        pq.write_table(other, path)
        assert _scan(table, asked, INSTRUMENTS[:1], (T0, T0 + DAY_MS), ("open", "close")) is None


def test_a_torn_file_is_named(lake):
    path = kline_file(lake.folder(Venue.OKX), INSTRUMENTS[4], FIVE, T0 + 2 * DAY_MS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SchemaError, match=path.name):
        lake.columns(BARS, INSTRUMENTS, (T0, T0 + 4 * DAY_MS), NAMES, interval=FIVE)


def test_a_file_of_another_symbol_is_not_taken_for_this_one(lake):
    folder = lake.folder(Venue.OKX)
    other, path = (kline_file(folder, INSTRUMENTS[at], FIVE, T0 + 2 * DAY_MS) for at in (0, 4))
    path.write_bytes(other.read_bytes())
    window = T0 + 2 * DAY_MS, T0 + 3 * DAY_MS
    found = lake.columns(BARS, [INSTRUMENTS[3], INSTRUMENTS[0], INSTRUMENTS[4]], window, NAMES, interval=FIVE)
    tables = [lake.bars(INSTRUMENTS[at], FIVE, *window) for at in (3, 0, 4)]
    assert found.counts.tolist() == [len(table) for table in tables]


def test_only_named_files_are_looked_at(lake):
    before = lake.files()
    assert lake.files(before, []) == before
    lake.store(
        [Bar(INSTRUMENTS[0], FIVE, T0 + 9 * DAY_MS, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, None, "rest", T0 + 10 * DAY_MS)]
    )
    named = lake.seal(Venue.OKX)
    assert lake.files(before, named) == lake.files() != before
    within = {path.parent.name for path in named}
    assert within == {"kline_5m"}
    gone = named[0]
    gone.unlink()
    assert lake.files(lake.files(), [gone, gone.with_name("foreign.txt")]) == lake.files()


def test_a_month_takes_the_place_of_its_days_by_name(tmp_path):
    rng = np.random.default_rng(6)
    lake = Lake(tmp_path)
    lake.store(bars(rng, INSTRUMENTS[0], 0, 2000))
    lake.seal(Venue.OKX, before_ms=T0 + 5 * DAY_MS)
    before = lake.files()
    retain(lake, Venue.OKX, RetentionSettings(compact_after_days=1), T0 + 35 * DAY_MS)
    now = lake.files()
    months = [tmp_path / within / name for within, of in now.items() for name in of if name not in before[within]]
    assert months
    assert lake.files(before, months) == now
    folder, within = tmp_path / "okx_data" / "kline_5m", "okx_data/kline_5m"
    day = folder / next(name for name in before[within] if name not in now[within])
    shutil.copyfile(folder / f"{day.name[:-10]}.parquet", day)  # somebody put it back beside its month
    assert lake.files(now, [day]) == lake.files() == now
    for named in ([*months, day], [day, *months]):
        assert lake.files(before, named) == now


def test_a_file_with_a_short_name_costs_the_others_nothing(lake):
    (lake.root / "okx_data" / "kline_5m" / "a.parquet").write_bytes(
        kline_file(lake.folder(Venue.OKX), INSTRUMENTS[4], FIVE, T0 + 2 * DAY_MS).read_bytes()
    )
    assert "a.parquet" in lake.files()["okx_data/kline_5m"]
    with pytest.raises(SchemaError, match=r"a\.parquet is not named as a lake file"):
        convert(lake, lake.root / "qlib_data", ProviderSettings())


def test_a_file_that_changed_its_mind_is_found(lake):
    assert lake.damaged() == lake.damaged(3) == []
    path = kline_file(lake.folder(Venue.OKX), INSTRUMENTS[4], FIVE, T0 + 2 * DAY_MS)
    table = pq.read_table(path)
    close = table["close"].to_numpy().copy()
    close[3] += 1e-9
    changed = table.set_column(table.schema.get_field_index("close"), table.schema.field("close"), pa.array(close))
    pq.write_table(changed, path)  # with the hash of what it said before
    (line,) = lake.damaged()
    assert path.name in line
    assert "content hash differs" in line
    pq.write_table(table.replace_schema_metadata(None), path)  # somebody else's file
    assert lake.damaged() == []
    path.write_bytes(path.read_bytes()[:-9])
    assert path.name in lake.damaged()[0]
