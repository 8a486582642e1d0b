"""What a report is made of: the objects of one finished run, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from qlib_crypto import __version__
from qlib_crypto.errors import SchemaError

__all__ = ["ReportData"]

STEP_COLUMNS = (
    "equity", "cash", "gross", "net", "turnover", "price", "funding", "fee", "slippage", "liquidation",
    "bench_btc", "bench_equal",
)  # fmt: skip
FILL_COLUMNS = ("datetime", "instrument", "quantity", "price", "reference", "fee", "note")
FUNDING_COLUMNS = ("time", "instrument", "quantity", "mark", "rate", "amount", "mark_source")
POSITION_COLUMNS = ("datetime", "instrument", "quantity", "mark")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """One run's results, as its records saved them; times are naive UTC as in Qlib, money is in the quote coin.

    Attributes
    ----------
    name
        What the report is called: the experiment, or the workflow.
    steps, fills, funding, positions
        `perp_steps.pkl`, `perp_fills.pkl`, `perp_funding.pkl`, `perp_positions.pkl` of the portfolio record.
    prediction, label
        `pred.pkl` and `label.pkl` of `SignalRecord`: first column, index (datetime, instrument); None when absent.
    assumptions
        `perp_assumptions.pkl`: what the backtest assumed, shown word for word.
    feature_importance
        Gain of each feature, None when the model has none.
    dropped_features
        Features left out because they had no value in the training segment.
    setup
        What was learned from what, as label and text: model with its parameters, label, segments.
    strategy
        The strategy's `class` and its settings; empty when unknown.
    seconds
        Wall seconds of each stage, in order; empty when unknown.
    universe
        How the market was chosen, see `qlib_crypto.report.universe.chosen`; empty when unknown.
    run_id, started, data_hash
        MLflow's id of the run, when it began (UTC), and the lake's content hash; None when unknown.
    version, commit
        Of this package when the run was made; its git commit, None outside a repository.

    Raises
    ------
    SchemaError
        When a table lacks a column.

    """

    name: str
    steps: pd.DataFrame
    fills: pd.DataFrame
    funding: pd.DataFrame
    positions: pd.DataFrame
    prediction: pd.DataFrame | None = None
    label: pd.DataFrame | None = None
    assumptions: Mapping[str, Any] = field(default_factory=dict)
    feature_importance: pd.Series[float] | None = None
    dropped_features: tuple[str, ...] = ()
    setup: Mapping[str, str] = field(default_factory=dict)
    strategy: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    universe: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    started: str | None = None
    data_hash: str | None = None
    version: str = __version__
    commit: str | None = None

    def __post_init__(self) -> None:
        for what, frame, columns in (
            ("perp_steps", self.steps, STEP_COLUMNS),
            ("perp_fills", self.fills, FILL_COLUMNS),
            ("perp_funding", self.funding, FUNDING_COLUMNS),
            ("perp_positions", self.positions, POSITION_COLUMNS),
        ):
            missing = [name for name in columns if name not in frame.columns]
            if missing:
                raise SchemaError(
                    f"{what} of run {self.run_id or self.name} lacks {', '.join(missing)}; "
                    "run the workflow again with this version"
                )
        if self.steps.empty:
            raise SchemaError(f"perp_steps of run {self.run_id or self.name} is empty; check the backtest's dates")
