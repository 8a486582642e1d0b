"""OKX v5 linear perpetual swaps over REST: pages are newest first, an error may come with HTTP 200."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from qlib_crypto.clock import DAY_MS
from qlib_crypto.errors import SchemaError, VenueError
from qlib_crypto.feeds.client import Served, StatedTiers, kind_of, served
from qlib_crypto.feeds.fields import linear, number, time_of, wall_ms, whole
from qlib_crypto.feeds.okx_rows import bar_of, estimate_of, open_interest_of, price_bar_of, ratio_of, spec_of, tiers_of
from qlib_crypto.feeds.rest import Dialect, Http, Refusal
from qlib_crypto.feeds.transport import Patience, Route
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import (
    PERIOD_MS,
    Bar,
    Estimate,
    IndexBar,
    LongShortRatio,
    MarkBar,
    OpenInterest,
    PriceBar,
    Settlement,
    Ticker,
)
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue, venue_bar

_V5 = "/api/v5"
_WINDOW_S = 2.0
_OPEN_INTEREST = f"{_V5}/rubik/stat/contracts/open-interest-history"
_RATIO = f"{_V5}/rubik/stat/contracts/long-short-account-ratio-contract"
_FILES = f"{_V5}/public/market-data-history"
#: Public paths and their requests per 2 s (docs: "Rate Limit" of each endpoint).
ROUTES = {
    f"{_V5}/public/time": Route(10, _WINDOW_S),
    f"{_V5}/public/instruments": Route(20, _WINDOW_S, per="instType"),
    f"{_V5}/public/position-tiers": Route(10, _WINDOW_S),
    f"{_V5}/public/funding-rate": Route(10, _WINDOW_S, per="instId"),
    f"{_V5}/public/funding-rate-history": Route(10, _WINDOW_S, per="instId"),
    f"{_V5}/market/tickers": Route(20, _WINDOW_S),
    f"{_V5}/market/candles": Route(40, _WINDOW_S),
    f"{_V5}/market/history-candles": Route(20, _WINDOW_S),
    f"{_V5}/market/mark-price-candles": Route(20, _WINDOW_S),
    f"{_V5}/market/history-mark-price-candles": Route(20, _WINDOW_S),
    f"{_V5}/market/index-candles": Route(20, _WINDOW_S),
    f"{_V5}/market/history-index-candles": Route(10, _WINDOW_S),
    _OPEN_INTEREST: Route(10, _WINDOW_S, per="instId"),
    _RATIO: Route(5, _WINDOW_S),
    _FILES: Route(5, _WINDOW_S),
}
#: Contracts of one request for margin tiers.
_FAMILIES = 5
_CANDLE_ROWS, _FUNDING_ROWS, _PRICE_ROWS, _PERIOD_ROWS = 300, 400, 100, 100
#: The newest rows that the statistics have, 5 minutes each: five days.
_PERIODS_KEPT = 1_440
SERVED = {
    "kline": Served(f"{_V5}/market/history-candles", _CANDLE_ROWS),
    "funding": Served(f"{_V5}/public/funding-rate-history", _FUNDING_ROWS, 90 * DAY_MS),
    "mark": Served(f"{_V5}/market/history-mark-price-candles", _PRICE_ROWS),
    "index": Served(f"{_V5}/market/history-index-candles", _PRICE_ROWS),
    "open_interest": Served(_OPEN_INTEREST, _PERIOD_ROWS, _PERIODS_KEPT * PERIOD_MS),
    "long_short_ratio": Served(_RATIO, _PERIOD_ROWS, _PERIODS_KEPT * PERIOD_MS),
}
#: `candles` knows only the newest bars; some fewer, so that the horizon does not pass while we page.
_NEWEST_BARS = 1_200
_FRESH_S = 1.0
_BUSY = {"50001", "50004", "50013", "50026"}
_TOO_MANY = {"50011", "50040"}


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


class OkxRest:
    """Public market data of OKX; see `client.RestClient`."""

    venue = Venue.OKX

    def __init__(self, settings: VenueSettings, patience: Patience | None = None) -> None:
        dialect = Dialect(ROUTES, _refusal, limited_wait_s=_WINDOW_S * settings.timer_scale)
        self._http = Http(self.venue, settings, dialect, patience or Patience().scaled(settings.timer_scale))
        self._scale = settings.rate_scale
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
        return [spec for row in rows if (spec := spec_of(row, seen))]

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

    def margin_tiers(self, specs: Sequence[InstrumentSpec]) -> Iterator[StatedTiers]:
        """A page a request, of five contracts; those of a refused page are asked for one by one."""
        for some in (specs[at : at + _FAMILIES] for at in range(0, len(specs), _FAMILIES)):
            families = ",".join(spec.instrument.index_id for spec in some)
            try:
                rows = self._rows("public/position-tiers", instType="SWAP", tdMode="cross", instFamily=families)
            except VenueError as error:
                if not error.final:
                    raise
                if len(some) == 1:
                    yield StatedTiers({}, [f"margin tiers of {some[0].instrument}: {error}"])
                else:
                    for spec in some:
                        yield from self.margin_tiers([spec])
                continue
            yield tiers_of(rows, some)

    def bars(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[Bar]]:
        """Pages newest first; what `candles` still has comes from there, at twice the rate of its history."""
        make = lambda row, received: bar_of(instrument, interval, row, "rest", received)  # noqa: E731 - one line a kind
        return self._candles("candles", _CANDLE_ROWS, instrument.venue_id, interval, start_ms, end_ms, make)

    def marks(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[MarkBar]]:
        """Pages newest first, of 100 rows; the newest 1,440 have a path of their own here too."""
        make = _maker(MarkBar, instrument, interval)
        asked = "mark-price-candles", _PRICE_ROWS, instrument.venue_id
        return self._candles(*asked, interval, start_ms, end_ms, make)

    def indexes(
        self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int
    ) -> Iterator[list[IndexBar]]:
        """As `marks`; asked for by the index (`BTC-USDT`), whatever contract follows it."""
        make = _maker(IndexBar, instrument, interval)
        asked = "index-candles", _PRICE_ROWS, instrument.index_id
        return self._candles(*asked, interval, start_ms, end_ms, make)

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

    def open_interest(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[OpenInterest]]:
        """Pages newest first; OKX has the newest five days. The quote value is what it states in USD."""
        for rows, received in self._periods(_OPEN_INTEREST, instrument, start_ms, end_ms):
            yield [open_interest_of(instrument, row, received) for row in rows]

    def long_short_ratio(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[LongShortRatio]]:
        """Pages newest first; OKX has the newest five days."""
        for rows, received in self._periods(_RATIO, instrument, start_ms, end_ms):
            yield [ratio_of(instrument, row, received) for row in rows]

    def files(self, **query: str | int) -> list[tuple[str, str]]:
        """Name and address of each bulk file that `market-data-history` lists for a query."""
        groups = self._rows("public/market-data-history", **query)
        details = (one for group in groups for one in group.get("details") or ())
        return [(one["filename"], one["url"]) for detail in details for one in detail.get("groupDetails") or ()]

    def reach_ms(self, dataset: str) -> int | None:
        """See `client.RestClient`: funding 90 days, open interest and ratio five."""
        return SERVED[kind_of(dataset)].reach_ms if kind_of(dataset) in SERVED else 0

    def page_rows(self, dataset: str) -> int:
        """See `client.RestClient`."""
        return served(SERVED, self.venue, dataset).rows

    def requests_per_s(self, dataset: str) -> float:
        """See `client.RestClient`."""
        return ROUTES[served(SERVED, self.venue, dataset).path].per_second({}, self._scale)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _candles[T](
        self,
        path: str,
        most: int,
        inst_id: str,
        interval: Interval,
        start_ms: int,
        end_ms: int,
        make: Callable[[Sequence[str], int], T | None],
    ) -> Iterator[list[T]]:
        """Pages newest first, of what `make` takes for closed and that opens in [start, end).

        The walk goes backwards with `after` (exclusive); `before` alone would give the newest page again and again.
        A short page is no end, only an empty one of the history is.
        """
        bar = venue_bar(self.venue, interval)
        at, now = self._told
        if time.monotonic() - at > _FRESH_S:  # which path has a bar changes slowly; of the time there are few requests
            now = self.server_time_ms()
        horizon = now - _NEWEST_BARS * interval.ms
        after = end_ms
        while after > start_ms:
            recent = after > horizon
            limit = min(most, math.ceil((after - start_ms) / interval.ms))
            asked = f"market/{path}" if recent else f"market/history-{path}"
            rows = self._rows(asked, instId=inst_id, bar=bar, after=after, limit=limit)
            received = wall_ms()
            older = {open_ms: row for row in rows if (open_ms := time_of(row, 0)) < after}
            if not older:
                if not recent:
                    return
                horizon = after
                continue
            wanted = (row for open_ms, row in older.items() if open_ms >= start_ms)
            if page := [one for row in wanted if (one := make(row, received)) is not None]:
                yield page
            after = min(older)

    def _periods(
        self, path: str, instrument: Instrument, start_ms: int, end_ms: int
    ) -> Iterator[tuple[list[Any], int]]:
        """Rows of 5-minute statistics newest first, and when they came; a period is taken when it is over.

        Each request asks for a window that fits on a page, even if its bounds were inclusive, so it does not matter
        from which end of a longer one the venue would cut, and a window without rows (it was down) is no end.
        """
        now = self._told[1]
        if now < end_ms + PERIOD_MS:
            now = self.server_time_ms()
        first = max(start_ms, now - _PERIODS_KEPT * PERIOD_MS)
        end = min(end_ms, now - PERIOD_MS + 1)
        while end > first:
            begin = max(first, end - (_PERIOD_ROWS - 1) * PERIOD_MS)
            payload = self._data(
                path, instId=instrument.venue_id, period="5m", begin=begin - 1, end=end, limit=_PERIOD_ROWS
            )
            received = wall_ms()
            found = {at: row for row in payload if begin <= (at := time_of(row, 0)) < end}
            if found:
                yield list(found.values()), received
            end = begin

    def _rows(self, path: str, **params: str | int) -> list[Any]:
        return self._data(f"{_V5}/{path}", **params)

    def _data(self, path: str, **params: str | int) -> list[Any]:
        rows = self._http.get(path, **params).get("data")
        if not isinstance(rows, list):
            raise SchemaError(f"okx GET {path}: data is {rows!r:.100} instead of a list; check --endpoint")
        return rows


def _maker[B: PriceBar](
    kind: type[B], instrument: Instrument, interval: Interval
) -> Callable[[Sequence[str], int], B | None]:
    """Candles of a kind from rows, and when they came."""
    return lambda row, received: price_bar_of(kind, instrument, interval, row, "rest", received)
