"""Connections to public sockets, kept up: paced, backed off, watched, and stopped without leftovers."""

from __future__ import annotations

import asyncio
import atexit
import random
import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson
from cryptofeed.connection import AsyncConnection, WebsocketEndpoint, WSAsyncConn
from cryptofeed.connection_handler import ConnectionHandler
from cryptofeed.exceptions import ConnectionClosed as FeedClosed
from websockets.exceptions import ConnectionClosed

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.proxies import is_loopback
from qlib_crypto.feeds.telling import StreamCounters

Subscription = dict[str, list[str]]

#: For `websockets`: no more than `max_queue` frames wait to be read, then TCP makes the venue wait instead of our
#: memory growing.
SOCKET_OPTIONS = {"compression": None, "max_size": 2**24, "max_queue": 4_096, "open_timeout": 10, "close_timeout": 1}
_VERBS = ("subscribe", "unsubscribe")
_SHOWN = 160


@dataclass(frozen=True, slots=True)
class Pace:
    """How a connection is kept up, wall seconds.

    Attributes
    ----------
    spacing_s
        Between two openings of any connections of one stream (OKX takes 3 a second from an address).
    first_wait_s, longest_wait_s
        Back-off before a reconnect, doubled for each connection that did not live for `stable_s`; times 0.5 to 1.
    tend_s
        Between two looks at a connection, each with a keep-alive where the venue wants one.
    silence_s
        A connection on which nothing at all arrives for so long is half-open.
    no_data_s
        One on which only answers to our pings arrive is subscribed to nothing.

    """

    spacing_s: float = 0.4
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    stable_s: float = 60.0
    tend_s: float = 20.0
    silence_s: float = 65.0
    no_data_s: float = 180.0

    def scaled(self, by: float) -> Pace:
        """Every wait times `by`."""
        return Pace(*(wait * by for wait in astuple(self)))

    def wait_s(self, failures: int) -> float:
        """The pause before the next connection, after so many short-lived ones in a row."""
        full = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(failures, 30))
        return full * random.uniform(0.5, 1.0)


class Gate:
    """Lets the connections of one stream open one after the other, `spacing_s` apart."""

    def __init__(self, spacing_s: float) -> None:
        self._spacing_s = spacing_s
        self._lock = asyncio.Lock()
        self._next_s = 0.0

    async def enter(self) -> None:
        """Return when it is our turn."""
        async with self._lock:
            await asyncio.sleep(max(0.0, self._next_s - time.monotonic()))
            self._next_s = time.monotonic() + self._spacing_s


class PublicSocket(WSAsyncConn):
    """A websocket to one public address, `ws://` or `wss://`, that says nothing but subscriptions and `ping`.

    It goes through `proxy`, or through what the environment says where that is None; loopback is reached directly.

    Raises
    ------
    VenueError
        The address is not one of `paths`.

    """

    conn: Any = None

    def __init__(
        self,
        name: str,
        address: str,
        paths: Iterable[str],
        endpoint: WebsocketEndpoint,
        subscription: Subscription,
        proxy: str | None = None,
    ) -> None:
        url = urlsplit(address)
        if url.scheme not in ("ws", "wss") or url.username or not url.path.endswith(tuple(paths)):
            raise VenueError(f"websocket {address!r:.200} is no public market-data address; check ws_url or --endpoint")
        # not WSAsyncConn's own, which refuses ws://
        AsyncConnection.__init__(self, name, subscription=subscription)
        forget_at_exit(self)
        self.address = address
        self.ws_kwargs = {**endpoint.options, "proxy": None if is_loopback(address) else proxy or True}
        self.endpoint = endpoint
        #: When anything at all, and when data came last; monotonic seconds, which no jump of the machine's clock moves.
        self.heard_s = self.data_s = 0.0
        self.why: str | None = None

    async def leave(self, why: str) -> None:
        """Close, so that a new connection is made; `why` is told."""
        self.why = why
        await self.conn.close()

    async def write(self, data: str) -> None:
        """Send a subscription or `ping`.

        Raises
        ------
        VenueError
            It is anything else; nothing was sent.

        """
        if data != "ping":
            request = orjson.loads(data)
            verb = str(request.get("op") or request.get("method")).lower()
            if verb not in _VERBS:
                raise VenueError(f"websocket request {verb!r} is no subscription; qlib-crypto sends no other")
        await super().write(data)


