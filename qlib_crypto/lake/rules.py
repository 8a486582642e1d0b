"""The rules of each kind of rows: what a value must be to enter the lake. `checks` applies them.

Each rule is written once and works on a value and on an array: a batch is judged by columns in a fraction of the time,
and the single row, for the message, by the very same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from qlib_crypto import schemas
from qlib_crypto.clock import MINUTE_MS, SECOND_MS, parse_utc
from qlib_crypto.market.funding import LONGEST_INTERVAL_MS
from qlib_crypto.schemas import PERIOD_MS, SOURCES, Row

#: How far the machine's clock may be behind the venue's before a closed row looks open.
_CLOCK_SLACK_MS = 30 * SECOND_MS
#: No time of a market lies after: microseconds that are taken for milliseconds do.
_LAST_MS = parse_utc("2200-01-01")
_SIDES = ("buy", "sell")
#: No price in any quote coin, and no amount, comes near; what is larger is an error that sums and float32 would spread.
_LAST_PRICE, _LAST_AMOUNT = 1e12, 1e30
#: The first whole number whose neighbour a float64 cannot tell, and the first that the files and SQLite cannot hold.
_LAST_COUNT, _LAST_ID = 2**53, 2**63


@dataclass(frozen=True, slots=True)
class Rule:
    """`holds` of a value or an array of them; `must` says it. A text rule has the `words` that are allowed instead."""

    must: str
    holds: Callable[[Any], Any] = bool
    words: Sequence[str] = ()


PRICE = Rule(f"prices must be finite and above 0, below {_LAST_PRICE:g}", lambda x: (x > 0) & (x < _LAST_PRICE))
AMOUNT = Rule(f"must be finite and not negative, below {_LAST_AMOUNT:g}", lambda x: (x >= 0) & (x < _LAST_AMOUNT))
_RATE = Rule("must be finite", lambda x: (x > -math.inf) & (x < math.inf))
_COUNT = Rule(
    "the trade count must not be negative, nor 2**53 or more; use None where the source has none",
    lambda x: (x >= 0) & (x < _LAST_COUNT),
)
_ID = Rule("must not be negative, nor 2**63 or more", lambda x: (x >= 0) & (x < _LAST_ID))
_HOURS = Rule("must be finite and above 0, or None", PRICE.holds)
_TIME = Rule("times must be Unix milliseconds before 2200", lambda x: (x > 0) & (x < _LAST_MS))
_SOURCE = Rule(f"is unknown; use one of {' '.join(SOURCES)}", words=SOURCES)
_SIDE = Rule(f"is unknown; use one of {' '.join(_SIDES)}", words=_SIDES)
_CANDLE = {"open": PRICE, "high": PRICE, "low": PRICE, "close": PRICE}
_FILL = {"side": _SIDE, "price": PRICE, "quantity": AMOUNT}
LEVELS = (("bid_prices", "bid_quantities"), ("ask_prices", "ask_quantities"))


@dataclass(frozen=True)
class Kind:
    """What is asked of one kind of rows, by Parquet column; a row's fields are in the order of its columns.

    `grid` is None for no grid and 0 for the bar's own interval. Received `ahead` (plus the interval) before its time
    is too early: at least `slack_ms` and at most `reach_ms`, 0 for the bar's own interval again.
    """

    name: str
    schema: pa.Schema
    rules: Mapping[str, Rule]
    grid: int | None = None
    slack_ms: int = _CLOCK_SLACK_MS
    reach_ms: int = 0
    early: str = ""

    @property
    def has_interval(self) -> bool:
        return self.grid == 0

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns after the symbol: a row's fields after instrument and interval."""
        return tuple(self.schema.names[1:])

    @cached_property
    def nullable(self) -> frozenset[str]:
        """Columns that may be None."""
        return frozenset(name for name in self.columns if self.schema.field(name).nullable)

    @cached_property
    def by_rule(self) -> list[tuple[Rule, bool, list[str]]]:
        """Columns that one rule is for, together: one array is made of them. One that may be None (True) is alone."""
        found: dict[tuple[Rule, str], list[str]] = {}
        for name, rule in self.rules.items():
            found.setdefault((rule, name if name in self.nullable else ""), []).append(name)
        return [(rule, bool(alone), names) for (rule, alone), names in found.items()]

    def fields(self, row: Row) -> dict[str, Any]:
        """The row's values by column, without the symbol."""
        return dict(zip(self.columns, row[2 if self.has_interval else 1 :], strict=True))

    def too_early(self, time: Any, received: Any, step: Any) -> Any:
        """Whether it was received before its time; of values or arrays."""
        if not self.early:
            return False
        left = time + step - received
        if self.has_interval:
            return ((left > self.slack_ms) | (left > step // 4)) & (left <= step)
        return (left > self.slack_ms) & (left <= self.reach_ms)


_OPEN = "before it closed; store only confirmed bars, and check this machine's clock"
KINDS: dict[type, Kind] = {
    schemas.Bar: Kind(
        "bar", schemas.KLINE, {**_CANDLE, "volume": AMOUNT, "quote_volume": AMOUNT, "trades": _COUNT,
                               "timestamp": _TIME, "source": _SOURCE}, grid=0, early=_OPEN,
    ),
    schemas.Settlement: Kind(
        "settlement", schemas.FUNDING,
        {"funding_rate": _RATE, "mark_price": PRICE, "timestamp": _TIME, "source": _SOURCE},
        slack_ms=MINUTE_MS, reach_ms=LONGEST_INTERVAL_MS, early="before it was due: an estimate is no settlement",
    ),
    schemas.Estimate: Kind(
        "estimate", schemas.FUNDING_ESTIMATE,
        {"funding_rate": _RATE, "interval_hours": _HOURS, "mark_price": PRICE, "timestamp": _TIME,
         "settles_at": _TIME},
    ),
    schemas.MarkBar: Kind(
        "mark bar", schemas.MARK, {**_CANDLE, "timestamp": _TIME, "source": _SOURCE}, grid=0, early=_OPEN,
    ),
    schemas.IndexBar: Kind(
        "index bar", schemas.INDEX, {**_CANDLE, "timestamp": _TIME, "source": _SOURCE}, grid=0, early=_OPEN,
    ),
    schemas.OpenInterest: Kind(
        "open interest", schemas.OPEN_INTEREST,
        {"open_interest": AMOUNT, "open_interest_quote": AMOUNT, "timestamp": _TIME, "source": _SOURCE},
        grid=PERIOD_MS, reach_ms=PERIOD_MS, early="before its time",
    ),
    schemas.LongShortRatio: Kind(
        "long/short ratio", schemas.LONG_SHORT_RATIO, {"ratio": AMOUNT, "timestamp": _TIME, "source": _SOURCE},
        grid=PERIOD_MS, reach_ms=PERIOD_MS, early="before its time",
    ),
    schemas.Liquidation: Kind("liquidation", schemas.LIQUIDATIONS, {**_FILL, "timestamp": _TIME}),
    schemas.Trade: Kind("trade", schemas.TRADES, {**_FILL, "trade_id": _ID, "timestamp": _TIME}),
    schemas.Book: Kind("book", schemas.BOOKS, {"timestamp": _TIME}),
}  # fmt: skip
