"""How REST answers leave: as they are, or refused, thinned or dripping as a fault wants it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

import orjson
from aiohttp import web

from qlib_crypto.sandbox.faults import Faults

JSON = "application/json"
_HTML = "<html><head><title>{status} {phrase}</title></head><body>{status} {phrase}</body></html>"
_PIECES = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: body, status, type and headers."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> web.Response:
        return web.Response(
            body=self.body, status=self.status, content_type=self.content_type, headers=dict(self.headers)
        )


def html(status: HTTPStatus) -> Answer:
    """What a proxy before the venue says when the venue does not."""
    return Answer(_HTML.format(status=int(status), phrase=status.phrase).encode(), status, "text/html")


def retry_after(faults: Faults) -> dict[str, str]:
    """The header of a `rate_limit` fault that was asked for with one."""
    seconds = faults.value("rate_limit", "retry_after")
    return {} if seconds is None else {"Retry-After": f"{seconds:g}"}


def thinned(faults: Faults, rows: bytes) -> bytes:
    """The rows of a page, a JSON array, as `empty_page` and `short_page` leave them."""
    if faults.due("empty_page") and rows != b"[]":
        faults.take("empty_page")
        return b"[]"
    if faults.due("short_page"):
        known = orjson.loads(rows)
        if len(known) > 1:
            faults.take("short_page")
            return orjson.dumps(known[: len(known) // 2])
    return rows


async def send(request: web.Request, answer: Answer, faults: Faults) -> web.StreamResponse:
    """Send an answer, in pieces over some seconds when a `slow_page` wants that."""
    if not faults.take("slow_page"):
        return answer.response()
    seconds = faults.value("slow_page", "seconds") or 0.0
    response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
    response.content_type = answer.content_type
    response.content_length = len(answer.body)
    await response.prepare(request)
    size = max(1, -(-len(answer.body) // _PIECES))
    with contextlib.suppress(ConnectionResetError):  # whoever asked has gone
        for start in range(0, len(answer.body), size):
            await response.write(answer.body[start : start + size])
            await asyncio.sleep(seconds / _PIECES)
        await response.write_eof()
    return response
