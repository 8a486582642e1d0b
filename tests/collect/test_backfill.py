from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_lake import BTC, ETH, H1, M1, PEPE, T0, FakeVenue, bar, settlement, spec

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.collect import backfill, backfill_funding
from qlib_crypto.collect.settled import funding_holes
from qlib_crypto.errors import ConfigError, VenueError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.tables import BARS
from qlib_crypto.symbols import Venue


def venue(bars, **options):
    client = FakeVenue(**options)
    client.list(spec(BTC), spec(ETH))
    client.add_bars(*bars)
    return client


class StoppedError(Exception):
    pass


def stop_after(client, pages):
    left = [pages]

    def before_page():
        if left[0] == 0:
            raise StoppedError
        left[0] -= 1

    client.before_page = before_page


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.integers(0, 40)),
    st.sets(st.integers(0, 40)),
    st.integers(0, 45),
    st.integers(0, 45),
    st.booleans(),
    st.lists(st.integers(0, 4), max_size=4),
)
def test_any_interrupted_backfill_ends_as_the_whole(tmp_path_factory, has, had, lo, hi, newest_first, interruptions):
    lake = Lake(tmp_path_factory.mktemp("lake"))
    start, end = T0 + min(lo, hi) * MINUTE_MS, T0 + max(lo, hi) * MINUTE_MS
    client = venue([bar(k, close=100.0 + k) for k in has], page=3, newest_first=newest_first)
    lake.store([bar(k, close=100.0 + k) for k in had])
    for pages in interruptions:
        stop_after(client, pages)
        before = len(lake.bars(BTC, M1))
        try:
            backfill(lake, client, [BTC], M1, start, end)
        except StoppedError:
            assert len(lake.bars(BTC, M1)) >= before
    client.before_page = lambda: None
    summary = backfill(lake, client, [BTC], M1, start, end)
    wanted = {k for k in has if start <= T0 + k * MINUTE_MS < end} | had
    assert lake.bar_times(BTC, M1).tolist() == [T0 + k * MINUTE_MS for k in sorted(wanted)]
    missing = {t for spans in summary.missing.values() for a, b in spans for t in range(a, b, MINUTE_MS)}
    assert missing == {t for t in range(start, end, MINUTE_MS) if (t - T0) // MINUTE_MS not in wanted}
    assert lake._hot[Venue.OKX].held(BARS) == []  # all sealed
    lake.close()


def test_what_is_fresh_is_not_asked_again(lake):
    client = venue([bar(k) for k in range(1000)])
    backfill(lake, client, [BTC], M1, T0, T0 + 1000 * MINUTE_MS)
    client.log.clear()
    summary = backfill(lake, client, [BTC], M1, T0, T0 + 1000 * MINUTE_MS)
    assert (client.log, summary.rows, summary.requests, summary.missing) == ([], 0, 0, {})


def test_only_closed_bars_up_to_the_venues_time(lake):
    client = venue([bar(k) for k in range(100)], now_ms=T0 + 10 * MINUTE_MS + 30_000)
    summary = backfill(lake, client, [BTC], M1, T0, T0 + DAY_MS)
    assert lake.bar_times(BTC, M1).tolist() == [T0 + k * MINUTE_MS for k in range(10)]
    assert (summary.rows, summary.missing) == (10, {})
    assert client.log == [("bars", BTC, T0, T0 + 10 * MINUTE_MS)]


def test_the_range_is_clipped_to_listing_and_delisting(lake):
    client = venue([bar(k) for k in range(5, 20)])
    client.list(spec(BTC, listed_ms=T0 + 5 * MINUTE_MS + 1000, delisted_ms=T0 + 20 * MINUTE_MS))
    assert backfill(lake, client, [BTC], M1, T0 - DAY_MS, T0 + DAY_MS).missing == {}
    assert client.log == [("bars", BTC, T0 + 5 * MINUTE_MS, T0 + 20 * MINUTE_MS)]


def test_a_hole_that_the_venue_has_too_gets_its_cause_and_is_told_and_asked_no_more(lake):
    gaps = {0, 1, 100, 101, 350, 620, 999}
    client = venue(
        [*(bar(k) for k in range(1000) if k not in gaps), *(bar(k, of=ETH) for k in range(1000) if k != 620)]
    )
    run = lambda: backfill(lake, client, [BTC, ETH], M1, T0, T0 + 1000 * MINUTE_MS)  # noqa: E731 - shorter
    at = lambda *ks: [(T0 + a * MINUTE_MS, T0 + b * MINUTE_MS) for a, b in ks]  # noqa: E731 - shorter
    summary = run()
    told = {BTC: at((0, 2), (100, 102), (350, 351), (620, 621), (999, 1000)), ETH: at((620, 621))}
    assert (summary.missing, summary.stored) == (told, 993 + 999)
    assert summary.holes == {"no_trade": 3, "venue_down": 2}
    holes = [(h.instrument, h.start_ms, h.end_ms, h.cause) for h in lake.holes(Venue.OKX)]
    assert sorted(holes) == [
        *((BTC, *span, "no_trade") for span in told[BTC][1:3]),
        (BTC, *told[BTC][3], "venue_down"),
        (ETH, *at((620, 621))[0], "venue_down"),
    ], "only between rows"
    client.log.clear()
    again = run()
    assert (again.missing, again.stored, again.holes) == (told, 0, {})
    assert client.log == [("bars", BTC, *at((0, 2))[0]), ("bars", BTC, *at((999, 1000))[0])]


def test_a_cut_answer_gives_no_cause_and_what_comes_at_the_second_asking_is_counted(lake):
    client = venue([bar(k) for k in range(600)])
    client.add_bars(*(bar(k, of=ETH) for k in range(600)))
    hidden = {k: client.bar_rows[BTC, M1].pop(T0 + k * MINUTE_MS) for k in (50, 51)}

    ask = client.bars

    def late(*span):
        if len(client.log) == 2:  # BTC and ETH were asked: now BTC once more
            client.add_bars(*hidden.values())
        return ask(*span)

    client.bars = late
    summary = backfill(lake, client, [BTC, ETH], M1, T0, T0 + 600 * MINUTE_MS)
    assert (summary.missing, summary.stored, summary.holes) == ({}, 1200, {})
    lake.store([bar(k, of=PEPE) for k in (0, 400, 800)])
    cut = FakeVenue(Venue.BINANCE)
    cut.list(spec(PEPE))
    cut.add_bars(*(bar(k, of=PEPE) for k in range(300)))
    found = backfill(lake, cut, [PEPE], M1, T0, T0 + 800 * MINUTE_MS)
    assert found.missing == {
        PEPE: [(T0 + 300 * MINUTE_MS, T0 + 400 * MINUTE_MS), (T0 + 401 * MINUTE_MS, T0 + 800 * MINUTE_MS)]
    }
    assert found.holes == {}
    assert lake.holes(Venue.BINANCE) == []


def test_dry_run_plans_and_asks_for_no_bar(lake):
    client = venue([])
    lake.store([bar(k) for k in range(300, 600)])
    summary = backfill(lake, client, [BTC, ETH], M1, T0, T0 + 1000 * MINUTE_MS, dry_run=True)
    assert (summary.instruments, summary.rows, summary.requests, summary.stored) == (2, 1700, 1 + 2 + 4, 0)
    assert client.log == []


def test_progress_ends_at_the_total(lake):
    client = venue([bar(k, of=of) for k in range(700) for of in (BTC, ETH)])
    seen = []
    backfill(lake, client, [BTC, ETH], M1, T0, T0 + 700 * MINUTE_MS, progress=lambda *step: seen.append(step))
    assert seen[-1] == ("ETH_USDT", 1400, 1400)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert len(seen) >= 6


def test_an_unknown_instrument_is_a_user_error_before_anything_is_asked(lake):
    client = venue([])
    nope = BTC.parse("NOPE_USDT", Venue.OKX)
    for run in (lambda: backfill(lake, client, [BTC, nope], M1, T0, T0 + DAY_MS),
                lambda: backfill_funding(lake, client, [BTC, nope], T0, T0 + DAY_MS)):  # fmt: skip
        with pytest.raises(ConfigError, match=r"NOPE_USDT\.OKX: no linear perpetual that okx lists"):
            run()
    assert client.log == []


def test_a_failing_venue_keeps_what_was_stored(lake):
    client = venue([bar(k) for k in range(900)])
    stop_after(client, 2)
    with pytest.raises(StoppedError):
        backfill(lake, client, [BTC], M1, T0, T0 + 900 * MINUTE_MS)
    assert len(lake.bars(BTC, M1)) == 600


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=40),
    st.booleans(),
    st.lists(st.integers(0, 3), max_size=3),
    st.sets(st.integers(0, 39)),
)
def test_any_interrupted_funding_backfill_ends_as_the_whole(tmp_path_factory, hours, newest_first, interruptions, had):
    """`had` is a contiguous end that an earlier run left, or single rows further apart than 8 h."""
    times = T0 + np.cumsum([0, *hours]) * HOUR_MS + 3
    rows = [settlement(int(t), rate=float(k)) for k, t in enumerate(times)]
    lake = Lake(tmp_path_factory.mktemp("lake"))
    client = FakeVenue(page=3, newest_first=newest_first, now_ms=int(times[-1]) + 10)
    client.list(spec(BTC))
    client.add_settlements(*rows)
    keep = [rows[min(had)]] if had and min(had) < len(rows) else []
    lake.store(keep)
    for pages in interruptions:
        stop_after(client, pages)
        with contextlib.suppress(StoppedError):
            backfill_funding(lake, client, [BTC], T0, T0 + 90 * DAY_MS)
    client.before_page = lambda: None
    backfill_funding(lake, client, [BTC], T0, T0 + 90 * DAY_MS)
    assert lake.settlements(Venue.OKX, BTC).column("funding_rate").to_pylist() == [row.rate for row in rows]
    lake.close()


