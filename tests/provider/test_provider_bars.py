from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from provider_lakes import T0, MemoryLake

from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.errors import SchemaError
from qlib_crypto.provider.resample import bar_fields, on_grid, resample
from qlib_crypto.symbols import Instrument, Interval, Venue

ONE, FIVE, QUARTER = (Interval.parse(name) for name in ("1m", "5m", "15m"))
BTC = Instrument("BTC", "USDT", Venue.OKX)
NAN = np.nan


def grid_bars(interval, minutes, rows):
    """Bars at these minutes after T0; a row is open high low close volume quote_volume."""
    names = ["open", "high", "low", "close", "volume", "quote_volume"]
    frame = pd.DataFrame(rows, columns=names, index=T0 + np.array(minutes, dtype=np.int64) * MINUTE_MS, dtype=float)
    return on_grid(MemoryLake({BTC: {interval: frame}}).bars(BTC, interval), interval)


def ones(minutes, **changed):
    rows = []
    for minute in minutes:
        row = {"o": 10 + minute, "h": 12 + minute, "l": 8 + minute, "c": 11 + minute, "v": 2, "q": 20}
        rows.append(list((row | changed.get(f"m{minute}", {})).values()))
    return grid_bars(ONE, minutes, rows)


def test_open_is_first_high_highest_low_lowest_close_last_and_volumes_add_up():
    bars = resample([ones(range(5), m2={"h": 99, "l": 1})], FIVE)
    assert bars.first_ms == T0
    assert bars.data[:, 0].tolist() == [10, 99, 1, 15, 10, 100]


def test_only_complete_bars_exist_and_a_hole_stays_a_hole():
    bars = resample([ones([*range(2, 10), *range(10, 14), *range(15, 20), 20])], FIVE)
    assert bars.first_ms == T0 + 5 * MINUTE_MS
    assert bars.present.tolist() == [True, False, True]
    assert np.isnan(bars.data[:, 1]).all()


def test_a_bar_comes_from_one_source_the_finest_that_covers_it():
    venue = grid_bars(FIVE, [0, 5, 10], [[70, 71, 69, 70, 7, 7]] * 3)
    bars = resample([venue, ones([*range(5), *range(5, 9)])], FIVE)
    assert bars.data[3].tolist() == [15, 70, 70], "4 of 5 minutes are not mixed with the venue's bar"
    quarter = resample([venue, ones(range(15))], QUARTER)
    assert quarter.data[3].tolist() == [25]
    assert resample([venue, ones(range(14))], QUARTER).data[3].tolist() == [70]


def test_an_interval_that_does_not_divide_the_target_gives_nothing():
    three = grid_bars(Interval.parse("3m"), [0, 3, 6, 9, 12], [[1, 1, 1, 1, 1, 1]] * 5)
    assert resample([three], FIVE) is None
    assert resample([three], QUARTER).length == 1
    assert resample([grid_bars(FIVE, [0], [[1, 1, 1, 1, 1, 1]])], ONE) is None


def test_amount_is_unknown_where_one_part_has_none():
    bars = resample([ones(range(10), m3={"q": NAN})], FIVE)
    assert np.isnan(bars.data[5, 0])
    assert bars.data[5, 1] == 100
    assert bars.data[4].tolist() == [10, 10]


def test_vwap_factor_and_change():
    bars = ones([0, 1, 2, 4, 5], m1={"v": 0, "q": 0}, m5={"q": NAN})
    fields = bar_fields(bars)
    np.testing.assert_array_equal(fields["vwap"], [10, NAN, 10, NAN, 10, NAN])
    np.testing.assert_array_equal(fields["factor"], [1, 1, 1, NAN, 1, 1])
    np.testing.assert_allclose(fields["change"], [NAN, 12 / 11 - 1, 13 / 12 - 1, NAN, NAN, 16 / 15 - 1])


def test_a_bar_off_its_grid_is_refused_by_name():
    with pytest.raises(SchemaError, match="5m bar of BTC_USDT opens at 2025-03-13 00:03:00"):
        grid_bars(FIVE, [3], [[1, 1, 1, 1, 1, 1]])
