"""A small Qlib provider written by hand, for tests that need one without lake and converter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from qlib_crypto.provider.funding import SERIES
from qlib_crypto.provider.manifest import Frequency, Manifest, read_manifest, write_manifest
from qlib_crypto.provider.settlements import series_name
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval

FUTURE_BARS = 48


def synthetic_bars(
    symbols: int = 5, bars: int = 24 * 60, *, start: str = "2025-01-01", freq: str = "60min", seed: int = 7
) -> dict[str, pd.DataFrame]:
    """Instrument to bars with every field of the architecture; funding every 8 h; fat-tailed, one cheap coin."""
    rng = np.random.default_rng(seed)
    times = pd.date_range(start, periods=bars, freq="D" if freq == "day" else freq)
    frames = {}
    for i in range(symbols):
        base = ("BTC", "ETH", "SOL", "XRP", "PEPE", "DOGE", "ADA", "TRX", "LTC", "BNB")[i]
        price = {"BTC": 90_000.0, "ETH": 3_000.0, "PEPE": 1.2e-5}.get(base, 10.0 / (i + 1))
        close = price * np.exp(np.cumsum(rng.standard_t(4, bars) * 0.004))
        opens = np.concatenate([[price], close[:-1]])
        spread = np.abs(rng.normal(0, 0.001, bars)) + 1e-4
        volume = np.exp(rng.normal(8, 1, bars))
        frames[f"{base}_USDT.OKX"] = pd.DataFrame(
            {
                "open": opens,
                "high": np.maximum(opens, close) * (1 + spread),
                "low": np.minimum(opens, close) * (1 - spread),
                "close": close,
                "volume": volume,
                "amount": volume * (opens + close) / 2,
                "vwap": (opens + close) / 2,
                "factor": 1.0,
                "change": np.concatenate([[np.nan], np.diff(close) / close[:-1]]),
                "quality": 0.0,
                **_funding(times, close, rng),
            },
            index=times,
        )
    return frames


def _funding(times: pd.DatetimeIndex, mark: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    settles = times.hour % 8 == 0 if len(times) < 2 or times[1] - times[0] < pd.Timedelta("1D") else times.hour == 0
    settles &= times.minute == 0
    rate = np.where(settles, np.round(rng.normal(1e-4, 1e-4, len(times)), 8), 0.0)
    last = pd.Series(np.where(settles, rate, np.nan)).ffill().to_numpy()
    bar = times[1] - times[0] if len(times) > 1 else pd.Timedelta("1h")
    closes = ((times + bar) - times[0].floor("D")) / pd.Timedelta("1h")
    return {
        "funding": rate,
        "funding_cash": rate * mark,
        "funding_open": rate,
        "funding_open_cash": rate * mark,
        "funding_rate": last,
        "funding_interval": np.where(np.isnan(last), np.nan, 8.0),
        "funding_next": np.where(np.isnan(last), np.nan, 8.0 - closes % 8),
    }


def write_provider(
    directory: Path,
    frames: Mapping[str, pd.DataFrame],
    freq: str = "60min",
    market: str = "okx",
    settlements: Mapping[str, list[tuple[pd.Timestamp, float, float]]] | None = None,
) -> Path:
    """Write the bars of one frequency into a provider; call again for another frequency of the same directory.

    The calendar is the complete grid from 00:00 of the first bar to the last bar of all frames; a bar that a frame
    lacks is NaN. The manifest is the one that a conversion would write. `settlements` (time, rate, price; NaN is
    unknown) are those of `funding_open` when None.
    """
    pandas_freq = "D" if freq == "day" else freq
    first = min(frame.index[0] for frame in frames.values()).floor("D")
    last = max(frame.index[-1] for frame in frames.values())
    calendar = pd.date_range(first, last, freq=pandas_freq)
    future = calendar.union(pd.date_range(last, periods=FUTURE_BARS + 1, freq=pandas_freq))
    for folder in ("calendars", "instruments"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for name, grid in ((freq, calendar), (f"{freq}_future", future)):
        (directory / "calendars" / f"{name}.txt").write_text("".join(f"{t:%Y-%m-%d %H:%M:%S}\n" for t in grid))
    lines, slots = [], {}
    for instrument, frame in frames.items():
        folder = directory / "features" / instrument.lower()
        folder.mkdir(parents=True, exist_ok=True)
        start = calendar.get_loc(frame.index[0])
        whole = frame.reindex(calendar[start : calendar.get_loc(frame.index[-1]) + 1])
        for field in frame.columns:
            np.concatenate([[start], whole[field]]).astype("<f4").tofile(folder / f"{field}.{freq}.bin")
        slots[instrument] = {freq: (int(start), len(whole))}
        lines.append(f"{instrument}\t{frame.index[0]:%Y-%m-%d %H:%M:%S}\t{frame.index[-1]:%Y-%m-%d %H:%M:%S}\n")
    for name in ("all", market, f"{market}_{freq}"):
        (directory / "instruments" / f"{name}.txt").write_text("".join(lines))
    for instrument, frame in frames.items():
        _write_settlements(
            directory, instrument, frame, None if settlements is None else settlements.get(instrument, [])
        )
    _record(
        directory, freq, Frequency(origin=f"{first}", length=len(calendar), future_length=len(future)), slots, frames
    )
    return directory


def _record(directory: Path, freq: str, frequency: Frequency, slots: dict, frames: Mapping[str, pd.DataFrame]) -> None:
    old = read_manifest(directory)
    for name, more in (old.instruments if old else {}).items():
        slots[name] = {**more, **slots.get(name, {})}
    settings = ProviderSettings(intervals=(Interval.parse(freq).name,))
    manifest = Manifest(
        generation=old.generation + 1 if old else 1,
        code_version="0",
        lake_content="synthetic",
        settings=settings,
        memberships="",
        fields=tuple(next(iter(frames.values())).columns),
        frequencies={**(old.frequencies if old else {}), freq: frequency},
        instruments=slots,
        settlement_prices={},
    )
    write_manifest(directory, manifest)


def _write_settlements(directory: Path, name: str, frame: pd.DataFrame, given: list | None) -> None:
    path = directory / series_name(Instrument.parse(name))
    if given is None:
        if path.exists() or "funding_open" not in frame:
            return
        at_open = frame[frame["funding_open"].fillna(0.0) != 0.0]
        given = list(
            zip(
                at_open.index,
                at_open["funding_open"],
                at_open["funding_open_cash"] / at_open["funding_open"],
                strict=True,
            )
        )
    rows = [(int(at.value) // 1_000_000, rate, price, 2 if np.isnan(price) else 0) for at, rate, price in given]
    path.parent.mkdir(exist_ok=True)
    np.array(rows, dtype=SERIES).tofile(path)
