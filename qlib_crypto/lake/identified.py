"""What a lake is made of, as a part of `Lake`: its files and unsealed rows, and their hash."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qlib_crypto.lake.hot import Held
from qlib_crypto.lake.identity import FileMark, Marks, content_hash, damaged, marks, remarked
from qlib_crypto.lake.ledger import Ledgers
from qlib_crypto.lake.tables import Table
from qlib_crypto.symbols import Venue


class Identified(Ledgers):
    """The half of a lake that says what it holds without reading it."""

    root: Path

    def files(
        self, known: Marks | None = None, changed: Iterable[Path] | None = None
    ) -> dict[str, dict[str, FileMark]]:
        """A mark of every sealed file that can be part of a provider or a run, by folder and name.

        Only files are opened that are not as they were `known`, from an earlier call. With `changed`, the paths that
        `seal` or `compact` gave since that call, only these are looked at.
        """
        return marks(self.root, known or {}) if changed is None else remarked(self.root, known or {}, changed)

    def damaged(self, most: int | None = None) -> list[str]:
        """Sealed files that do not say what their content hash says, one line each.

        All are read, or so many of them, spread evenly.
        """
        return list(damaged(self.root, most))

    def unsealed(self, venue: Venue, table: Table) -> list[Held]:
        """What is not sealed yet: one entry a symbol and interval."""
        return self._hot[venue].held(table)

    def content_hash(self, files: Marks | None = None) -> str:
        """SHA-256 of all file names and content hashes, and of the hot rows: a run's data identity.

        Sources and times of receipt do not count: the same data collected twice has the same hash once sealed. Nor do
        days that became months, and bulky captures. `files`, of a call of `files`, are not looked at again.
        """
        return content_hash(self._hot, self.files() if files is None else files)
