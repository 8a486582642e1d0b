"""Contract specifications of linear perpetuals, as the venue stated them at one time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qlib_crypto.symbols import Instrument


@dataclass(frozen=True, slots=True)
class InstrumentSpec:
    """What one contract is and which orders the venue takes, as of `seen_ms`.

    Attributes
    ----------
    state
        `live`, or the venue's own lower-cased word (`suspend`, `preopen`, `settling`, …).
    category
        `crypto`, or `other` for stock, metal, currency and bond perpetuals.
    rule_type
        `normal`, `pre_market`, or the venue's own word.
    tick_size
        Price step, quote per base.
    contract_value_base
        Base coins in one contract (1 on Binance).
    lot_contracts, min_contracts
        Order step and minimum, in contracts; may be fractional.
    min_notional_quote
        Smallest order value, None where the venue sets none (OKX).
    listed_ms, delisted_ms
        Listing and announced delisting time; None when unknown or not announced.
    spec_source
        `venue`, `file`, `derived`, `assumed`, or `generated` for a contract of a generated market.

    """

    instrument: Instrument
    seen_ms: int
    state: str
    category: str
    rule_type: str
    tick_size: float
    contract_value_base: float
    lot_contracts: float
    min_contracts: float
    min_notional_quote: float | None
    max_leverage: float | None
    listed_ms: int | None
    delisted_ms: int | None
    spec_source: str

    @property
    def lot_base(self) -> float:
        """Order step in base coins."""
        return self.lot_contracts * self.contract_value_base

    @property
    def min_base(self) -> float:
        """Smallest order in base coins."""
        return self.min_contracts * self.contract_value_base


def round_to_lot(quantity_base: float, lot_base: float) -> float:
    """The signed quantity cut towards zero to a whole number of lots; what is within 1e-9 of a lot counts as whole.

    Source: both venues reject sizes that are not a multiple of `lotSz` / `stepSize`.
    """
    lots = math.floor(abs(quantity_base) / lot_base + 1e-9)
    return math.copysign(lots * lot_base, quantity_base)
