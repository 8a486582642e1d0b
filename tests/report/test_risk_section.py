"""The section on risk: its numbers a second way from the tables, its words, and runs that lack what it needs."""

from __future__ import annotations

import dataclasses
import html
import json
import re

import numpy as np
import pandas as pd
import pytest

from qlib_crypto.report import formats
from qlib_crypto.report import risk as module
from qlib_crypto.report.figures import value_at_risk
from qlib_crypto.report.html import page
from qlib_crypto.report.measures import measure
from qlib_crypto.report.risk_tables import kinds, stress, stress_other, tails
from qlib_crypto.report.scenarios import CAP, SETTLEMENTS, stress_table
from qlib_crypto.report.summary import summarise, to_json
from qlib_crypto.stats.trades import account_trades


def words_of(run):
    """The texts of the page outside its scripts."""
    measures = measure(run)
    text = re.sub(r"<(script|style).*?</\1>", "", page(run, measures, summarise(run, measures)), flags=re.DOTALL)
    return [" ".join(html.unescape(part).split()) for part in re.split(r"<[^>]+>", text) if part.strip()]


@pytest.fixture(scope="module")
def long_run(make_run):
    return make_run(days=130, freq="4h", names=8)


@pytest.fixture(scope="module")
def risk(run):
    measures = measure(run)
    return json.loads(to_json(summarise(run, measures)))["risk"]


def test_every_key_is_explained(risk):
    explained = set(re.findall(r"[a-z_0-9]+", module.__doc__)) | {"es_95_step", "var_99_step"}
    assert set(risk) <= explained, set(risk) - explained


def test_tails_agree_with_pandas(run, risk):
    equity = pd.Series(
        [100_000.0, *run.steps["equity"]], index=[*run.steps.index, run.steps.index[-1] + pd.Timedelta("1h")]
    )
    days = equity[equity.index.hour == 0].pct_change().dropna()
    steps = equity.pct_change().dropna()
    assert risk["days"] == len(days) == 40
    assert risk["var_95"] == pytest.approx(-days.sort_values().iloc[1])
    assert risk["es_95"] == pytest.approx(-days.nsmallest(2).mean())
    assert risk["var_99"] is risk["es_99"] is None  # forty days have no hundredth
    assert risk["var_99_step"] == pytest.approx(-steps.sort_values().iloc[9])
    assert risk["skew_step"] == pytest.approx(steps.skew())
    assert risk["kurtosis"] == pytest.approx(days.kurt())
    assert risk["win_rate_step"] == pytest.approx((steps[steps != 0] > 0).mean())
    assert risk["calmar"] == pytest.approx(
        ((equity.iloc[-1] / equity.iloc[0]) ** (365 / 40) - 1) / -(equity / equity.cummax() - 1).min()
    )


def test_trades_earn_what_the_account_earned_but_for_what_is_open(run):
    """Cash never lies: what all fills and payments left, plus the open positions at cost, is the trades' profit."""
    trades = account_trades(run.fills, run.funding)
    flat = run.positions["datetime"] == run.steps.index[-1]
    held = run.positions[flat]
    closing = pd.DataFrame(
        {
            "datetime": run.steps.index[-1] + pd.Timedelta("1h"), "instrument": held["instrument"],
            "quantity": -held["quantity"], "price": held["mark"], "reference": held["mark"], "fee": 0.0, "note": "",
        }
    )  # fmt: skip
    whole = account_trades(pd.concat([run.fills, closing], ignore_index=True), run.funding)
    assert whole.profit.sum() == pytest.approx(run.steps["equity"].iloc[-1] - 100_000)
    assert len(whole.profit) == len(trades.profit) + len(held)


def test_stress_agrees_with_the_steps(run, risk):
    rows = {row["name"]: row for row in risk["stress"]}
    last = run.steps.iloc[-1]
    assert rows["All prices -20%"]["last"] == pytest.approx(-0.2 * last["net"] / last["equity"])
    assert rows["All prices +30%"]["worst"] == pytest.approx(0.3 * (run.steps["net"] / run.steps["equity"]).min())
    leverage = run.steps["gross"] / run.steps["equity"]
    against = rows["Longs -10% while shorts +10%"]
    assert against["worst"] == pytest.approx(-0.1 * leverage.max())
    assert against["at"] == str(leverage.idxmax() + pd.Timedelta("1h"))
    assert against["move_worst"] is None
    funding = next(row for row in risk["stress"] if row["kind"] == "funding")
    assert funding["last"] == pytest.approx(-CAP * SETTLEMENTS * leverage.iloc[-1])
    assert risk["leverage_max"] == pytest.approx(leverage.max())
    held = run.positions.groupby("datetime").size()
    assert risk["names_max"] == held.max()


def test_real_moves_are_those_of_the_marks(run, risk):
    """The worst replayed step: the book at that close times the marks' moves in the step named, summed by hand."""
    row = next(row for row in risk["stress"] if row["kind"] == "step")
    marks = run.positions.pivot_table(index="datetime", columns="instrument", values="mark")
    marks = marks.reindex(run.steps.index)
    moves = (marks / marks.shift(1) - 1).apply(lambda column: column.fillna(run.steps["bench_equal"]))
    at, began = pd.Timestamp(row["at"]) - pd.Timedelta("1h"), pd.Timestamp(row["move_worst"])
    held = run.positions[run.positions["datetime"] == at].set_index("instrument")
    change = (held["quantity"] * held["mark"] * moves.loc[began]).sum() / run.steps.loc[at, "equity"]
    assert row["worst"] == pytest.approx(change)
    assert row["worst"] < 0


