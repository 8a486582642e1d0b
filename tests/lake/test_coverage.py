"""Coverage against counting by hand, slot by slot."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_lake import BTC, ETH, H1, T0, bar, settlement, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, day_start
from qlib_crypto.errors import ConfigError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.coverage import DayCoverage, coverage
from qlib_crypto.lake.ledger import Hole
from qlib_crypto.schemas import OpenInterest

BIG = T0 + 100 * DAY_MS


def counted(have, grid, causes):
    """Days by the definition."""
    out = {}
    for slot in sorted({*have, *grid}):
        day = out.setdefault(day_start(slot), [0, 0, {}])
        day[0] += 1
        if slot in have:
            day[1] += 1
        else:
            day[2][causes(slot)] = day[2].get(causes(slot), 0) + 1
    return out


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.integers(0, 71), max_size=72),
    st.lists(
        st.tuples(st.integers(0, 71), st.integers(1, 20), st.sampled_from(["venue_down", "no_trade"])), max_size=3
    ),
    st.none() | st.integers(0, 50),
    st.none() | st.integers(20, 71),
    st.tuples(st.integers(0, 72 * 60), st.integers(0, 72 * 60)).map(sorted),
    st.integers(0, 80 * 60),
)
def test_every_slot_is_counted_once_with_its_cause(tmp_path_factory, have, holes, listed, delisted, span, now):
    lake = Lake(tmp_path_factory.mktemp("lake"))
    lake.store([bar(k, interval=H1) for k in have])
    at = lambda hour: None if hour is None else T0 + hour * HOUR_MS  # noqa: E731 - shorter than a function
    lake.store_specs(BTC.venue, [spec(listed_ms=at(listed), delisted_ms=at(delisted))])
    for first, length, cause in holes:
        lake.record_holes([Hole(BTC, "kline_1h", at(first), at(first + length), cause, BIG)])
    start, end = (T0 + minutes * MINUTE_MS for minutes in span)
    now_ms = T0 + now * MINUTE_MS

    def cause(slot):
        if listed is not None and slot < at(listed):
            return "not_listed"
        if delisted is not None and slot >= at(delisted):
            return "not_listed"
        by_hand = {}  # the newest that was recorded holds
        for first, length, name in holes:
            by_hand |= {at(first + k): name for k in range(length)}
        return by_hand.get(slot, "not_collected")

    slots = [at(k) for k in range(72) if start <= at(k) < end]
    expected = counted(
        {slot for slot in slots if (slot - T0) // HOUR_MS in have}, [s for s in slots if s + HOUR_MS <= now_ms], cause
    )
    found = coverage(lake, BTC.venue, "kline_1h", [BTC], start, end, now_ms)
    assert {d.day_ms: [d.expected, d.have, d.missing] for d in found if d.expected} == expected
    assert all(d.expected == d.have + sum(d.missing.values()) for d in found)
    assert [d.explained for d in found] == ["not_collected" not in d.missing for d in found]
    assert {d.day_ms for d in found} == set(range(day_start(start), end, DAY_MS))
    lake.close()


def test_a_listing_within_a_bar_makes_that_bar_expected(lake):
    lake.store_specs(BTC.venue, [spec(listed_ms=T0 + 90 * MINUTE_MS)])
    (day,) = coverage(lake, BTC.venue, "kline_1h", [BTC], T0, T0 + 4 * HOUR_MS, BIG)
    assert day.missing == {"not_listed": 1, "not_collected": 3}


def test_settlements_are_expected_every_eight_hours_and_counted_where_they_are(lake):
    lake.store([settlement(T0 + hour * HOUR_MS + jitter) for hour, jitter in ((0, 5), (4, 0), (8, -2), (24, 17))])
    first, second = coverage(lake, BTC.venue, "funding", [BTC], T0, T0 + 2 * DAY_MS, T0 + 40 * HOUR_MS)
    assert first == DayCoverage(BTC, "funding", T0, 4, 3, {"not_collected": 1})
    assert second == DayCoverage(BTC, "funding", T0 + DAY_MS, 2, 1, {"not_collected": 1})  # of 16:00 nothing is due yet


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([1, 2, 4]), st.integers(10, 60), st.integers(1, 30), st.integers(0, 3))
def test_settlements_that_those_around_show_to_be_missing_are_counted(tmp_path_factory, every, first, length, jitter):
    """Of a coin that settles `every` so many hours for days, a stretch was not collected."""
    lake = Lake(tmp_path_factory.mktemp("lake"))
    hours = range(0, 120, every)
    gone = [hour for hour in hours if first <= hour < first + length]
    lake.store([settlement(T0 + hour * HOUR_MS + jitter) for hour in hours if hour not in gone])
    found = coverage(lake, BTC.venue, "funding", [BTC], T0, T0 + 5 * DAY_MS, BIG)
    assert sum(day.expected for day in found) == len(hours)
    assert {day.day_ms: day.missing for day in found if day.missing} == {
        T0 + day * DAY_MS: {"not_collected": count}
        for day in range(5)
        if (count := sum(hour // 24 == day for hour in gone))
    }
    lake.close()


def test_an_hourly_coin_of_which_every_eighth_settlement_came_lacks_the_others(lake):
    hours = [*range(24), *range(24, 48, 8), *range(48, 72)]
    lake.store([settlement(T0 + hour * HOUR_MS) for hour in hours])
    lake.record_holes([Hole(BTC, "funding", T0 + 40 * HOUR_MS + MINUTE_MS, T0 + 48 * HOUR_MS, "no_trade", BIG)])
    (day,) = coverage(lake, BTC.venue, "funding", [BTC], T0 + DAY_MS, T0 + 2 * DAY_MS, T0 + 3 * DAY_MS)
    assert (day.expected, day.have, day.missing) == (24, 3, {"not_collected": 14, "no_trade": 7})


def test_an_interval_that_grows_lacks_nothing(lake):
    hours = [*range(24), *range(24, 48, 4), *range(48, 96, 8)]
    lake.store([settlement(T0 + hour * HOUR_MS) for hour in hours])
    found = coverage(lake, BTC.venue, "funding", [BTC], T0, T0 + 4 * DAY_MS, BIG)
    assert [(day.expected, day.missing) for day in found] == [(24, {}), (6, {}), (3, {}), (3, {})]


def test_a_contract_that_vanished_without_notice_was_not_listed_after_it_was_last_seen(lake):
    lake.store_specs(BTC.venue, [spec(seen_ms=T0), spec(ETH, seen_ms=T0)])
    lake.store([bar(k, of=of, interval=H1) for of in (BTC, ETH) for k in (0, 1, 5)])

    def missing(of):
        found = coverage(lake, BTC.venue, "kline_1h", [of], T0, T0 + 3 * DAY_MS, BIG)
        return [day.missing for day in found]

    assert missing(BTC) == missing(ETH) == [{"not_collected": n} for n in (21, 24, 24)]
    lake.store_specs(BTC.venue, [spec(ETH, seen_ms=T0 + DAY_MS)])
    # until its last bar it traded, whenever it was seen
    assert missing(BTC) == [{"not_collected": 3, "not_listed": 18}, {"not_listed": 24}, {"not_listed": 24}]
    assert missing(ETH) == [{"not_collected": n} for n in (21, 24, 24)]
    lake.store_specs(BTC.venue, [spec(seen_ms=T0 + 2 * DAY_MS), spec(ETH, seen_ms=T0 + 2 * DAY_MS)])
    assert missing(BTC) == [{"not_collected": n} for n in (21, 24, 24)]  # the answer without it was cut short


def test_open_interest_has_its_own_grid_and_events_have_none(lake):
    lake.store([OpenInterest(BTC, T0 + k * 300_000, 1.0, None, "rest", BIG) for k in range(10)])
    (day,) = coverage(lake, BTC.venue, "open_interest", [BTC], T0, T0 + HOUR_MS, BIG)
    assert day == DayCoverage(BTC, "open_interest", T0, 12, 10, {"not_collected": 2})
    (day,) = coverage(lake, BTC.venue, "liquidations", [BTC], T0, T0 + HOUR_MS, BIG)
    assert day == DayCoverage(BTC, "liquidations", T0, 0, 0, {})


def test_the_order_is_that_of_the_instruments_and_an_unknown_dataset_is_refused(lake):
    lake.store([bar(0), bar(0, of=ETH)])
    found = coverage(lake, BTC.venue, "kline_1m", [ETH, BTC], T0, T0 + 2 * MINUTE_MS, BIG)
    assert [(d.instrument, d.expected, d.have) for d in found] == [(ETH, 2, 1), (BTC, 2, 1)]
    assert coverage(lake, BTC.venue, "kline_1m", [BTC], T0, T0, BIG) == []
    with pytest.raises(ConfigError, match="kline_7"):
        coverage(lake, BTC.venue, "kline_7", [BTC], T0, BIG, BIG)
