from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from provider_lakes import T0, MemoryLake, make_bars

from qlib_crypto.clock import DAY_MS, MINUTE_MS
from qlib_crypto.errors import SchemaError
from qlib_crypto.lake.tables import BARS
from qlib_crypto.provider.panel import BAR_FIELDS, COLUMNS, bar_fields, resample, spread
from qlib_crypto.symbols import Instrument, Interval, Venue

ONE, FIVE, QUARTER = (Interval.parse(name) for name in ("1m", "5m", "15m"))
BTC = Instrument("BTC", "USDT", Venue.OKX)
NAN = np.nan


def grid_bars(interval, minutes, rows):
    """Bars at these minutes after T0; a row is open high low close volume quote_volume."""
    names = ["open", "high", "low", "close", "volume", "quote_volume"]
    frame = pd.DataFrame(rows, columns=names, index=T0 + np.array(minutes, dtype=np.int64) * MINUTE_MS, dtype=float)
    lake, window = MemoryLake({BTC: {interval: frame}}), (T0, T0 + DAY_MS)
    return spread(lake.columns(BARS, [BTC], window, COLUMNS, interval=interval), [BTC], interval, window)


def ones(minutes, **changed):
    rows = []
    for minute in minutes:
        row = {"o": 10 + minute, "h": 12 + minute, "l": 8 + minute, "c": 11 + minute, "v": 2, "q": 20}
        rows.append(list((row | changed.get(f"m{minute}", {})).values()))
    return grid_bars(ONE, minutes, rows)


def made(sources, target):
    """The bars of the target up to the last one, of which row 0 is the instrument."""
    panel = resample(sources, [target]).get(target)
    return None if panel is None else panel.slots(0, int(np.flatnonzero(panel.present[0])[-1]) + 1)


def test_open_is_first_high_highest_low_lowest_close_last_and_volumes_add_up():
    bars = made([ones(range(5), m2={"h": 99, "l": 1})], FIVE)
    assert bars.start_ms == T0
    assert [bars.data[name][0, 0] for name in COLUMNS] == [10, 99, 1, 15, 10, 100]


def test_only_complete_bars_exist_and_a_hole_stays_a_hole():
    bars = made([ones([*range(2, 10), *range(10, 14), *range(15, 20), 20])], FIVE)
    assert bars.present[0].tolist() == [False, True, False, True]
    assert all(np.isnan(values[0, [0, 2]]).all() for values in bars.data.values())


def test_a_bar_comes_from_one_source_the_finest_that_covers_it():
    venue = grid_bars(FIVE, [0, 5, 10], [[70, 71, 69, 70, 7, 7]] * 3)
    bars = made([venue, ones([*range(5), *range(5, 9)])], FIVE)
    assert bars.data["close"][0].tolist() == [15, 70, 70], "4 of 5 minutes are not mixed with the venue's bar"
    assert made([venue, ones(range(15))], QUARTER).data["close"][0].tolist() == [25]
    assert made([venue, ones(range(14))], QUARTER).data["close"][0].tolist() == [70]


def test_an_interval_that_does_not_divide_the_target_gives_nothing():
    three = grid_bars(Interval.parse("3m"), [0, 3, 6, 9, 12], [[1, 1, 1, 1, 1, 1]] * 5)
    assert made([three], FIVE) is None
    assert made([three], QUARTER).present[0].tolist() == [True]
    assert made([grid_bars(FIVE, [0], [[1, 1, 1, 1, 1, 1]])], ONE) is None


def test_amount_is_unknown_where_one_part_has_none():
    bars = made([ones(range(10), m3={"q": NAN})], FIVE)
    assert np.isnan(bars.data["quote_volume"][0, 0])
    assert bars.data["quote_volume"][0, 1] == 100
    assert bars.data["volume"][0].tolist() == [10, 10]


@pytest.mark.parametrize("targets", [["5m", "15m", "1h", "4h", "1d"], ["3m", "6m", "18m", "90m", "12h"], ["1d"]])
def test_bars_of_bars_are_bars_of_the_finest(targets):
    """Each frequency is joined of the coarsest that divides it: all that says must be what the minutes say."""
    rng = np.random.default_rng(7)
    frames = [make_bars(rng, ONE, T0, 1440, holes=holes) for holes in (0, 0.001)]
    instruments = [BTC, Instrument("ETH", "USDT", Venue.OKX)]
    lake = MemoryLake({i: {ONE: frame} for i, frame in zip(instruments, frames, strict=True)})
    window = T0, T0 + DAY_MS
    source = spread(lake.columns(BARS, instruments, window, COLUMNS, interval=ONE), instruments, ONE, window)
    intervals = [Interval.parse(name) for name in targets]
    for interval, panel in resample([source], intervals).items():
        for row, frame in enumerate(frames):
            minutes = frame.reindex(T0 + np.arange(1440) * MINUTE_MS)
            groups = minutes.groupby((minutes.index - T0) // interval.ms)
            whole = groups["close"].count().to_numpy() == interval.ms // MINUTE_MS
            assert panel.present[row].tolist() == whole.tolist()
            for name, how in zip(COLUMNS, ("first", "max", "min", "last", "sum", "sum"), strict=True):
                right = np.where(whole, groups[name].agg(how), NAN)
                np.testing.assert_allclose(panel.data[name][row], right, rtol=1e-13, err_msg=f"{interval} {name}")


def test_vwap_factor_and_change():
    bars = ones([0, 1, 2, 4, 5], m1={"v": 0, "q": 0}, m5={"q": NAN})
    fields = dict(zip(BAR_FIELDS, bar_fields(bars.slots(0, 6))[:, 0], strict=True))
    np.testing.assert_array_equal(fields["vwap"], [NAN, 10, NAN, 10, NAN])
    np.testing.assert_array_equal(fields["factor"], [1, 1, NAN, 1, 1])
    np.testing.assert_allclose(fields["change"], [12 / 11 - 1, 13 / 12 - 1, NAN, NAN, 16 / 15 - 1], rtol=1e-6)


def test_a_bar_off_its_grid_is_refused_by_name():
    with pytest.raises(SchemaError, match="5m bar of BTC_USDT opens at 2025-03-13 00:03:00"):
        grid_bars(FIVE, [3], [[1, 1, 1, 1, 1, 1]])
