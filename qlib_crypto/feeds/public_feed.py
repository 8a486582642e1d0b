"""What every venue's cryptofeed subclass is made of: a feed that only ever speaks to public market-data sockets.

cryptofeed 2.5.0 reconnects without pause or without bound, dies quietly, loses callback errors with the connection,
loads symbols by blocking requests and would read keys from its configuration. `PublicFeed` replaces those parts:

* connections are `links.Link`s: paced, backed off with jitter and a cap, watched, and stopped without leftovers;
* symbols are the instruments given, so nothing is loaded;
* an error in a callback or in one message is told to `on_problem` and costs nothing else;
* there is no key, no private address, no other HTTP, and a socket says nothing but subscriptions and `ping`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import orjson
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import CANDLES, FUNDING
from cryptofeed.exceptions import ConnectionClosed as FeedClosed
from cryptofeed.feed import Feed
from cryptofeed.symbols import Symbols
from websockets.exceptions import ConnectionClosed

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.links import Gate, Link, Pace, PublicSocket, Subscription, forget_at_exit
from qlib_crypto.schemas import Bar, Estimate
from qlib_crypto.symbols import Instrument, Interval, Venue, venue_bar

Problem = Callable[[str], None]

_LOG = logging.getLogger(__name__)
_SHOWN = 160
#: Neither an event-loop policy nor log files, and no keys.
_CONFIG: dict[str, Any] = {"uvloop": False, "log": {"disabled": True}}


class PublicFeed(Feed):
    """The mixin, first in the bases of a venue's feed.

    Parameters
    ----------
    ws_url
        `ws://` or `wss://` and host.
    instruments, interval
        What to subscribe to: candles of `interval`, and funding.
    callbacks
        Async functions by cryptofeed's channel name.
    on_problem
        Is told, in one line, of everything that went wrong.

    """

    venue: ClassVar[Venue]
    #: Instruments that fit on the connections of one feed.
    capacity: ClassVar[int]
    #: Text that the venue wants to hear now and then.
    keepalive: ClassVar[str | None] = None
    paths: ClassVar[tuple[str, ...]]
    websocket_endpoints: ClassVar[list[WebsocketEndpoint]]

    def __init__(
        self,
        ws_url: str,
        instruments: Sequence[Instrument],
        interval: Interval,
        *,
        callbacks: Mapping[str, Callable[[Any, float], Any]],
        on_problem: Problem,
        gate: Gate | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._ws_url = ws_url.rstrip("/")
        self._on_problem = on_problem
        self._pace = pace or Pace()
        self._gate = gate or Gate(self._pace.spacing_s)
        self._names = {i.venue_id: i.cryptofeed for i in instruments}
        self._ids = {i.cryptofeed: i.venue_id for i in instruments}
        if not Symbols.populated(self.id):
            Symbols.set(self.id, {}, {})  # so that nothing is loaded: each feed has a mapping of its own
        super().__init__(
            config=_CONFIG,
            symbols=list(self._ids),
            channels=[CANDLES, FUNDING],
            callbacks=dict(callbacks),
            candle_interval=venue_bar(self.venue, interval),
        )
        forget_at_exit(self.http_conn)
        self.http_conn = self.http_sync

    # what a venue says about itself

    @staticmethod
    def bar(instrument: Instrument, interval: Interval, raw: Any, received_ms: int) -> Bar | None:
        """The bar of a Candle's `raw`."""
        raise NotImplementedError

    @staticmethod
    def estimate(instrument: Instrument, raw: Any, received_ms: int) -> Estimate | None:
        """The estimate of a Funding's `raw`."""
        raise NotImplementedError

    def address_of(self, endpoint: WebsocketEndpoint, subscription: Subscription) -> str:
        """Where to connect for a subscription."""
        raise NotImplementedError

    def requests_of(self, verb: str, subscription: Subscription) -> list[str]:
        """The messages that subscribe or unsubscribe."""
        raise NotImplementedError

    async def on_message(self, message: Any, conn: PublicSocket, timestamp: float) -> None:
        """Handle one parsed message."""
        raise NotImplementedError

    # connections

    def connect(self) -> list[tuple[PublicSocket, Any, Any, Any]]:
        """One connection for each endpoint that has something to deliver."""
        out = []
        for endpoint in self.websocket_endpoints:
            wanted = {c: list(ids) for c, ids in endpoint.subscription_filter(self.subscription).items() if ids}
            if wanted:
                conn = PublicSocket(self.id, self.address_of(endpoint, wanted), self.paths, endpoint, wanted)
                out.append((conn, self.subscribe, self.message_handler, self.authenticate))
        return out

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the connections."""
        for conn, *_ in self.connect():
            link = Link(self, conn, self._gate, self._pace)
            self.connection_handlers.append(link)
            link.start(loop)

    async def shutdown(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(link.end() for link in self.connection_handlers))
        self.connection_handlers.clear()

    async def subscribe(self, conn: PublicSocket) -> None:
        """Ask for what the connection is there for."""
        for request in self.requests_of("subscribe", conn.subscription):
            await conn.write(request)

    async def change(self, add: Sequence[Instrument], drop: Sequence[Instrument]) -> None:
        """Subscribe to `add` and not to `drop`; what stays is not touched, and a reconnect knows the new list."""
        gone = [i.venue_id for i in drop]
        new = [i.venue_id for i in add]
        for instrument in drop:
            self._names.pop(instrument.venue_id, None)
        self._names.update((i.venue_id, i.cryptofeed) for i in add)
        for link in self.connection_handlers:
            conn = link.conn
            for ids in conn.subscription.values():
                ids[:] = [name for name in ids if name not in gone] + new
            conn.address = self.address_of(conn.endpoint, conn.subscription)
            if conn.is_open:
                with contextlib.suppress(ConnectionClosed, FeedClosed, OSError):  # the reconnect subscribes to all
                    for verb, ids in (("unsubscribe", gone), ("subscribe", new)):
                        for request in self.requests_of(verb, dict.fromkeys(conn.subscription, ids)) if ids else ():
                            await conn.write(request)

    # messages

    async def message_handler(self, msg: str, conn: PublicSocket, timestamp: float) -> None:
        """Handle one frame; one that cannot be understood costs only itself."""
        if msg == "pong":
            return
        try:
            await self.on_message(orjson.loads(msg), conn, timestamp)
        except Exception as error:  # noqa: BLE001 - a frame must not cost the connection
            self.problem(f"message not understood ({type(error).__name__}: {error}): {msg[:_SHOWN]!r}")

    async def callback(self, data_type: str, obj: Any, receipt_timestamp: float) -> None:
        """Hand an object to its callbacks; what one of them raises is told and costs nothing else."""
        for call in self.callbacks[data_type]:
            try:
                await call(obj, receipt_timestamp)
            except Exception as error:  # noqa: BLE001 - storage trouble must not cost the connection
                at = getattr(obj, "start", None) or obj.timestamp
                text = " ".join(f"{type(error).__name__}: {error}".split())
                self.problem(f"{data_type} of {obj.symbol} at {at:.0f} was not taken ({text})")

    def problem(self, text: str) -> None:
        """Tell of a problem; who cannot listen to it does not stop the feed."""
        try:
            self._on_problem(f"{self.venue} {text}")
        except Exception:  # noqa: BLE001 - whatever it raised, it is logged with its traceback
            _LOG.exception("on_problem failed at: %s %s", self.venue, text)

    def knows(self, venue_id: str) -> bool:
        """Whether the id is subscribed; what just was dropped may still arrive for a moment."""
        return venue_id in self._names

    # symbols are the instruments given

    def exchange_symbol_to_std_symbol(self, symbol: str) -> str:
        return self._names[symbol]

    def std_symbol_to_exchange_symbol(self, symbol: str) -> str:
        return self._ids[symbol]

    # what cryptofeed could do with an account, and we never do

    http_sync: ClassVar[Any]
    http_conn: Any

    async def authenticate(self, conn: PublicSocket) -> None:
        """Nothing: there is no account."""

    def _refused(self, *_args: Any, **_kwargs: Any) -> Any:
        raise VenueError("cryptofeed's own requests are switched off; qlib-crypto reads public market data only")

    _auth = _generate_token = _refresh_token = _get_server_time = _ws_authentication = _refused


class _NoHttp:
    """Stands where cryptofeed keeps its HTTP connections, and refuses everything."""

    def __getattr__(self, name: str) -> Any:
        raise VenueError(f"cryptofeed's own HTTP ({name}) is switched off; REST goes through rest_client()")


PublicFeed.http_sync = _NoHttp()
