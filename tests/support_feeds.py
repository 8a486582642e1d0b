"""For the tests of feeds: scripted loopback venues, an array tape, and a stream that runs in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.feeds import VenueStream
from qlib_crypto.feeds.links import Pace
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.tape import BarSeries, FundingNow, SettlementSeries
from qlib_crypto.schemas import Bar, Estimate, Row
from qlib_crypto.settings import BinanceSettings, OkxSettings, VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
START_MS = 1_750_000_000_000 - 1_750_000_000_000 % DAY_MS
#: Reconnects and looks at connections far more often than with a real venue.
QUICK = Pace(spacing_s=0.01, first_wait_s=0.05, longest_wait_s=0.2, tend_s=0.05, silence_s=1.0, no_data_s=30.0)


def settings_at(venue: Venue, url: str, **other: Any) -> VenueSettings:
    kind = OkxSettings if venue is Venue.OKX else BinanceSettings
    return kind(**other).at(url)


@contextlib.contextmanager
def loopback(handler: Handler) -> Iterator[str]:
    """The address of a server in a thread that gives every request to `handler`."""
    started = threading.Event()
    shared: dict[str, Any] = {}

    async def handle(request: web.Request) -> web.StreamResponse:
        return await handler(request)

    async def main() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        shared["port"] = runner.addresses[0][1]
        shared["loop"], shared["stop"] = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await shared["stop"].wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{shared['port']}"
    finally:
        shared["loop"].call_soon_threadsafe(shared["stop"].set)
        thread.join(10)


@dataclass
class Collected:
    """What a stream said, and the stream."""

    bars: list[Bar] = field(default_factory=list)
    estimates: list[Estimate] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    stream: VenueStream | None = None
    left_over: list[str] = field(default_factory=list)

    def wait(self, met: Callable[[], bool], seconds: float = 30.0) -> None:
        """Return when `met`; fail when it is not met in so long."""
        until = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < until, f"waited in vain; problems: {self.problems[-5:]}"
            time.sleep(0.01)


@contextlib.contextmanager
def streaming(
    venue: Venue,
    url: str | VenueSettings,
    instruments: Sequence[Instrument],
    interval: Interval,
    *,
    pace: Pace = QUICK,
    on_bar: Callable[[Bar], None] | None = None,
    datasets: Sequence[str] = (),
    contract_values: Callable[[Instrument], float | None] = lambda _: None,
    **settings: Any,
) -> Iterator[Collected]:
    """What a stream collects in a thread while the block runs; it is stopped, and its end is waited for."""
    out = Collected()

    def take(row: Row) -> None:
        if isinstance(row, Bar):
            (on_bar or out.bars.append)(row)
        else:
            (out.estimates if isinstance(row, Estimate) else out.others).append(row)

    stream = VenueStream(
        venue,
        settings_at(venue, url, **settings) if isinstance(url, str) else url,
        instruments,
        interval,
        on_row=take,
        on_problem=out.problems.append,
        datasets=datasets,
        contract_values=contract_values,
        pace=pace,
    )
    out.stream = stream

    async def main() -> None:
        await stream.run()
        out.left_over = [str(t.get_coro()) for t in asyncio.all_tasks() if t is not asyncio.current_task()]

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    try:
        yield out
    finally:
        stream.stop()
        thread.join(20)
        assert not thread.is_alive(), "the stream did not stop"
        assert out.left_over == []


class ArrayTape:
    """A tape of random bars of one interval, with numbers that floats do not spell shortly, and some without trades."""

    def __init__(
        self, venue: Venue, interval: Interval, n_bars: int, *, bases: Sequence[str] = ("AAA", "1000BBB"), seed: int = 0
    ) -> None:
        self.venue = venue
        self.interval = interval
        self.span_ms = (START_MS, START_MS + n_bars * interval.ms)
        self.specs = {i: _spec(i) for i in (Instrument(base, "USDT", venue) for base in bases)}
        self._bars = {i: _random_bars(np.random.default_rng([seed, k]), self, n_bars) for k, i in enumerate(self.specs)}

    def intervals(self, _instrument: Instrument) -> tuple[Interval, ...]:
        return (self.interval,)

    def bars(self, instrument: Instrument, interval: Interval) -> BarSeries:
        assert interval == self.interval
        return self._bars[instrument]

    def settlements(self, instrument: Instrument) -> SettlementSeries:
        every = (8, 4, 1)[sorted(self.specs).index(instrument) % 3] * HOUR_MS
        times = np.arange(START_MS - 100 * DAY_MS, self.span_ms[1], every, dtype=np.int64)
        rng = np.random.default_rng(7)
        jitter = rng.integers(0, 17, len(times)) if self.venue is Venue.BINANCE else 0
        mark = np.round(rng.uniform(50, 60, len(times)), 8)
        return SettlementSeries(times + jitter, np.round(rng.normal(0, 1e-4, len(times)), 8), mark)

    def funding_now(self, instrument: Instrument, at_ms: int) -> FundingNow | None:
        settled = self.settlements(instrument)
        every = int(np.round(np.diff(settled.time_ms[:2])[0] / HOUR_MS)) * HOUR_MS
        n = int(np.searchsorted(settled.time_ms, at_ms, side="right"))
        return FundingNow(float(settled.rate[n - 1]), at_ms - at_ms % every + every, every)


def _spec(instrument: Instrument) -> InstrumentSpec:
    return InstrumentSpec(
        instrument=instrument, seen_ms=START_MS, state="live", category="crypto", rule_type="normal", tick_size=1e-6,
        contract_value_base=1.0 if instrument.venue is Venue.BINANCE else 0.01, lot_contracts=1.0, min_contracts=1.0,
        min_notional_quote=5.0 if instrument.venue is Venue.BINANCE else None, max_leverage=50.0,
        listed_ms=START_MS - 200 * DAY_MS, delisted_ms=None, spec_source="file",
    )  # fmt: skip


def _random_bars(rng: np.random.Generator, tape: ArrayTape, n: int) -> BarSeries:
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 1e-3, n))), 6)
    open_ = np.r_[100.0, close[:-1]]
    spread = np.abs(rng.normal(0, 0.05, (2, n)))
    high = np.round(np.maximum(open_, close) + spread[0], 6)
    low = np.round(np.minimum(open_, close) - spread[1], 6)
    volume = np.round(rng.lognormal(5, 2, n), 2) * (rng.random(n) > 0.1)
    trades = np.where(volume > 0, rng.integers(1, 5000, n), 0) if tape.venue is Venue.BINANCE else np.full(n, -1)
    open_ms = START_MS + np.arange(n, dtype=np.int64) * tape.interval.ms
    return BarSeries(open_ms, open_, high, low, close, volume, np.round(volume * close, 5), trades.astype(np.int64))


def rows_of(tape: Any, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> list[tuple[Any, ...]]:
    """The tape's bars that open in [start, end), each as `plain_row` would give it."""
    s = tape.bars(instrument, interval)
    where = np.flatnonzero((s.open_ms >= start_ms) & (s.open_ms < end_ms))
    return [
        (
            instrument, interval, int(s.open_ms[i]), float(s.open[i]), float(s.high[i]), float(s.low[i]),
            float(s.close[i]), float(s.volume_base[i]),
            None if np.isnan(s.volume_quote[i]) else float(s.volume_quote[i]),
            None if s.trades[i] < 0 else int(s.trades[i]),
        )
        for i in where
    ]  # fmt: skip


def plain_row(bar: Bar) -> tuple[Any, ...]:
    """A bar without where and when it came from."""
    return tuple(bar[:-2])
