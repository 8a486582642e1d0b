"""A collector under test: a scripted stream, a venue in memory, market time as the venue tells it."""

from __future__ import annotations

import asyncio
import time

from support_lake import BTC, M1, T0, FakeVenue, bar, spec

from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.collect import Pace, collect
from qlib_crypto.feeds.telling import StreamCounters
from qlib_crypto.lake.tables import TABLES
from qlib_crypto.market.funding import snap_to_minute
from qlib_crypto.settings import OkxSettings
from qlib_crypto.symbols import Venue

#: Multiplies request limits, high enough never to be met.
UNLIMITED = 10_000.0
FAST = Pace(look_s=0.02, grace_s=0.15, status_s=0.1, retry_s=0.05)


class Scripted:
    """A stream that plays what the test gives: rows, and callables that act in between."""

    def __init__(self, steps):
        self.steps, self.replaced, self.stopped, self.instruments = steps, [], False, None

    def __call__(self, _venue, _settings, instruments, _interval, *, on_row, on_problem, datasets, contract_values):
        self.counters, self.revived = StreamCounters(), []
        self.datasets, self.contract_values = datasets, contract_values
        self.instruments, self.on_row, self.on_problem = instruments, on_row, on_problem
        return self

    def revive(self, instruments):
        self.revived.append(list(instruments))

    async def run(self):
        for step in self.steps:
            if callable(step):
                step()
            else:
                self.on_row(step)
            await asyncio.sleep(0)
        while not self.stopped:  # noqa: ASYNC110 - stop() comes from another thread
            await asyncio.sleep(0.005)

    def stop(self):
        self.stopped = True

    def replace(self, instruments):
        self.replaced.append(list(instruments))


class VenueTime:
    """The market clock: the venue's time."""

    def __init__(self, client):
        self.now_ms = client.server_time_ms


def market(bars=60, *, now=0, of=(BTC,)):
    client = FakeVenue(now_ms=T0 + now * MINUTE_MS)
    client.list(*(spec(i) for i in of))
    client.add_bars(*(bar(k, of=i, close=100.0 + k) for i in of for k in range(bars)))
    return client


def moves(client, minute):
    def move():
        client.now_ms = T0 + minute * MINUTE_MS

    return move


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def ws(k, of=BTC):
    return bar(k, of=of, close=100.0 + k)


def run(
    lake,
    client,
    steps,
    *,
    instruments=(BTC,),
    told=None,
    datasets=(),
    grace_hours=0.0,
    clock=None,
    pace=None,
    **options,
):
    stream = steps if isinstance(steps, Scripted) else Scripted(steps)
    told = [] if told is None else told
    summary = collect(
        lake, client, OkxSettings(datasets=datasets, grace_hours=grace_hours), list(instruments), M1,
        clock=clock or VenueTime(client), say=told.append, pace=pace or FAST, stream=stream, **options,
    )  # fmt: skip
    return summary, stream


def minutes(lake, of=BTC):
    return [(t - T0) // MINUTE_MS for t in lake.bar_times(of, M1).tolist()]


def all_sealed(lake):
    return all(lake._hot[venue].held(table) == [] for venue in Venue for table in TABLES)


def tape_rows(tape, instrument, span):
    bars = tape.bars(instrument, M1)
    keep = (bars.open_ms >= span[0]) & (bars.open_ms < span[1])
    columns = (bars.open_ms, bars.open, bars.high, bars.low, bars.close, bars.volume_base)
    return list(zip(*(column[keep].tolist() for column in columns), strict=True))


def lake_rows(lake, instrument, span):
    table = lake.bars(instrument, M1, *span)
    columns = (table.column(name).to_pylist() for name in ("open", "high", "low", "close", "volume"))
    return list(zip(table.column("timestamp").cast("int64").to_pylist(), *columns, strict=True))


def paid(tape, instrument, span):
    series = tape.settlements(instrument)
    minutes = snap_to_minute(series.time_ms)
    keep = (minutes >= span[0]) & (minutes < span[1])
    return list(zip(minutes[keep].tolist(), series.rate[keep].tolist(), strict=True))


def lake_paid(lake, instrument, span):
    table = lake.settlements(instrument.venue, instrument, *span)
    minutes = snap_to_minute(table.column("timestamp").cast("int64").to_numpy()).tolist()
    return list(zip(minutes, table.column("funding_rate").to_pylist(), strict=True))
