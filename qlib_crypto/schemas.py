"""The rows that pass between feeds, hot store, lake and provider, and their Parquet schemas.

Times are Unix milliseconds UTC inside and `timestamp[ms, UTC]` in Parquet. A bar is named by its open,
closed left, open right. Missing is null or NaN, never a filled-in value.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

from qlib_crypto.symbols import Instrument, Interval

#: Where a row came from, worst first: a later one replaces an earlier one at the same key.
SOURCES = ("ws", "rest", "archive", "import")


class Bar(NamedTuple):
    """One confirmed candle.

    Attributes
    ----------
    instrument, interval
        What and how long.
    open_ms
        Open time.
    open, high, low, close
        Quote per base.
    volume_base
        In the base coin on every venue.
    volume_quote
        In the quote coin; None where the source has none.
    trades
        Count; None where the source has none (OKX).
    source
        One of `SOURCES`.
    received_ms
        Wall time of receipt.

    """

    instrument: Instrument
    interval: Interval
    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume_base: float
    volume_quote: float | None
    trades: int | None
    source: str
    received_ms: int


class Settlement(NamedTuple):
    """One funding event: `rate` (fraction of notional for that interval; > 0 means longs pay) was paid at `time_ms`.

    `time_ms` is as the venue sent it (Binance jitters by some ms); `mark_price` is None where the venue does not say.
    """

    instrument: Instrument
    time_ms: int
    rate: float
    mark_price: float | None
    source: str
    received_ms: int


class Estimate(NamedTuple):
    """The running funding rate, seen at `time_ms`, for the settlement at `settles_ms`; never mixed with settlements."""

    instrument: Instrument
    time_ms: int
    rate: float
    settles_ms: int
    interval_hours: float | None
    mark_price: float | None
    received_ms: int


class PriceBar(NamedTuple):
    """One closed candle of a price at which nobody trades, quote per base; `open_ms` is its open time."""

    instrument: Instrument
    interval: Interval
    open_ms: int
    open: float
    high: float
    low: float
    close: float
    source: str
    received_ms: int


class MarkBar(PriceBar):
    """One closed candle of the mark price."""

    __slots__ = ()


class IndexBar(PriceBar):
    """One closed candle of the index, the price on spot markets; contracts of one coin and quote share theirs."""

    __slots__ = ()


class OpenInterest(NamedTuple):
    """Open interest as of `time_ms`, the venue's own label of the 5-minute period.

    In base coins, and in the quote coin where the venue says that; None where it does not.
    """

    instrument: Instrument
    time_ms: int
    open_interest_base: float
    open_interest_quote: float | None
    source: str
    received_ms: int


class LongShortRatio(NamedTuple):
    """Accounts long over accounts short as of `time_ms`, the venue's own label of the 5-minute period."""

    instrument: Instrument
    time_ms: int
    ratio: float
    source: str
    received_ms: int


class Liquidation(NamedTuple):
    """One forced order of the venue's sample (at most about one a second and contract, not all that happen).

    `side` is the order's own, `buy` closes a short; `price` is what it was filled at, or OKX's bankruptcy price.
    """

    instrument: Instrument
    time_ms: int
    side: str
    price: float
    quantity_base: float
    received_ms: int


class Trade(NamedTuple):
    """One public trade, as the venue aggregates them; `side` is the taker's; `trade_id` is unique by instrument."""

    instrument: Instrument
    time_ms: int
    trade_id: int
    side: str
    price: float
    quantity_base: float
    received_ms: int


class Book(NamedTuple):
    """The best levels of a book at `time_ms`, best first; quantities in base coins."""

    instrument: Instrument
    time_ms: int
    bid_prices: tuple[float, ...]
    bid_quantities: tuple[float, ...]
    ask_prices: tuple[float, ...]
    ask_quantities: tuple[float, ...]
    received_ms: int


#: Whatever is collected.
type Row = Bar | Settlement | Estimate | MarkBar | IndexBar | OpenInterest | LongShortRatio | Liquidation | Trade | Book

