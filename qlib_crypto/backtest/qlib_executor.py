"""A step of a perpetual backtest inside Qlib.

Named in YAML as `executor: {class: PerpExecutor, module_path: qlib_crypto.backtest.qlib_executor}`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from qlib.backtest.decision import BaseTradeDecision, Order, OrderDir
from qlib.backtest.executor import BaseExecutor, SimulatorExecutor
from qlib.backtest.position import BasePosition
from qlib.backtest.utils import CommonInfrastructure
from qlib.data import D

from qlib_crypto.backtest.engine import Engine
from qlib_crypto.backtest.layout import FILL
from qlib_crypto.backtest.notes import MARKET, NO_PRICE, WORDS
from qlib_crypto.backtest.qlib_exchange import PerpExchange
from qlib_crypto.backtest.qlib_orders import order_rows
from qlib_crypto.backtest.qlib_position import PerpPosition
from qlib_crypto.backtest.values import no_others, one_of
from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.symbols import Interval

Result = tuple[Order, float, float, float]


class PerpExecutor(SimulatorExecutor):
    """Executes each step as `bar.run_bar` says; `engine` has a row for all of it.

    A step is one bar of the exchange. In a `NestedExecutor` this is the innermost
    one, and the outer needs `skip_empty_decision: false`, otherwise Qlib skips the bars, and their funding, of empty
    decisions.
    """

    def __init__(self, time_per_step: str, **kwargs: Any) -> None:
        signatures = [inspect.signature(kind.__init__).parameters for kind in (SimulatorExecutor, BaseExecutor)]
        no_others("executor", kwargs, {name for keys in signatures for name in keys} - {"self", "kwargs"})
        self.check_values("executor", kwargs)
        self.interval = Interval.parse(time_per_step)
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
        self.engine = Engine(exchange.loaded, exchange.terms, position.calculate_value())
        position.attach(self.engine.book, exchange.loaded.names)

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
        row = self.exchange.quote.row(start)
        if row is None:
            raise DataError(f"the exchange has no bar of {start}; its span must cover the backtest's")
        asked = list(self._get_order_iterator(trade_decision))
        column = self.exchange.loaded.column
        known = [order for order in asked if order.stock_id in column]
        wanted = np.array([order.amount_delta for order in known], dtype=np.float64)
        columns = np.array([column[order.stock_id] for order in known], dtype=np.int64)
        orders = order_rows(known, row, self.exchange.quote.bar_of)
        fills, notes = self.engine.step(row, columns, wanted, orders)
        self.engine.note(NO_PRICE, len(asked) - len(known))
        for order in asked:
            order.factor, order.deal_amount, order.note = 1.0, 0.0, WORDS[NO_PRICE]
        for order, quantity, note in zip(known, wanted.tolist(), notes, strict=True):
            order.deal_amount, order.note = abs(quantity), note
        results = {id(order): (order, 0.0, 0.0, math.nan) for order in asked}
        ordered = iter([order for order in known if order.deal_amount])
        for fill in fills:
            of = dict(zip(FILL, fill.tolist(), strict=True))
            unasked = of["order"] != MARKET
            order = self._unasked(of, start, end) if unasked else next(ordered)
            value = order.deal_amount * of["price"]
            self.position.quote(order.stock_id, of["price"])
            self.trade_account._update_state_from_order(order, value, of["fee"], of["price"])  # noqa: SLF001 - the part of `update_order` that is not the position's
            if not unasked:
                results[id(order)] = (order, value, of["fee"], of["price"])
        self.position.mirror()
        return list(results.values()), {"trade_info": list(results.values())}

    def _unasked(self, fill: Mapping[str, float], start: pd.Timestamp, end: pd.Timestamp) -> Order:
        """What the venue did by itself, as an order."""
        side = OrderDir.BUY if fill["quantity"] > 0 else OrderDir.SELL
        name, amount = self.exchange.loaded.names[int(fill["column"])], abs(fill["quantity"])
        return Order(name, amount, side, start, end, factor=1.0, deal_amount=amount)
