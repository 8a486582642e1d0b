"""What is computed for a report, against second ways of computing it from the same tables."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qlib_crypto.backtest.attribution import instrument_attribution
from qlib_crypto.errors import SchemaError
from qlib_crypto.report.attribution import shown_sources
from qlib_crypto.report.measures import measure, monthly_returns, quote_coin, step_length


@pytest.fixture(scope="module")
def measures(run):
    return measure(run)


def test_equity_starts_with_the_money_put_in_and_ends_with_the_last_close(run, measures):
    assert measures.equity.iloc[0] == pytest.approx(100_000, abs=1e-6)
    assert measures.equity.index[0] == run.steps.index[0]
    assert measures.equity.index[-1] == run.steps.index[-1] + pd.Timedelta("1h")
    np.testing.assert_array_equal(measures.equity.iloc[1:], run.steps["equity"])


def test_steps_per_year(measures):
    assert measures.step == pd.Timedelta("1h")
    assert measures.steps_per_year == 8760


def test_curve_is_growth_and_its_own_drawdown(run, measures):
    curve = measures.curve
    np.testing.assert_allclose(curve["strategy"], measures.equity / 100_000)
    np.testing.assert_allclose(curve["drawdown"], curve["strategy"] / curve["strategy"].cummax() - 1, atol=1e-15)
    product = 1.0
    for value in run.steps["bench_btc"]:
        product *= 1 + value
    assert curve["btc"].iloc[-1] == pytest.approx(product)
    assert curve["btc"].iloc[0] == curve["equal"].iloc[0] == 1.0


def test_a_benchmark_goes_on_after_steps_it_lacks(make_run):
    run = make_run(days=2)
    steps = run.steps.copy()
    steps.loc[steps.index[5:8], "bench_btc"] = np.nan
    curve = measure(dataclasses.replace(run, steps=steps)).curve
    assert curve["btc"].iloc[6:9].isna().all()
    expected = (1 + steps["bench_btc"].drop(steps.index[5:8])).prod()
    assert curve["btc"].iloc[-1] == pytest.approx(expected)


def test_attribution_sums_to_the_change_of_equity(measures):
    parts = measures.attribution[["price", "funding", "fee", "slippage"]].sum(axis=1)
    np.testing.assert_allclose(parts, measures.attribution["total"], atol=1e-9 * 100_000)
    np.testing.assert_allclose(measures.attribution["total"], measures.equity - measures.equity.iloc[0])


@pytest.mark.parametrize("slippage", [0.0, 0.001])
def test_instruments_sum_to_the_account(make_run, slippage):
    run = make_run(days=30, slippage=slippage)
    measures = measure(run)
    total = measures.instruments.sum()
    assert (total["slippage"] < 0) == bool(slippage)
    assert shown_sources(measures.instruments) == ["price", "funding", "fee", *["slippage"] * bool(slippage)]
    for source in ("price", "funding", "fee", "slippage", "total"):
        assert total[source] == pytest.approx(measures.attribution[source].iloc[-1], abs=1e-6)
    assert total["trades"] == len(run.fills)
    assert total["traded"] == pytest.approx(run.steps["turnover"].sum())


def test_one_instrument_by_hand():
    at = pd.to_datetime(["2025-01-01 00:00", "2025-01-01 01:00"])
    fills = pd.DataFrame(
        {"datetime": [at[0], at[1], at[0]], "instrument": ["A", "A", "B"], "quantity": [2.0, -1.0, -3.0],
         "price": [10.5, 13.0, 5.0], "reference": [10.0, 14.0, 5.0], "fee": [0.01, 0.02, 0.03], "note": ""}
    )  # fmt: skip
    funding = pd.DataFrame({"instrument": ["B"], "amount": [-0.5]})
    positions = pd.DataFrame(
        {"datetime": [at[0], at[1], at[0]], "instrument": ["A", "A", "B"], "quantity": [2.0, 1.0, -3.0],
         "mark": [12.0, 15.0, 6.0]}
    )  # fmt: skip
    table = instrument_attribution(fills, funding, positions, at[1])
    # A: sold 1 for 13 at 14, holds 1 worth 15, paid 21 at 20
    # B is not in the last step's positions: it cost -15 and is worth 0
    columns = ["price", "funding", "fee", "slippage", "total", "trades", "traded"]
    assert table.loc["A", columns].tolist() == pytest.approx([9.0, 0.0, -0.03, -2.0, 6.97, 2, 34.0])
    assert table.loc["B", ["price", "funding", "fee", "total"]].tolist() == pytest.approx([15.0, -0.5, -0.03, 14.47])
    assert list(table.index) == ["B", "A"]


def test_exposure_is_in_multiples_of_the_equity_at_that_close(run, measures):
    expected = run.positions.assign(value=run.positions["quantity"] * run.positions["mark"])
    last = expected[expected["datetime"] == run.steps.index[-1]]["value"]
    assert measures.exposure["gross"].iloc[-1] == pytest.approx(last.abs().sum() / run.steps["equity"].iloc[-1])
    assert measures.exposure["net"].iloc[-1] == pytest.approx(last.sum() / run.steps["equity"].iloc[-1])


def test_months_and_periods_compound_to_the_whole(make_run):
    measures = measure(make_run(days=75, start="2024-12-10 05:00"))
    whole = measures.equity.iloc[-1] / measures.equity.iloc[0]
    months = measures.months
    assert list(months.index) == [2024, 2025]
    assert np.nanprod(1 + months[list(range(1, 13))].to_numpy()) == pytest.approx(whole)
    assert (1 + months["year"]).prod() == pytest.approx(whole)
    assert (1 + measures.periods["returns"]).prod() == pytest.approx(whole)
    assert measures.periods["turnover"].sum() == pytest.approx(measures.turnover.sum())


def test_a_close_at_midnight_of_the_first_belongs_to_the_month_before():
    times = pd.to_datetime(["2025-01-31 22:00", "2025-01-31 23:00", "2025-02-01 00:00", "2025-02-01 01:00"])
    months = monthly_returns(pd.Series([100.0, 110.0, 121.0, 242.0], index=times))
    assert months.loc[2025, 1] == pytest.approx(0.21)
    assert months.loc[2025, 2] == pytest.approx(1.0)
    assert months.loc[2025, "year"] == pytest.approx(1.42)
    assert months.loc[2025, [3, 12]].isna().all()


@pytest.mark.parametrize(("days", "period"), [(30, "day"), (101, "week")])
def test_charts_get_a_bearable_number_of_bars(make_run, days, period):
    measures = measure(make_run(days=days, names=6, freq="4h"))
    assert measures.period == period
    assert len(measures.periods) <= 120


def test_ic_agrees_with_scipy_a_timestamp_at_a_time(run, measures):
    both = run.prediction.join(run.label)
    for time in run.steps.index[[3, 100, 500]]:
        part = both.loc[time].dropna()
        assert measures.ic.loc[time, "ic"] == pytest.approx(stats.pearsonr(part["score"], part["LABEL0"]).statistic)
        expected = stats.spearmanr(part["score"], part["LABEL0"]).statistic
        assert measures.ic.loc[time, "rank_ic"] == pytest.approx(expected)
    assert math.isnan(measures.ic["ic"].iloc[-1])  # the last bar has no label
    assert measures.unlabelled == pytest.approx(1 / len(run.steps))


def test_ic_of_a_universe_that_changes(run):
    left = run.prediction[run.prediction.index.get_level_values("instrument") != "ETH_USDT.OKX"]
    late = left.drop(left.loc[(run.steps.index[:50], "SOL_USDT.OKX"), :].index).sample(frac=1, random_state=1)
    measures = measure(dataclasses.replace(run, prediction=late))
    time = run.steps.index[10]
    part = late.join(run.label).loc[time]
    assert len(part) == 28
    assert measures.ic.loc[time, "ic"] == pytest.approx(np.corrcoef(part["score"], part["LABEL0"])[0, 1])
    assert measures.ic.index.is_monotonic_increasing


@pytest.mark.parametrize(
    ("freq", "days", "window"), [("1h", 90, 168), ("1h", 20, 24), ("5min", 20, 288), ("1D", 500, 30), ("1D", 40, 5)]
)
def test_the_rolling_window_is_whole_days_or_an_eighth(make_run, freq, days, window):
    measures = measure(make_run(days=days, freq=freq, names=6, trading=False, funding=False))
    assert measures.ic_window == window


def test_importance_is_shares_of_the_total(run, measures):
    assert measures.importance.sum() == pytest.approx(1.0)
    assert measures.importance.index[0] == run.feature_importance.idxmax()
    assert measures.importance.is_monotonic_decreasing


def test_step_length_of_a_single_step_is_the_assumed_one(make_run):
    one = make_run(days=1 / 24)
    assert step_length(one) == pd.Timedelta("1h")
    assert step_length(dataclasses.replace(one, assumptions={})) is None
    assert measure(dataclasses.replace(one, assumptions={})).steps_per_year != 0


def test_quote_coin(make_run):
    run = make_run(days=1)
    assert quote_coin(run) == "USDT"
    mixed = run.fills.assign(instrument=["BTC_USDC.OKX", *run.fills["instrument"][1:]])
    assert quote_coin(dataclasses.replace(run, fills=mixed)) == "quote coin"
    idle = make_run(days=1, trading=False)
    assert quote_coin(idle) == "USDT"
    assert quote_coin(dataclasses.replace(idle, prediction=None)) == "quote coin"


@pytest.mark.parametrize("table", ["steps", "fills", "funding", "positions"])
def test_a_table_of_another_shape_is_refused(make_run, table):
    run = make_run(days=1)
    frame = getattr(run, table)
    with pytest.raises(SchemaError, match=f"lacks {frame.columns[0]}.*run the workflow again"):
        dataclasses.replace(run, **{table: frame.drop(columns=frame.columns[0])})


def test_no_step_at_all_is_refused(make_run):
    run = make_run(days=1)
    with pytest.raises(SchemaError, match="is empty"):
        dataclasses.replace(run, steps=run.steps.iloc[:0])
