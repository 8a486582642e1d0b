"""Bars of the provider as CSV or Parquet, for what does not read Qlib's files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from qlib_crypto.clock import iso
from qlib_crypto.errors import ConfigError, DataError, StorageError, counted
from qlib_crypto.provider.manifest import Manifest, read_manifest
from qlib_crypto.provider.write import feature_file, read_at
from qlib_crypto.symbols import Instrument, Interval

Format = Literal["csv", "parquet"]
Layout = Literal["plain", "master"]
Floats = NDArray[np.float64]

DEFAULT_COLUMNS = ("open", "high", "low", "close", "volume")
#: Bars of the average true range of the master layout.
ATR_BARS = 14


def export(
    provider_dir: Path,
    out_dir: Path,
    interval: Interval,
    *,
    instruments: Sequence[Instrument] | None = None,
    columns: Sequence[str] = (),
    span_ms: tuple[int | None, int | None] = (None, None),
    layout: Layout = "plain",
    kind: Format = "csv",
    progress: Callable[[str], None] | None = None,
) -> list[Path]:
    """One file an instrument that has bars then, `BTC_USDT.OKX_1h.csv`: a row for each bar that there is, by its open.

    Parameters
    ----------
    provider_dir, out_dir, interval
        From where, whereto, and which of the frequencies.
    instruments
        All that have bars of it when None.
    columns
        Fields of the provider after `time` (UTC), `DEFAULT_COLUMNS` when there are none; NaN is an empty cell, in
        Parquet null. The master layout has its own.
    span_ms
        Opens [start, end), Unix milliseconds; None for all there is.
    layout
        `master`: `time Open High Low Close Volume ATR`, the last Wilder's average true range of 14 bars, which begins
        anew after a missing bar and is empty for the 14 bars before its first.
    kind
        `csv` or `parquet`.
    progress
        Called with a line of text after each file.

    Raises
    ------
    ConfigError
        A column, instrument or frequency is not in the provider, or the span is none.
    DataError
        There is no provider, a file of it is missing, or there is no bar to write.
    StorageError
        The disk refused; a file that was there is as it was.

    """
    start, end = span_ms
    if start is not None and end is not None and start >= end:
        raise ConfigError(f"nothing lies between start {iso(start)} and end {iso(end)}; give an end after the start")
    manifest = read_manifest(provider_dir)
    if manifest is None:
        raise DataError(f"{provider_dir} is no provider; make it with: qlib-crypto convert")
    if columns and layout == "master":
        raise ConfigError(
            f"the master layout has its own columns; leave out {','.join(columns)}, or write --layout plain"
        )
    columns = columns or DEFAULT_COLUMNS
    _check(manifest, interval, instruments, columns)
    chosen = sorted(instruments or map(Instrument.parse, manifest.instruments))
    paths = []
    for instrument in chosen:
        if interval.qlib not in manifest.instruments[instrument.qlib]:
            continue
        frame = _frame(provider_dir, manifest, instrument, interval, columns, layout)
        times = pl.col("time").dt.epoch("ms")
        frame = frame.filter(times >= start) if start is not None else frame
        frame = frame.filter(times < end) if end is not None else frame
        if frame.is_empty():  # what an earlier export wrote stays
            continue
        path = out_dir / f"{instrument.qlib}_{interval}.{kind}"
        _write(frame, path, kind)
        paths.append(path)
        if progress is not None:
            progress(f"{path}: {counted(frame.height, 'bar')}")
    if not paths:
        asked = " ".join(map(str, instruments)) if instruments else "any instrument"
        raise DataError(f"the provider has no {interval} bars of {asked} at these times; see its instruments/all.txt")
    return paths


def _check(
    manifest: Manifest, interval: Interval, instruments: Sequence[Instrument] | None, columns: Sequence[str]
) -> None:
    if interval.qlib not in manifest.frequencies:
        held = " ".join(Interval.parse(name).name for name in manifest.frequencies)
        raise ConfigError(f"the provider has no {interval} bars; it has {held}")
    for name in columns:
        if name not in manifest.all_fields:
            raise ConfigError(f"the provider has no field {name!r}; choose of: {' '.join(manifest.all_fields)}")
    for instrument in instruments or ():
        if instrument.qlib not in manifest.instruments:
            raise ConfigError(f"{instrument} is not in the provider; it has {len(manifest.instruments)} others")


def _frame(
    provider_dir: Path,
    manifest: Manifest,
    instrument: Instrument,
    interval: Interval,
    columns: Sequence[str],
    layout: Layout,
) -> pl.DataFrame:
    start, length = manifest.instruments[instrument.qlib][interval.qlib]

    def values(name: str) -> NDArray[np.float32]:
        if name not in manifest.fields_of(instrument.qlib):
            return np.full(length, np.nan, dtype=np.float32)
        path = feature_file(provider_dir, instrument, name, interval)
        try:
            found = read_at(str(path), 0, length)
        except FileNotFoundError:
            found = np.zeros(0, dtype=np.float32)
        if len(found) < length:
            first = iso(manifest.span_ms(instrument.qlib, interval.qlib)[0])
            raise DataError(f"{path} has {len(found)} of {length} bars since {first}; run: qlib-crypto verify")
        return found

    first = manifest.grid(interval.qlib).open_ms(start)
    opens = pl.Series("time", first + np.arange(length, dtype=np.int64) * interval.ms).cast(pl.Datetime("ms", "UTC"))
    if layout == "master":
        prices = {name.capitalize(): values(name) for name in DEFAULT_COLUMNS}
        high, low, close = (prices[name].astype(np.float64) for name in ("High", "Low", "Close"))
        data = {**prices, "ATR": average_true_range(high, low, close, ATR_BARS).astype(np.float32)}
    else:
        data = {name: values(name) for name in columns}
    frame = pl.DataFrame([opens, *(pl.Series(name, of).fill_nan(None) for name, of in data.items())])
    return frame.filter(pl.Series(~np.isnan(values("factor"))))


def average_true_range(high: Floats, low: Floats, close: Floats, bars: int) -> Floats:
    """Wilder's average true range: the mean of the first `bars` true ranges, then 1/bars of each new one.

    All of shape (n,), NaN where a bar is missing; the first bar after a missing one has no true range.
    """
    before = np.r_[np.nan, close[:-1]]
    ranges = np.maximum(high - low, np.maximum(np.abs(high - before), np.abs(low - before)))
    out = np.full(len(ranges), np.nan)
    average, seen = 0.0, 0
    for at, now in enumerate(ranges.tolist()):
        if now != now:  # noqa: PLR0124 - NaN
            average, seen = 0.0, 0
            continue
        seen += 1
        average += (now - average) / min(seen, bars)
        if seen >= bars:
            out[at] = average
    return out


def _write(frame: pl.DataFrame, path: Path, kind: Format) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "csv":
            frame.write_csv(temporary, datetime_format="%Y-%m-%dT%H:%M:%SZ")
        else:
            frame.write_parquet(temporary)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StorageError(
            f"{path}: cannot write ({error}); make room or correct permissions, then run again"
        ) from error