def test_an_interrupted_hour_by_hour_span_beside_a_known_settlement_is_not_taken_for_complete(lake):
    client = FakeVenue(page=3, newest_first=False, now_ms=T0 + 20 * HOUR_MS)
    client.list(spec(BTC))
    client.add_settlements(*(settlement(T0 + k * HOUR_MS) for k in range(20)))
    lake.store([settlement(T0 + 10 * HOUR_MS)])
    stop_after(client, 1)
    with pytest.raises(StoppedError):
        backfill_funding(lake, client, [BTC], T0, T0 + DAY_MS)
    client.before_page = lambda: None
    backfill_funding(lake, client, [BTC], T0, T0 + DAY_MS)
    assert len(lake.settlements(Venue.OKX)) == 20


def test_funding_holes_are_before_between_and_after():
    hour = HOUR_MS
    have = T0 + np.array([8, 16, 24, 48, 52]) * hour
    assert funding_holes(have, T0 - hour, T0 + 60 * hour) == [
        (T0 - hour, T0 + 8 * hour), (T0 + 24 * hour + MINUTE_MS, T0 + 48 * hour),
        (T0 + 52 * hour + MINUTE_MS, T0 + 60 * hour),
    ]  # fmt: skip
    assert funding_holes(have, T0 + 8 * hour, T0 + 17 * hour) == []
    hourly = T0 + np.array([0, 1, 2, 7, 8, 9]) * hour
    assert funding_holes(hourly, T0, T0 + 10 * hour) == [(T0 + 2 * hour + MINUTE_MS, T0 + 7 * hour)]
    assert funding_holes(np.array([], dtype=np.int64), T0, T0 + hour) == [(T0, T0 + hour)]
    assert funding_holes(np.array([], dtype=np.int64), T0, T0) == []


