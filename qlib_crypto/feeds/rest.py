"""The HTTP core that every venue's REST client stands on: an allow-list of public paths, limits, retries, errors."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import orjson
import requests
import stamina
import urllib3

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.limits import Limiter
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import Bar, Estimate, Settlement, Ticker
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

Params = Mapping[str, str | int]

_LOG = logging.getLogger(__name__)
stamina.instrumentation.set_on_retry_hooks(())  # `_told` says what is tried again, in one line

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CHUNK = 64 * 1024
_SHOWN = 160
_BANNED = 418
_BLOCKED = (HTTPStatus.FORBIDDEN, HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS)
#: Headers that would say who we are; public market data needs none.
_PERSONAL = ("authorization", "cookie", "ok-access-key", "x-mbx-apikey")


class RestClient(Protocol):
    """Public market data of one venue over REST; safe to share between threads.

    Every method raises `VenueError` when the venue does not answer or refuses, `SchemaError` when its answer has
    another shape than documented, and `ConfigError` for an interval that it does not serve.
    """

    venue: Venue

    def server_time_ms(self) -> int:
        """The venue's own time."""
        ...

    def specs(self) -> list[InstrumentSpec]:
        """Every linear perpetual, whatever its state; one whose numbers are not published yet is left out."""
        ...

    def tickers(self) -> list[Ticker]:
        """Last price and 24 h turnover of every linear perpetual that has traded."""
        ...

    def estimates(self) -> list[Estimate]:
        """The running funding rate of every linear perpetual that has one."""
        ...

    def bars(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[Bar]]:
        """Pages of confirmed bars that open in [start, end), each once; pages in the venue's order."""
        ...

    def settlements(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[Settlement]]:
        """Pages of funding settled in [start, end), each once, as far back as the venue reaches."""
        ...

    def close(self) -> None:
        """Close the connections; who waits for a limit gets a `VenueError`."""
        ...


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


class PublicSession(requests.Session):
    """A session that sends GET to the allowed paths, follows nothing, names nobody, and refuses everything else."""

    def __init__(self, base_url: str, paths: Mapping[str, Route]) -> None:
        super().__init__()
        url = urlsplit(base_url)
        self._host = url.netloc
        self._allowed = frozenset(url.path.rstrip("/") + path for path in paths)
        # a proxy of the environment may not stand between us and loopback; .netrc may name us nowhere
        self.trust_env = url.hostname not in _LOOPBACK
        self.auth = lambda request: request
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers.update({"Accept": "application/json", "User-Agent": "qlib-crypto"})

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """The answer to a public request.

        Raises
        ------
        VenueError
            It is no GET, goes elsewhere than to the list's paths, or names an account; nothing was sent.

        """
        url = urlsplit(request.url or "")
        named = [name for name in request.headers if name.lower() in _PERSONAL]
        listed = request.method == "GET" and url.netloc == self._host and url.path in self._allowed
        if not listed or named or request.body:
            raise VenueError(
                f"{request.method} {url.netloc}{url.path} is no public market-data request "
                f"({', '.join(named) or 'not on the list'}); qlib-crypto sends no other"
            )
        return super().send(request, **{**kwargs, "allow_redirects": False})


