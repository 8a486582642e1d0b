"""Binance USD-M perpetuals: the REST client and the cryptofeed subclass.

Facts about the venue: pages are oldest first, the open bar comes as the last row without a flag, and since April 2026
candles and mark prices are delivered under `/market` only; elsewhere a subscription is accepted and silent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import orjson
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import CANDLES, FUNDING
from cryptofeed.exchanges import BinanceFutures
from cryptofeed.types import Candle, Funding

from qlib_crypto.clock import SECOND_MS
from qlib_crypto.errors import SchemaError
from qlib_crypto.feeds.fields import confirmed_bar, linear, number, time_of, wall_ms, whole
from qlib_crypto.feeds.links import SOCKET_OPTIONS, PublicSocket, Subscription
from qlib_crypto.feeds.public_feed import PublicFeed
from qlib_crypto.feeds.rest import Dialect, Http, Params, Patience, Refusal, Route
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import Bar, Estimate, Settlement, Ticker
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import BINANCE_BAR, Instrument, Interval, Venue, venue_bar

_V1 = "/fapi/v1"
#: Weight a minute and address; 2 % are left to others on it.
_WEIGHT, _MINUTE_S, _SPENT = 2_400, 60.0, 0.98
#: Rows a page, and the weight of klines by rows: (below which, weight). 499 rows cost least a row.
_KLINES, _SETTLEMENTS = 499, 1_000
_KLINE_WEIGHT = ((100, 1), (500, 2), (1_001, 5), (10_000, 10))
#: `deliveryDate` of a contract whose delisting is not announced.
_FAR_FUTURE_MS = 4_102_444_800_000
_DEFAULT_INTERVAL_H = 8.0
_PERPETUAL = ("PERPETUAL", "PERPETUAL_DELIVERING", "TRADIFI_PERPETUAL")
_CRYPTO = ("COIN", "INDEX", "PREMARKET")
_BUSY = {-1000, -1001, -1006, -1007, -1008, -1015, -1016}
_TOO_MANY = -1003
_KLINE_FIELDS = 9


def _kline_weight(params: Params) -> int:
    return next(weight for below, weight in _KLINE_WEIGHT if int(params["limit"]) < below)


def _weighs(cost: int) -> Route:
    return Route(_WEIGHT, _MINUTE_S, bucket="weight", cost=lambda _: cost)


#: Public paths and what they take from the limits (docs: "Request Weight" of each endpoint).
ROUTES = {
    f"{_V1}/time": _weighs(1),
    f"{_V1}/exchangeInfo": _weighs(1),
    f"{_V1}/klines": Route(_WEIGHT, _MINUTE_S, bucket="weight", cost=_kline_weight),
    f"{_V1}/premiumIndex": _weighs(10),
    f"{_V1}/ticker/24hr": _weighs(40),
    f"{_V1}/fundingRate": Route(500, 300.0, bucket="funding"),
    f"{_V1}/fundingInfo": Route(500, 300.0, bucket="funding"),
}


def _refusal(payload: Any) -> Refusal | None:
    if not isinstance(payload, dict) or "code" not in payload or "msg" not in payload:
        return None
    code = payload["code"]
    text = f"Binance error {code} {payload['msg']}"
    if code == _TOO_MANY:
        return Refusal(text, retryable=True, wait_s=_MINUTE_S)
    return Refusal(text, retryable=code in _BUSY)


def _spent(headers: Mapping[str, str], scale: float) -> bool:
    return float(headers.get("X-MBX-USED-WEIGHT-1M") or 0) >= _SPENT * _WEIGHT * scale


def bar_of(instrument: Instrument, interval: Interval, row: Sequence[Any], now_ms: int, received_ms: int) -> Bar | None:
    """The bar of a klines row; None while it is open at `now_ms`, which must be read BEFORE the row was asked for.

    A kline has no closed flag: it is closed when its close time has passed.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    if len(row) < _KLINE_FIELDS:
        raise SchemaError(f"{instrument} kline row {row!r} has {len(row)} fields; another shape than documented")
    if time_of(row, 6) >= now_ms:
        return None
    fields = (*row[1:6], row[7])
    return confirmed_bar(instrument, interval, time_of(row, 0), fields, row[8], "rest", received_ms)


def event_bar_of(instrument: Instrument, interval: Interval, event: Mapping[str, Any], received_ms: int) -> Bar | None:
    """The bar of a kline event; None unless its `x` says that it is closed.

    Raises
    ------
    SchemaError
        The event has another shape.

    """
    k = event["k"]
    if k.get("x") is not True:
        return None
    fields = [k.get(name) for name in "ohlcvq"]
    return confirmed_bar(instrument, interval, time_of(k, "t"), fields, k.get("n"), "ws", received_ms)


