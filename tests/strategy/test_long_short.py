"""What the strategy wants, from plain scores and holdings; its orders run in tests/backtest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_backtest import Market, run

from qlib_crypto.backtest.qlib_position import PerpPosition
from qlib_crypto.strategy.long_short import LongShortTopk

NAMES = [f"{coin}_USDT.OKX" for coin in ("BTC", "ETH", "SOL", "XRP", "DOGE", "ADA")]
EMPTY = pd.DataFrame({"score": []}, index=pd.MultiIndex.from_tuples([], names=["datetime", "instrument"]))


def weights(ranked, held=None, **kwargs):
    strategy = LongShortTopk(signal=EMPTY, **kwargs)
    return strategy._weights(ranked, held or {}, PerpPosition(1_000.0)), strategy.notes


def test_the_best_are_long_and_the_worst_short_with_half_the_exposure_a_leg():
    got, notes = weights(list("abcdef"), topk=2, gross_exposure=3.0)
    assert got == {"a": 0.75, "b": 0.75, "f": -0.75, "e": -0.75}
    assert not notes


def test_a_held_name_stays_within_the_buffer():
    ranked = list("abcdefgh")
    held = {"c": 1.0, "d": 1.0, "g": -1.0, "e": -1.0}
    got, _ = weights(ranked, held, topk=2, drop_buffer=1)
    assert {name for name, w in got.items() if w > 0} == {"c", "a"}
    assert {name for name, w in got.items() if w < 0} == {"g", "h"}
    got, _ = weights(ranked, held, topk=2)
    assert set(got) == {"a", "b", "g", "h"}


def test_too_few_names_mean_flat_and_are_counted():
    got, notes = weights(list("abc"), topk=2)
    assert got == {}
    assert notes == {"fewer than 2 names a leg: flat": 1}
    got, _ = weights(list("abc"), topk=2, min_names=1)
    assert got == {"a": 0.5, "c": -0.5}
    assert weights([], topk=2, min_names=1)[0] == {}


@given(
    st.lists(st.integers(0, 30), unique=True), st.dictionaries(st.integers(0, 30), st.floats(-1, 1)),
    st.integers(1, 6), st.integers(0, 6),
)  # fmt: skip
def test_legs_are_disjoint_equal_and_within_reach(ranked, held, topk, buffer):
    got, _ = weights(ranked, held, topk=topk, drop_buffer=buffer, min_names=1, gross_exposure=2.0)
    longs, shorts = [n for n, w in got.items() if w > 0], [n for n, w in got.items() if w < 0]
    size = min(topk, len(ranked) // 2)
    assert len(longs) == len(shorts) == size
    assert not {*longs} & {*shorts}
    assert sum(map(abs, got.values())) == pytest.approx(2.0 if size else 0.0)
    assert all(ranked.index(n) < topk + buffer for n in longs)
    assert all(ranked[::-1].index(n) < topk + buffer for n in shorts)
    best_left_out = [n for n in ranked[:size] if n not in longs]
    kept = [n for n in longs if held.get(n, 0) > 0]
    assert len(best_left_out) <= len(kept)


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
    strategy = LongShortTopk(signal=signal_of({"2025-01-01 05:00": FIRST}), topk=1, gross_exposure=1.0)
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
    strategy = LongShortTopk(signal=signal_of({"2025-01-01 05:00": FIRST, "2025-01-01 06:00": nothing}), topk=1)
    for _ in range(2):  # the notes are of one run
        result = run(market, strategy)
        assert len(result.fills) == 2
        assert result.assumptions["notes"] == {"no signal: position kept": 29}


def test_the_last_signal_of_the_span_is_never_traded_and_a_signal_without_a_future_bar_changes_nothing(market):
    rows = {f"2025-01-01 {hour:02}:00": FIRST for hour in range(5, 24)}
    later = {**rows, "2025-01-02 05:00": dict(zip(NAMES, (-3, -2, -1, 1, 2, 3), strict=True))}
    one = run(market, LongShortTopk(signal=signal_of(rows), topk=1))
    two = run(market, LongShortTopk(signal=signal_of(later), topk=1))
    pd.testing.assert_frame_equal(one.fills, two.fills)


def test_what_is_known_later_cannot_change_what_was_done_before(market):
    """Truncation: cutting bars and signals after hour 12 leaves every fill up to then as it was."""
    rng = np.random.default_rng(1)
    rows = {f"{t:%Y-%m-%d %H:%M}": dict(zip(NAMES, rng.normal(size=6), strict=True)) for t in market.times}
    whole = run(market, LongShortTopk(signal=signal_of(rows), topk=2))
    cut_at = market.times[12]
    cut = run(market, LongShortTopk(signal=signal_of(dict(list(rows.items())[:12])), topk=2), end=cut_at)
    pd.testing.assert_frame_equal(whole.fills.loc[whole.fills["datetime"] <= cut_at], cut.fills)
    pd.testing.assert_frame_equal(whole.steps.loc[:cut_at], cut.steps)


def test_rebalancing_happens_every_n_steps_only(market):
    rows = {f"{time:%Y-%m-%d %H:%M}": FIRST for time in market.times}
    result = run(market, LongShortTopk(signal=signal_of(rows), topk=2, rebalance_every=6))
    # the first step has no signal yet: the count begins with the first that has one
    assert result.fills["datetime"].dt.hour.unique().tolist() == [1, 7, 13, 19]


def test_names_that_leave_the_signal_or_have_no_price_are_closed_or_skipped(market, tmp_path):
    gap = pd.Timestamp("2025-01-01 04:00")
    market.bars[NAMES[0]] = market.bars[NAMES[0]].drop(gap)
    market.open(tmp_path / "gap")
    without_eth = {name: score for name, score in FIRST.items() if name != NAMES[1]}
    rows = {"2025-01-01 02:00": FIRST, "2025-01-01 03:00": FIRST, "2025-01-01 04:00": without_eth}
    result = run(market, LongShortTopk(signal=signal_of(rows), topk=2, min_names=1))
    held = result.positions.groupby("datetime")["instrument"].agg(set)
    assert held[gap - pd.Timedelta("1h")] == {NAMES[0], NAMES[1], NAMES[4], NAMES[5]}
    assert NAMES[0] in held[gap]  # cannot be sold without a price
    assert not ((result.fills["datetime"] == gap) & (result.fills["instrument"] == NAMES[0])).any()
    assert held[gap + pd.Timedelta("1h")] == {NAMES[0], NAMES[2], NAMES[4], NAMES[5]}
