"""Binance USD-M rows: symbols, klines, funding, premium index, tickers, as the venue writes them.

Numbers are strings except times and counts. What a tape does not know (quote volume, trades, taker volume) is `""`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.market import Market, announced, gone, made_up
from qlib_crypto.sandbox.series import Grid
from qlib_crypto.sandbox.tape import BarSeries, Price
from qlib_crypto.sandbox.text import frame, padded, plain, texts
from qlib_crypto.symbols import BINANCE_BAR, Interval

_Prices = tuple[str, str, str, str]
_Volumes = tuple[str, str]

FAR_FUTURE = 4133404800000
RATE_DECIMALS = 8
#: A delisted symbol stays in exchangeInfo as `SETTLING` this long.
SETTLING_MS = DAY_MS

#: Every interval that is served.
BARS: dict[str, Grid] = {spelling: Grid(Interval.parse(name).ms) for name, spelling in BINANCE_BAR.items()}


def symbol_row(spec: InstrumentSpec, at_ms: int) -> dict[str, Any]:
    """The exchangeInfo row; `deliveryDate` is the delisting time once that is announced."""
    instrument = spec.instrument
    status = "TRADING" if spec.state == "live" else spec.state.upper()
    if gone(spec, at_ms):
        status = "SETTLING"
    elif (spec.listed_ms or 0) > at_ms:
        status = "PENDING_TRADING"
    filters: list[dict[str, Any]] = [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": plain(spec.tick_size),
            "maxPrice": "",
            "tickSize": plain(spec.tick_size),
        },
        {
            "filterType": "LOT_SIZE",
            "minQty": plain(spec.min_base),
            "maxQty": "",
            "stepSize": plain(spec.lot_base),
        },
    ]
    if spec.min_notional_quote is not None:
        filters.append({"filterType": "MIN_NOTIONAL", "notional": plain(spec.min_notional_quote)})
    return {
        "symbol": instrument.venue_id,
        "pair": instrument.venue_id,
        "contractType": "PERPETUAL" if spec.category == "crypto" else "TRADIFI_PERPETUAL",
        "deliveryDate": announced(spec, at_ms) or FAR_FUTURE,
        "onboardDate": spec.listed_ms or 0,
        "status": status,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": instrument.base,
        "quoteAsset": instrument.quote,
        "marginAsset": instrument.quote,
        "pricePrecision": 8,
        "quantityPrecision": 8,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN" if spec.category == "crypto" else "EQUITY",
        "underlyingSubType": [],
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "filters": filters,
        "orderTypes": ["LIMIT", "MARKET", "STOP", "TAKE_PROFIT"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
        **made_up(spec),
    }


def _bars(series: BarSeries) -> Iterator[tuple[int, _Prices, _Volumes, str]]:
    """Open time, prices, base and quote volume, and trades of each bar, as text; `""` where unknown."""
    prices = zip(*map(texts, (series.open, series.high, series.low, series.close)), strict=True)
    volumes = zip(*map(texts, (series.volume_base, series.volume_quote)), strict=True)
    counts = ['""' if trades < 0 else str(trades) for trades in series.trades.tolist()]
    return zip(series.open_ms.tolist(), prices, volumes, counts, strict=True)


class BinanceKlines:
    """REST kline rows of twelve columns; the open bar carries no flag."""

    def __init__(self, length_ms: int, *, traded: bool = True) -> None:
        self._length_ms = length_ms
        self._traded = traded

    def rows(self, series: BarSeries) -> list[str]:
        """The row of each bar, open or closed alike."""
        return [self._row(*bar) for bar in _bars(series)]

    def _row(self, t: int, prices: _Prices, volumes: _Volumes, n: str) -> str:
        (o, h, l, c), (v, q) = prices, volumes
        end = t + self._length_ms - 1
        if self._traded:
            return f'[{t},"{o}","{h}","{l}","{c}","{v}",{end},"{q}",{n},"","","0"]'
        return f'[{t},"{o}","{h}","{l}","{c}","0",{end},"0",0,"0","0","0"]'


class BinanceKlineEvents:
    """`kline` events of one symbol and interval; `stream` is its name in the combined wrapper, None on a raw socket."""

    several = False

    def __init__(self, symbol: str, bar: str, length_ms: int, stream: str | None) -> None:
        self._symbol = symbol
        self._bar = bar
        self._length_ms = length_ms
        self._wrap = wrapper(stream)

    def rows(self, series: BarSeries, *, closed: bool) -> list[str]:
        flag = "true" if closed else "false"
        return [self._kline(*bar, flag) for bar in _bars(series)]

    def push(self, rows: Sequence[str], at_ms: int) -> bytes:
        head, tail = self._wrap
        return b"".join(
            frame(f'{head}{{"e":"kline","E":{at_ms},"s":"{self._symbol}","k":{row},"st":1}}{tail}') for row in rows
        )

    def _kline(self, t: int, prices: _Prices, volumes: _Volumes, n: str, x: str) -> str:
        (o, h, l, c), (v, q) = prices, volumes
        return (
            f'{{"t":{t},"T":{t + self._length_ms - 1},"s":"{self._symbol}","i":"{self._bar}","f":-1,"L":-1,'
            f'"o":"{o}","c":"{c}","h":"{h}","l":"{l}","v":"{v}","n":{n},"x":{x},"q":"{q}","V":"","Q":"","B":"0"}}'
        )


def wrapper(stream: str | None) -> tuple[str, str]:
    """What goes before and after the data of a combined stream; nothing on a raw socket."""
    return ("", "") if stream is None else (f'{{"stream":{orjson.dumps(stream).decode()},"data":', "}")


def _mark_and_index(market: Market, spec: InstrumentSpec, at_ms: int) -> tuple[str, str] | None:
    mark, index = (market.last(spec.instrument, at_ms, price) for price in (Price.MARK, Price.INDEX))
    return (padded(mark[0], RATE_DECIMALS), padded(index[0], RATE_DECIMALS)) if mark and index else None


def mark_event(market: Market, spec: InstrumentSpec, at_ms: int) -> dict[str, Any] | None:
    """A markPriceUpdate; mark (which the average is, too) and index are the last price where the tape has none.

    `T` moves on at the settlement; where the funding is unknown `r` is `""` and `T` 0.
    """
    prices = _mark_and_index(market, spec, at_ms)
    if prices is None:
        return None
    (price, index), funding = prices, market.funding(spec.instrument, at_ms)
    return {
        "e": "markPriceUpdate",
        "E": at_ms,
        "s": spec.instrument.venue_id,
        "p": price,
        "ap": price,
        "i": index,
        "P": price,
        "r": "" if funding is None else padded(funding.rate, RATE_DECIMALS),
        "T": 0 if funding is None else funding.settles_ms,
        "st": 1,
    }


def premium_row(market: Market, spec: InstrumentSpec, at_ms: int) -> dict[str, Any] | None:
    """A premiumIndex row; `lastFundingRate` is the running estimate for `nextFundingTime`."""
    prices = _mark_and_index(market, spec, at_ms)
    if prices is None:
        return None
    (price, index), funding = prices, market.funding(spec.instrument, at_ms)
    return {
        "symbol": spec.instrument.venue_id,
        "markPrice": price,
        "indexPrice": index,
        "estimatedSettlePrice": price,
        "lastFundingRate": "" if funding is None else padded(funding.rate, RATE_DECIMALS),
        "interestRate": "",
        "nextFundingTime": 0 if funding is None else funding.settles_ms,
        "time": at_ms,
    }


def settlement_row(symbol: str, time_ms: int, rate: float, mark: float, kind: str = "Regular") -> dict[str, Any]:
    """A fundingRate row; `markPrice` is `""` where unknown, as in the venue's older rows."""
    return {
        "symbol": symbol,
        "fundingTime": time_ms,
        "fundingRate": padded(rate, RATE_DECIMALS),
        "markPrice": padded(mark, RATE_DECIMALS),
        "rateType": kind,
    }


