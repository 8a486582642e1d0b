"""What Binance USD-M says: rows of its answers and events of its streams as ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qlib_crypto.errors import SchemaError
from qlib_crypto.feeds.fields import confirmed_bar, levels, linear, needed, number, price_bar, side_of, time_of, whole
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import Bar, Book, Estimate, Liquidation, LongShortRatio, OpenInterest, PriceBar, Trade
from qlib_crypto.symbols import Instrument, Interval, Venue

#: `deliveryDate` of a contract whose delisting is not announced.
_FAR_FUTURE_MS = 4_102_444_800_000
_PERPETUAL = ("PERPETUAL", "PERPETUAL_DELIVERING", "TRADIFI_PERPETUAL")
_CRYPTO = ("COIN", "INDEX", "PREMARKET")
_KLINE_FIELDS = 9


def bar_of(instrument: Instrument, interval: Interval, row: Sequence[Any], now_ms: int, received_ms: int) -> Bar | None:
    """The bar of a klines row; None while it is open at `now_ms`, which must be read BEFORE the row was asked for.

    A kline has no closed flag: it is closed when its close time has passed.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    if not _closed(instrument, row, now_ms):
        return None
    fields = (*row[1:6], row[7])
    return confirmed_bar(instrument, interval, time_of(row, 0), fields, row[8], "rest", received_ms)


def price_bar_of[B: PriceBar](
    kind: type[B], instrument: Instrument, interval: Interval, row: Sequence[Any], now_ms: int, received_ms: int
) -> B | None:
    """The candle of a markPriceKlines or indexPriceKlines row; None while it is open at `now_ms`, as for `bar_of`.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    if not _closed(instrument, row, now_ms):
        return None
    return price_bar(kind, instrument, interval, time_of(row, 0), row[1:5], "rest", received_ms)


def open_interest_of(instrument: Instrument, row: Mapping[str, Any], received_ms: int) -> OpenInterest:
    """The open interest of an openInterestHist row, in coins and in the quote coin.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    coins = needed(number(row.get("sumOpenInterest")), "sumOpenInterest", row)
    value = number(row.get("sumOpenInterestValue"))
    return OpenInterest(instrument, time_of(row, "timestamp"), coins, value, "rest", received_ms)


def ratio_of(instrument: Instrument, row: Mapping[str, Any], received_ms: int) -> LongShortRatio:
    """The ratio of a globalLongShortAccountRatio row.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    ratio = needed(number(row.get("longShortRatio")), "longShortRatio", row)
    return LongShortRatio(instrument, time_of(row, "timestamp"), ratio, "rest", received_ms)


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


def event_liquidation_of(instrument: Instrument, event: Mapping[str, Any], received_ms: int) -> Liquidation | None:
    """The liquidation of a forceOrder event, average price and quantity filled; None while nothing was filled.

    Raises
    ------
    SchemaError
        The event has another shape.

    """
    one = event["o"]
    price, filled = needed(number(one.get("ap")), "ap", one), needed(number(one.get("z")), "z", one)
    if price == 0 or filled == 0:
        return None
    return Liquidation(instrument, time_of(one, "T"), side_of(one, "S"), price, filled, received_ms)


def event_trade_of(instrument: Instrument, event: Mapping[str, Any], received_ms: int) -> Trade:
    """The trade of an aggTrade event; where the buyer was the maker (`m`), the taker sold.

    Raises
    ------
    SchemaError
        The event has another shape.

    """
    price, quantity = needed(number(event.get("p")), "p", event), needed(number(event.get("q")), "q", event)
    side = "sell" if event["m"] else "buy"
    return Trade(instrument, time_of(event, "T"), time_of(event, "a"), side, price, quantity, received_ms)


def event_book_of(instrument: Instrument, event: Mapping[str, Any], depth: int, received_ms: int) -> Book:
    """The book of a depth event of `@depth5`, `@depth10` or `@depth20`, at its transaction time.

    Raises
    ------
    SchemaError
        The event has another shape.

    """
    bids, asks = levels(event["b"], depth, 1.0, best_first=-1), levels(event["a"], depth, 1.0, best_first=1)
    return Book(instrument, time_of(event, "T"), *bids, *asks, received_ms)


def spec_of(row: Mapping[str, Any], seen_ms: int) -> InstrumentSpec | None:
    """The spec of an exchangeInfo symbol; None for one that is not ours, or whose numbers are not published yet."""
    instrument = linear(Venue.BINANCE, row.get("symbol"))
    if instrument is None or row.get("contractType") not in _PERPETUAL:
        return None
    if (row.get("baseAsset"), row.get("quoteAsset")) != (instrument.base, instrument.quote):
        return None
    filters = {one["filterType"]: one for one in row.get("filters") or ()}  # by type: their order is not fixed
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


def _closed(instrument: Instrument, row: Sequence[Any], now_ms: int) -> bool:
    if len(row) < _KLINE_FIELDS:
        raise SchemaError(f"{instrument} kline row {row!r} has {len(row)} fields; another shape than documented")
    return time_of(row, 6) < now_ms
