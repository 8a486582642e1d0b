"""One bar of a backtest, everything that happens in it in its order. Compiled; both engines run it.

1. settlements at the open, on what was held before;
2. marks at the open; without one a position keeps its last;
3. a position whose instrument ended is settled at its last mark; under `untradable` one over unknown funding is closed;
4. the margin call at the open: a gap may have gone through the liquidation price;
5. the orders, at the open, in their order;
6. the way through the bar: liquidation at the marks that harm most;
7. settlements later in the bar, on what is held then;
8. marks at the close, and the margin call on what the settlements left.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest import admission
from qlib_crypto.backtest.admission import (
    CLIPPED_LEVERAGE,
    CLIPPED_MARGIN,
    CLIPPED_TIER,
    CLIPPED_VOLUME,
    FUNDING_UNKNOWN,
    LEVERAGE,
    MARGIN,
    NO_PRICE,
    TIER,
    VOLUME,
    WHOLE,
    sized,
    towards,
    worse_tick,
)
from qlib_crypto.backtest.book import Book, Floats, mark_at, settle, trade
from qlib_crypto.backtest.compiled import compiled
from qlib_crypto.backtest.liquidation import (
    Tiers,
    cross_trigger,
    isolated_trigger,
    liquidate_cross,
    liquidate_isolated,
    tier_at,
)
from qlib_crypto.backtest.market import Market

#: What became of a bar.
DONE, FUNDING_MISSING, BUFFER_FULL = range(3)
#: What to do where funding is unknown.
ERROR, UNTRADABLE, ZERO = range(3)

#: Why something was done that nobody ordered, after the notes of `admission`.
_FORCED = len(admission.NOTES)
CLOSED_UNKNOWN, CLOSED_DELISTED, LIQUIDATED = range(_FORCED, _FORCED + 3)
NOTES = (
    *admission.NOTES,
    "funding unknown: closed",
    "no more prices or funding: settled at the last mark",
    "liquidated",
)

#: Places in `Tape.counts`.
STALE_MARKS, FUNDING_AS_NONE, PAID_AT_LAST_PRICE, UNKNOWN_WITHOUT_PRICE = range(4)


class Terms(NamedTuple):
    """What an account and its venue agreed on.

    Attributes
    ----------
    taker, maker
        Fees by bar, shape (bars,).
    as_taker
        Whether orders at the open pay the taker's.
    slippage
        Fraction of the price by which they fill worse.
    participation
        Fraction of a bar's volume that they may be, inf for no cap.
    max_gross
        Gross notional over equity that no order may take the account beyond, inf for no cap.
    leverage
        Notional over initial margin, at most that of the tier; 0 asks for no margin and never liquidates.
    isolated
        Whether each position has its own margin.
    penalty_rate
        See `liquidation.liquidate_isolated`.
    missing_funding
        `ERROR`, `UNTRADABLE` or `ZERO`.

    """

    taker: Floats
    maker: Floats
    as_taker: bool
    slippage: float
    participation: float
    max_gross: float
    leverage: float
    isolated: bool
    penalty_rate: float
    missing_funding: int


class Tape(NamedTuple):
    """What happened, as rows; `ends` counts fills and payments.

    Attributes
    ----------
    fills
        Shape (most, 8): bar, column, quantity, price, reference, fee, realised, note.
    payments
        Shape (most, 6): settlement, bar, quantity, price paid at, amount, whether that was a last known price.
    ends
        Shape (3,): fills, payments, settlements looked at.
    counts
        Shape (4,): see above.

    """

    fills: Floats
    payments: Floats
    ends: NDArray[np.int64]
    counts: NDArray[np.int64]


@compiled
def _log(
    tape: Tape, t: int, i: int, quantity: float, price: float, reference: float, fee: float, realised: float, note: int
) -> None:
    row = tape.fills[tape.ends[0]]
    row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7] = (
        t, i, quantity, price, reference, fee, realised, note,
    )  # fmt: skip
    tape.ends[0] += 1


@compiled
def _ended(market: Market, t: int, i: int) -> bool:
    """Neither prices nor funding of the instrument go on: it was delisted."""
    return market.last[i] < t and market.unknown[t, i] != 0


@compiled
def settle_part(book: Book, market: Market, terms: Terms, tape: Tape, t: int, at_open: bool) -> int:
    """Pay the settlements of a bar, those at its open or the later ones: -1, or the column whose funding is missing."""
    part = 1 if at_open else 2
    for i in range(len(book.quantity)):
        if book.quantity[i] != 0.0 and (market.unknown[t, i] & part) != 0 and not _ended(market, t, i):
            if terms.missing_funding == ERROR:
                return i
            tape.counts[FUNDING_AS_NONE] += 1
    all_of_them = market.settlements
    while tape.ends[2] < len(all_of_them.bar):
        at = tape.ends[2]
        if all_of_them.bar[at] > t or (all_of_them.bar[at] == t and at_open and not all_of_them.at_open[at]):
            break
        tape.ends[2] += 1
        i = all_of_them.column[at]
        held = book.quantity[i]
        if all_of_them.bar[at] < t or held == 0.0:
            continue
        price, guessed = all_of_them.price[at], 0.0
        if not np.isfinite(price):
            if terms.missing_funding == ERROR:
                tape.ends[2] -= 1
                return i
            price, guessed = book.mark[i], 1.0
            tape.counts[PAID_AT_LAST_PRICE] += all_of_them.rate[at] != 0.0
        if all_of_them.rate[at] == 0.0:
            continue
        amount = settle(book, i, all_of_them.rate[at] * price)
        row = tape.payments[tape.ends[1]]
        row[0], row[1], row[2], row[3], row[4], row[5] = at, t, held, price, amount, guessed
        tape.ends[1] += 1
    return -1


@compiled
def mark_all(book: Book, prices: Floats, t: int, counts: NDArray[np.int64]) -> None:
    """Every position at its price of a bar; without one it keeps its mark."""
    for i in range(len(book.quantity)):
        if book.quantity[i] != 0.0:
            price = prices[t, i]
            if np.isfinite(price) and price > 0.0:
                mark_at(book, i, price)
            else:
                counts[STALE_MARKS] += 1


@compiled
def forced_closes(book: Book, market: Market, terms: Terms, tape: Tape, t: int, void: NDArray[np.bool_]) -> None:
    """Close what ended, and under `untradable` what funding is unknown of; orders for these are void in this bar."""
    rule = max(np.searchsorted(market.rules.since, t, side="right") - 1, 0)
    for i in range(len(book.quantity)):
        void[i] = False
        held = book.quantity[i]
        if held == 0.0:
            continue
        price = reference = book.mark[i]
        if _ended(market, t, i):
            note = CLOSED_DELISTED
        elif terms.missing_funding == UNTRADABLE and market.unknown[t, i] != 0:
            note, reference = CLOSED_UNKNOWN, market.bars.open[t, i]
            if not np.isfinite(reference):
                tape.counts[UNKNOWN_WITHOUT_PRICE] += 1
                continue
            price = slipped(reference, -held, terms.slippage, market.rules.tick[rule, i])
        else:
            continue
        fee, realised = trade(book, i, -held, price, reference, terms.taker[t], 0.0)
        _log(tape, t, i, -held, price, reference, fee, realised, note)
        void[i] = True


@compiled
def slipped(reference: float, quantity: float, slippage: float, tick: float) -> float:
    """What is paid for a signed quantity while the market is at `reference`."""
    if slippage == 0.0:
        return reference
    return worse_tick(reference * (1.0 + np.copysign(slippage, quantity)), tick, quantity)


@compiled
def tiers_at(market: Market, t: int) -> Tiers:
    """The margin tiers of a bar."""
    margins = market.margins
    at = max(np.searchsorted(margins.since, t, side="right") - 1, 0)
    return Tiers(
        margins.cap[at], margins.rate[at], margins.deduction[at], margins.leverage[at], margins.by_quantity[at]
    )


@compiled
def _extremes(book: Book, low: Floats, high: Floats, t: int) -> Floats:
    """The marks of a bar that harm each position most; where it stands without one, or with none that is worse."""
    extremes = book.mark.copy()
    for i in range(len(extremes)):
        held = book.quantity[i]
        if held > 0.0 and low[t, i] < extremes[i]:
            extremes[i] = low[t, i]
        elif held < 0.0 and high[t, i] > extremes[i]:
            extremes[i] = high[t, i]
    return extremes


@compiled
def margin_call(book: Book, tiers: Tiers, terms: Terms, tape: Tape, t: int, extremes: Floats) -> None:
    """Liquidate what the way from the marks to the extremes breaks."""
    closing = terms.taker[t]
    if terms.isolated:
        for i in range(len(extremes)):
            held, entry = book.quantity[i], book.entry[i]
            if held != 0.0:
                price = isolated_trigger(book, tiers, i, extremes[i], closing)
                if np.isfinite(price):
                    liquidate_isolated(book, tiers, i, price, closing, terms.penalty_rate)
                    _log(tape, t, i, -held, price, price, 0.0, held * (price - entry), LIQUIDATED)
        return
    way = cross_trigger(book, tiers, extremes, closing)
    if np.isfinite(way):
        quantities, entries, marks = book.quantity.copy(), book.entry.copy(), book.mark.copy()
        liquidate_cross(book, tiers, extremes, way, closing, terms.penalty_rate)
        for i in range(len(extremes)):
            held = quantities[i]
            if held != 0.0:
                price = marks[i] + way * (extremes[i] - marks[i])
                _log(tape, t, i, -held, price, price, 0.0, held * (price - entries[i]), LIQUIDATED)


@compiled
def market_order(
    book: Book, market: Market, tiers: Tiers, terms: Terms, tape: Tape, t: int, i: int, wanted: float, used: Floats
) -> int:
    """Execute what can be of an order at the open: the note. `used` is what of the bar's volume was taken before."""
    reference = market.bars.open[t, i]
    if not np.isfinite(reference):
        return NO_PRICE
    rule = max(np.searchsorted(market.rules.since, t, side="right") - 1, 0)
    tick = market.rules.tick[rule, i]
    rate = terms.taker[t] if terms.as_taker else terms.maker[t]
    held = book.quantity[i]
    quantity, note = wanted, WHOLE
    if wanted != -held:
        quantity, note = _allowed(book, market, tiers, terms, t, i, wanted, reference, rate)
    if abs(quantity) > terms.participation * market.bars.volume[t, i] - used[i]:
        left = max(terms.participation * market.bars.volume[t, i] - used[i], 0.0)
        quantity, note = np.copysign(left, wanted), CLIPPED_VOLUME if left > 0.0 else VOLUME
    if quantity == 0.0:
        return note
    quantity, note = sized(
        quantity, note, held, reference, market.rules.lot[rule, i], market.rules.min_base[rule, i],
        market.rules.min_notional[rule, i],
    )  # fmt: skip
    if quantity == 0.0:
        return note
    used[i] += abs(quantity)
    price = slipped(reference, quantity, terms.slippage, tick)
    leverage = _leverage(tiers, terms, i, held + quantity, reference) if terms.isolated else 0.0
    fee, realised = trade(book, i, quantity, price, reference, rate, leverage)
    _log(tape, t, i, quantity, price, reference, fee, realised, note)
    return note


