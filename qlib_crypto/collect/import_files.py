"""The rows of somebody's candle or funding file; a file that cannot be right is refused whole, by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import MINUTE_MS, iso
from qlib_crypto.collect.import_tables import read_table, said_by
from qlib_crypto.collect.import_times import to_utc
from qlib_crypto.errors import QlibCryptoError, SchemaError, counted
from qlib_crypto.lake.checks import when
from qlib_crypto.market.funding import snap_to_minute
from qlib_crypto.schemas import Bar, Settlement
from qlib_crypto.symbols import QUOTES, Instrument, Interval, Venue

_VALUES = ("open", "high", "low", "close", "volume")
#: So many gaps without a shortest one between are no accident.
_FEW_BARS = 5
#: No venue's cap is half of this rate; what is above was meant in per cent or basis points.
_LARGEST_RATE = 0.1
_TIME = pa.timestamp("ms", tz="UTC")


class NaiveTimesError(SchemaError):
    """The stamps have no time zone, and none was given."""


def bars_of(
    path: Path,
    venue: Venue,
    interval: Interval,
    received_ms: int,
    *,
    zone: str | None,
    lenient: bool,
    columns: Mapping[str, str],
    keep_last: bool = False,
) -> tuple[list[Bar], list[str]]:
    """The bars of one symbol's candle file, ascending, and what to tell about them.

    `zone` is that of naive stamps, `columns` are the file's names for ours. Without `keep_last` the last bar of a file
    with `close_time` is left out: it is a download, made before that bar closed perhaps, and nothing in it says so.
    When lenient, a missing value is NaN in its bar, which is then refused by itself.

    Raises
    ------
    SchemaError
        The file is torn, lacks a column, has stamps without a zone or in disorder, or values that are no numbers.

    """
    table = _read(path, ("timestamp", *_VALUES), "kline", interval, columns)
    instrument = instrument_of(said_by(path).symbol, venue)
    if instrument is None:
        raise SchemaError(f"{path}: its name is no linear perpetual of {venue}; name it such as BTC_USDT.parquet")
    messages = _empty(path, table)
    if "close_time" in table.column_names and len(table) and not keep_last:
        messages.append(
            f"{path.name}: left out the last bar, which may have been open when the file, which has close_time, was "
            "downloaded; --keep-last takes it"
        )
        table = table.slice(0, len(table) - 1)
    opens = _times(path, table, "timestamp", zone)
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
            opens.tolist(),
            *(_floats(path, table, name, lenient=lenient) for name in _VALUES),
            quote,
            trades,
            strict=True,
        )
    ]
    return bars, messages


def settlements_of(
    path: Path, venue: Venue, received_ms: int, *, zone: str | None, lenient: bool, columns: Mapping[str, str]
) -> tuple[list[Settlement], list[str]]:
    """The settlements of a funding file, of any number of symbols; otherwise as `bars_of`."""
    table = _read(path, ("symbol", "funding_time", "funding_rate"), "funding", None, columns)
    symbols = table.column("symbol").to_pylist()
    known = {text: instrument_of(str(text), venue) for text in dict.fromkeys(symbols)}
    foreign = sorted(str(text) for text, instrument in known.items() if instrument is None)
    if foreign and len(foreign) == len(known):
        raise SchemaError(f"{path}: no symbol in it is a linear perpetual of {venue}, such as {foreign[0]}")
    times, rates = _times(path, table, "funding_time", zone), _floats(path, table, "funding_rate", lenient=lenient)
    marks = _optional(path, table, "mark_price")
    sizes = [abs(rate) for rate in rates if not math.isnan(rate)]
    if sizes and not (highest := max(sizes)) <= _LARGEST_RATE:
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
    return out, _empty(path, table) + told


def _read(
    path: Path, needed: Sequence[str], dataset: str, interval: Interval | None, columns: Mapping[str, str]
) -> pa.Table:
    table = read_table(path, dataset, interval, columns)
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise SchemaError(f"{path} has more than one column {', '.join(twice)}; keep the right one")
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise SchemaError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(table.column_names)}; name its own with "
            f"--map {missing[0]}=THEIRS"
        )
    return table


def _empty(path: Path, table: pa.Table) -> list[str]:
    return [] if len(table) else [f"{path.name}: it has no rows"]


def instrument_of(text: str, venue: Venue) -> Instrument | None:
    """The linear perpetual of a venue's id or of our own spelling, None for what is none."""
    found = Instrument.from_venue_id(venue, text)
    if found is not None:
        return found
    try:
        found = Instrument.parse(text, venue)
    except QlibCryptoError:
        return None
    return found if found.venue is venue and found.quote in QUOTES else None


