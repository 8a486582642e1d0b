"""Feature files: little-endian float32, the first value is the slot of the second."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qlib.utils import code_to_fname

from qlib_crypto.symbols import Instrument, Interval

FLOAT = np.dtype("<f4")
#: Concurrent fsyncs share the disk's commits.
_SYNC_THREADS = 8


def feature_dir(provider_dir: Path, instrument: Instrument) -> Path:
    """The folder of an instrument's features, as Qlib looks it up."""
    name: str = code_to_fname(instrument.qlib)
    return provider_dir / "features" / name.lower()


def feature_name(field: str, interval: Interval) -> str:
    """The file name of one field at one frequency."""
    return f"{field}.{interval.qlib}.bin"


def feature_file(provider_dir: Path, instrument: Instrument, field: str, interval: Interval) -> Path:
    """The file of one field at one frequency."""
    return feature_dir(provider_dir, instrument) / feature_name(field, interval)


def place(path: Path, slot: int) -> None:
    """Set the first slot of a file."""
    with path.open("r+b") as file:
        file.write(np.array([slot], dtype=FLOAT).tobytes())


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


def write_at(path: Path, at: int, values: NDArray[np.float32]) -> None:
    """Put values at a slot of a file, counted from its first, which may be new; a gap before them becomes NaN."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        length = max(os.fstat(handle).st_size // FLOAT.itemsize - 1, 0)
        if at > length:
            values, at = np.concatenate([np.full(at - length, np.nan, FLOAT), values]), length
        if at == 0:
            values, at = np.concatenate([np.full(1, np.nan, FLOAT), values]), -1  # the first slot is set later
        _write(handle, values.tobytes(), FLOAT.itemsize * (1 + at))
    finally:
        os.close(handle)


def write_bytes_at(path: Path, offset: int, data: bytes) -> None:
    """Put bytes at a place of a file that is there."""
    handle = os.open(path, os.O_WRONLY)
    try:
        _write(handle, data, offset)
    finally:
        os.close(handle)


def _write(handle: int, data: bytes, offset: int) -> None:
    while data:  # a disk that becomes full takes a part
        done = os.pwrite(handle, data, offset)
        data, offset = data[done:], offset + done
