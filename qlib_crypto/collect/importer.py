"""Candle and funding Parquet of others into the lake, each file checked whole before its first row is stored."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qlib_crypto.clock import MINUTE_MS, iso
from qlib_crypto.errors import ConfigError, DataError, QlibCryptoError, SchemaError, counted
from qlib_crypto.lake import Lake
from qlib_crypto.lake.checks import fault, when
from qlib_crypto.market.funding import snap_to_minute
from qlib_crypto.schemas import Bar, Settlement
from qlib_crypto.symbols import QUOTES, Instrument, Interval, Venue

_VALUES = ("open", "high", "low", "close", "volume")
#: So many gaps without a shortest one between are no accident.
_FEW_BARS = 5
#: No venue's cap is half of this rate; what is above was meant in per cent or basis points.
_LARGEST_RATE = 0.1
_TIME = pa.timestamp("ms", tz="UTC")


class ImportResult(NamedTuple):
    """Rows read and kept, and what the user must know: dropped open bars, rows of symbols that are no perpetuals."""

    rows: int
    messages: list[str]


def import_parquet(
    lake: Lake, files: Sequence[Path], venue: Venue, dataset: str, interval: Interval | None = None
) -> ImportResult:
    """What was imported, as source `import`, which replaces any other; durable and sealed on return.

    `kline` files hold one symbol each, named by the venue's id (`BTC-USDT-SWAP.parquet`) or ours: `timestamp` (bar
    open) `open high low close volume` and, where known, `quote_volume` `trades`. One with `close_time` is a raw kline
    download, whose last row was still open: that row is dropped. `funding` files hold any number of symbols: `symbol`
    `funding_time` `funding_rate` and, where known, `mark_price`. Importing again changes nothing.

    Raises
    ------
    ConfigError
        The dataset is unknown, or `kline` comes without its interval.
    SchemaError
        A file is torn, lacks a column, has naive times or impossible rows; nothing of it is stored, files before it
        are.
    StorageError
        The disk refused.

    """
    if dataset not in {"kline", "funding"}:
        raise ConfigError(f"dataset {dataset!r} is unknown; write kline or funding")
    if dataset == "kline" and interval is None:
        raise ConfigError("candles need their interval: give --interval, such as 1h")
    received_ms = time.time_ns() // 1_000_000
    rows, messages = 0, []
    for path in files:
        if interval is not None and dataset == "kline":
            bars, told = _bars(path, venue, interval, received_ms)
            _refuse(path, (fault(bar) for bar in bars))
            lake.store(bars)
            for instrument in {bar.instrument for bar in bars}:
                lake.seal(venue, instrument=instrument)
            rows += len(bars)
        else:
            settlements, told = _settlements(path, venue, received_ms)
            _refuse(path, (fault(row) for row in settlements))
            lake.store(settlements)
            rows += len(settlements)
        messages += told
    if dataset == "funding":
        lake.seal(venue)
    return ImportResult(rows, messages)


def _bars(path: Path, venue: Venue, interval: Interval, received_ms: int) -> tuple[list[Bar], list[str]]:
    table = _read(path, ("timestamp", *_VALUES))
    instrument = _instrument(path.stem, venue)
    if instrument is None:
        raise SchemaError(f"{path}: its name is no linear perpetual of {venue}; name it such as BTC_USDT.parquet")
    messages = []
    if "close_time" in table.column_names and len(table):
        messages.append(f"{path.name}: dropped the last bar, which was open when it was downloaded")
        table = table.slice(0, len(table) - 1)
    opens = _times(path, table, "timestamp")
    _ascending(path, opens)
    _at_interval(path, opens, interval)
    _past(path, opens + interval.ms, received_ms)
    quote = _optional(path, table, "quote_volume")
    trades = _optional(path, table, "trades")
    parts = [n for n in trades if n is not None and n % 1]
    if parts:
        raise SchemaError(f"{path}: a trade count is {parts[0]}; write whole numbers, or leave the column out")
    bars = [
        Bar(instrument, interval, at, o, h, l, c, v, q, None if n is None else int(n), "import", received_ms)
        for at, o, h, l, c, v, q, n in zip(
            opens.tolist(), *(_floats(path, table, name) for name in _VALUES), quote, trades, strict=True
        )
    ]
    return bars, messages


def _settlements(path: Path, venue: Venue, received_ms: int) -> tuple[list[Settlement], list[str]]:
    table = _read(path, ("symbol", "funding_time", "funding_rate"))
    symbols = table.column("symbol").to_pylist()
    known = {text: _instrument(str(text), venue) for text in dict.fromkeys(symbols)}
    foreign = sorted(str(text) for text, instrument in known.items() if instrument is None)
    if foreign and len(foreign) == len(known):
        raise SchemaError(f"{path}: no symbol in it is a linear perpetual of {venue}, such as {foreign[0]}")
    times, rates = _times(path, table, "funding_time"), _floats(path, table, "funding_rate")
    marks = _optional(path, table, "mark_price")
    if rates and not (highest := max(map(abs, rates))) <= _LARGEST_RATE:
        raise SchemaError(f"{path}: a funding rate is {highest}; write fractions of notional, 0.0001 for 0.01 %")
    out = []
    by_symbol: dict[Instrument, list[int]] = {}
    for text, at, rate, mark in zip(symbols, times.tolist(), rates, marks, strict=True):
        instrument = known[text]
        if instrument is not None:
            by_symbol.setdefault(instrument, []).append(at)
            out.append(Settlement(instrument, at, rate, mark, "import", received_ms))
    _past(path, times, received_ms)
    for instrument, own in by_symbol.items():
        _ascending(path, snap_to_minute(np.array(own)), str(instrument))
    left_out = sum(known[text] is None for text in symbols)
    names = ", ".join(foreign)
    told = [f"{path.name}: left out {counted(left_out, 'row')} of {names}, no linear perpetuals"] if foreign else []
    return out, told


def _read(path: Path, needed: Sequence[str]) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise SchemaError(f"{path} is torn or no Parquet ({' '.join(str(error).split())[:120]})") from error
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise SchemaError(f"{path} lacks {', '.join(missing)}; it has {', '.join(table.column_names)}")
    return table


def _instrument(text: str, venue: Venue) -> Instrument | None:
    found = Instrument.from_venue_id(venue, text)
    if found is not None:
        return found
    try:
        found = Instrument.parse(text, venue)
    except QlibCryptoError:
        return None
    return found if found.venue is venue and found.quote in QUOTES else None


def _times(path: Path, table: pa.Table, name: str) -> NDArray[np.int64]:
    column = table.column(name)
    if not pa.types.is_timestamp(column.type):
        raise SchemaError(f"{path}: {name} is {column.type}; make it a timestamp with a time zone")
    if column.type.tz is None:
        raise SchemaError(f"{path}: {name} has no time zone, so its hour is anybody's guess; mark it as UTC first")
    if column.null_count:
        raise SchemaError(f"{path}: {name} has {counted(column.null_count, 'empty value')}")
    try:
        return np.asarray(column.cast(_TIME).cast(pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowException:
        raise SchemaError(f"{path}: {name} is finer than a millisecond; round it on purpose first") from None


def _floats(path: Path, table: pa.Table, name: str) -> list[float]:
    values = _optional(path, table, name)
    if None in values:
        raise SchemaError(f"{path}: {name} has no value in row {values.index(None)}")
    return [value for value in values if value is not None]


def _optional(path: Path, table: pa.Table, name: str) -> list[float | None]:
    if name not in table.column_names:
        return [None] * len(table)
    try:
        values: list[float | None] = table.column(name).cast(pa.float64()).to_pylist()
    except (pa.ArrowException, ValueError):
        raise SchemaError(f"{path}: {name} is {table.column(name).type}, not a number") from None
    return [None if value is None or math.isnan(value) else value for value in values]


def _ascending(path: Path, times: NDArray[np.int64], what: str = "rows") -> None:
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if len(wrong):
        at, following = int(times[wrong[0]]), int(times[wrong[0] + 1])
        kind = "repeat" if at == following else "are out of order at"
        raise SchemaError(f"{path}: {what} {kind} {iso(following)}; sort it and keep one row a time")


def _at_interval(path: Path, opens: NDArray[np.int64], interval: Interval) -> None:
    """Refuses bars of a longer interval, which lie on the grid of a shorter one too, with holes between."""
    gaps = np.diff(opens)
    step = int(np.gcd.reduce(gaps)) if len(gaps) >= _FEW_BARS else interval.ms
    if step > interval.ms and step % interval.ms == 0:
        raise SchemaError(
            f"{path}: all bars open a multiple of {step // MINUTE_MS} minutes apart, so they are no {interval} bars; "
            "give the --interval that they have"
        )


def _past(path: Path, times: NDArray[np.int64], now_ms: int) -> None:
    if len(times) and (last := int(times.max())) > now_ms + MINUTE_MS:
        raise SchemaError(f"{path}: it reaches to {when(last)}, which is in the future; correct its times")


def _refuse(path: Path, faults: Iterable[DataError | None]) -> None:
    for error in faults:
        if error is not None:
            raise SchemaError(f"{path}: {error}")
