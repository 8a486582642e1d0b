"""Holes: what an answer proves, what it does not, and what is remembered of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support_lake import BTC, ETH, M1, T0, FakeVenue, bar, mark, open_interest, ratio, spec

from qlib_crypto.clock import DAY_MS, MINUTE_MS
from qlib_crypto.collect.fill import Filler
from qlib_crypto.collect.series import POLLED, candles
from qlib_crypto.errors import VenueError
from qlib_crypto.lake import Lake
from qlib_crypto.schemas import PERIOD_MS
from qlib_crypto.symbols import Instrument, Venue

K1 = candles(M1)
SOL = Instrument("SOL", "USDT", Venue.OKX)
NOW = T0 + 30 * DAY_MS


def at(k):
    return T0 + k * MINUTE_MS


def filler_of(lake, client, others=(BTC, ETH)):
    return Filler(lake, client, lambda _line: None, lambda: others, lambda: NOW)


def market(lake, has, *, of=SOL, holds=(), others=None):
    """A venue with the minutes `has` of one instrument, a lake with `holds`, and rows of others by instrument."""
    client = FakeVenue(now_ms=NOW)
    client.list(spec(of))
    client.add_bars(*(bar(k, of=of) for k in has))
    for other, minutes in (others or {}).items():
        client.add_bars(*(bar(k, of=other) for k in minutes))
    lake.store([bar(k, of=of) for k in holds])
    return client


def test_what_the_venue_lacks_is_typed_and_never_asked_again(lake):
    has = set(range(60)) - {20, 21, 40}
    client = market(lake, has, holds=has, others={ETH: set(range(60)) - {21}})
    lake.store([bar(k, of=ETH) for k in range(60) if k != 21])
    filler = filler_of(lake, client)
    missing = filler.lacking(K1, SOL, T0, at(60))
    assert missing == [(at(20), at(22)), (at(40), at(41))]
    assert filler.conclude(K1, SOL, missing) == []
    assert [hole[2:5] for hole in lake.holes(Venue.OKX)] == [
        (at(20), at(21), "no_trade"), (at(21), at(22), "venue_down"), (at(40), at(41), "no_trade"),
    ]  # fmt: skip
    assert filler.lacking(K1, SOL, T0, at(60)) == []
    assert filler.tally.holes == {"no_trade": 2, "venue_down": 1}


def test_with_no_witness_in_the_lake_the_venue_is_asked_for_btc(lake):
    has = set(range(60)) - {20}
    client = market(lake, has, holds=has, others={BTC: range(60)})
    filler_of(lake, client, others=[SOL]).conclude(K1, SOL, [(at(20), at(21))])
    assert [hole.cause for hole in lake.holes(Venue.OKX)] == ["no_trade"]
    assert len(lake.bars(BTC, M1)) == 0  # it is not followed


def test_a_venue_that_does_not_list_btc_is_asked_for_another(lake, monkeypatch):
    has = set(range(60)) - {20}
    client = market(lake, has, holds=has, others={ETH: range(60)})
    bars = client.bars

    def only(instrument, *span):
        if instrument == BTC:
            raise VenueError("no such instrument", final=True)
        return bars(instrument, *span)

    monkeypatch.setattr(client, "bars", only)
    filler_of(lake, client, others=[SOL]).conclude(K1, SOL, [(at(20), at(21))])
    assert [hole.cause for hole in lake.holes(Venue.OKX)] == ["no_trade"]


@pytest.mark.parametrize("cut", ["empty", "half before", "half behind"])
def test_an_answer_without_the_rows_around_proves_nothing(lake, monkeypatch, cut):
    client = market(lake, range(60), holds=[*range(20), *range(25, 60)])
    bars = client.bars

    def broken(instrument, interval, start, end):
        for page in bars(instrument, interval, start, end):
            kept = {"empty": [], "half before": [b for b in page if b.open_ms < at(20)],
                    "half behind": [b for b in page if b.open_ms >= at(25)]}[cut]  # fmt: skip
            if kept:
                yield kept

    monkeypatch.setattr(client, "bars", broken)
    filler = filler_of(lake, client)
    assert filler.conclude(K1, SOL, [(at(20), at(25))]) == [(at(20), at(25))]
    assert lake.holes(Venue.OKX) == []
    monkeypatch.undo()
    assert filler.conclude(K1, SOL, [(at(20), at(25))], "lost") == []
    assert len(lake.bars(SOL, M1)) == 60
    assert [(r.start_ms, r.end_ms, r.rows, r.source, r.cause) for r in lake.repairs(Venue.OKX)] == [
        (at(20), at(25), 5, "rest", "lost")
    ]


def test_a_row_that_came_and_cannot_be_right_is_in_the_quarantine_and_no_hole(lake):
    client = market(lake, range(60), holds=[k for k in range(60) if k not in {30, 31}])
    client.add_bars(bar(30, of=SOL)._replace(close=math.nan))
    del client.bar_rows[SOL, M1][at(31)]
    filler = filler_of(lake, client)
    filler.conclude(K1, SOL, [(at(30), at(32))])
    assert [(hole.start_ms, hole.end_ms) for hole in lake.holes(Venue.OKX)] == [(at(31), at(32))]
    assert [row.time_ms for row in lake.quarantined(Venue.OKX)] == [at(30)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_everything_the_venue_has_is_stored_and_the_rest_named_or_unclear(tmp_path_factory, has, holds, other):
    lake = Lake(tmp_path_factory.mktemp("lake"))
    holds &= has
    client = market(lake, has, holds=holds, others={ETH: other})
    lake.store([bar(k, of=ETH) for k in other])
    filler = filler_of(lake, client)
    missing = filler.lacking(K1, SOL, T0, at(41))
    filler.ask(client, "rest", K1, SOL, missing, "lost")
    unclear = filler.conclude(K1, SOL, filler.lacking(K1, SOL, T0, at(41)))
    assert lake.bar_times(SOL, M1).tolist() == [at(k) for k in sorted(has)]
    named = {t for h in lake.holes(Venue.OKX) for t in range(h.start_ms, h.end_ms, MINUTE_MS)}
    last = max(has, default=-1)  # nothing that came after it proves that what follows is not only late
    assert named == {at(k) for k in set(range(last)) - has}
    assert unclear == ([(at(last + 1), at(41))] if last < 40 else [])
    causes = {t: h.cause for h in lake.holes(Venue.OKX) for t in range(h.start_ms, h.end_ms, MINUTE_MS)}
    assert all(cause == ("no_trade" if (t - T0) // MINUTE_MS in other else "venue_down") for t, cause in causes.items())
    repaired = {t for r in lake.repairs(Venue.OKX) for t in range(r.start_ms, r.end_ms, MINUTE_MS)}
    assert repaired == {at(k) for k in has - holds}
    lake.close()


@pytest.mark.parametrize(("name", "make"), [("mark", mark), ("open_interest", open_interest),
                                            ("long_short_ratio", ratio)])  # fmt: skip
def test_every_series_is_filled_and_typed_by_the_same_mechanism(lake, name, make):
    series = POLLED[name]
    client = FakeVenue(now_ms=NOW)
    client.add(*(make(k, of=SOL) for k in range(20) if k != 7))
    lake.store([make(k, of=SOL) for k in range(5)])
    filler = filler_of(lake, client)
    end = T0 + 20 * series.step_ms
    filler.ask(client, "rest", series, SOL, filler.lacking(series, SOL, T0, end), "stopped")
    assert filler.conclude(series, SOL, filler.lacking(series, SOL, T0, end)) == []
    assert series.times(lake, SOL, T0, end).tolist() == [T0 + k * series.step_ms for k in range(20) if k != 7]
    (hole,) = lake.holes(Venue.OKX)
    assert (hole.dataset, hole.start_ms) == (series.dataset, T0 + 7 * series.step_ms)
    assert series.step_ms in {MINUTE_MS, PERIOD_MS}
