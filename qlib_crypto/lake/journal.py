"""What was seen of each file of a lake when it was pulled or pushed, so that the next time costs what changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from qlib_crypto.lake.address import key
from qlib_crypto.lake.alone import alone
from qlib_crypto.lake.files import write_bytes


class Journal:
    """What is known of each file, a line of JSON each, later ones over earlier ones; a torn line says nothing."""

    def __init__(self, path: Path) -> None:
        self.path, self.fresh = path, not path.exists()
        self.entries: dict[str, list[Any]] = {}
        lines = [] if self.fresh else path.read_bytes().splitlines()
        for line in lines:
            try:
                self._take(*orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError):
                continue
        if lines:  # short again, and its last line whole
            write_bytes(path, b"".join(map(_line, self.entries.items())))

    def add(self, entries: Mapping[str, list[Any] | None]) -> None:
        """Keep what is known of files; None forgets one."""
        with self.path.open("ab") as file:
            file.write(b"".join(map(_line, entries.items())))
        for rel, entry in entries.items():
            self._take(rel, entry)

    def _take(self, rel: str, entry: list[Any] | None) -> None:
        if entry is None:
            self.entries.pop(rel, None)
        else:
            self.entries[rel] = entry


@contextmanager
def desk(folder: Path, name: str, address: str) -> Iterator[tuple[Path, Journal]]:
    """The folder in a lake for the work with an address, one process at a time, and the journal.

    Raises
    ------
    StorageError
        Another process works there.

    """
    work = folder / name
    work.mkdir(parents=True, exist_ok=True)
    with alone(
        work / "lock",
        lambda other: f"another {name[1:]} (process {other}) works on {folder}; wait until it has finished",
    ):
        yield work, Journal(work / f"{key(address)}.jsonl")


def _line(entry: tuple[str, list[Any] | None]) -> bytes:
    return orjson.dumps(entry) + b"\n"
