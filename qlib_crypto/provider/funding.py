"""Funding on the grid: what settled inside each bar, what it cost, and the last settled rate.

NaN is unknown; 0 is known to be none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, HOUR_MS, iso
from qlib_crypto.errors import SchemaError
from qlib_crypto.market.funding import LONGEST_INTERVAL_MS, rhythm, snap_to_minute
from qlib_crypto.provider.panel import Floats, Panel
from qlib_crypto.symbols import Interval

FUNDING_FIELDS = (
    "funding", "funding_cash", "funding_open", "funding_open_cash",
    "funding_rate", "funding_interval", "funding_next",
)  # fmt: skip
#: Where a settlement's price came from.
PRICE_SOURCES = ("mark", "trade", "unknown")

Times = NDArray[np.int64]

#: Settlements of one instrument, ascending, each of a minute of its own: the minute (Unix milliseconds), the rate
#: (fraction of notional for the interval), the price (quote per base, NaN where unknown) and its place in
#: `PRICE_SOURCES`.
SERIES = np.dtype([("time_ms", "<i8"), ("rate", "<f8"), ("price", "<f8"), ("price_source", "u1")])
#: Time between the series of several instruments, a multiple of every interval, and times in it that stand alone: more
#: of them than gaps on either side tell of a settlement (`market.funding.holes`).
_APART = 200_000 * DAY_MS
_BETWEEN = _APART // 8 * np.arange(3, 7, dtype=np.int64)
_MARK, _TRADE, _UNKNOWN = range(len(PRICE_SOURCES))
#: No settlement, long ago: what an instrument's bars know before its first.
_NONE = np.array([(-_APART, np.nan, np.nan, _UNKNOWN)], dtype=SERIES)
_NAN, _ZERO = np.array([np.nan]), np.zeros(1, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Settled:
    """The settlements of one instrument and what their times tell; arrays of shape (n_settlements,) but for `known_ms`.

    Attributes
    ----------
    series
        As `SERIES`.
    interval_hours
        Since the settlement before, NaN where unknown.
    due_ms
        When the next one is due, 0 where unknown.
    known_ms
        Rows [start, end): the times for which it is known what settled.
    until_ms
        To when it is known that none settled after each, no later than the next.

    """

    series: NDArray[np.void]
    interval_hours: Floats
    due_ms: Times
    known_ms: Times
    until_ms: Times

    @classmethod
    def of(cls, series: NDArray[np.void]) -> Settled:
        """With what follows from the times."""
        told = rhythm(series["time_ms"])
        until = _until(series["time_ms"], told.known_ms)
        return cls(series, told.interval_hours, told.due_ms, told.known_ms, until)

    @classmethod
    def of_all(cls, many: Sequence[NDArray[np.void]]) -> list[Settled]:
        """`of` of each, computed as one long series with so much time between them that none tells of another."""
        lengths = np.array([len(series) for series in many])
        rows = np.cumsum(lengths + len(_BETWEEN)) - len(_BETWEEN) - lengths
        times = np.concatenate(
            [
                part
                for at, series in enumerate(many)
                for part in (series["time_ms"] + at * _APART, at * _APART + _BETWEEN)
            ]
        )
        told = rhythm(times)
        until = _until(times, told.known_ms)
        starts = np.searchsorted(told.known_ms[:, 0], np.arange(len(many) + 1) * _APART).tolist()
        ends = np.searchsorted(told.known_ms[:, 0], np.arange(len(many)) * _APART + _BETWEEN[0]).tolist()
        out = []
        for at, (series, row, length) in enumerate(zip(many, rows.tolist(), lengths.tolist(), strict=True)):
            own, since = slice(row, row + length), at * _APART
            due = told.due_ms[own]
            out.append(
                cls(
                    series,
                    told.interval_hours[own],
                    np.where(due > 0, due - since, 0),
                    told.known_ms[starts[at] : ends[at]] - since,
                    until[own] - since,
                )
            )
        return out

    @property
    def time_ms(self) -> Times:
        """The minutes."""
        times: Times = self.series["time_ms"]
        return times

    def told(self) -> NDArray[np.float64]:
        """What holds from each settlement to the next, shape (n, 6): equal rows at equal times make equal fields."""
        out = np.empty((len(self.series), 6))
        out[:, 0], out[:, 1], out[:, 2] = self.time_ms, self.series["rate"], self.series["price"]
        out[:, 3], out[:, 4], out[:, 5] = self.interval_hours, self.due_ms, self.until_ms
        return out


def _until(times: Times, known_ms: Times) -> Times:
    until: Times = known_ms[np.searchsorted(known_ms[:, 0], times, side="right") - 1, 1]
    until[:-1] = np.minimum(until[:-1], times[1:])
    return until


def series_by_symbol(table: pa.Table) -> dict[str, NDArray[np.void]]:
    """The settlements of each symbol in a lake table (`FUNDING`, sorted), with their own marks as prices.

    Raises
    ------
    SchemaError
        When two settlements of a symbol fall on one minute.

    """
    symbols = table["symbol"].combine_chunks().dictionary_encode()
    codes: NDArray[np.int32] = np.asarray(symbols.indices.to_numpy())
    names: list[str] = symbols.dictionary.to_pylist()
    out = np.zeros(len(table), dtype=SERIES)
    out["time_ms"] = snap_to_minute(_column(table, "timestamp", pa.int64()))
    twice = (np.diff(out["time_ms"]) <= 0) & (codes[1:] == codes[:-1])
    if twice.any():
        at = int(np.argmax(twice)) + 1
        raise SchemaError(
            f"two settlements of {names[codes[at]]} at {iso(int(out['time_ms'][at]))}; remove one from the lake"
        )
    mark = _column(table, "mark_price", pa.float64())
    out["rate"] = _column(table, "funding_rate", pa.float64())
    out["price"] = np.where(mark > 0, mark, np.nan)
    out["price_source"] = np.where(mark > 0, _MARK, _UNKNOWN)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    return {names[codes[at]]: own for at, own in zip(starts.tolist(), np.split(out, starts)[1:], strict=True)}


def _column(table: pa.Table, name: str, kind: pa.DataType) -> NDArray[Any]:
    """One column as numpy; null floats become NaN, times Unix milliseconds."""
    data = table[name].cast(kind).combine_chunks()
    return np.asarray(data.to_numpy(zero_copy_only=False))


def replaced(series: NDArray[np.void], new: NDArray[np.void], start_ms: int, end_ms: int) -> NDArray[np.void]:
    """The series with `new` instead of what it has in `[start_ms, end_ms)`."""
    begin, stop = np.searchsorted(series["time_ms"], (start_ms, end_ms))
    return np.concatenate([series[:begin], new, series[stop:]])


def price(series: NDArray[np.void], sources: Sequence[Panel], row: int, start_ms: int, end_ms: int) -> None:
    """Set the prices in `[start_ms, end_ms)` that are no marks: the open of the finest source with a bar then.

    The instrument is a row of the sources.
    """
    begin, stop = np.searchsorted(series["time_ms"], (start_ms, end_ms))
    rows = begin + np.flatnonzero(series["price_source"][begin:stop] != _MARK)
    if not rows.size:
        return
    prices = np.full(len(rows), np.nan)
    for bars in sorted(sources, key=lambda s: s.interval):
        missing = np.flatnonzero(np.isnan(prices))
        slot, off = np.divmod(series["time_ms"][rows[missing]] - bars.start_ms, bars.interval.ms)
        inside = (off == 0) & (slot >= 0) & (slot < bars.present.shape[1])
        prices[missing[inside]] = bars.data["open"][row, slot[inside]]
    series["price"][rows] = prices
    series["price_source"][rows] = np.where(np.isnan(prices), _UNKNOWN, _TRADE)


def price_sources(series: NDArray[np.void]) -> dict[str, int]:
    """How many prices are of each source."""
    counts = np.bincount(series["price_source"], minlength=len(PRICE_SOURCES)).tolist()
    return dict(zip(PRICE_SOURCES, counts, strict=True))


def differing(one: Settled, other: Settled) -> tuple[int, int] | None:
    """The times [start, end) outside of which both make the same fields; None when they are the same everywhere."""
    a, b = one.told(), other.told()
    few = min(len(a), len(b))
    same = ((a[:few] == b[:few]) | (np.isnan(a[:few]) & np.isnan(b[:few]))).all(axis=1)
    head = few if same.all() else int(np.argmin(same))
    if head == len(a) == len(b):
        return None
    most = few - head
    late_a, late_b = a[len(a) - most :], b[len(b) - most :]
    same = ((late_a == late_b) | (np.isnan(late_a) & np.isnan(late_b))).all(axis=1)[::-1]
    tail = most if same.all() else int(np.argmin(same))
    start = min(int(of.time_ms[head]) for of in (one, other) if head < len(of.time_ms))
    end = int(one.time_ms[len(a) - tail]) if tail else int(np.iinfo(np.int64).max)
    return start, end


def funding_fields(many: Sequence[Settled], interval: Interval, first_ms: int, length: int) -> NDArray[np.float32]:
    """`FUNDING_FIELDS` of `length` bars from the one that opens at `first_ms`, shape (7, n_instruments, length).

    `funding` and `funding_cash` are known where the whole bar [open, close) is; `funding_open` and `funding_open_cash`
    where the instant of the open is. A cash amount of unknown price is unknown. `funding_rate` (fraction) and
    `funding_interval` (hours) are of the last settlement at or before the open, no older than 8 h 1 min.
    `funding_next` is the time from the close to the next settlement (hours), by the rhythm of the settlements before
    the close: one that is due at the close counts as passed, and once a due one has stayed away the next is unknown.

    The last three never change when more becomes known. The amounts may: whether nothing settled since an overdue
    settlement is unknown until the next one tells; an amount that was known stays.
    """
    out = np.full((len(FUNDING_FIELDS), len(many), length), np.nan, dtype=np.float32)
    slots = out.reshape(len(FUNDING_FIELDS), -1)  # those of one instrument after those of another
    _fill_amounts(slots[:4], many, interval, first_ms, length)
    _fill_rates(slots[4:], many, interval, first_ms, length)
    return out


def _fill_rates(
    out: NDArray[np.float32], many: Sequence[Settled], interval: Interval, first_ms: int, length: int
) -> None:
    """The last rate, its interval, and the time to the next: runs of slots from one settlement to the next."""
    step, end_ms = interval.ms, first_ms + length * interval.ms
    series, hours, due, counts = [], [], [], []
    for of in many:
        begin = max(int(np.searchsorted(of.time_ms, first_ms, side="right")) - 1, 0)
        stop = int(np.searchsorted(of.time_ms, end_ms))
        own = slice(begin, max(stop, begin))
        series += [_NONE, of.series[own]]  # each begins with nothing
        hours += [_NAN, of.interval_hours[own]]
        due += [_ZERO, of.due_ms[own]]
        counts.append(1 + own.stop - begin)
    rows, interval_hours, due_ms = np.concatenate(series), np.concatenate(hours), np.concatenate(due)
    base, total = np.repeat(np.arange(len(many)) * length, counts), len(many) * length
    slot, after_open = np.divmod(rows["time_ms"] - first_ms, step)
    from_open = base + np.clip(slot + (after_open > 0), 0, length)  # the first bar that opens at or after it
    until = np.append(from_open[1:], total)
    fresh = np.clip(base + (rows["time_ms"] + LONGEST_INTERVAL_MS - first_ms) // step + 1, from_open, until)
    runs = np.column_stack([fresh - from_open, until - fresh]).ravel()
    for row, values in ((0, rows["rate"]), (1, interval_hours)):
        held = np.full((len(rows), 2), np.nan, dtype=np.float32)
        held[:, 0] = values
        out[row] = np.repeat(held.ravel(), runs)
    runs = np.diff(base + np.clip(slot, 0, length), append=total)  # from the first bar that closes after it
    closes = first_ms + (np.arange(length, dtype=np.int64) + 1) * step
    left = (np.repeat(due_ms, runs).reshape(len(many), length) - closes).ravel()
    np.divide(left, HOUR_MS, out=out[2], casting="same_kind")
    out[2, left < 0] = np.nan
    at_close = np.flatnonzero(left == 0)
    out[2, at_close] = np.repeat(interval_hours, runs)[at_close]


def _fill_amounts(
    out: NDArray[np.float32], many: Sequence[Settled], interval: Interval, first_ms: int, length: int
) -> None:
    """What settled in each bar, and at its open: rates and cash; 0 where it is known that nothing did."""
    step, end_ms = interval.ms, first_ms + length * interval.ms
    for at, of in enumerate(many):
        base = at * length
        known = of.known_ms[(of.known_ms[:, 1] > first_ms) & (of.known_ms[:, 0] < end_ms)]
        from_open = base + np.clip(-((first_ms - known[:, 0]) // step), 0, length)
        instants = base + np.clip(-((first_ms - known[:, 1]) // step), 0, length)
        wholes = base + np.clip((known[:, 1] - first_ms) // step, 0, length)
        for first, instant, whole in zip(from_open.tolist(), instants.tolist(), wholes.tolist(), strict=True):
            out[:2, first:whole] = 0
            out[2:, first:instant] = 0
    within = [slice(*np.searchsorted(of.time_ms, (first_ms, end_ms)).tolist()) for of in many]
    rows = np.concatenate([of.series[own] for of, own in zip(many, within, strict=True)])
    if not len(rows):
        return
    bar, after_open = np.divmod(rows["time_ms"] - first_ms, step)
    bar += np.repeat(np.arange(len(many)) * length, [own.stop - own.start for own in within])
    amounts = np.stack([rows["rate"], rows["rate"] * rows["price"]])
    starts = np.flatnonzero(np.diff(bar, prepend=-1))
    inside, at_open = bar[starts], bar[after_open == 0]
    totals = np.add.reduceat(amounts, starts, axis=1)
    out[:2, inside] = np.where(np.isnan(out[:2, inside]), np.nan, totals)
    out[2:, at_open] = np.where(np.isnan(out[2:, at_open]), np.nan, amounts[:, after_open == 0])
