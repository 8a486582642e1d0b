"""Fields of what the lake has beside bars and funding: marks, index, open interest, ratios, liquidations, estimates.

An instrument has the files of a table's fields when the lake has rows of that table for it, or, where one file holds
every symbol, for its venue. Qlib reads a file that is not there as NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, MINUTE_MS
from qlib_crypto.lake import Lake
from qlib_crypto.lake.columns import Columns
from qlib_crypto.lake.tables import ESTIMATES, INDEXES, LIQUIDATIONS, LONG_SHORT_RATIO, MARKS, OPEN_INTEREST, Table
from qlib_crypto.provider.dirty import Span, Stored
from qlib_crypto.provider.panel import Floats, Panel, resample, spread
from qlib_crypto.schemas import PERIOD_MS
from qlib_crypto.symbols import Instrument, Interval, Venue

#: The fields of each table.
EXTRA_FIELDS: Mapping[Table, tuple[str, ...]] = {
    MARKS: ("mark_open", "mark_high", "mark_low", "mark"),
    INDEXES: ("index", "basis"),
    OPEN_INTEREST: ("open_interest",),
    LONG_SHORT_RATIO: ("long_short",),
    LIQUIDATIONS: ("liquidation_long", "liquidation_short"),
    ESTIMATES: ("funding_estimate",),
}
#: A period of open interest or ratio is published within a minute of its end; labels may be those of its start. With
#: how long one holds, this is less than `dirty.REACH_MS`.
PUBLISHED_MS = PERIOD_MS + MINUTE_MS
#: How long the last published period holds, and the last estimate.
FRESH_MS, ESTIMATE_FRESH_MS = 3 * PERIOD_MS, 5 * MINUTE_MS
#: Minutes without any liquidation on the venue, in any contract, after which it is unknown whether there were some.
SILENT_MINUTES = 15

_PRICES = ("open", "high", "low", "close")
#: Columns that are read of tables without an interval.
_READ = {"funding_rate", "settles_at", "open_interest", "ratio", "side", "quantity"}


class Heard:
    """In which minutes a venue had a liquidation in any contract; read once a day of market time."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._days: dict[tuple[Venue, int], NDArray[np.bool_]] = {}

    def silence(self, venue: Venue, window: Span) -> NDArray[np.int64]:
        """Minutes since the last one, of each minute of the window's days as it ends; very many where none is known."""
        heard = np.concatenate([self._day(venue, day) for day in range(*window, DAY_MS)])
        minute = np.arange(len(heard))
        last = np.maximum.accumulate(np.where(heard, minute, -len(heard) - SILENT_MINUTES))
        return minute - last

    def _day(self, venue: Venue, day_ms: int) -> NDArray[np.bool_]:
        key = venue, day_ms
        if key not in self._days:
            times = self._lake.read(LIQUIDATIONS, venue, None, day_ms, day_ms + DAY_MS)["timestamp"]
            heard = np.zeros(DAY_MS // MINUTE_MS, dtype=np.bool_)
            heard[(times.to_numpy().astype("datetime64[ms]").astype(np.int64) - day_ms) // MINUTE_MS] = True
            self._days[key] = heard
        return self._days[key]


def extra_tables(stored: Stored, instrument: Instrument) -> list[Table]:
    """Those that make fields of an instrument."""
    return [table for table in EXTRA_FIELDS if stored.has(table, instrument)]


def extra_fields(stored: Stored, instrument: Instrument) -> tuple[str, ...]:
    """The fields that an instrument has beside those of bars and funding."""
    return tuple(name for table in extra_tables(stored, instrument) for name in EXTRA_FIELDS[table])


class ExtraBlock:
    """The rows of instruments of one venue in a window of whole days, and the fields that they make.

    Parameters
    ----------
    lake, stored, heard
        Where they are.
    instruments
        k of them.
    window, targets
        Unix milliseconds, and the frequencies that will be asked for.

    Attributes
    ----------
    tables, used
        Those that the lake has of each instrument, and of any.

    """

    def __init__(
        self,
        lake: Lake,
        stored: Stored,
        heard: Heard,
        instruments: Sequence[Instrument],
        window: Span,
        targets: Sequence[Interval],
    ) -> None:
        self.tables = {of: extra_tables(stored, of) for of in instruments}
        self.used = [table for table in EXTRA_FIELDS if any(table in of for of in self.tables.values())]
        self._window, self._count = window, len(instruments)
        self._candles: dict[Table, Mapping[Interval, Panel]] = {}
        self._rows: dict[Table, Columns] = {}
        for table in self.used:
            if table.by_interval:
                sources = [
                    spread(
                        lake.columns(table, instruments, window, _PRICES, interval=interval),
                        instruments, interval, window,
                    )
                    for interval in stored.intervals(table, instruments)
                ]  # fmt: skip
                self._candles[table] = resample(sources, targets)
            else:
                names = [name for name in table.schema.names if name in _READ]
                self._rows[table] = lake.columns(table, instruments, window, names)
        if LIQUIDATIONS in self.used:
            self._silence = heard.silence(instruments[0].venue, window)

    def fields(self, table: Table, target: Interval, start_ms: int, bars: Panel) -> NDArray[np.float32]:
        """The table's `EXTRA_FIELDS` of each slot of `bars` but the first, shape (n_fields, k, n - 1); NaN is unknown.

        Slot 1 opens at `start_ms`.
        """
        slots = bars.present.shape[1] - 1
        opens = start_ms + np.arange(slots, dtype=np.int64) * target.ms
        if table.by_interval:
            return self._of_candles(table, target, start_ms, bars)
        if table is LIQUIDATIONS:
            return self._of_liquidations(target, start_ms, slots)
        if table is ESTIMATES:
            minutes = (
                self._rows[table].time_ms // MINUTE_MS + 1
            )  # the lake keeps the last of each, known once it is over
            rate, settles_ms = self._as_of(table, minutes * MINUTE_MS, opens, ESTIMATE_FRESH_MS)
            return np.where(settles_ms > opens, rate, np.nan)[None].astype(np.float32)
        known_ms = self._rows[table].time_ms + PUBLISHED_MS
        return self._as_of(table, known_ms, opens + target.ms, FRESH_MS)[:1].astype(np.float32)

    def _of_candles(self, table: Table, target: Interval, start_ms: int, bars: Panel) -> NDArray[np.float32]:
        count, slots = self._count, bars.present.shape[1] - 1
        panel = self._candles[table].get(target)
        if panel is None:
            return np.full((len(EXTRA_FIELDS[table]), count, slots), np.nan, dtype=np.float32)
        first = (start_ms - self._window[0]) // target.ms
        prices = panel.slots(first, first + slots).data
        if table is MARKS:
            return np.stack([prices[name] for name in _PRICES]).astype(np.float32)
        basis = bars.data["close"][:, 1:] / prices["close"] - 1
        return np.stack([prices["close"], basis]).astype(np.float32)

    def _of_liquidations(self, target: Interval, start_ms: int, slots: int) -> NDArray[np.float32]:
        """Quantities by the side that was closed: a sell closes a long; NaN where the venue was silent too long."""
        rows = self._rows[LIQUIDATIONS]
        slot = (rows.time_ms - start_ms) // target.ms
        inside = (slot >= 0) & (slot < slots)
        of = np.repeat(np.arange(self._count), rows.counts)
        quantity, bought = rows.values["quantity"], rows.values["side"] == 1
        out = np.empty((2, self._count, slots))
        for at, side in enumerate((~bought, bought)):
            take = inside & side
            place = of[take] * slots + slot[take]
            total = np.bincount(place, weights=quantity[take], minlength=self._count * slots)
            out[at] = total.reshape(self._count, slots)
        first = (start_ms - self._window[0]) // MINUTE_MS
        per_bar = target.ms // MINUTE_MS
        silence = self._silence[first : first + slots * per_bar].reshape(slots, per_bar).max(axis=1)
        out[:, :, silence > SILENT_MINUTES] = np.nan
        return out.astype(np.float32)

    def _as_of(self, table: Table, known_ms: NDArray[np.int64], at_ms: NDArray[np.int64], fresh_ms: int) -> Floats:
        """The newest row known at each time, shape (n_values, k, n), no older than `fresh_ms` since it was known."""
        rows = self._rows[table]
        values = np.stack([*rows.values.values()])
        out = np.full((len(values), self._count, len(at_ms)), np.nan)
        begin = 0
        for at, end in enumerate(np.cumsum(rows.counts).tolist()):
            newest = np.searchsorted(known_ms[begin:end], at_ms, side="right") - 1
            some = np.flatnonzero(newest >= 0)
            some = some[at_ms[some] - known_ms[begin + newest[some]] < fresh_ms]
            out[:, at, some] = values[:, begin + newest[some]]
            begin = end
        return out
