from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from provider_lakes import T0, MemoryLake, make_bars

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.errors import SchemaError
from qlib_crypto.lake.tables import BARS
from qlib_crypto.market.funding import holes
from qlib_crypto.provider import funding
from qlib_crypto.provider.funding import FUNDING_FIELDS, SERIES, Settled, price, price_sources, series_by_symbol
from qlib_crypto.provider.panel import COLUMNS, spread
from qlib_crypto.symbols import Instrument, Interval, Venue

BTC = Instrument("BTC", "USDT", Venue.OKX)
HOUR, FOUR, DAY, MINUTE = (Interval.parse(name) for name in ("1h", "4h", "1d", "1m"))
NAN = np.nan


def settle(rows, bars=()):
    """Settlements (hours after T0, ms of jitter, rate, mark) with trade prices from bars by interval."""
    frame = pd.DataFrame(
        [(rate, mark) for _, _, rate, mark in rows],
        columns=["rate", "mark"],
        index=[T0 + int(hours * HOUR_MS) + jitter for hours, jitter, _, _ in rows],
        dtype=float,
    )
    lake = MemoryLake({BTC: dict(bars)}, {BTC: frame})
    series = series_by_symbol(lake.settlements(Venue.OKX)).get("BTC_USDT", np.zeros(0, SERIES))
    window = T0, T0 + DAY_MS
    price(
        series,
        [spread(lake.columns(BARS, [BTC], window, COLUMNS, interval=i), [BTC], i, window) for i in dict(bars)],
        0, 0, 1 << 62,
    )  # fmt: skip
    return Settled.of(series)


def funding_fields(settled, *asked):
    return dict(zip(FUNDING_FIELDS, funding.funding_fields([settled], *asked)[:, 0], strict=True))


def check(found, **expected):
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)


def test_fields_hour_by_hour():
    at = settle([(2, 7, 0.01, 100), (6, -2, 0.02, 50), (10, 0, -0.03, NAN)])
    check(
        funding_fields(at, HOUR, T0, 16),
        funding=[NAN, NAN, 0.01, 0, 0, 0, 0.02, 0, 0, 0, -0.03, 0, 0, 0, NAN, NAN],
        funding_cash=[NAN, NAN, 1, 0, 0, 0, 1, 0, 0, 0, NAN, 0, 0, 0, NAN, NAN],
        funding_open=[NAN, NAN, 0.01, 0, 0, 0, 0.02, 0, 0, 0, -0.03, 0, 0, 0, NAN, NAN],
        funding_rate=[NAN, NAN, *[0.01] * 4, *[0.02] * 4, *[-0.03] * 6],
        funding_interval=[*[NAN] * 6, *[4] * 10],
    )


def test_a_longer_bar_sums_what_settles_inside_and_splits_off_its_open():
    at = settle([(0, 0, 0.01, 100), (2, 0, 0.02, 100), (4, 16, 0.04, 100), (8, 0, 0.08, 100)])
    check(
        funding_fields(at, FOUR, T0, 3),
        funding=[0.03, 0.04, 0.08],
        funding_cash=[3, 4, 8],
        funding_open=[0.01, 0.04, 0.08],
        funding_open_cash=[1, 4, 8],
        funding_rate=[0.01, 0.04, 0.08],
        funding_interval=[NAN, 2, 4],
    )


def test_a_bar_that_is_not_known_to_its_end_is_unknown_but_its_open_may_be_known():
    at = settle([(-8, 0, 0.01, 100), (0, 0, 0.02, 100)])
    check(
        funding_fields(at, DAY, T0, 1),
        funding=[NAN],
        funding_cash=[NAN],
        funding_open=[0.02],
        funding_open_cash=[2],
        funding_rate=[0.02],
        funding_interval=[8],
    )


