"""OKX v5 linear perpetual swaps: the REST client and the cryptofeed subclass.

Facts about the venue: every value is text, `""` is missing, pages are newest first, an error may come with HTTP 200.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import orjson
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import CANDLES, FUNDING
from cryptofeed.exchanges import OKX
from cryptofeed.types import Candle, Funding

from qlib_crypto.clock import HOUR_MS, SECOND_MS
from qlib_crypto.errors import SchemaError
from qlib_crypto.feeds.fields import confirmed_bar, linear, number, time_of, wall_ms, whole
from qlib_crypto.feeds.links import SOCKET_OPTIONS, PublicSocket, Subscription
from qlib_crypto.feeds.public_feed import PublicFeed
from qlib_crypto.feeds.rest import Dialect, Http, Patience, Refusal, Route
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import Bar, Estimate, Settlement, Ticker
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import OKX_BAR, Instrument, Interval, Venue, venue_bar

_V5 = "/api/v5"
_WINDOW_S = 2.0
#: Public paths and their requests per 2 s (docs: "Rate Limit" of each endpoint).
ROUTES = {
    f"{_V5}/public/time": Route(10, _WINDOW_S),
    f"{_V5}/public/instruments": Route(20, _WINDOW_S, per="instType"),
    f"{_V5}/public/funding-rate": Route(10, _WINDOW_S, per="instId"),
    f"{_V5}/public/funding-rate-history": Route(10, _WINDOW_S, per="instId"),
    f"{_V5}/market/tickers": Route(20, _WINDOW_S),
    f"{_V5}/market/candles": Route(40, _WINDOW_S),
    f"{_V5}/market/history-candles": Route(20, _WINDOW_S),
}
_CANDLE_ROWS, _FUNDING_ROWS = 300, 400
#: `candles` knows only the newest bars; some fewer, so that the horizon does not pass while we page.
_NEWEST_BARS = 1_200
_FRESH_S = 1.0
_BUSY = {"50001", "50004", "50013", "50026"}
_TOO_MANY = {"50011", "50040"}
_CANDLE_FIELDS = 9
_CRYPTO = "1"


def _refusal(payload: Any) -> Refusal | None:
    if not isinstance(payload, dict) or "code" not in payload:
        return Refusal(f"an answer without a code: {str(payload)[:100]!r}", retryable=False)
    code = str(payload["code"])
    if code == "0":
        return None
    text = f"OKX error {code} {payload.get('msg', '')}".strip()
    if code in _TOO_MANY:
        return Refusal(text, retryable=True, wait_s=_WINDOW_S)
    return Refusal(text, retryable=code in _BUSY)


def bar_of(instrument: Instrument, interval: Interval, row: Sequence[str], source: str, received_ms: int) -> Bar | None:
    """The bar of a candle row `[ts, o, h, l, c, vol, volCcy, volCcyQuote, confirm]`; None while it is open.

    Volume is `volCcy` (base coin), not `vol` (contracts, whose size has changed over the years). OKX counts no trades.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    if len(row) < _CANDLE_FIELDS:
        raise SchemaError(f"{instrument} candle row {row!r} has {len(row)} fields instead of {_CANDLE_FIELDS}")
    if row[8] != "1":
        return None
    fields = (*row[1:5], row[6], row[7])
    return confirmed_bar(instrument, interval, time_of(row, 0), fields, None, source, received_ms)


def estimate_of(instrument: Instrument, row: Mapping[str, Any], received_ms: int) -> Estimate | None:
    """The running estimate of a `funding-rate` row; None while the venue has none.

    `fundingRate` is for the settlement at `fundingTime`; the interval is up to `nextFundingTime`.
    """
    rate, settles, seen = number(row.get("fundingRate")), whole(row.get("fundingTime")), whole(row.get("ts"))
    if rate is None or not settles or not seen:
        return None
    following = whole(row.get("nextFundingTime"))
    hours = (following - settles) / HOUR_MS if following else None
    return Estimate(instrument, seen, rate, settles, hours, None, received_ms)


