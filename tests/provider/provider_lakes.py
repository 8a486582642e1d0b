"""Lakes in memory with the reading half of `Lake`, and random ones with every awkwardness that a lake may have."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.lake.columns import Columns
from qlib_crypto.schemas import FUNDING, KLINE
from qlib_crypto.symbols import Instrument, Interval, Venue

T0 = 1_741_824_000_000  # 2025-03-13 00:00 UTC

#: open high low close volume quote_volume by open time in ms
Bars = pd.DataFrame
#: rate and mark by time in ms
Settlements = pd.DataFrame


@dataclass
class MemoryLake:
    """What `Lake` tells a reader, from frames."""

    frames: Mapping[Instrument, Mapping[Interval, Bars]]
    funding: Mapping[Instrument, Settlements] = field(default_factory=dict)
    root: str = "memory"

    def intervals(self, venue):
        return sorted({i for inst, frames in self.frames.items() if inst.venue == venue for i in frames})

    def instruments(self, venue, interval=None):
        return sorted(
            inst
            for inst, frames in self.frames.items()
            if inst.venue == venue and (interval is None or interval in frames)
        )

    def bars(self, instrument, interval, start_ms=None, end_ms=None):
        frame = self._frame(instrument, interval, start_ms, end_ms)
        times = pa.array(frame.index.to_numpy(), pa.timestamp("ms", tz="UTC"))
        return pa.table(
            {
                "symbol": pa.array([instrument.symbol] * len(frame), pa.string()),
                "timestamp": times,
                **{n: frame[n].to_numpy() for n in ("open", "high", "low", "close", "volume")},
                "quote_volume": pa.array(frame["quote_volume"], pa.float64(), from_pandas=True),
                "trades": pa.nulls(len(frame), pa.int64()),
                "source": pa.array(["rest"] * len(frame), pa.string()),
                "received_at": times,
            },
            schema=KLINE,
        )

    def columns(self, _table, instruments, window, names, *, interval):
        frames = [self._frame(instrument, interval, *window) for instrument in instruments]
        return Columns(
            np.array([len(frame) for frame in frames]),
            np.concatenate([frame.index.to_numpy(np.int64) for frame in frames]),
            {name: np.concatenate([frame[name].to_numpy(float) for frame in frames]) for name in names},
        )

    def bar_times(self, instrument, interval, start_ms=None, end_ms=None):
        return self._frame(instrument, interval, start_ms, end_ms).index.to_numpy()

    def settlements(self, venue, instrument=None, start_ms=None, end_ms=None):
        rows = [
            (inst.symbol, time, row.rate, row.mark)
            for inst, frame in sorted(self.funding.items())
            if inst.venue == venue and instrument in (None, inst)
            for time, row in frame.iterrows()
            if (start_ms is None or minute_of(time) >= start_ms) and (end_ms is None or minute_of(time) < end_ms)
        ]
        times = pa.array([row[1] for row in rows], pa.timestamp("ms", tz="UTC"))
        return pa.table(
            {
                "symbol": pa.array([row[0] for row in rows], pa.string()),
                "timestamp": times,
                "funding_rate": pa.array([row[2] for row in rows], pa.float64()),
                "mark_price": pa.array([row[3] for row in rows], pa.float64(), from_pandas=True),
                "source": pa.array(["rest"] * len(rows), pa.string()),
                "received_at": times,
            },
            schema=FUNDING,
        )

    def specs(self, venue):
        return {i: s for i, s in getattr(self, "known_specs", {}).items() if i.venue is venue}

    def spec_states(self, venue):
        return {i: (s,) for i, s in self.specs(venue).items()}

    def tiers(self, venue):
        return {i: s for i, s in getattr(self, "known_tiers", {}).items() if i.venue is venue}

    def files(self, _known=None, _changed=None):
        """A file a day of an instrument and interval, and one a day of settlements; its mark is what it says."""
        out = {}
        for instrument, frames in self.frames.items():
            for interval, frame in frames.items():
                within = out.setdefault(f"{instrument.venue}_data/kline_{interval}", {})
                within |= {
                    f"{instrument.symbol}_{day}": mark for day, mark in marked(frame, by_month=interval.by_month)
                }
        for instrument, frame in self.funding.items():
            within = out.setdefault(f"{instrument.venue}_data/funding", {})
            slots = frame.set_axis(minute_of(frame.index.to_numpy(np.int64)))
            for day, mark in marked(slots, by_month=False):
                name = f"funding_rates_{day}"
                said = within.get(name, "") + instrument.symbol + mark
                within[name] = hashlib.sha256(said.encode()).hexdigest()
        return {within: of for within, of in out.items() if of}

    def damaged(self, _most=None):
        return []

    def unsealed(self, _venue, _table):
        return []

    def flagged(self, _venue):
        return []

    def flags(self, _instrument, _interval, _start_ms=None, _end_ms=None):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)

    def content_hash(self, _files=None):
        digest = hashlib.sha256()
        for instrument, frames in sorted(self.frames.items()):
            for interval, frame in sorted(frames.items()):
                digest.update(f"{instrument}{interval}{pd.util.hash_pandas_object(frame).sum()}".encode())
        for instrument, frame in sorted(self.funding.items()):
            digest.update(f"{instrument}{pd.util.hash_pandas_object(frame).sum()}".encode())
        return digest.hexdigest()

    def _frame(self, instrument, interval, start_ms, end_ms):
        frame = self.frames.get(instrument, {}).get(interval)
        if frame is None:
            return pd.DataFrame({n: np.empty(0) for n in COLUMNS}, index=np.empty(0, dtype=np.int64))
        low = frame.index[0] if start_ms is None else start_ms
        high = frame.index[-1] + 1 if end_ms is None else end_ms
        return frame[(frame.index >= low) & (frame.index < high)]


def minute_of(time_ms):
    """The minute of a settlement, by which the lake keeps it."""
    return (time_ms + MINUTE_MS // 2) // MINUTE_MS * MINUTE_MS


def marked(frame, *, by_month):
    """The frame's rows by the date in a file's name."""
    dates = pd.to_datetime(frame.index, unit="ms").strftime("%Y%m" if by_month else "%Y%m%d")
    for date, rows in frame.groupby(np.asarray(dates)):
        said = str(pd.util.hash_pandas_object(rows).sum())
        yield f"{date}.parquet", f"{len(rows)} 0 0 {hashlib.sha256(said.encode()).hexdigest()}"


COLUMNS = ("open", "high", "low", "close", "volume", "quote_volume")


def make_bars(rng, interval, start_ms, count, *, holes=0.0, zero_volume=0.0, no_quote=0.0):
    """Bars with values of their own, so that a bar made from the wrong source is seen."""
    prices = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (count, 4)), axis=0))
    volume = np.where(rng.random(count) < zero_volume, 0.0, rng.exponential(50, count))
    frame = pd.DataFrame(
        {
            "open": prices[:, 0],
            "high": prices.max(axis=1),
            "low": prices.min(axis=1),
            "close": prices[:, 3],
            "volume": volume,
            "quote_volume": np.where(rng.random(count) < no_quote, np.nan, volume * prices.mean(axis=1)),
        },
        index=start_ms + np.arange(count, dtype=np.int64) * interval.ms,
    )
    keep = rng.random(count) >= holes
    if count and not keep.any():
        keep[0] = True
    return frame[keep]


def make_settlements(rng, start_ms, gaps_hours, *, jitter_ms, marked):
    times = start_ms + np.concatenate([[0], np.cumsum(gaps_hours)]).astype(np.int64) * HOUR_MS
    times = times + rng.integers(-2, jitter_ms + 1, len(times)) * (jitter_ms > 0)
    mark = np.where(rng.random(len(times)) < marked, rng.uniform(50, 200, len(times)), np.nan)
    return pd.DataFrame({"rate": rng.normal(1e-4, 3e-4, len(times)).round(8), "mark": mark}, index=times)


def random_lake(seed: int, *, symbols: int, days: int, mixed: bool, holes: bool) -> MemoryLake:
    """Late listings, delistings, gaps, mixed intervals, partial amounts, zero volume, broken and jittered funding."""
    rng = np.random.default_rng(seed)
    frames, funding = {}, {}
    for number in range(symbols):
        instrument = Instrument(f"C{number}", "USDT", (Venue.OKX, Venue.BINANCE)[number % 2])
        names = rng.choice(["1m", "5m", "1h"], size=rng.integers(1, 4) if mixed else 1, replace=False)
        frames[instrument] = {}
        for name in names:
            interval = Interval.parse(str(name))
            total = days * DAY_MS // interval.ms
            start = int(rng.integers(0, total // 3 + 1)) if rng.random() < 0.6 else 0
            count = int(rng.integers(1, total - start + 1)) if rng.random() < 0.4 else total - start
            frames[instrument][interval] = make_bars(
                rng,
                interval,
                T0 + start * interval.ms,
                count,
                holes=rng.choice([0, 0.0005, 0.05]) if holes else 0,
                zero_volume=rng.choice([0, 0.1]),
                no_quote=rng.choice([0, 0.002, 1]),
            )
        if rng.random() < 0.85:
            gaps = rng.choice([1, 2, 3, 4, 4, 5, 8, 8, 8, 9, 30], size=rng.integers(0, days * 4))
            start = T0 + int(rng.integers(-30, 12)) * HOUR_MS + int(rng.choice([0, 0, 17])) * MINUTE_MS
            funding[instrument] = make_settlements(
                rng, start, gaps, jitter_ms=int(rng.choice([0, 17])), marked=rng.choice([0, 0.5, 1])
            )
    return MemoryLake(frames, funding)
