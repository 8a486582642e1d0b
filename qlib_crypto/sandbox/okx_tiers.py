"""OKX's margin tiers: made up of the contract alone, so that every run has the same, and changed once.

The first tier allows the contract's leverage and half a percent more initial margin goes with each further one, of
which 40 % must stay. At the middle of the tape's span the contract whose id comes first has all its tiers halved.
"""

from __future__ import annotations

from math import floor

import orjson

from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.okx_query import Query, inst_type, needed, no_instrument, wrong
from qlib_crypto.sandbox.text import plain

TIERS = 8
#: Families of one request.
MOST_FAMILIES = 5
#: The size of each tier, in contracts as they are when the contract is listed, and the leverage where none is stated.
TIER_CONTRACTS, LEVERAGE = 200_000, 50.0
_STEP, _KEPT, _DECIMALS = 0.005, 0.4, 8


def changes_ms(market: Market) -> int:
    """When the tiers of the first contract change, market milliseconds."""
    start, end = market.tape.span_ms
    return (start + end) // 2


def position_tiers(market: Market, query: Query, now: int) -> bytes:
    """The tiers of the families that `instFamily` (or `uly`) names, sizes in the contracts of now."""
    kind = inst_type(query)
    if needed(query, "tdMode") not in ("cross", "isolated"):
        raise wrong("tdMode")
    name = "uly" if query.get("uly") else "instFamily"
    families = needed(query, name).split(",")
    if len(families) > MOST_FAMILIES:
        raise wrong(name)
    if kind != "SWAP":
        return b"[]"
    trading = {spec.instrument.index_id: spec for spec in market.trading(now)}
    if set(families) - set(trading):
        raise no_instrument()
    return orjson.dumps([row for family in families for row in _rows(market, trading[family], now)])


def _rows(market: Market, spec: InstrumentSpec, now: int) -> list[dict[str, str]]:
    listed = market.all_of(spec.instrument.venue_id)[-1].contract_value_base
    halved = spec.instrument.venue_id == market.ids[0] and now >= changes_ms(market)
    size = TIER_CONTRACTS * listed / spec.contract_value_base / (2 if halved else 1)
    first = 1 / (spec.max_leverage or LEVERAGE)
    rows = []
    for number in range(1, TIERS + 1):
        initial = first + _STEP * (number - 1)
        least = size * (number - 1) + spec.lot_contracts if number > 1 else 0.0
        rows.append(
            {
                "baseMaxLoan": "",
                "imr": plain(round(initial, _DECIMALS)),
                "instFamily": spec.instrument.index_id,
                "instId": "",
                "maxLever": plain(floor(100 / initial + 1e-6) / 100),
                "maxSz": plain(round(size * number, _DECIMALS)),
                "minSz": plain(round(least, _DECIMALS)),
                "mmr": plain(round(initial * _KEPT, _DECIMALS)),
                "optMgnFactor": "0",
                "quoteMaxLoan": "",
                "tier": str(number),
                "uly": spec.instrument.index_id,
            }
        )
    return rows
