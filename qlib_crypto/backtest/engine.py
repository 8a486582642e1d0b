"""An account on a market: whole backtests of target weights in compiled code, or bar by bar with anybody's orders."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.account import QUANTITY, Floats, Ints, new_book
from qlib_crypto.backtest.dropout import BY_SCORE, Dropout
from qlib_crypto.backtest.entries import PLAN
from qlib_crypto.backtest.layout import (
    DAY,
    DESK_ROWS,
    ENDS,
    EQUITY,
    FILL,
    FILLS,
    HALTED_DAY,
    HIGHEST,
    PAYMENT,
    PAYMENTS,
    SUMS,
)
from qlib_crypto.backtest.load import Loaded
from qlib_crypto.backtest.loops import run, run_dropout, run_one, try_orders
from qlib_crypto.backtest.market import SETTLED_BAR, SETTLED_COLUMN
from qlib_crypto.backtest.notes import COUNTED, OF_WORDS, WORDS
from qlib_crypto.backtest.resting import ORDER_COLUMNS, RESTING_ROWS
from qlib_crypto.backtest.running import Running
from qlib_crypto.backtest.slippage import slipping
from qlib_crypto.backtest.terms import Terms
from qlib_crypto.backtest.values import account_value
from qlib_crypto.clock import iso
from qlib_crypto.errors import ConfigError, GapError

#: Columns of `Engine.curve`: at each close; turnover and the causes are the bar's own.
CURVE = (
    "equity", "cash", "gross", "net", "turnover", "price", "funding", "fee", "slippage", "liquidation", "margin_ratio",
)  # fmt: skip
#: What `entries.PLAN` and `resting.KIND` call none.
_NO_PLAN, _NO_BARS, _MARKET_ORDERS = np.zeros((len(PLAN), 0, 0)), np.zeros(0, np.int64), np.zeros((0, ORDER_COLUMNS))
#: Rows of fills to begin with, at most: 21 MB. The C library keeps up to 32 for the next engine, and new memory would
#: take a tenth of the time of a backtest.
_ROWS = 1 << 18


class Executed(NamedTuple):
    """What became of one order: signed base `quantity`, 0 when refused, its `price`, `reference`, `fee`, and why."""

    quantity: float
    price: float
    reference: float
    fee: float
    note: str


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
        Shape (bars, 11), see `CURVE`; NaN in bars that were not run.

    """

    def __init__(self, loaded: Loaded, terms: Terms, account: float) -> None:
        account_value("account", account)
        bars, n = loaded.market.prices.shape[1:]
        if not len(loaded.market.slips) and terms.costs.slippage.of_all is None:
            loaded, _ = slipping(loaded, terms.costs.slippage)
        self.loaded, self.start_equity = loaded, account
        self.book, self.curve = new_book(account, n), np.full((bars, len(CURVE)), np.nan)
        self._terms, self._fees = terms.array(loaded.interval.ms), terms.fees(loaded.opens_ms)
        self._desk, self._sums, self._before = np.zeros((DESK_ROWS, n)), _sums(account), np.zeros(5)
        self._rest = np.zeros((RESTING_ROWS, n))
        # memory that is never written to is never taken
        self._fills = np.empty((min(8 * n + bars * n, _ROWS), len(FILL)))
        self._payments = np.empty((len(loaded.market.settled), len(PAYMENT)))
        self._ends, self._counts = np.zeros(ENDS, np.int64), np.zeros(OF_WORDS + len(WORDS), np.int64)
        self._room = np.empty(n, np.int64)

    @property
    def fills(self) -> Floats:
        """See `layout.FILL`."""
        return self._fills[: self._ends[FILLS]]

    @property
    def payments(self) -> Floats:
        """See `layout.PAYMENT`."""
        return self._payments[: self._ends[PAYMENTS]]

    @property
    def notes(self) -> dict[str, int]:
        """How many orders were cut or refused and why, and what else a reader should know of."""
        counted = dict(zip((*COUNTED, *WORDS), self._counts.tolist(), strict=True))
        return {note: count for note, count in counted.items() if note and count}

    def run(
        self,
        weights: Floats,
        rebalance: NDArray[np.bool_],
        first: int = 0,
        stop: int | None = None,
        *,
        plan: Floats = _NO_PLAN,
        until: Ints = _NO_BARS,
    ) -> None:
        """Bars [first, stop) with target weights.

        Parameters
        ----------
        weights
            Shape (bars, n): signed notional over equity at the last marks, wanted at the bar's open; NaN is 0.
        rebalance
            Shape (bars,): whether anything is traded at the bar's open; elsewhere weights do not count.
        first, stop
            Which bars.
        plan, until
            How positions are entered and protected, see `entries.PLAN`, and shape (bars,): the last bar in which the
            entries of each bar rest. Market orders alone without.

        Raises
        ------
        ConfigError
            An array of another shape, an infinite weight, or a bar that was run before.
        GapError
            Funding of a held position is unknown, under `error`.

        """
        end, n = self._span(first, stop), len(self._room)
        weights = _array("weights", weights, (len(self.curve), n), np.float64)
        rebalance = _array("rebalance", rebalance, (len(self.curve),), np.bool_)
        if len(until):
            plan = _array("plan", plan, (len(PLAN), len(self.curve), n), np.float64)
            until = _array("until", until, (len(self.curve),), np.int64)
        columns, wanted, notes = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64)
        orders = np.zeros((n if len(until) else 0, ORDER_COLUMNS))
        begun = first
        while first < end:
            first, missing = run(
                self._running(), weights, rebalance, plan, until, first, end, columns, wanted, orders, notes,
            )  # fmt: skip
            if missing >= 0:
                raise self._gap(first, missing)
            if first < end:
                self._more_room()
        # an infinite order was cut, or left no equity: to look at each weight takes a fiftieth of a backtest
        if begun < end and (self._counts[OF_WORDS + 1 :].any() or not np.isfinite(self.curve[end - 1, 0])):
            infinite = np.argwhere(np.isinf(weights[begun:end]) & rebalance[begun:end, None])
            if len(infinite):
                t, i = infinite[0].tolist()
                raise ConfigError(
                    f"weights of {self.loaded.names[i]} in bar {begun + t} are {weights[begun + t, i]}; give a number"
                )

    def run_dropout(self, scores: Floats, rules: Dropout, first: int = 0, stop: int | None = None) -> None:
        """Bars [first, stop) with the orders of Qlib's TopkDropout.

        Parameters
        ----------
        scores
            Shape (bars, n): what is known of each name at the bar's open, NaN without a score; a row of NaN alone keeps
            what is held.
        rules
            Of the strategy.
        first, stop
            Which bars.

        Raises
        ------
        ConfigError, GapError
            As `run`.

        """
        end, n = self._span(first, stop), len(self._room)
        scores = _array("scores", scores, (len(self.curve), n), np.float64)
        columns, wanted, notes = np.empty(n, np.int64), np.empty(n), np.empty(n, np.int64)
        choice, copy = np.zeros((6, n), np.int64), np.empty_like(self.book)
        choice[BY_SCORE] = np.arange(n)
        tried, tried_ends, tried_wanted = np.empty((n, len(FILL))), np.zeros(ENDS, np.int64), np.empty(n)
        while first < end:
            first, missing = run_dropout(
                self._running(), scores, rules, first, end, columns, wanted, _MARKET_ORDERS, notes, choice, copy,
                tried, tried_ends, tried_wanted,
            )  # fmt: skip
            if missing >= 0:
                raise self._gap(first, missing)
            if first < end:
                self._more_room()

    def step(self, t: int, columns: Ints, wanted: Floats, orders: Floats = _MARKET_ORDERS) -> tuple[Floats, list[str]]:
        """Bar t with these orders (signed base coins) in their order: the fills of the bar, and why each is not whole.

        `wanted` becomes what was executed at the open. `orders`, shape (k, 6), is what they say besides, see
        `resting.KIND`; all are market orders without.

        Raises
        ------
        ConfigError
            A quantity is not finite.
        GapError
            As `run`.

        """
        if not np.isfinite(wanted).all():
            at = int(np.flatnonzero(~np.isfinite(wanted))[0])
            raise ConfigError(
                f"the order of {self.loaded.names[columns[at]]} at {iso(int(self.loaded.opens_ms[t]))} is of "
                f"{wanted[at]} base coins; give a finite number"
            )
        notes, filled = np.zeros(len(columns), np.int64), self._ends[FILLS]
        while len(self._fills) < filled + len(columns) + 6 * len(self._room):
            self._more_room()
        missing = run_one(self._running(), t, columns, wanted, orders, notes)
        if missing >= 0:
            raise self._gap(t, missing)
        return self._fills[filled : self._ends[FILLS]], [WORDS[note] for note in notes]

    def note(self, word: int, times: int) -> None:
        """Count what only the caller saw, one of `notes.WORDS`."""
        self._counts[OF_WORDS + word] += times

    def _span(self, first: int, stop: int | None) -> int:
        """The bar after the last one of a run, which must lie among the bars and be new."""
        bars = len(self.curve)
        end = bars if stop is None else stop
        if not 0 <= first <= end <= bars:
            raise ConfigError(f"bars {first} to {end} are not among the {bars} that were loaded")
        if first < end and np.isfinite(self.curve[[first, end - 1], 0]).any():
            raise ConfigError(f"bars from {first} on were run before; make a new Engine for another backtest")
        return end

    def _running(self) -> Running:
        return Running(
            self.book, self._rest, self.loaded.market, self._terms, self._fees, self._desk, self._sums, self._fills,
            self._payments, self._ends, self._counts, self._room, self.curve, self._before,
        )  # fmt: skip

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
            f"{self.book[column, QUANTITY]:,.6g} are held: import its {needs} and convert again, or set "
            "missing_funding: untradable or zero"
        )