@compiled
def _leverage(tiers: Tiers, terms: Terms, i: int, quantity: float, price: float) -> float:
    return min(terms.leverage, tiers.leverage[i, tier_at(tiers, i, quantity, price)])


@compiled
def _allowed(
    book: Book, market: Market, tiers: Tiers, terms: Terms, t: int, i: int, wanted: float, price: float, rate: float
) -> tuple[float, int]:
    """What data rules, the leverage cap and margin leave of an order, everything priced at the bar's open."""
    held = book.quantity[i]
    if terms.missing_funding == UNTRADABLE and market.unknown[t, i] != 0:
        quantity = towards(held, wanted, 0.0)
        return quantity, FUNDING_UNKNOWN if quantity != wanted else WHOLE
    total, others = book.cash[0], 0.0
    for j in range(len(book.quantity)):
        if book.quantity[j] != 0.0:
            now = market.bars.open[t, j]
            if not np.isfinite(now):
                now = book.mark[j]
            total += book.quantity[j] * now
            if j != i:
                others += abs(book.quantity[j]) * now
    quantity, note = wanted, WHOLE
    most = max(terms.max_gross * total - others, 0.0) / price if total > 0.0 else 0.0
    part = towards(held, quantity, most)
    if part != quantity:
        quantity, note = part, LEVERAGE if part == 0.0 else CLIPPED_LEVERAGE
    if terms.leverage > 0.0 and quantity != 0.0:
        last = tiers.cap[i, -1] / (1.0 if tiers.by_quantity[i] else price)
        part = towards(held, quantity, last)
        if part != quantity:
            quantity, note = part, TIER if part == 0.0 else CLIPPED_TIER
        part = towards(held, quantity, _affordable(book, market, tiers, terms, t, i, quantity, price, total, rate))
        if part != quantity:
            quantity, note = part, MARGIN if part == 0.0 else CLIPPED_MARGIN
    return quantity, note


