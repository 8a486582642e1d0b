"""What of an order a venue would execute: lot, minimum sizes, limits and data rules. Compiled arithmetic."""

from __future__ import annotations

import numpy as np

from qlib_crypto.backtest.compiled import inlined
from qlib_crypto.backtest.notes import BELOW_LOT, BELOW_MINIMUM, BELOW_NOTIONAL

#: How far from a tick, relative to the price, one is that was computed to lie on it.
_ON_TICK = 1e-9


@inlined
def towards(held: float, wanted: float, most: float) -> float:
    """The part of `wanted` that keeps |held + part| within `most`, or lets it shrink when it is already beyond."""
    after = held + wanted
    if abs(after) <= most:
        return wanted
    same_side = held * after > 0.0
    if same_side and (wanted > 0.0) != (held > 0.0):
        return wanted
    if same_side and abs(held) >= most:
        return 0.0
    return np.copysign(most, after) - held


@inlined
def sized(
    quantity: float, note: int, held: float, price: float, lot: float, min_base: float, min_notional: float
) -> tuple[float, int]:
    """A quantity as whole lots above the venue's minimum; one that closes the position exactly is exempt from both."""
    if quantity == -held:
        return quantity, note
    if lot > 0.0:
        quantity = np.copysign(np.floor(abs(quantity) / lot + 1e-9) * lot, quantity)
    if quantity == 0.0:
        return 0.0, BELOW_LOT
    if abs(quantity) < min_base * (1.0 - 1e-9):
        return 0.0, BELOW_MINIMUM
    if abs(quantity) * price < min_notional:
        return 0.0, BELOW_NOTIONAL
    return quantity, note


@inlined
def worse_tick(price: float, tick: float, quantity: float) -> float:
    """The price on its tick, for who buys (`quantity` > 0) the next higher, for who sells the next lower.

    What is within 1e-9 of a tick is on it; tick 0 is unknown and leaves the price alone. Never 0 or less.
    """
    if tick <= 0.0:
        return price
    ticks = price / tick
    whole = np.rint(ticks)
    if abs(ticks - whole) > _ON_TICK * max(ticks, 1.0):
        whole = np.ceil(ticks) if quantity > 0.0 else np.floor(ticks)
    return max(whole, 1.0) * tick