#: Period of open interest and long/short ratio.
PERIOD_MS = 300_000


class Ticker(NamedTuple):
    """Last price and 24 h turnover; `turnover_quote` is in the quote coin."""

    instrument: Instrument
    last: float
    turnover_quote: float
    time_ms: int


_TIME = pa.timestamp("ms", tz="UTC")


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    """Symbol and time, then these columns: name, type, whether a value may be missing."""
    key = ("symbol", pa.string(), False), ("timestamp", _TIME, False)
    return pa.schema([pa.field(name, kind, nullable=nullable) for name, kind, nullable in (*key, *fields)])


_PRICES = tuple((name, pa.float64(), False) for name in ("open", "high", "low", "close"))

KLINE = _schema(
    *_PRICES,
    ("volume", pa.float64(), False),
    ("quote_volume", pa.float64(), True),
    ("trades", pa.int64(), True),
    ("source", pa.string(), False),
    ("received_at", _TIME, False),
)

FUNDING = _schema(
    ("funding_rate", pa.float64(), False),
    ("mark_price", pa.float64(), True),
    ("source", pa.string(), False),
    ("received_at", _TIME, False),
)

FUNDING_ESTIMATE = _schema(
    ("funding_rate", pa.float64(), False),
    ("settles_at", _TIME, False),
    ("interval_hours", pa.float64(), True),
    ("mark_price", pa.float64(), True),
    ("received_at", _TIME, False),
)

#: Of mark and index alike.
MARK = INDEX = _schema(
    *_PRICES,
    ("source", pa.string(), False),
    ("received_at", _TIME, False),
)

OPEN_INTEREST = _schema(
    ("open_interest", pa.float64(), False),
    ("open_interest_quote", pa.float64(), True),
    ("source", pa.string(), False),
    ("received_at", _TIME, False),
)

LONG_SHORT_RATIO = _schema(
    ("ratio", pa.float64(), False),
    ("source", pa.string(), False),
    ("received_at", _TIME, False),
)

LIQUIDATIONS = _schema(
    ("side", pa.string(), False),
    ("price", pa.float64(), False),
    ("quantity", pa.float64(), False),
    ("received_at", _TIME, False),
)

TRADES = _schema(
    ("trade_id", pa.int64(), False),
    ("side", pa.string(), False),
    ("price", pa.float64(), False),
    ("quantity", pa.float64(), False),
    ("received_at", _TIME, False),
)

BOOKS = _schema(
    ("bid_prices", pa.list_(pa.float64()), False),
    ("bid_quantities", pa.list_(pa.float64()), False),
    ("ask_prices", pa.list_(pa.float64()), False),
    ("ask_quantities", pa.list_(pa.float64()), False),
    ("received_at", _TIME, False),
)

INSTRUMENTS = _schema(
    ("venue_id", pa.string(), False),
    ("state", pa.string(), False),
    ("category", pa.string(), False),
    ("rule_type", pa.string(), False),
    ("tick_size", pa.float64(), False),
    ("contract_value_base", pa.float64(), False),
    ("lot_contracts", pa.float64(), False),
    ("min_contracts", pa.float64(), False),
    ("min_notional_quote", pa.float64(), True),
    ("max_leverage", pa.float64(), True),
    ("listed_at", _TIME, True),
    ("delisted_at", _TIME, True),
    ("spec_source", pa.string(), False),
)

#: One tier a row; sizes are base coins where `by_quantity`, else quote coins of notional.
MARGIN_TIERS = _schema(
    ("tier", pa.int64(), False),
    *((name, pa.float64(), False) for name in ("floor", "cap", "maintenance_rate", "max_leverage", "deduction")),
    ("by_quantity", pa.bool_(), False),
    ("tier_source", pa.string(), False),
)

MEMBERSHIP = _schema(
    ("member", pa.bool_(), False),
    ("rank", pa.int64(), False),
    ("funding_rate", pa.float64(), False),
    ("interval_hours", pa.float64(), True),
    ("turnover_quote", pa.float64(), True),
)