@compiled
def _affordable(
    book: Book, market: Market, tiers: Tiers, terms: Terms, t: int, i: int, wanted: float, price: float, total: float,
    rate: float,
) -> float:  # fmt: skip
    """The largest |position| of the instrument that initial margin, the fee and slippage of getting there leave."""
    free = total
    for j in range(len(book.quantity)):
        if j != i and book.quantity[j] != 0.0:
            now = market.bars.open[t, j]
            if not np.isfinite(now):
                now = book.mark[j]
            if terms.isolated:
                free -= book.margin[j] + book.quantity[j] * (now - book.entry[j])
            else:
                free -= abs(book.quantity[j]) * now / _leverage(tiers, terms, j, book.quantity[j], now)
    held = book.quantity[i]
    after = abs(held + wanted)
    cost = rate + terms.slippage
    for at in range(tiers.cap.shape[1]):  # the tier that the answer itself lies in
        lever = min(terms.leverage, tiers.leverage[i, at])
        # |x| price / lever + |x - held| price cost <= free, on the side that `wanted` goes to
        grown = abs(held) if held * (held + wanted) > 0.0 else -abs(held)
        most = (free / price + grown * cost) / (1.0 / lever + cost)
        cap = tiers.cap[i, at] / (1.0 if tiers.by_quantity[i] else price)
        if most <= cap or at == tiers.cap.shape[1] - 1 or after <= cap:
            return max(most, 0.0)
    return 0.0


