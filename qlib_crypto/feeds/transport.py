"""Requests with patience: the venue's limits, retries with back-off, and failures in one line each."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import requests
import stamina
import urllib3

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.limits import Limiter
from qlib_crypto.feeds.proxies import is_loopback
from qlib_crypto.feeds.session import PublicSession
from qlib_crypto.symbols import Venue

Params = Mapping[str, str | int]

_LOG = logging.getLogger(__name__)
stamina.instrumentation.set_on_retry_hooks(())  # `_told` says what is tried again, in one line

_CHUNK = 64 * 1024
_SHOWN = 160
_BANNED = 418
_BLOCKED = (HTTPStatus.FORBIDDEN, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS)


@dataclass(frozen=True, slots=True)
class Route:
    """One public path and its published limit: `limit` requests (or weight) in `seconds`.

    Attributes
    ----------
    per
        A parameter each value of which has a window of its own.
    bucket
        Paths with one bucket share a window; a path has its own when None.
    cost
        What a request takes from the limit.

    """

    limit: int
    seconds: float
    per: str | None = None
    bucket: str | None = None
    cost: Callable[[Params], int] = lambda _: 1

    def per_second(self, params: Params, scale: float) -> float:
        """How many such requests a second the limit takes, at a share of it."""
        return self.limit * scale / self.seconds / self.cost(params)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try, seconds: back-off with jitter between `attempts`, and the longest pause a venue may ask for.

    A request must connect in `connect_s`, go on sending within `read_s`, and be complete in `answer_s`.
    """

    attempts: int = 7
    first_wait_s: float = 0.5
    longest_wait_s: float = 15.0
    jitter_s: float = 1.0
    longest_pause_s: float = 130.0
    connect_s: float = 5.0
    read_s: float = 30.0
    answer_s: float = 60.0

    def scaled(self, by: float) -> Patience:
        """Every wait of ours times `by`, though loopback too needs a second or two; a venue's own pause stays."""
        return replace(
            self,
            first_wait_s=self.first_wait_s * by,
            longest_wait_s=self.longest_wait_s * by,
            jitter_s=self.jitter_s * by,
            read_s=max(min(2.0, self.read_s), self.read_s * by),
            answer_s=max(min(4.0, self.answer_s), self.answer_s * by),
        )


