"""Cases worked out by hand, through Qlib's own loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support_backtest import Market, Scripted, assert_replayed, run
from support_provider import write_provider

from qlib_crypto.backtest import notes as why
from qlib_crypto.backtest.load import load
from qlib_crypto.backtest.notes import COUNTED, WORDS
from qlib_crypto.errors import GapError
from qlib_crypto.symbols import Interval

BTC = "BTC_USDT.OKX"
ETH = "ETH_USDT.OKX"


def flat(prices=(50_000.0,), *, bars=24 * 8, freq="60min", settle="8h", rate=0.0001, start="2025-01-01") -> Market:
    step = "1D" if freq == "day" else freq
    times = pd.date_range(start, periods=bars, freq=step)
    market = Market(freq, {})
    for name, price in zip((BTC, ETH), prices, strict=False):
        market.bars[name] = pd.DataFrame({"open": price, "close": price}, times)
        settled = pd.date_range(start, times[-1] + pd.Timedelta(step), freq=settle, inclusive="left")
        market.settlements[name] = [(at, rate, price) for at in settled]
        market.specs[name] = {"tick_size": 0.1, "lot_base": 0.001, "spec_source": "venue"}
    return market


def at(hour: str) -> pd.Timestamp:
    return pd.Timestamp(f"2025-01-{hour}")


def test_one_btc_short_for_a_week_earns_21_settlements_of_5_usdt(tmp_path):
    market = flat()
    market.open(tmp_path)
    result = run(market, Scripted({"2025-01-01 01:00": {BTC: -1.0}, "2025-01-08 01:00": {BTC: 1.0}}))
    assert len(result.funding) == 21
    assert result.funding["amount"].to_numpy() == pytest.approx(5.0, rel=1e-7)
    assert result.funding["mark"].to_numpy() == pytest.approx(50_000.0, rel=1e-7)
    assert result.steps["equity"].iloc[-1] == pytest.approx(100_000 + 21 * 5 - 2 * 25, abs=1e-5)
    assert result.fills["fee"].tolist() == [25.0, 25.0]
    assert_replayed(market, result)


def test_a_settlement_at_the_open_acts_before_the_orders_of_that_bar(tmp_path):
    market = flat()
    market.open(tmp_path)
    result = run(market, Scripted({"2025-01-01 08:00": {BTC: 1.0}, "2025-01-02 00:00": {BTC: -1.0}}))
    assert result.funding["time"].tolist() == [at("01 16:00"), at("02 00:00")]
    assert result.funding["amount"].sum() == pytest.approx(-10.0, rel=1e-7)
    assert set(result.funding["mark_source"]) == {"venue's mark"}
    assert result.steps["funding"].loc[at("02 00:00")] == pytest.approx(-5.0, rel=1e-7)


def test_settlements_inside_a_bar_act_after_its_orders(tmp_path):
    market = flat(freq="day", bars=6)
    market.open(tmp_path)
    result = run(market, Scripted({"2025-01-02": {BTC: 1.0}, "2025-01-04": {BTC: -1.0}}))
    by_day = result.steps["funding"]
    assert by_day.to_numpy() == pytest.approx([0.0, -10.0, -15.0, -5.0, 0.0, 0.0], rel=1e-6)
    hours = ["02 08:00", "02 16:00", "03 00:00", "03 08:00", "03 16:00", "04 00:00"]
    assert result.funding["time"].tolist() == [at(hour) for hour in hours]
    assert result.funding["amount"].tolist() == [-5.0] * 6
    assert_replayed(market, result)


def test_an_interval_that_shortens_while_held_pays_at_its_own_times(tmp_path):
    market = flat(bars=72)
    times = [
        *pd.date_range("2025-01-01", "2025-01-02", freq="8h"), *pd.date_range("2025-01-02 04:00", periods=3, freq="4h"),
        *pd.date_range("2025-01-02 13:00", periods=4, freq="1h"),
    ]  # fmt: skip
    market.settlements[BTC] = [(time, 0.0001 * (1 + i), 50_000.0) for i, time in enumerate(times)]
    market.open(tmp_path)
    result = run(market, Scripted({"2025-01-01 00:00": {BTC: -1.0}}), end=times[-1])
    assert result.funding["time"].tolist() == times[1:]
    assert result.steps["funding"].sum() == pytest.approx(5.0 * sum(range(2, 12)), rel=1e-6)
    assert_replayed(market, result)


def test_crossing_zero_pays_the_fee_on_both_legs(tmp_path):
    market = flat()
    market.open(tmp_path)
    result = run(
        market, Scripted({"2025-01-01 01:00": {BTC: 1.0}, "2025-01-01 02:00": {BTC: -3.0}}), end=at("01 07:00")
    )
    assert result.fills["fee"].tolist() == [25.0, 75.0]
    assert result.positions["quantity"].iloc[-1] == -2.0
    assert result.steps["equity"].iloc[-1] == pytest.approx(100_000 - 100)
    assert result.steps["net"].iloc[-1] == pytest.approx(-100_000)
    assert result.steps["gross"].iloc[-1] == pytest.approx(100_000)
    assert result.steps["turnover"].iloc[2] == pytest.approx(150_000)


def test_maker_pays_the_maker_fee_and_a_rebate_is_not_clipped(tmp_path):
    market = flat()
    market.open(tmp_path)
    script = {"2025-01-01 01:00": {BTC: 1.0}}
    result = run(market, Scripted(script), end=at("01 07:00"), liquidity="maker", maker_fee=-0.0001)
    assert result.fills["fee"].tolist() == [-5.0]
    assert result.steps["equity"].iloc[-1] == pytest.approx(100_005)
    assert result.metrics()["fees"] == pytest.approx(-5.0)


def test_fees_are_those_of_the_time_of_the_trade(tmp_path):
    market = flat()
    market.open(tmp_path)
    script = {f"2025-01-01 0{hour}:00": {BTC: 1.0} for hour in range(1, 5)}
    fees = [
        {"since": "2025-01-01 02:00", "maker": 0.0, "taker": 0.0005},
        {"since": "2025-01-01 03:00", "maker": 0.0, "taker": 0.0002},
        {"since": "2025-01-01 04:00:01", "maker": 0.0, "taker": 0.001},
    ]
    result = run(market, Scripted(script), end=at("01 07:00"), fees=fees)
    assert result.fills["fee"].tolist() == [25.0, 25.0, 10.0, 10.0], "the first rates hold before their time, too"
    assert result.assumptions["taker_fee"] == (
        "0.0005 since 2025-01-01 02:00:00, 0.0002 since 2025-01-01 03:00:00, 0.001 since 2025-01-01 04:00:01"
    )


def test_the_simple_preset_costs_a_thousandth_and_half_of_that_to_the_market(tmp_path):
    market = flat()
    market.open(tmp_path)
    script = {"2025-01-01 01:00": {BTC: 0.1}, "2025-01-01 02:00": {BTC: -0.1}}
    result = run(market, Scripted(script), end=at("01 07:00"), account=10_000, fees="simple")
    assert result.fills["price"].tolist() == pytest.approx([50_025.0, 49_975.0])
    assert result.fills["reference"].tolist() == [50_000.0, 50_000.0]
    assert result.fills["fee"].tolist() == pytest.approx([5.0025, 4.9975])
    assert result.steps["equity"].iloc[-1] == pytest.approx(10_000 - 5.0 - 10.0)
    assert result.steps["slippage"].sum() == pytest.approx(-5.0)
    assert result.steps["price"].sum() == pytest.approx(0.0, abs=1e-9)
    assert result.metrics()["slippage"] == pytest.approx(5.0)
    assert result.metrics()["gross_return"] == pytest.approx(0.0, abs=1e-12)
    assert (result.assumptions["slippage"], result.assumptions["taker_fee"]) == (0.0005, 0.001)


def test_slippage_lands_on_the_next_worse_tick_and_a_delisting_has_none(tmp_path):
    market = flat((50_000.3, 2_000.0), bars=48)
    market.bars[BTC] = market.bars[BTC].iloc[:21]
    market.settlements[BTC] = market.settlements[BTC][:3]
    market.open(tmp_path)
    script = {"2025-01-01 01:00": {BTC: 0.1}, "2025-01-01 02:00": {BTC: 0.1}, "2025-01-01 03:00": {BTC: -0.05}}
    result = run(market, Scripted(script), slippage=0.000125, missing_funding="zero")
    # 50,000.3 x 1.000125 = 50,006.5500375, up to 50,006.6; x 0.999875 = 49,994.0499625, down to 49,994.0
    assert result.fills["price"].tolist() == pytest.approx([50_006.6, 50_006.6, 49_994.0, 50_000.3], rel=1e-12)
    assert result.fills["note"].iloc[-1] == WORDS[why.CLOSED_DELISTED]
    assert result.steps["slippage"].sum() == pytest.approx(-0.25 * 6.3)


def test_lots_minimum_sizes_and_leverage_shape_the_orders(tmp_path):
    market = flat((50_000.0, 2_000.0))
    market.specs[BTC] |= {"min_notional_quote": 100.0}
    market.specs[ETH] |= {"min_base": 0.01}
    market.open(tmp_path)
    script = {
        "2025-01-01 01:00": {BTC: 0.0004, ETH: 0.0099},
        "2025-01-01 02:00": {BTC: 0.0019, ETH: 1.23456},
        "2025-01-01 03:00": {BTC: 9.0},
        "2025-01-01 04:00": {BTC: 1.0},
        "2025-01-01 05:00": {BTC: -5.0},
    }
    result = run(market, Scripted(script), end=at("01 07:00"), max_gross_leverage=2.0)
    got = list(result.fills[["instrument", "quantity", "note"]].itertuples(index=False, name=None))
    # 200,000 of gross less ETH (2,468) and the fee already paid (1.234 x 2) over 50,000, in lots of 0.001
    assert got == [
        (ETH, pytest.approx(1.234), ""),
        (BTC, pytest.approx(3.950), WORDS[why.CLIPPED_LEVERAGE]),
        (BTC, -5.0, ""),
    ]
    notes = result.assumptions["notes"]
    assert notes == {
        WORDS[note]: 1
        for note in (why.BELOW_LOT, why.BELOW_MINIMUM, why.BELOW_NOTIONAL, why.CLIPPED_LEVERAGE, why.LEVERAGE)
    }  # fmt: skip
    assert result.assumptions["order_rules"] == {"venue": 2}


def test_a_bar_without_a_price_is_neither_traded_nor_marked(tmp_path):
    market = flat(bars=24)
    bars = market.bars[BTC]
    bars["close"] = bars["open"] = np.arange(24) * 100.0 + 50_000
    market.bars[BTC] = bars.drop([at("01 03:00"), at("01 04:00")])
    market.open(tmp_path)
    script = {"2025-01-01 01:00": {BTC: 1.0}, "2025-01-01 03:00": {BTC: -1.0}, "2025-01-01 06:00": {BTC: -1.0}}
    result = run(market, Scripted(script))
    assert result.fills["datetime"].tolist() == [at("01 01:00"), at("01 06:00")]
    assert result.positions["mark"].tolist() == [50_100.0, 50_200.0, 50_200.0, 50_200.0, 50_500.0]
    assert result.assumptions["notes"] == {"bars held without a price": 2, WORDS[why.NO_PRICE]: 1}
    assert_replayed(market, result)


class TestMissingFunding:
    @pytest.fixture
    def market(self, tmp_path) -> Market:
        market = flat((50_000.0, 2_000.0), bars=48)
        del market.settlements[BTC][2]  # of 16:00, where the one of 08:00 makes it due: unknown until that of 00:00
        market.open(tmp_path)
        return market

    def test_is_an_error_that_says_where_and_what_to_do(self, market):
        held = Scripted({"2025-01-01 01:00": {BTC: 1.0, ETH: 1.0}})
        message = r"funding of BTC_USDT\.OKX is unknown in the 60min bar of 2025-01-01 16:00:00 .*import.*untradable"
        with pytest.raises(GapError, match=message):
            run(market, held)

    def test_is_no_error_while_nothing_is_held_over_it(self, market):
        outside = {"2025-01-01 01:00": {BTC: 1.0, ETH: 1.0}, "2025-01-01 15:00": {BTC: -1.0}}
        result = run(market, Scripted({**outside, "2025-01-02 00:00": {BTC: 1.0}}))
        assert_replayed(market, result)

    def test_opening_over_it_is_the_same_error(self, market):
        with pytest.raises(GapError, match="2025-01-01 18:00:00"):
            run(market, Scripted({"2025-01-01 18:00": {BTC: 1.0}}))

    def test_untradable_closes_at_the_open_and_opens_nothing_there(self, market):
        script = {
            "2025-01-01 01:00": {BTC: 1.0, ETH: 1.0},
            "2025-01-01 16:00": {BTC: -0.5},  # void: the position is closed in this bar anyway
            "2025-01-01 18:00": {BTC: 1.0},
            "2025-01-02 00:00": {BTC: 2.0},
        }
        result = run(market, Scripted(script), missing_funding="untradable")
        btc = result.fills.loc[result.fills["instrument"] == BTC]
        got = list(btc[["datetime", "quantity", "note"]].itertuples(index=False, name=None))
        assert got == [
            (at("01 01:00"), 1.0, ""), (at("01 16:00"), -1.0, WORDS[why.CLOSED_UNKNOWN]), (at("02 00:00"), 2.0, ""),
        ]  # fmt: skip
        assert result.assumptions["notes"][WORDS[why.FUNDING_UNKNOWN]] == 1
        assert_replayed(market, result)

    def test_zero_pays_nothing_there_and_says_how_often(self, market):
        result = run(market, Scripted({"2025-01-01 01:00": {BTC: 1.0}}), missing_funding="zero")
        assert result.funding["time"].tolist() == [at("01 08:00"), at("02 00:00"), at("02 08:00"), at("02 16:00")]
        assert result.assumptions["notes"] == {"funding unknown, taken as none": 8}  # bars
        assert 0 < result.assumptions["funding_coverage"] < 1
        assert_replayed(market, result)


class TestASettlementWithoutAPrice:
    """Its rate is known, but the bar of its minute is missing."""

    @pytest.fixture
    def market(self, tmp_path) -> Market:
        market = flat((50_000.0, 2_000.0), bars=48)
        bars = market.bars[BTC]
        bars.loc[at("01 15:00"), "close"] = 48_000.0
        market.bars[BTC] = bars.drop(at("01 16:00"))
        market.settlements[BTC][2] = (at("01 16:00"), 0.0001, np.nan)
        market.open(tmp_path)
        return market

    @pytest.mark.parametrize("policy", ["untradable", "zero"])
    def test_is_paid_at_the_last_close_and_counted(self, market, policy):
        script = {"2025-01-01 01:00": {BTC: 1.0, ETH: -1.0}, "2025-01-02 01:00": {BTC: -1.0}}
        result = run(market, Scripted(script), missing_funding=policy)
        paid = result.funding.loc[result.funding["instrument"] == BTC].set_index("time")
        assert paid["amount"].to_numpy() == pytest.approx([-5.0, -4.8, -5.0], rel=1e-7)
        assert paid["mark_source"].tolist().count("last known price") == 1
        assert paid.loc[at("01 16:00"), "mark"] == pytest.approx(48_000.0)
        assert paid.loc[at("01 16:00"), "mark_source"] == "last known price"
        assert result.assumptions["notes"] == {COUNTED[why.PAID_AT_LAST_PRICE]: 1, "bars held without a price": 1}
        assert len(result.fills) == 3
        assert_replayed(market, result)

    def test_is_an_error_that_says_so_by_default(self, market):
        message = r"funding of BTC_USDT\.OKX of rate 0\.0001 has no price in the 60min bar of 2025-01-01 16:00:00"
        with pytest.raises(GapError, match=message):
            run(market, Scripted({"2025-01-01 01:00": {BTC: 1.0}}))

    def test_inside_a_bar_is_paid_at_its_open(self, tmp_path):
        market = flat(freq="day", bars=4)
        market.bars[BTC]["close"] = 52_000.0
        time, rate, _ = market.settlements[BTC][4]
        market.settlements[BTC][4] = (time, rate, np.nan)  # 2025-01-02 08:00
        market.open(tmp_path)
        result = run(market, Scripted({"2025-01-01": {BTC: 1.0}}), missing_funding="zero")
        inside = result.funding.loc[result.funding["mark_source"] == "last known price"]
        assert inside["time"].tolist() == [at("02 08:00")]
        assert inside["amount"].tolist() == pytest.approx([-5.0])
        assert_replayed(market, result)


@pytest.mark.parametrize("policy", ["error", "untradable", "zero"])
def test_a_delisted_position_is_settled_at_its_last_mark_when_its_funding_ends_too(tmp_path, policy):
    market = flat((50_000.0, 2_000.0), bars=48)
    market.bars[BTC] = market.bars[BTC].iloc[:21]
    market.bars[BTC].loc[at("01 20:00"), "close"] = 49_000.0
    # the provider knows the funding one interval beyond the last settlement, at 16:00
    market.settlements[BTC] = market.settlements[BTC][:3]
    padded = market.bars[BTC].reindex(market.times)
    market.open(tmp_path)
    assert padded["open"].isna().sum() == 27
    result = run(market, Scripted({"2025-01-01 01:00": {BTC: -1.0, ETH: 1.0}}), missing_funding=policy)
    last = result.fills.iloc[-1]
    assert (last["instrument"], last["quantity"], last["price"]) == (BTC, 1.0, 49_000.0)
    assert (last["datetime"], last["note"]) == (at("02 00:00"), WORDS[why.CLOSED_DELISTED])
    assert last["fee"] == pytest.approx(24.5)
    assert result.assumptions["notes"] == {"bars held without a price": 3}  # what has ended owes nothing unknown
    assert result.steps["equity"].iloc[-1] == pytest.approx(
        100_000 + 1_000 + 2 * 5 - 25 - 24.5 - 1 - 5 * 0.2, abs=1e-4
    )  # fmt: skip
    assert_replayed(market, result)


def test_a_position_whose_data_stop_while_funding_is_still_known_is_kept(tmp_path):
    market = flat((50_000.0, 2_000.0), bars=24)
    market.bars[BTC] = market.bars[BTC].iloc[:21]
    market.open(tmp_path)
    result = run(market, Scripted({"2025-01-01 01:00": {BTC: 1.0}}))
    assert len(result.fills) == 1
    assert result.assumptions["notes"] == {"bars held without a price": 3}


def test_prices_are_the_ticks_of_the_venue_not_their_float32(tmp_path):
    market = flat((67_123.4,), bars=24)
    market.open(tmp_path)
    result = run(market, Scripted({"2025-01-01 01:00": {BTC: 1.0}}))
    assert float(np.float32(67_123.4)) != 67_123.4
    assert result.fills["price"].iloc[0] == pytest.approx(67_123.4, rel=1e-15)


@pytest.mark.parametrize("codes", [[BTC, ETH], [ETH]])
def test_the_btc_benchmark_is_made_of_the_ticks_of_the_venue(tmp_path, codes):
    market = flat((67_123.4, 2_000.0), bars=6)
    closes = np.array([67_123.5, 67_200.1, 67_019.7, 67_333.3, 67_000.2, 67_111.1])
    market.bars[BTC]["close"] = closes
    market.open(tmp_path)
    result = run(market, Scripted({}), codes=codes)
    truth = closes / np.array([67_123.4, *closes[:-1]]) - 1
    assert np.abs(result.steps["bench_btc"].to_numpy() - truth).max() < 1e-14


def test_benchmarks_start_at_the_first_open_and_a_gap_catches_up(tmp_path):
    market = flat((100.0, 10.0), bars=6)
    btc, eth = market.bars[BTC], market.bars[ETH]
    btc["open"], btc["close"] = [100, 110, 121, 1, 121, 121], [110, 121, 121, 1, 242, 121]
    eth["close"] = [10, 20, 20, 20, 20, 20]
    market.bars[BTC] = btc.drop(at("01 03:00"))
    market.open(tmp_path)
    result = run(market, Scripted({}), missing_funding="zero")
    bench = result.steps[["bench_btc", "bench_equal"]].to_numpy()
    assert bench[:, 0] == pytest.approx([0.1, 0.1, 0.0, np.nan, 1.0, -0.5], rel=1e-6, nan_ok=True)
    assert bench[:, 1] == pytest.approx([0.05, 0.55, 0.0, 0.0, 0.5, -0.25], rel=1e-6)


def test_without_equity_orders_can_only_reduce(tmp_path):
    market = flat((100.0,), bars=10)
    bars = market.bars[BTC]
    bars.loc[at("01 03:00") :, ["open", "close"]] = 200.0
    market.open(tmp_path)
    script = {
        "2025-01-01 01:00": {BTC: -10.0}, "2025-01-01 04:00": {BTC: -1.0}, "2025-01-01 05:00": {BTC: 4.0},
        "2025-01-01 06:00": {BTC: 9.0},
    }  # fmt: skip
    result = run(market, Scripted(script), account=900.0, max_gross_leverage=None)
    assert result.steps["equity"].loc[at("01 03:00")] < 0
    assert result.fills["quantity"].tolist() == [-10.0, 4.0, 6.0]
    assert_replayed(market, result, account=900.0)


def test_a_file_that_ends_with_the_instrument_is_a_delisting(tmp_path):
    times = pd.date_range("2025-01-01", periods=60, freq="60min")
    bars = dict.fromkeys(("open", "high", "low", "close", "volume", "factor"), 100.0)
    frames = {BTC: pd.DataFrame(bars, times), ETH: pd.DataFrame(bars, times[:30])}
    settled = {name: [(at, 0.0, 1.0) for at in frame.index[::8]] for name, frame in frames.items()}
    write_provider(tmp_path, frames, "60min", settlements=settled)
    names, rules = sorted(frames), {}
    span = tuple(int(time.value // 1_000_000) for time in (times[0], times[-1]))
    assert load(tmp_path, Interval.parse("60min"), names, span, rules=rules).market.last.tolist() == [59, 29]
    span = tuple(int(time.value // 1_000_000) for time in (times[5], times[9]))
    later = load(tmp_path, Interval.parse("60min"), names, span, rules=rules)
    assert later.market.last.tolist() == [4, 4]
    assert later.before[:, -1].tolist() == [[100.0, 100.0], [100.0, 100.0]]


@pytest.mark.parametrize("end", [45, 59, 95])
def test_a_span_that_ends_in_an_outage_is_no_delisting(tmp_path, end):
    times = pd.date_range("2025-01-01", periods=96, freq="60min")
    whole = pd.DataFrame({"open": 100.0, "close": 100.0}, times)
    settled = [(at, 0.0001, 100.0) for at in pd.date_range("2024-12-31", "2025-01-06", freq="8h")]
    out = [each for each in settled if not times[30] <= each[0] < times[60]]
    names = ("BTC_USDT.OKX", "ETH_USDT.OKX")
    market = Market(
        "60min", dict(zip(names, (whole.drop(times[30:60]), whole), strict=True)),
        dict(zip(names, (out, settled), strict=True)),
    )  # fmt: skip
    market.open(tmp_path)
    script = {times[2]: dict(zip(names, (5.0, -5.0), strict=True))}
    with pytest.raises(GapError, match=r"BTC_USDT\.OKX is unknown in the 60min bar of 2025-01-02 08:00"):
        run(market, Scripted(script), end=times[end])
    held = run(market, Scripted(script), end=times[end], missing_funding="zero").positions
    assert (held[held["datetime"] == times[end]]["quantity"].abs() == 5.0).sum() == 2