def _array[T: np.generic](name: str, given: NDArray[T], shape: tuple[int, ...], kind: type[T]) -> NDArray[T]:
    """The array as compiled code takes it, which would read past the end of a smaller one."""
    if not isinstance(given, np.ndarray) or given.shape != shape:
        what = f"of shape {given.shape}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
        raise ConfigError(f"{name} must be a numpy array of shape {shape}, bars first, not {what}")
    return np.ascontiguousarray(given, kind)


def _sums(equity: float) -> Floats:
    """As `layout.MONEY` and so on, before the first bar: no day is halted."""
    sums = np.zeros(SUMS)
    sums[[EQUITY, HIGHEST]], sums[DAY], sums[HALTED_DAY] = equity, -1, -2
    return sums


def try_order(
    loaded: Loaded, terms: Floats, fees: Floats, book: Floats, t: int, column: int, wanted: float
) -> Executed:
    """One market order at the open of bar t on an account that is changed by it."""
    n, quantity, notes = len(loaded.names), np.array([wanted]), np.zeros(1, np.int64)
    fills, ends = np.empty((1, len(FILL))), np.zeros(ENDS, np.int64)
    try_orders(
        book, loaded.market, terms, fees, np.zeros((DESK_ROWS, n)), _sums(0.0), fills, ends, t, np.array([column]),
        quantity, notes, np.empty(n, np.int64),
    )  # fmt: skip
    note = WORDS[int(notes[0])]
    if not ends[FILLS]:
        return Executed(0.0, np.nan, np.nan, 0.0, note)
    of = dict(zip(FILL, fills[0].tolist(), strict=True))
    return Executed(of["quantity"], of["price"], of["reference"], of["fee"], note)
