"""Whom the collector follows while listings, universe and feeds change, and the series that no stream brings."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest
from support_collect import FAST, Scripted, market, minutes, moves, run, wait_for, ws
from support_lake import BTC, ETH, M1, T0, FakeVenue, bar, estimate, index, mark, open_interest, ratio, settlement, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.collect import read_status
from qlib_crypto.collect.following import Following
from qlib_crypto.collect.listed import Listings, refresh_instruments
from qlib_crypto.errors import StorageError
from qlib_crypto.lake.tables import INDEXES, LIQUIDATIONS, LONG_SHORT_RATIO, MARKS, OPEN_INTEREST
from qlib_crypto.schemas import PERIOD_MS, Liquidation
from qlib_crypto.settings import UniverseSettings
from qlib_crypto.symbols import Instrument, Venue
from qlib_crypto.universe import update_universe

LUNA = Instrument("LUNA", "USDT", Venue.OKX)
LUNA2 = dataclasses.replace(LUNA, listing=2)
POLLED = ("mark", "index", "open_interest", "long_short_ratio")


def write(path, text):
    def step():
        other = path.with_suffix(".new")
        other.write_text(text)
        other.replace(path)

    return step


def waits(condition):
    return lambda: wait_for(condition)


def test_the_polled_series_come_by_rest_without_a_stream(lake):
    client = market()
    client.add(*(mark(k) for k in range(60)), *(index(k) for k in range(60)))
    client.add(*(open_interest(k) for k in range(12)), *(ratio(k) for k in range(12)))
    steps = [*(ws(k) for k in range(60)), moves(client, 31), lambda: time.sleep(0.2), moves(client, 60)]
    run(lake, client, steps, until_ms=T0 + HOUR_MS, datasets=POLLED)
    for table in (MARKS, INDEXES):
        assert lake.times(table, BTC, interval=M1).tolist() == [T0 + k * MINUTE_MS for k in range(60)]
    for table in (OPEN_INTEREST, LONG_SHORT_RATIO):
        assert lake.times(table, BTC).tolist() == [T0 + k * PERIOD_MS for k in range(12)]
    assert lake.repairs(Venue.OKX) == []  # to be asked for is no gap


def test_an_outage_of_the_collector_is_a_gap_in_the_polled_series_too(lake):
    client = market(now=0)
    client.add(*(mark(k) for k in range(60)))
    stop = threading.Event()
    steps = [
        *(ws(k) for k in range(10)),
        moves(client, 10),
        waits(lambda: len(lake.times(MARKS, BTC, interval=M1)) == 10),
    ]
    run(lake, client, [*steps, stop.set], stop=stop, datasets=("mark",))
    client.now_ms = T0 + 40 * MINUTE_MS
    run(lake, client, [*(ws(k) for k in range(40, 60)), moves(client, 60)], until_ms=T0 + HOUR_MS, datasets=("mark",))
    assert len(lake.times(MARKS, BTC, interval=M1)) == 60
    assert minutes(lake) == list(range(60))
    assert {(r.dataset, r.cause) for r in lake.repairs(Venue.OKX)} == {("kline_1m", "stopped"), ("mark_1m", "stopped")}


def test_rows_that_only_a_stream_brings_are_stored_as_they_come(lake):
    client = market()
    row = Liquidation(BTC, T0 + 5, "buy", 100.0, 0.5, T0 + 6)
    stream = Scripted([row, row, *(ws(k) for k in range(60)), moves(client, 60)])
    run(lake, client, stream, until_ms=T0 + HOUR_MS, datasets=("liquidations", "trades"))
    assert stream.datasets == ["liquidations", "trades"]
    assert lake.times(LIQUIDATIONS, BTC).tolist() == [T0 + 5]
    assert stream.contract_values(BTC) == 0.01
    assert stream.contract_values(ETH) is None


def test_every_gap_is_in_the_ledger_with_its_cause(lake):
    client = market(of=(BTC, ETH))
    stream = Scripted([])
    stream.steps = [
        *(ws(k) for k in range(10)), waits(lambda: minutes(lake) == list(range(10))),
        *(ws(k) for k in range(15, 20)), waits(lambda: 19 in minutes(lake)),
        lambda: setattr(stream.counters, "reconnects", 1), *(ws(k) for k in range(30, 40)),
        waits(lambda: 39 in minutes(lake)), *(ws(k, ETH) for k in range(60)), moves(client, 60),
    ]  # fmt: skip
    run(lake, client, stream, instruments=(BTC, ETH), until_ms=T0 + HOUR_MS)
    found = {(r.instrument, (r.start_ms - T0) // MINUTE_MS, r.rows): r.cause for r in lake.repairs(Venue.OKX)}
    assert found == {(BTC, 10, 5): "lost", (BTC, 20, 10): "disconnected", (BTC, 40, 20): "late"}
    status = read_status(lake, Venue.OKX)
    assert status.gaps == status.repaired == {"lost": 5, "disconnected": 10, "late": 20}
    assert (status.running, status.queue, status.trouble) == (False, 0, None)
    assert status.rows == {"ws": 85, "rest": 35}
    assert status.newest == {"BTC_USDT": T0 + 59 * MINUTE_MS, "ETH_USDT": T0 + 59 * MINUTE_MS}


def test_newcomers_of_the_universe_get_their_last_days_and_leavers_their_grace(lake, tmp_path):
    path = tmp_path / "top50_symbols.json"
    path.write_text('["BTC_USDT"]')
    days = 10 * 1440
    client = market(of=(BTC, ETH), bars=0, now=days)
    client.list(spec(BTC), spec(ETH, listed_ms=T0 + 5 * DAY_MS))
    client.add_bars(*(bar(k, of=ETH) for k in range(5 * 1440, days + 200, 10)))
    stream, stop = Scripted([]), threading.Event()
    stream.steps = [
        write(path, '["ETH_USDT"]'), waits(lambda: len(stream.replaced) == 1),
        waits(lambda: len(minutes(lake, ETH)) >= 5 * 144),
        moves(client, days + 61), waits(lambda: len(stream.replaced) == 2), stop.set,
    ]  # fmt: skip
    run(lake, client, stream, membership=path, stop=stop, grace_hours=1.0)
    assert stream.instruments == [BTC]
    assert stream.replaced == [[ETH, BTC], [ETH]]  # BTC an hour longer
    assert minutes(lake, ETH)[0] == 5 * 1440  # since its listing, not seven days
    assert {r.cause for r in lake.repairs(Venue.OKX) if r.instrument == ETH} >= {"new"}


@pytest.mark.parametrize("rankings", [(20,), (20, 40)])
def test_on_an_empty_lake_it_begins_with_the_first_ranking_that_chose(lake, tmp_path, rankings):
    path = tmp_path / "top50_symbols.json"
    path.write_text('["BTC_USDT"]')
    client, stop = market(of=(BTC, ETH), bars=120, now=60), threading.Event()
    for minute in rankings:
        client.now_ms = T0 + minute * MINUTE_MS
        client.quotes = {i: estimate(client.now_ms, of=i) for i in (BTC, ETH)}
        update_universe(lake, client, UniverseSettings(size=1), tmp_path)
    client.now_ms = T0 + 60 * MINUTE_MS
    steps = [*(ws(k) for k in range(60, 70)), moves(client, 70), waits(lambda: len(minutes(lake)) >= 50), stop.set]
    run(lake, client, steps, membership=path, stop=stop)
    assert minutes(lake) == list(range(20, 70))


def test_a_listing_is_followed_from_its_first_bar_and_a_delisting_until_its_last(lake):
    client = FakeVenue(now_ms=T0)
    client.list(spec(BTC, delisted_ms=T0 + 30 * MINUTE_MS), spec(ETH, listed_ms=T0 + 20 * MINUTE_MS))
    client.add_bars(*(bar(k) for k in range(30)), *(bar(k, of=ETH) for k in range(20, 60)))
    stream, told = Scripted([]), []
    stream.steps = [
        *(ws(k) for k in range(15)), moves(client, 25), waits(lambda: len(stream.replaced) == 1),
        *(ws(k, ETH) for k in range(26, 40)), moves(client, 45), waits(lambda: len(stream.replaced) == 2),
        *(ws(k, ETH) for k in range(40, 60)), moves(client, 60),
    ]  # fmt: skip
    run(lake, client, stream, instruments=(BTC, ETH), until_ms=T0 + HOUR_MS, told=told)
    assert stream.instruments == [BTC]
    assert stream.replaced == [[BTC, ETH], [ETH]]
    assert minutes(lake) == list(range(30))
    assert minutes(lake, ETH) == list(range(20, 60))
    assert lake.holes(Venue.OKX) == []
    assert [line for line in told if "lacks" in line] == []


def test_a_ticker_that_is_used_again_is_another_instrument(lake):
    client = FakeVenue(now_ms=T0)
    client.list(spec(LUNA, delisted_ms=T0 + 20 * MINUTE_MS))
    client.add_bars(*(bar(k, of=LUNA) for k in range(20)))
    stream = Scripted([])

    def relist():
        again = T0 + 3 * HOUR_MS
        client.listing = {}
        client.list(spec(LUNA, listed_ms=again, seen_ms=again))
        client.add_bars(*(bar(k, of=LUNA2) for k in range(180, 240)))
        client.bar_rows.pop((LUNA, M1))
        client.now_ms = again + 5 * MINUTE_MS

    stream.steps = [
        *(ws(k, LUNA) for k in range(20)), waits(lambda: len(minutes(lake, LUNA)) == 20), relist,
        ws(181, LUNA), ws(182, LUNA),  # the venue knows only the ticker, and we not yet that it is another's
        waits(lambda: stream.replaced and stream.replaced[-1] == [LUNA2]),
        *(ws(k, LUNA2) for k in range(185, 240)), moves(client, 240),
    ]  # fmt: skip
    run(lake, client, stream, instruments=(LUNA,), until_ms=T0 + 4 * HOUR_MS)
    assert minutes(lake, LUNA) == list(range(20))
    assert minutes(lake, LUNA2) == list(range(180, 240))
    assert set(lake.specs(Venue.OKX)) == {LUNA, LUNA2}


def test_a_changed_contract_value_is_stored_with_its_time_and_used_from_then_on(lake):
    client = market()
    stream = Scripted([])
    stream.steps = [
        *(ws(k) for k in range(30)), moves(client, 30),
        lambda: client.list(spec(BTC, contract_value_base=10.0, seen_ms=T0 + 30 * MINUTE_MS)), moves(client, 40),
        waits(lambda: stream.contract_values(BTC) == 10.0), *(ws(k) for k in range(30, 60)), moves(client, 60),
    ]  # fmt: skip
    run(lake, client, stream, until_ms=T0 + HOUR_MS)
    assert lake.specs(Venue.OKX)[BTC].contract_value_base == 10.0
    assert lake.specs(Venue.OKX, T0 + 29 * MINUTE_MS)[BTC].contract_value_base == 0.01


def test_a_contract_is_gone_only_when_the_list_lacks_it_again_later(lake):
    client = market(of=(BTC, ETH))
    refresh_instruments(lake, client)
    listings = Listings(lake, client)
    listings.refresh(T0)
    del client.listing[ETH]
    listings.refresh(T0 + MINUTE_MS)
    assert listings.trades(ETH, T0 + MINUTE_MS)  # a list may come cut
    client.list(spec(ETH))
    listings.refresh(T0 + 6 * MINUTE_MS)
    del client.listing[ETH]
    listings.refresh(T0 + 12 * MINUTE_MS)
    assert listings.trades(ETH, T0 + 12 * MINUTE_MS)
    listings.refresh(T0 + 23 * MINUTE_MS)
    assert listings.end_ms(ETH) == T0 + 12 * MINUTE_MS
    assert not listings.trades(ETH, T0 + 23 * MINUTE_MS)
    assert listings.trades(BTC, T0 + 23 * MINUTE_MS)


def test_leavers_of_the_rankings_are_known_after_a_restart():
    class Anything:
        def trades(self, _instrument, _at_ms):
            return True

        def with_successors(self, instruments):
            return list(dict.fromkeys(instruments))

    following = Following([BTC], Anything(), HOUR_MS, {ETH: T0 + HOUR_MS})
    assert following.now(T0) == [BTC, ETH]
    following.change([LUNA], T0)
    assert following.now(T0) == [LUNA, BTC, ETH]
    assert following.now(T0 + HOUR_MS) == [LUNA]


def test_a_feed_that_is_dead_while_rest_has_bars_is_opened_anew(lake):
    client, stream, stop, told = market(of=(BTC, ETH)), Scripted([]), threading.Event(), []

    def goes_on():
        for k in range(30):
            client.now_ms = T0 + (k + 1) * MINUTE_MS
            stream.on_row(ws(k, ETH))
            time.sleep(0.05)

    stream.steps = [goes_on, waits(lambda: stream.revived), stop.set]
    pace = dataclasses.replace(FAST, revive_s=0.3)
    run(lake, client, stream, instruments=(BTC, ETH), stop=stop, told=told, pace=pace)
    assert stream.revived[0] == [BTC]
    assert all(ETH not in instruments for instruments in stream.revived)
    assert read_status(lake, Venue.OKX).revived == len(stream.revived)
    assert any("opened anew" in line for line in told)


def test_settlements_are_asked_for_by_the_clock_when_no_estimate_comes(lake):
    client = market(bars=0, now=7 * 60)
    stop = threading.Event()
    client.add_settlements(settlement(T0 + 8 * HOUR_MS))
    steps = [estimate(T0 + 7 * HOUR_MS), moves(client, 8 * 60 + 11)]
    steps += [waits(lambda: len(lake.settlements(Venue.OKX)) == 1), stop.set]
    run(lake, client, steps, stop=stop)
    assert len(lake.settlements(Venue.OKX)) == 1


@pytest.mark.parametrize("hours", [(8, 1), (1, 8), (8, 4)])
def test_a_changed_funding_interval_loses_no_settlement(lake, hours):
    before, after = hours
    client = market(bars=0, now=8 * 60)
    times = [*range(8 + before, 25, before), *range(24 + after, 49, after)]
    client.add_settlements(*(settlement(T0 + h * HOUR_MS) for h in times))
    stop = threading.Event()
    steps = []
    for minute in range(8 * 60, 48 * 60 + 20, 20):
        hour = minute / 60
        due = next((h for h in times if h > hour), times[-1] + after)
        steps += [moves(client, minute), estimate(T0 + minute * MINUTE_MS, settles_ms=T0 + due * HOUR_MS, hours=None)]
    steps += [waits(lambda: len(lake.settlements(Venue.OKX)) == len(times)), stop.set]
    run(lake, client, steps, stop=stop)
    assert len(lake.settlements(Venue.OKX)) == len(times)


def test_the_second_collector_of_a_lake_is_told_and_the_first_goes_on(lake):
    client, told = market(), []

    def second():
        with pytest.raises(StorageError, match="already collects okx"):
            run(lake, market(), [ws(0)])
        told.append("refused")

    run(lake, client, [*(ws(k) for k in range(30)), second, *(ws(k) for k in range(30, 60)), moves(client, 60)],
        until_ms=T0 + HOUR_MS)  # fmt: skip
    assert told == ["refused"]
    assert minutes(lake) == list(range(60))


def test_a_jump_of_our_clock_types_nothing_seals_nothing_and_moves_no_mark(lake):
    """Two hours ahead and back while bars stream: the venue's time is what counts."""
    client, told = market(bars=120, now=60), []

    class Jumping:
        offset_ms = 0

        def now_ms(self):
            return client.now_ms + self.offset_ms

    clock = Jumping()
    stop = threading.Event()
    steps = [*(ws(k) for k in range(60, 65)), moves(client, 65), lambda: setattr(clock, "offset_ms", 2 * HOUR_MS),
             lambda: time.sleep(0.8), *(ws(k) for k in range(65, 70)), moves(client, 70), lambda: time.sleep(0.5),
             lambda: setattr(clock, "offset_ms", 0), lambda: time.sleep(0.5), *(ws(k) for k in range(75, 80)),
             moves(client, 80), waits(lambda: len(minutes(lake)) == 20),
             lambda: setattr(clock, "offset_ms", -2 * HOUR_MS), lambda: time.sleep(0.5), moves(client, 90),
             waits(lambda: len(minutes(lake)) == 30), stop.set]  # fmt: skip
    run(lake, client, steps, stop=stop, told=told, clock=clock)
    assert minutes(lake) == list(range(60, 90))
    assert lake.holes(Venue.OKX) == []
    assert lake.mark(BTC, M1) <= T0 + 90 * MINUTE_MS
    assert sum("clock is wrong" in line for line in told) >= 2
    assert [line for line in told if "lacks" in line] == []
