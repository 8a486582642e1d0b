"""Orders of Qlib's that can rest and protect what they open."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from qlib.backtest.decision import Order, OrderDir

from qlib_crypto.backtest.account import Floats
from qlib_crypto.backtest.notes import LIMIT, MARKET, STOP
from qlib_crypto.backtest.resting import KIND, LEVEL, LOSS, ORDER_COLUMNS, PROFIT, TRAIL, UNTIL
from qlib_crypto.backtest.values import number
from qlib_crypto.errors import ConfigError

_PRICES = ("limit", "stop", "stop_loss", "take_profit", "trailing_stop")


@dataclass
class PerpOrder(Order):
    """An order for `PerpExecutor`; plain ones of Qlib's are market orders that replace what rests of their name.

    One of amount 0 cancels what rests and moves what protects the position. What protects is given to the position that
    the order opens, not to one that it changes.

    Attributes
    ----------
    limit
        Price at which it rests and fills, quote per base; where the market is already there it is a market order.
    stop
        Price at which it becomes a market order; not together with `limit`.
    until
        Open of the last bar in which it rests, UTC without a zone as all of Qlib's times; None for its own bar.
    stop_loss, take_profit
        Prices at which the position is closed.
    trailing_stop
        How far, quote per base, a stop is behind the best price since the position was opened.

    Raises
    ------
    ConfigError
        When a price is no positive number, or on the wrong side of another; when limit and stop are both given, or
        `until` without one of them.

    """

    limit: float | None = field(default=None, kw_only=True)
    stop: float | None = field(default=None, kw_only=True)
    until: pd.Timestamp | None = field(default=None, kw_only=True)
    stop_loss: float | None = field(default=None, kw_only=True)
    take_profit: float | None = field(default=None, kw_only=True)
    trailing_stop: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        what = "must be base coins, 0 or more; direction is the side"
        number(f"PerpOrder of {self.stock_id}: amount", self.amount, lambda v: v >= 0, what)
        for name in _PRICES:
            value = getattr(self, name)
            if value is not None:
                what = "must be a price above 0, or None"
                number(f"PerpOrder of {self.stock_id}: {name}", value, lambda v: v > 0, what)
        if self.limit is not None and self.stop is not None:
            raise ConfigError(f"PerpOrder of {self.stock_id} has limit and stop; give one")
        if self.until is not None:
            self._check_until(self.until)
        if self.amount:
            self._check_sides()

    def _check_until(self, until: Any) -> None:
        if self.limit is None and self.stop is None:
            raise ConfigError(
                f"PerpOrder of {self.stock_id}: until {until} needs limit or stop; a market order is done"
            )
        if not isinstance(until, pd.Timestamp) or until.tzinfo is not None:
            raise ConfigError(
                f"PerpOrder of {self.stock_id}: until {until!r} must be a pandas.Timestamp without a zone"
            )

    def _check_sides(self) -> None:
        """Of who buys the stop loss lies lowest and the target highest."""
        level = self.limit if self.stop is None else self.stop
        given = [("stop_loss", self.stop_loss), ("the order's price", level), ("take_profit", self.take_profit)]
        known = [(name, price) for name, price in given if price is not None]
        buys = self.direction == OrderDir.BUY
        for (below, low), (above, high) in itertools.pairwise(known):
            if low >= high if buys else low <= high:
                raise ConfigError(
                    f"PerpOrder of {self.stock_id}: {above} {high:g} must be {'above' if buys else 'below'} {below} "
                    f"{low:g} for who {'buys' if buys else 'sells'}"
                )


def order_rows(orders: Sequence[Order], now: int, bar_of: Callable[[pd.Timestamp], int]) -> Floats:
    """What the orders of bar `now` say beside their quantity, as `resting.KIND`; empty when all are plain.

    `bar_of` gives the row of a bar by its open.

    Raises
    ------
    ConfigError
        When there are several of an instrument, or one may not rest as long as its own bar.

    """
    if not any(isinstance(order, PerpOrder) for order in orders):
        return np.zeros((0, ORDER_COLUMNS))
    names = [order.stock_id for order in orders]
    special = {order.stock_id for order in orders if isinstance(order, PerpOrder)}
    twice = next((name for name in names if name in special and names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{names.count(twice)} orders of {twice} in one bar with a PerpOrder among them: only one can rest and "
            "protect; make them one"
        )
    rows = np.zeros((len(orders), ORDER_COLUMNS))
    rows[:, KIND] = MARKET
    for row, order in zip(rows, orders, strict=True):
        if not isinstance(order, PerpOrder):
            continue
        if order.limit is not None or order.stop is not None:
            row[KIND], row[LEVEL] = (STOP, order.stop) if order.limit is None else (LIMIT, order.limit)
        row[UNTIL] = now if order.until is None else bar_of(order.until)
        if row[UNTIL] < now:
            raise ConfigError(f"PerpOrder of {order.stock_id}: until {order.until} is before its own bar")
        row[LOSS], row[PROFIT], row[TRAIL] = order.stop_loss or 0, order.take_profit or 0, order.trailing_stop or 0
    return rows
