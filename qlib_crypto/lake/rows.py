"""From collected rows to the values of the hot store, by columns: a burst of bars costs a microsecond each."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from qlib_crypto import schemas
from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.lake.tables import SETTLEMENTS, TABLE_OF, Table, Values
from qlib_crypto.schemas import SOURCES, Row
from qlib_crypto.symbols import Venue

_RANK = {source: rank for rank, source in enumerate(SOURCES)}


def batches(rows: Sequence[Row]) -> dict[Venue, dict[Table, list[Values]]]:
    """The rows as `(interval_ms, slot_ms, symbol, rank, *values)`, by venue and table, in the order given."""
    found: dict[Venue, dict[Table, list[Values]]] = {}
    kinds = set(map(type, rows))
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        of_kind = rows if len(kinds) == 1 else [row for row in rows if type(row) is kind]
        venues = {instrument.venue for instrument in {id(row[0]): row[0] for row in of_kind}.values()}
        for venue in sorted(venues):
            part = of_kind if len(venues) == 1 else [row for row in of_kind if row.instrument.venue is venue]
            found.setdefault(venue, {})[TABLE_OF[kind]] = list(_VALUES[kind](list(zip(*part, strict=True))))
    return found


def _symbols(instruments: Sequence[Any]) -> list[str]:
    return _mapped(instruments, lambda instrument: instrument.symbol)


def _lengths(intervals: Sequence[Any]) -> list[int]:
    if intervals.count(intervals[0]) == len(intervals):
        return [intervals[0].ms] * len(intervals)
    return _mapped(intervals, lambda interval: interval.ms)


def _mapped[T, V](column: Sequence[T], value: Callable[[T], V]) -> list[V]:
    """A value of each, found once for each that is distinct."""
    names = list(map(id, column))
    found = {name: value(one) for name, one in dict(zip(names, column, strict=True)).items()}
    return list(map(found.__getitem__, names))


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


def _bars(columns: Sequence[Sequence[Any]]) -> Iterable[Values]:
    of, interval, at, opens, highs, lows, closes, volume, quote, trades, source, received = columns
    at = _ints(at)
    return zip(
        _lengths(interval), at, _symbols(of), _ranks(source), at,
        _floats(opens), _floats(highs), _floats(lows), _floats(closes), _floats(volume), _floats(quote),
        _ints(trades), _ints(received), strict=True,
    )  # fmt: skip


def _marks(columns: Sequence[Sequence[Any]]) -> Iterable[Values]:
    of, interval, at, opens, highs, lows, closes, source, received = columns
    at = _ints(at)
    return zip(
        _lengths(interval), at, _symbols(of), _ranks(source), at,
        _floats(opens), _floats(highs), _floats(lows), _floats(closes), _ints(received), strict=True,
    )  # fmt: skip


def _settlements(columns: Sequence[Sequence[Any]]) -> Iterable[Values]:
    of, at, rate, mark, source, received = columns
    at = _ints(at)
    return zip(
        _none(at), _minutes(at, SETTLEMENTS.shift_ms), _symbols(of), _ranks(source), at,
        _floats(rate), _floats(mark), _ints(received), strict=True,
    )  # fmt: skip


def _estimates(columns: Sequence[Sequence[Any]]) -> Iterable[Values]:
    of, at, rate, settles, hours, mark, received = columns
    at = _ints(at)
    return zip(
        _none(at), _minutes(at, 0), _symbols(of), at, at,
        _floats(rate), _ints(settles), _floats(hours), _floats(mark), _ints(received), strict=True,
    )  # fmt: skip


def _samples(columns: Sequence[Sequence[Any]]) -> Iterable[Values]:
    """Of open interest and ratios: numbers between the time and the source."""
    of, at, *numbers, source, received = columns
    at = _ints(at)
    return zip(_none(at), at, _symbols(of), _ranks(source), at, *map(_floats, numbers), _ints(received), strict=True)


def _liquidations(columns: Sequence[Sequence[Any]]) -> Iterable[Values]:
    of, at, side, price, quantity, received = columns
    at = _ints(at)
    return zip(
        _none(at), at, _symbols(of), at, at, side, _floats(price), _floats(quantity), _ints(received), strict=True
    )


def _trades(columns: Sequence[Sequence[Any]]) -> Iterable[Values]:
    of, at, number, side, price, quantity, received = columns
    at = _ints(at)
    return zip(
        _none(at), at, _symbols(of), at, at, _ints(number), side, _floats(price), _floats(quantity), _ints(received),
        strict=True,
    )  # fmt: skip


def _books(columns: Sequence[Sequence[Any]]) -> Iterable[Values]:
    of, at, *levels, received = columns
    at = _ints(at)
    return zip(_none(at), at, _symbols(of), at, at, *map(_packed, levels), _ints(received), strict=True)


_VALUES: Mapping[type[Row], Callable[[Sequence[Sequence[Any]]], Iterable[Values]]] = {
    schemas.Bar: _bars, schemas.Settlement: _settlements, schemas.Estimate: _estimates, schemas.MarkBar: _marks,
    schemas.OpenInterest: _samples, schemas.LongShortRatio: _samples, schemas.Liquidation: _liquidations,
    schemas.Trade: _trades, schemas.Book: _books,
}  # fmt: skip
