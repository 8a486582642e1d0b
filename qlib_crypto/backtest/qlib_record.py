"""The portfolio record of a workflow: backtests the prediction and saves the tables of the report.

Named in YAML as `record: {class: PerpPortfolioRecord, module_path: qlib_crypto.backtest.qlib_record}`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pandas as pd
from qlib.log import get_module_logger
from qlib.utils import fill_placeholder
from qlib.workflow.record_temp import ACRecordTemp, SignalRecord

from qlib_crypto.backtest.config import PARTS
from qlib_crypto.backtest.result import PerpRun
from qlib_crypto.backtest.run import run_backtest
from qlib_crypto.errors import ConfigError, DataError

OBJECTS = ("perp_steps.pkl", "perp_fills.pkl", "perp_funding.pkl", "perp_positions.pkl", "perp_assumptions.pkl")


class PerpPortfolioRecord(ACRecordTemp):
    """Runs the backtest of `pred.pkl` and saves `OBJECTS`; logs the headline numbers of `PerpRun.metrics` to MLflow.

    Parameters
    ----------
    recorder
        Qlib's recorder of the run.
    config
        `strategy`, `executor` and `backtest` as for Qlib's `PortAnaRecord`, with `<PRED>` for the prediction, and
        `engine`: `qlib`, or `array` for target weights without Qlib's loop. What is left out is derived: the span and
        the instruments from the prediction, the exchange's `freq` and span from executor and backtest, this package's
        classes by default.
    skip_existing
        True keeps what an earlier run of the record saved.

    Raises
    ------
    ConfigError
        When a part is missing or unknown.

    """

    depend_cls = SignalRecord

    def __init__(self, recorder: Any, config: Mapping[str, Any], skip_existing: bool = False) -> None:
        super().__init__(recorder=recorder, skip_existing=skip_existing)
        unknown = sorted(set(config) - set(PARTS))
        if unknown or "strategy" not in config:
            raise ConfigError(f"PerpPortfolioRecord config has {sorted(config)}; write {', '.join(PARTS)}")
        self.config = deepcopy({key: config[key] or {} for key in PARTS if key in config})
        self.run: PerpRun | None = None

    def check(self, include_self: bool = False, parents: bool = True) -> None:
        """Raises DataError when there is no prediction: Qlib would skip the backtest with a line in the log."""
        try:
            super().check(include_self=include_self, parents=parents)
        except FileNotFoundError:
            if include_self:
                raise
            raise DataError(
                "the run has no pred.pkl to backtest; put SignalRecord before PerpPortfolioRecord"
            ) from None

    def _generate(self, **_kwargs: Any) -> dict[str, object]:
        prediction = self.load("pred.pkl")
        config = _derived(self.config, prediction)
        self.run = run_backtest(config, fill_placeholder(config["strategy"], {"<PRED>": prediction}))
        metrics = self.run.metrics()
        self.recorder.log_metrics(**{name: value for name, value in metrics.items() if math.isfinite(value)})
        log = get_module_logger("perp backtest")
        log.info(", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))
        for note, count in self.run.assumptions["notes"].items():
            log.warning("%s: %s", note, "once" if count == 1 else f"{count:,} times")
        tables = (self.run.steps, self.run.fills, self.run.funding, self.run.positions, self.run.assumptions)
        return dict(zip(OBJECTS, tables, strict=True))

    def list(self) -> list[str]:
        """The names of the saved objects."""
        return list(OBJECTS)


def _derived(config: Mapping[str, Any], prediction: pd.DataFrame) -> dict[str, Any]:
    """The configuration with span and instruments of the prediction where it has none of its own."""
    if prediction is None or prediction.empty:
        raise DataError("pred.pkl is empty: there is nothing to backtest; check the test segment and its features")
    times = prediction.index.get_level_values("datetime")
    names = sorted(set(prediction.index.get_level_values("instrument")))
    whole = deepcopy(dict(config))
    backtest = whole.setdefault("backtest", {})
    for key, value in (("start_time", times.min()), ("end_time", times.max())):
        if backtest.get(key) is None:
            backtest[key] = value
    exchange = backtest.setdefault("exchange_kwargs", {}).setdefault("exchange", {})
    if isinstance(exchange, dict):
        exchange.setdefault("kwargs", {}).setdefault("codes", names)
    return whole
