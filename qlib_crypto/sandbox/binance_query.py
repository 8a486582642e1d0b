"""What a Binance request asks, what it weighs and how it is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NamedTuple

import orjson

from qlib_crypto.sandbox.answers import Answer, html
from qlib_crypto.sandbox.limits import Verdict

KLINES, MOST_KLINES = 500, 1_500
#: Klines weigh more the longer the page: (rows below which, weight), and beyond.
_KLINE_WEIGHT = ((100, 1), (500, 2), (1_001, 5))
_LONG_PAGE_WEIGHT = 10
#: Digits the venue takes at most, and the end of time.
_DIGITS = 20
_FOR_EVER = 2**62

Query = Mapping[str, str]


class Endpoint(NamedTuple):
    """An endpoint: its weight and its answer as JSON.

    `funding`: it counts on the limit of the funding endpoints; `data`: on that of the statistics; `pages`: its rows are
    a page.
    """

    weight: Callable[[Query], int]
    answer: Callable[[Query, int], bytes]
    funding: bool = False
    pages: bool = False
    data: bool = False


class BinanceError(Exception):
    """An error answer `{"code", "msg"}` with HTTP 400."""

    def __init__(self, code: int, msg: str) -> None:
        super().__init__(msg)
        self.code, self.msg = code, msg

    def answer(self, headers: Mapping[str, str]) -> Answer:
        """The answer, with the headers that every answer has."""
        return Answer(orjson.dumps({"code": self.code, "msg": self.msg}), HTTPStatus.BAD_REQUEST, headers=headers)


#: The venue's own trouble, in turn.
TROUBLES = (
    Answer(b"Service Unavailable", HTTPStatus.SERVICE_UNAVAILABLE, "text/plain"),
    html(HTTPStatus.BAD_GATEWAY),
    Answer(
        orjson.dumps({"code": -1000, "msg": "An unknown error occurred while processing the request."}),
        HTTPStatus.INTERNAL_SERVER_ERROR,
    ),
    html(HTTPStatus.GATEWAY_TIMEOUT),
)


def too_much(verdict: Verdict, headers: Mapping[str, str]) -> Answer:
    """Too much weight, or banned for going on after that."""
    msg = "Too many requests; current limit of IP is 2400 requests per minute."
    if verdict.status != HTTPStatus.TOO_MANY_REQUESTS:
        msg = f"Way too many requests; IP banned for {verdict.retry_after_s} s. Please use the websocket."
    return Answer(orjson.dumps({"code": -1003, "msg": msg}), verdict.status, headers=headers)


def weight_of(endpoint: Endpoint, query: Query) -> int:
    """What a request weighs; one that is refused as wrong weighs as the lightest."""
    try:
        return endpoint.weight(query)
    except BinanceError:
        return 1


def kline_weight(query: Query) -> int:
    """What a page of klines weighs."""
    limit = page(query, KLINES, MOST_KLINES)[0]
    return next((weight for below, weight in _KLINE_WEIGHT if limit < below), _LONG_PAGE_WEIGHT)


def needed(query: Query, name: str) -> str:
    """A parameter that must be there."""
    if not query.get(name):
        raise BinanceError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return query[name]


def page(query: Query, default: int, most: int) -> tuple[int, int | None, int | None]:
    """`limit`, `startTime` and `endTime` of a request."""
    limit, start, end = (number(query, name) for name in ("limit", "startTime", "endTime"))
    limit = default if limit is None else limit
    if not 0 < limit <= most:
        raise BinanceError(-1130, "Data sent for parameter 'limit' is not valid.")
    if start is not None and end is not None and start > end:
        raise BinanceError(-1023, "Start time is greater than end time.")
    return limit, start, end


def number(query: Query, name: str) -> int | None:
    """A whole number; one beyond all times is the end of time."""
    text = query.get(name)
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS:
        raise BinanceError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return min(int(text), _FOR_EVER)
