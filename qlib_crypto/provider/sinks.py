"""Where feature values go, and the files that nobody sees yet; `update_files.py` has those that readers have open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.provider.write import feature_name, folder_name, place, write_at
from qlib_crypto.symbols import Instrument, Interval


class Sink(Protocol):
    """Takes the values of feature files."""

    def put(
        self,
        instrument: Instrument,
        interval: Interval,
        fields: Sequence[str],
        first_ms: int,
        at: int,
        values: NDArray[np.float32],
    ) -> None:
        """Values of shape (n_fields, n) from a slot on, counted from the open of the files' first.

        A gap before them becomes NaN.
        """

    def shift(self, instrument: Instrument, interval: Interval, first_ms: int, slots: int) -> None:
        """Older bars come: all files of the frequency begin so many slots earlier, with NaN."""


class RebuildError(Exception):
    """What is there cannot be updated."""


class WholeFiles:
    """Feature files being written below a folder that nobody reads.

    Parameters
    ----------
    root
        The folder.
    origins
        Opens of the calendars' first slots, as far as one can tell; `set_first_slot` corrects the others.

    """

    def __init__(self, root: Path, origins: Mapping[Interval, int]) -> None:
        self.root = root
        self._origins = origins
        self._folders: set[str] = set()

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
        folder = f"{self.root}/features/{folder_name(instrument)}"
        if folder not in self._folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        slot = (first_ms - self._origins.get(interval, first_ms)) // interval.ms
        for field, row in zip(fields, values, strict=True):
            write_at(f"{folder}/{field}.{interval.qlib}.bin", slot, at, row)

    def shift(self, instrument: Instrument, interval: Interval, first_ms: int, slots: int) -> None:
        """Never asked for: blocks come in order of time."""
        raise AssertionError(
            f"{instrument} {interval} to {first_ms} by {slots}: what is built anew never begins earlier"
        )


def set_first_slot(root: Path, instrument: Instrument, interval: Interval, fields: Sequence[str], slot: int) -> None:
    """Set where the files of an instrument at a frequency begin."""
    for field in fields:
        place(f"{root}/{feature_name(instrument, field, interval)}", slot)
