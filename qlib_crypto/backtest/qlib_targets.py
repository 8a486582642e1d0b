"""Target weights inside Qlib's loop: the strategies of `qlib_crypto.strategy`, as Qlib sees them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from qlib.backtest.decision import OrderDir, TradeDecisionWO
from qlib.contrib.strategy.signal_strategy import TopkDropoutStrategy
from qlib.strategy.base import BaseStrategy
from qlib.utils import init_instance_by_config

from qlib_crypto.backtest.config import class_named
from qlib_crypto.backtest.dropout import Dropout
from qlib_crypto.backtest.entries import PLAN, Entries
from qlib_crypto.backtest.known import Floats, Strategy, Targets, checked
from qlib_crypto.backtest.load import Loaded
from qlib_crypto.backtest.market import CLOSE
from qlib_crypto.backtest.qlib_exchange import PerpExchange
from qlib_crypto.backtest.qlib_orders import PerpOrder
from qlib_crypto.backtest.qlib_position import PerpPosition
from qlib_crypto.backtest.quotes import unix_ms
from qlib_crypto.backtest.values import made
from qlib_crypto.backtest.view import known_of, scores_known
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Interval

#: What stands among a strategy's own keyword arguments in YAML.
_BESIDE = ("signal", "orders")


class TargetStrategy(BaseStrategy):
    """Orders from what is held to the weights that a strategy wants, at each of its rebalances.

    The weights are made once, for all bars of the step: those of the exchange, or longer ones when another executor
    trades within. Sizes are weight x equity at the last marks / open; what shrinks a position comes first, then by
    name.

    Parameters
    ----------
    strategy
        Makes the weights.
    signal
        Scores by (datetime, instrument), `<PRED>` in YAML; NaN is no score. The first column counts. None for a
        strategy that looks at none (`uses_signal`).
    orders
        How positions are entered and protected, see `Entries`; market orders alone when None.

    """

    def __init__(
        self,
        *,
        strategy: Strategy,
        signal: Any = None,
        orders: Entries | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(strategy, type) or not isinstance(strategy, Strategy):
            raise ConfigError(f"TargetStrategy: strategy {strategy!r} has no targets(known); give an object that has")
        super().__init__(**kwargs)
        self.strategy, self.signal, self.orders = strategy, signal, Entries.of(orders)
        self.plan, self.until = np.zeros((len(PLAN), 0, 0)), np.zeros(0, np.int64)
        self._targets: Targets | None = None
        self._bars: Loaded | None = None
        self._first = 0

    @property
    def notes(self) -> dict[str, int]:
        """What the strategy tells its reader."""
        return {} if self._targets is None else self._targets.notes

    @property
    def told(self) -> dict[str, Any]:
        """For the assumptions of a run."""
        return {} if self.orders is None else self.orders.told()

    def targets(self, exchange: PerpExchange, first: int, step: Interval | None = None) -> Targets:
        """The weights of the bars of a step, the exchange's when None; nothing before row `first` of them is looked at.

        With `orders` also `plan` and `until` of these bars, see `Entries.planned`.

        Raises
        ------
        ConfigError
            With `orders`, where another executor trades within a step.

        """
        self._bars = _bars_of(exchange, step)
        known = known_of(self._bars, self.signal, exchange.terms.missing_funding).since(first)
        self._targets = checked(self.strategy.targets(known), known, type(self.strategy).__name__)
        if self.orders is not None:
            if self._bars is not exchange.loaded:
                raise ConfigError(
                    f"strategy.orders rest in the bars that are traded ({exchange.freq}), where an inner strategy has "
                    "its own orders; take one of the two out"
                )
            prices, more = self._bars.market.prices[: CLOSE + 1], self.orders.warm_up
            before = None
            if more:
                known_before = exchange.source.before(int(self._bars.opens_ms[0]), more)[: CLOSE + 1]
                before = np.concatenate([known_before, prices[:, :first]], axis=1)
            self._targets, self.plan, self.until = self.orders.planned(prices[:, first:], self._targets, before)
        return self._targets

    def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:  # noqa: ARG002 - Qlib's signature
        """The orders of this step."""
        exchange, position = self.trade_exchange, self.trade_position
        if not isinstance(exchange, PerpExchange) or not isinstance(position, PerpPosition):
            raise ConfigError("target weights need PerpExchange and pos_type PerpPosition: stock classes drop shorts")
        step = self.trade_calendar.get_trade_step()
        start, end = self.trade_calendar.get_step_time(step)
        if self._targets is None or self._bars is None or step == 0:
            interval = Interval.parse(self.trade_calendar.get_freq())
            self._first = _bars_of(exchange, interval).row(unix_ms(self.trade_calendar.get_step_time(0)[0])) or 0
            self.targets(exchange, self._first, interval)
        targets, bars, first = self._targets, self._bars, self._first
        row = None if bars is None else bars.row(unix_ms(start))
        if targets is None or row is None or not targets.rebalance[row - first]:
            return TradeDecisionWO([], self)
        weights, money = targets.weights[row - first], max(position.calculate_value(), 0.0)
        orders = []
        for name, weight in zip(exchange.loaded.names, weights.tolist(), strict=True):
            price, held = exchange.open_price(name, start), position.get_stock_amount(name)
            target = 0.0 if np.isnan(weight) else weight * money / price
            if np.isnan(price) or target == held:
                continue
            grows = abs(target) > abs(held) or held * target < 0
            side = OrderDir.BUY if target > held else OrderDir.SELL
            more = self._entry(row - first, exchange, name, price, side) if grows and self.orders else {}
            orders.append((grows, PerpOrder(name, abs(target - held), side, start, end, **more)))
        return TradeDecisionWO([order for _, order in sorted(orders, key=lambda item: item[0])], self)

    def _entry(self, row: int, exchange: PerpExchange, name: str, price: float, side: OrderDir) -> dict[str, Any]:
        """What the plan says of an entry, as keyword arguments of `PerpOrder`."""
        limit, stop, loss, profit, trail = self.plan[:, row, exchange.loaded.column[name]].tolist()
        sign = 1.0 if side == OrderDir.BUY else -1.0
        said: dict[str, Any] = {}
        if limit > 0:
            price = said["limit"] = price * (1.0 - sign * limit)
        elif stop > 0:
            price = said["stop"] = price * (1.0 + sign * stop)
        if said:
            rows = len(exchange.loaded.opens_ms) - len(self.until)
            said["until"] = exchange.quote.times[rows + self.until[row]]
        if loss > 0:
            said["stop_loss"] = price * (1.0 - sign * loss)
        if profit > 0 and price * (1.0 + sign * profit) > 0:
            said["take_profit"] = price * (1.0 + sign * profit)
        if trail > 0:
            said["trailing_stop"] = price * trail
        return said


def _bars_of(exchange: PerpExchange, step: Interval | None) -> Loaded:
    """The bars that are decided on: the traded ones, or longer ones around them."""
    if step is None or step == exchange.loaded.interval:
        return exchange.loaded
    return exchange.source.longer(step)


def in_qlib(strategy: Any) -> Any:
    """What Qlib's loop can run of a strategy, or of the configuration of one: target weights in a `TargetStrategy`.

    Everything else is for Qlib to make.

    Raises
    ------
    ConfigError
        When target weights are configured without a signal, or with a wrong value.

    """
    if isinstance(strategy, Mapping):
        kind, kwargs = class_named("strategy", strategy)
        if not makes_targets(kind):
            try:
                return in_qlib(kind(**kwargs))
            except TypeError as error:
                raise ConfigError(f"strategy: {error}") from error
        own, signal, orders = split(kwargs)
        if signal is None and uses_signal(strategy):
            raise ConfigError("strategy.kwargs.signal is missing; write <PRED>, the prediction, or give scores")
        if hasattr(kind, "check_values"):
            kind.check_values("strategy", own)
        Entries.check("strategy.orders", orders)
        return TargetStrategy(strategy=made("strategy", kind, own), signal=signal, orders=orders)
    if isinstance(strategy, type):
        raise ConfigError(f"strategy {strategy.__name__} is a class; give an object of it, {strategy.__name__}(…)")
    if isinstance(strategy, Strategy) and not isinstance(strategy, BaseStrategy):
        if uses_signal(strategy):
            raise ConfigError(
                f"{type(strategy).__name__} needs a signal: give TargetStrategy(strategy=…, signal=…), or its "
                "configuration with signal among kwargs; uses_signal = False in its class says that it needs none"
            )
        return TargetStrategy(strategy=strategy)
    if not isinstance(strategy, BaseStrategy):
        raise ConfigError(
            f"strategy {strategy!r} has no targets(known); give a strategy, or class, module_path and kwargs of one"
        )
    return strategy


def uses_signal(strategy: Any) -> bool:
    """Whether target weights, an object or its configuration, look at a signal: unless their class says not."""
    if not isinstance(strategy, Mapping):
        return bool(getattr(strategy, "uses_signal", True))
    kind, kwargs = class_named("strategy", strategy)
    return uses_signal(kwargs["base"]) if "base" in kwargs else bool(getattr(kind, "uses_signal", True))


def makes_targets(kind: Any) -> bool:
    """True for a class whose objects make target weights, and are no strategy of Qlib's."""
    return isinstance(kind, type) and hasattr(kind, "targets") and not issubclass(kind, BaseStrategy)