class Http:
    """JSON answers of one venue's public paths."""

    def __init__(self, venue: Venue, settings: VenueSettings, dialect: Dialect, patience: Patience) -> None:
        self._venue = venue
        self._base = settings.rest_url.rstrip("/")
        self._local = urlsplit(self._base).hostname in _LOOPBACK
        self._scale = settings.rate_scale
        self._dialect = dialect
        self._patience = patience
        self._limiter = Limiter(settings.rate_scale, max_pause_s=patience.longest_pause_s)
        self._session = PublicSession(self._base, dialect.routes)

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
                return self._once(path, params)
        raise AssertionError("unreachable: the last attempt raises")

    def close(self) -> None:
        """Close the connections, and wake who waits."""
        self._limiter.close()
        self._session.close()

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

    def _once(self, path: str, params: Params) -> Any:
        where = f"{self._venue} GET {path}" + "".join(f" {key}={value}" for key, value in params.items())
        try:
            status, headers, body = self._read(path, params)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise self._unreachable(where, error) from None
        if status in (HTTPStatus.TOO_MANY_REQUESTS, _BANNED):
            asked = _retry_after_s(headers.get("Retry-After"))
            wait = self._dialect.limited_wait_s if asked is None else asked
            self._limiter.pause(wait)
            raise VenueError(
                f"{where}: HTTP {status}, too many requests{_quote(body)}; wait {wait:.0f} s, or lower rate_scale",
                retryable=True,
                retry_after_s=wait,
            )
        if self._dialect.spent(headers, self._scale):
            self._limiter.pause(_to_next_minute_s())
        return self._payload(where, status, body)

    def _read(self, path: str, params: Params) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body; the body must be complete by the deadline, however slowly it drips."""
        patience = self._patience
        deadline = time.monotonic() + patience.answer_s
        timeout = (patience.connect_s, patience.read_s)
        with self._session.get(self._base + path, params=params, timeout=timeout, stream=True) as answer:
            body = bytearray()
            while chunk := answer.raw.read1(_CHUNK, decode_content=True):
                body += chunk
                if time.monotonic() > deadline:
                    raise requests.Timeout(f"the answer was not complete after {patience.answer_s:g} s")
            return answer.status_code, answer.headers, bytes(body)

    def _payload(self, where: str, status: int, body: bytes) -> Any:
        if status in _BLOCKED:
            raise VenueError(
                f"{where}: HTTP {status}, the venue blocks this country or address (geo-block or firewall)"
                f"{_quote(body)}; use a network from which the venue may be reached"
            )
        broken = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            payload = orjson.loads(body)
        except orjson.JSONDecodeError:
            raise VenueError(
                f"{where}: HTTP {status}, {len(body)} bytes that are no complete JSON{_quote(body)}; "
                "try again later, or check --endpoint",
                retryable=broken or status == HTTPStatus.OK,
            ) from None
        refusal = self._dialect.refusal(payload)
        if refusal is None and status == HTTPStatus.OK:
            return payload
        text, retryable, wait = refusal or Refusal(f"unexpected answer{_quote(body)}", retryable=False)
        if wait is not None:
            self._limiter.pause(wait)
        retryable = retryable or broken
        advice = "try again later" if retryable else "check symbol, interval and --endpoint"
        final = refusal is not None and not retryable
        raise VenueError(
            f"{where}: HTTP {status}, {text}; {advice}", retryable=retryable, final=final, retry_after_s=wait
        )

    def _unreachable(self, where: str, error: Exception) -> VenueError:
        text = _cause(error)
        if "refused" in text.lower():
            # on loopback nobody listens, and waiting for it only hides that
            advice = "is the sandbox running? check --endpoint" if self._local else "check --endpoint or the network"
            return VenueError(f"{where}: connection to {self._base} refused; {advice}", retryable=not self._local)
        retryable = not isinstance(error, requests.exceptions.SSLError | requests.exceptions.InvalidURL)
        return VenueError(
            f"{where}: no answer from {self._base} ({text[:_SHOWN]}); check the network or --endpoint",
            retryable=retryable,
        )


def _cause(error: BaseException) -> str:
    """What went wrong at the bottom of urllib3's nested errors, in their words."""
    inner: object = error
    while isinstance(inner, BaseException):
        error = inner
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, BaseException)), None)
    text = re.sub(r"^(<[^>]*>|HTTPS?Connection(Pool)?\([^)]*\)): ", "", " ".join(str(error).split()))
    return text or type(error).__name__


def _quote(body: bytes) -> str:
    """The start of an answer, for a message."""
    text = " ".join(body[: 4 * _SHOWN].decode(errors="replace").split())
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


def _to_next_minute_s() -> float:
    """Until the venue's window, which is fixed to the minute, is over, with a second for the clocks to differ."""
    return 61.0 - time.time() % 60.0