def test_a_hole_is_unknown_and_the_settlements_around_it_are_known():
    at = settle([(0, 0, 0.01, 1), (8, 0, 0.02, 1), (26, 0, 0.03, 1), (34, 0, 0.04, 1)])
    fields = funding_fields(at, HOUR, T0, 34)
    # the interval that the settlement at 08:00 began ends at 16:00; the one that begins at 26:00 is of unknown length
    assert np.flatnonzero(np.isnan(fields["funding_open"])).tolist() == list(range(16, 26))
    assert np.flatnonzero(np.isnan(fields["funding"])).tolist() == list(range(16, 26))
    assert np.flatnonzero(np.isnan(fields["funding_next"])).tolist() == [*range(8), *range(16, 34)]
    alone = settle([(0, 0, 0.01, 1), (26, 0, 0.02, 1)])
    assert np.flatnonzero(np.isnan(funding_fields(alone, MINUTE, T0, 3)["funding"])).tolist() == [1, 2]


def test_the_rate_ages_out_after_eight_hours_and_a_minute():
    at = settle([(0, 0, 0.01, 1)])
    fields = funding_fields(at, MINUTE, T0 + 8 * HOUR_MS, 3)
    check(fields, funding_rate=[0.01, 0.01, NAN], funding_interval=[NAN] * 3, funding=[NAN] * 3)


def test_price_is_the_mark_else_the_open_of_the_finest_bar_of_that_minute_else_unknown():
    rng = np.random.default_rng(1)
    minutes = make_bars(rng, MINUTE, T0 + HOUR_MS, 3)
    hours = make_bars(rng, HOUR, T0, 4)
    rows = [(0, 0, 1, NAN), (1, 5, 1, NAN), (2, 0, 1, 77), (3 + 1 / 60, 0, 1, NAN), (9, 0, 1, NAN)]
    at = settle(rows, {HOUR: hours, MINUTE: minutes})
    expected = [hours["open"][T0], minutes["open"][T0 + HOUR_MS], 77, NAN, NAN]
    np.testing.assert_array_equal(at.series["price"], expected)
    assert price_sources(at.series) == {"mark": 1, "trade": 2, "unknown": 2}


def test_one_settlement_of_unknown_price_makes_the_cash_of_its_bar_unknown_not_the_rate():
    at = settle([(0, 0, 0.01, 100), (1, 0, 0.02, NAN), (2, 0, 0.03, 100), (4, 0, 0, 100), (8, 0, 0, 1)])
    check(
        funding_fields(at, FOUR, T0, 2),
        funding=[0.06, 0],
        funding_cash=[NAN, 0],
        funding_open_cash=[1, 0],
    )


def test_without_settlements_everything_is_unknown():
    fields = funding_fields(settle([]), HOUR, T0, 3)
    assert all(np.isnan(values).all() for values in fields.values())


def test_two_settlements_of_one_minute_are_refused():
    with pytest.raises(SchemaError, match="two settlements of BTC_USDT at 2025-03-13 08:00:00"):
        settle([(8, -2, 0.01, 1), (8, 9, 0.01, 1)])


def test_the_next_settlement_is_unknown_from_the_one_that_stayed_away_on():
    """Binance ESP_USDT, 2026-03-05: hourly until 21:00, four-hourly from then on."""
    at = settle([(hour, 0, 0.01, 1) for hour in (19, 20, 21, 24, 28, 32, 36)])
    check(
        funding_fields(at, HOUR, T0 + 19 * HOUR_MS, 12),
        funding_next=[NAN, 1, 1, NAN, NAN, 3, 2, 1, 4, 3, 2, 1],
        funding_interval=[NAN, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 4],
        funding=[0.01, 0.01, 0.01, 0, 0, 0.01, 0, 0, 0, 0.01, 0, 0],
    )
    check(funding_fields(at, FOUR, T0 + 16 * HOUR_MS, 4), funding_next=[NAN, NAN, 4, 4])
    minutes = funding_fields(at, MINUTE, T0 + 22 * HOUR_MS - 2 * MINUTE_MS, 4)
    check(minutes, funding_next=[1 / 60, 1, NAN, NAN])
    check(funding_fields(settle([(0, 0, 0, 1), (5, 0, 0, 1)]), HOUR, T0 + 5 * HOUR_MS, 1), funding_next=[NAN])


SETTLEMENTS = st.lists(st.integers(1, 10), min_size=1, max_size=12)


