"""The content check: bad files and rows leave for the quarantine, nothing else moves, doubtful bars are flagged."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_lake import BTC, ETH, H1, M1, PEPE, RECEIVED, T0, bar, settlement, spec
from typer.testing import CliRunner

from qlib_crypto import schemas
from qlib_crypto.cli.app import app
from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.lake import Lake, inspect
from qlib_crypto.lake.doubts import flag_bars
from qlib_crypto.lake.files import read_table, write_table
from qlib_crypto.lake.inspect import check
from qlib_crypto.lake.quality import Flag
from qlib_crypto.lake.sql import query
from qlib_crypto.lake.tables import BARS
from qlib_crypto.schemas import Bar, Trade
from qlib_crypto.symbols import Instrument, Venue

DOGE, DOGE_THERE = Instrument("DOGE", "USDT", Venue.OKX), Instrument("DOGE", "USDT", Venue.BINANCE)
PEPE_HERE = Instrument("PEPE", "USDT", Venue.OKX)


def damage(path, schema=schemas.KLINE, **columns):
    """Write the file as something else than the lake would: columns replaced by position."""
    table = read_table(path, schema).to_pydict()
    for name, values in columns.items():
        for at, value in values.items():
            table[name][at] = value
    write_table(path, pa.table(table, schema=schema))


@pytest.fixture
def sealed(lake):
    """Two symbols, two days, ten bars each; settlements."""
    lake.store([bar(k + d * 1440, of=of) for of in (BTC, ETH) for d in (0, 1) for k in range(10)])
    lake.store([settlement(T0), settlement(T0, of=ETH)])
    lake.seal(BTC.venue)
    return lake


def file_of(lake, name):
    return lake.folder(BTC.venue) / name


def test_a_good_lake_is_left_alone(sealed):
    sealed.store_specs(BTC.venue, [spec()])
    sealed.store([bar(10)])
    before = sealed.content_hash()
    report = check(sealed, BTC.venue)
    assert report.good
    assert (report.files, report.rows, report.quarantined, report.rewritten) == (6, 44, 0, [])
    assert sealed.content_hash() == before
    assert not file_of(sealed, "quarantine").exists()
    assert check(sealed, Venue.BINANCE).files == 0


def test_torn_foreign_and_empty_files_are_moved_and_the_rest_can_be_read(sealed):
    folder = file_of(sealed, "kline_1m")
    torn, empty = folder / "BTC_USDT_20250401.parquet", folder / "ETH_USDT_20250401.parquet"
    torn.write_bytes(torn.read_bytes()[:-7])
    write_table(empty, schemas.KLINE.empty_table())
    foreign = file_of(sealed, "funding") / "funding_rates_20250401.parquet"
    pa.parquet.write_table(read_table(foreign, schemas.FUNDING).drop_columns(["mark_price"]), foreign)
    (folder / "notes.parquet").write_bytes(b"x")
    report = check(sealed, BTC.venue)
    assert not report.good
    assert len(report.bad_files) == 4
    for words in ("is torn or no Parquet", "has no row", "has columns", "is not named as a lake file"):
        assert sum(words in reason for reason in report.bad_files) == 1
    moved = {
        str(p.relative_to(file_of(sealed, "quarantine"))) for p in file_of(sealed, "quarantine").rglob("*.parquet")
    }
    assert moved == {
        "kline_1m/BTC_USDT_20250401.parquet", "kline_1m/ETH_USDT_20250401.parquet", "kline_1m/notes.parquet",
        "funding/funding_rates_20250401.parquet",
    }  # fmt: skip
    assert len(sealed.bars(BTC, M1)) == len(sealed.bars(ETH, M1)) == 10
    told = sealed.quarantined(BTC.venue)
    assert {json.loads(line.row)["file"] for line in told} == moved
    assert check(sealed, BTC.venue).good
    sealed.store([bar(0)])
    assert sealed.seal(BTC.venue) == [torn]
    torn.write_bytes(b"")
    check(sealed, BTC.venue)
    assert (file_of(sealed, "quarantine") / "kline_1m" / "BTC_USDT_20250401.parquet.1").exists()


def test_bad_rows_are_kept_with_their_reason_and_the_others_stay_where_they_are(sealed):
    path = file_of(sealed, "kline_1m/BTC_USDT_20250401.parquet")
    good = sealed.bars(BTC, M1).to_pylist()
    damage(path, close={0: float("nan")}, open={3: 0.0}, volume={4: -1.0}, source={5: "guess"}, symbol={6: "XRP_USDT"})
    damage(path, schemas.KLINE, timestamp={9: pl.Series([T0 + 3 * DAY_MS]).cast(pl.Datetime("ms", "UTC"))[0]})
    funding = file_of(sealed, "funding/funding_rates_20250401.parquet")
    damage(funding, schemas.FUNDING, funding_rate={1: float("inf")})
    report = check(sealed, BTC.venue)
    assert (report.quarantined, report.good, report.bad_files) == (7, False, [])
    assert sorted(report.rewritten) == ["funding/funding_rates_20250401.parquet", "kline_1m/BTC_USDT_20250401.parquet"]
    for words in ("close nan", "open 0.0", "volume -1.0", "source 'guess'", "does not belong", "funding rate inf"):
        assert any(words in reason for reason in report.bad_rows)
    assert sealed.bars(BTC, M1).to_pylist() == [row for at, row in enumerate(good) if at not in {0, 3, 4, 5, 6, 9}]
    assert sealed.settlements(BTC.venue).column("symbol").to_pylist() == ["BTC_USDT"]
    told = sealed.quarantined(BTC.venue)
    assert len(told) == 7
    assert next(json.loads(line.row)["close"] for line in told if "close nan" in line.reason) == "nan"
    assert sealed.ledger(BTC.venue)[-1].file in report.rewritten
    again = check(sealed, BTC.venue)
    assert (again.good, again.rewritten, len(sealed.quarantined(BTC.venue))) == (True, [], 7)


def test_a_file_without_any_good_row_is_moved_whole(sealed):
    path = file_of(sealed, "kline_1m/BTC_USDT_20250401.parquet")
    damage(path, close=dict.fromkeys(range(10), -1.0))
    report = check(sealed, BTC.venue)
    assert report.quarantined == 10
    assert "has no good row" in report.bad_files[0]
    assert not path.exists()


def test_rows_out_of_order_or_twice_are_put_right(sealed):
    path = file_of(sealed, "kline_1m/BTC_USDT_20250401.parquet")
    table = read_table(path, schemas.KLINE)
    write_table(path, pa.concat_tables([table.slice(5), table.slice(0, 5), table.slice(2, 3)]))
    report = check(sealed, BTC.venue)
    assert report.rewritten == ["kline_1m/BTC_USDT_20250401.parquet"]
    assert report.good
    assert read_table(path, schemas.KLINE).equals(table)


def test_every_row_that_leaves_a_file_is_in_the_quarantine_as_it_was(sealed):
    path = file_of(sealed, "kline_1m/BTC_USDT_20250401.parquet")
    table = read_table(path, schemas.KLINE)
    rows = table.to_pylist()
    foreign = [rows[1] | {"symbol": "ETH_USDT", "close": close} for close in (2000.0, 2001.0, 2001.0)]
    unreadable = [rows[2] | {"symbol": symbol} for symbol in ("???a", "???b")]
    twice = [rows[3] | {"close": 100.5, "source": "rest"}, rows[4] | {"close": 100.7}, rows[5]]
    write_table(path, pa.Table.from_pylist(rows + foreign + unreadable + twice, schema=table.schema))
    report = check(sealed, BTC.venue)
    told = [json.loads(line.row) | {"symbol": line.symbol} for line in sealed.quarantined(BTC.venue)]
    assert report.quarantined == len(report.bad_rows) == len(told) == 6
    assert [(row["symbol"], row["instrument"], row["close"]) for row in told] == [
        ("ETH_USDT", ETH.qlib, 2000.0), ("ETH_USDT", ETH.qlib, 2001.0),
        ("???a", "???a", 100.0), ("???b", "???b", 100.0),
        ("BTC_USDT", BTC.qlib, 100.0), ("BTC_USDT", BTC.qlib, 100.0),
    ]  # fmt: skip
    left = read_table(path, schemas.KLINE).to_pylist()
    assert left == [*rows[:3], twice[0], twice[1], *rows[5:]]
    assert check(sealed, BTC.venue).good


def test_a_crash_between_quarantine_and_file_is_repaired_by_the_next_check(sealed, monkeypatch):
    damage(file_of(sealed, "kline_1m/BTC_USDT_20250401.parquet"), close={2: -5.0})

    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(inspect, "write_table", crash)
        with pytest.raises(KeyboardInterrupt):
            check(sealed, BTC.venue)
    assert len(sealed.quarantined(BTC.venue)) == 1
    assert check(sealed, BTC.venue).quarantined == 1
    assert len(sealed.quarantined(BTC.venue)) == 1
    assert len(sealed.bars(BTC, M1)) == 19


def test_rows_that_an_earlier_version_let_into_the_hot_store_leave_it(sealed):
    sealed.store([bar(20), bar(21), settlement(T0 + HOUR_MS)])
    with sealed._hot[BTC.venue].transaction() as connection:
        connection.execute("UPDATE bars SET close = -1 WHERE slot_ms = ?", [T0 + 20 * MINUTE_MS])
    report = check(sealed, BTC.venue)
    assert (report.quarantined, report.bad_files) == (1, [])
    assert "close -1.0" in report.bad_rows[0]
    assert T0 + 20 * MINUTE_MS not in sealed.bar_times(BTC, M1)
    assert T0 + 21 * MINUTE_MS in sealed.bar_times(BTC, M1)
    assert check(sealed, BTC.venue).good


def test_doubtful_bars_are_flagged_and_stay(lake):
    bars = [bar(k) for k in (0, 1, 3, 1445)]
    bars += [bar(4, high=98.0), bar(5, volume_quote=1.0)]
    lake.store(bars)
    report = check(lake, BTC.venue)
    assert report.good
    assert report.flagged == {"high below low": 1, "gap before": 2, "unit mismatch": 1, "outlier": 0}
    opens, masks = lake.flags(BTC, M1)
    assert dict(zip(((opens - T0) // MINUTE_MS).tolist(), masks.tolist(), strict=True)) == {
        3: Flag.GAP_BEFORE, 4: Flag.HIGH_BELOW_LOW, 5: Flag.UNIT_MISMATCH, 1445: Flag.GAP_BEFORE,
    }  # fmt: skip
    assert len(lake.bars(BTC, M1)) == 6


def test_flags_are_those_of_what_is_stored_now(lake):
    """Repaired gaps and corrected bars are doubtful no more, once they are judged; what else was found stays."""
    lake.admit([bar(k) for k in range(10) if k not in {4, 5}])
    lake.admit([bar(8, high=50.0, low=200.0, received_ms=RECEIVED + 1), bar(20, high=50.0, low=200.0)])
    check(lake, BTC.venue)
    doubtful = {6: Flag.GAP_BEFORE, 8: Flag.HIGH_BELOW_LOW, 20: Flag.GAP_BEFORE | Flag.HIGH_BELOW_LOW}
    assert flags_of(lake) == doubtful
    lake.seal(BTC.venue)
    lake.admit([bar(k, source="rest") for k in (4, 5, 8)])
    check(lake, BTC.venue, T0 + 5 * MINUTE_MS, T0 + 8 * MINUTE_MS)
    assert flags_of(lake) == {k: mask for k, mask in doubtful.items() if k != 6}
    check(lake, BTC.venue)
    assert flags_of(lake) == {20: doubtful[20]}
    assert query(lake, "select mask from flags")["mask"].tolist() == [3]


def test_a_bar_that_is_replaced_takes_its_own_flags_with_it(lake):
    lake.admit([bar(0), bar(3, high=50.0, low=200.0), bar(4, high=50.0, low=200.0)])
    check(lake, BTC.venue)
    lake.admit([bar(3, source="rest"), bar(4, source="rest", volume_quote=1.0)])
    assert flags_of(lake) == {3: Flag.GAP_BEFORE, 4: Flag.UNIT_MISMATCH}


def test_flags_that_come_while_others_are_judged_stay(lake, monkeypatch):
    lake.admit([bar(0), bar(1, high=50.0, low=200.0)])
    real = Lake.bars

    def bars(self, *args):
        found = real(self, *args)
        self.admit([bar(2, high=50.0, low=200.0)])
        return found

    monkeypatch.setattr(Lake, "bars", bars)
    flag_bars(lake, BTC, M1)
    assert flags_of(lake) == {1: Flag.HIGH_BELOW_LOW, 2: Flag.HIGH_BELOW_LOW}


def test_a_gap_after_bars_that_wait_in_the_hot_store_stays_flagged(lake):
    lake.store([bar(0), bar(1440 * 3)])
    for days in (None, T0 + 3 * DAY_MS):
        check(lake, BTC.venue, days)
        assert flags_of(lake) == {1440 * 3: Flag.GAP_BEFORE}


def flags_of(lake):
    opens, masks = lake.flags(BTC, M1)
    return dict(zip(((opens - T0) // MINUTE_MS).tolist(), masks.tolist(), strict=True))


@pytest.mark.parametrize(("first", "gap"), [(0, False), (1440 * 2 - 1, False), (1440 * 2 - 2, True), (3, True)])
def test_a_span_knows_the_bar_before_it(lake, first, gap):
    lake.store([bar(first), bar(1440 * 2)])
    lake.seal(BTC.venue)
    start = T0 + 2 * DAY_MS if first else T0
    check(lake, BTC.venue, start, T0 + 3 * DAY_MS)
    flagged = lake.flags(BTC, M1)[0].tolist()
    assert flagged == ([T0 + 2 * DAY_MS] if gap or not first else [])


def test_an_outlier_is_found_against_the_same_coin_elsewhere_in_its_own_unit(lake):
    minutes = range(40)
    lake.store([bar(k, of=DOGE, close=2.0) for k in minutes] + [bar(k, of=DOGE_THERE, close=2.0) for k in minutes])
    lake.store([bar(k, of=PEPE_HERE)._replace(open=1.0, high=1.0, low=1.0, close=1.0) for k in minutes])
    lake.store([bar(k, of=PEPE)._replace(open=1e3, high=1e3, low=1e3, close=1e3) for k in minutes])
    lake.store([bar(7, of=DOGE, close=2.2, source="rest"), bar(8, of=DOGE, close=2.01, source="rest")])
    check(lake, Venue.OKX)
    assert lake.flags(DOGE, M1)[0].tolist() == [T0 + 7 * MINUTE_MS]
    assert lake.flags(DOGE, M1)[1].tolist() == [Flag.OUTLIER]
    assert len(lake.flags(PEPE_HERE, M1)[0]) == 0
    assert flag_bars(lake, PEPE, M1)[0]["outlier"] == 0


def test_two_coins_of_one_name_are_told_and_not_flagged(lake):
    lake.store([bar(k, of=DOGE) for k in range(40)] + [bar(k, of=DOGE_THERE, close=3.0) for k in range(40)])
    report = check(lake, Venue.OKX)
    assert report.flagged["outlier"] == 0
    (note,) = report.notes
    assert "DOGE_USDT.OKX and DOGE_USDT.BINANCE are apart in most of 40 1m bars" in note


BAD = st.dictionaries(st.integers(0, 19), st.sampled_from(["close", "open", "volume"]), max_size=12)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BAD, st.booleans())
def test_exactly_the_bad_rows_leave(tmp_path_factory, bad, months):
    lake = Lake(tmp_path_factory.mktemp("lake"))
    lake.store([bar(k) for k in range(20)])
    (path,) = lake.seal(BTC.venue)
    if months:  # as retention leaves it
        path = path.rename(path.with_name("BTC_USDT_202504.parquet"))
    for at, column in bad.items():
        damage(path, **{column: {at: -1.0}})
    report = check(lake, BTC.venue)
    assert report.quarantined == len(bad) == len(lake.quarantined(BTC.venue))
    assert ((lake.bar_times(BTC, M1) - T0) // MINUTE_MS).tolist() == [k for k in range(20) if k not in bad]
    assert {line.time_ms for line in lake.quarantined(BTC.venue)} == {T0 + at * MINUTE_MS for at in bad}
    lake.close()


def test_real_clean_candles_pass_unflagged(lake, real_data):
    frame = pl.read_parquet(real_data / "candles" / "binance_um_1h" / "BTCUSDT.parquet")
    of = Instrument("BTC", "USDT", Venue.BINANCE)
    at = frame["timestamp"].dt.epoch("ms").to_list()
    columns = [frame[name].to_list() for name in ("open", "high", "low", "close", "volume", "quote_volume", "trades")]
    lake.store([Bar(of, H1, *row, "import", RECEIVED) for row in zip(at, *columns, strict=True)])
    lake.seal(of.venue)
    report = check(lake, of.venue)
    assert report.good
    assert report.rows == len(frame) == len(lake.bars(of, H1))
    assert sum(report.flagged.values()) == 0
    assert np.array_equal(BARS.slots(lake.bars(of, H1)), at)


def run(*words):
    return CliRunner().invoke(app, [*words])


def test_the_commands_say_what_they_did(sealed, tmp_path):
    sealed.store([Trade(BTC, T0 + 5_000, 7, "buy", 100.0, 1.0, RECEIVED)])
    sealed.seal(BTC.venue)
    sealed.close()
    good = run("check", "--lake", str(tmp_path))
    assert good.exit_code == 0
    damage(file_of(sealed, "kline_1m/BTC_USDT_20250401.parquet"), close={2: -5.0})
    bad = run("check", "--venue", "okx", "--json", "--lake", str(tmp_path))
    assert bad.exit_code == 3
    report = json.loads(bad.stdout)["okx"]
    assert (report["good"], report["quarantined"]) == (False, 1)
    assert "close -5.0" in report["bad_rows"][0]
    kept = run("retain", "--lake", str(tmp_path), "--as-of", "2025-12-01")
    assert kept.exit_code == 0
    assert sorted(p.name for p in file_of(sealed, "kline_1m").iterdir()) == [
        "BTC_USDT_202504.parquet",
        "ETH_USDT_202504.parquet",
    ]
    assert not list(file_of(sealed, "trades").iterdir())
    assert "no lake" in str(run("check", "--lake", str(tmp_path / "none")).exception)
