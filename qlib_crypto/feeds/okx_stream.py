"""OKX v5 linear perpetual swaps over websocket: the cryptofeed subclass."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar

import orjson
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import CANDLES, FUNDING
from cryptofeed.exchanges import OKX
from cryptofeed.types import Candle, Funding

from qlib_crypto.clock import SECOND_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds.fields import time_of
from qlib_crypto.feeds.links import SOCKET_OPTIONS, PublicSocket, Subscription
from qlib_crypto.feeds.okx_rows import bar_of, book_of, estimate_of, liquidations_of, trade_of
from qlib_crypto.feeds.public_feed import PublicFeed
from qlib_crypto.schemas import Bar, Estimate
from qlib_crypto.symbols import OKX_BAR, Instrument, Interval, Venue

_LIQUIDATIONS, _TRADES, _BOOKS = "liquidation-orders", "trades", "books5"
#: Levels of `books5`. Deeper ones come as changes to a snapshot that OKX no longer sends by websocket.
_DEPTH = 5


class OkxSwap(PublicFeed, OKX):
    """cryptofeed's OKX feed for linear swaps: candles, the running funding rate, and what else is wanted.

    Candles live on `/business`, the rest on `/public`; on the wrong one OKX answers 60018. Candle objects carry base
    volume, their own open time and the venue's `confirm` flag; a Funding's `next_funding_time` is the settlement.

    Raises
    ------
    ConfigError
        Books deeper than OKX pushes are wanted.

    """

    id = "QLIB_CRYPTO_OKX"  # of its own, so that no symbols or keys are shared with other cryptofeed users
    venue = Venue.OKX
    keepalive = "ping"  # as text; without traffic for 30 s OKX closes with 4004
    paths = ("/ws/v5/public", "/ws/v5/business")
    valid_candle_intervals = frozenset(OKX_BAR.values())
    candle_interval_map: ClassVar[dict[str, int]] = {
        bar: Interval.parse(name).ms // SECOND_MS for name, bar in OKX_BAR.items()
    }
    websocket_channels: ClassVar[dict[str, str]] = {
        CANDLES: "candle",
        FUNDING: "funding-rate",
        "liquidations": _LIQUIDATIONS,
        "trades": _TRADES,
        "books": _BOOKS,
    }
    websocket_endpoints: ClassVar[list[WebsocketEndpoint]] = [
        WebsocketEndpoint("/ws/v5/business", channel_filter=("candle",), options=SOCKET_OPTIONS),
        WebsocketEndpoint(
            "/ws/v5/public",
            channel_filter=("funding-rate", _LIQUIDATIONS, _TRADES, _BOOKS),
            options=SOCKET_OPTIONS,
        ),
    ]
    rest_endpoints: ClassVar[list[Any]] = []

    @classmethod
    def capacity(cls, datasets: Sequence[str]) -> int:  # noqa: ARG003 - OKX counts requests, not topics
        """200 instruments: OKX takes 480 requests an hour and connection, whatever is in them."""
        return 200

    @classmethod
    def check_depth(cls, depth: int) -> None:
        if depth > _DEPTH:
            raise ConfigError(f"okx pushes books of {_DEPTH} levels; set okx.book_depth to {_DEPTH} instead of {depth}")

    @staticmethod
    def bar(instrument: Instrument, interval: Interval, raw: Any, received_ms: int) -> Bar | None:
        return bar_of(instrument, interval, raw, "ws", received_ms)

    @staticmethod
    def estimate(instrument: Instrument, raw: Any, received_ms: int) -> Estimate | None:
        return estimate_of(instrument, raw, received_ms)

    def address_of(self, endpoint: WebsocketEndpoint, subscription: Subscription) -> str:  # noqa: ARG002 - on others it names the streams
        return f"{self.settings.ws_url.rstrip('/')}{endpoint.address}"

    def requests_of(self, verb: str, subscription: Subscription) -> list[str]:
        """Requests of 100 arguments each: OKX takes 64 KB in one, and 480 an hour.

        Liquidations are no topic of an instrument: `subscribe` asks for them once a connection.
        """
        args = [
            {"channel": f"{channel}{self.candle_interval}" if channel == "candle" else channel, "instId": name}
            for channel, names in subscription.items()
            if channel != _LIQUIDATIONS
            for name in names
        ]
        return [orjson.dumps({"op": verb, "args": args[i : i + 100]}).decode() for i in range(0, len(args), 100)]

    async def subscribe(self, conn: PublicSocket) -> None:
        """Ask for the topics of the instruments, and for the liquidations of all swaps, which come in one topic."""
        await super().subscribe(conn)
        if _LIQUIDATIONS in conn.subscription:
            arg = {"channel": _LIQUIDATIONS, "instType": "SWAP"}
            await conn.write(orjson.dumps({"op": "subscribe", "args": [arg]}).decode())

    async def on_message(self, message: Any, conn: PublicSocket, timestamp: float) -> None:
        event = message.get("event")
        if event == "notice":
            self.counters.notices += 1
            await conn.leave(f"was announced to close ({message.get('code')} {message.get('msg')})")
        elif event == "error":
            self.refused(f"{message.get('code')}: {message.get('msg')}")
        elif event is None:
            conn.data_s = conn.heard_s
            channel = message["arg"]["channel"]
            if channel == _LIQUIDATIONS:
                await self._liquidations(message, timestamp)
            elif (instrument := self.known(message["arg"]["instId"])) is None:
                return
            elif channel == f"candle{self.candle_interval}":
                await self._candle(message, timestamp)
            elif channel == "funding-rate":
                await self._funding(message, timestamp)
            elif channel == _TRADES:
                await self._trades(instrument, message, timestamp)
            elif channel == _BOOKS:
                await self._books(instrument, message, timestamp)

    async def _candle(self, msg: Any, timestamp: float) -> None:
        symbol = self.exchange_symbol_to_std_symbol(msg["arg"]["instId"])
        seconds = self.candle_interval_map[self.candle_interval]
        for row in msg["data"]:
            closed = row[8] == "1"
            if closed or not self.candle_closed_only:
                start = int(row[0]) / SECOND_MS
                o, h, l, c, _contracts, coins = map(Decimal, row[1:7])
                candle = Candle(
                    self.id, symbol, start, start + seconds, self.candle_interval, None, o, c, h, l, coins, closed,
                    timestamp, raw=row,
                )  # fmt: skip
                await self.callback(CANDLES, candle, timestamp)

    async def _funding(self, msg: Any, timestamp: float) -> None:
        for row in msg["data"]:
            if not row["fundingRate"] or self.known(row["instId"]) is None:
                continue
            funding = Funding(
                self.id,
                self.exchange_symbol_to_std_symbol(row["instId"]),
                None,
                Decimal(row["fundingRate"]),
                int(row["fundingTime"]) / SECOND_MS,
                int(row["ts"]) / SECOND_MS,
                raw=row,
            )
            await self.callback(FUNDING, funding, timestamp)

    async def _liquidations(self, msg: Any, timestamp: float) -> None:
        """Of all swaps there are; those that are followed are taken."""
        for row in msg["data"]:
            instrument = self.followed(row["instId"])
            value = instrument and self.contract_value(instrument)
            if instrument and value:
                for one in liquidations_of(instrument, row, value, int(timestamp * SECOND_MS)):
                    await self.hand_over(one, timestamp)

    async def _trades(self, instrument: Instrument, msg: Any, timestamp: float) -> None:
        if value := self.contract_value(instrument):
            for row in msg["data"]:
                await self.hand_over(trade_of(instrument, row, value, int(timestamp * SECOND_MS)), timestamp)

    async def _books(self, instrument: Instrument, msg: Any, timestamp: float) -> None:
        for row in msg["data"]:
            value = self.contract_value(instrument)
            if value and self.due(instrument.venue_id, time_of(row, "ts")):
                depth = self.settings.book_depth
                await self.hand_over(book_of(instrument, row, depth, value, int(timestamp * SECOND_MS)), timestamp)
