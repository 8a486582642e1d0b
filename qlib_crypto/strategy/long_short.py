"""Long the best, short the worst: the cross-sectional portfolio, inside Qlib's loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from qlib.backtest.decision import TradeDecisionWO
from qlib.contrib.strategy.signal_strategy import BaseSignalStrategy

from qlib_crypto.backtest.checks import no_others, number, whole_number
from qlib_crypto.backtest.qlib_exchange import PerpExchange
from qlib_crypto.backtest.qlib_position import PerpPosition
from qlib_crypto.errors import ConfigError

TOPK = 5
#: What Qlib itself passes to a strategy.
_OF_QLIB = ("outer_trade_decision", "level_infra", "common_infra", "trade_exchange")


class LongShortTopk(BaseSignalStrategy):
    """Equal weights in `topk` longs and `topk` shorts by signal, each leg half of `gross_exposure`.

    The signal is the last one of the step before; sizes are `weight x equity at the last marks / open`. A name that
    cannot be opened in the step (no price, or unknown funding under `untradable`) is no candidate; a held one that
    is no candidate any more is closed if it has a price.

    Parameters
    ----------
    signal
        Scores by (datetime, instrument), `<PRED>` in YAML; NaN is no score. The first column counts.
    topk
        Names a leg.
    gross_exposure
        Longs plus shorts over equity.
    rebalance_every
        Steps between two rebalancings, counted from the first step with a signal; nothing is traded in between.
        One that falls on a step without a signal waits for the next step that has one.
    drop_buffer
        A held name stays until it falls out of the first `topk + drop_buffer` of its leg.
    min_names
        Names a leg must reach, otherwise the portfolio goes flat; `topk` when None. A shorter leg keeps its exposure.

    Raises
    ------
    ConfigError
        When a parameter is out of range.

    """

    def __init__(
        self,
        *,
        signal: Any = None,
        topk: int = TOPK,
        gross_exposure: float = 1.0,
        rebalance_every: int = 1,
        drop_buffer: int = 0,
        min_names: int | None = None,
        **kwargs: Any,
    ) -> None:
        no_others("strategy", kwargs, _OF_QLIB)
        given = {"topk": topk, "gross_exposure": gross_exposure, "rebalance_every": rebalance_every, "signal": signal}
        self.check_values("strategy", {**given, "drop_buffer": drop_buffer, "min_names": min_names})
        super().__init__(signal=signal, **kwargs)
        self.topk, self.gross_exposure, self.rebalance_every = topk, float(gross_exposure), rebalance_every
        self.drop_buffer, self.min_names = drop_buffer, topk if min_names is None else min_names
        self.notes: Counter[str] = Counter()
        #: The step of the next rebalance; without a signal it waits for the first step that has one.
        self._due = 0

    @staticmethod
    def check_values(where: str, kwargs: Mapping[str, Any]) -> None:
        """Nothing, when the given keyword arguments have values that make sense.

        Raises
        ------
        ConfigError
            Names the first that is wrong, under `where`.

        """
        if "risk_degree" in kwargs:
            raise ConfigError(f"{where}.risk_degree has no effect here; remove it and set gross_exposure")
        for key, least in (("topk", 1), ("rebalance_every", 1), ("drop_buffer", 0)):
            if key in kwargs:
                whole_number(f"{where}.{key}", kwargs[key], least)
        if "gross_exposure" in kwargs:
            what = "must be positive: longs plus shorts over equity, such as 1.0"
            number(f"{where}.gross_exposure", kwargs["gross_exposure"], lambda v: v > 0, what)
        if kwargs.get("min_names") is not None:
            whole_number(f"{where}.min_names", kwargs["min_names"], 1)
            topk = kwargs.get("topk", TOPK)
            if kwargs["min_names"] > topk:
                raise ConfigError(f"{where}.min_names {kwargs['min_names']} is above topk {topk}; write {topk} or less")
        if kwargs.get("signal") is None:
            raise ConfigError(f"{where}.signal is missing; write <PRED>, the prediction")

    @staticmethod
    def shortest_leg(kwargs: Mapping[str, Any]) -> tuple[str, int]:
        """The keyword argument that says how many names a leg must reach, and its value."""
        key = "topk" if kwargs.get("min_names") is None else "min_names"
        return key, int(kwargs.get(key, TOPK))

    def generate_trade_decision(self, execute_result: list[Any] | None = None) -> TradeDecisionWO:  # noqa: ARG002 - Qlib's signature
        """The orders of this step."""
        step = self.trade_calendar.get_trade_step()
        if step == 0:
            self._due = 0
            self.notes.clear()
        if step < self._due:
            return TradeDecisionWO([], self)
        scores = self._scores(step)
        if scores is None:
            self.notes["no signal: position kept"] += 1
            return TradeDecisionWO([], self)
        self._due = step + self.rebalance_every
        start, end = self.trade_calendar.get_step_time(step)
        exchange, position = self._perp(self.trade_exchange, self.trade_position)
        held = position.get_stock_amount_dict()
        weights = self._weights([name for name in scores if exchange.may_open(name, start)], held, position)
        target = exchange.generate_amount_position_from_weight_position(weights, position.calculate_value(), start, end)
        return TradeDecisionWO(exchange.generate_order_for_target_amount_position(target, held, start, end), self)

    def _scores(self, step: int) -> list[str] | None:
        """The names by score, best first, ties by name; None without any signal."""
        start, end = self.trade_calendar.get_step_time(step, shift=1)
        signal = self.signal.get_signal(start_time=start, end_time=end)
        if signal is None:
            return None
        column = signal.iloc[:, 0] if isinstance(signal, pd.DataFrame) else signal
        scored = column.dropna()
        if scored.empty:
            return None
        return [name for _, name in sorted((-score, str(name)) for name, score in scored.items())]

    def _weights(self, ranked: Sequence[str], held: Mapping[str, float], position: PerpPosition) -> dict[str, float]:
        if position.calculate_value() <= 0:
            self.notes["equity is gone: flat"] += 1
            return {}
        size = min(self.topk, len(ranked) // 2)
        if size < self.min_names:
            self.notes[f"fewer than {self.min_names} names a leg: flat"] += 1
            return {}
        reach = min(size + self.drop_buffer, len(ranked) // 2)
        longs = _leg(ranked[:reach], size, (name for name in ranked if held.get(name, 0.0) > 0))
        shorts = _leg(ranked[::-1][:reach], size, (name for name in ranked[::-1] if held.get(name, 0.0) < 0))
        each = self.gross_exposure / 2 / size
        return {**dict.fromkeys(longs, each), **dict.fromkeys(shorts, -each)}

    @staticmethod
    def _perp(exchange: Any, position: Any) -> tuple[PerpExchange, PerpPosition]:
        if not isinstance(exchange, PerpExchange) or not isinstance(position, PerpPosition):
            raise ConfigError("LongShortTopk needs PerpExchange and pos_type PerpPosition: stock classes drop shorts")
        return exchange, position


def _leg(reach: Sequence[str], size: int, held: Iterable[str]) -> list[str]:
    """`size` names within reach, best first: those already held, then the best of the others."""
    kept = [name for name in held if name in reach][:size]
    return kept + [name for name in reach if name not in kept][: size - len(kept)]
