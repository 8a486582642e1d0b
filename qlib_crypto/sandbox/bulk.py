"""Bulk files: zipped CSV made of a tape when first asked for, and how they are sent."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus

from aiohttp import web

from qlib_crypto.sandbox.answers import Answer, html, send
from qlib_crypto.sandbox.faults import Faults

_ZIP, _TEXT = "application/zip", "text/plain"
_KEPT = 64
_STAMP = (2020, 1, 1, 0, 0, 0)


def zipped(name: str, header: str | None, rows: Iterable[str]) -> bytes:
    """A zip of one CSV, the same bytes for the same rows."""
    lines = [*([header] if header else []), *rows, ""]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        member = zipfile.ZipInfo(name.removesuffix(".zip") + ".csv", _STAMP)
        archive.writestr(member, "\n".join(lines).encode(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


class BulkHost:
    """Sends the files that `make(path, now)` makes (None when there is none), and their `.CHECKSUM` where wanted."""

    def __init__(
        self, make: Callable[[str, int], bytes | None], now: Callable[[], int], faults: Faults, *, summed: bool
    ) -> None:
        self._make = make
        self._now = now
        self._faults = faults
        self._summed = summed
        self._made: dict[str, bytes] = {}

    def handler(self) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """What answers a request for a file."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if self._faults.take("error"):
                return html(HTTPStatus.SERVICE_UNAVAILABLE).response()
            path, is_sum = request.path, self._summed and request.path.endswith(".CHECKSUM")
            data = self._file(path.removesuffix(".CHECKSUM") if is_sum else path)
            if data is None:
                return html(HTTPStatus.NOT_FOUND).response()
            if is_sum:
                name = path.rsplit("/", 1)[-1].removesuffix(".CHECKSUM")
                line = f"{hashlib.sha256(data).hexdigest()}  {name}\n"
                return Answer(line.encode(), content_type=_TEXT).response()
            if self._faults.take("checksum"):
                data = damaged(data)
            return await send(request, Answer(data, content_type=_ZIP), self._faults)

        return handle

    def _file(self, path: str) -> bytes | None:
        """The file, made once; what is not there yet is asked for again."""
        if path not in self._made:
            data = self._make(path, self._now())
            if data is None:
                return None
            while len(self._made) >= _KEPT:
                self._made.pop(next(iter(self._made)))
            self._made[path] = data
        return self._made[path]


def damaged(data: bytes) -> bytes:
    """The file with one byte of its content changed: sum and CRC no longer fit."""
    at = len(data) // 3
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
