from __future__ import annotations

import itertools
import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlib_crypto.errors import SchemaError
from qlib_crypto.market.margin import ASSUMED, MarginTable, MarginTier, assumed_table, ccxt_tables
from qlib_crypto.symbols import Instrument, Venue

BTC = Instrument.parse("BTC_USDT.BINANCE")
# (cap, maintenance rate, leverage) as a venue might publish them
ROWS = ((5_000.0, 0.01, 50.0), (50_000.0, 0.02, 25.0), (250_000.0, 0.05, 10.0))


def ccxt_rows(rows=ROWS, *, cum=None, key="minNotional"):
    floors = [0.0, *(cap for cap, _, _ in rows)]
    return [
        {
            "tier": n + 1.0, key: floor, "maxNotional": cap, "maintenanceMarginRate": rate, "maxLeverage": leverage,
            "info": {} if cum is None else {"cum": str(cum[n])},
        }
        for n, (floor, (cap, rate, leverage)) in enumerate(zip(floors, rows, strict=False))
    ]  # fmt: skip


def write(path, markets):
    path.write_text(json.dumps(markets))
    return path


def test_a_binance_bracket_charges_each_part_at_its_own_rate(tmp_path):
    table = ccxt_tables(write(tmp_path / "t.json", {"BTC/USDT:USDT": ccxt_rows()}), Venue.BINANCE)[BTC]
    assert table.source == "file"
    assert not table.by_quantity
    # 80,000: the first 5,000 at 1 %, the next 45,000 at 2 %, the last 30,000 at 5 %
    assert table.maintenance(-2.0, 40_000.0) == pytest.approx(50 + 900 + 1_500)
    assert table.tier(2.0, 40_000.0).max_leverage == 10
    assert table.most == 250_000


def test_an_okx_tier_holds_for_the_whole_position_and_counts_contracts(tmp_path):
    btc = Instrument.parse("BTC_USDT.OKX")
    path = write(tmp_path / "t.json", {"BTC/USDT:USDT": ccxt_rows(), "NEW/USDT:USDT": ccxt_rows()})
    tables = ccxt_tables(path, Venue.OKX, {btc: 0.01})
    assert set(tables) == {btc}, "a contract of unknown value is left out"
    assert tables[btc].by_quantity
    assert tables[btc].most == 2_500.0
    # 60 coins are 6,000 contracts, in the second tier; whatever the price
    assert tables[btc].maintenance(60.0, 100.0) == pytest.approx(6_000 * 0.02)
    assert tables[btc].maintenance(60.0, 1_000.0) == pytest.approx(60_000 * 0.02)


def test_a_position_of_exactly_a_cap_is_in_the_lower_tier():
    table = MarginTable((MarginTier(0, 100, 0.01, 50), MarginTier(100, 200, 0.02, 25)), by_quantity=False, source="x")
    assert table.tier(1.0, 100.0).max_leverage == 50
    assert table.tier(1.0, 100.001).max_leverage == 25
    assert table.tier(1.0, 1e9).max_leverage == 25


def test_what_is_inverse_dated_or_in_another_coin_is_no_instrument(tmp_path):
    names = ["BTC/USD:BTC", "BTC/USDT:USDT-261225", "ETH/BTC:BTC", "BTC/USDC:USDC"]
    tables = ccxt_tables(write(tmp_path / "t.json", dict.fromkeys(names, ccxt_rows())), Venue.BINANCE)
    assert [table.symbol for table in tables] == ["BTC_USDC"]


@pytest.mark.parametrize(
    ("markets", "said"),
    [
        ("no json", "no file of leverage tiers"),
        ([1], "no file of leverage tiers"),
        ({"BTC/USDT:USDT": ccxt_rows(key="floor")}, "minNotional"),
        ({"BTC/USDT:USDT": []}, "no tier"),
        ({"BTC/USDT:USDT": ccxt_rows(cum=(0, 50, 1_600))}, "leaves a jump"),
        ({"BTC/USDT:USDT": [ccxt_rows()[0], ccxt_rows()[2]]}, "the next begins"),
        ({"BTC/USDT:USDT": ccxt_rows(((5_000.0, 0.02, 25.0), (9_000.0, 0.01, 50.0)))}, "asks less"),
        ({"BTC/USDT:USDT": ccxt_rows(((5_000.0, 1.0, 25.0),))}, "maintenance rate"),
        ({"BTC/USDT:USDT": ccxt_rows(((5_000.0, math.nan, 25.0),))}, "maintenance rate"),
    ],
)
def test_a_file_that_cannot_be_is_refused_and_named(tmp_path, markets, said):
    path = tmp_path / "t.json"
    path.write_text(markets if isinstance(markets, str) else json.dumps(markets))
    with pytest.raises(SchemaError, match=said) as error:
        ccxt_tables(path, Venue.BINANCE)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SchemaError, match=r"none.json.*ccxt"):
        ccxt_tables(tmp_path / "none.json", Venue.BINANCE)


@given(st.floats(1e-3, 3e5), st.floats(1.0, 1.2))
def test_more_of_the_same_never_needs_less(size, factor):
    for _, table in ASSUMED:
        assert table.maintenance(size * factor, 1.0) >= table.maintenance(size, 1.0)
        assert table.maintenance(size, 1.0) * table.tier(size, 1.0).max_leverage < size * 1.0000001, "more than initial"


def test_less_turnover_is_never_trusted_with_more():
    sizes = np.geomspace(1, 1e6, 200)
    for (_, more), (_, less) in itertools.pairwise(ASSUMED):
        for size in sizes:
            assert less.maintenance(size, 1.0) >= more.maintenance(size, 1.0)
            assert less.tier(size, 1.0).max_leverage <= more.tier(size, 1.0).max_leverage


def test_the_strictest_is_assumed_where_the_turnover_is_unknown():
    assert assumed_table(math.nan) is assumed_table(0.0) is ASSUMED[-1][1]
    assert assumed_table(1e10) is ASSUMED[0][1]


def test_what_is_assumed_is_stricter_than_every_bracket_that_a_venue_published(real_data):
    """Of the contracts with candles by the turnover of these, of the others as if nobody traded them."""
    tables = ccxt_tables(real_data / "reference" / "binance_um_leverage_tiers.json", Venue.BINANCE)
    assert len(tables) == 344
    turnover = {}
    for path in (real_data / "candles" / "binance_um_1h").glob("*.parquet"):
        turnover[path.stem] = 24 * float(pl.read_parquet(path, columns=["quote_volume"])["quote_volume"].median())
    del turnover["ZECUSDT"]  # the brackets are of 2024, and it was a small coin then
    known = [instrument for instrument in tables if instrument.symbol.replace("_", "") in turnover]
    assert len(known) == 27
    for instrument, table in tables.items():
        ours = assumed_table(turnover.get(instrument.symbol.replace("_", ""), 0.0))
        for size in np.geomspace(1.0, ours.most * (1 - 1e-9), 300):
            assert ours.maintenance(size, 1.0) >= table.maintenance(size, 1.0) - 1e-9, (instrument, size)
            assert ours.tier(size, 1.0).max_leverage <= table.tier(size, 1.0).max_leverage, (instrument, size)
