"""What OKX v5 says: rows of its answers, pushes and bulk files as ours. Every value is text, `""` is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.errors import SchemaError
from qlib_crypto.feeds.client import StatedTiers
from qlib_crypto.feeds.fields import confirmed_bar, levels, linear, needed, number, price_bar, side_of, time_of, whole
from qlib_crypto.market.margin import MarginTable, contract_tiers
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import Bar, Book, Estimate, Liquidation, LongShortRatio, OpenInterest, PriceBar, Trade
from qlib_crypto.symbols import Instrument, Interval, Venue

_CANDLE_FIELDS, _PRICE_FIELDS, _OPEN_INTEREST_FIELDS, _RATIO_FIELDS = 9, 6, 4, 2
_TIER_FIELDS = "minSz", "maxSz", "mmr", "maxLever"
_CRYPTO = "1"


def bar_of(instrument: Instrument, interval: Interval, row: Sequence[str], source: str, received_ms: int) -> Bar | None:
    """The bar of a candle row `[ts, o, h, l, c, vol, volCcy, volCcyQuote, confirm]`; None while it is open.

    Volume is `volCcy` (base coin), not `vol` (contracts, whose size has changed over the years). OKX counts no trades.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    _width(instrument, "candle", row, _CANDLE_FIELDS)
    if row[8] != "1":
        return None
    fields = (*row[1:5], row[6], row[7])
    return confirmed_bar(instrument, interval, time_of(row, 0), fields, None, source, received_ms)


def price_bar_of[B: PriceBar](
    kind: type[B], instrument: Instrument, interval: Interval, row: Sequence[str], source: str, received_ms: int
) -> B | None:
    """The mark or index candle of a row `[ts, o, h, l, c, confirm]`; None while it is open.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    _width(instrument, kind.__name__, row, _PRICE_FIELDS)
    if row[5] != "1":
        return None
    return price_bar(kind, instrument, interval, time_of(row, 0), row[1:5], source, received_ms)


def open_interest_of(instrument: Instrument, row: Sequence[str], received_ms: int) -> OpenInterest:
    """The open interest of a row `[ts, oi, oiCcy, oiUsd]`: coins are `oiCcy`, the quote value is `oiUsd`.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    _width(instrument, "open interest", row, _OPEN_INTEREST_FIELDS)
    coins = needed(number(row[2]), "oiCcy", row)
    return OpenInterest(instrument, time_of(row, 0), coins, number(row[3]), "rest", received_ms)


def ratio_of(instrument: Instrument, row: Sequence[str], received_ms: int) -> LongShortRatio:
    """The long/short ratio of a row `[ts, ratio]`.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    _width(instrument, "long/short ratio", row, _RATIO_FIELDS)
    return LongShortRatio(instrument, time_of(row, 0), needed(number(row[1]), "the ratio", row), "rest", received_ms)


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


def liquidations_of(
    instrument: Instrument, row: Mapping[str, Any], contract_value: float, received_ms: int
) -> Iterator[Liquidation]:
    """The liquidations of one row of `liquidation-orders`; `sz` is in contracts, `bkPx` the bankruptcy price.

    Raises
    ------
    SchemaError
        A detail has another shape.

    """
    for one in row["details"]:
        price, contracts = needed(number(one.get("bkPx")), "bkPx", one), needed(number(one.get("sz")), "sz", one)
        at = time_of(one, "ts")
        yield Liquidation(instrument, at, side_of(one), price, contracts * contract_value, received_ms)


def trade_of(instrument: Instrument, row: Mapping[str, Any], contract_value: float, received_ms: int) -> Trade:
    """The trade of a row of `trades`; `sz` is in contracts, `side` is the taker's.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    price, contracts = needed(number(row.get("px")), "px", row), needed(number(row.get("sz")), "sz", row)
    number_ = time_of(row, "tradeId")
    return Trade(instrument, time_of(row, "ts"), number_, side_of(row), price, contracts * contract_value, received_ms)


def book_of(
    instrument: Instrument, row: Mapping[str, Any], depth: int, contract_value: float, received_ms: int
) -> Book:
    """The book of a row of `books5`: levels `[price, contracts, "0", orders]`.

    Raises
    ------
    SchemaError
        The row has another shape.

    """
    bids = levels(row["bids"], depth, contract_value, best_first=-1)
    asks = levels(row["asks"], depth, contract_value, best_first=1)
    return Book(instrument, time_of(row, "ts"), *bids, *asks, received_ms)


def spec_of(row: Mapping[str, Any], seen_ms: int) -> InstrumentSpec | None:
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


def tiers_of(rows: Sequence[Mapping[str, Any]], specs: Sequence[InstrumentSpec]) -> StatedTiers:
    """The margin tiers of `position-tiers` rows, of these contracts.

    Sizes are in contracts, and a rate holds for the whole position. A contract that has no rows, or rows that make no
    table, costs the others nothing.
    """
    tables, refused = {}, []
    for spec in specs:
        of = spec.instrument
        try:
            own = [_tier(row) for row in rows if (row.get("instFamily") or row.get("uly")) == of.index_id]
            tiers = contract_tiers(own, spec.contract_value_base)
            tables[of] = MarginTable(tiers, by_quantity=True, source="venue")
        except (SchemaError, ValueError) as error:
            refused.append(f"margin tiers of {of} stay as they were seen last: {error}")
    return StatedTiers(tables, refused)


def _tier(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    least, largest, rate, leverage = (needed(number(row.get(name)), name, row) for name in _TIER_FIELDS)
    return least, largest, rate, leverage


def _width(instrument: Instrument, what: str, row: Sequence[Any], fields: int) -> None:
    if len(row) < fields:
        raise SchemaError(f"{instrument} {what} row {row!r} has {len(row)} fields instead of {fields}")
