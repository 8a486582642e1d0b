"""A long-short portfolio in Qlib's loop: when it trades, what it knows then, what it cannot trade."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support_backtest import Market, run, topk

NAMES = [f"{coin}_USDT.OKX" for coin in ("BTC", "ETH", "SOL", "XRP", "DOGE", "ADA")]


@pytest.fixture
def market(tmp_path) -> Market:
    rng = np.random.default_rng(0)
    times = pd.date_range("2025-01-01", periods=30, freq="60min")
    market = Market("60min", {})
    for name in NAMES:
        prices = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 31)))
        market.bars[name] = pd.DataFrame({"open": prices[:-1], "close": prices[1:]}, times)
    market.open(tmp_path)
    return market


def signal_of(rows: dict[str, dict[str, float]]) -> pd.DataFrame:
    items = [(pd.Timestamp(time), name, score) for time, scores in rows.items() for name, score in scores.items()]
    return pd.DataFrame(items, columns=["datetime", "instrument", "score"]).set_index(["datetime", "instrument"])


FIRST = dict(zip(NAMES, (3, 2, 1, -1, -2, -3), strict=True))


def test_a_signal_trades_at_the_open_of_the_next_bar_and_a_missing_one_keeps_the_position(market):
    strategy = topk(signal_of({"2025-01-01 05:00": FIRST}), topk=1, gross_exposure=1.0)
    result = run(market, strategy)
    assert result.fills["datetime"].unique().tolist() == [pd.Timestamp("2025-01-01 06:00")]
    assert result.fills["instrument"].tolist() == [NAMES[-1], NAMES[0]]
    opens = [np.float32(market.bars[name]["open"].iloc[6]) for name in (NAMES[-1], NAMES[0])]
    assert result.fills["price"].tolist() == [float(price) for price in opens]
    notional = result.fills["quantity"] * result.fills["price"]
    assert notional.tolist() == pytest.approx([-50_000, 50_000])
    assert result.assumptions["notes"] == {"no signal: position kept": 29}


def test_a_signal_without_a_score_is_none_and_keeps_the_position(market):
    nothing = dict.fromkeys(NAMES, np.nan)
    strategy = topk(signal_of({"2025-01-01 05:00": FIRST, "2025-01-01 06:00": nothing}), topk=1)
    for _ in range(2):  # the notes are of one run
        result = run(market, strategy)
        assert len(result.fills) == 2
        assert result.assumptions["notes"] == {"no signal: position kept": 29}


def test_the_last_signal_of_the_span_is_never_traded_and_a_signal_without_a_future_bar_changes_nothing(market):
    rows = {f"2025-01-01 {hour:02}:00": FIRST for hour in range(5, 24)}
    later = {**rows, "2025-01-02 05:00": dict(zip(NAMES, (-3, -2, -1, 1, 2, 3), strict=True))}
    one = run(market, topk(signal_of(rows), topk=1))
    two = run(market, topk(signal_of(later), topk=1))
    pd.testing.assert_frame_equal(one.fills, two.fills)


def test_what_is_known_later_cannot_change_what_was_done_before(market):
    """Truncation: cutting bars and signals after hour 12 leaves every fill up to then as it was."""
    rng = np.random.default_rng(1)
    rows = {f"{t:%Y-%m-%d %H:%M}": dict(zip(NAMES, rng.normal(size=6), strict=True)) for t in market.times}
    whole = run(market, topk(signal_of(rows), topk=2))
    cut_at = market.times[12]
    cut = run(market, topk(signal_of(dict(list(rows.items())[:12])), topk=2), end=cut_at)
    pd.testing.assert_frame_equal(whole.fills.loc[whole.fills["datetime"] <= cut_at], cut.fills)
    pd.testing.assert_frame_equal(whole.steps.loc[:cut_at], cut.steps)


def test_rebalancing_happens_every_n_steps_only(market):
    rows = {f"{time:%Y-%m-%d %H:%M}": FIRST for time in market.times}
    result = run(market, topk(signal_of(rows), topk=2, rebalance_every=6))
    # the first step has no signal yet: the count begins with the first that has one
    assert result.fills["datetime"].dt.hour.unique().tolist() == [1, 7, 13, 19]


def test_names_that_leave_the_signal_or_have_no_price_are_closed_or_skipped(market, tmp_path):
    gap = pd.Timestamp("2025-01-01 04:00")
    market.bars[NAMES[0]] = market.bars[NAMES[0]].drop(gap)
    market.open(tmp_path / "gap")
    without_eth = {name: score for name, score in FIRST.items() if name != NAMES[1]}
    rows = {"2025-01-01 02:00": FIRST, "2025-01-01 03:00": FIRST, "2025-01-01 04:00": without_eth}
    result = run(market, topk(signal_of(rows), topk=2, min_names=1))
    held = result.positions.groupby("datetime")["instrument"].agg(set)
    assert held[gap - pd.Timedelta("1h")] == {NAMES[0], NAMES[1], NAMES[4], NAMES[5]}
    assert NAMES[0] in held[gap]  # cannot be sold without a price
    assert not ((result.fills["datetime"] == gap) & (result.fills["instrument"] == NAMES[0])).any()
    assert held[gap + pd.Timedelta("1h")] == {NAMES[0], NAMES[2], NAMES[4], NAMES[5]}
