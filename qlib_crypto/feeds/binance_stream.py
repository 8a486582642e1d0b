"""Binance USD-M perpetuals over websocket: the cryptofeed subclass.

Since April 2026 candles, mark prices, trades and liquidations are delivered under `/market` only and books under
`/public` only; elsewhere a subscription is accepted and silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar

import orjson
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import CANDLES, FUNDING
from cryptofeed.exchanges import BinanceFutures
from cryptofeed.types import Candle, Funding

from qlib_crypto.clock import SECOND_MS
from qlib_crypto.feeds.binance_rows import (
    event_bar_of,
    event_book_of,
    event_estimate_of,
    event_liquidation_of,
    event_trade_of,
)
from qlib_crypto.feeds.fields import time_of, whole
from qlib_crypto.feeds.links import SOCKET_OPTIONS, PublicSocket, Subscription
from qlib_crypto.feeds.public_feed import PublicFeed
from qlib_crypto.schemas import Bar, Estimate
from qlib_crypto.symbols import BINANCE_BAR, Instrument, Interval, Venue

_KLINE, _MARK, _LIQUIDATIONS, _TRADES, _BOOKS = "kline_", "markPrice", "forceOrder", "aggTrade", "depth"
#: Streams in one address: Binance takes 1,024, but addresses of about 8,000 characters.
_STREAMS = 200
_OPTIONS = {**SOCKET_OPTIONS, "ping_timeout": 20}


class BinanceUsdm(PublicFeed, BinanceFutures):
    """cryptofeed's Binance feed for USD-M perpetuals: candles, mark prices with funding, and what else is wanted.

    There is no settlement event: when a Funding's `next_funding_time` moves on, the settlement has happened, and its
    rate is read over REST.
    """

    id = "QLIB_CRYPTO_BINANCE"  # of its own, so that no symbols or keys are shared with other cryptofeed users
    venue = Venue.BINANCE
    paths = ("/market/stream", "/public/stream")
    valid_candle_intervals = frozenset(BINANCE_BAR.values())
    websocket_channels: ClassVar[dict[str, str]] = {
        CANDLES: _KLINE,
        FUNDING: _MARK,
        "liquidations": _LIQUIDATIONS,
        "trades": _TRADES,
        "books": _BOOKS,
    }
    websocket_endpoints: ClassVar[list[WebsocketEndpoint]] = [
        WebsocketEndpoint("/market/stream", channel_filter=(_KLINE, _MARK, _LIQUIDATIONS, _TRADES), options=_OPTIONS),
        WebsocketEndpoint("/public/stream", channel_filter=(_BOOKS,), options=_OPTIONS),
    ]
    rest_endpoints: ClassVar[list[Any]] = []

    @classmethod
    def capacity(cls, datasets: Sequence[str]) -> int:
        """As many as have their streams in one address."""
        return _STREAMS // (2 + sum(name in datasets for name in ("liquidations", "trades")))

    @staticmethod
    def bar(instrument: Instrument, interval: Interval, raw: Any, received_ms: int) -> Bar | None:
        return event_bar_of(instrument, interval, raw, received_ms)

    @staticmethod
    def estimate(instrument: Instrument, raw: Any, received_ms: int) -> Estimate | None:
        return event_estimate_of(instrument, raw, received_ms)

    def address_of(self, endpoint: WebsocketEndpoint, subscription: Subscription) -> str:
        streams = "/".join(self._streams(subscription))
        return f"{self.settings.ws_url.rstrip('/')}{endpoint.address}?streams={streams}"

    def requests_of(self, verb: str, subscription: Subscription) -> list[str]:
        """One live request; a new connection has its streams in the address instead."""
        return [orjson.dumps({"method": verb.upper(), "params": self._streams(subscription), "id": 1}).decode()]

    async def subscribe(self, conn: PublicSocket) -> None:
        """Nothing to say: the address names the streams."""

    async def on_message(self, message: Any, conn: PublicSocket, timestamp: float) -> None:
        if "stream" not in message:
            if message.get("error"):
                self.refused(str(message["error"]))
            return
        conn.data_s = conn.heard_s
        event = message["data"]
        kind = event["e"]
        instrument = self.known(event["o"]["s"] if kind == "forceOrder" else event["s"])
        if instrument is None:
            return
        if kind == "kline":
            await self._candle(event, timestamp)
        elif kind == "markPriceUpdate":
            await self._funding(event, timestamp)
        else:
            await self._row(kind, instrument, event, timestamp)

    async def _row(self, kind: str, instrument: Instrument, event: Any, timestamp: float) -> None:
        received = int(timestamp * SECOND_MS)
        if kind == "aggTrade":
            await self.hand_over(event_trade_of(instrument, event, received), timestamp)
        elif kind == "forceOrder":
            if row := event_liquidation_of(instrument, event, received):
                await self.hand_over(row, timestamp)
        elif kind == "depthUpdate" and self.due(instrument.venue_id, time_of(event, "T")):
            await self.hand_over(event_book_of(instrument, event, self.settings.book_depth, received), timestamp)

    async def _candle(self, msg: Any, timestamp: float) -> None:
        k = msg["k"]
        if k["x"] or not self.candle_closed_only:
            o, c, h, l, volume = (Decimal(k[name]) for name in "ochlv")
            start, stop = k["t"] / SECOND_MS, (k["T"] + 1) / SECOND_MS
            symbol = self.exchange_symbol_to_std_symbol(msg["s"])
            candle = Candle(
                self.id, symbol, start, stop, k["i"], whole(k.get("n")), o, c, h, l, volume, k["x"],
                self.timestamp_normalize(msg["E"]), raw=msg,
            )  # fmt: skip
            await self.callback(CANDLES, candle, timestamp)

    async def _funding(self, msg: Any, timestamp: float) -> None:
        if not msg.get("r") or not msg.get("T"):
            return
        funding = Funding(
            self.id,
            self.exchange_symbol_to_std_symbol(msg["s"]),
            Decimal(msg["p"]),
            Decimal(msg["r"]),
            self.timestamp_normalize(msg["T"]),
            self.timestamp_normalize(msg["E"]),
            raw=msg,
        )
        await self.callback(FUNDING, funding, timestamp)

    def _streams(self, subscription: Subscription) -> list[str]:
        full = {
            _KLINE: f"{_KLINE}{self.candle_interval}",
            _BOOKS: f"{_BOOKS}{self.settings.book_depth}@500ms",  # the slowest there is
        }
        return [
            f"{name.lower()}@{full.get(channel, channel)}" for channel, names in subscription.items() for name in names
        ]