def _spec_of(row: Mapping[str, Any], seen_ms: int) -> InstrumentSpec | None:
    """The spec of an instruments row; None for one that is not ours, or whose numbers are not published yet."""
    instrument = linear(Venue.OKX, row.get("instId"))
    if instrument is None or row.get("ctType") != "linear" or row.get("ctValCcy") != instrument.base:
        return None
    tick, lot, least = number(row.get("tickSz")), number(row.get("lotSz")), number(row.get("minSz"))
    if tick is None or lot is None or least is None or not row.get("ctVal"):
        return None
    return InstrumentSpec(
        instrument=instrument,
        seen_ms=seen_ms,
        state=str(row.get("state") or "unknown"),
        category="crypto" if (row.get("instCategory") or _CRYPTO) == _CRYPTO else "other",
        rule_type=str(row.get("ruleType") or "normal"),
        tick_size=tick,
        contract_value_base=float(Decimal(row["ctVal"]) * Decimal(row.get("ctMult") or "1")),
        lot_contracts=lot,
        min_contracts=least,
        min_notional_quote=None,
        max_leverage=number(row.get("lever")),
        listed_ms=whole(row.get("listTime")),
        delisted_ms=whole(row.get("expTime")),
        spec_source=str(row.get("specSource") or "venue"),  # no venue sends it; the sandbox says `derived`
    )


class OkxRest:
    """Public market data of OKX; see `rest.RestClient`."""

    venue = Venue.OKX

    def __init__(self, settings: VenueSettings, patience: Patience | None = None) -> None:
        dialect = Dialect(ROUTES, _refusal, limited_wait_s=_WINDOW_S)
        self._http = Http(self.venue, settings, dialect, patience or Patience())
        self._told = (-math.inf, 0)

    def server_time_ms(self) -> int:
        """The venue's own time."""
        now = time_of(self._rows("public/time")[0], "ts")
        self._told = (time.monotonic(), now)
        return now

    def specs(self) -> list[InstrumentSpec]:
        """Every linear swap, whatever its state.

        A `preopen` row carries no numbers yet and is left out until it does. `expTime` of a swap is its announced
        delisting. Rows from before `instCategory` existed are crypto, as everything then was.
        """
        seen = self.server_time_ms()
        rows = self._rows("public/instruments", instType="SWAP")
        return [spec for row in rows if (spec := _spec_of(row, seen))]

    def tickers(self) -> list[Ticker]:
        """Last prices; turnover is `volCcy24h` x last, since OKX states no quote turnover for swaps."""
        out = []
        for row in self._rows("market/tickers", instType="SWAP"):
            instrument = linear(self.venue, row.get("instId"))
            last, coins, seen = number(row.get("last")), number(row.get("volCcy24h")), whole(row.get("ts"))
            if instrument and last is not None and coins is not None and seen is not None:
                out.append(Ticker(instrument, last, last * coins, seen))
        return out

    def estimates(self) -> list[Estimate]:
        """The running funding rate of every linear swap, in one call."""
        rows, received = self._rows("public/funding-rate", instId="ANY"), wall_ms()
        known = ((linear(self.venue, row.get("instId")), row) for row in rows)
        return [estimate for name, row in known if name and (estimate := estimate_of(name, row, received))]

    def bars(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[Bar]]:
        """Pages newest first, of confirmed bars that open in [start, end).

        The walk goes backwards with `after` (exclusive); `before` alone would give the newest page again and again.
        What `candles` still has comes from there, at twice the rate, the rest from `history-candles`. A short page is
        no end, only an empty one of `history-candles` is.
        """
        bar = venue_bar(self.venue, interval)
        at, now = self._told
        if time.monotonic() - at > _FRESH_S:  # which path has a bar changes slowly; of the time there are few requests
            now = self.server_time_ms()
        horizon = now - _NEWEST_BARS * interval.ms
        after = end_ms
        while after > start_ms:
            recent = after > horizon
            path = "market/candles" if recent else "market/history-candles"
            limit = min(_CANDLE_ROWS, math.ceil((after - start_ms) / interval.ms))
            rows = self._rows(path, instId=instrument.venue_id, bar=bar, after=after, limit=limit)
            received = wall_ms()
            older = {open_ms: row for row in rows if (open_ms := time_of(row, 0)) < after}
            if not older:
                if not recent:
                    return
                horizon = after
                continue
            wanted = (row for open_ms, row in older.items() if open_ms >= start_ms)
            if page := [b for row in wanted if (b := bar_of(instrument, interval, row, "rest", received))]:
                yield page
            after = min(older)

    def settlements(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[Settlement]]:
        """Pages newest first, of funding settled in [start, end).

        OKX reaches three months back from now; what is older is simply not there. The rate is `realizedRate`, what
        was paid (`fundingRate` is the estimate before it). OKX does not state the mark price.
        """
        after = end_ms
        while after > start_ms:
            rows = self._rows(
                "public/funding-rate-history", instId=instrument.venue_id, after=after, limit=_FUNDING_ROWS
            )
            received = wall_ms()
            older = {time_ms: row for row in rows if (time_ms := time_of(row, "fundingTime")) < after}
            if not older:
                return
            page = [
                Settlement(instrument, time_ms, rate, None, "rest", received)
                for time_ms, row in older.items()
                if time_ms >= start_ms and (rate := number(row.get("realizedRate"))) is not None
            ]
            if page:
                yield page
            after = min(older)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _rows(self, path: str, **params: str | int) -> list[Any]:
        payload = self._http.get(f"{_V5}/{path}", **params)
        rows = payload.get("data")
        if not isinstance(rows, list):
            raise SchemaError(f"okx GET {_V5}/{path}: data is {rows!r:.100} instead of a list; check --endpoint")
        return rows


