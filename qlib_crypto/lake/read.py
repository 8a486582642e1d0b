"""One reader for sealed and hot rows: files that touch the range, and what the hot store has of it.

The hot store is read first: a row that is sealed meanwhile is then seen twice, and resolved, never missed. Files that
are exchanged for others meanwhile (compaction) are listed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qlib_crypto.errors import SchemaError
from qlib_crypto.lake.files import read_tables
from qlib_crypto.lake.hot import HotStore
from qlib_crypto.lake.paths import RESTATED, Dated, dated_files
from qlib_crypto.lake.tables import Table

_TRIES = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """What is read: rows of one table with slots in `[start_ms, end_ms)`, of one symbol or of all."""

    table: Table
    symbol: str | None
    interval_ms: int
    start_ms: int | None
    end_ms: int | None

    def rows(self, hot: HotStore, folder: Path) -> pa.Table:
        """The rows, sorted by symbol and slot, unique."""
        table = self.table
        arrived = hot.rows(table, self.symbol, self.interval_ms, self.start_ms, self.end_ms)
        sealed, disjoint = self._sealed(folder)
        if arrived or not disjoint:
            return table.merge(sealed, table.arrow(arrived)).rows
        return sealed

    def known(self, hot: HotStore, folder: Path, known_ms: int) -> pa.Table:
        """The rows as they were known at a time; see `Table.known`."""
        table, twin = self.table, self.table.restated
        arrived = table.arrow(hot.rows(table, self.symbol, self.interval_ms, self.start_ms, self.end_ms))
        sealed, _ = self._sealed(folder)
        if twin is None:
            return table.known(table.merge(sealed, arrived).rows, [], known_ms)
        # after the rows themselves: one that is replaced meanwhile is then seen in both places, never in none
        older = twin.arrow(hot.rows(twin, self.symbol, self.interval_ms, self.start_ms, self.end_ms))
        merged = table.merge(sealed, arrived, apart=older)
        return table.known(merged.rows, [self.replaced(folder), older, merged.replaced], known_ms)

    def replaced(self, folder: Path) -> pa.Table:
        """The sealed rows that others replaced, in no order."""
        stem = self.table.dataset(self.interval_ms)
        found, _ = self._read(folder, RESTATED, stem, None, self.symbol)
        return found

    def slots(self, hot: HotStore, folder: Path) -> NDArray[np.int64]:
        """The distinct slots of one symbol, ascending."""
        assert self.symbol is not None  # noqa: S101 - of one symbol; for the type checker
        arrived = hot.slots(self.table, self.symbol, self.interval_ms, self.start_ms, self.end_ms)
        of_all = not self.table.by_symbol
        columns = ["symbol", "timestamp"] if of_all else ["timestamp"]
        sealed, _ = self._read(
            folder, self.table.dataset(self.interval_ms), self.table.stem(self.symbol), columns,
            self.symbol if of_all else None,
        )  # fmt: skip
        return np.unique(np.r_[self.table.slots(sealed), np.array(arrived, dtype=np.int64)])

    def _sealed(self, folder: Path) -> tuple[pa.Table, bool]:
        """Sealed rows, and whether they are sorted and unique as they are."""
        dataset, stem = self.table.dataset(self.interval_ms), self.table.stem(self.symbol)
        found, files = self._read(folder, dataset, stem, None, None if self.table.by_symbol else self.symbol)
        if self.symbol is None:
            return found, len(files) <= 1
        return found, not any(a.end_ms > b.start_ms for a, b in pairwise(files))

    def _read(
        self, folder: Path, dataset: str, stem: str | None, columns: Sequence[str] | None, symbol: str | None
    ) -> tuple[pa.Table, list[Dated]]:
        for tries in range(_TRIES):
            files = listed(folder, dataset, stem, self.start_ms, self.end_ms)
            try:
                table = read_tables([file.path for file in files], self.table.schema, columns)
            except SchemaError:
                if tries + 1 == _TRIES or all(file.path.exists() for file in files):
                    raise
            else:
                return self._cut(table, symbol), files
        raise AssertionError  # pragma: no cover - the last try returns or raises

    def _cut(self, sealed: pa.Table, symbol: str | None) -> pa.Table:
        if len(sealed) == 0 or (symbol is None and self.start_ms is None and self.end_ms is None):
            return sealed
        keep = np.ones(len(sealed), dtype=bool)
        if self.start_ms is not None or self.end_ms is not None:
            slot = self.table.slots(sealed)
            keep &= (slot >= self.start_ms) if self.start_ms is not None else True
            keep &= (slot < self.end_ms) if self.end_ms is not None else True
        if symbol is not None:
            keep &= pc.equal(sealed.column("symbol"), symbol).to_numpy()
        return sealed if keep.all() else sealed.filter(pa.array(keep))


def listed(
    folder: Path, dataset: str, stem: str | None = None, start_ms: int | None = None, end_ms: int | None = None
) -> list[Dated]:
    """`dated_files` of a moment: an exchange of days for their month is seen whole."""
    return unchanging(folder / dataset, lambda: dated_files(folder, dataset, stem, start_ms, end_ms))


def unchanging[T](folder: Path, look: Callable[[], T]) -> T:
    """What `look` sees in a folder, looked at again when names came or went meanwhile."""
    for _ in range(_TRIES - 1):
        before, found = _stamp(folder), look()
        if _stamp(folder) == before:
            return found
    return look()


def _stamp(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
