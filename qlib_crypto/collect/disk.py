"""Which refusals of the disk pass by themselves, so that a collector waits for them."""

from __future__ import annotations

from qlib_crypto.errors import StorageError

_DAMAGED = ("SQLITE_NOTADB", "SQLITE_CORRUPT")


def will_pass(error: StorageError) -> bool:
    """False for a damaged file, which needs a person; a full disk, a lost mount or another writer may pass."""
    return not getattr(error.__cause__, "sqlite_errorname", "").startswith(_DAMAGED)
