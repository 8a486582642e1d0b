"""A raw public websocket to look at a venue with: what is said, heard and when it closes, frame by frame.

The collector never uses it; `qlib-crypto doctor` does. It can say no more than the collector can.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.proxies import is_loopback
from qlib_crypto.feeds.rest import Dialect, Http
from qlib_crypto.feeds.transport import Patience, Route
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Venue

#: Where a look may go: nowhere that the collector does not go.
PATHS = ("/ws/v5/public", "/ws/v5/business", "/market/stream")
_VERBS = ("subscribe", "unsubscribe")
_SHOWN = 160
_INSTRUMENTS = "/api/v5/public/instruments"
_TIME = {Venue.OKX: "/api/v5/public/time", Venue.BINANCE: "/fapi/v1/time"}

#: Gets `sent`, `heard`, `opened`, `closed`, … and the text, as it happens.
type Tape = Callable[[str, str], None]


class Look:
    """One open websocket.

    Attributes
    ----------
    opened_s
        Wall time of the opening, `time.monotonic`.
    ended
        None while it is open, then the close code (None inside: none came) and its age in seconds.

    """

    def __init__(self, conn: ClientConnection, tape: Tape) -> None:
        self._conn = conn
        self._tape = tape
        self.opened_s = time.monotonic()
        self.ended: tuple[int | None, float] | None = None

    async def say(self, request: Mapping[str, Any] | str) -> None:
        """Send a subscription, or the text `ping`; nothing when it is closed.

        Raises
        ------
        VenueError
            It is anything else; nothing was sent.

        """
        text = request if isinstance(request, str) else orjson.dumps(request).decode()
        verb = "ping" if request == "ping" else ""
        if isinstance(request, Mapping):
            verb = str(request.get("op") or request.get("method")).lower()
        if verb not in (*_VERBS, "ping"):
            raise VenueError(f"websocket request {text[:_SHOWN]!r} is no subscription; qlib-crypto sends no other")
        self._tape("sent", text)
        try:
            await self._conn.send(text)
        except ConnectionClosed:
            self._close()

    async def ping(self) -> None:
        """Send a ping frame; its answer is not waited for."""
        self._tape("sent", "(ping frame)")
        try:
            await self._conn.ping()
        except ConnectionClosed:
            self._close()

    async def hear(self, seconds: float) -> AsyncIterator[Any]:
        """What arrives within wall seconds, parsed (text that is no JSON as it is); ends early when it closes."""
        until = time.monotonic() + seconds
        while self.ended is None and (left := until - time.monotonic()) > 0:
            try:
                text = await asyncio.wait_for(self._conn.recv(decode=True), left)
            except TimeoutError:
                return
            except ConnectionClosed:
                self._close()
                return
            self._tape("heard", str(text))
            try:
                yield orjson.loads(text)
            except orjson.JSONDecodeError:
                yield text

    def _close(self) -> None:
        if self.ended is None:
            self.ended = (self._conn.close_code, time.monotonic() - self.opened_s)
            self._tape("closed", f"code {self.ended[0]} after {self.ended[1]:.1f} s")


@asynccontextmanager
async def looking(settings: VenueSettings, path: str, tape: Tape, *, port: int | None = None) -> AsyncIterator[Look]:
    """A websocket to `path` of the venue's websocket address (`port` replaces its port), closed at the end.

    Raises
    ------
    VenueError
        The path is not public, or the venue does not open it; the message has its address and the cause.

    """
    url = urlsplit(settings.ws_url)
    netloc = url.netloc if port is None else f"{url.hostname}:{port}"
    address = f"{url.scheme}://{netloc}{url.path.rstrip('/')}{path}"
    if url.scheme not in ("ws", "wss") or url.username or urlsplit(path).path not in PATHS:
        raise VenueError(f"websocket {address[:_SHOWN]!r} is no public market-data address; check ws_url or --endpoint")
    proxy: str | Literal[True] | None = None if is_loopback(address) else (settings.proxy or True)
    shown = address[:_SHOWN]
    try:
        conn = await connect(
            address, proxy=proxy, compression=None, max_size=2**24, ping_interval=None, open_timeout=10, close_timeout=1
        )
    except (OSError, TimeoutError, WebSocketException) as error:
        tape("refused", f"{shown}: {error}")
        text = " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN]
        blocked = " (geo-block or firewall)" if "HTTP 403" in text or "HTTP 451" in text else ""
        raise VenueError(f"websocket {shown} did not open{blocked}: {text}; check the network or ws_url") from None
    tape("opened", shown)
    try:
        yield Look(conn, tape)
    finally:
        await conn.close()


def venue_time_ms(venue: Venue, settings: VenueSettings) -> int:
    """The venue's own time, asked once, without the patience of the collector's client."""
    payload = _asked(venue, settings, _TIME[venue])
    found = payload.get("serverTime") or (payload.get("data") or [{}])[0].get("ts")
    if found is None:
        raise VenueError(
            f"{venue} GET {_TIME[venue]}: no time in {str(payload)[:_SHOWN]!r}; check rest_url or --endpoint"
        )
    return int(found)


def okx_instrument_ids(settings: VenueSettings, tape: Tape) -> list[str]:
    """Every `instId` that OKX lists as SWAP, those included that the collector leaves out."""
    payload = _asked(Venue.OKX, settings, _INSTRUMENTS, instType="SWAP")
    tape("heard", f"GET {_INSTRUMENTS}: {orjson.dumps(payload).decode()}")
    return [str(row.get("instId", "")) for row in payload.get("data", [])]


def _asked(venue: Venue, settings: VenueSettings, path: str, **params: str) -> dict[str, Any]:
    dialect = Dialect({path: Route(20, 2.0)}, lambda _: None, limited_wait_s=2.0)
    http = Http(venue, settings, dialect, Patience(attempts=1))
    try:
        payload = http.get(path, **params)
    finally:
        http.close()
    return payload if isinstance(payload, dict) else {}
