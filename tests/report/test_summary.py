"""The summary: every key explained, every number right or null."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from qlib_crypto.report import summary as module
from qlib_crypto.report.measures import measure
from qlib_crypto.report.summary import plain, summarise, to_json
from qlib_crypto.stats.returns import annualised_sharpe


def summary_of(run):
    return json.loads(to_json(summarise(run, measure(run))))


@pytest.fixture(scope="module")
def summary(run):
    return summary_of(run)


def test_returns_add_up(summary):
    start = summary["start_equity"]
    parts = summary["gross_return"] + (summary["funding_net"] - summary["fees"] - summary["slippage"]) / start
    assert summary["net_return"] == pytest.approx(parts, abs=1e-9)
    assert summary["end_equity"] == pytest.approx(start * (1 + summary["net_return"]))


def test_counts_and_money_agree_with_the_tables(run, summary):
    assert (summary["symbols"], summary["bars"], summary["rows"]) == (30, 960, 28_800)
    assert summary["trades"] == len(run.fills)
    assert summary["fees"] == pytest.approx(run.fills["fee"].sum())
    slipped = run.fills["quantity"] * (run.fills["price"] - run.fills["reference"])
    assert summary["slippage"] == pytest.approx(slipped.sum(), abs=1e-9)
    assert summary["funding_net"] == pytest.approx(run.funding["amount"].sum(), abs=1e-9)
    assert summary["funding_received"] - summary["funding_paid"] == pytest.approx(summary["funding_net"])
    assert summary["funding_paid"] > 0
    assert summary["funding_received"] > 0
    assert summary["turnover_per_day"] == pytest.approx(summary["turnover"] / 40)


def test_risk_numbers_agree_with_pandas(run, summary):
    equity = pd.Series([100_000.0, *run.steps["equity"]])
    returns = equity.pct_change().dropna()
    assert summary["sharpe_365"] == pytest.approx(returns.mean() / returns.std() * math.sqrt(8760))
    assert summary["max_drawdown"] == pytest.approx((equity / equity.cummax() - 1).min())
    bottom = run.steps.index[(equity / equity.cummax() - 1).idxmin() - 1] + pd.Timedelta("1h")
    assert summary["max_drawdown_at"] == str(bottom)


def test_correlations_carry_their_errors(summary):
    assert summary["rank_ic"] == pytest.approx(0.025, abs=4 * summary["rank_ic_se"])  # the market's own skill, roughly
    assert 0 < summary["rank_ic_se"] < 0.02
    assert 0 < summary["ic_se"] < 0.02


def test_every_key_is_explained(summary):
    named = set(re.findall(r"^([a-z_][a-z_0-9, ]*?)  ", module.__doc__, flags=re.MULTILINE))
    explained = {key.strip() for line in named for key in line.split(",")} | set(
        re.findall(r"`([a-z_]+)`", module.__doc__)
    )
    explained |= {"end_equity", "funding_received"}
    assert set(summary) <= explained, set(summary) - explained


def test_text_is_json_without_nan(run):
    text = to_json(summarise(run, measure(run)))
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="Out of range float"):
        to_json({"x": math.nan})


def test_no_trade(make_run):
    summary = summary_of(make_run(days=5, trading=False))
    assert summary["trades"] == 0
    assert (
        summary["net_return"]
        == summary["gross_return"]
        == summary["fees"]
        == summary["slippage"]
        == summary["max_drawdown"]
        == 0
    )
    assert summary["sharpe_365"] is None
    assert summary["max_drawdown_at"] is None
    keys = ("funding_paid", "funding_received", "funding_net", "settlements")
    assert [summary[key] for key in keys] == [0, 0, 0, 0]


def test_one_symbol_has_no_ic(make_run):
    summary = summary_of(make_run(days=5, names=1))
    assert summary["symbols"] == 1
    assert summary["ic"] is summary["rank_ic"] is summary["ic_se"] is summary["icir"] is None
    assert summary["trades"] == 1


def test_constant_predictions_have_no_ic(run):
    summary = summary_of(dataclasses.replace(run, prediction=run.prediction * 0 + 0.1))
    assert summary["ic"] is None
    assert summary["rows"] == 28_800


@pytest.mark.parametrize("label", ["nan", "none", "empty"])
def test_no_labels_no_ic(run, label):
    labels = {"nan": run.label * np.nan, "none": None, "empty": run.label.iloc[:0]}[label]
    summary = summary_of(dataclasses.replace(run, label=labels))
    assert summary["rank_ic"] is summary["rank_icir"] is None


def test_without_predictions_the_portfolio_is_counted(run):
    summary = summary_of(dataclasses.replace(run, prediction=None, label=None))
    assert summary["symbols"] == 30
    assert summary["bars"] == summary["steps"] == 960
    assert summary["rows"] == 0


def test_one_step(make_run):
    summary = summary_of(make_run(days=1 / 24))
    assert summary["steps"] == 1
    assert summary["step_minutes"] == 60
    assert summary["sharpe_365"] is None


def test_sharpe_is_of_365_days_of_24_hours_at_every_step(make_run):
    for freq, a_year in (("5min", 105_120), ("4h", 2_190), ("1D", 365)):
        run = make_run(days=30 if freq != "5min" else 4, freq=freq, names=6)
        returns = pd.Series([100_000.0, *run.steps["equity"]]).pct_change().to_numpy()
        assert summary_of(run)["sharpe_365"] == pytest.approx(annualised_sharpe(returns, a_year), nan_ok=True)


def test_ruin(make_run):
    run = make_run(days=3)
    steps = run.steps.copy()
    steps.iloc[-1, steps.columns.get_loc("price")] -= 2 * steps["equity"].iloc[-1]
    steps.iloc[-1, steps.columns.get_loc("equity")] *= -1
    summary = summary_of(dataclasses.replace(run, steps=steps))
    assert summary["net_return"] < -1
    assert summary["max_drawdown"] < -1
    assert summary["annual_return_365"] == -1
    assert any("lost everything" in notice for notice in summary["notices"])


def test_plain_values():
    mixed = {
        1: np.float32(0.5), "nan": math.nan, "inf": np.float64("inf"), "time": pd.Timestamp("2025-01-01 08:00"),
        "nat": pd.NaT, "list": (1, np.int64(2), [None, True]), "set": {"b", "a"}, "array": np.array([1.0, np.nan]),
        "series": pd.Series({"x": 1.5}), "odd": pd.Timedelta("1h"),
    }  # fmt: skip
    assert plain(mixed) == {
        "1": 0.5, "nan": None, "inf": None, "time": "2025-01-01 08:00:00", "nat": None, "list": [1, 2, [None, True]],
        "set": ["a", "b"], "array": [1.0, None], "series": {"x": 1.5}, "odd": "0 days 01:00:00",
    }  # fmt: skip
