"""Bars taken out of the files again, into the quarantine: those that somebody imported by mistake."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.errors import StorageError
from qlib_crypto.lake.checks import row_at
from qlib_crypto.lake.files import read_table, sync_folder, write_table
from qlib_crypto.lake.ledger import Sealed
from qlib_crypto.lake.paths import dated_files
from qlib_crypto.lake.quarantine import quarantined
from qlib_crypto.lake.seal import exclusive
from qlib_crypto.lake.store import Lake
from qlib_crypto.lake.tables import BARS
from qlib_crypto.schemas import Bar
from qlib_crypto.symbols import Instrument, Interval


def withdraw_bars(lake: Lake, instrument: Instrument, interval: Interval, open_ms: NDArray[np.int64], why: str) -> int:
    """How many bars with these opens went to the quarantine, with the reason; the lake lacks them from now on.

    Each is in the quarantine before it leaves its file, so a crash costs nothing: withdraw again.

    Raises
    ------
    StorageError
        The disk refused.
    SchemaError
        A file is torn or foreign; `qlib-crypto check` moves it.

    """
    venue, count = instrument.venue, 0
    if not len(open_ms):
        return count
    lake.seal(venue, instrument=instrument)
    folder, span = lake.folder(venue), (int(open_ms.min()), int(open_ms.max()) + 1)
    with exclusive(folder):
        for file in dated_files(folder, BARS.dataset(interval.ms), instrument.symbol, *span):
            rows = read_table(file.path, BARS.schema)
            gone = np.isin(BARS.slots(rows), open_ms)
            if not gone.any():
                continue
            bad = [row_at(rows, Bar, instrument, at, interval) for at in np.flatnonzero(gone).tolist()]
            lake.quarantine(venue, [quarantined(bar, why) for bar in bad])
            left = rows.filter(pa.array(~gone))
            if len(left):
                digest, name = write_table(file.path, left), str(file.path.relative_to(folder))
                lake.record_seals(venue, [Sealed(time.time_ns() // 1_000_000, name, len(left), -len(bad), 0, digest)])
            else:
                try:
                    file.path.unlink()
                    sync_folder(file.path.parent)
                except OSError as error:
                    raise StorageError(
                        f"{file.path}: cannot remove ({error.strerror}); correct permissions, then import again"
                    ) from error
            count += len(bad)
    return count
