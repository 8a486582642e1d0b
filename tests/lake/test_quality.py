"""Quality flags: against arithmetic written out, and silent on real clean candles."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_lake import BTC, bar

from qlib_crypto import schemas
from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.lake.quality import Flag, gap_flags, outlier_flags, own_flags, row_flags
from qlib_crypto.lake.rows import batches
from qlib_crypto.lake.tables import BARS

PRICES = st.floats(1e-7, 1e6)
VOLUMES = st.just(0.0) | st.floats(1e-6, 1e9)


def said_flags(b):
    """The definition, with a division where the product could hide a mistake."""
    flags = Flag(0)
    if b.high < b.low:
        flags |= Flag.HIGH_BELOW_LOW
    low, high = sorted((b.low, b.high))
    if b.volume_quote is None:
        return flags
    slack = 0.01
    if b.volume_base == 0:
        return flags | Flag.UNIT_MISMATCH if b.volume_quote > slack else flags
    least, most = (b.volume_quote - slack) / b.volume_base, (b.volume_quote + slack) / b.volume_base
    return flags | Flag.UNIT_MISMATCH if most < low * 0.99 or least > high * 1.01 else flags


@given(st.lists(st.tuples(PRICES, PRICES, VOLUMES, st.none() | st.just(0.0) | st.floats(0, 1e12)), max_size=30))
def test_a_bars_own_flags_are_the_definition_by_row_and_by_column(values):
    bars = [
        bar(k, low=low, high=high, volume_base=base, volume_quote=quote)
        for k, (low, high, base, quote) in enumerate(values)
    ]
    expected = [int(said_flags(b)) for b in bars]
    assert [row_flags(b) for b in bars] == expected
    columns = batches(bars)[BTC.venue][BARS] if bars else []
    table = BARS.arrow(list(zip(*columns[2:], strict=True)))
    assert own_flags(table).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"volume_quote": 250.0}, 0),  # 2.5 coins at 99 to 101
        ({"volume_quote": None}, 0),
        ({"volume_quote": 2.5}, Flag.UNIT_MISMATCH),  # the base volume once more
        ({"volume_quote": 25_000.0}, Flag.UNIT_MISMATCH),  # contracts of 0.01 taken for coins
        ({"volume_base": 0.0, "volume_quote": 0.0}, 0),
        ({"volume_base": 0.0, "volume_quote": 250.0}, Flag.UNIT_MISMATCH),
        ({"volume_base": 1e-5, "volume_quote": 0.0}, 0),  # a tenth of a cent is rounded away
        ({"high": 98.0, "volume_quote": 245.0}, Flag.HIGH_BELOW_LOW),
        ({"high": 98.0, "volume_quote": 2.5}, Flag.HIGH_BELOW_LOW | Flag.UNIT_MISMATCH),
    ],
)
def test_bars_that_show_a_flag_by_themselves(changes, flag):
    assert row_flags(bar(0, **changes)) == flag


@given(st.lists(st.integers(1, 10**6), max_size=40))
def test_a_gap_is_more_than_a_tenth_beyond_the_interval(steps):
    times = np.cumsum(np.array([10**12, *steps], dtype=np.int64))
    expected = [0] + [Flag.GAP_BEFORE if 10 * step > 11 * MINUTE_MS else 0 for step in steps]
    assert gap_flags(times, MINUTE_MS).tolist() == expected
    assert gap_flags(times[:0], MINUTE_MS).tolist() == []


APART = st.floats(-0.5, 0.5).filter(lambda apart: abs(abs(apart) - 0.05) > 1e-9)


@given(st.lists(st.tuples(PRICES, APART), max_size=30))
def test_an_outlier_is_a_log_ratio_beyond_five_percent(pairs):
    ours = np.array([price for price, _ in pairs])
    theirs = np.array([price * math.exp(apart) for price, apart in pairs])
    expected = [Flag.OUTLIER if abs(apart) > 0.05 else 0 for _, apart in pairs]
    assert outlier_flags(ours, theirs).tolist() == outlier_flags(theirs, ours).tolist() == expected


def test_one_price_of_four_makes_an_outlier_and_what_the_other_venue_lacks_is_not_judged():
    theirs = np.array([[100.0, 101, 99, 100], [100, 101, 99, 100], [np.nan] * 4])
    ours = np.array([[100.0, 101, 99, 100.2], [100, 140, 99, 100], [1, 1, 1, 1.0]])
    assert outlier_flags(ours, theirs).tolist() == [0, Flag.OUTLIER, 0]


def test_words_name_every_flag():
    assert Flag(3).words == "high below low, gap before"
    assert Flag(0).words == ""


def test_no_clean_real_candle_is_flagged_and_wrong_units_are(real_data):
    bars = flagged = caught = 0
    for path in sorted((real_data / "candles" / "binance_um_1h").glob("*.parquet")):
        frame = pl.read_parquet(path).with_columns(
            pl.lit("X_USDT").alias("symbol"), pl.lit("import").alias("source"), pl.col("timestamp").alias("received_at")
        )
        table = frame.select(schemas.KLINE.names).to_arrow().cast(schemas.KLINE)
        times = table.column("timestamp").cast("int64").to_numpy()
        flagged += np.count_nonzero(own_flags(table) | gap_flags(times, 60 * MINUTE_MS))
        tenfold = frame.with_columns(pl.col("volume") * 10).select(schemas.KLINE.names).to_arrow().cast(schemas.KLINE)
        caught += np.count_nonzero(own_flags(tenfold) == Flag.UNIT_MISMATCH)
        bars += len(table)
    assert (bars, flagged) == (208_304, 0)
    assert caught >= 0.99999 * bars


def test_no_hour_that_two_real_venues_share_is_an_outlier(real_data):
    shared = flagged = 0
    columns = ["open", "high", "low", "close"]
    for path in sorted((real_data / "candles" / "binance_um_1m").glob("*.parquet")):
        other = real_data / "candles" / "okx_swap_1h" / f"{path.stem.removesuffix('USDT')}-USDT-SWAP.parquet"
        if not other.exists():
            continue
        hours = (
            pl.read_parquet(path)
            .group_by_dynamic("timestamp", every="1h")
            .agg(pl.first("open"), pl.max("high"), pl.min("low"), pl.last("close"), pl.len())
            .filter(pl.col("len") == 60)
        )
        both = pl.read_parquet(other).join(hours, on="timestamp", suffix="_theirs")
        ours, theirs = (both.select(f"{name}{end}" for name in columns).to_numpy() for end in ("", "_theirs"))
        flagged += np.count_nonzero(outlier_flags(ours, theirs))
        shared += len(both)
    assert (shared, flagged) == (1_845, 0)
