"""What a row must be to enter the lake. A fault is one phrase; None means the row is good.

Refused (FAIL) is what no calculation can use: NaN, a price of zero or less, a negative volume, a time off its grid, an
unknown source; and what is not final. A bar whose high is below its low, or whose open lies outside both, is the
venue's word: it stays and gets a flag (`quality`).

*Open* is what was received within its own life. Receipt is wall time while a replayed market has its own, so a row of a
market that is ahead of the wall altogether is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qlib_crypto import schemas
from qlib_crypto.clock import iso
from qlib_crypto.errors import DataError, UnconfirmedBarError
from qlib_crypto.lake.rows import transposed
from qlib_crypto.lake.rules import AMOUNT, KINDS, LEVELS, PRICE, Kind, Rule
from qlib_crypto.schemas import Row
from qlib_crypto.symbols import Instrument, Interval, Venue

#: Whose book it is does not matter to its fault.
_ANYONE = Instrument("ANY", "USDT", Venue.OKX)
#: Fewer rows are judged one by one: making arrays of them costs more.
_FEW = 4


def fault(row: Row) -> DataError | None:
    """Why this row may not be stored, None when it is good; `UnconfirmedBarError` for a bar that was still open."""
    kind = KINDS[type(row)]
    values = kind.fields(row)
    step = row.interval.ms if isinstance(row, schemas.Bar | schemas.PriceBar) else kind.grid
    phrase = _phrase(kind, values, step)
    time, received = values["timestamp"], values["received_at"]
    if not phrase and not kind.too_early(time, received, step if kind.has_interval else 0):
        return None
    name = f"{kind.name} {row.instrument} {f'{row[1]} ' if kind.has_interval else ''}{when(time)}"
    if phrase:
        return DataError(f"{name} refused: {phrase}; check the source, then fetch it again")
    error = UnconfirmedBarError if kind.has_interval else DataError
    return error(f"{name} refused: received at {when(received)}, {kind.early}")


def first_fault(rows: Sequence[Row]) -> DataError | None:
    """The first row's fault among rows of any kinds, None when all are good. Judged by columns: for large batches."""
    suspects = _suspects(rows)
    return next((error for at in suspects if (error := fault(rows[at])) is not None), None)


def sift[R: Row](rows: Iterable[R]) -> tuple[list[R], list[str]]:
    """The rows that may be stored, and why each of the others may not: for callers that must not stop at one."""
    rows = list(rows)
    faults = {at: error for at in _suspects(rows) if (error := fault(rows[at])) is not None}
    if not faults:
        return rows, []
    return [row for at, row in enumerate(rows) if at not in faults], [str(error) for error in faults.values()]


def refuse_faults(rows: Iterable[Row]) -> None:
    """Raise the first row's fault, so that a call stores all of its rows or none."""
    error = first_fault(list(rows))
    if error is not None:
        raise error


def faulty(table: pa.Table, kind: type[Row], interval: Interval | None = None) -> NDArray[np.bool_]:
    """True for each row of a Parquet table that has a fault; bars of any price need their interval.

    The table has the kind's schema. `row_at` and `fault` tell what is wrong with one.
    """
    asked = KINDS[kind]
    if kind is schemas.Book:
        books = (row_at(table, kind, _ANYONE, at) for at in range(len(table)))
        return np.fromiter((fault(book) is not None for book in books), dtype=bool, count=len(table))
    bad = np.zeros(len(table), dtype=bool)
    numbers = {
        name: _numbers(table.column(name))
        for name in (*asked.rules, "received_at")
        if not pa.types.is_string(asked.schema.field(name).type)
    }
    for name, rule in asked.rules.items():
        if rule.words:
            bad |= ~pc.is_in(table.column(name), value_set=pa.array(rule.words)).to_numpy()
        else:
            holds = rule.holds(numbers[name])
            bad |= ~holds & table.column(name).is_valid().to_numpy()
    time, step = numbers["timestamp"], interval.ms if interval and asked.has_interval else asked.grid
    if step:
        bad |= time % step != 0
    bad |= asked.too_early(time, numbers["received_at"], step if asked.has_interval else 0)
    return bad


