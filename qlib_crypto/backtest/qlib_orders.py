"""Orders of Qlib's that can rest and protect what they open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from qlib.backtest.decision import Order

from qlib_crypto.backtest.account import Floats
from qlib_crypto.backtest.notes import LIMIT, MARKET, STOP
from qlib_crypto.backtest.resting import KIND, LEVEL, LOSS, ORDER_COLUMNS, PROFIT, TRAIL, UNTIL
from qlib_crypto.errors import ConfigError

_PRICES = ("limit", "stop", "stop_loss", "take_profit", "trailing_stop")


@dataclass
class PerpOrder(Order):
    """An order for `PerpExecutor`; plain ones of Qlib's are market orders that replace what rests of their name.

    One of amount 0 moves what protects a position. What protects is given to the position that the order opens, not to
    one that it changes.

    Attributes
    ----------
    limit
        Price at which it rests and fills, quote per base; where the market is already there it is a market order.
    stop
        Price at which it becomes a market order; not together with `limit`.
    until
        Open of the last bar in which it rests; None for its own bar.
    stop_loss, take_profit
        Prices at which the position is closed.
    trailing_stop
        How far, quote per base, a stop is behind the best price since the position was opened.

    Raises
    ------
    ConfigError
        When a price is no positive number, or limit and stop are both given.

    """

    limit: float | None = field(default=None, kw_only=True)
    stop: float | None = field(default=None, kw_only=True)
    until: pd.Timestamp | None = field(default=None, kw_only=True)
    stop_loss: float | None = field(default=None, kw_only=True)
    take_profit: float | None = field(default=None, kw_only=True)
    trailing_stop: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in _PRICES:
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ConfigError(f"PerpOrder of {self.stock_id}: {name} {value!r} must be a price above 0, or None")
        if self.limit is not None and self.stop is not None:
            raise ConfigError(f"PerpOrder of {self.stock_id} has limit and stop; give one")


def order_rows(orders: Sequence[Order], now: int, bar_of: Callable[[pd.Timestamp], int]) -> Floats:
    """What the orders of bar `now` say beside their quantity, as `resting.KIND`; empty when all are plain.

    `bar_of` gives the row of a bar by its open.
    """
    if not any(isinstance(order, PerpOrder) for order in orders):
        return np.zeros((0, ORDER_COLUMNS))
    rows = np.zeros((len(orders), ORDER_COLUMNS))
    rows[:, KIND] = MARKET
    for row, order in zip(rows, orders, strict=True):
        if not isinstance(order, PerpOrder):
            continue
        if order.limit is not None or order.stop is not None:
            row[KIND], row[LEVEL] = (STOP, order.stop) if order.limit is None else (LIMIT, order.limit)
        row[UNTIL] = now if order.until is None else bar_of(order.until)
        row[LOSS], row[PROFIT], row[TRAIL] = order.stop_loss or 0, order.take_profit or 0, order.trailing_stop or 0
    return rows