def test_fresh_funding_is_not_asked_again(lake):
    client = FakeVenue(now_ms=T0 + 16 * HOUR_MS + 30_000)
    client.list(spec(BTC))
    client.add_settlements(*(settlement(T0 + k * 8 * HOUR_MS + 7) for k in range(3)))
    assert backfill_funding(lake, client, [BTC], T0, T0 + DAY_MS).stored == 3
    client.log.clear()
    assert backfill_funding(lake, client, [BTC], T0, T0 + DAY_MS).requests == 0
    assert client.log == []
    assert len(list((lake.folder(Venue.OKX) / "funding").iterdir())) == 1


def test_a_bar_that_cannot_be_right_is_told_and_does_not_stop_the_rest(lake):
    client = venue([bar(k) for k in range(400)])
    client.add_bars(bar(7, close=0.0))
    summary = backfill(lake, client, [BTC], M1, T0, T0 + 400 * MINUTE_MS)
    assert len(lake.bars(BTC, M1)) == 399
    assert summary.missing == {BTC: [(T0 + 7 * MINUTE_MS, T0 + 8 * MINUTE_MS)]}
    assert [line.split(":")[0] for line in summary.refused] == ["bar BTC_USDT.OKX 1m 2025-04-01 00"]


def test_a_refusing_venue_is_an_error_not_an_empty_page(lake):
    client = venue([bar(0, interval=H1)])

    def refuse():
        raise VenueError("okx error 51000")

    client.before_page = refuse
    with pytest.raises(VenueError):
        backfill(lake, client, [BTC], H1, T0, T0 + DAY_MS)