class Linked(Protocol):
    """What a link needs of its feed; `keepalive` is the text that the venue wants to hear now and then."""

    keepalive: str | None
    counters: StreamCounters

    async def subscribe(self, conn: PublicSocket) -> None: ...

    async def message_handler(self, msg: str, conn: PublicSocket, timestamp: float) -> None: ...

    async def authenticate(self, conn: PublicSocket) -> None: ...

    def problem(self, text: str) -> None: ...


class Link(ConnectionHandler):
    """One connection, kept up until it is stopped."""

    def __init__(self, feed: Linked, conn: PublicSocket, gate: Gate, pace: Pace) -> None:
        super().__init__(conn, feed.subscribe, feed.message_handler, feed.authenticate, retries=-1, timeout=-1)
        self._feed = feed
        self._gate = gate
        self._pace = pace
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to connect."""
        self._task = loop.create_task(self._create_connection(), name=f"link {self.conn.uuid}")

    async def end(self) -> None:
        """Close the connection, with nothing left running."""
        self.running = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _create_connection(self) -> None:
        failures = 0
        while self.running:
            await self._gate.enter()
            opened = time.monotonic()
            reason = await self._live()
            self._feed.counters.reconnects += 1
            failures = 0 if time.monotonic() - opened >= self._pace.stable_s else failures + 1
            wait = self._pace.wait_s(max(0, failures - 1))
            self._feed.problem(f"websocket {urlsplit(self.conn.address).path} {reason}; reconnects in {wait:.1f} s")
            await asyncio.sleep(wait)

    async def _live(self) -> str:
        """Why the connection ended."""
        address, self.conn.why = self.conn.address, None
        try:
            async with self.conn.connect() as conn:
                conn.heard_s = conn.data_s = time.monotonic()
                if conn.address != address:
                    return "opened while its subscriptions changed"
                await self.subscribe(conn)
                tender = asyncio.create_task(self._tend())
                try:
                    await self._handler(conn, self.handler)
                finally:
                    tender.cancel()
                    await asyncio.gather(tender, return_exceptions=True)
                return conn.why or f"was closed by the venue (code {conn.conn.close_code})"
        except (ConnectionClosed, FeedClosed) as error:
            return self.conn.why or f"was closed by the venue ({error or 'before it was subscribed'})"
        except Exception as error:  # noqa: BLE001 - whatever ends a connection, the answer is another one
            text = f"{type(error).__name__}: {error}"
            blocked = " (geo-block or firewall)" if "HTTP 403" in text or "HTTP 451" in text else ""
            return f"failed{blocked}: {' '.join(text.split())[:_SHOWN]}"

    async def _tend(self) -> None:
        """Keep the connection alive, and leave it when it is dead."""
        pace, conn = self._pace, self.conn
        while True:
            await asyncio.sleep(pace.tend_s)
            now = time.monotonic()
            if now - conn.heard_s > pace.silence_s:
                await conn.leave(f"was silent for {now - conn.heard_s:.0f} s")
            elif now - conn.data_s > pace.no_data_s:
                await conn.leave(f"brought no data for {now - conn.data_s:.0f} s")
            elif self._feed.keepalive is not None:
                await conn.write(self._feed.keepalive)


def forget_at_exit(conn: AsyncConnection) -> None:
    """Undo cryptofeed's registration, which would keep every connection of the process alive."""
    atexit.unregister(conn.__del__)
