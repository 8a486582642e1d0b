"""Where feature values go: whole files that nobody sees yet, and places in files that readers have open.

An update is written into `<work>/next`: whole files below `files/`, and `patches.bin`, the values that go into files
of the provider, with their places in `update.json`. Renaming `next` to `commit` is the decision: from then on it is put
in place, again after a kill until it is done (`apply`). Every step can be repeated.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import orjson
from numpy.typing import NDArray

from qlib_crypto.provider.write import FLOAT, feature_file, place, sync_files, write_at, write_bytes_at
from qlib_crypto.symbols import Instrument, Interval

NEXT, COMMIT = "next", "commit"
#: Qlib's own caches of an older provider, which would be stale beside a new one.
CACHES = ("calendars_cache", "features_cache", "instruments_cache", "dataset_cache")
_FILES, _PATCHES, _PLAN = "files", "patches.bin", "update.json"
#: The first part of a path decides when it is put in place: what others refer to comes first.
_ORDER = ("features", "settlements", "instruments", "calendars", "specs.json", "lake_files.json", "manifest.json")


class WholeFiles:
    """Feature files being written below a folder that nobody reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: set[Path] = set()

    def put(self, instrument: Instrument, interval: Interval, field: str, at: int, values: NDArray[np.float32]) -> None:
        """See `Sink`."""
        path = feature_file(self.root, instrument, field, interval)
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        write_at(path, at, values)

    def shift(self, instrument: Instrument, interval: Interval, slots: int) -> None:
        """Never asked for: blocks come in order of time."""
        raise AssertionError(f"{instrument} {interval} by {slots}: what is built anew never begins earlier")

    def first_slots(self, slots: Mapping[tuple[Instrument, Interval], int], fields: Sequence[str]) -> None:
        """Set the first slot of every field's file of these."""
        for (instrument, interval), slot in slots.items():
            for field in fields:
                place(feature_file(self.root, instrument, field, interval), slot)


