"""Market time when clocks go wrong: a jump of ours is the venue's to confirm."""

from __future__ import annotations

import time

import pytest
from support_lake import T0

from qlib_crypto.clock import HOUR_MS, MINUTE_MS, SECOND_MS
from qlib_crypto.collect import market_time
from qlib_crypto.collect.market_time import MarketTime
from qlib_crypto.errors import VenueError


class World:
    """A venue whose time runs at `speed`, and a machine whose clock stands wrong by `offset_ms`."""

    def __init__(self, monkeypatch, speed=1.0):
        self.wall, self.offset_ms, self.speed, self.asked, self.down = 1000.0, 0, speed, 0, False
        monkeypatch.setattr(market_time.time, "monotonic", lambda: self.wall)

    def venue_ms(self):
        self.asked += 1
        if self.down:
            raise VenueError("okx does not answer", retryable=True)
        return int(T0 + (self.wall - 1000.0) * SECOND_MS * self.speed)

    def now_ms(self):
        return int(T0 + (self.wall - 1000.0) * SECOND_MS * self.speed) + self.offset_ms


@pytest.mark.parametrize("speed", [1.0, 200.0, 2000.0])
@pytest.mark.parametrize("jump", [2 * HOUR_MS, -2 * HOUR_MS])
def test_a_jump_of_our_clock_does_not_move_market_time(monkeypatch, speed, jump):
    world, told = World(monkeypatch, speed), []
    market = MarketTime(world, world.venue_ms, told.append)
    for offset_ms in (0, jump, 0, jump, 0):
        world.offset_ms = offset_ms
        for _ in range(30):
            world.wall += 0.1
            true_ms = T0 + (world.wall - 1000.0) * SECOND_MS * speed
            assert abs(market._read() - true_ms) <= max(MINUTE_MS, speed * SECOND_MS)
    assert [("wrong" in line, "right" in line) for line in told] == [(True, False), (False, True)] * 2


def test_a_clock_that_runs_true_is_held_against_the_venue_once_a_minute(monkeypatch):
    world = World(monkeypatch)
    market = MarketTime(world, world.venue_ms, print)
    for _ in range(6000):  # ten minutes
        world.wall += 0.1
        market._read()
    assert world.asked <= 12


def test_a_clock_that_is_wrong_at_the_start_is_corrected_and_without_a_venue_nothing_starts(monkeypatch):
    world, told = World(monkeypatch), []
    world.offset_ms = -2 * HOUR_MS
    assert MarketTime(world, world.venue_ms, told.append).now_ms == T0
    assert "wrong by -7,200 s" in told[0]
    world.down = True
    with pytest.raises(VenueError):
        MarketTime(world, world.venue_ms, told.append)


def test_a_jump_that_the_venue_cannot_confirm_makes_time_stand(monkeypatch):
    world, told = World(monkeypatch), []
    market = MarketTime(world, world.venue_ms, told.append)
    market._ended.wait = lambda _s: len(told) > 0 or (setattr(world, "wall", world.wall + 0.1), False)[1]
    world.down, world.offset_ms = True, 2 * HOUR_MS
    market._run()
    assert market.now_ms == T0
    assert "stands" in told[0]


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
    while market.now_ms != clock.now and time.monotonic() < end:
        time.sleep(0.02)
    market.stop()
    assert market.now_ms == T0 + HOUR_MS
