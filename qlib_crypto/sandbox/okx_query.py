"""What an OKX request asks and how it is refused: parameters, error answers, the page of a list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

import orjson

from qlib_crypto.sandbox.answers import Answer, html

_INST_TYPES = ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION")
#: Times beyond it are the end of time.
_FOR_EVER = 2**62

Query = Mapping[str, str]


class Endpoint(NamedTuple):
    """An endpoint: requests per 2 s and address, also per `per`; its rows as JSON; whether they are a page."""

    limit: int
    per: str | None
    answer: Callable[[Query, int], bytes]
    pages: bool = False


def refusal(code: int, msg: str, status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Answer:
    """The envelope of an error."""
    return Answer(orjson.dumps({"code": str(code), "msg": msg, "data": []}), status, headers=headers or {})


class OkxError(Exception):
    """An error answer: `code` and `msg` of the envelope, and the HTTP status it comes with."""

    def __init__(self, code: int, msg: str, status: HTTPStatus) -> None:
        super().__init__(msg)
        self.code, self.msg, self.status = code, msg, status

    def answer(self) -> Answer:
        """The envelope."""
        return refusal(self.code, self.msg, self.status)


UNAVAILABLE = refusal(50001, "Service temporarily unavailable. Please try again later", HTTPStatus.SERVICE_UNAVAILABLE)
#: The venue's own trouble, in turn.
TROUBLES = (
    refusal(50026, "System error. Try again later", HTTPStatus.INTERNAL_SERVER_ERROR),
    html(HTTPStatus.BAD_GATEWAY),
    UNAVAILABLE,
    html(HTTPStatus.GATEWAY_TIMEOUT),
)
#: Trouble that says HTTP 200, in turn.
TROUBLES_200 = tuple(
    refusal(code, msg, HTTPStatus.OK)
    for code, msg in (
        (50011, "Too Many Requests"),
        (50040, "Too frequent operations, please try again later"),
        (50013, "Systems are busy. Please try again later"),
        (50001, "Service temporarily unavailable. Please try again later"),
        (50026, "System error. Try again later"),
    )
)


def too_many(status: HTTPStatus, headers: Mapping[str, str]) -> Answer:
    """Over the limit, under 429 or under 200."""
    return refusal(50011, "Too Many Requests", status, headers)


def no_instrument() -> OkxError:
    """An id that trades nowhere."""
    return OkxError(51001, "Instrument ID, Instrument ID code, or Spread ID doesn't exist.", HTTPStatus.OK)


def wrong(name: str) -> OkxError:
    """A parameter that cannot be."""
    return OkxError(51000, f"Parameter {name} error", HTTPStatus.BAD_REQUEST)


def needed(query: Query, name: str) -> str:
    """A parameter that must be there."""
    if not query.get(name):
        raise OkxError(50014, f"Parameter {name} can not be empty.", HTTPStatus.BAD_REQUEST)
    return query[name]


def inst_type(query: Query) -> str:
    """`instType`."""
    kind = needed(query, "instType")
    if kind not in _INST_TYPES:
        raise wrong("instType")
    return kind


def page(query: Query, most: int, default: int) -> tuple[int, int, int]:
    """`before`, `after` and `limit` of a request; without them everything, and `default` rows."""
    return bounds(query, "before", "after", most, default)


def bounds(query: Query, newer: str, older: str, most: int, default: int) -> tuple[int, int, int]:
    """The two exclusive times of a page, newer than and older than, and its length."""
    limit = number(query, "limit", default)
    if not 0 < limit <= most:
        raise wrong("limit")
    return number(query, newer, -1), number(query, older, _FOR_EVER), limit


def number(query: Query, name: str, default: int) -> int:
    """A whole number; one beyond all times is the end of time."""
    text = query.get(name) or str(default)
    if not text.isascii() or not text.removeprefix("-").isdecimal():
        raise wrong(name)
    if len(text) > len(str(_FOR_EVER)):
        return -1 if text[0] == "-" else _FOR_EVER
    return max(-1, min(int(text), _FOR_EVER))
