"""The JSON core that every venue's REST client stands on: an allow-list of public paths, and what errors say."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.transport import Params, Patience, Route, Transport, quoted
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Venue


class Refusal(NamedTuple):
    """What an error object of a venue says; `wait_s` pauses the whole client."""

    text: str
    retryable: bool
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between venues.

    Attributes
    ----------
    routes
        Every path that may be called.
    refusal
        Reads an error object; None when the payload is no error.
    limited_wait_s
        The wait after 429 or 418 without `Retry-After`.
    spent
        Whether, by the headers of an answer and at a scale, our address has used up its limit, others included.

    """

    routes: Mapping[str, Route]
    refusal: Callable[[Any], Refusal | None]
    limited_wait_s: float
    spent: Callable[[Mapping[str, str], float], bool] = lambda _headers, _scale: False


class Http:
    """JSON of a venue's public paths; safe to share between threads."""

    def __init__(self, venue: Venue, settings: VenueSettings, dialect: Dialect, patience: Patience) -> None:
        self._venue = venue
        self._scale = settings.rate_scale
        self._dialect = dialect
        self._transport = Transport(
            venue,
            settings.rest_url,
            dialect.routes,
            patience,
            scale=settings.rate_scale,
            proxy=settings.proxy,
            limited_wait_s=dialect.limited_wait_s,
        )

    def get(self, path: str, **params: str | int) -> Any:
        """The parsed answer; waits for limits, and tries again where waiting helps.

        Raises
        ------
        VenueError
            The path is not on the list, the venue refused, or it did not answer in the last attempt.

        """
        route = self._dialect.routes.get(path)
        if route is None:
            raise VenueError(f"{self._venue} {path} is not on the list of public market-data paths; nothing was sent")
        return self._transport.tried(route, path, params, lambda: self._once(path, params))

    def close(self) -> None:
        """Close the connections, and wake who waits."""
        self._transport.close()

    def _once(self, path: str, params: Params) -> Any:
        body = bytearray()
        where, status, headers = self._transport.read(path, params, body.extend)
        if self._dialect.spent(headers, self._scale):
            self._transport.pause(_to_next_minute_s())
        return self._payload(where, status, bytes(body))

    def _payload(self, where: str, status: int, body: bytes) -> Any:
        broken = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            payload = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise VenueError(
                f"{where}: HTTP {status}, {len(body)} bytes that are no complete JSON{quoted(body)}; "
                "try again later, or check --endpoint",
                retryable=broken or status == HTTPStatus.OK,
            ) from None
        refusal = self._dialect.refusal(payload)
        if refusal is None and status == HTTPStatus.OK:
            return payload
        text, retryable, wait = refusal or Refusal(f"unexpected answer{quoted(body)}", retryable=False)
        if wait is not None:
            self._transport.pause(wait)
        retryable = retryable or broken
        advice = "try again later" if retryable else "check symbol, interval and --endpoint"
        final = refusal is not None and not retryable
        raise VenueError(
            f"{where}: HTTP {status}, {text}; {advice}", retryable=retryable, final=final, retry_after_s=wait
        )


def _to_next_minute_s() -> float:
    """Until the venue's window, which is fixed to the minute, is over, with a second for the clocks to differ."""
    return 61.0 - time.time() % 60.0
