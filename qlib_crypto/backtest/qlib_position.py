"""Signed positions inside Qlib: the perp account, seen through Qlib's `Position`.

Named in YAML as `backtest.pos_type: qlib_crypto.backtest.qlib_position.PerpPosition`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from qlib.backtest.decision import Order
from qlib.backtest.position import Position

from qlib_crypto.backtest.account import Fill, FundingPayment, PerpAccount
from qlib_crypto.errors import ConfigError


class PerpPosition(Position):
    """Cash and signed holdings; `account` is the truth, and `position` mirrors it in Qlib's own shape.

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
        self.account = PerpAccount(float(cash))
        self.position: dict[str, Any]
        self.last_fill: Fill | None = None
        self._last_price: dict[str, float] = {}
        super().__init__(cash=float(cash), position_dict={})

    def fill_stock_value(self, start_time: Any, freq: str, last_days: int = 30) -> None:
        """Nothing: there are no start positions to price."""

    def trade(self, instrument: str, quantity: float, price: float, fee_rate: float, reference: float) -> Fill:
        """See `PerpAccount.trade`."""
        fill = self.account.trade(instrument, quantity, price, fee_rate, reference=reference)
        self._last_price[instrument] = price
        self._mirror()
        return fill

    def settle(self, instrument: str, time_ms: int, **settlement: Any) -> FundingPayment | None:
        """See `PerpAccount.settle`."""
        payment = self.account.settle(instrument, time_ms, **settlement)
        self._mirror()
        return payment

    def mark(self, prices: Mapping[str, float]) -> None:
        """See `PerpAccount.mark`."""
        self.account.mark(prices)
        self._mirror()

    def quote(self, instrument: str, price: float) -> None:
        """Remember the price of an order about to fill: Qlib asks for it before a short exists and after a close."""
        self._last_price[instrument] = price

    def _mirror(self) -> None:
        before, self.position = self.position, {"cash": self.account.cash, "now_account_value": self.account.equity}
        for name, held in self.account.holdings.items():
            self.position[name] = {**before.get(name, {}), "amount": held.quantity, "price": held.mark}

    # Qlib's own interface

    def update_order(self, order: Order, trade_val: float, cost: float, trade_price: float) -> None:
        """Qlib's way to `trade`: the quantity is the order's `deal_amount`, the fee rate is cost over value."""
        reference = getattr(order, "reference", trade_price)
        self.last_fill = self.trade(order.stock_id, order.deal_amount_delta, trade_price, cost / trade_val, reference)

    def update_stock_price(self, stock_id: str, price: float) -> None:
        """The mark of one instrument; the others keep theirs."""
        others = {name: held.mark for name, held in self.account.holdings.items()}
        self.mark({**others, stock_id: price})

    def get_stock_price(self, code: str) -> float:
        """The mark of a held instrument, otherwise the last price seen, NaN when there was none."""
        held = self.account.holdings.get(code)
        return held.mark if held else self._last_price.get(code, math.nan)

    def get_stock_list(self) -> list[str]:
        return list(self.account.holdings)

    def check_stock(self, stock_id: str) -> bool:
        return stock_id in self.account.holdings

    def get_stock_amount(self, code: str) -> float:
        return self.account.quantity(code)

    def calculate_stock_value(self) -> float:
        """The net notional: longs less shorts."""
        return self.account.net

    def calculate_value(self) -> float:
        return self.account.equity

    def get_stock_weight_dict(self, only_stock: bool = False) -> dict[str, float]:
        """Signed notional over equity; with `only_stock` over gross notional, because a neutral book nets to zero."""
        whole = self.account.gross if only_stock else self.account.equity
        return {n: h.quantity * h.mark / whole if whole else math.nan for n, h in self.account.holdings.items()}

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
        twin.account = self.account.copy()
        twin._last_price = dict(self._last_price)  # noqa: SLF001 - the twin is of this class
        twin.position = {name: dict(row) if isinstance(row, dict) else row for name, row in self.position.items()}
        return twin
