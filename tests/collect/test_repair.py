"""The hourly repair: every hole of the last days is fetched, named, or left for what cannot be known."""

from __future__ import annotations

import dataclasses
import json
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_lake import BTC, ETH, M1, T0, FakeVenue, bar, index, mark, settlement, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.collect import repair
from qlib_crypto.collect.repair import WINDOW_MS
from qlib_crypto.errors import SchemaError, VenueError
from qlib_crypto.lake import Lake
from qlib_crypto.symbols import Instrument, Venue

NOW = T0 + 2 * HOUR_MS


def at(k):
    return T0 + k * MINUTE_MS


class Files:
    """An archive of some bars and settlements."""

    def __init__(self, bars=(), settled=(), published=NOW):
        self._bars, self._settled, self._published, self.asked = bars, settled, published, []

    def serves(self, dataset):
        return dataset in {"kline_1m", "funding"}

    def published_until_ms(self, _now_ms, _dataset="kline_1m"):
        return self._published

    def bars(self, instrument, _interval, start, end):
        self.asked.append((instrument, start, end))
        page = [b for b in self._bars if b.instrument == instrument and start <= b.open_ms < end]
        yield from [page] if page else []

    def settlements(self, instrument, start, end):
        self.asked.append((instrument, start, end))
        page = [s for s in self._settled if s.instrument == instrument and start <= s.time_ms < end]
        yield from [page] if page else []


def venue(*bars, now_ms=NOW, **options):
    client = FakeVenue(now_ms=now_ms, **options)
    client.list(spec(BTC), spec(ETH))
    client.add_bars(*bars)
    return client


def run(lake, client, archive=None, *, now_ms=NOW, since_ms=None, datasets=(), of=(BTC, ETH), **options):
    since = now_ms - WINDOW_MS if since_ms is None else since_ms
    return repair(lake, client, archive, list(of), M1, datasets, now_ms=now_ms, since_ms=since, **options)


def test_holes_are_fetched_named_and_asked_no_more(lake):
    has = set(range(120)) - {30, 31}
    client = venue(*(bar(k) for k in has), *(bar(k, of=ETH) for k in range(120)))
    lake.store([bar(k) for k in has if not 40 <= k < 60] + [bar(k, of=ETH) for k in range(120)])
    first = run(lake, client)
    assert (dict(first.missing), dict(first.stored)) == ({"kline_1m": 22}, {"kline_1m": 20})
    assert (dict(first.holes), dict(first.left)) == ({"no_trade": 2}, {"kline_1m": 0})
    assert len(lake.bars(BTC, M1)) == 118
    (repaired,) = lake.repairs(Venue.OKX)
    assert repaired[1:] == (BTC, "kline_1m", at(40), at(60), 20, "rest", "not_collected")
    client.log.clear()
    second = run(lake, client)
    assert (second.missing, client.log) == ({}, [])


def test_what_is_younger_than_ten_minutes_is_left_to_the_collector(lake):
    client = venue(*(bar(k) for k in range(120)))
    lake.store([bar(k) for k in range(100)])
    run(lake, client, of=[BTC])
    assert lake.bar_times(BTC, M1)[-1] == at(109)


def test_a_clock_of_ours_that_is_ahead_types_nothing_early(lake):
    client = venue(*(bar(k) for k in range(200)))
    lake.store([bar(k) for k in range(100)])
    run(lake, client, of=[BTC], now_ms=NOW + 2 * HOUR_MS)
    assert lake.holes(Venue.OKX) == []
    assert lake.bar_times(BTC, M1)[-1] == at(109)


def test_time_before_collecting_began_is_no_hole(lake):
    client = venue(*(bar(k) for k in range(120)))
    lake.store([bar(k) for k in range(50, 110)])
    run(lake, client)
    assert lake.bar_times(BTC, M1)[0] == at(50)
    assert len(lake.bars(ETH, M1)) == 0  # never collected at all


def test_with_rows_before_the_window_the_whole_window_is_wanted(lake):
    client = venue(*(bar(k) for k in range(120)))
    lake.store([bar(0), *(bar(k) for k in range(60, 110))])
    run(lake, client, since_ms=at(30))
    assert lake.bar_times(BTC, M1).tolist() == [at(0), *(at(k) for k in range(30, 110))]


