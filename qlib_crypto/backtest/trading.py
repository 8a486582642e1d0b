"""Orders at the open of a bar: what of them is executed, at what price, within which limits. Compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest import admission
from qlib_crypto.backtest.admission import (
    CLIPPED_LEVERAGE,
    CLIPPED_MARGIN,
    CLIPPED_TIER,
    CLIPPED_VOLUME,
    FUNDING_UNKNOWN,
    MARGIN,
    NO_PRICE,
    TIER,
    WHOLE,
    sized,
    towards,
    worse_tick,
)
from qlib_crypto.backtest.admission import LEVERAGE as BEYOND_LEVERAGE
from qlib_crypto.backtest.admission import VOLUME as NO_VOLUME
from qlib_crypto.backtest.book import ALL, CASH, MARK, QUANTITY, Floats, trade
from qlib_crypto.backtest.compiled import compiled
from qlib_crypto.backtest.liquidation import Flags, largest_leverage, pocket
from qlib_crypto.backtest.market import CAP, LEVERAGE, LOT, MIN_BASE, MIN_NOTIONAL, TICK, Ints

Bits = NDArray[np.uint8]

#: What to do where funding is unknown.
ERROR, UNTRADABLE, ZERO = range(3)
#: Places in the terms that an account and its venue agreed on, shape (8,):
#:
#: - whether orders at the open pay the taker's fee (1) or the maker's (0);
#: - fraction of the price by which they fill worse;
#: - fraction of a bar's volume that they may be, inf for no cap;
#: - gross notional over equity that no order may take the account beyond, inf for no cap;
#: - notional over initial margin, at most that of the tier; 0 asks for no margin and never liquidates;
#: - whether each position has its own margin (1) or all share the account's (0);
#: - share of notional that the venue keeps of what it liquidates, see `liquidation.liquidate_isolated`;
#: - `ERROR`, `UNTRADABLE` or `ZERO`.
AS_TAKER, SLIP, PARTICIPATION, MAX_GROSS, MAX_LEVERAGE, ISOLATED, PENALTY_RATE, MISSING_FUNDING = range(8)
#: Rows of fees by bar, shape (2, bars).
TAKER, MAKER = range(2)

#: Why something was done that nobody ordered, after the notes of `admission`.
_FORCED = len(admission.NOTES)
CLOSED_UNKNOWN, CLOSED_DELISTED, LIQUIDATED = range(_FORCED, _FORCED + 3)
NOTES = (
    *admission.NOTES,
    "funding unknown: closed",
    "no more prices or funding: settled at the last mark",
    "liquidated",
)

#: Columns of the fills, shape (most, 8).
FILL = ("bar", "column", "quantity", "price", "reference", "fee", "realised", "note")
#: Columns of the payments, shape (most, 6): `settlement` is a row of `Market.settled`; `guessed` 1 where the price was
#: a position's last known one.
PAYMENT = ("settlement", "bar", "quantity", "price", "amount", "guessed")
#: Places in the ends: rows of fills and payments so far, settlements looked at.
FILLS, PAYMENTS, SETTLED = range(3)
#: Rows of a desk, shape (5, n), room to work in: margin reserved behind each position at the bar's open; what was
#: traded of its volume; extremes of marks; 1 where orders are void; orders that come after the others.
RESERVED, USED, EXTREME, VOID, LATER = range(5)
#: Places in the sums of a desk, shape (5,): money, gross notional and reserved margin at the bar's opens; equity and
#: gross notional at the last marks.
MONEY, DESK_GROSS, ALL_RESERVED, EQUITY, GROSS = range(5)


@compiled
def log(
    fills: Floats, ends: Ints, t: int, i: int, quantity: float, price: float, reference: float, fee: float,
    realised: float, note: int,
) -> None:  # fmt: skip
    """Write a fill down."""
    row = fills[ends[FILLS]]
    row[0] = t
    row[1] = i
    row[2] = quantity
    row[3] = price
    row[4] = reference
    row[5] = fee
    row[6] = realised
    row[7] = note
    ends[FILLS] += 1


@compiled
def slipped(reference: float, quantity: float, slippage: float, tick: float) -> float:
    """What is paid for a signed quantity while the market is at `reference`."""
    if slippage == 0.0:
        return reference
    return worse_tick(reference * (1.0 + np.copysign(slippage, quantity)), tick, quantity)


@compiled
def _reserved(
    book: Floats, tiers: Floats, by_quantity: Flags, leverage: float, isolated: bool, i: int, price: float
) -> float:
    """The margin behind one position at a price."""
    if isolated:
        return pocket(book, i, price)
    held = book[QUANTITY, i]
    return abs(held) * price / min(leverage, largest_leverage(tiers, by_quantity, i, held, price))


@compiled
def take_stock(
    book: Floats, held: Ints, tiers: Floats, by_quantity: Flags, terms: Floats, desk: Floats, sums: Floats,
    opens: Floats,
) -> None:  # fmt: skip
    """What there is when the orders come, at the bar's opens."""
    money, gross, reserved = book[CASH, ALL], 0.0, 0.0
    leverage, isolated = terms[MAX_LEVERAGE], terms[ISOLATED] != 0.0
    desk[RESERVED] = 0.0
    desk[USED] = 0.0
    for i in held:
        price = opens[i] if opens[i] > 0.0 else book[MARK, i]
        value = book[QUANTITY, i] * price
        money += value
        gross += abs(value)
        if leverage > 0.0:
            own = _reserved(book, tiers, by_quantity, leverage, isolated, i, price)
            desk[RESERVED, i] = own
            reserved += own
    sums[MONEY], sums[DESK_GROSS], sums[ALL_RESERVED] = money, gross, reserved


