"""The identity of a lake: what a run was made from, in one hash; and which files changed since somebody looked.

The hash is the sum of the hashes of what each file says, so that it costs what changed: a file of known size, time of
change and inode is not opened. Files are never edited in place (`files.write_bytes`), so one that changed has others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa

from qlib_crypto.errors import ConfigError
from qlib_crypto.lake.files import damage, recorded_days
from qlib_crypto.lake.hot import HotStore
from qlib_crypto.lake.paths import datasets, file_names, month_of_days, venue_folder
from qlib_crypto.lake.read import unchanging
from qlib_crypto.lake.snapshots import SCHEMAS
from qlib_crypto.lake.tables import TABLES, find_table
from qlib_crypto.symbols import Venue

_SUM = 1 << 256
_SUFFIX = ".parquet"
#: Letters of a name from its month on, after its month, and of a day's name after its month: `_YYYYMM[DD].parquet`.
_STAMP, _MONTH, _DAY = len(f"YYYYMM{_SUFFIX}"), len(_SUFFIX), len(f"DD{_SUFFIX}")


#: A file as it was seen, a line: size, time of change (ns) and inode, then the hash of what it says, 64 hexadecimal
#: digits. A text, as a lake has many and a provider keeps them all.
FileMark = str
#: Marks by the file's name in its folder, by the folder's name below the lake (`okx_data/kline_1m`).
Marks = Mapping[str, Mapping[str, FileMark]]
_HASH = 64


def marks(root: Path, known: Marks) -> dict[str, dict[str, FileMark]]:
    """Every file that counts (no bulky capture, no replaced row), opened only where it is not as it was known."""
    found = {}
    for venue in Venue:
        folder = venue_folder(root, venue)
        for dataset in datasets(folder):
            if (schema := _schema(dataset)) is not None:
                within = f"{folder.name}/{dataset}"
                look = partial(_marked, folder / dataset, schema, known.get(within, {}))
                found[within] = unchanging(folder / dataset, look)
    return found


def _marked(folder: Path, schema: pa.Schema, known: Mapping[str, FileMark]) -> dict[str, FileMark]:
    found: dict[str, FileMark] = {}
    news = []
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(handle) as entries:  # by the open folder: no path is walked for each file
            for entry in entries:
                name = entry.name
                try:
                    stat = entry.stat()
                except FileNotFoundError:  # exchanged just now: the folder is looked at again
                    continue
                seen = _seen(stat)
                mark = known.get(name, "")
                if mark[: len(seen)] != seen:
                    if name[0] == "." or not name.endswith(_SUFFIX):
                        continue
                    mark = seen
                    news.append(name)
                found[name] = mark
    finally:
        os.close(handle)
    stamp = -_STAMP - 1
    months = {name[:-_MONTH] for name in found if name[stamp:-_STAMP] == "_" and name[-_STAMP:-_MONTH].isdigit()}
    if months:
        found = {name: mark for name, mark in found.items() if name[:-_DAY] not in months}  # its month has it
    for name in news:
        if name in found:
            found[name] += _content(folder / name, schema)
    return found


def _seen(stat: os.stat_result) -> str:
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino} "


def remarked(root: Path, known: Marks, changed: Iterable[Path]) -> dict[str, dict[str, FileMark]]:
    """`marks`, when only these files came, went or were exchanged.

    Raises
    ------
    ConfigError
        One is not in the lake.

    """
    found = {within: dict(of) for within, of in known.items()}
    own = Path(os.path.abspath(root))  # noqa: PTH100 - without following links, as the lake itself does
    for path in changed:
        full = Path(os.path.abspath(path))  # noqa: PTH100 - likewise
        within = "/".join(full.parts[-3:-1])
        if own / within != full.parent:
            raise ConfigError(f"{path} is no file of the lake {root}; name the files that it wrote or removed")
        schema = _schema(full.parent.name)
        if schema is None or not full.name.endswith(_SUFFIX):
            continue
        of_folder = found.setdefault(within, {})
        of_folder.pop(full.name, None)
        try:
            stat = full.stat()
        except FileNotFoundError:
            continue
        if f"{full.name[:-_DAY]}{_SUFFIX}" in of_folder:  # its month has it
            continue
        of_folder[full.name] = _seen(stat) + _content(full, schema)
        if month_of_days(full):  # it has its days
            for day in range(1, 32):
                of_folder.pop(f"{full.name[:-_MONTH]}{day:02d}{_SUFFIX}", None)
    return found


def damaged(root: Path, most: int | None) -> Iterator[str]:
    """What is wrong with the files that count, one line each: of all, or of so many, spread evenly over them."""
    asked = [
        (path, schema)
        for folder in (venue_folder(root, venue) for venue in Venue)
        for dataset in datasets(folder)
        if (schema := _schema(dataset)) is not None
        for path in sorted(file_names(folder, dataset))
    ]
    for path, schema in asked[:: 1 if most is None else max(len(asked) // most, 1)]:
        if (problem := damage(path, schema)) is not None:
            yield problem


def _content(path: Path, schema: pa.Schema) -> str:
    """What the file says, days as days also once they are a month."""
    within = "/".join(path.parts[-3:-1])
    total = sum(_hash(f"{within}/{day} {of_day}") for day, of_day in recorded_days(path, schema).items())
    return f"{total % _SUM:0{_HASH}x}"


def content_hash(hot: Mapping[Venue, HotStore], files: Marks) -> str:
    """See `Lake.content_hash`."""
    total = _total(files)
    total += sum(_hash(f"{venue} {line}") for venue, store in hot.items() for line in _arrived(store))
    return f"{total % _SUM:064x}"


def _total(files: Marks) -> int:
    """The sum of what all files say: eight columns of 32 bits, so that none of them overflows."""
    contents = bytes.fromhex("".join(mark[-_HASH:] for of in files.values() for mark in of.values()))
    words = np.frombuffer(contents, dtype=">u4").reshape(-1, 8)
    total = 0
    for column in words.sum(axis=0, dtype=np.uint64).tolist():
        total = (total << 32) + column
    return total


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest())


def _arrived(store: HotStore) -> Iterator[str]:
    for table in (table for table in TABLES if not table.bulky):
        for interval_ms in store.intervals(table):
            rows: Iterable[tuple[object, ...]] = store.rows(table, None, interval_ms)
            for symbol, of_symbol in groupby(rows, itemgetter(0)):
                values = "".join(repr(row[2:-1]) for row in of_symbol)
                yield f"{table.name} {symbol} {interval_ms} {values}"


def _schema(dataset: str) -> pa.Schema | None:
    """The schema of a folder whose files are part of the identity."""
    found = find_table(dataset)
    if found is None:
        return SCHEMAS.get(dataset)
    return None if found[0].bulky else found[0].schema