def test_what_is_older_than_rest_reaches_comes_from_the_archive(lake):
    archive = Files([bar(k, source="archive") for k in range(120)])
    client = venue(*(bar(k) for k in range(120)))
    client.reach["kline_1m"] = HOUR_MS + 10 * MINUTE_MS
    lake.store([bar(k) for k in range(110) if not 20 <= k < 100])
    run(lake, client, archive, of=[BTC])
    rows = lake.bars(BTC, M1)
    assert len(rows) == 110
    sources = rows.column("source").to_pylist()
    assert set(sources[20:60]) == {"archive"}
    assert set(sources[60:100]) == {"rest"}


def test_a_venue_that_does_not_answer_ends_it_and_a_refused_instrument_does_not(lake, monkeypatch):
    client, told = venue(*(bar(k, of=of) for of in (BTC, ETH) for k in range(120))), []
    lake.store([bar(k, of=of) for of in (BTC, ETH) for k in (0, 105)])
    bars = client.bars

    def refuses(instrument, *span):
        if instrument == BTC:
            raise VenueError("okx: instrument BTC does not exist", final=True)
        return bars(instrument, *span)

    monkeypatch.setattr(client, "bars", refuses)
    run(lake, client, say=told.append)
    assert len(lake.bars(ETH, M1)) == 110
    assert len(lake.bars(BTC, M1)) == 2
    assert "does not exist" in told[0]
    monkeypatch.setattr(client, "bars", lambda *_: (_ for _ in ()).throw(VenueError("down", retryable=True)))
    with pytest.raises(VenueError, match="down"):
        run(lake, client)


def test_what_was_missing_is_fetched_lacked_or_left(lake):
    client = venue(*(bar(k) for k in range(120) if k not in {30, 50}), *(bar(k, of=ETH) for k in range(120)))
    lake.store([bar(k) for k in range(115) if not 20 <= k < 60] + [bar(k, of=ETH) for k in range(120)])
    ask = client.bars

    def late(*span):
        if sum(asked[1] == BTC for asked in client.log) == 1:
            client.add_bars(bar(50))  # comes at the second asking
        return ask(*span)

    client.bars = late
    done = run(lake, client)
    assert sum(done.missing.values()) == sum([*done.stored.values(), *done.holes.values(), *done.left.values()])
    assert (dict(done.stored), done.holes, dict(done.left)) == ({"kline_1m": 39}, {"no_trade": 1}, {"kline_1m": 0})


@pytest.mark.parametrize(("name", "row"), [("mark", mark), ("index", index)])
def test_polled_series_are_repaired_too(lake, name, row):
    client = venue()
    client.add(*(row(k) for k in range(120)))
    lake.store([row(k) for k in (0, 1, 2, 100)])
    done = run(lake, client, datasets=(name, "liquidations"))
    assert dict(done.stored) == {f"{name}_1m": 106}
    assert {line.dataset for line in lake.repairs(Venue.OKX)} == {f"{name}_1m"}


def test_settlements_are_repaired_and_what_the_venue_lacks_is_asked_once(lake):
    now = T0 + 3 * DAY_MS
    client = venue(now_ms=now)
    times = [T0 + h * HOUR_MS for h in range(0, 72, 8)]
    client.add_settlements(*(settlement(t) for t in times if t != times[4]))
    lake.store([settlement(t) for t in (times[0], times[1], times[3], times[5], *times[6:])])
    done = run(lake, client, of=[BTC], now_ms=now)
    assert done.stored["funding"] == 1  # times[2]
    assert done.holes == {}, "a span without a settlement is no row"
    (hole,) = lake.holes(Venue.OKX, "funding")
    assert hole.start_ms <= times[4] < hole.end_ms
    lake.seal(Venue.OKX)
    before = lake.repairs(Venue.OKX)
    client.log.clear()
    again = run(lake, client, of=[BTC], now_ms=now)
    assert (again.stored.get("funding", 0), lake.repairs(Venue.OKX)) == (0, before)
    assert json.dumps(dataclasses.asdict(again))
    assert [entry for entry in client.log if entry[2] < times[5] < entry[3]] == []