@compiled
def market_orders(
    book: Floats, tiers: Floats, by_quantity: Flags, rules: Floats, terms: Floats, rate: float, desk: Floats,
    sums: Floats, fills: Floats, ends: Ints, t: int, columns: Ints, wanted: Floats, notes: Ints, opens: Floats,
    volumes: Floats, unknown: Bits,
) -> None:  # fmt: skip
    """Execute what can be of each order at the open, at fee `rate`; `notes` say why not all.

    One function for all of a bar: handing so many arrays to a function costs more than what is done with them.
    """
    untradable, slip, isolated = terms[MISSING_FUNDING] == UNTRADABLE, terms[SLIP], terms[ISOLATED] != 0.0
    leverage, most_of_bar, most_gross = terms[MAX_LEVERAGE], terms[PARTICIPATION], terms[MAX_GROSS]
    some_unknown = unknown[ALL] != 0
    money, gross, reserved = sums[MONEY], sums[DESK_GROSS], sums[ALL_RESERVED]
    for at in range(len(columns)):
        i = columns[at]
        reference, held, own = opens[i], book[QUANTITY, i], desk[RESERVED, i]
        quantity, note = wanted[at], WHOLE
        if some_unknown and desk[VOID, i] != 0.0:
            continue
        if not reference > 0.0:
            notes[at] = NO_PRICE
            continue
        if quantity != -held:
            if untradable and unknown[i] != 0:
                quantity = towards(held, quantity, 0.0)
                note = FUNDING_UNKNOWN if quantity != wanted[at] else WHOLE
            else:
                if most_gross < np.inf or not money > 0.0:
                    most = 0.0
                    if money > 0.0:
                        most = max(most_gross * money - (gross - abs(held) * reference), 0.0) / reference
                    part = towards(held, quantity, most)
                    if part != quantity:
                        quantity, note = part, BEYOND_LEVERAGE if part == 0.0 else CLIPPED_LEVERAGE
                if leverage > 0.0 and quantity != 0.0:
                    free, cost, last = money - (reserved - own), rate + slip, tiers[CAP, i, -1]
                    part = towards(held, quantity, last / (1.0 if by_quantity[i] else reference))
                    if part != quantity:
                        quantity, note = part, TIER if part == 0.0 else CLIPPED_TIER
                    after = held + quantity
                    lever = min(leverage, largest_leverage(tiers, by_quantity, i, after, reference))
                    if not abs(after) * reference <= (free - abs(quantity) * reference * cost) * lever:
                        most = affordable(tiers, by_quantity, leverage, i, held, quantity, reference, free, cost)
                        part = towards(held, quantity, most)
                        if part != quantity:
                            quantity, note = part, MARGIN if part == 0.0 else CLIPPED_MARGIN
        if most_of_bar < np.inf:
            left = max(most_of_bar * volumes[i] - desk[USED, i], 0.0)
            if not abs(quantity) <= left:
                quantity, note = np.copysign(left, wanted[at]), CLIPPED_VOLUME if left > 0.0 else NO_VOLUME
        if quantity != 0.0:
            quantity, note = sized(
                quantity, note, held, reference, rules[LOT, i], rules[MIN_BASE, i], rules[MIN_NOTIONAL, i]
            )
        notes[at] = note
        if quantity == 0.0:
            continue
        price, lever = reference, 0.0
        if slip != 0.0:
            price = slipped(reference, quantity, slip, rules[TICK, i])
        if isolated:
            lever = min(leverage, largest_leverage(tiers, by_quantity, i, held + quantity, reference))
        fee, realised = trade(book, i, quantity, price, reference, rate, lever)
        log(fills, ends, t, i, quantity, price, reference, fee, realised, note)
        desk[USED, i] += abs(quantity)
        after = book[QUANTITY, i]
        money -= fee + quantity * (price - reference)
        gross += (abs(after) - abs(held)) * reference
        if leverage > 0.0:
            renewed = 0.0
            if after != 0.0:
                renewed = _reserved(book, tiers, by_quantity, leverage, isolated, i, reference)
            desk[RESERVED, i] = renewed
            reserved += renewed - own
    sums[MONEY], sums[DESK_GROSS], sums[ALL_RESERVED] = money, gross, reserved


@compiled
def affordable(
    tiers: Floats, by_quantity: Flags, leverage: float, i: int, held: float, quantity: float, price: float, free: float,
    cost: float,
) -> float:  # fmt: skip
    """The largest |position| that `free` quote coins pay the initial margin and the cost (a rate) of getting there of.

    On the side that the order goes to: |x| price / leverage + |x - held| price cost <= free, with the leverage of the
    tier that x lies in.
    """
    near = abs(held) if held * (held + quantity) > 0.0 else -abs(held)
    unit = 1.0 if by_quantity[i] else price
    for at in range(tiers.shape[2]):
        lever = min(leverage, tiers[LEVERAGE, i, at])
        most = (free / price + near * cost) / (1.0 / lever + cost)
        if most <= tiers[CAP, i, at] / unit:
            return max(most, 0.0 if at == 0 else tiers[CAP, i, at - 1] / unit)
    return tiers[CAP, i, -1] / unit
