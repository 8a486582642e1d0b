"""Feature files: little-endian float32, the first value is the slot of the second.

A file is written as soon as its values are known and gets its slot at the end, when the origin of every calendar is
known; so conversion holds one instrument at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from qlib.utils import code_to_fname

from qlib_crypto.symbols import Instrument, Interval

_FLOAT = np.dtype("<f4")
#: Concurrent fsyncs share the disk's commits.
_SYNC_THREADS = 8


def feature_dir(provider_dir: Path, instrument: Instrument) -> Path:
    """The folder of an instrument's features, as Qlib looks it up."""
    name: str = code_to_fname(instrument.qlib)
    return provider_dir / "features" / name.lower()


def feature_file(provider_dir: Path, instrument: Instrument, field: str, interval: Interval) -> Path:
    """The file of one field at one frequency."""
    return feature_dir(provider_dir, instrument) / f"{field}.{interval.qlib}.bin"


def write_feature(path: Path, values: NDArray[np.float64]) -> None:
    """The values as float32 behind a slot of NaN, which `place_features` sets."""
    data = np.empty(len(values) + 1, dtype=_FLOAT)
    data[0] = np.nan
    data[1:] = values
    with path.open("wb") as file:
        file.write(data.data)


def read_feature(path: Path) -> tuple[int, NDArray[np.float32]]:
    """The first slot and the values of a feature file."""
    data = np.fromfile(path, dtype=_FLOAT)
    return int(data[0]), data[1:]


def place_features(slots: Iterable[tuple[Path, int]]) -> None:
    """Set the first slot of each file and bring it to the disk."""
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        for _ in pool.map(_place, slots):
            pass


def _place(item: tuple[Path, int]) -> None:
    path, slot = item
    with path.open("r+b") as file:
        file.write(np.array([slot], dtype=_FLOAT).tobytes())
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
