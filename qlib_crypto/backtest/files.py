"""The values of a provider's fields, read straight from their files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.errors import SchemaError
from qlib_crypto.provider.manifest import Manifest
from qlib_crypto.provider.write import FLOAT, feature_name
from qlib_crypto.symbols import Instrument, Interval


class Files:
    """The values of one field at a time, from slot `first` on."""

    def __init__(
        self, folder: Path, manifest: Manifest, interval: Interval, names: tuple[str, ...], first: int, length: int
    ) -> None:
        self._rows, self._length = len(names), length
        self._later: dict[int, tuple[str, int, int]] = {}
        self._parts: list[tuple[int, str, frozenset[str], int, int, int]] = []
        for row, name in enumerate(names):
            span = manifest.instruments.get(name, {}).get(interval.qlib)
            if span is None:
                continue
            begin, stop = max(span[0], first), min(span[0] + span[1], first + length)
            if begin < stop:
                path = str(folder / feature_name(Instrument.parse(name), "{}", interval))
                fields = frozenset(manifest.fields_of(name))
                self._parts.append((row, path, fields, begin - first, stop - first, begin - span[0]))
                self._later[row] = path, stop - span[0], span[1]

    def read(self, field: str) -> NDArray[np.float32]:
        """Shape (n, bars), NaN where an instrument has no file of the field or no such slot."""
        out = np.full((self._rows, self._length), np.nan, dtype=FLOAT)
        for row, path, fields, begin, stop, at in self._parts:
            if field in fields:
                _read_into(path.format(field), FLOAT.itemsize * (1 + at), out[row, begin:stop])
        return out

    def last_after(self, row: int, field: str) -> int:
        """The last slot, counted from the first, at which an instrument has a price after these; -1 for none."""
        path, begin, stop = self._later[row]
        if begin == stop:
            return -1
        values = np.empty(stop - begin, dtype=FLOAT)
        _read_into(path.format(field), FLOAT.itemsize * (1 + begin), values)
        priced = np.flatnonzero(values > 0)
        return self._length + int(priced[-1]) if len(priced) else -1


def _read_into(path: str, offset: int, out: NDArray[np.float32]) -> None:
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            read = os.preadv(handle, [out.data.cast("B")], offset)
        finally:
            os.close(handle)
    except OSError as error:
        raise SchemaError(f"{path} cannot be read ({error.strerror}); see qlib-crypto verify") from None
    if read < out.nbytes:
        raise SchemaError(f"{path} ends {(out.nbytes - read) // FLOAT.itemsize} values early; see qlib-crypto verify")
