"""The lake: one truth for market data, sealed Parquet and hot rows read through one path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto import schemas
from qlib_crypto.errors import ConfigError
from qlib_crypto.lake import checks, quality
from qlib_crypto.lake.columns import Columns, read_columns
from qlib_crypto.lake.files import read_tables
from qlib_crypto.lake.hot import HotStore
from qlib_crypto.lake.ledger import Repair, Sealed, put_flags, put_repairs
from qlib_crypto.lake.paths import datasets, kline_dataset
from qlib_crypto.lake.quarantine import Quarantined, put_quarantined, quarantined
from qlib_crypto.lake.read import Asked, listed
from qlib_crypto.lake.rows import batches
from qlib_crypto.lake.seal import seal
from qlib_crypto.lake.stated import Stated
from qlib_crypto.lake.tables import BARS, ESTIMATES, SETTLEMENTS, Table, find_table
from qlib_crypto.schemas import Bar, Row
from qlib_crypto.symbols import Instrument, Interval, Venue


class Admitted(NamedTuple):
    """How many rows are new or replaced another, and why each of the refused ones was refused."""

    stored: int
    refused: list[str]


class Lake(Stated):
    """The market data under one folder, of both venues.

    Rows that were stored are durable at once and readable at once, sealed or not. Where two sources gave the same bar
    or settlement the better one is kept (`schemas.SOURCES`), of equals the later. Several processes may write.

    Parameters
    ----------
    root
        The folder that holds `okx_data/` and `binance_data/`; both appear with their first row.

    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._hot = {venue: HotStore(self.folder(venue) / "hot.sqlite") for venue in Venue}

    def __reduce__(self) -> tuple[type[Lake], tuple[Path]]:
        return Lake, (self.root,)

    def close(self) -> None:
        """Close the hot stores; the next call opens them again."""
        for hot in self._hot.values():
            hot.close()

    # ------------------------------------------------------------------------------------------------------- store

    def store(self, rows: Iterable[Row]) -> int:
        """The count of new or replaced rows; all are durable on return. One call may hold rows of any kinds.

        Raises
        ------
        DataError
            A row cannot be right (`UnconfirmedBarError`: a bar was still open); none of this call is stored.
        StorageError
            The disk refused; what earlier calls stored is kept.

        """
        rows = list(rows)
        error = checks.first_fault(rows)
        if error is not None:
            raise error
        return sum(self._hot[venue].put(values) for venue, values in batches(rows).items())

    def admit(self, rows: Iterable[Row], repairs: Sequence[Repair] = ()) -> Admitted:
        """Store what may be stored, keep the rest in quarantine with the reason; all durable on return.

        Bars that are doubtful by themselves are flagged (`quality.row_flags`), and `repairs` go into the ledger, what
        the rows repair. One transaction a venue.

        Raises
        ------
        StorageError
            The disk refused; what earlier calls stored is kept.

        """
        rows = list(rows)
        suspects = rows if checks.first_fault(rows) is not None else []
        faults = {at: str(error) for at, row in enumerate(suspects) if (error := checks.fault(row)) is not None}
        good = [row for at, row in enumerate(rows) if at not in faults] if faults else rows
        refused: dict[Venue, list[Quarantined]] = {}
        for at, reason in faults.items():
            refused.setdefault(rows[at].instrument.venue, []).append(quarantined(rows[at], reason))
        flags = [(row, mask) for row in good if isinstance(row, Bar) and (mask := quality.row_flags(row))]
        values, stored = batches(good), 0
        for venue in sorted({*values, *refused, *(line.instrument.venue for line in repairs)}):
            with self._hot[venue].transaction() as connection:
                stored += self._hot[venue].put_in(connection, values.get(venue, {}))
                put_quarantined(connection, refused.get(venue, ()))
                put_repairs(connection, [line for line in repairs if line.instrument.venue is venue])
                of_venue = ((bar, mask) for bar, mask in flags if bar.instrument.venue is venue)
                put_flags(connection, [(b.instrument.symbol, b.interval.ms, int(b.open_ms), m) for b, m in of_venue])
        return Admitted(stored, list(faults.values()))

    def seal(self, venue: Venue, *, before_ms: int | None = None, instrument: Instrument | None = None) -> list[Path]:
        """The files written from hot rows; a file that already says the same is left alone.

        With `before_ms` only days and months that end by then; None seals unfinished periods too, and a later seal
        merges. With an instrument only its bars; otherwise all rows of every kind. The hot store stays readable and
        writable meanwhile; another seal waits.

        Raises
        ------
        SchemaError
            A file that rows belong into is torn or foreign; its rows stay in the hot store.
        StorageError
            The disk refused; every row is in a file, in the hot store, or in both.

        """
        return seal(self._hot[venue], self.folder(venue), before_ms=before_ms, instrument=instrument)

    # -------------------------------------------------------------------------------------------------------- read

    def read(
        self,
        table: Table,
        venue: Venue,
        instrument: Instrument | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        *,
        interval: Interval | None = None,
        known_ms: int | None = None,
    ) -> pa.Table:
        """Rows with slots in `[start_ms, end_ms)`: the table's schema, sorted by symbol and time, unique by key.

        Only files that touch the range are opened.

        Parameters
        ----------
        table, venue, instrument
            One of `lake.tables`, of one instrument or of all.
        start_ms, end_ms
            None for all there is. A slot is a bar's open, the minute of a settlement or estimate, else the time.
        interval
            Needed for bars, mark and index bars, and for nothing else.
        known_ms
            The rows as they were known then: of each key the best (source, then latest received) of those received
            by then. What replaced a row later, or arrived later, does not count. For kinds that have no source, what
            another row of their minute replaced is not kept.

        Raises
        ------
        SchemaError
            A file is torn or foreign; the message names it.
        ConfigError
            The interval is missing.

        """
        asked = _asked(table, instrument, start_ms, end_ms, interval)
        if known_ms is None:
            return asked.rows(self._hot[venue], self.folder(venue))
        return asked.known(self._hot[venue], self.folder(venue), known_ms)

    def times(
        self,
        table: Table,
        instrument: Instrument,
        start_ms: int | None = None,
        end_ms: int | None = None,
        *,
        interval: Interval | None = None,
    ) -> NDArray[np.int64]:
        """Distinct slots of `read`, Unix milliseconds, ascending; reads no other column."""
        asked = _asked(table, instrument, start_ms, end_ms, interval)
        return asked.slots(self._hot[instrument.venue], self.folder(instrument.venue))

    def bars(
        self, instrument: Instrument, interval: Interval, start_ms: int | None = None, end_ms: int | None = None
    ) -> pa.Table:
        """Bars with opens in `[start_ms, end_ms)`: schema KLINE, ascending, unique; empty when there are none."""
        return self.read(BARS, instrument.venue, instrument, start_ms, end_ms, interval=interval)

    def columns(
        self,
        table: Table,
        instruments: Sequence[Instrument],
        window: tuple[int, int],
        names: Sequence[str],
        *,
        interval: Interval | None = None,
    ) -> Columns:
        """Columns of the rows of several instruments of one venue in `[start_ms, end_ms)` as floats, read at once.

        What `read` gives for each, of any table but settlements. A time becomes Unix milliseconds, `side` 1 where it
        is `buy`. Raises as `read` does.
        """
        venue = instruments[0].venue
        interval_ms = interval.ms if interval else 0
        return read_columns(self._hot[venue], self.folder(venue), table, instruments, interval_ms, window, names)

    def bar_times(
        self, instrument: Instrument, interval: Interval, start_ms: int | None = None, end_ms: int | None = None
    ) -> NDArray[np.int64]:
        """Open times of `bars`, Unix milliseconds, ascending."""
        return self.times(BARS, instrument, start_ms, end_ms, interval=interval)

    def last_open(self, instrument: Instrument, interval: Interval) -> int | None:
        """Open time of the newest bar, None when there is none; reads one file."""
        hot = self._hot[instrument.venue].slots(BARS, instrument.symbol, interval.ms, None, None)
        files = listed(self.folder(instrument.venue), kline_dataset(interval), instrument.symbol)
        sealed = BARS.slots(read_tables([files[-1].path], schemas.KLINE, ["timestamp"])).tolist() if files else []
        return max([*sealed[-1:], *hot[-1:]], default=None)

    def settlements(
        self,
        venue: Venue,
        instrument: Instrument | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> pa.Table:
        """Settled funding whose minute lies in `[start_ms, end_ms)`: schema FUNDING, sorted by symbol and time."""
        return self.read(SETTLEMENTS, venue, instrument, start_ms, end_ms)

    def estimates(
        self,
        venue: Venue,
        instrument: Instrument | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> pa.Table:
        """Running funding seen in `[start_ms, end_ms)`, the last of each minute: schema FUNDING_ESTIMATE, sorted."""
        return self.read(ESTIMATES, venue, instrument, start_ms, end_ms)

    def instruments(self, venue: Venue, interval: Interval | None = None) -> list[Instrument]:
        """Instruments that have bars, of one interval or of any, sorted."""
        intervals = self.intervals(venue) if interval is None else [interval]
        folder = self.folder(venue)
        symbols = {file.stem for i in intervals for file in listed(folder, kline_dataset(i))}
        symbols |= {h.symbol for h in self._hot[venue].held(BARS) if interval is None or h.interval_ms == interval.ms}
        return sorted(Instrument.parse(symbol, venue) for symbol in symbols)

    def intervals(self, venue: Venue, table: Table = BARS) -> list[Interval]:
        """Intervals that have bars (or mark or index bars), finest first."""
        found = {Interval.of_ms(ms) for ms in self._hot[venue].intervals(table)}
        for name in datasets(self.folder(venue)):
            of, interval = find_table(name) or (None, None)
            found |= {interval} if of is table and interval else set()
        return sorted(found)

    def hot_rows(self, venue: Venue, table: Table, interval_ms: int = 0) -> pa.Table:
        """Rows not yet sealed, in the table's Parquet schema, sorted by symbol and time."""
        return table.arrow(self._hot[venue].rows(table, None, interval_ms))

    def discard_hot(self, venue: Venue, table: Table, rows: pa.Table, interval: Interval | None = None) -> None:
        """Remove exactly these rows from those not yet sealed, durable on return; `quarantine` keeps them first."""
        with self._hot[venue].transaction() as connection:
            self._hot[venue].discard(connection, table, list(table.packed(rows, interval.ms if interval else 0)))

    def ledger(self, venue: Venue) -> list[Sealed]:
        """Every seal, oldest first: file, rows, how many were new or replaced, content hash."""
        return self._hot[venue].ledger()


def _asked(
    table: Table, instrument: Instrument | None, start_ms: int | None, end_ms: int | None, interval: Interval | None
) -> Asked:
    if table.by_interval != (interval is not None):
        raise ConfigError(f"{table.folder.rstrip('_')} rows {'need an' if table.by_interval else 'have no'} interval")
    symbol = instrument.symbol if instrument else None
    return Asked(table, symbol, interval.ms if interval else 0, start_ms, end_ms)
