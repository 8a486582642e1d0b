"""Margin and liquidation, each case worked out by hand, through Qlib's own loop and the array engine's step."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from support_backtest import Margin, Market, Scripted, assert_replayed, run

from qlib_crypto.backtest.notes import CLIPPED_MARGIN, CLIPPED_TIER, LIQUIDATED, TIER, WORDS
from qlib_crypto.errors import ConfigError
from qlib_crypto.market.margin import MarginTable, MarginTier

BTC, ETH = "BTC_USDT.BINANCE", "ETH_USDT.BINANCE"
#: Of Binance's kind: each rate for its own part, so that `deduction` takes the jumps out.
TIERS = (
    MarginTier(0, 100_000, 0.004, 125, 0),
    MarginTier(100_000, 1_000_000, 0.01, 20, 600),
    MarginTier(1_000_000, 2_000_000, 0.05, 5, 40_600),
)
TABLES = dict.fromkeys((BTC, ETH), MarginTable(TIERS, by_quantity=False, source="file"))


@pytest.fixture
def tiers(tmp_path):
    rows = [
        {
            "tier": n + 1.0, "minNotional": t.floor, "maxNotional": t.cap, "maintenanceMarginRate": t.maintenance_rate,
            "maxLeverage": t.max_leverage, "info": {"cum": str(t.deduction)},
        }
        for n, t in enumerate(TIERS)
    ]  # fmt: skip
    path = tmp_path / "tiers.json"
    path.write_text(json.dumps({"BTC/USDT:USDT": rows, "ETH/USDT:USDT": rows}))
    return str(path)


def flat(prices=(50_000.0, 2_500.0), *, bars=12) -> Market:
    times = pd.date_range("2025-01-01 01:00", periods=bars, freq="60min")
    market = Market("60min", {})
    for name, price in zip((BTC, ETH), prices, strict=False):
        market.bars[name] = pd.DataFrame({"open": price, "high": price, "low": price, "close": price}, times)
        market.specs[name] = {"tick_size": 0.01, "lot_base": 0.001, "spec_source": "venue"}
    return market


def at(hour: str) -> pd.Timestamp:
    return pd.Timestamp(f"2025-01-01 {hour}:00")


def margin(leverage: float, *, isolated: bool = False) -> Margin:
    return Margin(TABLES, 0.0005, leverage, isolated)


def test_a_10x_long_is_liquidated_by_a_wick_that_recovers(tmp_path, tiers):
    market = flat()
    market.bars[BTC].loc[at("04"), "low"] = 45_000.0
    market.open(tmp_path / "p")
    script = Scripted({"2025-01-01 02:00": {BTC: 1.0}})
    result = run(
        market, script, account=10_000, margin_mode="isolated", leverage=10, margin_tiers=tiers, max_gross_leverage=None
    )
    # 5,000 are set aside; they are no more than maintenance (0.4 %) and closing fee (0.05 %) where
    # 5,000 + (p - 50,000) = 0.0045 p, so at 45,000 / 0.9955; what is left there goes to the venue
    price = 45_000 / 0.9955
    fill = result.fills.iloc[-1]
    assert (fill["datetime"], fill["quantity"], fill["note"]) == (at("04"), -1.0, WORDS[LIQUIDATED])
    assert fill["price"] == pytest.approx(price, rel=1e-12)
    assert fill["fee"] == pytest.approx(price * 0.0045, rel=1e-9)
    assert result.steps["liquidation"].sum() == pytest.approx(-price * 0.0045, rel=1e-9)
    assert result.steps["equity"].iloc[-1] == pytest.approx(10_000 - 25 - 5_000, rel=1e-12)
    assert result.metrics()["liquidation"] == pytest.approx(price * 0.0045, rel=1e-9)
    # 0.45 % of 50,000 is needed, 5,000 are set aside; then nothing is held
    assert result.steps["margin_ratio"].tolist()[:4] == pytest.approx([0.0, 225 / 5_000, 225 / 5_000, 0.0])
    assert_replayed(market, result, account=10_000, margin=margin(10, isolated=True))


def test_a_wick_that_stops_above_the_price_of_liquidation_costs_nothing(tmp_path, tiers):
    market = flat()
    market.bars[BTC].loc[at("04"), "low"] = 45_203.42  # 45,000 / 0.9955 is 45,203.415…
    market.open(tmp_path / "p")
    script = Scripted({"2025-01-01 02:00": {BTC: 1.0}})
    result = run(
        market, script, account=10_000, margin_mode="isolated", leverage=10, margin_tiers=tiers, max_gross_leverage=None
    )
    assert len(result.fills) == 1
    assert_replayed(market, result, account=10_000, margin=margin(10, isolated=True))


def two_positions(tmp_path, tiers, mode):
    market = flat()
    market.bars[BTC].loc[at("04"), "low"] = 44_000.0
    market.open(tmp_path / mode)
    script = Scripted({"2025-01-01 02:00": {BTC: 1.0, ETH: -10.0}})
    result = run(
        market, script, account=12_000, margin_mode=mode, leverage=10, margin_tiers=tiers, max_gross_leverage=None
    )
    assert_replayed(market, result, account=12_000, margin=margin(10, isolated=mode == "isolated"))
    return result


def test_isolated_loses_one_position_and_cross_carries_it_with_the_whole_account(tmp_path, tiers):
    isolated = two_positions(tmp_path, tiers, "isolated")
    assert isolated.fills["note"].tolist() == ["", "", WORDS[LIQUIDATED]]
    assert isolated.fills["instrument"].iloc[-1] == BTC
    assert isolated.steps["equity"].iloc[-1] == pytest.approx(12_000 - 25 - 12.5 - 5_000)
    assert isolated.positions["instrument"].iloc[-1] == ETH
    # at 44,000 the account has 12,000 - 37.5 - 6,000 and needs 0.45 % of 44,000 and of 25,000
    cross = two_positions(tmp_path, tiers, "cross")
    assert len(cross.fills) == 2
    assert cross.steps["equity"].iloc[-1] == pytest.approx(12_000 - 37.5)


def test_under_cross_margin_everything_goes_at_once(tmp_path, tiers):
    market = flat()
    market.bars[BTC].loc[at("04"), "low"] = 30_000.0
    market.bars[ETH].loc[at("04"), "high"] = 2_600.0
    market.open(tmp_path / "p")
    script = Scripted({"2025-01-01 02:00": {BTC: 1.0, ETH: -10.0}})
    result = run(
        market, script, account=12_000, margin_mode="cross", leverage=10, margin_tiers=tiers, max_gross_leverage=None
    )
    # w of the way: 11,962.5 - w (20,000 + 1,000) = 0.0045 (50,000 - 20,000 w + 25,000 + 1,000 w)
    w = (11_962.5 - 0.0045 * 75_000) / (21_000 - 0.0045 * 19_000)
    taken = result.fills.loc[result.fills["note"] == WORDS[LIQUIDATED]]
    assert taken["price"].tolist() == pytest.approx([50_000 - 20_000 * w, 2_500 + 100 * w], rel=1e-12)
    assert result.steps["equity"].iloc[-1] == pytest.approx(0.0, abs=1e-6)
    assert result.positions["datetime"].max() == at("03")
    assert_replayed(market, result, account=12_000, margin=margin(10))


def test_a_gap_through_the_price_of_liquidation_leaves_the_rest_to_the_insurance(tmp_path, tiers):
    market = flat()
    market.bars[BTC].loc[at("04") :, ["open", "high", "low", "close"]] = 40_000.0
    market.open(tmp_path / "p")
    script = Scripted({"2025-01-01 02:00": {BTC: 1.0}, "2025-01-01 04:00": {BTC: 1.0}})
    result = run(
        market, script, account=10_000, margin_mode="isolated", leverage=10, margin_tiers=tiers, max_gross_leverage=None
    )
    fill = result.fills.iloc[1]
    assert (fill["price"], fill["note"]) == (40_000.0, WORDS[LIQUIDATED])
    assert fill["fee"] == pytest.approx(-5_000.0)  # 10,000 were lost, 5,000 were behind the position
    assert result.steps["equity"].loc[at("04")] == pytest.approx(10_000 - 25 - 5_000 - 20)  # and the order of that bar
    assert_replayed(market, result, account=10_000, margin=margin(10, isolated=True))


def test_initial_margin_and_the_last_tier_cut_orders(tmp_path, tiers):
    market = flat((50_000.0, 50_000.0))
    market.open(tmp_path / "p")
    script = Scripted({"2025-01-01 02:00": {BTC: 3.0}, "2025-01-01 03:00": {ETH: 50.0}, "2025-01-01 04:00": {ETH: 1.0}})
    result = run(
        market, script, account=10_000, leverage=10, margin_mode="cross", margin_tiers=tiers, max_gross_leverage=None
    )
    # 10 x of what is left after the fee: |x| 50,000 / 10 + |x| 50,000 x 0.0005 = 10,000
    first = result.fills.iloc[0]
    assert first["quantity"] == pytest.approx(int(10_000 / (5_000 + 25) * 1_000) / 1_000)
    assert first["note"] == WORDS[CLIPPED_MARGIN]
    rich = run(
        market, script, account=10_000_000, leverage=1, margin_mode="cross", margin_tiers=tiers, max_gross_leverage=None
    )
    assert rich.fills["quantity"].tolist() == pytest.approx([3.0, 40.0])  # 2,000,000 is the end of the last tier
    assert rich.fills["note"].iloc[1] == WORDS[CLIPPED_TIER]
    assert rich.assumptions["notes"][WORDS[TIER]] == 1


def test_a_position_that_grows_into_a_tier_needs_more_and_borrows_less(tmp_path, tiers):
    """The same leverage is refused above 1,000,000, where at most 5 x are lent."""
    market = flat((50_000.0,))
    market.open(tmp_path / "p")
    script = Scripted({"2025-01-01 02:00": {BTC: 19.0}, "2025-01-01 03:00": {BTC: 4.0}})
    result = run(
        market, script, account=120_000, leverage=20, margin_mode="cross", margin_tiers=tiers, max_gross_leverage=None
    )
    assert result.fills["quantity"].iloc[0] == 19.0
    # at 5 x, 119,525 of equity carry less than what is held: it may go on to the end of the tier of 20 x only
    assert result.fills["quantity"].iloc[1] == pytest.approx(1.0)
    assert result.fills["note"].iloc[1] == WORDS[CLIPPED_MARGIN]


def test_a_tier_that_changes_while_held_liquidates_at_the_next_open(tmp_path):
    """The venue asks 0.4 %, and from 05:00 on 12 %; the account has 10 % behind its position."""
    market = flat((50_000.0,))
    folder = market.write(tmp_path / "p")
    states = [
        {
            "since_ms": int(since.value // 1_000_000), "by_quantity": False, "source": "venue",
            "tiers": [
                {"floor": 0, "cap": 1e6, "maintenance_rate": rate, "max_leverage": 10, "deduction": 0},
            ],
        }
        for since, rate in ((at("01"), 0.004), (at("05"), 0.12))
    ]  # fmt: skip
    (folder / "margin_tiers.json").write_text(json.dumps({BTC: states}))
    market.open(tmp_path / "p")
    script = Scripted({"2025-01-01 02:00": {BTC: 1.0}})
    result = run(market, script, account=5_025.0, margin_mode="cross", leverage=10, max_gross_leverage=None)
    fill = result.fills.iloc[-1]
    assert (fill["datetime"], fill["price"], fill["note"]) == (at("05"), 50_000.0, WORDS[LIQUIDATED])
    # 5,000 are left and 12.05 % of 50,000 would be asked for: all of it goes
    assert fill["fee"] == pytest.approx(5_000.0)
    assert result.assumptions["margin_tiers"] == {"venue": 1}


def test_order_rules_hold_from_their_date_on(tmp_path):
    """Lots of 0.5 until 05:00, of 0.001 after; before the first state was seen it holds as well."""
    market = flat((50_000.0,))
    folder = market.write(tmp_path / "p")
    states = [
        {"since_ms": int(since.value // 1_000_000), "lot_base": lot, "tick_size": 0.01, "spec_source": "venue"}
        for since, lot in ((at("03"), 0.5), (at("05"), 0.001))
    ]
    (folder / "rules.json").write_text(json.dumps({BTC: states}))
    market.open(tmp_path / "p")
    orders = {"2025-01-01 02:00": {BTC: 0.7}, "2025-01-01 04:00": {BTC: 0.7}, "2025-01-01 05:00": {BTC: 0.7}}
    result = run(market, Scripted(orders))
    assert result.fills["quantity"].tolist() == pytest.approx([0.5, 0.5, 0.7])
    assert result.assumptions["order_rules"] == {"venue": 1}


def test_a_file_of_other_instruments_is_refused(tmp_path, tiers):
    market = flat((50_000.0,))
    market.bars["BTC_USDT.OKX"] = market.bars.pop(BTC)
    market.specs.clear()
    market.open(tmp_path / "p")
    with pytest.raises(ConfigError, match=r"margin_tiers .*tiers\.json has none of the 1 instruments"):
        run(market, Scripted({}), margin_mode="cross", margin_tiers=tiers)
