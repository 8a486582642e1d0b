from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_lake import BTC, ETH, T0, estimate, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.lake.listings import numbered, renamed, tickers_of
from qlib_crypto.symbols import Instrument, Venue

LUNA = Instrument("LUNA", "USDT", Venue.OKX)
LUNA_2, LUNA_3 = (dataclasses.replace(LUNA, listing=n) for n in (2, 3))
SEEN = T0 + 10 * DAY_MS


def known(**changes):
    """LUNA as last seen at SEEN, listed at T0."""
    return {LUNA: spec(LUNA, **{"seen_ms": SEEN, "listed_ms": T0, **changes})}


def listing(listed_ms, before, **changes):
    """The number of what the venue lists a month later with that list time."""
    (found,) = numbered([spec(LUNA, seen_ms=SEEN + 30 * DAY_MS, listed_ms=listed_ms, **changes)], before)
    assert dataclasses.replace(found.instrument, listing=1) == LUNA
    return found.instrument.listing


def test_a_ticker_listed_again_after_it_was_seen_trading_is_the_next_contract():
    assert listing(T0, known()) == 1
    assert listing(SEEN + DAY_MS, known()) == 2
    assert listing(SEEN + DAY_MS, known(delisted_ms=SEEN + HOUR_MS)) == 2
    assert listing(SEEN + DAY_MS, known(listed_ms=None)) == 2
    assert listing(SEEN + DAY_MS, {}) == 1
    assert listing(SEEN + DAY_MS, {ETH: spec(ETH)}) == 1


@pytest.mark.parametrize(
    ("listed_ms", "before", "changes"),
    [
        (T0 + 30 * MINUTE_MS, known(seen_ms=T0 + MINUTE_MS), {}),  # a correction within the hour
        (T0 - 90 * DAY_MS, known(), {}),  # an earlier time than it was seen trading at
        (T0 + 5 * DAY_MS, known(), {}),
        (T0 + 2 * DAY_MS, known(seen_ms=T0 - DAY_MS, state="preopen"), {}),  # the listing was put off
        (SEEN + DAY_MS, known(rule_type="pre_market"), {}),  # a pre-market contract becomes a normal one
        (None, known(), {}),
        (None, known(listed_ms=None), {}),
    ],
)
def test_what_is_no_relisting(listed_ms, before, changes):
    assert listing(listed_ms, before, **changes) == 1


def test_a_pre_market_contract_that_was_delisted_is_another():
    assert listing(SEEN + DAY_MS, known(rule_type="pre_market", delisted_ms=SEEN + HOUR_MS)) == 2


def test_a_delisting_that_was_announced_counts_from_its_time_on():
    soon = SEEN + 3 * DAY_MS
    assert listing(soon, known(delisted_ms=soon)) == 2
    assert listing(T0, known(delisted_ms=soon)) == 1  # it was called off, or is not over yet


def test_contracts_known_by_number_are_found_again_by_their_list_times():
    second = SEEN + 5 * DAY_MS
    both = known() | {LUNA_2: spec(LUNA_2, seen_ms=second + DAY_MS, listed_ms=second)}
    assert listing(second, both) == 2
    assert listing(T0, both) == 1  # an old answer from a cache
    assert listing(second + 5 * DAY_MS, both) == 3


def test_rows_of_a_venue_get_the_name_that_their_ticker_means_now():
    names = tickers_of([spec(BTC), spec(LUNA), spec(LUNA_3), spec(LUNA_2)])
    assert names == {LUNA: LUNA_3}
    assert [row.instrument for row in renamed([estimate(of=LUNA), estimate(of=BTC)], names)] == [LUNA_3, BTC]


@given(st.lists(st.tuples(st.integers(2, 40), st.integers(1, 20), st.booleans()), min_size=1, max_size=6))
def test_any_history_of_one_ticker_is_told_apart(history):
    """Contracts one after another, the table seen daily: each gets its own number, the same on every day."""
    seen: dict[Instrument, object] = {}
    start = T0
    for number, (days, pause, announced) in enumerate(history, start=1):
        end = start + days * DAY_MS
        for day in range(days):
            now = start + day * DAY_MS + HOUR_MS
            one = spec(LUNA, seen_ms=now, listed_ms=start, delisted_ms=end if announced and day == days - 1 else None)
            (found,) = numbered([one], seen)
            assert found.instrument.listing == number
            assert found == dataclasses.replace(one, instrument=found.instrument)
            seen[found.instrument] = found
        start = end + pause * HOUR_MS


def test_the_lake_keeps_both_contracts_and_a_table_of_each_day(lake):
    lake.store_specs(Venue.OKX, numbered([spec(LUNA, listed_ms=T0 - DAY_MS), spec(BTC)], lake.specs(Venue.OKX)))
    again = [spec(LUNA, seen_ms=T0 + 9 * DAY_MS, listed_ms=T0 + 8 * DAY_MS), spec(BTC, seen_ms=T0 + 9 * DAY_MS)]
    path = lake.store_specs(Venue.OKX, numbered(again, lake.specs(Venue.OKX)))
    assert set(lake.specs(Venue.OKX)) == {LUNA, LUNA_2, BTC}
    assert set(lake.specs(Venue.OKX, T0 + DAY_MS)) == {LUNA, BTC}
    assert lake.specs(Venue.OKX)[LUNA_2].listed_ms == T0 + 8 * DAY_MS
    next_day = [dataclasses.replace(one, seen_ms=T0 + 10 * DAY_MS) for one in again]
    later = lake.store_specs(Venue.OKX, numbered(next_day, lake.specs(Venue.OKX)))
    assert later != path  # nothing changed, but a day went by
    assert lake.store_specs(Venue.OKX, [dataclasses.replace(s, seen_ms=s.seen_ms + HOUR_MS) for s in next_day]) != path
    assert set(lake.specs(Venue.OKX)) == {LUNA, LUNA_2, BTC}
