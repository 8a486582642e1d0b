"""Order rules beside the bars: what a backtest must round orders to, as the venue stated it last."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson

from qlib_crypto.lake import Lake
from qlib_crypto.symbols import Instrument, Venue

NAME = "specs.json"


def specs_text(lake: Lake, instruments: Iterable[Instrument]) -> bytes:
    """`specs.json`: by Qlib name, in base and quote coins; instruments without a known spec are left out.

    Keys of each: `lot_base min_base min_notional_quote tick_size spec_source`.
    """
    known = {venue: lake.specs(venue) for venue in Venue}
    rules = {
        instrument.qlib: {
            "lot_base": spec.lot_base,
            "min_base": spec.min_base,
            "min_notional_quote": spec.min_notional_quote,
            "tick_size": spec.tick_size,
            "spec_source": spec.spec_source,
        }
        for instrument in sorted(instruments)
        if (spec := known[instrument.venue].get(instrument)) is not None
    }
    return orjson.dumps(rules, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def specs_problems(folder: Path, names: Iterable[str]) -> list[str]:
    """What is wrong with `specs.json`: missing, no JSON, or of instruments that are not here."""
    path = folder / NAME
    try:
        rules = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return [f"{path} is missing"]
    except orjson.JSONDecodeError as error:
        return [f"{path} is no JSON: {error}"]
    if not isinstance(rules, dict) or set(rules) - set(names):
        return [f"{path} does not map instruments of this provider to their order rules"]
    return []
