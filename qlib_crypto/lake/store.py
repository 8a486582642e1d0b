"""The lake: one truth for market data, sealed Parquet and hot rows read through one path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qlib_crypto import schemas
from qlib_crypto.lake import checks, snapshots
from qlib_crypto.lake.files import read_tables, recorded_digest
from qlib_crypto.lake.hot import HotStore, Sealed
from qlib_crypto.lake.paths import (
    ESTIMATE,
    FUNDING,
    INSTRUMENTS,
    KLINE,
    UNIVERSE,
    Dated,
    dataset_interval,
    datasets,
    dated_files,
    kline_dataset,
    venue_folder,
)
from qlib_crypto.lake.seal import seal
from qlib_crypto.lake.tables import BARS, ESTIMATES, SETTLEMENTS, TABLE_OF, TABLES, VALUES, Table, Values
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import Row
from qlib_crypto.symbols import Instrument, Interval, Venue


class Lake:
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

    def folder(self, venue: Venue) -> Path:
        """The venue's folder."""
        return venue_folder(self.root, venue)

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
        checks.refuse_faults(rows)
        found: dict[tuple[Venue, type[Row]], list[Values]] = {}
        for row in rows:
            found.setdefault((row.instrument.venue, type(row)), []).append(VALUES[type(row)](row))
        return sum(self._hot[venue].put(TABLE_OF[kind], values) for (venue, kind), values in found.items())

    def store_marks(self, marks: Mapping[Instrument, int], interval: Interval) -> None:
        """Keep, durable on return, how far each instrument is complete.

        Every bar that opens before its mark, and every settlement before it, is stored or the venue does not have it.
        A collector goes on from there, whatever came later by stream.
        """
        for venue in {instrument.venue for instrument in marks}:
            rows = [(i.symbol, interval.ms, mark) for i, mark in marks.items() if i.venue is venue]
            self._hot[venue].put_marks(rows)

    def mark(self, instrument: Instrument, interval: Interval) -> int | None:
        """The mark that `store_marks` kept last, None when no collector followed the instrument."""
        return self._hot[instrument.venue].mark(instrument.symbol, interval.ms)

    def store_specs(self, venue: Venue, specs: Sequence[InstrumentSpec]) -> Path:
        """The snapshot file that says these specs: a new one, or the newest when nothing but the time changed."""
        return snapshots.store_specs(self.folder(venue), specs)

    def store_membership(self, venue: Venue, table: pa.Table, at_ms: int) -> Path:
        """The new file of one ranking (schema MEMBERSHIP), named by its time."""
        return snapshots.store_membership(self.folder(venue), table, at_ms)

    def seal(self, venue: Venue, *, before_ms: int | None = None, instrument: Instrument | None = None) -> list[Path]:
        """The files written from hot rows; a file that already says the same is left alone.

        With `before_ms` only days and months that end by then; None seals unfinished periods too, and a later seal
        merges. With an instrument only its bars; otherwise all bars, settlements and estimates. Bulky hot stores
        stay readable and writable meanwhile.

        Raises
        ------
        SchemaError
            A file that rows belong into is torn or foreign; its rows stay in the hot store.
        StorageError
            The disk refused; every row is in a file, in the hot store, or in both.

        """
        return seal(self._hot[venue], self.folder(venue), venue, before_ms=before_ms, instrument=instrument)

    # -------------------------------------------------------------------------------------------------------- read

    def bars(
        self, instrument: Instrument, interval: Interval, start_ms: int | None = None, end_ms: int | None = None
    ) -> pa.Table:
        """Bars with opens in `[start_ms, end_ms)`: schema KLINE, ascending, unique; empty when there are none.

        Only files that touch the range are opened.

        Raises
        ------
        SchemaError
            A file is torn or foreign; the message names it.

        """
        return self._read(instrument.venue, BARS, kline_dataset(interval), instrument, interval, start_ms, end_ms)

    def bar_times(
        self, instrument: Instrument, interval: Interval, start_ms: int | None = None, end_ms: int | None = None
    ) -> NDArray[np.int64]:
        """Open times of `bars`, Unix milliseconds, ascending."""
        times = self.bars(instrument, interval, start_ms, end_ms).column("timestamp")
        return np.asarray(times.cast(pa.int64()).to_numpy(), dtype=np.int64)

    def last_open(self, instrument: Instrument, interval: Interval) -> int | None:
        """Open time of the newest bar, None when there is none; reads one file."""
        hot = self._hot[instrument.venue].last_slot(BARS, instrument.symbol, interval.ms)
        files = dated_files(self.folder(instrument.venue), kline_dataset(interval), instrument.symbol)
        sealed = BARS.slots(read_tables([files[-1].path], schemas.KLINE)).tolist() if files else []
        return max([*sealed[-1:], *([] if hot is None else [hot])], default=None)

    def settlements(
        self,
        venue: Venue,
        instrument: Instrument | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> pa.Table:
        """Settled funding whose minute lies in `[start_ms, end_ms)`: schema FUNDING, sorted by symbol and time."""
        return self._read(venue, SETTLEMENTS, FUNDING, instrument, None, start_ms, end_ms)

    def estimates(
        self,
        venue: Venue,
        instrument: Instrument | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> pa.Table:
        """Running funding seen in `[start_ms, end_ms)`, the last of each minute: schema FUNDING_ESTIMATE, sorted."""
        return self._read(venue, ESTIMATES, ESTIMATE, instrument, None, start_ms, end_ms)

    def memberships(self, venue: Venue) -> pa.Table:
        """Every ranking, oldest first: schema MEMBERSHIP."""
        files = dated_files(self.folder(venue), UNIVERSE)
        return read_tables([file.path for file in files], schemas.MEMBERSHIP)

    def instruments(self, venue: Venue, interval: Interval | None = None) -> list[Instrument]:
        """Instruments that have bars, of one interval or of any, sorted."""
        intervals = self.intervals(venue) if interval is None else [interval]
        folder = self.folder(venue)
        symbols = {file.stem for i in intervals for file in dated_files(folder, kline_dataset(i))}
        symbols |= {h.symbol for h in self._hot[venue].held(BARS) if interval is None or h.interval_ms == interval.ms}
        return sorted(Instrument.parse(symbol, venue) for symbol in symbols)

    def intervals(self, venue: Venue) -> list[Interval]:
        """Intervals that have bars, finest first."""
        sealed = {dataset_interval(name) for name in datasets(self.folder(venue)) if name.startswith(KLINE)} - {None}
        return sorted(i for i in sealed | {Interval.of_ms(h.interval_ms) for h in self._hot[venue].held(BARS)} if i)

    def specs(self, venue: Venue, at_ms: int | None = None) -> dict[Instrument, InstrumentSpec]:
        """The specs last seen of every instrument ever seen; with `at_ms` as they were known then."""
        return snapshots.specs(self.folder(venue), venue, at_ms)

    def hot_rows(self, venue: Venue, table: Table, interval_ms: int = 0) -> pa.Table:
        """Rows not yet sealed, in the table's Parquet schema, sorted by symbol and time."""
        return table.arrow(self._hot[venue].rows(table, None, interval_ms))

    def ledger(self, venue: Venue) -> list[Sealed]:
        """Every seal, oldest first: file, rows, how many were new or replaced, content hash."""
        return self._hot[venue].ledger()

    def content_hash(self) -> str:
        """SHA-256 of all file names and content hashes, and of the hot rows: a run's data identity.

        Sources and times of receipt do not count: the same data collected twice has the same hash once sealed.
        """
        digest = hashlib.sha256()
        of = {FUNDING: schemas.FUNDING, ESTIMATE: schemas.FUNDING_ESTIMATE,
              INSTRUMENTS: schemas.INSTRUMENTS, UNIVERSE: schemas.MEMBERSHIP}  # fmt: skip
        for venue in Venue:
            folder = self.folder(venue)
            for name in datasets(folder):
                schema = schemas.KLINE if dataset_interval(name) else of.get(name)
                for file in dated_files(folder, name) if schema is not None else []:
                    digest.update(f"{file.path.relative_to(self.root)} {recorded_digest(file.path, schema)}\n".encode())
            for table in TABLES:
                for held in self._hot[venue].held(table):
                    rows = self._hot[venue].rows(table, held.symbol, held.interval_ms)
                    values = "".join(repr(row[2:-1]) for row in rows)
                    digest.update(f"{table.name} {held.symbol} {held.interval_ms} {values}\n".encode())
        return digest.hexdigest()

    def _read(
        self,
        venue: Venue,
        table: Table,
        dataset: str,
        instrument: Instrument | None,
        interval: Interval | None,
        start_ms: int | None,
        end_ms: int | None,
    ) -> pa.Table:
        # hot first: rows that are sealed meanwhile are then seen twice, and resolved, never missed
        symbol = instrument.symbol if instrument else None
        hot = self._hot[venue].rows(table, symbol, interval.ms if interval else 0, start_ms, end_ms)
        stem = symbol if table is BARS else None
        files = dated_files(self.folder(venue), dataset, stem, start_ms, end_ms)
        sealed = _cut(read_tables([file.path for file in files], table.schema), table, symbol, start_ms, end_ms)
        if hot or _overlap(files) or (table is not BARS and len(files) > 1):
            return table.merge(sealed, table.arrow(hot))
        return sealed


def _overlap(files: Sequence[Dated]) -> bool:
    return any(a.end_ms > b.start_ms for a, b in pairwise(files))


def _cut(sealed: pa.Table, table: Table, symbol: str | None, start_ms: int | None, end_ms: int | None) -> pa.Table:
    """The rows of one symbol with slots in `[start_ms, end_ms)`."""
    if len(sealed) == 0 or (symbol is None and start_ms is None and end_ms is None):
        return sealed
    keep = np.ones(len(sealed), dtype=bool)
    if start_ms is not None or end_ms is not None:
        slot = table.slots(sealed)
        keep &= (slot >= start_ms) if start_ms is not None else True
        keep &= (slot < end_ms) if end_ms is not None else True
    if symbol is not None and table is not BARS:
        keep &= pc.equal(sealed.column("symbol"), symbol).to_numpy()
    return sealed if keep.all() else sealed.filter(pa.array(keep))
