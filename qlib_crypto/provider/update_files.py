"""An update of files that readers have open.

It is written into `<work>/next`: whole files below `files/`, and `patches.bin`, the values that go into files of the
provider, with their places in `update.json`. Renaming `next` to `commit` is the decision: from then on it is put in
place, again after a kill until it is done (`apply`). Every step can be repeated.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import numpy as np
import orjson
from numpy.typing import NDArray

from qlib_crypto.provider.sinks import RebuildError, WholeFiles, set_first_slot
from qlib_crypto.provider.write import FLOAT, feature_names, read_at, sync_all, sync_files, write_bytes_at
from qlib_crypto.symbols import Instrument, Interval

NEXT, COMMIT = "next", "commit"
#: Qlib's own caches of an older provider, which would be stale beside a new one.
CACHES = ("calendars_cache", "features_cache", "instruments_cache", "dataset_cache")
_FILES, _PATCHES, _PLAN = "files", "patches.bin", "update.json"
#: Values are small, and many.
_BUFFER = 1 << 20
#: The first part of a path decides when it is put in place: what others refer to comes first.
_ORDER = (
    "features", "settlements", "instruments", "calendars", "specs.json", "rules.json", "margin_tiers.json",
    "lake_files.json", "manifest.json",
)  # fmt: skip


class Update:
    """The changes of an update, written aside.

    Parameters
    ----------
    provider_dir, work
        What is updated, and the folder of its own beside it.
    held
        Slots that the provider has, by instrument and frequency; files of others are new.
    origins
        Opens of the first slots of its calendars.
    fields
        Those of an instrument.

    """

    def __init__(
        self,
        provider_dir: Path,
        work: Path,
        held: Mapping[tuple[Instrument, Interval], int],
        origins: Mapping[Interval, int],
        fields: Callable[[Instrument], Sequence[str]],
    ) -> None:
        self._provider_dir, self._work, self._held, self._fields = provider_dir, work, held, fields
        self._next = work / NEXT
        self._next.mkdir()
        self._whole = WholeFiles(self._next / _FILES, origins)
        self._made: set[tuple[Instrument, Interval]] = set()
        self._lengths: dict[str, int] = {}
        self._places: list[tuple[str, int, int]] = []
        self._patches = (self._next / _PATCHES).open("wb", buffering=_BUFFER)
        self._removed: list[str] = []
        self._alone = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._patches.close()

    @property
    def changes(self) -> bool:
        """Whether anything differs from what the provider has."""
        return bool(self._places or self._made or self._removed or (self._next / _FILES).exists())

    def put(
        self,
        instrument: Instrument,
        interval: Interval,
        fields: Sequence[str],
        first_ms: int,
        at: int,
        values: NDArray[np.float32],
    ) -> None:
        """See `Sink`."""
        key = instrument, interval
        with self._alone:
            if key not in self._held or key in self._made:
                self._made.add(key)
                self._whole.put(instrument, interval, fields, first_ms, at, values)
                return
            held, names = self._held[key], feature_names(instrument, fields, interval)
            for name, row in zip(names, values, strict=True):
                self._patch(name, held, at, row)

    def _patch(self, name: str, held: int, at: int, values: NDArray[np.float32]) -> None:
        """Note what differs from the file's values, and what is new."""
        length = self._lengths.get(name, held)
        first, last = 0, len(values)
        if at + len(values) <= held:  # what reaches beyond the end is written anyway, so it is not read before
            old = self._read(name, at, len(values))
            other = np.flatnonzero(old.view(np.int32) != values.view(np.int32))
            if not other.size:
                return
            first, last = int(other[0]), int(other[-1]) + 1
        at, values = at + first, values[first:last]
        if at > length:
            at, values = length, np.concatenate([np.full(at - length, np.nan, FLOAT), values])
        self._lengths[name] = max(length, at + len(values))
        data = values.tobytes()
        self._patches.write(data)
        self._places.append((name, FLOAT.itemsize * (1 + at), len(data)))

    def shift(self, instrument: Instrument, interval: Interval, first_ms: int, slots: int) -> None:
        """See `Sink`."""
        key = instrument, interval
        with self._alone:
            if key not in self._held or key in self._made:
                raise AssertionError(f"{instrument} {interval}: blocks come in order of time")  # pragma: no cover
            self._made.add(key)
            fields = self._fields(instrument)
            for field, name in zip(fields, feature_names(instrument, fields, interval), strict=True):
                old = self._read(name, 0, self._held[key])
                self._whole.put(instrument, interval, [field], first_ms, slots, old[None])

    def _read(self, name: str, at: int, count: int) -> NDArray[np.float32]:
        """Values that a file of the provider must have."""
        try:
            found = read_at(f"{self._provider_dir}/{name}", at, count)
        except FileNotFoundError as error:
            raise RebuildError(str(error)) from None
        if len(found) < count:
            raise RebuildError(f"{name} has {at + len(found)} values, too few")
        return found

    def whole(self, name: str, data: bytes) -> None:
        """A small file; left out when the provider has the same."""
        old = self._provider_dir / name
        if old.is_file() and old.stat().st_size == len(data) and old.read_bytes() == data:
            return
        path = self._next / _FILES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def records(self, name: str, data: bytes) -> None:
        """A file that nobody reads but the next conversion: what differs and what is new at its end goes in place."""
        try:
            old = (self._provider_dir / name).read_bytes()
        except FileNotFoundError:
            old = b""
        if not old or len(data) < len(old):
            self.whole(name, data)
            return
        if data.startswith(old):
            first = len(old)
        else:
            one, other = (np.frombuffer(of, np.uint8, count=len(old)) for of in (old, data))
            first = int(np.argmax(one != other))
        if first < len(data):
            with self._alone:
                self._patches.write(data[first:])
                self._places.append((name, first, len(data) - first))

    def longer(self, name: str, tail: bytes) -> None:
        """A file with more at its end; readers see it without or with, never a part."""
        path = self._next / _FILES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(self._provider_dir / name, path)
        except FileNotFoundError as error:
            raise RebuildError(str(error)) from None
        with path.open("ab") as file:
            file.write(tail)

    def remove(self, name: str) -> None:
        """A file that is no longer."""
        self._removed.append(name)

    def first_slots(self, slots: dict[tuple[Instrument, Interval], int]) -> None:
        """Set the first slot of every file that is new or begins earlier."""
        for instrument, interval in self._made:
            slot = slots[instrument, interval]
            set_first_slot(self._next / _FILES, instrument, interval, self._fields(instrument), slot)

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
    if not (provider_dir / "manifest.json").exists():  # it was removed meanwhile: there is nothing to finish
        _discard(decided)
        return
    plan = orjson.loads((decided / _PLAN).read_bytes())
    with (decided / _PATCHES).open("rb", buffering=_BUFFER) as patches:
        for name, offset, size in plan["places"]:
            data = patches.read(size)
            with suppress(FileNotFoundError):  # removed meanwhile: the conversion finds that it is missing
                write_bytes_at(f"{provider_dir}/{name}", offset, data)
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