def split(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """A strategy's own keyword arguments, and what stands among them in YAML for all: `signal` and `orders`."""
    for key in kwargs:
        meant = get_close_matches(str(key), _BESIDE, n=1, cutoff=0.7)
        if meant and key != meant[0]:
            raise ConfigError(f"strategy.{key} is unknown; write {meant[0]}")
    own = {key: value for key, value in kwargs.items() if key not in _BESIDE}
    return own, kwargs.get("signal"), kwargs.get("orders")


def dropout_of(strategy: Any) -> tuple[Dropout, Any]:
    """What compiled code needs of Qlib's TopkDropout, an object or the configuration of one: its rules and signal.

    Raises
    ------
    ConfigError
        When it is anything else, or has a setting that only Qlib's loop knows.

    """
    made = init_instance_by_config(strategy, accept_types=BaseStrategy)
    if type(made) is not TopkDropoutStrategy:
        raise ConfigError(
            f"engine array runs target weights and TopkDropoutStrategy, not {strategy!r}; write engine: qlib"
        )
    usual = {"method_sell": "bottom", "method_buy": "top", "only_tradable": False}
    other = next((key for key, value in usual.items() if getattr(made, key) != value), None)
    if other is not None:
        raise ConfigError(
            f"engine array runs TopkDropoutStrategy with {other}: {usual[other]}, not {getattr(made, other)!r}; "
            "write engine: qlib"
        )
    rules = Dropout(made.topk, made.n_drop, made.hold_thresh, float(made.risk_degree))
    return rules, made.signal.signal_cache


def dropout_scores(loaded: Loaded, signal: Any) -> Floats:
    """The scores of TopkDropout, see `scores_known`.

    Raises
    ------
    ConfigError
        When the signal has what Qlib's own loop would rank and compiled code cannot see.

    """
    scores = scores_known(loaded, signal)
    instead = "or write engine: qlib, which ranks them too"
    absent = sorted(set(signal.index.get_level_values("instrument")) - set(loaded.names))
    if absent:
        raise ConfigError(
            f"engine array: the signal has scores of {len(absent)} instruments that the exchange has not, such as "
            f"{absent[0]}; leave them out of the signal, add them to codes, {instead}"
        )
    unknown = int((signal.iloc[:, 0] if isinstance(signal, pd.DataFrame) else signal).isna().sum())
    if unknown:
        raise ConfigError(f"engine array: {unknown:,} scores of the signal are NaN; drop them, {instead}")
    return scores
