"""Order rules and margin tiers beside the bars, so that a backtest needs no lake.

`specs.json` has the rules that the venue stated last, `rules.json` and `margin_tiers.json` every state since it was
first seen: `{"BTC_USDT.OKX": [{"since_ms": …, …}, …]}`, oldest first. Nothing is known of the time before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import orjson

from qlib_crypto.errors import SchemaError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.snapshots import TierStates
from qlib_crypto.market.margin import dated_tables
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.symbols import Instrument, Venue

SPECS, RULES, TIERS = "specs.json", "rules.json", "margin_tiers.json"
NAMES = (SPECS, RULES, TIERS)


def spec_files(lake: Lake, instruments: Iterable[Instrument]) -> dict[str, bytes]:
    """The files of `NAMES`, by Qlib name; an instrument of which nothing is known is left out.

    Rules have the keys `lot_base min_base min_notional_quote tick_size spec_source`, in base and quote coins; a state
    of margin tiers `by_quantity source tiers`, and each tier `floor cap maintenance_rate max_leverage deduction`, sizes
    in base coins where `by_quantity` (`market.margin`).
    """
    of = sorted(instruments)
    return {
        SPECS: _text(of, {venue: lake.specs(venue) for venue in Venue}, _rules),
        RULES: _text(of, {venue: lake.spec_states(venue) for venue in Venue}, _dated_rules),
        TIERS: _text(of, {venue: lake.tiers(venue) for venue in Venue}, _dated_tiers),
    }


def specs_problems(folder: Path, names: Iterable[str]) -> list[str]:
    """What is wrong with the files: missing, no JSON, of instruments that are not here, or states out of order."""
    known = set(names)
    return [problem for name in NAMES if (problem := _problem(folder / name, known)) is not None]


def _text[T](
    instruments: Sequence[Instrument],
    known: Mapping[Venue, Mapping[Instrument, T]],
    plain: Callable[[T], Any],
) -> bytes:
    said = {of.qlib: plain(known[of.venue][of]) for of in instruments if of in known[of.venue]}
    return orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _rules(spec: InstrumentSpec) -> dict[str, Any]:
    return {
        "lot_base": spec.lot_base,
        "min_base": spec.min_base,
        "min_notional_quote": spec.min_notional_quote,
        "tick_size": spec.tick_size,
        "spec_source": spec.spec_source,
    }


def _dated_rules(states: Sequence[InstrumentSpec]) -> list[dict[str, Any]]:
    """What else changed (a leverage, a delisting that was announced) makes no state of rules."""
    return [{"since_ms": next(same).seen_ms, **rules} for rules, same in groupby(states, _rules)]


def _dated_tiers(states: TierStates) -> list[dict[str, Any]]:
    return [
        {
            "since_ms": since,
            "by_quantity": table.by_quantity,
            "source": table.source,
            "tiers": [
                {
                    "floor": tier.floor,
                    "cap": tier.cap if tier.cap < math.inf else None,
                    "maintenance_rate": tier.maintenance_rate,
                    "max_leverage": tier.max_leverage,
                    "deduction": tier.deduction,
                }
                for tier in table.tiers
            ],
        }
        for since, table in states
    ]


def _problem(path: Path, names: set[str]) -> str | None:
    try:
        plain = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return f"{path} is missing"
    except orjson.JSONDecodeError as error:
        return f"{path} is no JSON: {error}"
    if not isinstance(plain, dict) or set(plain) - names:
        return f"{path} does not map instruments of this provider to their order rules or margin tiers"
    try:
        if path.name == TIERS:
            dated_tables(path)
        if path.name == RULES:
            _check_dated(plain)
    except SchemaError as error:
        return str(error)
    except (KeyError, TypeError) as error:
        return f"{path} has no dated states: {error!r}"
    return None


def _check_dated(plain: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for name, states in plain.items():
        times = [state["since_ms"] for state in states]
        if not times or any(one >= other for one, other in pairwise(times)):
            raise SchemaError(f"{RULES}: rules of {name} are of the times {times}, not ascending; convert again")
