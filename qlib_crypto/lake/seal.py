"""Seal: hot rows become dated Parquet files.

One sealer works on a venue at a time; storing goes on meanwhile, because the hot store is only locked to remove rows, a
few thousand at a time. The order makes a crash harmless: files of what was replaced, then the merged files, renamed
into place and synced, then exactly the rows that were written leave the hot store, the first of them in the transaction
that writes the ledger. A crash between leaves rows in both, which reads resolve, and the next seal repeats the step to
the same file. A row that was replaced by a better one meanwhile stays for the next seal.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import batched
from pathlib import Path

import polars as pl
import pyarrow as pa

from qlib_crypto.errors import StorageError
from qlib_crypto.lake.confirmed import confirmed
from qlib_crypto.lake.files import content_digest, day_of, read_table, remove_leftovers, write_table
from qlib_crypto.lake.hot import HotStore
from qlib_crypto.lake.ledger import Sealed
from qlib_crypto.lake.paths import RESTATED, period, period_file
from qlib_crypto.lake.tables import BARS, TABLES, Merged, Table
from qlib_crypto.symbols import Instrument

#: Files that are merged before they are written: bounds the memory of a seal of many months' files.
_FILES_AT_ONCE = 100
#: Rows that leave the hot store in one transaction: some milliseconds for other writers to wait.
_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class _Span:
    """What is sealed at once: a table's rows of a day or month, of all symbols or of one."""

    table: Table
    symbol: str | None
    interval_ms: int
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class _File:
    """A file, the hot rows that go into it and those that they replaced, what it held, and what it will hold.

    `left` are the replaced rows that said something else.
    """

    path: Path
    hot: pa.Table
    replaced: pa.Table
    sealed: pa.Table
    merged: Merged
    left: pa.Table


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """The right to change the venue's files: other sealers and compactions, of any process or thread, wait."""
    path = folder / "seal.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise StorageError(
            f"{path}: cannot open ({error.strerror}); check disk space and permissions, then run again"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released with the file, also when the process is killed
        yield


def seal(
    hot: HotStore, folder: Path, *, before_ms: int | None = None, instrument: Instrument | None = None
) -> list[Path]:
    """The files that were written, by name; see `Lake.seal`."""
    if not hot.path.is_file():
        return []
    symbol = instrument.symbol if instrument else None
    with exclusive(folder):
        if symbol is None:
            remove_leftovers(folder)
        spans = (
            span
            for table in ((BARS,) if symbol else TABLES)
            for span in _spans(hot, table, symbol)
            if before_ms is None or span.end_ms <= before_ms
        )
        return sorted(path for span in spans for path in _seal_span(hot, span, folder))


def _spans(hot: HotStore, table: Table, symbol: str | None) -> Iterator[_Span]:
    symbols = [symbol]
    if table.symbol_first:
        symbols = [held.symbol for held in hot.held(table)]
    for interval_ms in hot.intervals(table):
        for of in symbols:
            at = hot.first_slot(table, of, interval_ms, 0)
            while at is not None:
                start, end = period(at, by_month=table.by_month(interval_ms))
                yield _Span(table, of, interval_ms, start, end)
                at = hot.first_slot(table, of, interval_ms, end)


def _seal_span(hot: HotStore, span: _Span, folder: Path) -> Iterator[Path]:
    """The files written; the rows are gone from the hot store."""
    table = span.table
    rows, older = hot.scan(table, span.symbol, span.interval_ms, span.start_ms, span.end_ms)
    empty = table.schema.empty_table()
    older = empty if older is None else older
    parts, past = (_by_symbol(of, table) if table.by_symbol else {"": of} for of in (rows, older))
    for some in batched(parts.items(), _FILES_AT_ONCE):
        files = []
        for symbol, part in some:
            path = _path(folder, span, table.stem(symbol) or "")
            sealed = read_table(path, table.schema) if path.exists() else empty
            replaced = past.get(symbol, empty)
            known, left = confirmed(table, part, replaced, sealed)
            merged = table.merge(sealed, known, apart=left)
            files.append(_File(path, part, replaced, sealed, merged, left))
        _write_replaced(folder, span, files)
        yield from _write(hot, folder, span, files)


def _by_symbol(rows: pa.Table, table: Table) -> dict[str, pa.Table]:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    parts = frame.partition_by("symbol", as_dict=True)
    return {str(symbol): parts[symbol,].to_arrow().cast(table.schema) for (symbol,) in sorted(parts)}


def _path(folder: Path, span: _Span, stem: str) -> Path:
    by_month = span.table.by_month(span.interval_ms)
    return period_file(folder, span.table.dataset(span.interval_ms), stem, span.start_ms, by_month=by_month)


def _write_replaced(folder: Path, span: _Span, files: Sequence[_File]) -> None:
    """Add rows that are replaced to the files of restated rows, before what replaces them is written."""
    twin = span.table.restated
    if twin is None:
        return
    rows = pa.concat_tables([of for file in files for of in (file.merged.replaced, file.left)])
    if not len(rows):
        return
    days = day_of(twin.slots(rows))
    for start in sorted(set(days.tolist())):
        path = period_file(folder, RESTATED, span.table.dataset(span.interval_ms), start, by_month=False)
        sealed = read_table(path, twin.schema) if path.exists() else twin.schema.empty_table()
        merged = twin.without_repeats(twin.merge(sealed, rows.filter(pa.array(days == start))).rows)
        if not merged.equals(sealed):
            write_table(path, merged)


def _write(hot: HotStore, folder: Path, span: _Span, files: Sequence[_File]) -> Iterator[Path]:
    lines = []
    for file in files:
        rows = file.merged.rows
        written = not rows.equals(file.sealed)
        digest = write_table(file.path, rows) if written else content_digest(rows)
        name = str(file.path.relative_to(folder))
        if written or hot.last_digest(name) != digest:  # the second: a crash came between rename and commit
            added = len(rows) - len(file.sealed)
            lines.append(Sealed(_now_ms(), name, len(rows), added, file.merged.changed, digest))
        if written:
            yield file.path
    _remove(hot, span, lines, files)


def _remove(hot: HotStore, span: _Span, lines: Sequence[Sealed], files: Sequence[_File]) -> None:
    """Write the ledger and remove the rows; replaced ones first, so that none stays behind without its successor."""
    replaced, rows = [file.replaced for file in files], [file.hot for file in files]
    for table, found in ((span.table.restated, replaced), (span.table, rows)):
        if table is None:
            continue
        order = ("symbol", "timestamp") if table.symbol_first else ("timestamp", "symbol")
        ordered = pa.concat_tables(found).sort_by([(name, "ascending") for name in order])  # as they lie: few pages
        gone = table.packed(ordered, span.interval_ms)
        for some in batched(gone, _ROWS_AT_ONCE):
            began = time.monotonic()
            with hot.transaction() as connection:
                for line in lines:
                    hot.record(connection, line)
                hot.discard(connection, table, some)
            lines = ()
            time.sleep(time.monotonic() - began)  # as long for the others, who would else find it taken again


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
