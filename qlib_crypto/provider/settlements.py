"""`settlements/`: each instrument's settled funding in full precision, as NumPy arrays (`numpy.load`)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.errors import SchemaError
from qlib_crypto.provider.funding import SERIES
from qlib_crypto.provider.write import feature_dir
from qlib_crypto.symbols import Instrument

FOLDER = "settlements"


def series_name(instrument: Instrument) -> str:
    """The file below the provider."""
    return f"{FOLDER}/{feature_dir(Path(), instrument).name}.npy"


def series_bytes(series: NDArray[np.void]) -> bytes:
    """The content of the file."""
    out = io.BytesIO()
    np.save(out, series)
    return out.getvalue()


def read_series(provider_dir: Path, instrument: Instrument) -> NDArray[np.void]:
    """The settlements of one instrument, as `funding.SERIES`.

    Raises
    ------
    SchemaError
        When the file is missing or is no such array.

    """
    path = provider_dir / series_name(instrument)
    try:
        series: NDArray[np.void] = np.load(path)
        if series.dtype == SERIES:
            return series
        why = f"has {series.dtype.names}"
    except (OSError, ValueError, EOFError) as error:
        why = str(error)
    raise SchemaError(f"{path} cannot be read ({why}); make the provider anew with: qlib-crypto convert --full")
