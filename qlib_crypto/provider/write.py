"""Feature files: little-endian float32, the first value is the slot of the second."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qlib.utils import code_to_fname

from qlib_crypto.symbols import Instrument, Interval

FLOAT = np.dtype("<f4")
#: Concurrent fsyncs share the disk's commits.
_SYNC_THREADS = 8


@lru_cache(maxsize=4096)
def folder_name(instrument: Instrument) -> str:
    """The name of an instrument's folder, as Qlib looks it up."""
    name: str = code_to_fname(instrument.qlib)
    return name.lower()


def feature_dir(provider_dir: Path, instrument: Instrument) -> Path:
    """The folder of an instrument's features."""
    return provider_dir / "features" / folder_name(instrument)


def feature_name(instrument: Instrument, field: str, interval: Interval) -> str:
    """The file of one field at one frequency, below the provider."""
    return f"features/{folder_name(instrument)}/{field}.{interval.qlib}.bin"


def feature_names(instrument: Instrument, fields: Iterable[str], interval: Interval) -> list[str]:
    """`feature_name` of several fields."""
    folder, end = f"features/{folder_name(instrument)}/", f".{interval.qlib}.bin"
    return [f"{folder}{field}{end}" for field in fields]


def feature_file(provider_dir: Path, instrument: Instrument, field: str, interval: Interval) -> Path:
    """The file of one field at one frequency."""
    return provider_dir / feature_name(instrument, field, interval)


def place(path: str, slot: int) -> None:
    """Set the first slot of a file."""
    write_bytes_at(path, 0, np.array([slot], dtype=FLOAT).tobytes())


def sync_files(paths: Iterable[Path]) -> None:
    """Bring files' contents, and folders' lists of names, to the disk."""
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        for _ in pool.map(sync, paths):
            pass


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def write_at(path: str, slot: int, at: int, values: NDArray[np.float32]) -> None:
    """Put values at a place of a file, counted from its first slot; a gap before them becomes NaN.

    A file that is new begins at `slot`.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        length = os.fstat(handle).st_size // FLOAT.itemsize - 1 if at else -1
        if at > max(length, 0):
            values = np.concatenate([np.full(at - max(length, 0), np.nan, FLOAT), values])
            at = max(length, 0)
        if length < 0 and at == 0:
            _write(handle, np.array([slot], dtype=FLOAT).data.cast("B"), 0)
        _write(handle, np.ascontiguousarray(values).data.cast("B"), FLOAT.itemsize * (1 + at))
    finally:
        os.close(handle)


def read_at(path: str, at: int, count: int) -> NDArray[np.float32]:
    """Values of a file from a place on, counted from its first slot; as many as there are.

    Raises
    ------
    OSError
        When there is no such file.

    """
    handle = os.open(path, os.O_RDONLY)
    try:
        data = os.pread(handle, FLOAT.itemsize * count, FLOAT.itemsize * (1 + at))
        return np.frombuffer(data, dtype=FLOAT, count=len(data) // FLOAT.itemsize)
    finally:
        os.close(handle)


def write_bytes_at(path: str, offset: int, data: bytes) -> None:
    """Put bytes at a place of a file that is there."""
    handle = os.open(path, os.O_WRONLY)
    try:
        _write(handle, memoryview(data), offset)
    finally:
        os.close(handle)


def _write(handle: int, data: memoryview, offset: int) -> None:
    while data.nbytes:  # a disk that becomes full takes a part
        done = os.pwrite(handle, data, offset)
        data, offset = data[done:], offset + done
