"""The content check: what no calculation can use leaves the data for the quarantine, what is doubtful gets a flag.

FAIL: a file that is torn, foreign or empty is moved to `{venue}_data/quarantine/`; a row with a fault (`checks`), of
another symbol or of another day than its file is kept in the quarantine table with its reason, and its file is written
again without it; so is a file whose rows are out of order or there twice. Of two rows of one key that say something
else the better one stays (`tables`). WARN: `quality` flags of bars.

A row is in the quarantine before it leaves its file, and files change under the lock of the sealers, so a crash
anywhere costs nothing and the next check goes on. Bulky rows that wait in the hot store were judged when they came.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qlib_crypto import schemas
from qlib_crypto.errors import ConfigError, SchemaError, StorageError
from qlib_crypto.lake import checks
from qlib_crypto.lake.doubts import flag_bars
from qlib_crypto.lake.files import read_table, sync_folder, write_table
from qlib_crypto.lake.ledger import Sealed
from qlib_crypto.lake.paths import RESTATED, Dated, datasets, dated_files, file_names, parse_name
from qlib_crypto.lake.quarantine import Quarantined, quarantined
from qlib_crypto.lake.seal import exclusive
from qlib_crypto.lake.snapshots import SCHEMAS
from qlib_crypto.lake.store import Lake
from qlib_crypto.lake.tables import TABLE_OF, TABLES, Merged, Table, find_table
from qlib_crypto.symbols import Instrument, Interval, Venue

QUARANTINE = "quarantine"
_NOBODY = Instrument("UNKNOWN", "USDT", Venue.OKX)
_KIND_OF = {table: kind for kind, table in TABLE_OF.items()}


@dataclass(slots=True)
class CheckReport:
    """What a check found.

    Attributes
    ----------
    files, rows
        What was looked at.
    bad_files
        Files that were moved to the quarantine, each with its reason.
    bad_rows
        Rows that went to the quarantine, by reason; the first hundred.
    quarantined
        How many rows did; what came more than once counts once.
    rewritten
        Files that were written again: without bad rows, or in order.
    flagged
        Flagged bars by flag: `gap before`, `outlier`, …
    notes
        What is worth knowing and no fault.

    """

    files: int = 0
    rows: int = 0
    bad_files: list[str] = field(default_factory=list)
    bad_rows: list[str] = field(default_factory=list)
    quarantined: int = 0
    rewritten: list[str] = field(default_factory=list)
    flagged: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """True when nothing had to leave the data."""
        return not (self.bad_files or self.quarantined)


def check(lake: Lake, venue: Venue, start_ms: int | None = None, end_ms: int | None = None) -> CheckReport:
    """What was found in the files that touch `[start_ms, end_ms)` and the rows in it; None means everything.

    Raises
    ------
    StorageError
        The disk refused; nothing is lost, run again.

    """
    report, folder = CheckReport(), lake.folder(venue)
    if not folder.is_dir():
        return report
    for dataset in datasets(folder):
        _foreign_names(lake, venue, dataset, report)
        for file in dated_files(folder, dataset, start_ms=start_ms, end_ms=end_ms):
            _check_file(lake, venue, file, report)
    for table in TABLES:
        if not table.bulky:
            _check_waiting(lake, venue, table, report)
    for interval in lake.intervals(venue):
        for instrument in lake.instruments(venue, interval):
            found, notes = flag_bars(lake, instrument, interval, start_ms, end_ms)
            report.flagged.update(found)  # adds
            report.notes += notes
    return report


def _foreign_names(lake: Lake, venue: Venue, dataset: str, report: CheckReport) -> None:
    if find_table(dataset) is None and dataset not in {*SCHEMAS, RESTATED}:
        report.notes.append(f"{lake.folder(venue) / dataset} is no dataset of the lake; its files are not read")
        return
    for path in file_names(lake.folder(venue), dataset):
        try:
            parse_name(path)
        except SchemaError as error:
            with exclusive(lake.folder(venue)):
                _move(lake, venue, path, 0, str(error), report)


def _check_file(lake: Lake, venue: Venue, file: Dated, report: CheckReport) -> None:
    dataset = file.path.parent.name
    schema, of = SCHEMAS.get(dataset), find_table(file.stem if dataset == RESTATED else dataset)
    if schema is None and of is None:
        return
    report.files += 1
    table = _read_good(lake, venue, file, schema or of[0].schema, report)  # type: ignore[index] # one of them is there
    if table is None:
        return
    report.rows += len(table)
    if of is not None and schema is None:
        place = _Place(venue, file, (of[0].restated or of[0]) if dataset == RESTATED else of[0], of[1], _KIND_OF[of[0]])
        if len(place.reasons(table)) or not place.in_order(table):
            with exclusive(lake.folder(venue)):
                _clean(lake, place, report)


def _read_good(lake: Lake, venue: Venue, file: Dated, schema: pa.Schema, report: CheckReport) -> pa.Table | None:
    """The file's rows; None when it was moved to the quarantine, or is gone because it was compacted meanwhile."""
    try:
        table = read_table(file.path, schema)
        reason = f"{file.path} has no row" if not len(table) else ""
    except SchemaError as error:
        table, reason = None, str(error)
    if not reason or not file.path.exists():
        return table
    with exclusive(lake.folder(venue)):
        _move(lake, venue, file.path, file.start_ms, reason, report)
    return None


