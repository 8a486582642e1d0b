"""Which orders a venue takes, as a provider's `specs.json` has it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qlib_crypto.errors import SchemaError


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
