"""What a reader is told first."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from qlib_crypto.backtest.notes import COUNTED, FUNDING_AS_NONE, PAID_AT_LAST_PRICE
from qlib_crypto.report.measures import measure
from qlib_crypto.report.notices import notices


def told(run):
    return notices(run, measure(run))


def test_a_good_long_run_needs_no_words(make_run):
    assert told(make_run(days=200, freq="4h")) == []


def test_a_short_one_is_told_what_annualising_means(run):
    (only,) = told(run)
    assert only.text.startswith("The test covers 40 days")
    assert not only.serious


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trading": False}, "No trade was made"),
        ({"names": 1}, "Only one instrument is predicted"),
        ({"names": 4}, "Only 4 instruments are predicted"),
    ],
)
def test_what_makes_a_headline_number_missing_is_serious_and_first(make_run, options, words):
    first = told(make_run(days=4, **options))[0]
    assert first.serious
    assert words in first.text


@pytest.mark.parametrize(
    ("change", "words", "serious"),
    [
        (lambda run: {"prediction": run.prediction * 0}, "the model learned nothing", True),
        (lambda run: {"label": run.label * np.nan}, "No prediction has a label", True),
        (lambda _: {"label": None}, "No prediction has a label", True),
        (lambda run: {"label": run.label.iloc[: len(run.label) // 2]}, "50.0% of the predictions have no label", False),
        (lambda _: {"prediction": None}, "There are no predictions", True),
        (
            lambda run: {
                "assumptions": {
                    **run.assumptions,
                    "funding_coverage": 0.726,
                    "order_rules": {"assumed": 50},
                    "margin_tiers": {"assumed": 22, "file": 28},
                }
            },
            "72.6% of the bars; margin tiers are assumed for 22 of 50 instruments; lots and ticks are not known for 50",
            False,
        ),
        (lambda run: {"funding": run.funding.iloc[:0]}, "No funding was settled", False),
        (
            lambda run: {"assumptions": {**run.assumptions, "notes": {COUNTED[FUNDING_AS_NONE]: 3}}},
            "as none in 3 instrument-bars",
            True,
        ),
        (
            lambda run: {"assumptions": {**run.assumptions, "notes": {COUNTED[PAID_AT_LAST_PRICE]: 1}}},
            "1 settlement had no",
            False,
        ),
        (lambda run: {"steps": run.steps.assign(bench_btc=np.nan)}, "There is no BTC benchmark", False),
        (lambda run: {"steps": run.steps.assign(fee=run.steps["fee"] * 1.001)}, "miss the change of equity by", True),
    ],
)
def test_each_fact_is_told(run, change, words, serious):
    found = [notice for notice in told(dataclasses.replace(run, **change(run))) if words in notice.text]
    assert [notice.serious for notice in found] == [serious]


def test_bars_where_all_predictions_are_the_same_are_counted(run):
    prediction = run.prediction.copy()
    prediction.loc[run.steps.index[:96]] = 0.5
    (found,) = [
        notice.text for notice in told(dataclasses.replace(run, prediction=prediction)) if "the same" in notice.text
    ]
    assert found.startswith("At 10.0% of the bars")


def test_a_generated_market_is_said_before_anything_else(run):
    made_up = dataclasses.replace(run, assumptions={**run.assumptions, "order_rules": {"generated": 30}})
    first = told(made_up)[0]
    assert first.serious
    assert "generated market" in first.text
