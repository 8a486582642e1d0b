"""From collected rows to the values of the hot store, by columns: a burst of bars costs a microsecond each."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from qlib_crypto import schemas
from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.lake.tables import SETTLEMENTS, TABLE_OF, Columns, Table
from qlib_crypto.schemas import SOURCES, Row
from qlib_crypto.symbols import Venue

_RANK = {source: rank for rank, source in enumerate(SOURCES)}


def batches(rows: Sequence[Row]) -> dict[Venue, dict[Table, Columns]]:
    """The rows as columns `interval_ms slot_ms symbol rank *values`, by venue and table, in the order given."""
    found: dict[Venue, dict[Table, Columns]] = {}
    kinds = set(map(type, rows))
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        of_kind = rows if len(kinds) == 1 else [row for row in rows if type(row) is kind]
        columns = transposed(of_kind)
        venues = {instrument.venue for instrument in _by_id(columns[0]).values()}
        for venue in sorted(venues):
            if len(venues) > 1:
                columns = transposed([row for row in of_kind if row.instrument.venue is venue])
            found.setdefault(venue, {})[TABLE_OF[kind]] = _VALUES[kind](columns)
    return found


def transposed(rows: Sequence[Row]) -> list[list[Any]]:
    """The fields of rows of one kind, a column each; `zip` would take twice as long, with an iterator for every row."""
    fields, width = list(chain.from_iterable(rows)), len(rows[0])
    return [fields[at::width] for at in range(width)]


def _symbols(instruments: Sequence[Any]) -> list[str]:
    return _mapped(instruments, lambda instrument: instrument.symbol)


def _lengths(intervals: Sequence[Any]) -> list[int]:
    if intervals.count(intervals[0]) == len(intervals):
        return [intervals[0].ms] * len(intervals)
    return _mapped(intervals, lambda interval: interval.ms)


def _mapped[T, V](column: Sequence[T], value: Callable[[T], V]) -> list[V]:
    """A value of each, found once for each that is distinct."""
    found = {name: value(one) for name, one in _by_id(column).items()}
    return [found[name] for name in map(id, column)]


def _by_id[T](column: Sequence[T]) -> dict[int, T]:
    return dict(zip(map(id, column), column, strict=True))


def _ranks(sources: Sequence[str]) -> list[int]:
    return list(map(_RANK.__getitem__, sources))


def _ints(column: Sequence[Any]) -> Sequence[int | None]:
    """The column as plain integers: SQLite knows no NumPy."""
    return column if set(map(type, column)) <= {int, type(None)} else [None if x is None else int(x) for x in column]


def _floats(column: Sequence[Any]) -> Sequence[float | None]:
    """The column as plain floats."""
    return (
        column if set(map(type, column)) <= {float, type(None)} else [None if x is None else float(x) for x in column]
    )


def _minutes(times: Iterable[Any], shift_ms: int) -> list[int]:
    return [(time + shift_ms) // MINUTE_MS * MINUTE_MS for time in times]


def _none(column: Sequence[Any]) -> Sequence[int]:
    return [0] * len(column)


def _packed(column: Sequence[Sequence[float]]) -> list[bytes]:
    return [array("d", levels).tobytes() for levels in column]


def _bars(columns: Columns) -> Columns:
    of, interval, at, opens, highs, lows, closes, volume, quote, trades, source, received = columns
    at = _ints(at)
    return [
        _lengths(interval), at, _symbols(of), _ranks(source), at,
        _floats(opens), _floats(highs), _floats(lows), _floats(closes), _floats(volume), _floats(quote),
        _ints(trades), _ints(received),
    ]  # fmt: skip


def _prices(columns: Columns) -> Columns:
    of, interval, at, opens, highs, lows, closes, source, received = columns
    at = _ints(at)
    return [
        _lengths(interval), at, _symbols(of), _ranks(source), at,
        _floats(opens), _floats(highs), _floats(lows), _floats(closes), _ints(received),
    ]  # fmt: skip


def _settlements(columns: Columns) -> Columns:
    of, at, rate, mark, source, received = columns
    at = _ints(at)
    return [
        _none(at), _minutes(at, SETTLEMENTS.shift_ms), _symbols(of), _ranks(source), at,
        _floats(rate), _floats(mark), _ints(received),
    ]  # fmt: skip


def _estimates(columns: Columns) -> Columns:
    of, at, rate, settles, hours, mark, received = columns
    at = _ints(at)
    return [
        _none(at), _minutes(at, 0), _symbols(of), at, at,
        _floats(rate), _ints(settles), _floats(hours), _floats(mark), _ints(received),
    ]  # fmt: skip


def _samples(columns: Columns) -> Columns:
    """Of open interest and ratios: numbers between the time and the source."""
    of, at, *numbers, source, received = columns
    at = _ints(at)
    return [_none(at), at, _symbols(of), _ranks(source), at, *map(_floats, numbers), _ints(received)]


def _liquidations(columns: Columns) -> Columns:
    of, at, side, price, quantity, received = columns
    at = _ints(at)
    return [
        _none(at), at, _symbols(of), at, at, side, _floats(price), _floats(quantity), _ints(received),
    ]  # fmt: skip


def _trades(columns: Columns) -> Columns:
    of, at, number, side, price, quantity, received = columns
    at = _ints(at)
    return [
        _none(at), at, _symbols(of), at, at, _ints(number), side, _floats(price), _floats(quantity), _ints(received),
    ]  # fmt: skip


def _books(columns: Columns) -> Columns:
    of, at, *levels, received = columns
    at = _ints(at)
    return [_none(at), at, _symbols(of), at, at, *map(_packed, levels), _ints(received)]


_VALUES: Mapping[type[Row], Callable[[Columns], Columns]] = {
    schemas.Bar: _bars, schemas.Settlement: _settlements, schemas.Estimate: _estimates, schemas.MarkBar: _prices,
    schemas.IndexBar: _prices, schemas.OpenInterest: _samples, schemas.LongShortRatio: _samples,
    schemas.Liquidation: _liquidations, schemas.Trade: _trades, schemas.Book: _books,
}  # fmt: skip
