"""Signed positions inside Qlib: the perp account, seen through Qlib's `Position`.

Named in YAML as `backtest.pos_type: qlib_crypto.backtest.qlib_position.PerpPosition`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from qlib.backtest.decision import Order
from qlib.backtest.position import Position

from qlib_crypto.backtest.account import ALL, CASH, MARK, QUANTITY, Floats, equity, gross, new_book
from qlib_crypto.errors import ConfigError


class PerpPosition(Position):
    """Cash and signed holdings; `book` is the truth, and `position` mirrors it in Qlib's own shape.

    Parameters
    ----------
    cash
        Start equity, quote coin.
    position_dict
        Must be empty: a start position has no entry price and no past funding.

    Raises
    ------
    ConfigError
        When start positions are given or the cash is not positive.

    """

    def __init__(self, cash: float = 0.0, position_dict: Mapping[str, Any] | None = None) -> None:
        if position_dict:
            raise ConfigError(f"start positions {sorted(position_dict)} are not supported; give account a number")
        if not cash > 0 or not math.isfinite(cash):
            raise ConfigError(f"account {cash!r} must be a positive start equity in quote coin")
        self.book: Floats = new_book(float(cash), 0)
        self.names: Sequence[str] = ()
        self._column: Mapping[str, int] = {}
        self.position: dict[str, Any]
        self._last_price: dict[str, float] = {}
        super().__init__(cash=float(cash), position_dict={})

    def attach(self, book: Floats, names: Sequence[str]) -> None:
        """Show this account, whose columns are `names`, from now on."""
        self.book, self.names = book, names
        self._column = {name: at for at, name in enumerate(names)}
        self.mirror()

    def fill_stock_value(self, start_time: Any, freq: str, last_days: int = 30) -> None:
        """Nothing: there are no start positions to price."""

    def quote(self, instrument: str, price: float) -> None:
        """Remember the price of an order about to fill: Qlib asks for it before a short exists and after a close."""
        self._last_price[instrument] = price

    def mirror(self) -> None:
        """Show what the account is now."""
        before = self.position
        self.position = {"cash": self.get_cash(), "now_account_value": self.calculate_value()}
        for name in self.get_stock_list():
            column = self._column[name]
            amount, price = float(self.book[column, QUANTITY]), float(self.book[column, MARK])
            self.position[name] = {**before.get(name, {}), "amount": amount, "price": price}

    # Qlib's own interface

    def get_cash(self, include_settle: bool = False) -> float:  # noqa: ARG002 - Qlib's signature; nothing is delayed
        """What is left after paying quantity x price for every position."""
        return float(self.book[ALL, CASH])

    def update_order(self, order: Order, trade_val: float, cost: float, trade_price: float) -> None:
        """Nothing: the account has executed the order when Qlib learns of it."""

    def update_stock_price(self, stock_id: str, price: float) -> None:
        """Nothing: the account is at its marks when Qlib ends the bar."""

    def get_stock_price(self, code: str) -> float:
        """The mark of a held instrument, otherwise the last price seen, NaN when there was none."""
        column = self._column.get(code)
        if column is not None and self.book[column, QUANTITY] != 0.0:
            return float(self.book[column, MARK])
        return self._last_price.get(code, math.nan)

    def get_stock_list(self) -> list[str]:
        """By name; Qlib's own order changes with the seed of Python's hashes."""
        return [self.names[at] for at in np.flatnonzero(self.book[:-1, QUANTITY]).tolist()]

    def check_stock(self, stock_id: str) -> bool:
        return self.get_stock_amount(stock_id) != 0.0

    def get_stock_amount(self, code: str) -> float:
        column = self._column.get(code)
        return 0.0 if column is None else float(self.book[column, QUANTITY])

    def calculate_stock_value(self) -> float:
        """The net notional: longs less shorts."""
        return float(equity(self.book) - self.book[ALL, CASH])

    def calculate_value(self) -> float:
        return np.float64(equity(self.book))  # Qlib divides by it, and what was liquidated may leave exactly 0

    def get_stock_weight_dict(self, only_stock: bool = False) -> dict[str, float]:
        """Signed notional over equity; with `only_stock` over gross notional, because a neutral book nets to zero."""
        whole = float(gross(self.book) if only_stock else equity(self.book))
        value = self.book[:-1, QUANTITY] * self.book[:-1, MARK]
        return {name: float(value[self._column[name]]) / whole if whole else math.nan for name in self.get_stock_list()}

    def settle_start(self, settle_type: str) -> None:
        """Refused: delayed cash settlement is a rule of stock markets.

        Raises
        ------
        ConfigError
            Always, unless `settle_type` is Qlib's word for none.

        """
        if settle_type != self.ST_NO:
            raise ConfigError(f"executor settle_type {settle_type!r} does not exist for perpetuals; leave it out")

    def __deepcopy__(self, memo: dict[int, Any]) -> PerpPosition:
        """Qlib copies the position into its history at every step: only what can change is copied."""
        twin = PerpPosition.__new__(PerpPosition)
        twin.__dict__.update(self.__dict__)
        twin.book = self.book.copy()
        twin._last_price = dict(self._last_price)  # noqa: SLF001 - the twin is of this class
        twin.position = {name: dict(row) if isinstance(row, dict) else row for name, row in self.position.items()}
        return twin