def test_settlements_that_never_came_are_looked_for_as_far_as_candles_go(lake):
    now = T0 + 2 * DAY_MS
    client = venue(*(bar(k) for k in range(2 * 1440)), now_ms=now)
    times = [T0 + h * HOUR_MS for h in range(0, 48, 8)]
    client.add_settlements(*map(settlement, times))
    lake.store([bar(k) for k in range(2 * 1440)])
    assert run(lake, client, of=[BTC], now_ms=now).stored["funding"] == 6
    client.log.clear()
    run(lake, client, of=[BTC], now_ms=now)
    assert [entry for entry in client.log if entry[2] < times[-2]] == []


def test_a_leaver_is_looked_at_until_it_was_followed_no_more(lake):
    now, left = T0 + 2 * DAY_MS, T0 + DAY_MS
    bars = [bar(k, of=of) for of in (BTC, ETH) for k in range(2 * 1440)]
    client = venue(*bars, now_ms=now)
    times = [T0 + h * HOUR_MS for h in range(48)]
    client.add_settlements(*(settlement(t, of=ETH) for t in times))
    lake.store([b for b in bars if b.instrument == BTC or b.open_ms < T0 + 17 * HOUR_MS])
    lake.store([settlement(t, of=ETH) for t in times[:16]])
    run(lake, client, of=[BTC], now_ms=now, leavers={ETH: left, BTC: left})
    assert lake.bar_times(ETH, M1)[-1] == left - MINUTE_MS
    assert len(lake.bars(ETH, M1)) == 1440
    assert len(lake.settlements(Venue.OKX, ETH)) == 25  # up to the one at the instant it left
    client.log.clear()
    run(lake, client, of=[BTC], now_ms=now, leavers={ETH: left})
    assert [entry for entry in client.log if entry[1] == ETH] == []


def test_what_a_stale_answer_lacks_is_no_hole(lake):
    client = venue(*(bar(k, of=of) for of in (BTC, ETH) for k in range(300)), now_ms=at(140))
    lake.store([bar(k, of=of) for of in (BTC, ETH) for k in range(100)])
    fresh = client.bars

    def stale(*asked):  # a replica that stands at minute 105
        for page in fresh(*asked):
            if kept := [b for b in page if b.open_ms < at(105)]:
                yield kept

    client.bars = stale
    done = run(lake, client, now_ms=at(140))
    assert (dict(done.left), lake.holes(Venue.OKX)) == ({"kline_1m": 50}, [])
    client.bars, client.now_ms = fresh, at(200)
    run(lake, client, now_ms=at(200))
    for of in (BTC, ETH):
        assert lake.bar_times(of, M1).tolist() == [at(k) for k in range(190)]


@pytest.mark.parametrize("wrong", ["another shape", "torn file"])
def test_what_is_wrong_with_one_instrument_costs_the_others_nothing(lake, wrong):
    client = venue(*(bar(k, of=of) for of in (BTC, ETH) for k in range(120)))
    lake.store([bar(k, of=of) for of in (BTC, ETH) for k in range(110) if k != 50])
    if wrong == "torn file":
        lake.seal(Venue.OKX)
        torn = next(lake.folder(Venue.OKX).glob("kline_1m/BTC*"))
        torn.write_bytes(torn.read_bytes()[:-200])
    else:
        fresh = client.bars

        def odd(instrument, *asked):
            if instrument == BTC:
                raise SchemaError("'abc' is no number")
            yield from fresh(instrument, *asked)

        client.bars = odd
    told = []
    run(lake, client, say=told.append)
    assert told
    assert at(50) in lake.bar_times(ETH, M1)


def test_an_archive_that_does_not_answer_costs_rest_nothing(lake):
    client = venue(*(bar(k, of=of) for of in (BTC, ETH) for k in range(120)))
    client.reach["kline_1m"] = 60 * MINUTE_MS
    lake.store([bar(k, of=of) for of in (BTC, ETH) for k in range(110) if k not in (20, 80)])

    class Down(Files):
        def bars(self, *asked):
            self.asked.append(asked)
            raise VenueError("nobody answers", retryable=True)

    archive, told = Down(), []
    run(lake, client, archive, say=told.append)
    assert (len(archive.asked), told) == (1, ["nobody answers"])
    for of in (BTC, ETH):
        assert lake.bar_times(of, M1).tolist() == [at(k) for k in range(110) if k != 20]


