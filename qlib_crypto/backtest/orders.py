"""Which orders a venue takes and since when, as a provider's `rules.json` or `specs.json` has it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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


#: The rules of one instrument and since when, Unix milliseconds, ascending; the first also hold before.
Rules = Sequence[tuple[int, OrderRules]]
ASSUMED: Rules = ((0, OrderRules()),)
SIZES = ("lot_base", "min_base", "min_notional_quote", "tick_size")


def load_specs(path: Path) -> dict[str, Rules]:
    """The order rules by Qlib name of a file of JSON objects, one or one a line; empty when the file is missing.

    Each object maps `BTC_USDT.OKX` to `{lot_base, min_base, min_notional_quote, tick_size, spec_source}`, or to a list
    of these with `since_ms`, oldest first; a null or absent number is 0.

    Raises
    ------
    SchemaError
        When the file is not of that shape.

    """
    if not path.is_file():
        return {}
    try:
        text, rules, at = path.read_text(encoding="utf-8").strip(), dict[str, Rules](), 0
        if not text:
            raise SchemaError(f"{path} is empty; write {{}} where no order rules are meant, or convert again")
        while at < len(text):
            part, at = json.JSONDecoder().raw_decode(text, at)
            rules |= {name: _dated(rows if isinstance(rows, list) else [rows]) for name, rows in part.items()}
            at += len(text[at:]) - len(text[at:].lstrip())
    except (ValueError, AttributeError, TypeError) as error:
        raise SchemaError(
            f"{path} does not map instruments to order rules ({error}); correct it, or convert again"
        ) from None
    return rules


def _dated(rows: Sequence[Mapping[str, float | str | None]]) -> Rules:
    since = [int(row.get("since_ms") or 0) for row in rows]
    if not rows or any(one >= other for one, other in pairwise(since)):
        raise ValueError(f"states of the times {since} are not ascending")
    return tuple((at, _rules(row)) for at, row in zip(since, rows, strict=True))


def _rules(row: Mapping[str, float | str | None]) -> OrderRules:
    unknown = sorted(set(row) - {*SIZES, "spec_source", "since_ms"})
    if unknown:
        raise ValueError(f"{unknown[0]} is none of {', '.join(SIZES)}, spec_source, since_ms")
    lot, least, notional, tick = (float(row.get(key) or 0.0) for key in SIZES)
    if any(not math.isfinite(size) or size < 0 for size in (lot, least, notional, tick)):
        raise ValueError(f"sizes {[lot, least, notional, tick]} must be finite and not negative")
    return OrderRules(lot, least, notional, tick, str(row.get("spec_source") or "assumed"))