def event_estimate_of(instrument: Instrument, event: Mapping[str, Any], received_ms: int) -> Estimate | None:
    """The running estimate of a mark price event; None for one without funding.

    `r` is for the settlement at `T`. `P` is an estimated settlement *price* and no rate. The interval is not said.
    """
    rate, settles = number(event.get("r")), whole(event.get("T"))
    if rate is None or not settles:
        return None
    return Estimate(instrument, time_of(event, "E"), rate, settles, None, number(event.get("p")), received_ms)


def _filters(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By type: their order is not fixed."""
    return {one["filterType"]: one for one in row.get("filters") or ()}


def _spec_of(row: Mapping[str, Any], seen_ms: int) -> InstrumentSpec | None:
    """The spec of an exchangeInfo symbol; None for one that is not ours, or whose numbers are not published yet."""
    instrument = linear(Venue.BINANCE, row.get("symbol"))
    if instrument is None or row.get("contractType") not in _PERPETUAL:
        return None
    if (row.get("baseAsset"), row.get("quoteAsset")) != (instrument.base, instrument.quote):
        return None
    filters = _filters(row)
    size, least = filters.get("LOT_SIZE", {}), filters.get("MIN_NOTIONAL", {})
    tick, lot = number(filters.get("PRICE_FILTER", {}).get("tickSize")), number(size.get("stepSize"))
    if tick is None or lot is None:
        return None
    kind, status = row.get("underlyingType", "COIN"), str(row.get("status") or "unknown").lower()
    crypto = kind in _CRYPTO and row["contractType"] != "TRADIFI_PERPETUAL"
    ends = whole(row.get("deliveryDate"))
    return InstrumentSpec(
        instrument=instrument,
        seen_ms=seen_ms,
        state="live" if status == "trading" else status,
        category="crypto" if crypto else "other",
        rule_type="pre_market" if kind == "PREMARKET" else "normal",
        tick_size=tick,
        contract_value_base=1.0,
        lot_contracts=lot,
        min_contracts=number(size.get("minQty")) or lot,
        min_notional_quote=number(least.get("notional")),
        max_leverage=None,
        listed_ms=whole(row.get("onboardDate")),
        delisted_ms=ends if ends and ends < _FAR_FUTURE_MS else None,
        spec_source=str(row.get("specSource") or "venue"),  # no venue sends it; the sandbox says `derived`
    )


class BinanceRest:
    """Public market data of Binance USD-M; see `rest.RestClient`."""

    venue = Venue.BINANCE

    def __init__(self, settings: VenueSettings, patience: Patience | None = None) -> None:
        dialect = Dialect(ROUTES, _refusal, limited_wait_s=_MINUTE_S, spent=_spent)
        self._http = Http(self.venue, settings, dialect, patience or Patience())

    def server_time_ms(self) -> int:
        """The venue's own time."""
        return time_of(self._http.get(f"{_V1}/time"), "serverTime")

    def specs(self) -> list[InstrumentSpec]:
        """Every linear perpetual, whatever its state.

        A `deliveryDate` before the far-future constant is an announced delisting. Stocks, metals and currencies
        (`TRADIFI_PERPETUAL`) are of category `other`. Leverage brackets need a signed request, so the maximum leverage
        is unknown here.
        """
        answer = self._http.get(f"{_V1}/exchangeInfo")
        seen = time_of(answer, "serverTime")
        return [spec for row in self._listed(answer.get("symbols")) if (spec := _spec_of(row, seen))]

    def tickers(self) -> list[Ticker]:
        """Last prices, and the venue's own 24 h quote volume."""
        out = []
        for row in self._listed(self._http.get(f"{_V1}/ticker/24hr")):
            instrument = linear(self.venue, row.get("symbol"))
            last, turnover = number(row.get("lastPrice")), number(row.get("quoteVolume"))
            if instrument and last is not None and turnover is not None:
                out.append(Ticker(instrument, last, turnover, time_of(row, "closeTime")))
        return out

    def estimates(self) -> list[Estimate]:
        """The running funding rate of every perpetual; `lastFundingRate` is the one for `nextFundingTime`.

        `fundingInfo` names only the contracts whose interval was adjusted; the others settle every 8 hours.
        """
        info = self._listed(self._http.get(f"{_V1}/fundingInfo"))
        hours = {row["symbol"]: number(row.get("fundingIntervalHours")) for row in info}
        rows, received, out = self._listed(self._http.get(f"{_V1}/premiumIndex")), wall_ms(), []
        for row in rows:
            instrument = linear(self.venue, row.get("symbol"))
            rate, settles = number(row.get("lastFundingRate")), whole(row.get("nextFundingTime"))
            if instrument and rate is not None and settles:
                every = hours.get(row["symbol"]) or _DEFAULT_INTERVAL_H
                mark = number(row.get("markPrice"))
                out.append(Estimate(instrument, time_of(row, "time"), rate, settles, every, mark, received))
        return out

    def bars(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[Bar]]:
        """Pages oldest first, of bars that open in [start, end) and were closed before they were asked for.

        A short page is no end; the walk ends at `end_ms`, at the bar that is still open, or with an empty page.
        """
        bar, cursor = venue_bar(self.venue, interval), start_ms
        now = self.server_time_ms()
        while cursor < end_ms:
            if end_ms > now - interval.ms:
                now = self.server_time_ms()
            rows = self._klines(instrument, bar, cursor, end_ms)
            received = wall_ms()
            newer = {o: row for row in rows if cursor <= (o := time_of(row, 0)) < end_ms}
            if not newer:
                return
            page = [b for row in newer.values() if (b := bar_of(instrument, interval, row, now, received))]
            if page:
                yield page
            if len(page) < len(newer):
                return
            cursor = max(newer) + interval.ms

    def settlements(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[Settlement]]:
        """Pages oldest first, of funding settled in [start, end); mark price None before November 2023.

        `Special` rows are left out: they pass a stock's dividend on, are no funding rate, and may share the time of
        the regular row, which they must not replace.
        """
        cursor = start_ms
        while cursor < end_ms:
            rows = self._listed(
                self._http.get(
                    f"{_V1}/fundingRate",
                    symbol=instrument.venue_id,
                    startTime=cursor,
                    endTime=end_ms - 1,
                    limit=_SETTLEMENTS,
                )
            )
            received = wall_ms()
            newer = [(t, row) for row in rows if cursor <= (t := time_of(row, "fundingTime")) < end_ms]
            if not newer:
                return
            regular = {t: row for t, row in newer if row.get("rateType", "Regular") != "Special"}
            page = [
                Settlement(instrument, t, rate, number(row.get("markPrice")), "rest", received)
                for t, row in regular.items()
                if (rate := number(row.get("fundingRate"))) is not None
            ]
            if page:
                yield page
            cursor = max(t for t, _ in newer) + 1

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _klines(self, instrument: Instrument, bar: str, start_ms: int, end_ms: int) -> list[Any]:
        return self._listed(
            self._http.get(
                f"{_V1}/klines",
                symbol=instrument.venue_id,
                interval=bar,
                startTime=start_ms,
                endTime=end_ms - 1,
                limit=_KLINES,
            )
        )

    def _listed(self, answer: Any) -> list[Any]:
        if not isinstance(answer, list):
            raise SchemaError(f"binance answered {str(answer)[:100]!r} instead of a list; check --endpoint")
        return answer


class BinanceUsdm(PublicFeed, BinanceFutures):
    """cryptofeed's Binance feed for the candles and mark prices (with the running funding rate) of USD-M perpetuals.

    There is no settlement event: when a Funding's `next_funding_time` moves on, the settlement has happened, and its
    rate is read over REST.
    """

    id = "QLIB_CRYPTO_BINANCE"  # of its own, so that no symbols or keys are shared with other cryptofeed users
    venue = Venue.BINANCE
    capacity = 100  # 200 streams: two an instrument
    paths = ("/market/stream",)
    valid_candle_intervals = frozenset(BINANCE_BAR.values())
    websocket_channels: ClassVar[dict[str, str]] = {CANDLES: "kline_", FUNDING: "markPrice"}
    websocket_endpoints: ClassVar[list[WebsocketEndpoint]] = [
        WebsocketEndpoint("/market/stream", options={**SOCKET_OPTIONS, "ping_timeout": 20})
    ]
    rest_endpoints: ClassVar[list[Any]] = []

    @staticmethod
    def bar(instrument: Instrument, interval: Interval, raw: Any, received_ms: int) -> Bar | None:
        return event_bar_of(instrument, interval, raw, received_ms)

    @staticmethod
    def estimate(instrument: Instrument, raw: Any, received_ms: int) -> Estimate | None:
        return event_estimate_of(instrument, raw, received_ms)

    def address_of(self, endpoint: WebsocketEndpoint, subscription: Subscription) -> str:
        return f"{self._ws_url}{endpoint.address}?streams={'/'.join(self._streams(subscription))}"

    def requests_of(self, verb: str, subscription: Subscription) -> list[str]:
        """One live request; a new connection has its streams in the address instead."""
        return [orjson.dumps({"method": verb.upper(), "params": self._streams(subscription), "id": 1}).decode()]

    async def subscribe(self, conn: PublicSocket) -> None:
        """Nothing to say: the address names the streams."""

    async def on_message(self, message: Any, conn: PublicSocket, timestamp: float) -> None:
        if "stream" not in message:
            if message.get("error"):
                self.problem(f"websocket error {message['error']}")
            return
        conn.last_data = timestamp
        event = message["data"]
        kind = event["e"]
        if not self.knows(event["s"]):
            return
        if kind == "kline":
            await self._candle(event, timestamp)
        elif kind == "markPriceUpdate":
            await self._funding(event, timestamp)

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
        return [
            f"{name.lower()}@{channel}{self.candle_interval if channel == 'kline_' else ''}"
            for channel, names in subscription.items()
            for name in names
        ]
