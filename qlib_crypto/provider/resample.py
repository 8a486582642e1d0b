"""Bars on a regular grid, and bars of one frequency made of finer ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import iso
from qlib_crypto.errors import SchemaError
from qlib_crypto.symbols import Interval

Floats = NDArray[np.float64]

#: Columns of a lake bar that the provider reads, in the order of `GridBars.data`.
COLUMNS = ("open", "high", "low", "close", "volume", "quote_volume")
#: Fields that are made of bars alone.
BAR_FIELDS = ("open", "high", "low", "close", "volume", "amount", "vwap", "factor", "change")

_OPEN, _HIGH, _LOW, _CLOSE, _VOLUME, _AMOUNT = range(6)


@dataclass(frozen=True, slots=True)
class GridBars:
    """Bars of one instrument, one row for each slot from the first bar to the last.

    Attributes
    ----------
    interval
        Their length.
    first_ms
        Open of row 0.
    present
        Shape (n,); False where there is no bar.
    data
        Shape (6, n): open, high, low, close (quote per base), volume (base), amount (quote); NaN where there is no
        bar, amount also NaN where the source has none.

    """

    interval: Interval
    first_ms: int
    present: NDArray[np.bool_]
    data: Floats

    @property
    def length(self) -> int:
        """Number of slots."""
        return len(self.present)

    @property
    def last_ms(self) -> int:
        """Open of the last bar."""
        return self.first_ms + (self.length - 1) * self.interval.ms


def on_grid(table: pa.Table, interval: Interval) -> GridBars | None:
    """Lake bars (`KLINE`, sorted, unique) spread on their grid; None when there are none.

    Raises
    ------
    SchemaError
        When a bar does not open on the grid of its interval.

    """
    if table.num_rows == 0:
        return None
    opens = column(table, "timestamp", pa.int64())
    off = opens[opens % interval.ms != 0]
    if off.size:
        raise SchemaError(
            f"a {interval} bar of {table['symbol'][0]} opens at {iso(int(off[0]))}, which no {interval} bar does; "
            "remove or re-fetch it"
        )
    first = int(opens[0])
    rows = (opens - first) // interval.ms
    present = np.zeros(int(rows[-1]) + 1, dtype=np.bool_)
    present[rows] = True
    values = np.full((len(COLUMNS), present.size), np.nan)
    for index, name in enumerate(COLUMNS):
        values[index, rows] = column(table, name, pa.float64())
    return GridBars(interval, first, present, values)


def column(table: pa.Table, name: str, kind: pa.DataType) -> NDArray[Any]:
    """One column as numpy; null floats become NaN, times Unix milliseconds."""
    data = table[name].cast(kind).combine_chunks()
    return np.asarray(data.to_numpy(zero_copy_only=False))


def resample(sources: Sequence[GridBars], target: Interval) -> GridBars | None:
    """The complete bars of `target`; None when there is none.

    Each bar comes from the finest single source that covers all of it: first open, highest high, lowest low, last
    close, summed volume and amount. A source of the target's own interval is the venue's own bar and comes last.
    """
    made = [_parts(source, target) for source in sorted(sources, key=lambda s: s.interval) if _divides(source, target)]
    spans = [(bars.first_ms, bars.last_ms) for bars in made if bars is not None]
    if not spans:
        return None
    first = min(span[0] for span in spans)
    length = (max(span[1] for span in spans) - first) // target.ms + 1
    present = np.zeros(length, dtype=np.bool_)
    values = np.full((len(COLUMNS), length), np.nan)
    for bars in made:
        if bars is None:
            continue
        start = (bars.first_ms - first) // target.ms
        window = slice(start, start + bars.length)
        take = bars.present & ~present[window]
        values[:, window][:, take] = bars.data[:, take]
        present[window] |= take
    return GridBars(target, first, present, values)


def cut(bars: GridBars | None, target: Interval, start_ms: int, end_ms: int) -> GridBars:
    """The slots of `[start_ms, end_ms)`, whatever the bars' own span is."""
    length = (end_ms - start_ms) // target.ms
    present, values = np.zeros(length, dtype=np.bool_), np.full((len(COLUMNS), length), np.nan)
    if bars is not None:
        ahead = (bars.first_ms - start_ms) // target.ms
        begin, stop = max(ahead, 0), min(ahead + bars.length, length)
        if begin < stop:
            present[begin:stop] = bars.present[begin - ahead : stop - ahead]
            values[:, begin:stop] = bars.data[:, begin - ahead : stop - ahead]
    return GridBars(target, start_ms, present, values)


def _divides(source: GridBars, target: Interval) -> bool:
    return target.ms % source.interval.ms == 0


def _parts(source: GridBars, target: Interval) -> GridBars | None:
    """The bars of `target` of which `source` has every part."""
    if source.interval == target:
        return source
    ratio = target.ms // source.interval.ms
    first = target.floor(source.first_ms)
    before = (source.first_ms - first) // source.interval.ms
    length = -(-(before + source.length) // ratio)
    present = np.zeros(length * ratio, dtype=np.bool_)
    present[before : before + source.length] = source.present
    complete: NDArray[np.bool_] = np.all(present.reshape(length, ratio), axis=1)
    slots = np.flatnonzero(complete)
    if not slots.size:
        return None
    start, stop = int(slots[0]), int(slots[-1]) + 1
    parts = np.full((len(COLUMNS), length * ratio), np.nan)
    parts[:, before : before + source.length] = source.data
    parts = parts.reshape(len(COLUMNS), length, ratio)[:, start:stop]
    values = np.stack(
        [
            parts[_OPEN, :, 0],
            parts[_HIGH].max(axis=1),
            parts[_LOW].min(axis=1),
            parts[_CLOSE, :, -1],
            parts[_VOLUME].sum(axis=1),
            parts[_AMOUNT].sum(axis=1),
        ]
    )
    complete = complete[start:stop]
    values[:, ~complete] = np.nan
    return GridBars(target, first + start * target.ms, complete, values)


def bar_fields(bars: GridBars) -> dict[str, Floats]:
    """The fields made of bars alone, each of shape (n,), NaN where there is no bar.

    `vwap` is amount / volume, NaN at zero volume or without an amount; `factor` is 1 at every bar; `change` is
    close / close of the bar just before - 1, NaN when that bar is missing.
    """
    o, h, l, close, volume, amount = bars.data
    previous = np.full_like(close, np.nan)
    previous[1:] = close[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        vwap = np.where(volume > 0, amount / volume, np.nan)
        change = np.where(previous > 0, close / previous - 1, np.nan)
    factor = np.where(bars.present, 1.0, np.nan)
    return dict(zip(BAR_FIELDS, (o, h, l, close, volume, amount, vwap, factor, change), strict=True))
