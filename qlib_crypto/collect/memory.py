"""Freed memory goes back to the system: a collector runs for months, and a seal or a page takes much at once."""

from __future__ import annotations

import ctypes

import pyarrow as pa

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return freed memory to the system, where the C library can; takes some milliseconds, and no lock of Python's."""
    pa.default_memory_pool().release_unused()
    if _trim is not None:
        _trim(0)