@dataclass(frozen=True, slots=True)
class _Place:
    """A file of rows, and what its rows must be."""

    venue: Venue
    file: Dated
    table: Table
    interval: Interval | None
    kind: type[schemas.Row]

    def reasons(self, rows: pa.Table) -> dict[int, str]:
        """Why rows must leave, by their place in the file."""
        slots, reasons = self.table.slots(rows), {}
        away = (slots < self.file.start_ms) | (slots >= self.file.end_ms)
        if self.table.by_symbol:
            away |= ~pc.equal(rows.column("symbol"), self.file.stem).to_numpy()
        for at in np.flatnonzero(away | checks.faulty(rows, self.kind, self.interval)).tolist():
            if away[at]:
                reasons[at] = f"it does not belong into {self.file.path.name}"
            else:
                row = checks.row_at(rows, self.kind, self.instrument(rows, at) or _NOBODY, at, self.interval)
                reasons[at] = str(checks.fault(row))
        return reasons

    def line(self, rows: pa.Table, at: int, reason: str) -> Quarantined:
        """The row as a line of the quarantine."""
        of = self.instrument(rows, at)
        row = checks.row_at(rows, self.kind, of or _NOBODY, at, self.interval)
        return quarantined(row, reason, unreadable=None if of else rows.column("symbol")[at].as_py())

    def instrument(self, rows: pa.Table, at: int) -> Instrument | None:
        """The instrument of a row, None when its symbol cannot be read."""
        try:
            return Instrument.parse(rows.column("symbol")[at].as_py(), self.venue)
        except ConfigError:
            return None

    def in_order(self, rows: pa.Table) -> bool:
        """Whether the rows are sorted by symbol and time, each key once."""
        return len(rows) < 2 or self.merged(rows).rows.equals(rows)  # noqa: PLR2004 - one row is in order

    def merged(self, rows: pa.Table) -> Merged:
        """The rows in order, each key once, and those that say something else."""
        return self.table.merge(rows.schema.empty_table(), rows)


def _clean(lake: Lake, place: _Place, report: CheckReport) -> None:
    """Write the file again without its bad rows and in order; called with the right to change files."""
    path, folder = place.file.path, lake.folder(place.venue)
    if not path.exists():
        return
    rows = read_table(path, place.table.schema)
    reasons = place.reasons(rows)
    keep = np.ones(len(rows), dtype=bool)
    keep[list(reasons)] = False
    left, twice, _ = place.merged(rows.filter(pa.array(keep)))
    lines = [place.line(rows, at, reason) for at, reason in reasons.items()]
    lines += [
        place.line(twice, at, f"a better or later row of its time stays in {path.name}") for at in range(len(twice))
    ]
    _told(lake, place.venue, lines, report)
    if not len(left):
        _move(lake, place.venue, path, place.file.start_ms, f"{path} has no good row", report)
        return
    digest, name = write_table(path, left), str(path.relative_to(folder))
    lake.record_seals(place.venue, [Sealed(_now_ms(), name, len(left), len(left) - len(rows), 0, digest)])
    report.rewritten.append(name)


def _check_waiting(lake: Lake, venue: Venue, table: Table, report: CheckReport) -> None:
    """Rows of the hot store: those that an earlier version let in."""
    for interval in lake.intervals(venue, table) if table.by_interval else [None]:
        rows = lake.hot_rows(venue, table, interval.ms if interval else 0)
        report.rows += len(rows)
        kind = _KIND_OF[table]
        bad = np.flatnonzero(checks.faulty(rows, kind, interval)).tolist()
        if not bad:
            continue
        told = []
        for at in bad:
            row = checks.row_at(rows, kind, Instrument.parse(rows.column("symbol")[at].as_py(), venue), at, interval)
            told.append(quarantined(row, str(checks.fault(row))))
        _told(lake, venue, told, report)
        lake.discard_hot(venue, table, rows.take(bad), interval)


def _told(lake: Lake, venue: Venue, lines: Sequence[Quarantined], report: CheckReport) -> None:
    """Keep rows in the quarantine, durable on return."""
    if not lines:
        return
    lake.quarantine(venue, lines)
    distinct = {line.content: line.reason for line in lines}
    report.quarantined += len(distinct)
    report.bad_rows += [*distinct.values()][: 100 - len(report.bad_rows)]


def _move(lake: Lake, venue: Venue, path: Path, time_ms: int, reason: str, report: CheckReport) -> None:
    """Move a whole file to the quarantine; called with the right to change files."""
    folder = lake.folder(venue)
    name = str(path.relative_to(folder))
    line = Quarantined(_now_ms(), path.parent.name, "", time_ms, reason, json.dumps({"file": name}))
    lake.quarantine(venue, [line])
    target = folder / QUARANTINE / path.parent.name
    try:
        target.mkdir(parents=True, exist_ok=True)
        free = (target / f"{path.name}{f'.{n}' if n else ''}" for n in count())
        path.replace(next(place for place in free if not place.exists()))
        sync_folder(target)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot move ({error.strerror}); correct permissions, then check again") from error
    report.bad_files.append(reason)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
