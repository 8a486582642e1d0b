"""A lake at an fsspec address (`s3://bucket/path`, `gs://…`, `file://…`): sealed files pulled from there, or pushed.

Only whole sealed files travel, under their names. Every object appears whole or not at all, a month's file is there
before its days go, on both sides: whoever reads meanwhile, and whoever is killed, has a good lake. What was seen of
each file is kept in a journal beside the lake, so that only what changed is asked for again.

A push replaces only what this lake put there, known by the journal, by the bytes, or by the MD5 noted before they went.
It removes only such days whose month is there. A pull removes what two listings, one after the other, do not have: the
first may have looked for the month too early and for its days too late.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qlib_crypto.clock import DAY_MS, utc
from qlib_crypto.errors import ConfigError, DataError, StorageError, counted
from qlib_crypto.lake.address import Store, is_dataset, is_sealed, shown, told
from qlib_crypto.lake.files import sync_folder
from qlib_crypto.lake.journal import Journal, desk
from qlib_crypto.lake.paths import datasets, file_names, month_of_days, parse_name, venue_folder
from qlib_crypto.symbols import Venue

Say = Callable[[str], None]

#: Files, and bytes, that travel at once.
_FILES_AT_ONCE, _BYTES_AT_ONCE = 64, 128 << 20
_TRIES = 10
#: What a folder for files on their way is called.
_ASIDE = "new."


class Pulled(NamedTuple):
    """How many files the lake has now, how many came, how many went."""

    files: int
    fetched: int
    removed: int


class Pushed(NamedTuple):
    """How many sealed files the lake has, how many were sent, how many days went because their month is there."""

    files: int
    sent: int
    removed: int


def pull(address: str, folder: Path, *, progress: Say = lambda _: None) -> Pulled:
    """Make `folder` the lake at the address, as far as it is sealed; files that did not change are left alone.

    Raises
    ------
    ConfigError
        The address cannot be used, or the folder holds something else than was pulled from it.
    StorageError
        There is no lake, the store or the disk refused, or another process pulls; the folder is a good lake as it is.

    """
    with told(address), desk(folder, ".pull", address) as (work, journal):
        if any((venue_folder(folder, venue) / "hot.sqlite").exists() for venue in Venue) or (
            journal.fresh and _sealed(folder)
        ):
            raise ConfigError(f"{folder} holds a lake that was not pulled from {shown(address)}; give another folder")
        store = Store(address)
        for left in work.glob(f"{_ASIDE}*"):
            shutil.rmtree(left, ignore_errors=True)
        journal.add({})  # from now on the folder is known as ours
        known, fetched = _bring(store, folder, work, journal, progress)
        held = _sealed(folder)
        gone = [rel for rel in held if rel not in known]
        for rel in gone:
            (folder / rel).unlink(missing_ok=True)
        journal.add(dict.fromkeys([*gone, *(journal.entries.keys() - known)]))
        return Pulled(len(held) - len(gone), fetched, len(gone))


def push(
    folder: Path, address: str, venues: Iterable[Venue] = tuple(Venue), *, progress: Say = lambda _: None
) -> Pushed:
    """Send the sealed files of a lake that are not at the address, or are other there; rows not sealed stay here.

    Raises
    ------
    ConfigError
        The address cannot be used, or holds a file of another lake, or of a later state of this one; nothing is sent.
    DataError
        There is no sealed file.
    StorageError
        The store or the disk refused, or another process pushes; what is there is a good lake.

    """
    found = {rel: mark for rel in _sealed(folder, venues) if (mark := _mark(folder / rel)) is not None}
    here = {rel: mark for rel, mark in found.items() if _month(rel) not in found}
    if not here:
        raise DataError(f"{folder.resolve()} has no sealed file to push; run: qlib-crypto seal, or give --lake")
    with told(address), desk(folder, ".push", address) as (_, journal):
        store = Store(address)
        there = store.files()
        past = [rel for rel in there if rel not in here and _month(rel) in here]
        doubtful = [rel for rel in (*here, *past) if rel in there and _last(journal, rel)[1] != there[rel]]
        foreign = _settle(store, folder, doubtful, here, there, journal)
        if others := foreign & here.keys():
            raise ConfigError(
                f"{shown(address)}/{min(others)} is not what this lake put there, nor are {len(others) - 1} more: "
                "another lake is there, or a later state of this one; push to another address"
            )
        send = [rel for rel, mark in here.items() if rel not in there or _last(journal, rel)[0] != mark]
        sent: dict[str, list[Any]] = {}
        for batch in _batches(send, here):
            sent |= _send(store, folder, batch, there, journal)
            progress(f"pushed {len(sent):,} of {counted(len(send), 'file')}")
        if sent:
            there = store.files()
        journal.add({rel: [mark, there.get(rel), [md5]] for rel, (mark, md5) in sent.items()})
        gone = [rel for rel in past if rel in there and rel not in foreign and _month(rel) in there]
        store.remove(gone)
        journal.add(dict.fromkeys(gone))
        return Pushed(len(here), len(sent), len(gone))


def _bring(store: Store, folder: Path, work: Path, journal: Journal, progress: Say) -> tuple[set[str], int]:
    """What either of two listings has, the second begun after all of the first was here; and how many files came."""
    fetched, before = 0, set[str]()
    for _ in range(_TRIES):
        now = store.files()
        wanted = [rel for rel, stamp in now.items() if journal.entries.get(rel) != [stamp, _mark(folder / rel)]]
        try:
            for batch in _batches(wanted, now):
                _fetch(store, batch, now, folder, work, journal)
                fetched += len(batch)
                progress(f"pulled {fetched:,} of {counted(len(wanted), 'file')}")
        except FileNotFoundError:  # days that are a month by now
            before = set()
            continue
        if before:
            return before | now.keys(), fetched
        before = set(now)
        if not before:
            raise StorageError(
                f"no lake at {store.shown}: no such bucket or folder, or nothing sealed in it; correct the address, or "
                "run: qlib-crypto push"
            )
    raise StorageError(f"{store.shown} changes faster than it can be read; run again")


def _fetch(
    store: Store, batch: Sequence[str], now: Mapping[str, list[Any]], folder: Path, work: Path, journal: Journal
) -> None:
    """Files come aside, whole and on disk, then into place."""
    aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=work))
    try:
        paths = {rel: aside / str(number) for number, rel in enumerate(batch)}
        store.get(paths)
        for rel, path in paths.items():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                if os.fstat(file.fileno()).st_size != now[rel][0]:
                    raise FileNotFoundError(rel)  # exchanged for another meanwhile
            (folder / rel).parent.mkdir(parents=True, exist_ok=True)
            path.replace(folder / rel)
        for parent in {(folder / rel).parent for rel in batch}:
            sync_folder(parent)
        journal.add({rel: [now[rel], _mark(folder / rel)] for rel in batch})
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _send(
    store: Store, folder: Path, batch: Sequence[str], there: Mapping[str, list[Any]], journal: Journal
) -> dict[str, list[Any]]:
    """Mark and MD5 of what was sent, noted before it goes; what is there already under another mark stays."""
    contents, sent = {}, {}
    for rel in batch:
        try:
            with (folder / rel).open("rb") as file:
                content = file.read()
                mark, md5 = _mark_of(os.fstat(file.fileno())), _md5(content)
        except FileNotFoundError:  # became part of its month just now: the next push
            continue
        _, state, before = _last(journal, rel)
        if rel in there and state == there[rel] and before[-1:] == [md5]:  # a lake that was copied
            journal.add({rel: [mark, state, before]})
            continue
        contents[rel], sent[rel] = content, [mark, md5]
    journal.add({rel: [*_last(journal, rel)[:2], [*_last(journal, rel)[2], md5]] for rel, (_, md5) in sent.items()})
    store.put(contents)
    return sent


def _settle(
    store: Store,
    folder: Path,
    doubtful: Sequence[str],
    here: Mapping[str, list[int]],
    there: Mapping[str, list[Any]],
    journal: Journal,
) -> set[str]:
    """Those files at the address that this lake did not put there; what equals ours is noted as sent."""
    foreign, seen = set(), {}
    own = {rel: _md5((folder / rel).read_bytes()) for rel in doubtful if rel in here}
    for rel in doubtful:
        tag = str(there[rel][1]).strip('"')  # of S3 the MD5, mostly
        if tag == own.get(rel) or tag in _last(journal, rel)[2]:
            seen[rel] = tag
    for batch in _batches([rel for rel in doubtful if rel not in seen], there):
        seen |= {rel: _md5(content) for rel, content in store.contents(batch).items()}
    for rel, md5 in seen.items():
        if md5 == own.get(rel):
            journal.add({rel: [here[rel], there[rel], [md5]]})
        elif md5 not in _last(journal, rel)[2]:
            foreign.add(rel)
    return foreign


def _sealed(folder: Path, venues: Iterable[Venue] = tuple(Venue)) -> list[str]:
    """The sealed files of a lake by their path below it, days that are a month by now too."""
    return sorted(
        f"{at.name}/{dataset}/{path.name}"
        for at in (venue_folder(folder, venue) for venue in venues)
        for dataset in datasets(at)
        if is_dataset(dataset)
        for path in file_names(at, dataset)
        if is_sealed(path.name)
    )


def _month(rel: str) -> str | None:
    """The month's file that a day's becomes part of; None for any other file."""
    file = parse_name(Path(rel))
    month = file.path.with_name(f"{file.stem}_{utc(file.start_ms):%Y%m}.parquet")
    return month.as_posix() if file.end_ms - file.start_ms == DAY_MS and month_of_days(month) else None


def _mark(path: Path) -> list[int] | None:
    """Size, time of change and inode; None where there is no file."""
    try:
        return _mark_of(path.stat())
    except FileNotFoundError:
        return None


def _mark_of(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _last(journal: Journal, rel: str) -> list[Any]:
    """Of a file that was pushed: our mark of it, its state there, the MD5s of what was sent."""
    return journal.entries.get(rel) or [None, None, []]


def _batches(wanted: Sequence[str], sizes: Mapping[str, list[Any]]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for rel in wanted:
        if batch and (len(batch) >= _FILES_AT_ONCE or held + sizes[rel][0] > _BYTES_AT_ONCE):
            yield batch
            batch, held = [], 0
        batch.append(rel)
        held += sizes[rel][0]
    if batch:
        yield batch


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
