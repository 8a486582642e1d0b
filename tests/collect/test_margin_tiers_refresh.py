"""Margin tiers are asked for once a day with the instruments, and a venue that fails stops nobody."""

from __future__ import annotations

import threading

import pytest
from support_collect import market, run, wait_for, ws
from support_lake import BTC, ETH, T0, FakeVenue, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.collect import refresh_tiers
from qlib_crypto.collect.margin_tiers import DailyTiers
from qlib_crypto.errors import SchemaError, VenueError
from qlib_crypto.feeds.client import StatedTiers
from qlib_crypto.market.margin import MarginTable, MarginTier
from qlib_crypto.symbols import Venue


def table(cap=5.0):
    return MarginTable((MarginTier(0, cap, 0.01, 50),), by_quantity=True, source="venue")


@pytest.fixture
def client():
    made = FakeVenue(now_ms=T0)
    made.tiers = {BTC: table(), ETH: table(7.0)}
    return made


def fails(error=VenueError):
    def failing():
        raise error("no answer")

    return failing


def test_states_are_dated_by_the_venues_time_after_its_answer(lake, client):
    client.before_tiers = lambda: setattr(client, "now_ms", client.now_ms + 1_000)
    assert refresh_tiers(lake, client, [spec(BTC), spec(ETH)], print) == {BTC, ETH}
    client.now_ms = T0 + DAY_MS
    client.tiers[ETH] = table(9.0)
    refresh_tiers(lake, client, [spec(BTC), spec(ETH)], print)
    assert lake.tiers(Venue.OKX) == {
        BTC: ((T0 + 1_000, table()),),
        ETH: ((T0 + 1_000, table(7.0)), (T0 + DAY_MS + 1_000, table(9.0))),
    }


@pytest.mark.parametrize("error", [VenueError, SchemaError])
def test_a_failure_is_told_and_what_came_before_it_is_kept(lake, client, error):
    def pages(_specs):
        yield StatedTiers({BTC: table()}, ["margin tiers of ETH_USDT.OKX stay"])
        raise error("no answer")

    client.margin_tiers, told = pages, []
    assert refresh_tiers(lake, client, [spec(BTC), spec(ETH)], told.append) == {BTC}
    assert told == ["margin tiers of ETH_USDT.OKX stay", "margin tiers stay as they were seen last: no answer"]
    assert set(lake.tiers(Venue.OKX)) == {BTC}


def test_without_the_venues_time_nothing_is_dated(lake, client):
    client.server_time_ms, told = fails(), []
    assert refresh_tiers(lake, client, [spec(BTC)], told.append) == set()
    assert (len(told), lake.tiers(Venue.OKX)) == (1, {})


def test_a_contract_is_asked_for_once_a_day_a_newcomer_and_one_of_another_size_at_once(lake, client):
    daily = DailyTiers(lake, client, print)
    for now in (T0, T0 + 5 * MINUTE_MS):
        daily.refresh([spec(BTC)], now)
    daily.refresh([spec(BTC), spec(ETH)], T0 + HOUR_MS)
    daily.refresh([spec(BTC), spec(ETH, contract_value_base=1.0)], T0 + 2 * HOUR_MS)
    daily.refresh([spec(BTC), spec(ETH, contract_value_base=1.0)], T0 + DAY_MS)
    assert client.tiers_asked == [[BTC], [ETH], [ETH], [BTC, ETH]]


def test_what_failed_is_asked_again_and_told_once_a_day(lake, client):
    told = []
    daily = DailyTiers(lake, client, told.append)
    client.before_tiers = fails()
    for now in (T0, T0 + 5 * MINUTE_MS, T0 + DAY_MS):
        daily.refresh([spec(BTC)], now)
    assert len(told) == 2
    assert len(client.tiers_asked) == 3
    client.before_tiers = lambda: None
    daily.refresh([spec(BTC)], T0 + DAY_MS + 5 * MINUTE_MS)
    daily.refresh([spec(BTC)], T0 + DAY_MS + 10 * MINUTE_MS)
    assert len(client.tiers_asked) == 4
    assert set(lake.tiers(Venue.OKX)) == {BTC}


def test_a_collector_keeps_the_tiers_of_what_it_follows_and_dates_a_change(lake):
    client, stop = market(), threading.Event()
    client.list(spec(ETH))
    client.tiers = {BTC: table(), ETH: table(7.0)}

    def next_day():
        wait_for(lambda: lake.tiers(Venue.OKX))
        client.tiers[BTC] = table(6.0)
        client.now_ms = T0 + DAY_MS + MINUTE_MS

    def end():
        wait_for(lambda: len(lake.tiers(Venue.OKX)[BTC]) == 2)
        stop.set()

    run(lake, client, [next_day, end], stop=stop)
    assert lake.tiers(Venue.OKX) == {BTC: ((T0, table()), (T0 + DAY_MS + MINUTE_MS, table(6.0)))}


def test_a_collector_goes_on_when_the_venue_refuses_its_tiers(lake):
    client, stop, told = market(now=30), threading.Event(), []
    client.before_tiers = fails()

    def end():
        wait_for(lambda: client.tiers_asked)
        stop.set()

    summary, _ = run(lake, client, [ws(29), end], stop=stop, told=told)
    assert summary.stream_bars == 1
    assert sum("margin tiers stay" in line for line in told) == 1
    assert lake.tiers(Venue.OKX) == {}
