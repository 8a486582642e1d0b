"""A step of a perpetual backtest inside Qlib: settle, mark, trade, settle again, mark.

Named in YAML as `executor: {class: PerpExecutor, module_path: qlib_crypto.backtest.qlib_executor}`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from qlib.backtest.decision import BaseTradeDecision, Order, OrderDir
from qlib.backtest.executor import BaseExecutor, SimulatorExecutor
from qlib.backtest.position import BasePosition
from qlib.backtest.utils import CommonInfrastructure
from qlib.data import D

from qlib_crypto.backtest.checks import no_others, one_of
from qlib_crypto.backtest.ledger import Ledger
from qlib_crypto.backtest.orders import FUNDING_AS_NONE, PAID_AT_LAST_PRICE
from qlib_crypto.backtest.qlib_exchange import FundingSum, PerpExchange, unix_ms
from qlib_crypto.backtest.qlib_position import PerpPosition
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Interval

CLOSED_UNKNOWN = "funding unknown: closed"
CLOSED_DELISTED = "no more prices or funding: settled at the last mark"

Result = tuple[Order, float, float, float]


class PerpExecutor(SimulatorExecutor):
    """Executes each step in this order, everything in float64:

    1. settlements exactly at the step's open, on what is held from before;
    2. every holding is marked at the open; without a price it keeps its mark;
    3. a holding whose instrument has ended (no price, no funding, ever again) is settled at its last mark; under
       `missing_funding: untradable` a holding whose funding is unknown in this bar is closed at its open;
    4. the orders, at the open;
    5. settlements later inside the step, on what is held now;
    6. every holding is marked at the close.

    `ledger` has a row for all of it. A step is one bar of the exchange. In a `NestedExecutor` this is the innermost
    one, and the outer needs `skip_empty_decision: false`, otherwise Qlib skips the bars, and their funding, of empty
    decisions.
    """

    def __init__(self, time_per_step: str, **kwargs: Any) -> None:
        signatures = [inspect.signature(kind.__init__).parameters for kind in (SimulatorExecutor, BaseExecutor)]
        no_others("executor", kwargs, {name for keys in signatures for name in keys} - {"self", "kwargs"})
        self.check_values("executor", kwargs)
        self.interval = Interval.parse(time_per_step)
        self.ledger = Ledger()
        super().__init__(time_per_step=self.interval.qlib, **kwargs)

    @staticmethod
    def check_values(where: str, kwargs: Mapping[str, Any]) -> None:
        """Nothing, when the given keyword arguments have values that make sense.

        Raises
        ------
        ConfigError
            Names the first that is wrong, under `where`.

        """
        if kwargs.get("settle_type", BasePosition.ST_NO) != BasePosition.ST_NO:
            raise ConfigError(f"{where}.settle_type {kwargs['settle_type']!r} does not exist here; leave it out")
        if "trade_type" in kwargs:
            one_of(f"{where}.trade_type", kwargs["trade_type"], (PerpExecutor.TT_SERIAL, PerpExecutor.TT_PARAL))

    def reset_common_infra(self, common_infra: CommonInfrastructure, copy_trade_account: bool = False) -> None:
        """Takes account and exchange, and refuses those of stocks.

        Raises
        ------
        ConfigError
            When the exchange's frequency is not the step's, or exchange or position are not of this package.

        """
        super().reset_common_infra(common_infra, copy_trade_account=copy_trade_account)
        exchange = self.trade_exchange
        if not isinstance(exchange, PerpExchange):
            raise ConfigError("PerpExecutor needs exchange_kwargs.exchange of class PerpExchange")
        if exchange.freq != self.interval.qlib:
            raise ConfigError(
                f"exchange freq {exchange.freq} is not the executor's {self.interval.qlib}: Qlib would deal at the "
                "last price of the step; give both the same"
            )
        position = self.trade_account.current_position
        if not isinstance(position, PerpPosition):
            raise ConfigError("pos_type must be qlib_crypto.backtest.qlib_position.PerpPosition")
        self.exchange, self.position = exchange, position
        self.ledger.start_equity = position.account.equity

    def reset(self, common_infra: CommonInfrastructure | None = None, **kwargs: Any) -> None:
        """Sets the span.

        Raises
        ------
        ConfigError
            When it ends after the last stored bar, or has no bar after it for Qlib to end the last step.

        """
        super().reset(common_infra=common_infra, **kwargs)
        calendar = self.trade_calendar if kwargs.get("end_time") is not None else None
        if calendar is None:
            return
        last = D.calendar(freq=self.interval.qlib)[-1]
        if calendar._calendar[calendar.end_index] > last:  # noqa: SLF001 - Qlib has no accessor for its calendar
            raise ConfigError(f"end_time {calendar.end_time} is after the last stored {self.interval.qlib} bar {last}")
        if calendar.end_index + 1 >= len(calendar._calendar):  # noqa: SLF001 - as above
            raise ConfigError(
                f"calendars/{self.interval.qlib}_future.txt holds no bar after {calendar.end_time}; convert again"
            )

    def _collect_data(self, trade_decision: BaseTradeDecision, level: int = 0) -> tuple[list[Result], dict[str, Any]]:  # noqa: ARG002 - Qlib's signature
        start, end = self.trade_calendar.get_step_time()
        held = sorted(self.position.account.holdings)
        settlements = {name: self.exchange.funding(name, start)[0] for name in held}
        unknown = self._settle(settlements, start, "provider at the bar's open")
        self.position.mark({name: self.exchange.open_price(name, start) for name in held})
        closed = self._close_what_must(start, end)
        orders = (order for order in self._get_order_iterator(trade_decision) if order.stock_id not in closed)
        results = [self._deal(order) for order in orders]
        held = sorted(self.position.account.holdings)
        settlements = {name: self.exchange.funding(name, start)[1] for name in held}
        unknown |= self._settle(settlements, start, "provider inside the bar")
        self.ledger.counts[FUNDING_AS_NONE] += len(unknown)
        stale = self.position.account.stale_marks
        self.position.mark({name: self.exchange.close_price(name, start) for name in held})
        self.ledger.counts["bars held without a price"] += self.position.account.stale_marks - stale
        self.ledger.close_step(start, self.position.account)
        return results, {"trade_info": results}

    def _settle(self, settlements: Mapping[str, FundingSum], start: pd.Timestamp, source: str) -> set[str]:
        """Pays what is due and returns the names whose funding is unknown and was taken as none."""
        unknown = set()
        for name, due in settlements.items():
            held = self.position.account.holdings[name]
            if not self.exchange.is_payable(due):
                if self.exchange.has_ended(name, start):
                    continue  # it is settled at its last mark in this step
                if self.exchange.missing_funding == "error":
                    raise self.exchange.unknown_funding(name, start, held.quantity, due)
                unknown.add(name)
            elif not math.isfinite(due.cash):
                self.ledger.counts[PAID_AT_LAST_PRICE] += bool(due.rate)
                self._pay(name, FundingSum(due.rate, due.rate * held.mark), start, "last known price")
            else:
                self._pay(name, due, start, source)
        return unknown

    def _pay(self, name: str, due: FundingSum, start: pd.Timestamp, source: str) -> None:
        if not (due.cash or due.rate):
            return
        settlement = {"rate": due.rate, "mark": due.mark, "mark_source": source, "cash_per_base": due.cash}
        payment = self.position.settle(name, unix_ms(start), **settlement)
        if payment is not None:
            self.ledger.pay(payment)

    def _close_what_must(self, start: pd.Timestamp, end: pd.Timestamp) -> set[str]:
        """The names closed without being asked; orders for them are void in this step."""
        closed = set()
        for name, held in sorted(self.position.account.holdings.items()):
            price, note = held.mark, ""
            if self.exchange.has_ended(name, start):
                note = CLOSED_DELISTED
            elif self.exchange.missing_funding == "untradable" and not self.exchange.funding_known(name, start):
                price, note = self.exchange.open_price(name, start), CLOSED_UNKNOWN
                if not math.isfinite(price):
                    self.ledger.counts["funding unknown without a price to close at"] += 1
                    continue
            if note:
                self._close(Order(name, abs(held.quantity), _side(-held.quantity), start, end), price, note)
                closed.add(name)
        return closed

    def _close(self, order: Order, price: float, note: str) -> None:
        order.deal_amount, order.reference = order.amount, price
        if note != CLOSED_DELISTED:
            price = self.exchange.fill_price(order.stock_id, price, order.deal_amount_delta)
        value = order.amount * price
        self.position.quote(order.stock_id, price)
        taker = self.exchange.costs.rate(unix_ms(order.start_time), liquidity="taker")
        self.trade_account.update_order(order, value, value * taker, price)
        self._log(order, note)

    def _deal(self, order: Order) -> Result:
        value, fee, price = self.exchange.deal_order(order, trade_account=self.trade_account)
        if order.deal_amount:
            self._log(order, order.note)
        return order, value, fee, price

    def _log(self, order: Order, note: str) -> None:
        if self.position.last_fill is not None:
            self.ledger.fill(order.start_time, self.position.last_fill, note)


def _side(quantity: float) -> OrderDir:
    return OrderDir.BUY if quantity > 0 else OrderDir.SELL