@compiled
def bar(
    book: Book, market: Market, terms: Terms, tape: Tape, t: int, columns: NDArray[np.int64], wanted: Floats,
    void: NDArray[np.bool_], used: Floats, notes: NDArray[np.int64],
) -> int:  # fmt: skip
    """Everything that happens in a bar: -1, or the column whose funding is missing.

    `columns` and `wanted` are the orders (signed base coins), in order; `notes` gets why each is not whole. `void` and
    `used` (shape (n,)) are this function's to write on.
    """
    missing = settle_part(book, market, terms, tape, t, True)
    if missing >= 0:
        return missing
    mark_all(book, market.bars.mark_open, t, tape.counts)
    forced_closes(book, market, terms, tape, t, void)
    tiers = tiers_at(market, t)
    if terms.leverage > 0.0:
        margin_call(book, tiers, terms, tape, t, book.mark)
    used[:] = 0.0
    for at in range(len(columns)):
        i = columns[at]
        if not void[i]:
            notes[at] = market_order(book, market, tiers, terms, tape, t, i, wanted[at], used)
    if terms.leverage > 0.0:
        extremes = _extremes(book, market.bars.mark_low, market.bars.mark_high, t)
        margin_call(book, tiers, terms, tape, t, extremes)
    missing = settle_part(book, market, terms, tape, t, False)
    if missing >= 0:
        return missing
    mark_all(book, market.bars.mark_close, t, tape.counts)
    if terms.leverage > 0.0:
        margin_call(book, tiers, terms, tape, t, book.mark)
    return -1
