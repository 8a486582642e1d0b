"""Margin tiers in the lake: a state since it was seen, kept when it differs from the one before."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_lake import BTC, ETH, PEPE, T0, bar, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.lake import Lake
from qlib_crypto.lake.inspect import check
from qlib_crypto.lake.sql import query
from qlib_crypto.market.margin import MarginTable, MarginTier
from qlib_crypto.symbols import Venue


def table(cap=5.0, rate=0.01):
    return MarginTable((MarginTier(0, cap, rate, 50), MarginTier(cap, 3 * cap, 2 * rate, 25)), True, "venue")


def files(lake, venue=Venue.OKX):
    return sorted(path.name for path in (lake.folder(venue) / "margin_tiers").glob("*.parquet"))


def test_a_state_is_written_when_it_differs_and_holds_for_no_earlier_time(lake):
    assert lake.tiers(Venue.OKX) == {}
    assert (
        lake.store_tiers(Venue.OKX, {BTC: table(), ETH: table(7.0)}, T0).name == "margin_tiers_20250401T000000.parquet"
    )
    assert lake.store_tiers(Venue.OKX, {BTC: table(), ETH: table(7.0)}, T0 + DAY_MS) is None
    assert lake.store_tiers(Venue.OKX, {BTC: table(6.0), ETH: table(7.0)}, T0 + 2 * DAY_MS)
    assert lake.store_tiers(Venue.OKX, {BTC: table()}, T0 + 3 * DAY_MS), "back to what was before is a new state"
    found = lake.tiers(Venue.OKX)
    assert found[BTC] == ((T0, table()), (T0 + 2 * DAY_MS, table(6.0)), (T0 + 3 * DAY_MS, table()))
    assert found[ETH] == ((T0, table(7.0)),)
    assert lake.tiers(Venue.OKX, T0 - 1) == {}
    assert lake.tiers(Venue.OKX, T0 + 3 * DAY_MS - 1)[BTC] == found[BTC][:2]
    assert lake.tiers(Venue.BINANCE) == {}


def test_any_table_comes_back_as_it_was(lake):
    bracket = MarginTable(
        (MarginTier(0, 5_000, 0.01, 50), MarginTier(5_000, math.inf, 0.02, 25.5, 50.0)),
        by_quantity=False,
        source="file",
    )
    lake.store_tiers(Venue.BINANCE, {PEPE: bracket}, T0)
    assert lake.tiers(Venue.BINANCE) == {PEPE: ((T0, bracket),)}


def test_what_is_seen_within_a_second_is_one_file(lake):
    lake.store_tiers(Venue.OKX, {BTC: table()}, T0 + 1)
    lake.store_tiers(Venue.OKX, {ETH: table()}, T0 + 1)
    lake.store_tiers(Venue.OKX, {BTC: table(6.0)}, T0 + 900)
    lake.store_tiers(Venue.OKX, {BTC: table(8.0)}, T0 + 900)
    assert len(files(lake)) == 1
    assert lake.tiers(Venue.OKX) == {BTC: ((T0 + 1, table()), (T0 + 900, table(8.0))), ETH: ((T0 + 1, table()),)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5_000), st.sampled_from([BTC, ETH]), st.sampled_from([5.0, 6.0, 7.0]))))
def test_states_are_in_order_and_no_two_in_a_row_are_alike(tmp_path_factory, seen):
    """Whatever was seen when, also by clocks that went back: as of the last look at each time, what was said there."""
    lake = Lake(tmp_path_factory.mktemp("lake"))
    for at, of, cap in seen:
        lake.store_tiers(Venue.OKX, {of: table(cap)}, T0 + at)
    for of, states in lake.tiers(Venue.OKX).items():
        times, tables = zip(*states, strict=True)
        assert list(times) == sorted(set(times))
        assert all(one != other for one, other in pairwise(tables))
        assert set(times) <= {T0 + at for at, by, _ in seen if by == of}
        forwards = [at for at, by, _ in seen if by == of]
        if forwards == sorted(forwards):  # then each look is found again
            for at in forwards:
                last = [cap for when, by, cap in seen if by == of and when == at][-1]
                assert lake.tiers(Venue.OKX, T0 + at)[of][-1][1] == table(last)
    lake.close()


def test_they_are_a_part_of_the_lake_like_any_other(lake):
    lake.store([bar(k) for k in range(3)])
    before = lake.content_hash()
    marks = lake.files()
    path = lake.store_tiers(Venue.OKX, {BTC: table()}, T0)
    assert lake.content_hash() != before
    assert lake.content_hash(lake.files(marks, [path])) == lake.content_hash(), (
        "named, it is found without a look around"
    )
    assert lake.damaged() == []
    found = query(lake, "select symbol, tier, floor, cap, tier_source from margin_tiers order by tier")
    assert found.to_numpy().tolist() == [["BTC_USDT", 1, 0.0, 5.0, "venue"], ["BTC_USDT", 2, 5.0, 15.0, "venue"]]
    assert check(lake, Venue.OKX).good
    path.write_bytes(b"torn")
    assert any(path.name in line for line in lake.damaged())
    assert not check(lake, Venue.OKX).good
    assert files(lake) == [], "what cannot be read is in the quarantine"


def test_each_spec_that_said_something_new(lake):
    lake.store_specs(Venue.OKX, [spec(), spec(ETH)])
    lake.store_specs(Venue.OKX, [spec(seen_ms=T0 + DAY_MS), spec(ETH, seen_ms=T0 + DAY_MS)])  # a file a day
    changed = spec(seen_ms=T0 + DAY_MS + HOUR_MS, tick_size=0.5)
    lake.store_specs(Venue.OKX, [changed, spec(ETH, seen_ms=T0 + DAY_MS + HOUR_MS)])
    lake.store_specs(Venue.OKX, [spec(seen_ms=T0 + 2 * DAY_MS, min_notional_quote=None)])
    assert lake.spec_states(Venue.OKX) == {
        BTC: (spec(), changed, spec(seen_ms=T0 + 2 * DAY_MS)),
        ETH: (spec(ETH),),
    }
    assert lake.spec_states(Venue.BINANCE) == {}
    assert {of: states[-1].tick_size for of, states in lake.spec_states(Venue.OKX).items()} == {
        of: last.tick_size for of, last in lake.specs(Venue.OKX).items()
    }


def test_two_who_see_the_same_write_it_once(lake):
    other = Lake(lake.root)
    assert lake.store_tiers(Venue.OKX, {ETH: table()}, T0)
    assert other.store_tiers(Venue.OKX, {ETH: table()}, T0 + 1) is None
    other.close()
