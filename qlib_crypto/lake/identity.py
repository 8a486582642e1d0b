"""The identity of a lake: what a run was made from, in one hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyarrow as pa

from qlib_crypto import schemas
from qlib_crypto.lake.files import recorded_days
from qlib_crypto.lake.hot import HotStore
from qlib_crypto.lake.paths import INSTRUMENTS, UNIVERSE, datasets, venue_folder
from qlib_crypto.lake.read import listed
from qlib_crypto.lake.tables import TABLES, find_table
from qlib_crypto.symbols import Venue


def content_hash(root: Path, hot: Mapping[Venue, HotStore]) -> str:
    """See `Lake.content_hash`. Days count as days, also once they are a month.

    Replaced rows do not count, nor do bulky captures: those are dropped after a while and no provider has any.
    """
    digest = hashlib.sha256()
    for venue, store in hot.items():
        for line in (*sorted(_sealed(root, venue)), *_arrived(store)):
            digest.update(line.encode())
    return digest.hexdigest()


def _sealed(root: Path, venue: Venue) -> Iterable[str]:
    folder = venue_folder(root, venue)
    for name in datasets(folder):
        schema = _schema(name)
        for file in listed(folder, name) if schema is not None else []:
            within = file.path.parent.relative_to(root)
            for day, of_day in recorded_days(file.path, schema).items():
                yield f"{within}/{day} {of_day}\n"


def _arrived(store: HotStore) -> Iterable[str]:
    for table in (table for table in TABLES if not table.bulky):
        for interval_ms in store.intervals(table):
            rows = store.rows(table, None, interval_ms)
            for symbol, of_symbol in groupby(rows, itemgetter(0)):
                values = "".join(repr(row[2:-1]) for row in of_symbol)
                yield f"{table.name} {symbol} {interval_ms} {values}\n"


def _schema(dataset: str) -> pa.Schema | None:
    """The schema of a folder whose files are part of the identity."""
    snapshot = {INSTRUMENTS: schemas.INSTRUMENTS, UNIVERSE: schemas.MEMBERSHIP}
    found = find_table(dataset)
    if found is None:
        return snapshot.get(dataset)
    return None if found[0].bulky else found[0].schema