class OkxSwap(PublicFeed, OKX):
    """cryptofeed's OKX feed for the candles and the running funding rate of linear swaps.

    Candles live on `/business`, funding on `/public`; on the wrong one OKX answers 60018. Candle objects carry base
    volume, their own open time and the venue's `confirm` flag; a Funding's `next_funding_time` is the settlement.
    """

    id = "QLIB_CRYPTO_OKX"  # of its own, so that no symbols or keys are shared with other cryptofeed users
    venue = Venue.OKX
    capacity = 200
    keepalive = "ping"  # as text; without traffic for 30 s OKX closes with 4004
    paths = ("/ws/v5/public", "/ws/v5/business")
    valid_candle_intervals = frozenset(OKX_BAR.values())
    candle_interval_map: ClassVar[dict[str, int]] = {
        bar: Interval.parse(name).ms // SECOND_MS for name, bar in OKX_BAR.items()
    }
    websocket_channels: ClassVar[dict[str, str]] = {CANDLES: "candle", FUNDING: "funding-rate"}
    websocket_endpoints: ClassVar[list[WebsocketEndpoint]] = [
        WebsocketEndpoint("/ws/v5/business", channel_filter=("candle",), options=SOCKET_OPTIONS),
        WebsocketEndpoint("/ws/v5/public", channel_filter=("funding-rate",), options=SOCKET_OPTIONS),
    ]
    rest_endpoints: ClassVar[list[Any]] = []

    @staticmethod
    def bar(instrument: Instrument, interval: Interval, raw: Any, received_ms: int) -> Bar | None:
        return bar_of(instrument, interval, raw, "ws", received_ms)

    @staticmethod
    def estimate(instrument: Instrument, raw: Any, received_ms: int) -> Estimate | None:
        return estimate_of(instrument, raw, received_ms)

    def address_of(self, endpoint: WebsocketEndpoint, subscription: Subscription) -> str:  # noqa: ARG002 - on others it names the streams
        return f"{self._ws_url}{endpoint.address}"

    def requests_of(self, verb: str, subscription: Subscription) -> list[str]:
        """Requests of 100 arguments each: OKX takes 64 KB in one, and 480 an hour."""
        args = [self.build_subscription(channel, name) for channel, names in subscription.items() for name in names]
        return [orjson.dumps({"op": verb, "args": args[i : i + 100]}).decode() for i in range(0, len(args), 100)]

    async def on_message(self, message: Any, conn: PublicSocket, timestamp: float) -> None:
        event = message.get("event")
        if event == "notice":
            await conn.leave(f"was announced to close ({message.get('code')} {message.get('msg')})")
        elif event == "error":
            self.problem(f"websocket error {message.get('code')}: {message.get('msg')}")
        elif event is None:
            conn.last_data = timestamp
            channel, name = message["arg"]["channel"], message["arg"]["instId"]
            if channel == f"candle{self.candle_interval}" and self.knows(name):
                await self._candle(message, timestamp)
            elif channel == "funding-rate" and self.knows(name):
                await self._funding(message, timestamp)

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
            if not row["fundingRate"] or not self.knows(row["instId"]):
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
