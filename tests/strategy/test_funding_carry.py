from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support_backtest import Market
from support_strategy import HOUR_MS, market

from qlib_crypto.backtest.qlib_exchange import PerpExchange
from qlib_crypto.backtest.view import known_of
from qlib_crypto.errors import ConfigError
from qlib_crypto.strategy.carry import FundingCarry, annual_funding

NAN = np.nan


def settled(rates, *, every_hours=8, bars_hours=8):
    """A market whose funding is the given rows, one a bar."""
    rates = np.array(rates, dtype=float)
    known = market(*rates.shape, gaps=0.0, untradable=0.0)
    step = bars_hours * HOUR_MS
    return replace(
        known, funding_rate=rates, funding_interval=np.full(rates.shape, float(every_hours)), step_ms=step,
        opens_ms=np.arange(len(rates), dtype=np.int64) * step,
    )  # fmt: skip


def annual(*rows):
    """Rates a year as rates of 8 hours."""
    return np.array(rows) / (3 * 365)


def held(known, **kwargs):
    levels = {"short_enter": 0.5, "short_exit": 0.2, "long_enter": -0.1, "long_exit": 0.1}
    got = FundingCarry(**{**levels, "settlements": 1, "topk": 2, **kwargs}).targets(known)
    return got.weights.tolist(), got


def test_short_pays_and_long_pays():
    rows, _ = held(settled(annual([0.9, -0.3, 0.6, 0.0, -0.2])))
    assert rows == [[-0.25, 0.25, -0.25, 0, 0.25]]


def test_a_name_enters_and_leaves_at_different_levels():
    short = [0.4, 0.6, 0.3, 0.2, 0.1, 0.4]
    long = [-0.2, -0.2, 0.0, 0.1, -0.1, 0.2]
    rows, got = held(settled([annual(s, a, 0.15) for s, a in zip(short, long, strict=True)]), hedged=False)
    assert [row[0] for row in rows] == [0, -0.25, -0.25, -0.25, 0, 0]
    assert [row[1] for row in rows] == [0.25, 0.25, 0.25, 0.25, 0.25, 0]
    assert all(row[2] == 0 for row in rows)
    assert got.notes == {"fewer than 1 names in one leg: without it": 4}


def test_held_names_come_before_better_new_ones():
    first, second = annual(0.9, 0.6, 0.1, -0.2), annual(0.3, 0.6, 0.9, -0.2)
    rows, _ = held(settled([first, second]))
    assert rows[1] == [-0.25, -0.25, 0, 0.5]
    rows, _ = held(settled([first, second]), topk=1)
    assert rows[1] == [-0.5, 0, 0, 0.5]


def test_hedged_legs_are_half_of_the_gross_each_or_nothing():
    rows, got = held(settled([annual(0.9, 0.8, -0.2), annual(0.9, 0.8, 0.3)]), gross_exposure=2.0)
    assert rows == [[-0.5, -0.5, 1.0], [0, 0, 0]]
    assert got.notes == {"fewer than 1 names a leg: flat": 1}
    rows, _ = held(settled([annual(0.9, 0.8, -0.2)]), min_names=2)
    assert rows == [[0, 0, 0]]
    rows, _ = held(settled([annual(0.9, 0.8, -0.2)]), min_names=2, hedged=False)
    assert rows == [[-0.25, -0.25, 0]]


def test_unknown_funding_and_untradable_names_are_no_candidates():
    known = settled([annual(0.9, -0.3), [NAN, NAN], annual(0.9, -0.3)])
    known.tradable[2, 0] = False
    rows, got = held(known)
    assert got.rebalance.tolist() == [True, False, True]
    assert rows[2] == [0, 0]
    assert got.notes == {"no funding known: position kept": 1, "fewer than 1 names a leg: flat": 1}


def test_the_mean_is_over_settlements_not_bars():
    rates = np.repeat([1e-4, 1e-4, 4e-4], 8)[:, None]  # the second repeats the first and counts nevertheless
    got = annual_funding(settled(rates, bars_hours=1), 3)[:, 0]
    assert np.isnan(got[:16]).all()
    assert got[16:] == pytest.approx(2e-4 * 3 * 365)


def test_an_unknown_rate_starts_the_count_again():
    known = settled([[8e-4], [NAN], [2e-4], [NAN], [1e-4], [1e-4]], every_hours=4, bars_hours=4)
    got = annual_funding(known, 2)[:, 0]
    assert got == pytest.approx([NAN, NAN, NAN, NAN, NAN, 2e-4 / 8 * 8760], nan_ok=True)


def test_rates_of_different_intervals_weigh_by_their_hours():
    known = settled([[8e-4], [8e-4], [2e-4], [2e-4]], bars_hours=4)
    known.funding_interval[2:, 0] = 4.0
    got = annual_funding(known, 2)[:, 0]
    assert got == pytest.approx([NAN, NAN, 1e-3 / 12 * 8760, 4e-4 / 8 * 8760], nan_ok=True)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"short_exit": 0.3}, "strategy.short_exit 0.3 is above short_enter 0.2; write that or less"),
        ({"long_enter": 0.2}, "strategy.long_enter 0.2 is above long_exit 0.1; write that or less"),
        ({"long_exit": 0.2}, "strategy.long_exit 0.2 is not below short_enter 0.2; write less"),
        ({"short_enter": "10 %"}, "strategy.short_enter '10 %' must be a rate a year: 0.1 for 10 %"),
        ({"topk": 2, "min_names": 3}, "strategy.min_names 3 is above topk 2; write 2 or less"),
        ({"hedged": "no"}, "strategy.hedged 'no' must be true or false"),
    ],
)
def test_levels_in_a_wrong_order_are_refused(levels, message):
    with pytest.raises(ConfigError) as error:
        FundingCarry(**levels)
    assert str(error.value) == message


def test_a_settlement_that_is_missing_starts_the_count_again(tmp_path):
    times = pd.date_range("2025-01-01", periods=96, freq="60min")
    settled = pd.date_range("2024-12-31", "2025-01-06", freq="4h")
    missing = pd.Timestamp("2025-01-02 04:00")
    name = "BTC_USDT.OKX"
    rates = {at: round(0.0001 * (n % 5 + 1), 4) for n, at in enumerate(settled)}
    market = Market(
        "60min", {name: pd.DataFrame({"open": 100.0, "close": 100.0}, times)},
        {name: [(at, rate, 100.0) for at, rate in rates.items() if at != missing]},
    )  # fmt: skip
    market.open(tmp_path)
    exchange = PerpExchange("60min", times[0], times[-1], codes=[name], missing_funding="untradable")
    known = known_of(exchange.loaded, None, "untradable")
    rate = pd.Series(known.funding_rate[:, 0], times)
    assert rate[missing - pd.Timedelta(1, "h")] == rates[missing - pd.Timedelta(4, "h")]
    assert rate[missing : missing + pd.Timedelta(3, "h")].isna().all()
    assert rate[missing + pd.Timedelta(4, "h")] == rates[missing + pd.Timedelta(4, "h")]
    score = pd.Series(annual_funding(known, 3)[:, 0], times)
    assert score[missing : missing + pd.Timedelta(11, "h")].isna().all()
    fourth = missing + pd.Timedelta(16, "h")
    seen = [rates[at] for at in pd.date_range(missing + pd.Timedelta(8, "h"), fourth, freq="4h")]
    assert score[fourth] == pytest.approx(sum(seen) / 12 * 24 * 365, rel=1e-12)
