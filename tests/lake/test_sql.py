from __future__ import annotations

import pytest
from pandas.testing import assert_frame_equal
from support_lake import BTC, ETH, H1, M1, PEPE, T0, bar, estimate, settlement, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.lake.sql import query
from qlib_crypto.symbols import Interval, Venue


def test_views_are_the_lake_sealed_and_hot(lake):
    lake.store([bar(k) for k in range(4)] + [bar(k, of=PEPE, source="rest") for k in range(3)])
    lake.store([settlement(T0 - 2), settlement(T0, of=PEPE)])
    lake.store([estimate()])
    lake.store_specs(BTC.venue, [spec(), spec(ETH)])
    for venue in Venue:
        lake.seal(venue)
    lake.store([bar(2, close=50.0), bar(9), bar(1, of=PEPE, close=7.0), bar(0, interval=H1)])
    lake.store([bar(0, of=ETH, interval=Interval.parse("2h"))])
    lake.store([settlement(T0 + 5, rate=0.5), settlement(T0 + HOUR_MS)])
    for _ in range(2):
        counted = query(lake, "select venue, symbol, count(*) n, sum(close) s from kline_1m group by all order by all")
        assert counted.to_numpy().tolist() == [["binance", "1000PEPE_USDT", 3, 300.0], ["okx", "BTC_USDT", 5, 450.0]]
        for of in (BTC, PEPE):
            answer = query(lake, "select * exclude venue from kline_1m order by timestamp")
            answer = answer[answer.symbol == of.symbol].reset_index(drop=True)
            assert_frame_equal(answer, lake.bars(of, M1).to_pandas(), check_dtype=False)
        assert query(lake, "select funding_rate from funding order by venue, timestamp").funding_rate.tolist() == [
            1e-4, 0.5, 1e-4,
        ]  # fmt: skip
        assert len(query(lake, "from funding_estimate")) == 1
        assert len(query(lake, "select * from kline_1h")) == len(query(lake, "select * from kline_2h")) == 1
        assert len(query(lake, "from instruments")) == 2
        assert len(query(lake, "from membership")) == 0
        lake.seal(BTC.venue)


def test_times_are_utc(lake):
    lake.store([bar(0)])
    row = query(lake, "select timestamp, hour(timestamp) h, timestamp::varchar t from kline_1m").iloc[0]
    assert (str(row.timestamp), row.h, row.t) == ("2025-04-01 00:00:00+00:00", 0, "2025-04-01 00:00:00+00")


def test_an_empty_lake_has_every_view_empty(lake):
    tables = query(lake, "show tables").name.tolist()
    assert {"kline_1m", "kline_1h", "kline_1d", "funding", "funding_estimate", "instruments", "membership"} <= set(
        tables
    )
    assert len(query(lake, "select * from kline_1m")) == 0
    assert not lake.folder(BTC.venue).exists()


@pytest.mark.parametrize(
    "sql",
    [
        "copy (select 1) to 'x.csv'", "create table t as select 1", "drop view funding", "select 1; select 2", "",
        "set threads = 1", "attach 'x.db'", "selec 1", "select nothing from kline_1m", "from nowhere",
        "select * from read_csv('/etc/hostname')", "pragma enable_profiling",
    ],
)  # fmt: skip
def test_what_is_wrong_or_would_write_is_refused_in_one_line(lake, sql):
    lake.store([bar(0)])
    with pytest.raises(ConfigError, match=r"^sql: ") as refused:
        query(lake, sql)
    assert "\n" not in str(refused.value)


def test_a_torn_file_is_a_data_error(lake):
    lake.store([bar(0), bar(1440)])
    paths = lake.seal(BTC.venue)
    for path in paths:
        path.write_bytes(b"torn")
        with pytest.raises(DataError, match=path.name) as error:
            query(lake, "select count(*), sum(close) from kline_1m")
        assert "\n" not in str(error.value)
        path.unlink()


def test_many_days_are_one_view(lake):
    lake.store([bar(k * 1440) for k in range(40)])
    lake.seal(BTC.venue)
    answer = query(lake, "select count(*) n, epoch_ms(max(timestamp)) last from kline_1m").iloc[0]
    assert (answer.n, answer["last"]) == (40, T0 + 39 * DAY_MS)
