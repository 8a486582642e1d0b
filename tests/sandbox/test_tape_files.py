"""File tapes: what is read, what is derived, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_support import MINUTES, START, candles, write

from qlib_crypto.clock import DAY_MS, HOUR_MS, parse_utc
from qlib_crypto.errors import ConfigError, SchemaError
from qlib_crypto.sandbox.clock import MarketClock
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.tape_files import FileTape
from qlib_crypto.sandbox.tape_specs import contract_size
from qlib_crypto.symbols import Instrument, Interval, Venue

M1, H1 = Interval.parse("1m"), Interval.parse("1h")
BTC = Instrument.parse("BTC_USDT.OKX")
COLUMNS = {"open": "open", "high": "high", "low": "low", "close": "close", "volume_base": "volume"}


def as_frame(bars):
    return pd.DataFrame(
        {"timestamp": pd.to_datetime(bars.open_ms, unit="ms", utc=True)}
        | {column: getattr(bars, field) for field, column in COLUMNS.items()}
    )


def read(path):
    table = pq.read_table(path).to_pandas()
    table["timestamp"] = table["timestamp"].astype("datetime64[ns, UTC]")
    return table


def test_bars_are_the_rows_of_the_file(folder, okx_tape):
    written = read(folder / "candles/okx_swap_1h/BTC-USDT-SWAP.parquet")
    pd.testing.assert_frame_equal(as_frame(okx_tape.bars(BTC, H1)), written, check_dtype=False)
    assert okx_tape.intervals(BTC) == (M1, H1)
    unknown = okx_tape.bars(BTC, Interval.parse("5m"))
    assert len(unknown.open_ms) == 0
    assert np.isnan(okx_tape.bars(BTC, H1).volume_quote).all()
    assert (okx_tape.bars(BTC, H1).trades == -1).all()


def test_the_last_row_of_a_raw_download_was_still_open_and_is_dropped(folder, binance_tape):
    written = read(folder / "candles/binance_um_1m/BTCUSDT.parquet")
    bars = binance_tape.bars(Instrument.parse("BTC_USDT.BINANCE"), M1)
    assert len(bars.open_ms) == len(written) - 1 == MINUTES
    np.testing.assert_array_equal(bars.volume_quote, written["quote_volume"].to_numpy()[:-1])
    np.testing.assert_array_equal(bars.trades, written["trades"].to_numpy()[:-1])
    assert len(binance_tape.bars(Instrument.parse("SOL_USDT.BINANCE"), M1).open_ms) == MINUTES


def test_span_and_funding_of_several_files(folder, okx_tape, binance_tape):
    assert okx_tape.span_ms == (START, START + 40 * DAY_MS)
    files = [read_funding(folder / f"funding/binance_um_funding_{part}.parquet") for part in "ab"]
    merged = pd.concat(files).query("symbol == 'BTCUSDT'")
    settled = binance_tape.settlements(Instrument.parse("BTC_USDT.BINANCE"))
    assert settled.time_ms.tolist() == merged.time_ms.tolist()
    assert settled.rate.tolist() == merged.funding_rate.tolist()
    assert np.isnan(settled.mark_price).all()
    assert len(okx_tape.settlements(Instrument.parse("PEPE_USDT.OKX")).rate) == 0


def read_funding(path):
    table = pq.read_table(path).to_pandas()
    return table.assign(time_ms=table.funding_time.astype("datetime64[ms, UTC]").astype("int64"))


@settings(max_examples=200, deadline=None)
@given(at_ms=st.integers(START - DAY_MS, START + 38 * DAY_MS), jitter=st.booleans())
def test_the_estimate_is_the_last_settled_rate_for_the_next_settlement(folder, okx_tape, binance_tape, at_ms, jitter):
    tape, name = (binance_tape, "BTC_USDT.BINANCE") if jitter else (okx_tape, "ETH_USDT.OKX")
    instrument, hours = Instrument.parse(name), 8 if jitter else 4
    settled = tape.settlements(instrument)
    known = settled.rate[settled.time_ms <= at_ms]
    now = tape.funding_now(instrument, at_ms)
    if not len(known):
        assert now is None
        return
    # the first settlement has no interval before it, so 8 h is assumed
    interval = hours * HOUR_MS if len(known) > 1 else 8 * HOUR_MS
    assert (now.rate, now.interval_ms) == (known[-1], interval)
    assert at_ms < now.settles_ms <= at_ms + interval
    assert (now.settles_ms - START) % (hours * HOUR_MS) == 0


def test_a_hole_is_no_interval_and_a_stale_rate_is_not_served(tmp_path):
    hour = 3_600_000
    write(candles(START, 24, hour, 10.0, 2, 1), tmp_path / "candles/okx_swap_1h/BTC-USDT-SWAP.parquet")
    times = [START, START + 4 * hour, START + 8 * hour, START + 8 * hour + 9 * DAY_MS]
    rows = {"symbol": "BTC-USDT-SWAP", "funding_time": pd.to_datetime(times, unit="ms", utc=True)}
    write(pd.DataFrame(rows | {"funding_rate": [1e-4, 2e-4, 3e-4, 4e-4]}), tmp_path / "funding/okx_swap_x.parquet")
    tape = FileTape(tmp_path, Venue.OKX)
    at_next = times[2] + 4 * hour
    assert tape.funding_now(BTC, times[2]) == (3e-4, at_next, 4 * hour)
    assert tape.funding_now(BTC, at_next) == (3e-4, at_next + 4 * hour, 4 * hour)
    assert tape.funding_now(BTC, at_next + DAY_MS).rate == 3e-4
    assert tape.funding_now(BTC, at_next + DAY_MS + 1) is None
    assert tape.funding_now(BTC, times[3]) == (4e-4, times[3] + 4 * hour, 4 * hour)


def test_specs_are_derived_by_the_stated_rule(okx_tape, binance_tape):
    btc, pepe = okx_tape.specs[BTC], okx_tape.specs[Instrument.parse("PEPE_USDT.OKX")]
    assert (btc.tick_size, btc.contract_value_base, btc.lot_contracts, btc.min_contracts) == (0.1, 1e-4, 1.0, 1.0)
    assert (pepe.tick_size, pepe.contract_value_base) == (1e-9, 1e6)
    assert {btc.spec_source, btc.state, btc.category, btc.rule_type} == {"derived", "live", "crypto", "normal"}
    assert btc.listed_ms == START
    assert (btc.delisted_ms, btc.min_notional_quote, btc.max_leverage) == (None, None, None)
    binance = binance_tape.specs[Instrument.parse("BTC_USDT.BINANCE")]
    assert (binance.contract_value_base, binance.lot_base, binance.min_base) == (1.0, 1e-4, 1e-4)


@settings(deadline=None)
@given(st.floats(1e-10, 1e7))
def test_a_contract_is_the_power_of_ten_worth_nearest_to_ten(price):
    worth = {float(f"1e{power}"): float(f"1e{power}") * price for power in range(-12, 16)}
    assert abs(worth[contract_size(price)] - 10) == min(abs(value - 10) for value in worth.values())


def test_written_specs_win(folder, tmp_path):
    mine = tmp_path / "tape"
    shutil.copytree(folder, mine)
    entry = {"tick_size": 0.5, "contract_value_base": 0.01, "lot_contracts": 0.01, "min_contracts": 0.02}
    more = {"max_leverage": 100, "delisted": "2025-04-01", "rule_type": "pre_market"}
    (mine / "instruments.json").write_text(json.dumps({"BTC_USDT.OKX": entry | more, "BTC_USDT.BINANCE": entry}))
    spec = FileTape(mine, Venue.OKX).specs[BTC]
    assert (spec.tick_size, spec.contract_value_base, spec.lot_contracts, spec.min_contracts) == (0.5, 0.01, 0.01, 0.02)
    assert (spec.max_leverage, spec.delisted_ms, spec.rule_type) == (100.0, parse_utc("2025-04-01"), "pre_market")
    assert (spec.spec_source, spec.listed_ms, spec.state) == ("file", None, "live")
    assert FileTape(mine, Venue.OKX).specs[Instrument.parse("ETH_USDT.OKX")].spec_source == "derived"


@pytest.mark.parametrize(
    "text",
    ["[1]", "{", '{"BTC_USDT.OKX": {}}', '{"BTC_USDT.OKX": 3}', '{"BTCUSDT": {}}',
     '{"BTC_USDT.OKX": {"tick_size": 0, "contract_value_base": 1, "lot_contracts": 1, "min_contracts": 1}}',
     '{"BTC_USDT.OKX": {"tick_size": 1, "contract_value_base": 1, "lot_contracts": 1, "min_contracts": 1, "x": 1}}'],
)  # fmt: skip
def test_wrong_written_specs_are_named(folder, tmp_path, text):
    mine = tmp_path / "tape"
    shutil.copytree(folder, mine)
    (mine / "instruments.json").write_text(text)
    with pytest.raises(SchemaError, match=r"instruments\.json"):
        _ = FileTape(mine, Venue.OKX).specs


def test_a_folder_without_candles_of_the_venue_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no binance candles"):
        FileTape(tmp_path, Venue.BINANCE)


def bad_tape(tmp_path, frame, name="BTC-USDT-SWAP"):
    path = write(frame, tmp_path / f"candles/okx_swap_1m/{name}.parquet")
    return FileTape(tmp_path, Venue.OKX), path


def test_dirty_files_are_named(tmp_path):
    clean = candles(START, 10, 60_000, 10.0, 2, 1)
    cases = {
        "ascending": clean.iloc[[0, 2, 1]],
        "grid": clean.assign(timestamp=clean.timestamp + pd.Timedelta("7s")),
        "not a number": clean.assign(close=np.nan),
        "lacks the column 'volume'": clean.drop(columns="volume"),
    }
    for number, (message, frame) in enumerate(cases.items()):
        tape, path = bad_tape(tmp_path / str(number), frame)
        with pytest.raises(SchemaError, match=message) as refused:
            tape.bars(BTC, M1)
        assert str(path) in str(refused.value)
    with pytest.raises(SchemaError, match="no linear perpetual"):
        bad_tape(tmp_path / "id", clean, "BTC-USD-SWAP")


def test_a_torn_file_is_named(tmp_path):
    tape, path = bad_tape(tmp_path, candles(START, 10, 60_000, 10.0, 2, 1))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SchemaError, match="cannot be read as Parquet") as refused:
        tape.bars(BTC, M1)
    assert "\n" not in str(refused.value)


def test_other_folders_are_not_read(folder, tmp_path):
    mine = tmp_path / "tape"
    shutil.copytree(folder / "candles/okx_swap_1m", mine / "candles/okx_swap_1m")
    shutil.copytree(folder / "candles/okx_swap_1h", mine / "candles/okx_swap_1h_gappy_utc8")
    assert FileTape(mine, Venue.OKX).intervals(BTC) == (M1,)


def test_a_tape_travels_to_another_process(okx_tape):
    again = pickle.loads(pickle.dumps(okx_tape))  # noqa: S301 - our own bytes
    assert (again.directory, again.venue, again.span_ms) == (okx_tape.directory, okx_tape.venue, okx_tape.span_ms)


def test_open_interest_is_as_last_published(folder, tmp_path):
    mine = tmp_path / "tape"
    shutil.copytree(folder, mine)
    times = pd.to_datetime([START + 8 * HOUR_MS, START, START + 4 * HOUR_MS], unit="ms", utc=True)
    rows = pd.DataFrame({"symbol": "BTCUSDT", "timestamp": times, "sum_open_interest": [3.0, 1.0, 2.0]})
    write(rows, mine / "open_interest/binance_um_oi_4h_all.parquet")
    tape, btc = FileTape(mine, Venue.BINANCE), Instrument.parse("BTC_USDT.BINANCE")
    market = Market(tape, MarketClock(START, START))
    seen = [market.open_interest(btc, START + hours * HOUR_MS - 1) for hours in (0, 4, 8, 99)]
    assert seen == [None, 1.0, 2.0, 3.0]
    assert market.open_interest(Instrument.parse("SOL_USDT.BINANCE"), START) is None
    assert np.isnan(tape.open_interest_series(btc).quote).all()


def test_the_real_okx_folder(real_data):
    tape = FileTape(real_data, Venue.OKX)
    rows = {interval: sum(len(tape.bars(i, interval).open_ms) for i in tape.specs) for interval in (M1, H1)}
    assert rows == {M1: 388_795, H1: 545_636}
    assert len(tape.specs) == 30
    assert tape.specs[BTC].tick_size == 0.1
    assert tape.specs[Instrument.parse("PEPE_USDT.OKX")].tick_size == 1e-10
    settled = read_funding(real_data / "funding/okx_swap_funding.parquet").groupby("symbol").size()
    mine = {i.venue_id: len(tape.settlements(i).rate) for i in tape.specs}
    assert {name: n for name, n in mine.items() if n} == settled.to_dict()


def test_the_real_binance_folder(real_data):
    tape = FileTape(real_data, Venue.BINANCE)
    assert len(tape.specs) == 54
    assert sum(len(tape.bars(i, M1).open_ms) for i in tape.specs) == 708_180
    hourly = list((real_data / "candles/binance_um_1h").glob("*.parquet"))
    stored = sum(pq.read_metadata(path).num_rows for path in hourly)
    assert sum(len(tape.bars(i, H1).open_ms) for i in tape.specs) == stored - len(hourly)
    layer = tape.settlements(Instrument.parse("LAYER_USDT.BINANCE"))
    assert np.any(layer.time_ms % 1000)