def test_the_bars_of_a_ticker_that_is_used_again_are_the_new_contracts(lake):
    luna = Instrument("LUNA", "USDT", Venue.OKX)
    again = dataclasses.replace(luna, listing=2)
    lake.store_specs(Venue.OKX, [spec(luna, seen_ms=at(90), listed_ms=T0 - 30 * DAY_MS)])
    lake.store([bar(k, of=luna, close=80.0) for k in range(100)])
    client = FakeVenue(now_ms=at(420))
    client.list(spec(luna, seen_ms=at(420), listed_ms=at(300)))
    client.add_bars(*(bar(k, of=of, close=11.0) for of in (luna, again) for k in range(300, 420)))
    run(lake, client, of=[luna, again], now_ms=at(420), leavers={})
    assert lake.bar_times(luna, M1).tolist() == [at(k) for k in range(100)]


def test_what_was_not_collected_of_a_contract_that_is_gone_is_named_and_filled_from_the_archive_later(lake):
    ended, now = T0 + 10 * HOUR_MS, T0 + 11 * HOUR_MS
    client = venue(now_ms=now)
    client.list(spec(BTC, delisted_ms=ended))
    bars, settled = [bar(k) for k in range(600)], [settlement(T0 + h * HOUR_MS) for h in range(10)]
    lake.store([*bars[:590], *settled[:8]])
    archive = Files(bars, settled, published=T0)
    done = run(lake, client, archive, of=[BTC], now_ms=now)
    assert (dict(done.missing), dict(done.holes), dict(done.left)) == (
        {"kline_1m": 10}, {"delisted": 10}, {"kline_1m": 0},
    )  # fmt: skip
    assert [(hole.dataset, hole.cause) for hole in lake.holes(Venue.OKX)] == [
        ("funding", "delisted"), ("kline_1m", "delisted"),
    ]  # fmt: skip
    assert dict(run(lake, client, archive, of=[BTC], now_ms=now).missing) == {"kline_1m": 0}
    later = Files(bars, settled, published=now + DAY_MS)
    assert dict(run(lake, client, later, of=[BTC], now_ms=now).stored) == {"kline_1m": 10, "funding": 2}
    assert (len(lake.bars(BTC, M1)), len(lake.settlements(Venue.OKX))) == (600, 10)
    assert [(hole.dataset, hole.start_ms) for hole in lake.holes(Venue.OKX) if hole.dataset != "funding"] == []
    assert [(r.dataset, r.rows, r.source) for r in lake.repairs(Venue.OKX)] == [
        ("kline_1m", 10, "archive"), ("funding", 2, "archive"),
    ]  # fmt: skip


def test_a_contract_that_ended_before_its_next_settlement_lacks_none(lake):
    ended, now = T0 + 18 * HOUR_MS, T0 + 19 * HOUR_MS
    client = venue(now_ms=now)
    client.list(spec(BTC, delisted_ms=ended))
    lake.store([*(bar(k) for k in range(18 * 60)), *(settlement(T0 + h * HOUR_MS) for h in (0, 8, 16))])
    run(lake, client, of=[BTC], now_ms=now)
    assert lake.holes(Venue.OKX) == []


def test_it_stops_when_told(lake):
    client, stop = venue(*(bar(k) for k in range(120))), threading.Event()
    lake.store([bar(0), bar(109)])
    stop.set()
    run(lake, client, stop=stop)
    assert len(lake.bars(BTC, M1)) == 2


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 50)), st.sets(st.integers(0, 50)), st.sets(st.integers(0, 50)))
def test_after_it_every_row_is_there_or_named_or_out_of_bounds(tmp_path_factory, has, holds, other):
    lake = Lake(tmp_path_factory.mktemp("lake"))
    holds &= has
    client = venue(*(bar(k) for k in has), *(bar(k, of=ETH) for k in other))
    lake.store([bar(k) for k in holds] + [bar(k, of=ETH) for k in other])
    done = run(lake, client)
    first = min(holds, default=None)
    wanted = set() if first is None else set(range(first, 110))
    assert lake.bar_times(BTC, M1).tolist() == [at(k) for k in sorted(holds | (has & wanted))]
    named = {t for h in lake.holes(Venue.OKX, instrument=BTC) for t in range(h.start_ms, h.end_ms, MINUTE_MS)}
    last = max(holds | (has & wanted), default=-1)
    assert named == {at(k) for k in wanted - has if k < last}
    tail = 109 - max(other, default=109)  # the other one's, of which nobody knows either whether it is only late
    assert done.left.get("kline_1m", 0) == len({k for k in wanted - has if k > last}) + max(0, tail)
    lake.close()
