"""An account on a market: whole backtests of target weights in compiled code, or bar by bar with anybody's orders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.account import ALL, CASH, PRICE, QUANTITY, Floats, Ints, new_book, positions
from qlib_crypto.backtest.bar import dated, run_bar
from qlib_crypto.backtest.compiled import compiled
from qlib_crypto.backtest.load import Loaded
from qlib_crypto.backtest.market import OPEN, SETTLED_BAR, SETTLED_COLUMN, VOLUME, Market
from qlib_crypto.backtest.notes import COUNTED, WORDS
from qlib_crypto.backtest.terms import Terms
from qlib_crypto.backtest.trading import (
    AS_TAKER,
    EQUITY,
    FILL,
    FILLS,
    GROSS,
    LATER,
    MAKER,
    PAYMENT,
    PAYMENTS,
    TAKER,
    market_orders,
    take_stock,
)
from qlib_crypto.clock import iso
from qlib_crypto.errors import GapError

#: Columns of `Engine.curve`: at each close; the last six are the bar's own.
CURVE = ("equity", "cash", "gross", "net", "turnover", "price", "funding", "fee", "slippage", "liquidation")
#: Rows of fills to begin with, at most.
_ROWS = 1 << 22


class Executed(NamedTuple):
    """What became of one order: signed base `quantity`, 0 when refused, its `price`, `reference`, `fee`, and why."""

    quantity: float
    price: float
    reference: float
    fee: float
    note: str


@compiled
def _orders_to(
    book: Floats, opens: Floats, weights: Floats, money: float, columns: Ints, wanted: Floats, room: Ints, later: Floats
) -> int:
    """From what is held to the weights of `money`, those that shrink a position first: how many orders.

    `room` and `later` have the shape of the columns.
    """
    some = 0
    for i in range(len(weights)):
        room[some] = i
        some += (weights[i] != 0.0) | (book[QUANTITY, i] != 0.0)
    count, grow = 0, 0
    for i in room[:some]:
        weight, held, price = weights[i], book[QUANTITY, i], opens[i]
        if not price > 0.0:
            continue
        target = 0.0 if np.isnan(weight) else weight * money / price
        order = target - held
        if order == 0.0:
            continue
        if abs(target) <= abs(held) and held * target >= 0.0:
            columns[count], wanted[count] = i, order
            count += 1
        else:
            room[grow], later[grow] = i, order
            grow += 1
    for at in range(grow):
        columns[count + at], wanted[count + at] = room[at], later[at]
    return count + grow


@compiled
def _step(
    book: Floats, market: Market, terms: Floats, fees: Floats, desk: Floats, sums: Floats, fills: Floats,
    payments: Floats, ends: Ints, counts: Ints, t: int, columns: Ints, wanted: Floats, notes: Ints, room: Ints,
    curve: Floats, before: Floats,
) -> int:  # fmt: skip
    """`run_bar`, and its row of the curve."""
    filled = ends[FILLS]
    missing = run_bar(
        book, market, terms, fees, desk, sums, fills, payments, ends, counts, t, columns, wanted, notes, room
    )
    if missing >= 0:
        return missing
    curve[t, 0] = sums[EQUITY]
    curve[t, 1] = book[CASH, ALL]
    curve[t, 2] = sums[GROSS]
    curve[t, 3] = sums[EQUITY] - book[CASH, ALL]
    traded = 0.0
    for at in range(filled, ends[FILLS]):
        traded += abs(fills[at, 2]) * fills[at, 3]
    curve[t, 4] = traded
    for cause in range(5):
        now = book[PRICE + cause, ALL]
        curve[t, 5 + cause] = now - before[cause]
        before[cause] = now
    return -1


@compiled
def _run(
    book: Floats, market: Market, terms: Floats, fees: Floats, desk: Floats, sums: Floats, fills: Floats,
    payments: Floats, ends: Ints, counts: Ints, weights: Floats, rebalance: NDArray[np.bool_], first: int, stop: int,
    curve: Floats, before: Floats, refused: Ints, columns: Ints, wanted: Floats, notes: Ints, room: Ints,
) -> tuple[int, int]:  # fmt: skip
    """Bars [first, stop): the bar that was not done, and the column whose funding is missing there, or -1."""
    n = book.shape[1] - 1
    for t in range(first, stop):
        if ends[FILLS] + 4 * n > len(fills):
            return t, -1
        count = 0
        if rebalance[t]:
            count = _orders_to(
                book, market.prices[OPEN, t], weights[t], max(sums[EQUITY], 0.0), columns, wanted, room, desk[LATER]
            )
        notes[:count] = 0
        missing = _step(
            book, market, terms, fees, desk, sums, fills, payments, ends, counts, t, columns[:count], wanted[:count],
            notes[:count], room, curve, before,
        )  # fmt: skip
        if missing >= 0:
            return t, missing
        for at in range(count):
            refused[notes[at]] += 1
    return stop, -1


class Engine:
    """A running backtest.

    Parameters
    ----------
    loaded, terms
        What is traded, and how.
    account
        Quote coins to begin with.

    Attributes
    ----------
    book
        The account, see `account`.
    curve
        Shape (bars, 10), see `CURVE`; NaN in bars that were not run.

    """

    def __init__(self, loaded: Loaded, terms: Terms, account: float) -> None:
        bars, n = loaded.market.prices.shape[1:]
        self.loaded, self.start_equity = loaded, account
        self.book, self.curve = new_book(account, n), np.full((bars, len(CURVE)), np.nan)
        self._terms, self._fees = terms.array(), terms.fees(loaded.opens_ms)
        self._desk, self._sums, self._before = np.zeros((6, n)), np.zeros(5), np.zeros(5)
        self._sums[EQUITY] = account
        # memory that is never written to is never taken
        self._fills = np.empty((min(4 * n + bars * n, _ROWS), len(FILL)))
        self._payments = np.empty((len(loaded.market.settled), len(PAYMENT)))
        self._ends, self._counts = np.zeros(3, np.int64), np.zeros(len(COUNTED), np.int64)
        self._refused, self._room = np.zeros(len(WORDS), np.int64), np.empty(n, np.int64)

    @property
    def fills(self) -> Floats:
        """See `trading.FILL`."""
        return self._fills[: self._ends[FILLS]]

    @property
    def payments(self) -> Floats:
        """See `trading.PAYMENT`."""
        return self._payments[: self._ends[PAYMENTS]]

    @property
    def notes(self) -> dict[str, int]:
        """How many orders were cut or refused and why, and what else a reader should know of."""
        refused = dict(zip(WORDS, self._refused.tolist(), strict=True))
        counted = dict(zip(COUNTED, self._counts.tolist(), strict=True))
        return {note: count for note, count in {**refused, **counted}.items() if note and count}

    def run(self, weights: Floats, rebalance: NDArray[np.bool_], first: int = 0, stop: int | None = None) -> None:
        """Bars [first, stop) with target weights.

        Parameters
        ----------
        weights
            Shape (bars, n): signed notional over equity at the last marks, wanted at the bar's open; NaN is 0.
        rebalance
            Shape (bars,): whether anything is traded at the bar's open; elsewhere weights do not count.
        first, stop
            Which bars.

        Raises
        ------
        GapError
            Funding of a held position is unknown, under `error`.

        """
        end, n = len(self.curve) if stop is None else stop, len(self._room)
        columns, wanted, notes = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64)
        while first < end:
            first, missing = _run(
                self.book, self.loaded.market, self._terms, self._fees, self._desk, self._sums, self._fills,
                self._payments, self._ends, self._counts, weights, rebalance, first, end, self.curve, self._before,
                self._refused, columns, wanted, notes, self._room,
            )  # fmt: skip
            if missing >= 0:
                raise self._gap(first, missing)
            if first < end:
                self._more_room()

    def step(self, t: int, columns: Ints, wanted: Floats) -> tuple[Floats, list[str]]:
        """Bar t with these orders (signed base coins) in their order: the fills of the bar, and why each is not whole.

        `wanted` becomes what was executed.

        Raises
        ------
        GapError
            As `run`.

        """
        notes, filled = np.zeros(len(columns), np.int64), self._ends[FILLS]
        while len(self._fills) < filled + len(columns) + 3 * len(self._room):
            self._more_room()
        missing = _step(
            self.book, self.loaded.market, self._terms, self._fees, self._desk, self._sums, self._fills,
            self._payments, self._ends, self._counts, t, columns, wanted, notes, self._room, self.curve, self._before,
        )  # fmt: skip
        if missing >= 0:
            raise self._gap(t, missing)
        np.add.at(self._refused, notes, 1)
        return self._fills[filled : self._ends[FILLS]], [WORDS[note] for note in notes]

    def _more_room(self) -> None:
        self._fills = np.concatenate([self._fills, np.empty_like(self._fills)])

    def _gap(self, t: int, column: int) -> GapError:
        """Which funding is missing of what is held."""
        market, of = self.loaded.market, self.loaded
        lacks, needs = "is unknown", "settlements"
        own = np.flatnonzero((market.settled[:, SETTLED_BAR] == t) & (market.settled[:, SETTLED_COLUMN] == column))
        unpriced = own[~np.isfinite(market.settlements[own, 1])]
        if market.unknown[t, column] == 0 and len(unpriced):
            lacks, needs = f"of rate {market.settlements[unpriced[0], 0]:.6g} has no price", "bars of that minute"
        return GapError(
            f"funding of {of.names[column]} {lacks} in the {of.interval.qlib} bar of {iso(int(of.opens_ms[t]))} while "
            f"{self.book[QUANTITY, column]:,.6g} are held: import its {needs} and convert again, or set "
            "missing_funding: untradable or zero"
        )


def try_order(
    loaded: Loaded, terms: Floats, fees: Floats, book: Floats, t: int, column: int, wanted: float
) -> Executed:
    """One market order at the open of bar t on an account that is changed by it."""
    market, n = loaded.market, len(loaded.names)
    desk, sums, room = np.zeros((6, n)), np.zeros(5), np.empty(n, np.int64)
    tiers_at, rules_at = dated(market.tiers_since, t), dated(market.rules_since, t)
    tiers, by_quantity = market.tiers[tiers_at], market.by_quantity[tiers_at]
    fills, ends, notes, quantity = (
        np.empty((1, len(FILL))),
        np.zeros(3, np.int64),
        np.zeros(1, np.int64),
        np.array([wanted]),
    )
    held = room[: positions(book, room)]
    take_stock(book, held, tiers, by_quantity, terms, desk, sums, market.prices[OPEN, t])
    rate = fees[TAKER if terms[AS_TAKER] else MAKER, t]
    market_orders(
        book, tiers, by_quantity, market.rules[rules_at], terms, rate, desk, sums, fills, ends, t,
        np.array([column]), quantity, notes, market.prices[OPEN, t], market.prices[VOLUME, t], market.unknown[t],
    )  # fmt: skip
    note = WORDS[int(notes[0])]
    if not ends[FILLS]:
        return Executed(0.0, np.nan, np.nan, 0.0, note)
    of = dict(zip(FILL, fills[0].tolist(), strict=True))
    return Executed(of["quantity"], of["price"], of["reference"], of["fee"], note)
