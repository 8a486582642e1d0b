"""Binance USD-M perpetuals over REST: pages are oldest first, the open bar comes as the last row without a flag."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from qlib_crypto.clock import DAY_MS
from qlib_crypto.errors import SchemaError
from qlib_crypto.feeds.binance_rows import bar_of, open_interest_of, price_bar_of, ratio_of, spec_of
from qlib_crypto.feeds.client import Served, StatedTiers, kind_of, served
from qlib_crypto.feeds.fields import linear, number, time_of, wall_ms, whole
from qlib_crypto.feeds.rest import Dialect, Http, Refusal
from qlib_crypto.feeds.transport import Params, Patience, Route
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import (
    PERIOD_MS,
    Bar,
    Estimate,
    IndexBar,
    LongShortRatio,
    MarkBar,
    OpenInterest,
    Settlement,
    Ticker,
)
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue, venue_bar

_V1 = "/fapi/v1"
_DATA = "/futures/data"
_OPEN_INTEREST, _RATIO = f"{_DATA}/openInterestHist", f"{_DATA}/globalLongShortAccountRatio"
#: Weight a minute and address; 2 % are left to others on it.
_WEIGHT, _MINUTE_S, _SPENT = 2_400, 60.0, 0.98
#: Rows a page, and the weight of klines by rows: (below which, weight). 499 rows cost least a row.
_KLINES, _SETTLEMENTS, _PERIOD_ROWS = 499, 1_000, 500
_KLINE_WEIGHT = ((100, 1), (500, 2), (1_001, 5), (10_000, 10))
#: The statistics reach 30 days back; a minute less, so that it has not passed when the request arrives.
_REACH_MS = 30 * DAY_MS
_MARGIN_MS = 60_000
_DEFAULT_INTERVAL_H = 8.0
_BUSY = {-1000, -1001, -1006, -1007, -1008, -1015, -1016}
_TOO_MANY = -1003


def _kline_weight(params: Params) -> int:
    return next(weight for below, weight in _KLINE_WEIGHT if int(params["limit"]) < below)


def _weighs(cost: int) -> Route:
    return Route(_WEIGHT, _MINUTE_S, bucket="weight", cost=lambda _: cost)


#: Public paths and what they take from the limits (docs: "Request Weight" of each endpoint).
ROUTES = {
    f"{_V1}/time": _weighs(1),
    f"{_V1}/exchangeInfo": _weighs(1),
    f"{_V1}/klines": Route(_WEIGHT, _MINUTE_S, bucket="weight", cost=_kline_weight),
    f"{_V1}/markPriceKlines": Route(_WEIGHT, _MINUTE_S, bucket="weight", cost=_kline_weight),
    f"{_V1}/indexPriceKlines": Route(_WEIGHT, _MINUTE_S, bucket="weight", cost=_kline_weight),
    f"{_V1}/premiumIndex": _weighs(10),
    f"{_V1}/ticker/24hr": _weighs(40),
    f"{_V1}/fundingRate": Route(500, 300.0, bucket="funding"),
    f"{_V1}/fundingInfo": Route(500, 300.0, bucket="funding"),
    _OPEN_INTEREST: Route(1_000, 300.0, bucket="statistics"),
    _RATIO: Route(1_000, 300.0, bucket="statistics"),
}
SERVED = {
    "kline": Served(f"{_V1}/klines", _KLINES),
    "funding": Served(f"{_V1}/fundingRate", _SETTLEMENTS),
    "mark": Served(f"{_V1}/markPriceKlines", _KLINES),
    "index": Served(f"{_V1}/indexPriceKlines", _KLINES),
    "open_interest": Served(_OPEN_INTEREST, _PERIOD_ROWS, _REACH_MS),
    "long_short_ratio": Served(_RATIO, _PERIOD_ROWS, _REACH_MS),
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


class BinanceRest:
    """Public market data of Binance USD-M; see `client.RestClient`."""

    venue = Venue.BINANCE

    def __init__(self, settings: VenueSettings, patience: Patience | None = None) -> None:
        dialect = Dialect(ROUTES, _refusal, limited_wait_s=_MINUTE_S * settings.timer_scale, spent=_spent)
        self._http = Http(self.venue, settings, dialect, patience or Patience().scaled(settings.timer_scale))
        self._scale = settings.rate_scale
        self._told_ms = 0

    def server_time_ms(self) -> int:
        """The venue's own time."""
        self._told_ms = time_of(self._http.get(f"{_V1}/time"), "serverTime")
        return self._told_ms

    def specs(self) -> list[InstrumentSpec]:
        """Every linear perpetual, whatever its state.

        A `deliveryDate` before the far-future constant is an announced delisting. Stocks, metals and currencies
        (`TRADIFI_PERPETUAL`) are of category `other`. Leverage brackets need a signed request, so the maximum leverage
        is unknown here.
        """
        answer = self._http.get(f"{_V1}/exchangeInfo")
        seen = time_of(answer, "serverTime")
        return [spec for row in _listed(answer.get("symbols")) if (spec := spec_of(row, seen))]

    def tickers(self) -> list[Ticker]:
        """Last prices, and the venue's own 24 h quote volume."""
        out = []
        for row in self._get(f"{_V1}/ticker/24hr"):
            instrument = linear(self.venue, row.get("symbol"))
            last, turnover = number(row.get("lastPrice")), number(row.get("quoteVolume"))
            if instrument and last is not None and turnover is not None:
                out.append(Ticker(instrument, last, turnover, time_of(row, "closeTime")))
        return out

    def estimates(self) -> list[Estimate]:
        """The running funding rate of every perpetual; `lastFundingRate` is the one for `nextFundingTime`.

        `fundingInfo` names only the contracts whose interval was adjusted; the others settle every 8 hours.
        """
        info = self._get(f"{_V1}/fundingInfo")
        hours = {row["symbol"]: number(row.get("fundingIntervalHours")) for row in info}
        rows, received, out = self._get(f"{_V1}/premiumIndex"), wall_ms(), []
        for row in rows:
            instrument = linear(self.venue, row.get("symbol"))
            rate, settles = number(row.get("lastFundingRate")), whole(row.get("nextFundingTime"))
            if instrument and rate is not None and settles:
                every = hours.get(row["symbol"]) or _DEFAULT_INTERVAL_H
                mark = number(row.get("markPrice"))
                out.append(Estimate(instrument, time_of(row, "time"), rate, settles, every, mark, received))
        return out

    def bars(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[Bar]]:
        """Pages oldest first, of bars that open in [start, end) and were closed before they were asked for."""
        make = partial(bar_of, instrument, interval)
        return self._candles("klines", {"symbol": instrument.venue_id}, make, interval, start_ms, end_ms)

    def marks(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[MarkBar]]:
        """Pages oldest first, as `bars`."""
        make = partial(price_bar_of, MarkBar, instrument, interval)
        return self._candles("markPriceKlines", {"symbol": instrument.venue_id}, make, interval, start_ms, end_ms)

    def indexes(
        self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int
    ) -> Iterator[list[IndexBar]]:
        """Pages oldest first, as `bars`."""
        make = partial(price_bar_of, IndexBar, instrument, interval)
        return self._candles("indexPriceKlines", {"pair": instrument.index_id}, make, interval, start_ms, end_ms)

    def settlements(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[Settlement]]:
        """Pages oldest first, of funding settled in [start, end); mark price None before November 2023.

        `Special` rows are left out: they pass a stock's dividend on, are no funding rate, and may share the time of
        the regular row, which they must not replace.
        """
        cursor = start_ms
        while cursor < end_ms:
            rows = self._get(
                f"{_V1}/fundingRate",
                symbol=instrument.venue_id,
                startTime=cursor,
                endTime=end_ms - 1,
                limit=_SETTLEMENTS,
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

    def open_interest(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[OpenInterest]]:
        """Pages oldest first; Binance has the last 30 days."""
        for rows, received in self._periods(_OPEN_INTEREST, instrument, start_ms, end_ms):
            yield [open_interest_of(instrument, row, received) for row in rows]

    def long_short_ratio(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[LongShortRatio]]:
        """Pages oldest first; Binance has the last 30 days."""
        for rows, received in self._periods(_RATIO, instrument, start_ms, end_ms):
            yield [ratio_of(instrument, row, received) for row in rows]

    def margin_tiers(self, specs: Sequence[InstrumentSpec]) -> Iterator[StatedTiers]:  # noqa: ARG002 - as the protocol
        """None: Binance states its brackets only to a key."""
        yield from ()

    def reach_ms(self, dataset: str) -> int | None:
        """See `client.RestClient`: open interest and ratio 30 days."""
        return SERVED[kind_of(dataset)].reach_ms if kind_of(dataset) in SERVED else 0

    def page_rows(self, dataset: str) -> int:
        """See `client.RestClient`."""
        return served(SERVED, self.venue, dataset).rows

    def requests_per_s(self, dataset: str) -> float:
        """See `client.RestClient`; what shares a limit shares this."""
        one = served(SERVED, self.venue, dataset)
        return ROUTES[one.path].per_second({"limit": one.rows}, self._scale)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _known_ms(self, enough_ms: int) -> int:
        """A time that the venue has told; asked again unless it is `enough_ms` or later."""
        return self._told_ms if self._told_ms >= enough_ms else self.server_time_ms()

    def _candles[T](
        self,
        path: str,
        of: Mapping[str, str],
        make: Callable[[Any, int, int], T | None],
        interval: Interval,
        start_ms: int,
        end_ms: int,
    ) -> Iterator[list[T]]:
        """Pages oldest first, of what opens in [start, end) and `make` takes for closed.

        A short page is no end; the walk ends at `end_ms`, at the candle that is still open, or with an empty page.
        """
        bar, cursor = venue_bar(self.venue, interval), start_ms
        while cursor < end_ms:
            now = self._known_ms(end_ms + interval.ms)  # before the page: what closes while we ask is still half there
            rows = self._get(
                f"{_V1}/{path}",
                **of,
                interval=bar,
                startTime=cursor,
                endTime=end_ms - 1,
                limit=_KLINES,
            )
            received = wall_ms()
            newer = {o: row for row in rows if cursor <= (o := time_of(row, 0)) < end_ms}
            if not newer:
                return
            page = [one for row in newer.values() if (one := make(row, now, received))]
            if page:
                yield page
            if len(page) < len(newer):
                return
            cursor = max(newer) + interval.ms

    def _periods(
        self, path: str, instrument: Instrument, start_ms: int, end_ms: int
    ) -> Iterator[tuple[list[Any], int]]:
        """Rows of 5-minute statistics oldest first, and when they came; a period is taken when it is over.

        Each request asks for a window that fits on a page, so it does not matter from which end of a longer one the
        venue would cut, and a window without rows (Binance leaves out periods without trades) is no end.
        """
        now = self._known_ms(end_ms + PERIOD_MS)
        start = max(start_ms, now - _REACH_MS + _MARGIN_MS)
        end = min(end_ms, now - PERIOD_MS + 1)
        while start < end:
            until = min(end, start + _PERIOD_ROWS * PERIOD_MS)
            rows = self._get(
                path,
                symbol=instrument.venue_id,
                period="5m",
                startTime=start,
                endTime=until - 1,
                limit=_PERIOD_ROWS,
            )
            received = wall_ms()
            found = {at: row for row in rows if start <= (at := time_of(row, "timestamp")) < until}
            if found:
                yield list(found.values()), received
            start = until

    def _get(self, path: str, **params: str | int) -> list[Any]:
        return _listed(self._http.get(path, **params))


def _listed(answer: Any) -> list[Any]:
    if not isinstance(answer, list):
        raise SchemaError(f"binance answered {str(answer)[:100]!r} instead of a list; check --endpoint")
    return answer