def test_days_of_a_replay_are_a_day_long(run, risk):
    day, step = (next(row for row in risk["stress"] if row["kind"] == kind) for kind in ("day", "step"))
    assert day["worst"] < step["worst"]
    assert pd.Timestamp(day["move_worst"]) <= run.steps.index[-24]


def test_the_page_tells_risk(run):
    texts = words_of(run)
    for words in (
        "Risk", "Tails and losses", "A day, 95%", "A step of 1 hour, 99%", "Expected shortfall", "Trades and positions",
        "Profit factor", "Stress", "All prices fall", "Longs fall while shorts rise", "BTC rises, each by its beta",
        "Worst of the largest real moves of a day", "Calmar: return a year over maximum drawdown",
    ):  # fmt: skip
        assert words in texts, words
    assert "Days against value at risk" not in texts  # forty days are too few


def test_days_against_value_at_risk(long_run):
    measures = measure(long_run)
    assert measures.risk.window == 60
    figure = value_at_risk(measures.risk.days)
    beyond = np.isfinite(figure.data[1].y.astype(float)).sum()
    assert beyond == measures.risk.numbers["var_95_breaches"]
    assert measures.risk.numbers["var_95_days"] == 70
    assert "Days against value at risk" in words_of(long_run)
    assert measures.risk.days.index[0] == long_run.steps.index[0]


def test_steps_of_a_day_are_not_told_twice(make_run):
    measures = measure(make_run(days=120, freq="1D", names=6))
    assert [row[0] for row in tails(measures)] == ["A day, 95%", "A day, 99%"]
    assert "day" not in set(measures.risk.stress["kind"])


def test_nothing_held(make_run):
    run = make_run(days=5, trading=False)
    measures = measure(run)
    assert measures.risk.stress.empty
    assert measures.risk.numbers["closed_trades"] == 0
    assert any(text.startswith("Nothing was held at any step") for text in words_of(run))
    summary = json.loads(to_json(summarise(run, measures)))["risk"]
    assert summary["stress"] == []
    assert summary["win_rate"] is summary["profit_factor"] is summary["hit_rate_long"] is None


def test_without_bitcoin_there_is_no_beta(run):
    measures = measure(dataclasses.replace(run, steps=run.steps.assign(bench_btc=np.nan, bench_equal=np.nan)))
    assert "btc" not in set(measures.risk.stress["kind"])
    assert [row[0] for row in stress(measures)] == [
        "All prices fall",
        "All prices rise",
        "Longs fall while shorts rise",
    ]
    assert np.isfinite(measures.risk.stress["worst"]).all()


def test_an_unknown_beta_is_said(run):
    short = dataclasses.replace(run, steps=run.steps.assign(bench_btc=[*[0.01, -0.01] * 10, *[np.nan] * 940]))
    assert any("of them are not known and taken as 1" in text for text in words_of(short))


def test_one_step_and_ruin(make_run):
    words_of(make_run(days=1 / 24))
    run = make_run(days=3)
    steps = run.steps.copy()
    steps.iloc[-1, steps.columns.get_loc("equity")] *= -1
    measures = measure(dataclasses.replace(run, steps=steps))
    assert np.isnan(measures.risk.stress["last"]).all()
    assert np.isfinite(measures.risk.stress["worst"]).all()
    assert stress_other(measures)[0][1] == "\N{EN DASH}"


def test_positions_at_other_times_than_the_steps_are_left_out(run):
    late = run.positions.iloc[:3].assign(datetime=pd.Timestamp("2030-01-01"), quantity=1e9)
    odd = dataclasses.replace(run, positions=pd.concat([run.positions, late], ignore_index=True))
    pd.testing.assert_frame_equal(measure(odd).risk.stress, measure(run).risk.stress)


def test_order_of_rows_says_nothing(run):
    shuffled = run.positions.sample(frac=1.0, random_state=1)
    pd.testing.assert_frame_equal(
        measure(dataclasses.replace(run, positions=shuffled)).risk.stress, measure(run).risk.stress
    )


def test_without_names_the_table_is_empty():
    closes = pd.date_range("2025-01-01", periods=3, freq="1h")
    none = np.empty((3, 0))
    out = stress_table(none, np.ones(3), none, np.empty(0), np.ones(3), closes, pd.Timedelta("1h"))
    assert out.empty
    assert {"kind", "move", "worst"} <= set(out.columns)


def test_fills_are_told_by_kind_of_order(run, make_run):
    assert kinds(run, measure(run)) == []
    fills = run.fills.reset_index(drop=True).assign(realised=np.linspace(-50.0, 90.0, len(run.fills)))
    fills["order"] = ["stop loss", "limit", "venue"] * (len(fills) // 3) + ["market"] * (len(fills) % 3)
    made = make_run({"fills": fills}, days=40)
    rows = {row[0]: row[1:] for row in kinds(made, measure(made))}
    assert list(rows)[-3:] == ["Limit", "Stop loss", "Venue"]
    own = fills[fills["order"] == "stop loss"]
    traded, realised, fee = (own["quantity"] * own["price"]).abs().sum(), own["realised"].sum(), own["fee"].sum()
    assert rows["Stop loss"] == (
        f"{len(own)}",
        f"{traded:,.0f}",
        formats.money(realised, 1e5, signed=True),
        f"{fee:,.0f}",
    )
    assert rows["Venue"][-1] == "0"
    measures = measure(made)
    assert "Fills by order" in page(made, measures, summarise(made, measures))