def funding_info_row(market: Market, spec: InstrumentSpec, at_ms: int) -> dict[str, Any] | None:
    """A fundingInfo row; None for the symbols on the usual 8 hours, which the venue leaves out."""
    funding = market.funding(spec.instrument, at_ms)
    if funding is None or funding.interval_ms == 8 * HOUR_MS:
        return None
    return {
        "symbol": spec.instrument.venue_id,
        "adjustedFundingRateCap": "",
        "adjustedFundingRateFloor": "",
        "fundingIntervalHours": round(funding.interval_ms / HOUR_MS),
        "disclaimer": False,
    }


def _moves(market: Market, spec: InstrumentSpec, at_ms: int) -> tuple[Any, float, float, float] | None:
    day = market.day(spec.instrument, at_ms)
    if day is None:
        return None
    change = day.last - day.open
    average = day.volume_quote / day.volume_base if day.volume_base else np.nan
    return day, change, 100 * change / day.open, average


def ticker_row(market: Market, spec: InstrumentSpec, at_ms: int) -> dict[str, Any] | None:
    """A ticker/24hr row from the tape's bars."""
    moves = _moves(market, spec, at_ms)
    if moves is None:
        return None
    day, change, percent, average = moves
    return {
        "symbol": spec.instrument.venue_id,
        "priceChange": f"{change:.8f}",
        "priceChangePercent": f"{percent:.3f}",
        "weightedAvgPrice": plain(average),
        "lastPrice": plain(day.last),
        "lastQty": "",
        "openPrice": plain(day.open),
        "highPrice": plain(day.high),
        "lowPrice": plain(day.low),
        "volume": plain(day.volume_base),
        "quoteVolume": plain(day.volume_quote),
        "openTime": at_ms - DAY_MS,
        "closeTime": at_ms,
        "firstId": -1,
        "lastId": -1,
        "count": day.trades,
    }


def ticker_event(market: Market, spec: InstrumentSpec, at_ms: int) -> dict[str, Any] | None:
    """A 24hrTicker event."""
    row = ticker_row(market, spec, at_ms)
    if row is None:
        return None
    names = {
        "s": "symbol", "p": "priceChange", "P": "priceChangePercent", "w": "weightedAvgPrice", "c": "lastPrice",
        "Q": "lastQty", "o": "openPrice", "h": "highPrice", "l": "lowPrice", "v": "volume", "q": "quoteVolume",
        "O": "openTime", "C": "closeTime", "F": "firstId", "L": "lastId", "n": "count",
    }  # fmt: skip
    return {"e": "24hrTicker", "E": at_ms, **{short: row[name] for short, name in names.items()}, "st": 1}
