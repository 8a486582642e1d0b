"""The capacity of a run: each order's impact by hand, and what is left of the return."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from qlib_crypto.report.capacity import capacity
from qlib_crypto.report.measures import measure
from qlib_crypto.stats.returns import steps_in_year

YEAR = steps_in_year(3_600_000)


@pytest.fixture(scope="module")
def run(make_run):
    return make_run(days=40)


def equity_of(run):
    return measure(run).equity


def test_each_order_pays_its_own_impact(run):
    equity = equity_of(run)
    larger = capacity(run, equity, YEAR)
    values = equity.to_numpy()
    left = 1.0
    for number, step in enumerate(run.steps.index):
        paid = 0.0
        for fill in run.fills[run.fills["datetime"] == step].itertuples():
            notional = abs(fill.quantity) * fill.price
            paid += 0.01 * np.sqrt(notional / 2_000_000.0) * notional
        earned = values[number + 1] / values[number] - 1
        left *= 1 + earned - np.sqrt(10.0) * paid / values[number]
    row = larger.table[larger.table["account"] == 1_000_000.0]
    assert row["net_return"].item() == pytest.approx(left - 1, rel=1e-9)
    assert larger.table["net_return"].iloc[0] == pytest.approx(values[-1] / values[0] - 1, rel=1e-9)


def test_half_of_the_return_is_left_where_it_says(run):
    larger = capacity(run, equity_of(run), YEAR)
    assert 100_000 < larger.half < larger.none
    near = np.interp(np.sqrt(larger.half), np.sqrt(larger.table["account"]), larger.table["net_return"])
    assert near == pytest.approx(larger.table["net_return"].iloc[0] / 2, rel=1e-6)


def test_what_the_venue_did_is_no_order(run, make_run):
    fills = run.fills.copy()
    fills.loc[fills.index[::2], "order"] = "venue"
    fewer = capacity(make_run({"fills": fills}, days=40), equity_of(run), YEAR)
    assert fewer.table["net_return"].iloc[-1] > capacity(run, equity_of(run), YEAR).table["net_return"].iloc[-1]


def test_a_market_that_is_not_known_yet_is_as_when_it_first_is(run, make_run):
    fills = run.fills.copy()
    first = fills.sort_values("datetime").groupby("instrument").head(1).index
    fills.loc[first, ["market_volume", "market_volatility"]] = np.nan
    later = capacity(make_run({"fills": fills}, days=40), equity_of(run), YEAR)
    pd.testing.assert_frame_equal(later.table, capacity(run, equity_of(run), YEAR).table)


def test_an_unknown_market_has_no_capacity(run, make_run):
    fills = run.fills.copy()
    fills.loc[fills["instrument"] == fills["instrument"].iloc[3], "market_volume"] = np.nan
    assert capacity(make_run({"fills": fills}, days=40), equity_of(run), YEAR) is None
    before = run.fills.drop(columns=["market_volume", "market_volatility"])
    assert capacity(make_run({"fills": before}, days=40), equity_of(run), YEAR) is None
