"""The lake: dated Parquet and a hot store, one truth for market data."""

from qlib_crypto.lake.frames import load_bars
from qlib_crypto.lake.gaps import missing_ranges
from qlib_crypto.lake.store import Lake

__all__ = ["Lake", "load_bars", "missing_ranges"]
