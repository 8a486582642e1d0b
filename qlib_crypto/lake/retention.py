"""Retention: bulky captures go after a while; day files become monthly ones that say exactly the same.

A month is built aside, read back and compared with what its days say, then renamed into place. From that moment readers
see the month instead of its days (`paths.dated_files`), so at every instant they see each row once. The days' files are
removed only after every listing that could have missed the month is over. A crash anywhere leaves the days, or the
month and some of its days; the next run goes on from there. A lake's content hash is the same before and after.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from qlib_crypto.clock import DAY_MS, day_start, month_start, next_month
from qlib_crypto.errors import SchemaError, StorageError
from qlib_crypto.lake.files import content_digest, read_table, read_tables, sync_folder, write_table
from qlib_crypto.lake.ledger import Sealed
from qlib_crypto.lake.paths import RESTATED, Dated, all_files, datasets, period_file
from qlib_crypto.lake.seal import exclusive
from qlib_crypto.lake.store import Lake
from qlib_crypto.lake.tables import Table, find_table
from qlib_crypto.settings import RetentionSettings
from qlib_crypto.symbols import Venue

#: Where months are built; its folders have the names of datasets.
_WORK = ".compacting"
#: No listing of a folder takes so long; one that began before the month was in place is over, later ones see it.
_LISTED_S = 2.0

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RetentionSummary:
    """What a run did.

    Attributes
    ----------
    dropped
        Bulky files that are gone.
    compacted
        Monthly files that were written.
    removed
        Day files whose rows their month has.
    problems
        Files that could not be read and stayed as they were; `qlib-crypto check` moves them.

    """

    dropped: list[Path] = field(default_factory=list)
    compacted: list[Path] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Month:
    """Day files of one stem in one month, and the file that takes their place."""

    table: Table
    path: Path
    days: Sequence[Path]


def retain(
    lake: Lake,
    venue: Venue,
    settings: RetentionSettings,
    now_ms: int,
    *,
    say: Say = lambda _: None,
    dry_run: bool = False,
) -> RetentionSummary:
    """What went and what was compacted: bulky day files older than `bulky_days`, whole months of others older than
    `compact_after_days`. Everything that can be read of the latter stays exactly as it is.

    Rows that wait in the hot store are sealed first. Sealers wait while a month is written. With `dry_run` nothing
    changes: what would go and what would be written, as far as it is sealed.

    Raises
    ------
    StorageError
        The disk refused, or gave back something else than was written; no row is lost, run again.

    """
    folder, summary = lake.folder(venue), RetentionSummary()
    if not folder.is_dir():
        return summary
    today = day_start(now_ms)
    drop_ms, compact_ms = (today - days * DAY_MS for days in (settings.bulky_days, settings.compact_after_days))
    if dry_run:
        return _planned(folder, summary, drop_ms, compact_ms)
    lake.seal(venue, before_ms=compact_ms)
    finished: list[_Month] = []
    sealed = {line.file: line.content_hash for line in lake.ledger(venue)}
    with exclusive(folder):
        shutil.rmtree(folder / _WORK, ignore_errors=True)
        for dataset, table, files in _datasets(folder, summary):
            if table.bulky:
                summary.dropped.extend(_remove([file.path for file in files if file.end_ms <= drop_ms]))
                continue
            for month in _months(folder, dataset, table, files, compact_ms):
                try:
                    if _compact(lake, venue, month, sealed):
                        summary.compacted.append(month.path)
                        say(f"{venue}: {len(month.days)} day files became {month.path.name}")
                    finished.append(month)
                except SchemaError as error:
                    summary.problems.append(str(error))
        shutil.rmtree(folder / _WORK, ignore_errors=True)
    if finished:
        time.sleep(_LISTED_S)
    for month in finished:
        summary.removed.extend(_remove(month.days))
    return summary


def _planned(folder: Path, summary: RetentionSummary, drop_ms: int, compact_ms: int) -> RetentionSummary:
    for dataset, table, files in _datasets(folder, summary):
        if table.bulky:
            summary.dropped.extend(file.path for file in files if file.end_ms <= drop_ms)
            continue
        for month in _months(folder, dataset, table, files, compact_ms):
            summary.compacted.append(month.path)
            summary.removed.extend(month.days)
    return summary


def _datasets(folder: Path, summary: RetentionSummary) -> Iterator[tuple[str, Table, list[Dated]]]:
    """Every dataset that is kept by day, its table and its day files; restated rows apart by what they are of."""
    for dataset in datasets(folder):
        try:
            files = [file for file in all_files(folder, dataset) if file.end_ms - file.start_ms == DAY_MS]
        except SchemaError as error:
            summary.problems.append(str(error))
            continue
        stems = {file.stem for file in files} if dataset == RESTATED else {dataset}
        for name in sorted(stems):
            found = find_table(name)
            if found is None or found[0].by_month(found[1].ms if found[1] else 0):
                continue
            table = found[0].restated if dataset == RESTATED else found[0]
            if table is not None:
                yield dataset, table, [file for file in files if dataset != RESTATED or file.stem == name]


def _months(folder: Path, dataset: str, table: Table, files: Sequence[Dated], before_ms: int) -> Iterator[_Month]:
    groups: dict[tuple[str, int], list[Path]] = {}
    for file in sorted(files, key=lambda file: (file.stem, file.start_ms)):
        start = month_start(file.start_ms)
        if next_month(start) <= before_ms:
            groups.setdefault((file.stem, start), []).append(file.path)
    for (stem, start), days in groups.items():
        yield _Month(table, period_file(folder, dataset, stem, start, by_month=True), days)


def _compact(lake: Lake, venue: Venue, month: _Month, sealed: Mapping[str, str]) -> bool:
    """Put the month's file in place, True when it was written; it has every row of the days on return."""
    table, folder = month.table, lake.folder(venue)
    held = read_table(month.path, table.schema) if month.path.exists() else table.schema.empty_table()
    rows = table.merge(read_tables(month.days, table.schema), held).rows
    written = not rows.equals(held)
    if written:
        _place(folder, month.path, rows)
    name, digest = str(month.path.relative_to(folder)), content_digest(rows)
    if sealed.get(name) != digest:  # also when a crash came between rename and ledger
        lake.record_seals(venue, [Sealed(time.time_ns() // 1_000_000, name, len(rows), 0, 0, digest)])
    return written


def _place(folder: Path, path: Path, rows: pa.Table) -> None:
    """Write the file aside, compare it with what it must say, then rename it into place."""
    aside = folder / _WORK / path.parent.name / path.name
    write_table(aside, rows)
    if not read_table(aside, rows.schema).equals(rows):
        raise StorageError(f"{aside} reads back other than it was written; the day files stay; check the disk")
    try:
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot write ({error.strerror}); the day files stay; run again") from error


def _remove(files: Sequence[Path]) -> Sequence[Path]:
    try:
        for file in files:
            file.unlink(missing_ok=True)
        for parent in {file.parent for file in files}:
            sync_folder(parent)
    except OSError as error:
        raise StorageError(
            f"{error.filename}: cannot remove ({error.strerror}); correct permissions, run again"
        ) from error
    return files
