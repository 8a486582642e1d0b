from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from provider_lakes import T0, MemoryLake, make_bars

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.errors import SchemaError
from qlib_crypto.provider.funding import funding_fields, settled
from qlib_crypto.provider.resample import on_grid
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
    return settled(lake.settlements(Venue.OKX), [on_grid(lake.bars(BTC, i), i) for i in dict(bars)])


def check(found, **expected):
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, err_msg=name)


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
    assert np.flatnonzero(np.isnan(fields["funding_open"])).tolist() == list(range(9, 26))
    assert np.flatnonzero(np.isnan(fields["funding"])).tolist() == list(range(8, 26)), "8:00-9:00 reaches into the hole"
    assert np.flatnonzero(np.isnan(funding_fields(at, MINUTE, T0 + 8 * HOUR_MS, 3)["funding"])).tolist() == [1, 2]


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
    np.testing.assert_array_equal(at.price, expected)
    assert at.price_sources == {"mark": 1, "trade": 2, "unknown": 2}


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


def test_nothing_is_known_before_its_time():
    """A field as of a bar's open does not change when settlements after that open are taken away."""
    rows = [(h, 0, h / 1000, 1) for h in (0, 8, 12, 13, 21, 25)]
    full = funding_fields(settle(rows), HOUR, T0, 24)
    for hour in range(24):
        past = funding_fields(settle([row for row in rows if row[0] <= hour]), HOUR, T0, 24)
        for name in ("funding_rate", "funding_interval"):
            np.testing.assert_array_equal(past[name][hour], full[name][hour])


def test_bar_edges_belong_to_the_bar_that_opens_there():
    at = settle([(0, 0, 0, 1), (4 - 1 / 60, 0, 0.01, 1), (4, 0, 0.02, 1), (8, 0, 0, 1)])
    check(funding_fields(at, FOUR, T0, 2), funding=[0.01, 0.02], funding_open=[0, 0.02])
    assert at.time_ms.tolist() == [T0, T0 + 4 * HOUR_MS - MINUTE_MS, T0 + 4 * HOUR_MS, T0 + 8 * HOUR_MS]
