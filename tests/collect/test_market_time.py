"""Market time when clocks go wrong: a jump of ours is the venue's to confirm."""

from __future__ import annotations

import time

import pytest
from support_clock import World
from support_lake import T0

from qlib_crypto.clock import HOUR_MS, MINUTE_MS, SECOND_MS
from qlib_crypto.collect.market_time import MarketTime
from qlib_crypto.errors import SchemaError, VenueError


@pytest.mark.parametrize("speed", [1.0, 200.0, 2000.0])
@pytest.mark.parametrize("jump", [2 * HOUR_MS, -2 * HOUR_MS])
def test_a_jump_of_our_clock_does_not_move_market_time(monkeypatch, speed, jump):
    world, told = World(monkeypatch, speed), []
    market = MarketTime(world, world.venue_ms, told.append)
    for offset_ms in (0, jump, 0, jump, 0):
        world.offset_ms = offset_ms
        for _ in range(30):
            world.wall += 0.1
            assert abs(market._read()[0] - world.true_ms) <= max(MINUTE_MS, speed * SECOND_MS)
    assert [("wrong" in line, "right" in line) for line in told] == [(True, False), (False, True)] * 2


def test_a_clock_that_runs_true_is_held_against_the_venue_once_a_minute(monkeypatch):
    world = World(monkeypatch)
    market = MarketTime(world, world.venue_ms, print)
    world.live(market, 600.0)
    assert world.asked <= 12


def test_a_clock_that_is_wrong_at_the_start_is_corrected_and_without_a_venue_nothing_starts(monkeypatch):
    world, told = World(monkeypatch), []
    world.offset_ms = -2 * HOUR_MS
    assert MarketTime(world, world.venue_ms, told.append).now_ms == T0
    assert "wrong by -7,200 s" in told[0]
    world.down = True
    with pytest.raises(VenueError):
        MarketTime(world, world.venue_ms, told.append)


@pytest.mark.parametrize("jump", [0, 2 * HOUR_MS, -2 * HOUR_MS])
def test_while_the_venue_is_away_time_goes_on_whatever_our_clock_does(monkeypatch, jump):
    world, told = World(monkeypatch), []
    market = MarketTime(world, world.venue_ms, told.append)
    world.live(market, 5.0)
    world.down, world.slow_s, world.offset_ms = True, 45.0, jump  # it takes the client so long to give up
    world.live(market, 6 * 3_600.0)
    assert 0 <= world.true_ms - market.now_ms <= 2 * SECOND_MS
    assert len(told) == 1
    assert "goes on" in told[0]
    world.down, world.slow_s = False, 0.0
    world.live(market, 5.0)
    assert market.now_ms == pytest.approx(world.true_ms, abs=SECOND_MS)
    assert len(told) == 1 + bool(jump)


def test_without_its_venue_a_fast_market_is_never_thought_ahead(monkeypatch):
    world = World(monkeypatch, 2000.0)
    market = MarketTime(world, world.venue_ms, print)
    world.live(market, 5.0)
    world.down, world.offset_ms = True, 3 * HOUR_MS
    last = world.true_ms
    world.live(market, 60.0)
    assert last <= market.now_ms + 2 * world.speed * SECOND_MS
    assert market.now_ms < world.true_ms
    world.down = False
    world.live(market, 5.0)
    assert abs(market.now_ms - world.true_ms) <= world.speed * SECOND_MS


def test_a_late_answer_of_the_venue_is_no_wrong_clock(monkeypatch):
    world, told = World(monkeypatch), []
    market = MarketTime(world, world.venue_ms, told.append)
    world.slow_s = 90.0  # answered at the last attempt
    for _ in range(3):
        world.live(market, 61.0)
        assert abs(market.now_ms - world.true_ms) <= 2 * SECOND_MS
    assert not told


def test_unless_it_must_the_venue_need_not_answer_first_and_counts_once_it_does(monkeypatch):
    world, told = World(monkeypatch), []
    world.down, world.offset_ms = True, HOUR_MS
    market = MarketTime(world, world.venue_ms, told.append, ask_first=False)
    assert market.now_ms == T0 + HOUR_MS
    world.live(market, 600.0)
    assert market.now_ms == pytest.approx(world.now_ms(), abs=2 * SECOND_MS)
    world.down = False
    world.live(market, 5.0)
    assert market.now_ms == pytest.approx(world.true_ms, abs=SECOND_MS)
    assert ["goes on" in told[0], "wrong by +3,600 s" in told[1]] == [True, True]


def test_an_answer_of_another_shape_does_not_end_the_reading(monkeypatch):
    world, told = World(monkeypatch), []
    market = MarketTime(world, world.venue_ms, told.append)

    def portal():
        raise SchemaError("okx public/time: no JSON")

    market._venue_ms = portal
    world.live(market, 90.0)
    market._venue_ms, world.offset_ms = world.venue_ms, HOUR_MS
    world.live(market, 5.0)
    assert market.now_ms == pytest.approx(world.true_ms, abs=SECOND_MS)
    assert "no JSON" in told[0]


def test_it_reads_in_a_thread():
    class Steps:
        now = T0

        def now_ms(self):
            return self.now

    clock = Steps()
    market = MarketTime(clock, clock.now_ms, print)
    market.start()
    clock.now = T0 + HOUR_MS  # the venue moved as well
    end = time.monotonic() + 5
    while market.now_ms < clock.now and time.monotonic() < end:
        time.sleep(0.02)
    market.stop()
    assert market.now_ms >= T0 + HOUR_MS
