"""The worst steps against a plain sum over every instrument."""

from __future__ import annotations

import pytest

from qlib_crypto.report import tables
from qlib_crypto.report.measures import measure
from qlib_crypto.report.worst import worst_steps


def test_each_steps_instruments_add_up_and_the_worst_is_named(make_run):
    run = make_run(days=10, slippage=0.001)
    measures = measure(run)
    every = worst_steps(run, measures, count=1000)
    assert every["return"].is_monotonic_increasing
    losing = run.steps[["price", "funding", "fee", "slippage"]].sum(axis=1)
    assert set(every.index) == set(losing.index[losing < 0])
    at = every.index[0]
    row = run.steps.index.get_loc(at)
    now, before = (
        run.positions[run.positions["datetime"] == run.steps.index[r]].set_index("instrument") for r in (row, row - 1)
    )
    gained = {}
    for name in set(now.index) | set(before.index):
        for held, sign in ((now, 1), (before, -1)):
            if name in held.index:
                value = sign * held.loc[name, "quantity"] * held.loc[name, "mark"]
                gained[name] = gained.get(name, 0.0) + value
    for fill in run.fills[run.fills["datetime"] == at].itertuples():
        gained[fill.instrument] = gained.get(fill.instrument, 0.0) - fill.quantity * fill.price - fill.fee
    for paid in run.funding[run.funding["time"] == at].itertuples():
        gained[paid.instrument] = gained.get(paid.instrument, 0.0) + paid.amount
    assert sum(gained.values()) == pytest.approx(losing[at])
    assert every.loc[at, "instrument"] == min(gained, key=gained.get)
    assert every.loc[at, "amount"] == pytest.approx(min(gained.values()))


def test_an_account_that_never_fell_has_no_worst_step(make_run):
    run = make_run(days=3, trading=False)
    assert worst_steps(run, measure(run)).empty


def test_months_are_in_calendar_order_with_their_gaps_and_one_month_stands_alone(make_run):
    names, ((_, cells),) = tables.months(measure(make_run(days=20, start="2025-02-03")).months)
    assert names == ["Feb"]
    assert len(cells) == 1
    months = measure(make_run(days=80, freq="1d", start="2025-02-03")).months
    months.loc[2025, 3] = float("nan")
    names, ((_, cells),) = tables.months(months)
    assert names == ["Feb", "Mar", "Apr", "Whole year"]
    assert cells[1][0] == "\N{EN DASH}"


def test_the_funding_tile_says_how_much_is_known(make_run):
    from qlib_crypto.report.summary import summarise  # noqa: PLC0415 - used here only

    def tile(share):
        base = make_run(days=3)
        run = make_run({"assumptions": {**base.assumptions, "funding_coverage": share}}, days=3)
        measures = measure(run)
        return tables.cards(measures, summarise(run, measures))[-1].context

    assert "known on 39.8% of bars" in tile(0.398)
    assert "known" not in tile(0.995)
