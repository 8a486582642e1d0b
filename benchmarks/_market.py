"""A lake of generated minutes with what makes conversions go wrong: late first bars and missing minutes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, month_start, next_month, parse_utc
from qlib_crypto.lake import Lake, files
from qlib_crypto.lake.paths import FUNDING, KLINE, period_file
from qlib_crypto.schemas import FUNDING as FUNDING_SCHEMA
from qlib_crypto.schemas import KLINE as KLINE_SCHEMA
from qlib_crypto.symbols import Instrument, Venue

T0 = parse_utc("2024-01-01")
MISSING = 0.0003
_DAY = DAY_MS // MINUTE_MS


def instruments(count: int) -> list[Instrument]:
    """The instruments, in order of name."""
    return [Instrument(f"C{number:02d}", "USDT", Venue.OKX) for number in range(count)]


def day(number: int, at: int) -> pa.Table:
    """The bars of an instrument's day; on its first day some begin late."""
    rng = np.random.default_rng((number, at))
    close = 100 * np.exp(np.cumsum(rng.standard_t(4, _DAY) * 0.001))
    opened = np.r_[100.0, close[:-1]]
    volume = rng.exponential(50, _DAY)
    keep = rng.random(_DAY) >= MISSING
    if at == 0 and number % 5 == 4:
        keep[: 37 * number % _DAY] = False
    rows = int(keep.sum())
    times = pa.array((T0 + at * DAY_MS + np.arange(_DAY, dtype=np.int64) * MINUTE_MS)[keep], pa.timestamp("ms", "UTC"))
    columns = {
        "symbol": pa.array([f"C{number:02d}_USDT"] * rows), "timestamp": times, "open": opened[keep],
        "high": (np.maximum(opened, close) * 1.0005)[keep], "low": (np.minimum(opened, close) * 0.9995)[keep],
        "close": close[keep], "volume": volume[keep], "quote_volume": (volume * (opened + close) / 2)[keep],
        "trades": pa.nulls(rows, pa.int64()), "source": pa.array(["rest"] * rows), "received_at": times,
    }  # fmt: skip
    return pa.table(columns, schema=KLINE_SCHEMA)


def settled(count: int, at: int) -> pa.Table:
    """The settlements of a day, every eight hours."""
    rng = np.random.default_rng((1 << 20, at))
    rows = [
        (f"C{number:02d}_USDT", T0 + at * DAY_MS + hour * HOUR_MS) for number in range(count) for hour in (0, 8, 16)
    ]
    times = pa.array([row[1] for row in rows], pa.timestamp("ms", "UTC"))
    columns = {
        "symbol": pa.array([row[0] for row in rows]), "timestamp": times,
        "funding_rate": rng.normal(1e-4, 1e-4, len(rows)), "mark_price": rng.uniform(90, 110, len(rows)),
        "source": pa.array(["rest"] * len(rows)), "received_at": times,
    }  # fmt: skip
    return pa.table(columns, schema=FUNDING_SCHEMA)


def write(lake: Lake, count: int, first: int, last: int, *, by_month: bool = False) -> list[Path]:
    """Files of the days [first, last) of `count` instruments, as the lake keeps them; by day, or compacted by month."""
    folder, paths = lake.folder(Venue.OKX), []

    def put(dataset: str, stem: str, at: int, table: pa.Table) -> None:
        path = period_file(folder, dataset, stem, T0 + at * DAY_MS, by_month=by_month)
        files.write_table(path, table)
        paths.append(path)

    with _unsynced():
        for group in _groups(first, last, by_month=by_month):
            for number in range(count):
                put(f"{KLINE}1m", f"C{number:02d}_USDT", group[0], pa.concat_tables([day(number, at) for at in group]))
            of_days = pa.concat_tables([settled(count, at) for at in group])
            put(
                FUNDING,
                "funding_rates",
                group[0],
                of_days.sort_by([("symbol", "ascending"), ("timestamp", "ascending")]),
            )
    return paths


def _groups(first: int, last: int, *, by_month: bool) -> Iterator[list[int]]:
    at = first
    while at < last:
        end = (next_month(T0 + at * DAY_MS) - T0) // DAY_MS if by_month else at + 1
        yield list(range(at, min(end, last)))
        at = end


def whole_months(days: int) -> int:
    """The first day of the last month that begins within so many days."""
    return (month_start(T0 + days * DAY_MS) - T0) // DAY_MS


@contextmanager
def _unsynced() -> Iterator[None]:
    """Files without waiting for the disk: thousands are made, and none is missed after a power cut."""
    synced, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = synced
