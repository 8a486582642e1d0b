"""The figures draw what was computed: values, names, order, and nothing that is not there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qlib_crypto.report import figures
from qlib_crypto.report.measures import measure
from qlib_crypto.report.theme import COLOURS, LINES, template


@pytest.fixture(scope="module")
def measures(run):
    return measure(run)


def traces(figure):
    return {trace.name: trace for trace in figure.data}


def test_equity_is_drawn_as_return_since_start(measures):
    drawn = traces(figures.equity_and_drawdown(measures.curve))
    assert set(drawn) == {"Strategy", "BTC", "Equal weight", "Drawdown"}
    np.testing.assert_allclose(drawn["Strategy"].y, measures.curve["strategy"] - 1)
    np.testing.assert_allclose(drawn["Drawdown"].y, measures.curve["drawdown"])
    assert pd.Timestamp(drawn["Strategy"].x[0]) == measures.equity.index[0]


def test_a_benchmark_without_data_is_not_drawn(measures):
    drawn = traces(figures.equity_and_drawdown(measures.curve.assign(btc=np.nan)))
    assert set(drawn) == {"Strategy", "Equal weight", "Drawdown"}


def test_attribution_draws_the_three_causes_and_their_total(measures):
    figure = figures.source_attribution(measures.attribution, "USDT")
    drawn = traces(figure)
    assert drawn["Total"].y[-1] == pytest.approx(sum(drawn[name].y[-1] for name in ("Price", "Funding", "Fees")))
    assert figure.layout.yaxis.title.text == "Cumulated, USDT"


def test_many_instruments_are_cut_to_the_best_and_the_worst(measures):
    figure = figures.instrument_attribution(measures.instruments, "USDT")
    names = list(traces(figure)["Total"].y)
    assert len(names) == 2 * figures.TOP_INSTRUMENTS
    assert names[0] == measures.instruments.index[0].removesuffix(".OKX")
    assert names[-1] == measures.instruments.index[-1].removesuffix(".OKX")


def test_few_instruments_are_all_drawn(measures):
    few = measures.instruments.head(3)
    assert len(traces(figures.instrument_attribution(few))["Price"].y) == 3


def test_features_are_the_first_thirty(measures):
    bar = figures.feature_importance(measures.importance).data[0]
    assert list(bar.y) == list(measures.importance.index[: figures.TOP_FEATURES])
    np.testing.assert_allclose(bar.x, measures.importance.iloc[: figures.TOP_FEATURES])


def test_gains_and_losses_have_their_own_colours(measures):
    bar = figures.period_returns(measures.periods, "day").data[0]
    for value, colour in zip(bar.y, bar.marker.color, strict=True):
        assert colour == COLOURS["gain" if value >= 0 else "loss"]


def test_correlations_roll_above_and_add_up_below(measures):
    figure = figures.information_coefficient(measures.ic, "7 days")
    last = measures.ic["rank_ic"].dropna().sum()
    below = [trace for trace in figure.data if trace.yaxis == "y2" and trace.name == "Rank IC"]
    assert below[0].y[~np.isnan(below[0].y)][-1] == pytest.approx(last)
    assert figure.layout.yaxis.title.text == "IC, mean of 7 days"


def test_every_axis_with_a_unit_says_so(measures):
    assert figures.exposure(measures.exposure).layout.yaxis.title.text == "Times equity"
    assert figures.turnover(measures.periods, "week").layout.yaxis.title.text == "Times equity a week"
    assert figures.period_returns(measures.periods, "week").layout.yaxis.title.text == "Return a week"


@given(
    arrays(
        np.float64, st.tuples(st.integers(0, 900), st.integers(1, 3)), elements=st.floats(-1e3, 1e3) | st.just(np.nan)
    )
)
def test_thinning_keeps_every_extreme_and_both_ends(values):
    frame = pd.DataFrame(values, index=pd.RangeIndex(len(values)))
    thinned = figures.thin(frame, limit=60)
    assert len(thinned) <= max(60, 2 * frame.shape[1] + 3)
    assert thinned.index.is_monotonic_increasing
    assert thinned.index.is_unique
    if len(frame):
        assert {frame.index[0], frame.index[-1]} <= set(thinned.index)
    for name in frame.columns:
        pd.testing.assert_series_equal(
            thinned[name].agg(["min", "max"]), frame[name].agg(["min", "max"]), check_names=False
        )


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one, other):
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("background", ["#ffffff", "#171c22"])
def test_colours_are_seen_on_both_backgrounds(background):
    for name, colour in [*COLOURS.items(), *enumerate(LINES)]:
        assert _contrast(colour, background) >= 3, f"{name} {colour} on {background}"  # WCAG 2.2, 1.4.11
    ink = template("light" if background == "#ffffff" else "dark").layout.font.color
    assert _contrast(ink, background) >= 4.5