def row_at[R: Row](
    table: pa.Table, kind: type[R], instrument: Instrument, at: int, interval: Interval | None = None
) -> R:
    """One row of a Parquet table as the kind says it; the instrument is the caller's."""
    values = []
    for name in KINDS[kind].columns:
        column = table.column(name)
        value = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column)[at].as_py()
        values.append(tuple(value) if isinstance(value, list) else value)
    return kind(instrument, *([interval] if KINDS[kind].has_interval else []), *values)  # type: ignore[arg-type] # the schema holds the types


def when(ms: int) -> str:
    """The time as text, the bare number where it is no calendar date."""
    try:
        return iso(ms)
    except (ValueError, OverflowError, OSError, TypeError):
        return str(ms)


def _phrase(kind: Kind, values: Mapping[str, Any], step: int | None) -> str | None:
    """What is wrong with the values of one row, None when nothing is."""
    for column, rule in kind.rules.items():
        value = values[column]
        if value is None and column in kind.nullable:
            continue
        try:
            holds = value in rule.words if rule.words else rule.holds(value)
        except TypeError:  # None or text where a number belongs
            holds = False
        if not holds:
            return f"{column.replace('_', ' ')} {value!r}: {rule.must}"
    if kind.name == "book":
        return _book_phrase(values)
    if step and values["timestamp"] % step:
        return f"time {values['timestamp']} is not on the {Interval.of_ms(step)} grid"
    return None


def _book_phrase(values: Mapping[str, Any]) -> str | None:
    if not any(values[prices] for prices, _ in LEVELS):
        return "it has no level at all"
    for prices, quantities in LEVELS:
        if len(values[prices]) != len(values[quantities]):
            return f"{prices} and {quantities} differ in length"
        for rule, column in ((PRICE, prices), (AMOUNT, quantities)):
            if not all(rule.holds(value) for value in values[column]):
                return f"{column.replace('_', ' ')} {values[column]}: {rule.must}"
    return None


def _suspects(rows: Sequence[Row]) -> Iterable[int]:
    """Ascending indices of rows that may have a fault; every row that has one is among them."""
    if len(rows) < _FEW:
        return range(len(rows))
    kinds = set(map(type, rows))
    if len(kinds) == 1:
        return _suspects_of(kinds.pop(), rows)
    places: dict[type, list[int]] = {kind: [] for kind in kinds}
    for at, row in enumerate(rows):
        places[type(row)].append(at)
    found = ((of, _suspects_of(kind, [rows[at] for at in of])) for kind, of in places.items())
    return sorted(of[at] for of, suspects in found for at in suspects)


def _suspects_of(of: type[Row], rows: Sequence[Row]) -> Iterable[int]:
    kind = KINDS[of]
    if kind.name == "book":
        return range(len(rows))
    columns = transposed(rows)
    by_name = dict(zip(kind.columns, columns[2 if kind.has_interval else 1 :], strict=True))
    bad = np.zeros(len(rows), dtype=bool)
    try:
        for rule, nullable, names in kind.by_rule:
            bad |= _bad(rule, [by_name[name] for name in names], nullable=nullable)
        time, received = np.array(by_name["timestamp"]), np.array(by_name["received_at"])
        step = _steps(columns[1]) if kind.has_interval else kind.grid
        if step is not None:
            bad |= time % step != 0
        bad |= kind.too_early(time, received, step if kind.has_interval else 0)
    except (TypeError, ValueError):  # something that is no number
        return range(len(rows))
    return [int(at) for at in np.flatnonzero(bad)]


def _bad(rule: Rule, columns: Sequence[Sequence[Any]], *, nullable: bool) -> Any:
    """True where the rule may not hold in a column; an array, or one truth for all."""
    first = columns[0]
    if rule.words:
        wrong = set(first).difference(rule.words)
        return np.array([value in wrong for value in first]) if wrong else False
    if nullable and first.count(None) == len(first):
        return False
    bad = ~rule.holds(np.array(columns, dtype=np.float64)).all(axis=0)
    return bad & np.array([value is not None for value in first]) if nullable and bad.any() else bad


def _steps(intervals: Sequence[Interval]) -> Any:
    if intervals.count(intervals[0]) == len(intervals):
        return intervals[0].ms
    return np.array([interval.ms for interval in intervals])


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return np.asarray(column.to_numpy(), dtype=np.float64)
