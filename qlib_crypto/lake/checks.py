"""What a row must be to enter the lake. A fault is one phrase; None means the row is good.

Refused is what no calculation can use (NaN, zero or negative prices, a low above the high) and what is not final.
A bar whose open or close lies outside its own low and high is the venue's word and stays.

*Open* is what was received within its own life. Receipt is wall time while a replayed market has its own, so a bar of a
market that is ahead of the wall altogether is not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from qlib_crypto.clock import MINUTE_MS, SECOND_MS, iso
from qlib_crypto.errors import DataError, UnconfirmedBarError
from qlib_crypto.market.funding import LONGEST_INTERVAL_MS
from qlib_crypto.schemas import SOURCES, Bar, Estimate, Row, Settlement

#: How far the machine's clock may be behind the venue's before a closed bar looks open.
_CLOCK_SLACK_MS = 30 * SECOND_MS


def bar_fault(bar: Bar) -> DataError | None:
    """Why this bar may not be stored; `UnconfirmedBarError` when it was received before it closed."""
    prices = bar.open, bar.high, bar.low, bar.close
    step = bar.interval.ms
    phrase = None
    if not all(0 < price < math.inf for price in prices):
        phrase = f"prices {prices} must be finite and above 0"
    elif bar.high < bar.low:
        phrase = f"high {bar.high} is below low {bar.low}"
    elif not 0 <= bar.volume_base < math.inf:
        phrase = f"volume {bar.volume_base} must be finite and not negative"
    elif bar.volume_quote is not None and not 0 <= bar.volume_quote < math.inf:
        phrase = f"quote volume {bar.volume_quote} must be finite and not negative, or None"
    elif bar.trades is not None and bar.trades < 0:
        phrase = f"trade count {bar.trades} must not be negative; use None where the source has none"
    elif bar.open_ms % step or bar.open_ms <= 0:
        phrase = f"open time {bar.open_ms} is not on the {bar.interval} grid"
    elif bar.source not in SOURCES:
        phrase = f"source {bar.source!r} is unknown; use one of {' '.join(SOURCES)}"
    if phrase:
        return DataError(f"bar {_bar_name(bar)} refused: {phrase}; check the source, then fetch it again")
    left_ms = bar.open_ms + step - bar.received_ms
    if min(_CLOCK_SLACK_MS, step // 4) < left_ms <= step:
        return UnconfirmedBarError(
            f"bar {_bar_name(bar)} refused: received at {when(bar.received_ms)}, before it closed; "
            "store only confirmed bars, and check this machine's clock"
        )
    return None


def settlement_fault(row: Settlement) -> DataError | None:
    """Why this settlement may not be stored."""
    phrase = None
    if not math.isfinite(row.rate):
        phrase = f"rate {row.rate} must be finite"
    elif row.mark_price is not None and not 0 < row.mark_price < math.inf:
        phrase = f"mark price {row.mark_price} must be finite and above 0, or None"
    elif row.time_ms <= 0:
        phrase = f"time {row.time_ms} must be Unix milliseconds"
    elif MINUTE_MS < row.time_ms - row.received_ms <= LONGEST_INTERVAL_MS:
        phrase = f"it was received at {when(row.received_ms)}, before it was due: an estimate is no settlement"
    elif row.source not in SOURCES:
        phrase = f"source {row.source!r} is unknown; use one of {' '.join(SOURCES)}"
    return DataError(f"settlement {row.instrument} {when(row.time_ms)} refused: {phrase}") if phrase else None


def estimate_fault(row: Estimate) -> DataError | None:
    """Why this estimate may not be stored."""
    phrase = None
    if not math.isfinite(row.rate):
        phrase = f"rate {row.rate} must be finite"
    elif row.interval_hours is not None and not 0 < row.interval_hours < math.inf:
        phrase = f"interval {row.interval_hours} h must be above 0, or None"
    elif row.mark_price is not None and not 0 < row.mark_price < math.inf:
        phrase = f"mark price {row.mark_price} must be finite and above 0, or None"
    elif row.time_ms <= 0 or row.settles_ms <= 0:
        phrase = f"times {row.time_ms}, {row.settles_ms} must be Unix milliseconds"
    return DataError(f"estimate {row.instrument} {when(row.time_ms)} refused: {phrase}") if phrase else None


def fault(row: Row) -> DataError | None:
    """Why this row may not be stored; None when it is good."""
    return _FAULTS[type(row)](row)


def sift[R: Row](rows: Iterable[R]) -> tuple[list[R], list[str]]:
    """The rows that may be stored, and why each of the others may not: for callers that must not stop at one."""
    good: list[R] = []
    told: list[str] = []
    for row in rows:
        error = fault(row)
        if error is None:
            good.append(row)
        else:
            told.append(str(error))
    return good, told


def refuse_faults(rows: Iterable[Row]) -> None:
    """Raise the first row's fault, so that a call stores all of its rows or none."""
    for row in rows:
        error = fault(row)
        if error is not None:
            raise error


def when(ms: int) -> str:
    """The time as text, the bare number where it is no calendar date."""
    try:
        return iso(ms)
    except (ValueError, OverflowError, OSError):
        return str(ms)


def _bar_name(bar: Bar) -> str:
    return f"{bar.instrument} {bar.interval} {when(bar.open_ms)}"


_FAULTS: dict[type, Callable[[Any], DataError | None]] = {
    Bar: bar_fault,
    Settlement: settlement_fault,
    Estimate: estimate_fault,
}
