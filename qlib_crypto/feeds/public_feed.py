"""What every venue's cryptofeed subclass is made of: a feed that only ever speaks to public market-data sockets.

cryptofeed 2.5.0 reconnects without pause or without bound, dies quietly, loses callback errors with the connection,
loads symbols by blocking requests and would read keys from its configuration. `PublicFeed` replaces those parts:

* connections are `links.Link`s: paced, backed off with jitter and a cap, watched, and stopped without leftovers;
* symbols are the instruments given, so nothing is loaded;
* an error in a callback or in one message is told to `on_problem`, counted, and costs nothing else;
* liquidations, trades and books are channels of our own, handed over as our rows;
* there is no key, no private address, no other HTTP, and a socket says nothing but subscriptions and `ping`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import orjson
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import CANDLES, FUNDING
from cryptofeed.exceptions import ConnectionClosed as FeedClosed
from cryptofeed.feed import Feed
from cryptofeed.symbols import Symbols
from websockets.exceptions import ConnectionClosed

from qlib_crypto.errors import SchemaError
from qlib_crypto.feeds.links import Gate, Link, Pace, PublicSocket, Subscription, forget_at_exit
from qlib_crypto.feeds.only_public import OnlyPublic
from qlib_crypto.feeds.telling import Repeats, StreamCounters
from qlib_crypto.schemas import Bar, Estimate, Row
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue, venue_bar

Problem = Callable[[str], None]
#: Base coins in one contract, None when it is not known.
ContractValues = Callable[[Instrument], float | None]
#: What comes by websocket only, by its name in settings and lake; for `PublicFeed` also the channel.
STREAMED = ("liquidations", "trades", "books")
#: The callback that gets the rows of those.
ROW = "row"

_LOG = logging.getLogger(__name__)
_SHOWN = 160
#: So long may something of an instrument still arrive that is not followed any more.
_LEAVING_S = 60.0
#: Neither an event-loop policy nor log files, and no keys.
_CONFIG: dict[str, Any] = {"uvloop": False, "log": {"disabled": True}}


class PublicFeed(OnlyPublic, Feed):
    """The mixin, first in the bases of a venue's feed.

    Parameters
    ----------
    settings
        `ws_url` (`ws://` or `wss://` and host), `proxy`, `book_depth` and `book_every_s`.
    instruments, interval
        What to subscribe to: candles of `interval`, and funding.
    callbacks
        Async functions by cryptofeed's channel name; `row` gets what is in `datasets`.
    on_problem
        Is told, in one line, of everything that went wrong; what repeats, once a minute.
    datasets
        Those of liquidations, trades and books that are wanted too.
    contract_values
        Base coins in a contract, for venues that count in contracts.

    """

    venue: ClassVar[Venue]
    #: Text that the venue wants to hear now and then.
    keepalive: ClassVar[str | None] = None
    paths: ClassVar[tuple[str, ...]]
    websocket_endpoints: ClassVar[list[WebsocketEndpoint]]

    def __init__(
        self,
        settings: VenueSettings,
        instruments: Sequence[Instrument],
        interval: Interval,
        *,
        callbacks: Mapping[str, Callable[[Any, float], Any]],
        on_problem: Problem,
        datasets: Sequence[str] = (),
        contract_values: ContractValues = lambda _: None,
        gate: Gate | None = None,
        pace: Pace | None = None,
        counters: StreamCounters | None = None,
        repeats: Repeats | None = None,
    ) -> None:
        self.settings = settings
        self.counters = counters or StreamCounters()
        self._repeats = repeats or Repeats()
        self._on_problem = on_problem
        self._pace = pace or Pace()
        self._gate = gate or Gate(self._pace.spacing_s)
        self._contract_values = contract_values
        self._instruments = {i.venue_id: i for i in instruments}
        self._ids = {i.cryptofeed: i.venue_id for i in instruments}
        self._left: dict[str, float] = {}
        self._sampled: dict[str, int] = {}
        if not Symbols.populated(self.id):
            Symbols.set(self.id, {}, {})  # so that nothing is loaded: each feed has a mapping of its own
        super().__init__(
            config=_CONFIG,
            symbols=list(self._ids),
            channels=[CANDLES, FUNDING, *datasets],
            callbacks=dict(callbacks),
            candle_interval=venue_bar(self.venue, interval),
        )
        forget_at_exit(self.http_conn)
        self.http_conn = self.http_sync

    # what a venue says about itself

    @classmethod
    def capacity(cls, datasets: Sequence[str]) -> int:
        """Instruments that fit on the connections of one feed, with these datasets."""
        raise NotImplementedError

    @classmethod
    def check_depth(cls, depth: int) -> None:
        """Raise a `ConfigError` when the venue pushes no books of so many levels."""

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
                address = self.address_of(endpoint, wanted)
                conn = PublicSocket(self.id, address, self.paths, endpoint, wanted, self.settings.proxy)
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
        for venue_id in gone:
            self._instruments.pop(venue_id, None)
            self._left[venue_id] = time.monotonic()
        self._instruments.update((i.venue_id, i) for i in add)
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

    def rename(self, instruments: Sequence[Instrument]) -> None:
        """Take the instruments that are carried by their present names: a ticker may be another listing now."""
        self._instruments.update((i.venue_id, i) for i in instruments)

    # messages

    async def message_handler(self, msg: str, conn: PublicSocket, timestamp: float) -> None:
        """Handle one frame; one that cannot be understood costs only itself."""
        conn.heard_s = time.monotonic()
        if msg == "pong":
            return
        self.counters.frames += 1
        try:
            await self.on_message(orjson.loads(msg), conn, timestamp)
        except Exception as error:  # noqa: BLE001 - a frame must not cost the connection
            self.counters.malformed += 1
            text = f"message not understood ({type(error).__name__}: {error}): {msg[:_SHOWN]!r}"
            self.repeated(f"malformed {type(error).__name__}", text)

    async def callback(self, data_type: str, obj: Any, receipt_timestamp: float) -> None:
        """Hand an object to its callbacks; what one of them raises is told and costs nothing else."""
        for call in self.callbacks[data_type]:
            try:
                await call(obj, receipt_timestamp)
            except SchemaError as error:
                self.counters.malformed += 1
                self.repeated("malformed row", f"{data_type} row was not understood ({error})")
            except Exception as error:  # noqa: BLE001 - storage trouble must not cost the connection
                text = " ".join(f"{type(error).__name__}: {error}".split())
                self.problem(f"{data_type} of {_named(obj)} was not taken ({text})")

    async def hand_over(self, row: Row, receipt_timestamp: float) -> None:
        """Give one of our rows to who wants them."""
        await self.callback(ROW, row, receipt_timestamp)

    def problem(self, text: str) -> None:
        """Tell of a problem; who cannot listen to it does not stop the feed."""
        try:
            self._on_problem(f"{self.venue} {text}")
        except Exception:  # noqa: BLE001 - whatever it raised, it is logged with its traceback
            _LOG.exception("on_problem failed at: %s %s", self.venue, text)

    def repeated(self, cause: str, text: str) -> None:
        """Tell of a problem that may come often: once a minute and cause."""
        if self._repeats.fresh(cause):
            self.problem(text)

    def refused(self, text: str) -> None:
        """Count and tell an error that the venue sent, such as an unknown channel; the topic stays silent."""
        self.counters.subscribe_errors += 1
        self.repeated(f"refused {text}", f"websocket error {text}")

    def known(self, venue_id: Any) -> Instrument | None:
        """The instrument of an id that is subscribed; another one is counted and told.

        What was just dropped may still arrive for a moment, and is passed over.
        """
        instrument = self._instruments.get(venue_id)
        if instrument is None and time.monotonic() - self._left.get(venue_id, -_LEAVING_S) >= _LEAVING_S:
            self.counters.unknown += 1
            self.repeated("unknown instrument", f"sent {str(venue_id)[:_SHOWN]!r}, which nobody subscribed; left out")
        return instrument

    def followed(self, venue_id: Any) -> Instrument | None:
        """The instrument of an id on a channel that carries the whole market, None for one that is not followed."""
        return self._instruments.get(venue_id)

    def contract_value(self, instrument: Instrument) -> float | None:
        """Base coins in one contract; None, which is told, when it is not known: then the row is left out."""
        value = self._contract_values(instrument)
        if value is None:
            self.repeated(
                f"contract value {instrument}",
                f"{instrument} has no known contract value; its liquidations, trades and books are left out until "
                "its specification is known",
            )
        return value

    def due(self, venue_id: str, time_ms: int) -> bool:
        """Whether a book at that market time is the first of its `book_every_s`."""
        slot = int(time_ms // (self.settings.book_every_s * 1000))
        if self._sampled.get(venue_id) == slot:
            return False
        self._sampled[venue_id] = slot
        return True

    # symbols are the instruments given

    def exchange_symbol_to_std_symbol(self, symbol: str) -> str:
        return self._instruments[symbol].cryptofeed

    def std_symbol_to_exchange_symbol(self, symbol: str) -> str:
        return self._ids[symbol]


def _named(obj: Any) -> str:
    """An object of cryptofeed's or a row of ours, for a message."""
    if hasattr(obj, "instrument"):
        return f"{obj.instrument} at {obj.time_ms / 1000:.0f}"
    return f"{obj.symbol} at {getattr(obj, 'start', None) or obj.timestamp:.0f}"