@given(SETTLEMENTS, st.sampled_from([MINUTE, HOUR, FOUR]), st.integers(1, 60))
def test_nothing_is_known_before_its_time(gaps, interval, hour):
    """Without what settles at or after a close: rates and times stay as they are.

    Amounts stay, or are still unknown, or what comes later shows that a settlement between was lost.
    """
    rows = [(h, 0, h / 1000, 1) for h in np.cumsum([0, *gaps]).tolist()]
    close = T0 + hour * HOUR_MS // interval.ms * interval.ms
    count = min((close - T0) // interval.ms, 24 * 60)
    first = close - count * interval.ms
    full = funding_fields(settle(rows), interval, first, count)
    past = [row for row in rows if T0 + row[0] * HOUR_MS < close]
    known = funding_fields(settle(past), interval, first, count)
    for name in ("funding_rate", "funding_interval", "funding_next"):
        np.testing.assert_array_equal(known[name], full[name], err_msg=name)
    found = holes(settle(rows).time_ms).sum() > holes(settle(past).time_ms).sum() if past else True
    for name in ("funding", "funding_cash", "funding_open", "funding_open_cash"):
        both = np.isfinite(known[name]) & (np.isfinite(full[name]) | (not found))
        np.testing.assert_array_equal(known[name][both], full[name][both], err_msg=name)
    told = np.isfinite(full["funding_next"])
    assert np.isfinite(known["funding"][told & np.isfinite(full["funding"])]).all()


def test_what_was_lost_between_hourly_settlements_is_unknown_not_zero():
    at = settle([(hour, 0, 0.01, 1) for hour in (0, 1, 2, 7, 8, 9, 10)])
    hourly = funding_fields(at, HOUR, T0, 11)
    check(hourly, funding=[0.01, 0.01, 0.01, NAN, NAN, NAN, NAN, 0.01, 0.01, 0.01, 0.01])
    until_seven = settle([(hour, 0, 0.01, 1) for hour in (0, 1, 2, 7)])
    check(funding_fields(until_seven, HOUR, T0 + 3 * HOUR_MS, 4), funding=[0, 0, 0, 0])  # may have grown


@given(st.lists(SETTLEMENTS, min_size=1, max_size=5))
def test_many_series_at_once_are_each_alone(many):
    series = []
    for gaps in many:
        out = np.zeros(len(gaps), SERIES)
        out["time_ms"] = T0 + np.cumsum(gaps) * HOUR_MS
        series.append(out[: len(gaps) - (gaps[0] == 10)])
    for alone, together in zip(map(Settled.of, series), Settled.of_all(series), strict=True):
        np.testing.assert_array_equal(alone.interval_hours, together.interval_hours)
        np.testing.assert_array_equal(alone.due_ms, together.due_ms)
        np.testing.assert_array_equal(alone.known_ms, together.known_ms)
        np.testing.assert_array_equal(alone.told(), together.told())


@given(st.lists(SETTLEMENTS, min_size=1, max_size=4), st.sampled_from([MINUTE, HOUR, FOUR]), st.integers(-9, 40))
def test_fields_of_many_are_those_of_each(many, interval, since):
    first = T0 + since * FOUR.ms
    settled = []
    for gaps in many:
        series = np.zeros(len(gaps), SERIES)
        series["time_ms"] = T0 + np.cumsum(gaps) * HOUR_MS
        series["rate"], series["price"] = np.arange(1, len(gaps) + 1) / 100, np.where(gaps[0] == 9, np.nan, 50)
        settled.append(Settled.of(series[: len(gaps) - (gaps[0] == 10)]))
    together = funding.funding_fields(settled, interval, first, 50)
    for at, alone in enumerate(settled):
        np.testing.assert_array_equal(funding.funding_fields([alone], interval, first, 50)[:, 0], together[:, at])


def test_bar_edges_belong_to_the_bar_that_opens_there():
    at = settle([(0, 0, 0, 1), (4 - 1 / 60, 0, 0.01, 1), (4, 0, 0.02, 1), (8, 0, 0, 1)])
    check(funding_fields(at, FOUR, T0, 2), funding=[0.01, 0.02], funding_open=[0, 0.02])
    assert at.time_ms.tolist() == [T0, T0 + 4 * HOUR_MS - MINUTE_MS, T0 + 4 * HOUR_MS, T0 + 8 * HOUR_MS]
