"""What of an order a venue would execute: lot, minimum sizes, leverage and data rules, as pure arithmetic."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qlib_crypto.errors import SchemaError
from qlib_crypto.market.specs import round_to_lot

#: How far from a tick, relative, a price is that was computed to lie on one.
_ON_TICK = 1e-9
#: Reasons, as they appear in fills and in the assumptions of a run.
NO_PRICE = "no price: not traded"
FUNDING_UNKNOWN = "funding unknown: not opened or added to"
BELOW_LOT = "below one lot"
BELOW_MINIMUM = "below the minimum size"
BELOW_NOTIONAL = "below the minimum notional"
LEVERAGE = "leverage cap"
CLIPPED_LEVERAGE = "scaled to the leverage cap"
FUNDING_AS_NONE = "funding unknown, taken as none"
PAID_AT_LAST_PRICE = "settlement without a price: paid at the last known one"


@dataclass(frozen=True, slots=True)
class OrderRules:
    """Which orders a venue takes: `lot_base` 0 means no rounding; `tick_size` 0 means unknown.

    `spec_source` is `venue`, `file`, `derived` or `assumed` (no specification was found: every size is taken).
    """

    lot_base: float = 0.0
    min_base: float = 0.0
    min_notional_quote: float = 0.0
    tick_size: float = 0.0
    spec_source: str = "assumed"


ASSUMED = OrderRules()
SIZES = ("lot_base", "min_base", "min_notional_quote", "tick_size")


class Admitted(NamedTuple):
    """The signed base quantity that is executed, 0.0 when refused, and the reason for a change, otherwise empty."""

    quantity: float
    note: str


def load_specs(path: Path) -> dict[str, OrderRules]:
    """The order rules by Qlib name of a file of JSON objects, one or one a line; empty when the file is missing.

    Each object maps `BTC_USDT.OKX` to `{lot_base, min_base, min_notional_quote, tick_size, spec_source}`; a null or
    absent number is 0.

    Raises
    ------
    SchemaError
        When the file is not of that shape.

    """
    if not path.is_file():
        return {}
    text, rules, at = path.read_text(encoding="utf-8").strip(), dict[str, OrderRules](), 0
    try:
        while at < len(text):
            part, at = json.JSONDecoder().raw_decode(text, at)
            rules |= {name: _rules(row) for name, row in part.items()}
            at += len(text[at:]) - len(text[at:].lstrip())
    except (ValueError, AttributeError, TypeError) as error:
        raise SchemaError(f"{path} does not map instruments to order rules ({error}); convert again") from None
    return rules


def _rules(row: Mapping[str, float | str | None]) -> OrderRules:
    lot, least, notional, tick = (float(row.get(key) or 0.0) for key in SIZES)
    if any(not math.isfinite(size) or size < 0 for size in (lot, least, notional, tick)):
        raise ValueError(f"sizes {[lot, least, notional, tick]} must be finite and not negative")
    return OrderRules(lot, least, notional, tick, str(row.get("spec_source") or "assumed"))


def admit(
    wanted: float,
    *,
    held: float,
    price: float,
    rules: OrderRules = ASSUMED,
    may_open: bool = True,
    notional_limit: float = math.inf,
) -> Admitted:
    """The part of the order for `wanted` base coins (signed) that is executed, with the reason when it is not all.

    An order that closes the position exactly is taken whole, whatever the lot and the minimum sizes say: venues
    exempt reduce-only closing from both. Everything else is cut towards zero: first so that |position| x price does
    not pass `notional_limit` (reducing is always allowed), then to whole lots, and refused below the minimum.

    `held` is the signed base quantity before the order; a NaN `price` refuses; without `may_open`, or with a
    `notional_limit` (quote coin) at or below 0, the order can only reduce the position, to zero at most.
    """
    if not math.isfinite(price) or price <= 0:
        return Admitted(0.0, NO_PRICE)
    if wanted == -held:
        return Admitted(wanted, "")
    quantity, note = wanted, ""
    if not may_open:
        quantity = _towards(held, wanted, 0.0)
        note = FUNDING_UNKNOWN if quantity != wanted else ""
    else:
        most = max(notional_limit, 0.0) / price
        quantity = _towards(held, wanted, most)
        note = CLIPPED_LEVERAGE if quantity != wanted else ""
    if quantity == 0:
        return Admitted(0.0, LEVERAGE if may_open and wanted else note)
    return _sized(quantity, note, held=held, price=price, rules=rules)


def worse_tick(price: float, tick: float, quantity: float) -> float:
    """The price on its tick, for who buys (`quantity` > 0) the next higher, for who sells the next lower.

    What is within 1e-9 of a tick is on it; tick 0 is unknown and leaves the price alone. Never 0 or less.
    """
    if tick <= 0:
        return price
    ticks = price / tick
    whole = round(ticks)
    if abs(ticks - whole) > _ON_TICK * max(ticks, 1.0):
        whole = math.ceil(ticks) if quantity > 0 else math.floor(ticks)
    return max(whole, 1) * tick


def _towards(held: float, wanted: float, most: float) -> float:
    """The part of `wanted` that keeps |held + part| within `most`, or lets it shrink when it is already beyond."""
    after = held + wanted
    if abs(after) <= most:
        return wanted
    same_side = bool(held and after) and (held > 0) == (after > 0)
    if same_side and (wanted > 0) != (held > 0):
        return wanted
    if same_side and abs(held) >= most:
        return 0.0
    target = math.copysign(most, after)
    return target - held


def _sized(quantity: float, note: str, *, held: float, price: float, rules: OrderRules) -> Admitted:
    if quantity == -held:
        return Admitted(quantity, note)
    if rules.lot_base > 0:
        quantity = round_to_lot(quantity, rules.lot_base)
    if quantity == 0:
        return Admitted(0.0, BELOW_LOT)
    if abs(quantity) < rules.min_base * (1 - 1e-9):
        return Admitted(0.0, BELOW_MINIMUM)
    if abs(quantity) * price < rules.min_notional_quote:
        return Admitted(0.0, BELOW_NOTIONAL)
    return Admitted(quantity, note)
