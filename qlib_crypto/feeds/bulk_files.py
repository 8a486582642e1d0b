"""Bulk files: zipped CSV tables of a venue's own host, checked before anything of them is used."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from tempfile import SpooledTemporaryFile
from typing import IO, NamedTuple

from qlib_crypto.clock import parse_utc
from qlib_crypto.errors import SchemaError, VenueError
from qlib_crypto.feeds.transport import Params, Patience, Route, Transport
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Venue

#: Neither host publishes a limit; this leaves them room.
_POLITE = Route(10, 1.0, bucket="files")
_PATIENCE = Patience(answer_s=600.0)
#: A file this large stays in memory while it is read, a larger one on disk; one larger than the last is none of ours.
_IN_MEMORY, _MOST_PACKED, _MOST_UNPACKED = 4 << 20, 256 << 20, 1 << 30
_LIMITED_WAIT_S = 10.0
#: Stamps above this are microseconds.
_MICROSECONDS = 10**14


class Table(NamedTuple):
    """How a kind of file is laid out.

    Attributes
    ----------
    layouts
        The documented column names in order; files without a header, or with one that cannot be read, are taken by
        the layout of their width.
    wanted
        What is read of it: for each column the names it may have, the best first.

    """

    layouts: Sequence[tuple[str, ...]]
    wanted: Sequence[tuple[str, ...]]


class BulkFiles:
    """The files of one host, as rows of text; safe to share between threads."""

    def __init__(self, venue: Venue, settings: VenueSettings, paths: Container[str], patience: Patience | None) -> None:
        self._venue = venue
        self._transport = Transport(
            venue,
            settings.archive_url,
            paths,
            patience or _PATIENCE,
            scale=settings.rate_scale,
            proxy=settings.proxy,
            limited_wait_s=_LIMITED_WAIT_S,
        )

    def rows(self, path: str, table: Table, params: Params | None = None, *, summed: bool) -> Iterator[list[str]]:
        """The wanted columns of each row; nothing when there is no such file.

        With `summed` the file must have the sha256 that stands in `path.CHECKSUM`; a file that has not is asked for
        once more, for files are replaced now and then.

        Raises
        ------
        VenueError
            The file is damaged, which names it, or the host does not answer.
        SchemaError
            It is laid out differently.

        """
        with self._checked(path, params or {}, summed=summed) as file:
            if file is None:
                return
            try:
                with zipfile.ZipFile(file) as packed:
                    for member in packed.infolist():
                        if member.filename.lower().endswith(".csv"):
                            if member.file_size > _MOST_UNPACKED:
                                raise self._damaged(path, f"{member.filename} would be {member.file_size:,} bytes")
                            with packed.open(member) as raw:
                                text = io.TextIOWrapper(raw, "utf-8-sig", errors="replace", newline="")
                                yield from picked(csv.reader(text), table, f"{self._venue} archive file {path}")
            except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, csv.Error) as error:
                raise self._damaged(path, f"{type(error).__name__}: {error}") from None

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    @contextmanager
    def _checked(self, path: str, params: Params, *, summed: bool) -> Iterator[IO[bytes] | None]:
        """The file, complete and as its checksum says; None when there is none."""
        said: str | None = ""
        found = ""
        for _ in range(2):
            if summed and (said := self._sum(path)) is None:
                yield None
                return
            with SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
                found = self._download(path, params, file)
                if not found or not summed or found == said:
                    yield file if found else None
                    return
        raise self._damaged(path, f"sha256 {found[:16]}…, its CHECKSUM says {str(said)[:16]}…")

    def _sum(self, path: str) -> str | None:
        """What the checksum file says; None when there is none."""
        body = bytearray()

        def once() -> str | None:
            body.clear()
            where, status, _ = self._transport.read(f"{path}.CHECKSUM", {}, body.extend)
            if not self._there(where, status):
                return None
            match = re.match(rb"\s*([0-9a-fA-F]{64})\s+\*?(\S+)", body)
            if match is None or match[2].decode(errors="replace") != path.rsplit("/", 1)[-1]:
                raise self._damaged(path, f"its CHECKSUM reads {bytes(body[:80])!r}")
            return match[1].decode().lower()

        return self._transport.tried(_POLITE, path, {}, once)

    def _download(self, path: str, params: Params, file: IO[bytes]) -> str:
        """The sha256 of what is written to the file; empty when there is none."""

        def once() -> str:
            digest = hashlib.sha256()
            file.seek(0)
            file.truncate()

            def take(chunk: bytes) -> None:
                digest.update(chunk)
                file.write(chunk)
                if file.tell() > _MOST_PACKED:
                    raise VenueError(f"{self._venue} archive file {path} is larger than {_MOST_PACKED:,} bytes")

            where, status, _ = self._transport.read(path, params, take)
            return digest.hexdigest() if self._there(where, status) else ""

        found = self._transport.tried(_POLITE, path, params, once)
        file.seek(0)
        return found

    def _there(self, where: str, status: int) -> bool:
        """Whether there is such a file."""
        if status == HTTPStatus.OK:
            return True
        if status == HTTPStatus.NOT_FOUND:
            return False
        busy = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        advice = "try again later" if busy else "check archive_url"
        raise VenueError(f"{where}: HTTP {status} instead of a file; {advice}", retryable=busy)

    def _damaged(self, path: str, how: str) -> VenueError:
        return VenueError(
            f"{self._venue} archive file {path} is damaged ({how}); nothing of it is used, try again later",
            retryable=True,
            final=True,
        )


def picked(rows: Iterator[list[str]], table: Table, where: str) -> Iterator[list[str]]:
    """The wanted columns of each row, a header taken for what it is.

    A header is a first row without any number. Its names count up to a slash (OKX once wrote `side/交易方向`); where
    they cannot be read, the layout of the same width does.

    Raises
    ------
    SchemaError
        A wanted column is not there, or a row is too short.

    """
    first = next(rows, None)
    if first is None:
        return
    header = not any(_is_number(cell) for cell in first)
    names = [cell.partition("/")[0].strip().lower() for cell in first] if header else []
    at = _places(names, table.wanted)
    if at is None:
        layout = next((one for one in table.layouts if len(one) == len(first)), None)
        at = _places(list(layout or ()), table.wanted)
    if at is None:
        raise SchemaError(f"{where}: {len(first)} columns {first!r:.160}; laid out differently than documented")
    if not header:
        yield [first[i] for i in at]
    for row in rows:
        if row:
            if len(row) <= max(at):
                raise SchemaError(f"{where}: row {row!r:.160} has {len(row)} fields instead of {len(first)}")
            yield [row[i] for i in at]


def milliseconds(text: str) -> int:
    """Unix milliseconds of a stamp in milliseconds, microseconds (told by their size) or as UTC text.

    Raises
    ------
    SchemaError
        It is none of these.

    """
    try:
        stamp = int(text)
    except ValueError:
        pass
    else:
        return stamp // 1000 if stamp > _MICROSECONDS else stamp
    if not re.match(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d", text):
        raise SchemaError(f"{text!r:.80} is no time in milliseconds, microseconds or UTC text; another shape of file")
    return parse_utc(text)


def _places(names: Sequence[str], wanted: Sequence[tuple[str, ...]]) -> list[int] | None:
    found = [next((names.index(name) for name in options if name in names), -1) for options in wanted]
    return None if -1 in found else found


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
