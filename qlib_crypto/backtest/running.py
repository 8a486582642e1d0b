"""What a running backtest consists of, handed on as one."""

from __future__ import annotations

from typing import NamedTuple

from qlib_crypto.backtest.account import Floats, Ints
from qlib_crypto.backtest.market import Market


class Running(NamedTuple):
    """The arrays of a backtest of n instruments; all but `market`, `terms` and `fees` are written to.

    Attributes
    ----------
    book, rest
        The account, see `account`, and what rests, see `resting`.
    market, terms, fees
        What is traded, and how: see `trading.AS_TAKER` and `trading.TAKER`.
    desk, sums
        Room to work in, and what is remembered from bar to bar: see `trading.USED` and `layout.MONEY`.
    fills, payments, ends, counts
        What happened, how far it is written, see `trading.FILLS`, and how often what was noted, see `notes`.
    room
        Shape (n,): the columns of positions, as many as `ends` says.
    curve, before
        A row of `engine.CURVE` a bar, and shape (5,): what each cause had changed before it.

    """

    book: Floats
    rest: Floats
    market: Market
    terms: Floats
    fees: Floats
    desk: Floats
    sums: Floats
    fills: Floats
    payments: Floats
    ends: Ints
    counts: Ints
    room: Ints
    curve: Floats
    before: Floats
