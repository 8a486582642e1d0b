"""What is collected on a grid, asked and repaired alike: candles, those of mark and index, open interest, ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.feeds import History
from qlib_crypto.lake import Lake
from qlib_crypto.lake.paths import kline_dataset
from qlib_crypto.lake.tables import BARS, INDEXES, LONG_SHORT_RATIO, MARKS, OPEN_INTEREST, Table
from qlib_crypto.schemas import PERIOD_MS, Bar, IndexBar, LongShortRatio, MarkBar, OpenInterest, PriceBar
from qlib_crypto.symbols import Instrument, Interval

type Gridded = Bar | MarkBar | IndexBar | OpenInterest | LongShortRatio

_MINUTE = Interval.parse("1m")
FUNDING = "funding"


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One dataset on a grid.

    Attributes
    ----------
    dataset
        Its name in folders, ledger and holes.
    table, interval
        Where the lake keeps it; the interval of candles, None otherwise.
    step_ms
        The grid. A row at `t` is closed, and may be asked for, at `t + step_ms`.
    pages
        `(source, instrument, start_ms, end_ms)` to pages of rows.

    """

    dataset: str
    table: Table
    interval: Interval | None
    step_ms: int
    pages: Callable[[History, Instrument, int, int], Iterator[Sequence[Gridded]]]

    def times(self, lake: Lake, instrument: Instrument, start_ms: int, end_ms: int) -> NDArray[np.int64]:
        """Times of the lake's rows in `[start_ms, end_ms)`, ascending."""
        return lake.times(self.table, instrument, start_ms, end_ms, interval=self.interval)

    def floor(self, ms: int) -> int:
        """The grid's last time that is not after `ms`."""
        return ms - ms % self.step_ms


def time_of(row: Any) -> int:
    """A row's own time: the open of a candle."""
    return int(row.open_ms if isinstance(row, Bar | PriceBar) else row.time_ms)


def candles(interval: Interval) -> Series:
    """Candles of an interval."""
    return Series(kline_dataset(interval), BARS, interval, interval.ms, lambda s, i, a, b: s.bars(i, interval, a, b))


#: By the names of `VenueSettings.datasets`; those that are asked for, the others come by websocket alone.
POLLED: dict[str, Series] = {
    "mark": Series("mark_1m", MARKS, _MINUTE, _MINUTE.ms, lambda s, i, a, b: s.marks(i, _MINUTE, a, b)),
    "index": Series("index_1m", INDEXES, _MINUTE, _MINUTE.ms, lambda s, i, a, b: s.indexes(i, _MINUTE, a, b)),
    "open_interest": Series(
        "open_interest", OPEN_INTEREST, None, PERIOD_MS, lambda s, i, a, b: s.open_interest(i, a, b)
    ),
    "long_short_ratio": Series(
        "long_short_ratio", LONG_SHORT_RATIO, None, PERIOD_MS, lambda s, i, a, b: s.long_short_ratio(i, a, b)
    ),
}
STREAMED = ("liquidations", "trades", "books")


def polled(datasets: Sequence[str]) -> list[Series]:
    """The series among dataset names, as settings or the lake spell them."""
    return [series for name, series in POLLED.items() if name in datasets or series.dataset in datasets]
