"""Fields of venue messages: numbers written as text, `""` for missing, and which contracts are ours."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from qlib_crypto.clock import iso
from qlib_crypto.errors import SchemaError
from qlib_crypto.schemas import Bar, PriceBar
from qlib_crypto.symbols import Instrument, Interval, Venue

#: What JSON writers make of numbers that are none; Python spells its own floats so.
_NOT_FINITE = frozenset({"nan", "inf", "-inf", "infinity", "-infinity", "null"})


def number(value: Any) -> float | None:
    """The finite float that `value` is or spells exactly; None for `""` and None, which both venues use for missing.

    Raises
    ------
    SchemaError
        It is neither.

    """
    if value is None or value == "":
        return None
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise SchemaError(f"{value!r} is no number; the venue's message has another shape than documented")
    return result


def whole(value: Any) -> int | None:
    """The integer that `value` is or spells; None for `""` and None.

    Raises
    ------
    SchemaError
        It is neither.

    """
    if value is None or value == "":
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        raise SchemaError(f"{value!r} is no integer; the venue's message has another shape than documented") from None


def linear(venue: Venue, venue_id: Any) -> Instrument | None:
    """The instrument of a venue's id; None for what we keep out.

    That is whatever is no linear perpetual in USDT or USDC (inverse, dated, USD-margined, placeholders, empty ids),
    and ids that are not plain ASCII letters and digits: Binance lists some in Chinese, which would have to survive
    file systems, Qlib's lower-cased folders and its text files on every machine, for contracts of no weight.
    """
    instrument = Instrument.from_venue_id(venue, venue_id) if isinstance(venue_id, str) else None
    if instrument is None or not (instrument.base.isascii() and instrument.base.isalnum()):
        return None
    return instrument


def confirmed_bar(
    instrument: Instrument,
    interval: Interval,
    open_ms: int,
    fields: Sequence[Any],
    trades: Any,
    source: str,
    received_ms: int,
) -> Bar:
    """The bar of one confirmed row; `fields` are open, high, low, close, base volume and quote volume as sent.

    Quote volume and trades are None where the venue left them out. A price or volume that is missing or not finite is
    NaN: such a bar goes to the quarantine (`Lake.admit`), and costs the others of its page nothing.

    Raises
    ------
    SchemaError
        A price or the volume is text that spells no number, or the bar does not open on the UTC grid of its interval
        (OKX opens 6 hours and more at UTC+8 unless asked for `utc`).

    """
    o, h, l, c, volume = map(_price, fields[:5])
    if open_ms % interval.ms:
        raise SchemaError(_off_grid(f"{instrument} {interval} bar", open_ms, fields))
    quote = None if fields[5] is None or fields[5] == "" else _price(fields[5])
    return Bar(instrument, interval, open_ms, o, h, l, c, volume, quote, whole(trades), source, received_ms)


def price_bar[B: PriceBar](
    kind: type[B],
    instrument: Instrument,
    interval: Interval,
    open_ms: int,
    prices: Sequence[Any],
    source: str,
    received_ms: int,
) -> B:
    """The mark or index candle of one closed row; `prices` are open, high, low and close as sent, NaN as in a bar.

    Raises
    ------
    SchemaError
        A price is text that spells no number, or the candle does not open on the UTC grid of its interval.

    """
    o, h, l, c = map(_price, prices)
    if open_ms % interval.ms:
        raise SchemaError(_off_grid(f"{instrument} {interval} {kind.__name__}", open_ms, prices))
    return kind(instrument, interval, open_ms, o, h, l, c, source, received_ms)


def _price(value: Any) -> float:
    if isinstance(value, str | float) and str(value).lower() in _NOT_FINITE:
        return math.nan
    found = number(value)
    return math.nan if found is None else found


def _off_grid(what: str, open_ms: int, fields: Sequence[Any]) -> str:
    return (
        f"{what} at {iso(open_ms)} ({open_ms}) is off the UTC grid: {list(fields)!r}; the venue's message has another "
        "shape than documented"
    )


def needed(value: float | None, what: str, row: Any) -> float:
    """The number that must be there.

    Raises
    ------
    SchemaError
        It is not.

    """
    if value is None:
        raise SchemaError(
            f"{what} is missing in {str(row)[:160]}; the venue's message has another shape than documented"
        )
    return value


def side_of(row: Any, key: str = "side") -> str:
    """`buy` or `sell`, as the row says it in any case.

    Raises
    ------
    SchemaError
        It says neither.

    """
    side = str(row.get(key)).lower()
    if side not in ("buy", "sell"):
        raise SchemaError(
            f"side {row.get(key)!r} is neither buy nor sell in {str(row)[:160]}; another shape than documented"
        )
    return side


def levels(
    rows: Sequence[Sequence[Any]], depth: int, size: float, *, best_first: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Prices, and quantities in base coins, of the `depth` best levels of one side, best first.

    `size` is in base coins of one unit of the rows' second column; `best_first` is 1 for asks and -1 for bids.

    Raises
    ------
    SchemaError
        A level is no price and quantity.

    """
    pairs = [(needed(number(row[0]), "a price", row), needed(number(row[1]), "a quantity", row)) for row in rows]
    best = sorted(pairs, key=lambda pair: best_first * pair[0])[:depth]
    return tuple(price for price, _ in best), tuple(quantity * size for _, quantity in best)


def time_of(row: Any, key: str | int) -> int:
    """The Unix milliseconds at `key` of a row.

    Raises
    ------
    SchemaError
        There are none.

    """
    try:
        return int(row[key])
    except (KeyError, IndexError, TypeError, ValueError):
        raise SchemaError(f"row {str(row)[:160]} has no time at {key!r}; another shape than documented") from None


def wall_ms() -> int:
    """The machine's own time, for `received_ms`."""
    return time.time_ns() // 1_000_000
