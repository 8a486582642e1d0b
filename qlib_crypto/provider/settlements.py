"""`settlements/`: each instrument's settled funding in full precision, `numpy.fromfile(path, funding.SERIES)`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.errors import SchemaError
from qlib_crypto.provider.funding import SERIES
from qlib_crypto.provider.write import folder_name
from qlib_crypto.symbols import Instrument

FOLDER = "settlements"
_REMEDY = "make the provider anew with: qlib-crypto convert --full"


def series_name(instrument: Instrument) -> str:
    """The file below the provider."""
    return f"{FOLDER}/{folder_name(instrument)}.bin"


def read_series(provider_dir: Path, instrument: Instrument) -> NDArray[np.void]:
    """The settlements of one instrument, as `funding.SERIES`.

    Raises
    ------
    SchemaError
        When the file is missing or torn.

    """
    path = provider_dir / series_name(instrument)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SchemaError(f"{path} cannot be read ({error}); {_REMEDY}") from error
    if len(data) % SERIES.itemsize:
        raise SchemaError(f"{path} is torn: {len(data)} bytes are no multiple of {SERIES.itemsize}; {_REMEDY}")
    return np.frombuffer(data, SERIES)