class Update:
    """The changes of an update, written aside.

    Parameters
    ----------
    provider_dir, work
        What is updated, and the folder of its own beside it.
    held
        Slots that the provider has, by instrument and frequency; files of others are new.
    fields
        Every field.

    """

    def __init__(
        self,
        provider_dir: Path,
        work: Path,
        held: dict[tuple[Instrument, Interval], int],
        fields: Sequence[str],
    ) -> None:
        self._provider_dir, self._work, self._held, self._fields = provider_dir, work, held, fields
        self._next = work / NEXT
        self._next.mkdir()
        self._whole = WholeFiles(self._next / _FILES)
        self._made: set[tuple[Instrument, Interval]] = set()
        self._lengths: dict[str, int] = {}
        self._places: list[tuple[str, int, int]] = []
        self._patches = (self._next / _PATCHES).open("wb")
        self._removed: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._patches.close()

    @property
    def changes(self) -> bool:
        """Whether anything differs from what the provider has."""
        return bool(self._places or self._made or self._removed or (self._next / _FILES).exists())

    def put(self, instrument: Instrument, interval: Interval, field: str, at: int, values: NDArray[np.float32]) -> None:
        """See `Sink`."""
        key = instrument, interval
        if key not in self._held or key in self._made:
            self._made.add(key)
            self._whole.put(instrument, interval, field, at, values)
            return
        path = feature_file(self._provider_dir, instrument, field, interval)
        name = str(path.relative_to(self._provider_dir))
        length = self._lengths.setdefault(name, self._held[key])
        there = max(min(length - at, len(values)), 0)
        if there:
            old = np.fromfile(path, FLOAT, count=there, offset=FLOAT.itemsize * (1 + at))
            other = np.flatnonzero(old.view(np.int32) != values[: len(old)].view(np.int32))
            first = int(other[0]) if other.size else there
            last = int(other[-1]) + 1 if other.size and there == len(values) else len(values)
        else:
            first, last = 0, len(values)
        if first >= last:
            return
        at, values = at + first, values[first:last]
        if at > length:
            at, values = length, np.concatenate([np.full(at - length, np.nan, FLOAT), values])
        self._lengths[name] = max(length, at + len(values))
        data = values.tobytes()
        self._patches.write(data)
        self._places.append((name, FLOAT.itemsize * (1 + at), len(data)))

    def shift(self, instrument: Instrument, interval: Interval, slots: int) -> None:
        """See `Sink`."""
        key = instrument, interval
        if key not in self._held or key in self._made:
            raise AssertionError(f"{instrument} {interval}: blocks come in order of time")  # pragma: no cover
        self._made.add(key)
        for field in self._fields:
            old = np.fromfile(feature_file(self._provider_dir, instrument, field, interval), FLOAT)[1:]
            self._whole.put(instrument, interval, field, slots, old)

    def whole(self, name: str, data: bytes) -> None:
        """A small file; left out when the provider has the same."""
        old = self._provider_dir / name
        if old.is_file() and old.stat().st_size == len(data) and old.read_bytes() == data:
            return
        path = self._next / _FILES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def longer(self, name: str, tail: bytes) -> None:
        """A file with more at its end; readers see it without or with, never a part."""
        path = self._next / _FILES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._provider_dir / name, path)
        with path.open("ab") as file:
            file.write(tail)

    def remove(self, name: str) -> None:
        """A file that is no longer."""
        self._removed.append(name)

    def first_slots(self, slots: dict[tuple[Instrument, Interval], int]) -> None:
        """Set the first slot of every file that is new or begins earlier."""
        self._whole.first_slots({key: slots[key] for key in self._made}, self._fields)

    def commit(self, *, durable: bool) -> None:
        """Decide for it, and put it in place."""
        self._patches.close()
        plan = {"places": self._places, "remove": self._removed}
        (self._next / _PLAN).write_bytes(orjson.dumps(plan))
        if durable:
            sync_files([self._next, *self._next.rglob("*")])
        self._next.rename(self._work / COMMIT)
        if durable:
            sync_files([self._work])
        apply(self._provider_dir, self._work, durable=durable)


def apply(provider_dir: Path, work: Path, *, durable: bool) -> None:
    """Put a decided update in place, when there is one.

    Features first, then instruments, then calendars, the manifest last: a reader sees the provider of before, or that
    of after, up to some bar; values in the middle change one by one.
    """
    decided = work / COMMIT
    if not decided.exists():
        return
    plan = orjson.loads((decided / _PLAN).read_bytes())
    with (decided / _PATCHES).open("rb") as patches:
        for name, offset, size in plan["places"]:
            write_bytes_at(provider_dir / name, offset, patches.read(size))
    files = sorted(
        (path.relative_to(decided / _FILES) for path in (decided / _FILES).rglob("*") if path.is_file()),
        key=lambda name: (_ORDER.index(name.parts[0]), not name.stem.endswith("_future"), name),
    )
    later = [name for name in files if name.parts[0] not in _ORDER[:2]]
    _place(decided, provider_dir, files[: len(files) - len(later)])
    if durable:
        sync_all(provider_dir)
    _place(decided, provider_dir, later)
    for name in plan["remove"]:
        (provider_dir / name).unlink(missing_ok=True)
    for name in CACHES:
        shutil.rmtree(provider_dir / name, ignore_errors=True)
    if durable:
        sync_all(provider_dir)
    _discard(decided)


def _place(decided: Path, provider_dir: Path, names: Iterable[Path]) -> None:
    made = set()
    for name in names:
        target = provider_dir / name
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        (decided / _FILES / name).replace(target)


def _discard(decided: Path) -> None:
    """Remove a decided update in one step, then its files."""
    done = decided.with_name("done")
    shutil.rmtree(done, ignore_errors=True)
    decided.rename(done)
    shutil.rmtree(done, ignore_errors=True)


def sync_all(folder: Path) -> None:
    """Bring everything of the folder's file system to the disk: one call, however many files changed."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        os.sync()
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)
