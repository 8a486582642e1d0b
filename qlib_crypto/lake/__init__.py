"""The lake: dated Parquet and a hot store, one truth for market data."""

from qlib_crypto.lake.gaps import missing_ranges
from qlib_crypto.lake.store import Lake, load_bars

__all__ = ["Lake", "load_bars", "missing_ranges"]