def _times(path: Path, table: pa.Table, name: str, zone: str | None) -> NDArray[np.int64]:
    column = table.column(name)
    if not pa.types.is_timestamp(column.type):
        raise SchemaError(f"{path}: {name} is {column.type}; make it a timestamp with a time zone")
    if column.type.tz is None and zone is None:
        raise NaiveTimesError(
            f"{path}: {name} has no time zone, so its hour is anybody's guess; give --time-zone, such as UTC or +08:00"
        )
    if column.null_count:
        raise SchemaError(f"{path}: {name} has {counted(column.null_count, 'empty value')}")
    if zone is not None and column.type.tz is not None:
        raise SchemaError(f"{path}: {name} has the time zone {column.type.tz} already; leave --time-zone out")
    try:
        if zone is not None:
            return to_utc(path, column, name, zone)
        return np.asarray(column.cast(_TIME).cast(pa.int64()).to_numpy(), dtype=np.int64)
    except pa.ArrowException:
        raise SchemaError(f"{path}: {name} is finer than a millisecond; round it on purpose first") from None


def _floats(path: Path, table: pa.Table, name: str, *, lenient: bool) -> list[float]:
    values = _optional(path, table, name)
    if None in values and not lenient:
        raise SchemaError(f"{path}: {name} has no value in row {values.index(None)}")
    return [math.nan if value is None else value for value in values]


def _optional(path: Path, table: pa.Table, name: str) -> list[float | None]:
    if name not in table.column_names:
        return [None] * len(table)
    column = table.column(name)
    refusal = SchemaError(f"{path}: {name} is {column.type}, not a number")
    if pa.types.is_boolean(column.type):
        raise refusal
    try:  # safe=False: whole numbers beyond 2**53 are rounded, and then refused for their size
        values: list[float | None] = column.cast(pa.float64(), safe=False).to_pylist()
    except (pa.ArrowException, ValueError):
        raise refusal from None
    return [None if value is None or math.isnan(value) else value for value in values]


def _ascending(path: Path, times: NDArray[np.int64], what: str = "rows") -> None:
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if len(wrong):
        at, following = int(times[wrong[0]]), int(times[wrong[0] + 1])
        kind = "repeat" if at == following else "are out of order at"
        raise SchemaError(f"{path}: {what} {kind} {iso(following)}; sort it and keep one row a time")


def _at_interval(path: Path, opens: NDArray[np.int64], interval: Interval) -> None:
    """Refuses bars of another interval: a shorter one, or a longer one, which would be a grid with holes."""
    gaps = np.diff(opens)
    if len(gaps) < _FEW_BARS:
        return
    typical = int(np.median(gaps))
    if typical < interval.ms and typical and typical % MINUTE_MS == 0:
        raise SchemaError(
            f"{path}: its bars open {counted(typical // MINUTE_MS, 'minute')} apart, so they are no {interval} bars; "
            "give the --interval that they have"
        )
    step = int(np.gcd.reduce(gaps))
    if step > interval.ms and step % interval.ms == 0:
        raise SchemaError(
            f"{path}: all bars open a multiple of {step // MINUTE_MS} minutes apart, so they are no {interval} bars; "
            "give the --interval that they have"
        )


def _past(path: Path, times: NDArray[np.int64], now_ms: int) -> None:
    if len(times) and (last := int(times.max())) > now_ms + MINUTE_MS:
        raise SchemaError(f"{path}: it reaches to {when(last)}, which is in the future; correct its times")