class Transport:
    """GETs to the allowed paths of one host, within limits and with patience.

    Parameters
    ----------
    base
        Address before every path.
    paths
        What may be asked.
    scale
        Multiplies every limit.
    limited_wait_s
        The wait after 429 or 418 without `Retry-After`.

    """

    def __init__(
        self,
        venue: Venue,
        base: str,
        paths: Container[str],
        patience: Patience,
        *,
        scale: float,
        proxy: str | None,
        limited_wait_s: float,
    ) -> None:
        self.base = base.rstrip("/")
        self.session = PublicSession(self.base, paths, proxy)
        self._venue = venue
        self._local = is_loopback(self.base)
        self._scale = scale
        self._patience = patience
        self._limited_wait_s = limited_wait_s
        self._limiter = Limiter(scale, max_pause_s=patience.longest_pause_s)

    def tried[T](self, route: Route, path: str, params: Params, once: Callable[[], T]) -> T:
        """What `once` gives, within the route's limit; tried again where waiting helps.

        Raises
        ------
        VenueError
            What `once` raised in the last attempt.

        """
        key = (route.bucket or path, str(params.get(route.per, "")) if route.per else "")
        patience = self._patience
        for attempt in stamina.retry_context(
            on=self._again,
            attempts=patience.attempts,
            timeout=None,
            wait_initial=patience.first_wait_s,
            wait_max=patience.longest_wait_s,
            wait_jitter=patience.jitter_s,
        ):
            slot = self._limiter.slot(key, limit=route.limit, seconds=route.seconds, cost=route.cost(params))
            with attempt, self._told(attempt), slot:
                return once()
        raise AssertionError("unreachable: the last attempt raises")

    def read(self, path: str, params: Params, take: Callable[[bytes], object]) -> tuple[str, int, Mapping[str, str]]:
        """What the request is called in messages, its status and its headers; the body goes to `take` in pieces.

        Raises
        ------
        VenueError
            Nobody answered or not completely, the venue wants fewer requests, or it blocks us.

        """
        where = f"{self._venue} GET {path}" + "".join(f" {key}={value}" for key, value in params.items())
        first = bytearray()
        try:
            status, headers = self._stream(path, params, first, take)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._unreachable(where, error) from None
        if status in (HTTPStatus.TOO_MANY_REQUESTS, _BANNED):
            asked = _retry_after_s(headers.get("Retry-After"))
            wait = self._limited_wait_s if asked is None else asked
            self.pause(wait)
            raise VenueError(
                f"{where}: HTTP {status}, too many requests{quoted(first)}; wait {wait:.0f} s, or lower rate_scale",
                retryable=True,
                retry_after_s=wait,
            )
        if status in _BLOCKED:
            raise VenueError(
                f"{where}: HTTP {status}, the venue blocks this country or address (geo-block or firewall)"
                f"{quoted(first)}; use a network from which the venue may be reached, or set proxy"
            )
        return where, status, headers

    def pause(self, seconds: float) -> None:
        """Send nothing for so long."""
        self._limiter.pause(seconds)

    def close(self) -> None:
        """Close the connections, and wake who waits."""
        self._limiter.close()
        self.session.close()

    def _stream(
        self, path: str, params: Params, first: bytearray, take: Callable[[bytes], object]
    ) -> tuple[int, Mapping[str, str]]:
        """Status and headers; the body must be complete by the deadline, however slowly it drips."""
        patience = self._patience
        deadline = time.monotonic() + patience.answer_s
        timeout = (patience.connect_s, patience.read_s)
        with self.session.get(self.base + path, params=params, timeout=timeout, stream=True) as answer:
            while chunk := answer.raw.read1(_CHUNK, decode_content=True):
                first += chunk[: max(0, 4 * _SHOWN - len(first))]
                take(chunk)
                if time.monotonic() > deadline:
                    raise requests.Timeout(f"the answer was not complete after {patience.answer_s:g} s")
            return answer.status_code, answer.headers

    @contextmanager
    def _told(self, attempt: stamina.Attempt) -> Iterator[None]:
        """Log a failure that is tried again, one line each."""
        try:
            yield
        except VenueError as error:
            if self._again(error) and attempt.num < self._patience.attempts:
                wait = max(attempt.next_wait, error.retry_after_s or 0.0)
                _LOG.warning(
                    "%s (attempt %d of %d, next in about %.1f s)", error, attempt.num, self._patience.attempts, wait
                )
            raise

    def _again(self, error: Exception) -> bool:
        """Whether waiting helps, and not for longer than we want to."""
        if not isinstance(error, VenueError) or not error.retryable:
            return False
        return (error.retry_after_s or 0.0) <= self._patience.longest_pause_s

    def _unreachable(self, where: str, error: Exception) -> VenueError:
        text = cause_of(error)
        if isinstance(error, requests.exceptions.ProxyError):
            return VenueError(
                f"{where}: the proxy gave no way to {self.base} ({text[:_SHOWN]}); check the setting proxy",
                retryable=True,
            )
        if "refused" in text.lower():
            # on loopback nobody listens, and waiting for it only hides that
            advice = "is the sandbox running? check --endpoint" if self._local else "check --endpoint or the network"
            return VenueError(f"{where}: connection to {self.base} refused; {advice}", retryable=not self._local)
        retryable = not isinstance(error, requests.exceptions.SSLError | requests.exceptions.InvalidURL)
        return VenueError(
            f"{where}: no answer from {self.base} ({text[:_SHOWN]}); check the network or --endpoint",
            retryable=retryable,
        )


def cause_of(error: BaseException) -> str:
    """What went wrong at the bottom of urllib3's nested errors, in their words."""
    inner: object = error
    while isinstance(inner, BaseException):
        error = inner
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
    text = re.sub(r"^(<[^>]*>|HTTPS?Connection(Pool)?\([^)]*\)): ", "", " ".join(str(error).split()))
    return text or type(error).__name__


def quoted(body: Any) -> str:
    """The start of an answer, for a message."""
    text = " ".join(bytes(body[: 4 * _SHOWN]).decode(errors="replace").split())
    return f": {text[:_SHOWN]}" if text else ""


def _retry_after_s(text: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which is a number or a date; None when it is absent or unreadable."""
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
