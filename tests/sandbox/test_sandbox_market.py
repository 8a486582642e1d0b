"""The market at the clock: nothing that is seen depends on what comes later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_support import HOURS, MINUTES, START, Renamed

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.sandbox.clock import MarketClock
from qlib_crypto.sandbox.market import ANNOUNCED_MS, PREOPEN_MS, Market, announced, gone
from qlib_crypto.sandbox.series import Grid, take
from qlib_crypto.sandbox.tape import BarSeries, SettlementSeries
from qlib_crypto.symbols import Instrument, Interval, Venue

END = START + HOURS * HOUR_MS
BTC, ETH, PEPE = (Instrument.parse(f"{name}_USDT.OKX") for name in ("BTC", "ETH", "PEPE"))
TIMES = st.one_of(st.integers(START, END), st.integers(END - MINUTES * MINUTE_MS, END))
GRIDS = st.sampled_from([Grid(MINUTE_MS), Grid(5 * MINUTE_MS), Grid(HOUR_MS), Grid(4 * HOUR_MS), Grid.utc8(DAY_MS)])


class Cut:
    """A tape whose future was torn off at `at_ms`: of the bar that is open only the open is left, the rest is noise."""

    def __init__(self, tape, at_ms):
        self._tape, self._at = tape, at_ms
        self.venue, self.specs, self.span_ms = tape.venue, tape.specs, tape.span_ms

    def intervals(self, instrument):
        return self._tape.intervals(instrument)

    def bars(self, instrument, interval):
        bars = self._tape.bars(instrument, interval)
        bars = take(bars, bars.open_ms < self._at)
        future = bars.open_ms + interval.ms > self._at
        swap = lambda values, noise: np.where(future, noise, values)  # noqa: E731 - one expression for six columns
        return BarSeries(
            bars.open_ms, bars.open, swap(bars.high, 1e9), swap(bars.low, 0.0), swap(bars.close, 7e8),
            swap(bars.volume_base, np.where(bars.volume_base > 0, 6e9, 0.0)), bars.volume_quote, bars.trades,
        )  # fmt: skip

    def settlements(self, instrument):
        settled = self._tape.settlements(instrument)
        keep = settled.time_ms <= self._at
        return SettlementSeries(settled.time_ms[keep], settled.rate[keep], settled.mark_price[keep])

    def funding_now(self, instrument, at_ms):
        return self._tape.funding_now(instrument, at_ms)


def market(tape, at_ms=START):
    return Market(tape, MarketClock(at_ms, END, speed=0))


def same(a, b):
    fields = ("open_ms", "open", "high", "low", "close", "volume_base", "volume_quote", "trades")
    for field in fields:
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)


@settings(max_examples=150, deadline=None)
@given(at_ms=TIMES, instrument=st.sampled_from([BTC, ETH, PEPE]), grid=GRIDS)
def test_nothing_depends_on_the_future(okx_tape, at_ms, instrument, grid):
    whole, cut = market(okx_tape), market(Cut(okx_tape, at_ms))
    same(whole.open_bar(instrument, grid, at_ms), cut.open_bar(instrument, grid, at_ms))
    same(whole.closed(instrument, grid, at_ms), cut.closed(instrument, grid, at_ms))
    assert whole.last(instrument, at_ms) == cut.last(instrument, at_ms)
    assert whole.day(instrument, at_ms) == cut.day(instrument, at_ms)
    assert whole.last_settled(instrument, at_ms) == cut.last_settled(instrument, at_ms)


@settings(max_examples=100, deadline=None)
@given(at_ms=TIMES, grid=GRIDS)
def test_the_open_bar_becomes_the_closed_bar(okx_tape, at_ms, grid):
    """Built from finer bars: those that have closed, and the first print of the one that is open."""
    seen = market(okx_tape)
    opened = grid.floor(at_ms)
    bar = seen.open_bar(ETH, grid, at_ms)
    if opened == at_ms:
        assert len(bar.open_ms) == 0
        return
    minutes = okx_tape.bars(ETH, Interval.parse("1m"))
    mine = take(minutes, (minutes.open_ms >= opened) & (minutes.open_ms < at_ms))
    expected = (MINUTE_MS + Interval.parse("1m").floor(at_ms - 1) - opened) // MINUTE_MS
    if len(mine.open_ms) != expected:  # the tape does not cover the time since the open
        assert len(bar.open_ms) == 0
        return
    assert (bar.open_ms[0], bar.open[0]) == (opened, mine.open[0])
    done = mine.open_ms + MINUTE_MS <= at_ms
    assert bar.high[0] == max(mine.high[done].max(initial=0.0), mine.open[-1])
    assert bar.low[0] == min(mine.low[done].min(initial=np.inf), mine.open[-1])
    assert bar.close[0] == (mine.close[-1] if done[-1] else mine.open[-1])
    lot = okx_tape.specs[ETH].lot_base
    volume = mine.volume_base[done].sum() + (0.0 if done[-1] else lot * (mine.volume_base[-1] > 0))
    assert bar.volume_base[0] == pytest.approx(volume, rel=1e-12)


def test_the_tape_own_bars_are_served_as_they_are_and_others_resampled(okx_tape):
    seen = market(okx_tape)
    assert seen.series(BTC, Grid(HOUR_MS)) is okx_tape.bars(BTC, Interval.parse("1h"))
    four = seen.series(BTC, Grid(4 * HOUR_MS))
    assert len(four.open_ms) == HOURS // 4
    assert len(seen.series(ETH, Grid(4 * HOUR_MS)).open_ms) == MINUTES // 240
    hourly, minutes = (okx_tape.bars(BTC, Interval.parse(name)) for name in ("1h", "1m"))
    assert four.close[0] == hourly.close[3]
    assert four.close[-1] == minutes.close[-1]  # the finest interval that covers a bar makes it
    assert len(seen.series(PEPE, Grid(5 * MINUTE_MS)).open_ms) == 0


@settings(max_examples=60, deadline=None)
@given(at_ms=st.integers(START + 1, END))
def test_the_last_day_is_that_of_the_best_covering_interval(okx_tape, at_ms):
    day = market(okx_tape).day(PEPE, at_ms)
    bars = okx_tape.bars(PEPE, Interval.parse("1h"))
    inside = (bars.open_ms >= at_ms - DAY_MS) & (bars.open_ms + HOUR_MS <= at_ms)
    assert day.volume_base == bars.volume_base[inside].sum()
    assert day.volume_quote == pytest.approx((bars.volume_base * bars.close)[inside].sum(), rel=1e-12)
    newest = bars.open_ms < at_ms
    closes_at = bars.open_ms[newest][-1] + HOUR_MS
    assert day.last == (bars.close if closes_at <= at_ms else bars.open)[newest][-1]


def test_listing_announcement_and_delisting(okx_tape):
    listed, leaves = START + 5 * DAY_MS, START + 20 * DAY_MS
    specs = dict(okx_tape.specs)
    specs[ETH] = replace(specs[ETH], listed_ms=listed, delisted_ms=leaves)
    again = Instrument("ETH", "USDT", Venue.OKX, 2)
    specs[again] = replace(specs[ETH], instrument=again, listed_ms=leaves + DAY_MS, delisted_ms=None)
    seen = market(Renamed(okx_tape, specs))
    names = lambda at_ms: {spec.instrument for spec in seen.trading(at_ms)}  # noqa: E731 - a short name for a loop
    assert [ETH in names(at) for at in (listed - 1, listed, leaves - 1, leaves)] == [False, True, True, False]
    assert [again in names(at) for at in (leaves + DAY_MS - 1, leaves + DAY_MS)] == [False, True]
    assert seen.find("ETH-USDT-SWAP", leaves + 2 * DAY_MS).instrument == again
    assert seen.find("ETH-USDT-SWAP", listed - 1) is None
    assert {spec.instrument for spec in seen.coming(listed - PREOPEN_MS)} == {ETH}
    assert not seen.coming(listed - PREOPEN_MS - 1)
    spec = specs[ETH]
    assert [announced(spec, at) for at in (leaves - ANNOUNCED_MS - 1, leaves - ANNOUNCED_MS)] == [None, leaves]
    assert (gone(spec, leaves - 1), gone(spec, leaves)) == (False, True)


def test_an_outage_is_closed_left_and_open_right(okx_tape):
    tape = Renamed(okx_tape, okx_tape.specs)
    tape.outages = ((START + 10, START + 20),)
    seen = market(tape)
    assert [bool(seen.outage(START + at)) for at in (9, 10, 19, 20)] == [False, True, True, False]
    assert market(okx_tape).outages == []
