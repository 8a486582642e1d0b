"""Why what was done is not what was asked for: numbers for compiled code, words for fills and assumptions."""

from __future__ import annotations

#: Why less than all of an order is executed; then why something was done that nobody ordered.
WORDS = (
    "",
    "no price: not traded",
    "funding unknown: not opened or added to",
    "below one lot",
    "below the minimum size",
    "below the minimum notional",
    "leverage cap",
    "scaled to the leverage cap",
    "margin",
    "scaled to the margin left",
    "participation cap: no volume left",
    "scaled to the participation cap",
    "larger than the venue's last margin tier",
    "scaled to the venue's last margin tier",
    "funding unknown: closed",
    "no more prices or funding: settled at the last mark",
    "liquidated",
    "rests until its price is reached",
    "position limit",
    "scaled to the position limit",
    "net limit",
    "scaled to the net limit",
    "halted by a risk limit: not opened or added to",
    "cool-down after a stop: not opened or added to",
    "daily loss limit: closed",
    "drawdown limit: closed",
    "closed before by a stop, a limit or the venue: nothing left of the order",
    "closed before by a stop, a limit or the venue: scaled to what is left",
)
(
    WHOLE, NO_PRICE, FUNDING_UNKNOWN, BELOW_LOT, BELOW_MINIMUM, BELOW_NOTIONAL, LEVERAGE, CLIPPED_LEVERAGE,
    MARGIN, CLIPPED_MARGIN, VOLUME, CLIPPED_VOLUME, TIER, CLIPPED_TIER, CLOSED_UNKNOWN, CLOSED_DELISTED, LIQUIDATED,
    RESTING, POSITION, CLIPPED_POSITION, NET, CLIPPED_NET, HALTED, COOLING, CLOSED_DAY, CLOSED_DRAWDOWN,
    GONE, CLIPPED_GONE,
) = range(len(WORDS))  # fmt: skip
#: What kind of order a fill is of; the last is what nobody ordered.
KINDS = ("market", "limit", "stop", "stop loss", "take profit", "trailing stop", "risk limit", "venue")
MARKET, LIMIT, STOP, STOP_LOSS, TAKE_PROFIT, TRAILING_STOP, RISK_LIMIT, VENUE = range(len(KINDS))

#: What is counted because a reader should know of it.
COUNTED = (
    "bars held without a price",
    "funding unknown, taken as none",
    "settlement without a price: paid at the last known one",
    "funding unknown without a price to close at",
    "resting orders whose price was never reached",
)
STALE_MARKS, FUNDING_AS_NONE, PAID_AT_LAST_PRICE, UNKNOWN_WITHOUT_PRICE, EXPIRED = range(len(COUNTED))
#: Where the counts of `WORDS` begin, after these.
OF_WORDS = len(COUNTED)
