"""What a backtest answers: its tables, its headline numbers, and what each instrument earned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from qlib_crypto.backtest.attribution import instrument_attribution
from qlib_crypto.stats.returns import (
    annualised_sharpe,
    calmar,
    max_drawdown,
    sortino,
    step_returns,
    steps_in_year,
    total_return,
)
from qlib_crypto.stats.risk import daily_returns, expected_shortfall, profit_factor, value_at_risk, win_rate
from qlib_crypto.stats.trades import account_trades
from qlib_crypto.stats.turnover import step_turnover
from qlib_crypto.symbols import Interval


@dataclass(frozen=True)
class PerpRun:
    """The tables of one backtest, see `tables`, and what was assumed."""

    steps: pd.DataFrame
    fills: pd.DataFrame
    funding: pd.DataFrame
    positions: pd.DataFrame
    assumptions: dict[str, Any]

    def attribution(self) -> pd.DataFrame:
        """What each instrument earned and by which source, see `instrument_attribution`; sums are those of `steps`."""
        return instrument_attribution(self.fills, self.funding, self.positions, self.steps.index[-1])

    def metrics(self) -> dict[str, float]:
        """The headline numbers; money in quote coin, returns as fractions of the start equity.

        net = gross + (funding net - fees - slippage - liquidation) / start equity;
        funding net = received - paid, both >= 0;
        `gross_return` is of prices alone; `turnover` is traded notional over equity, summed over the steps; NaN where a
        number does not exist. `win_rate` and `profit_factor` are of trades (closed parts, with fees and funding),
        `var_95` and `es_95` the losses of whole UTC days. Names and signs are those of the report's `summary.json`.
        """
        start = float(self.assumptions["account"])
        amounts = self.funding["amount"].to_numpy(np.float64)
        equity = np.concatenate([[start], self.steps["equity"].to_numpy()])
        step_ms = Interval.parse(self.assumptions["freq"]).ms
        year, returns = steps_in_year(step_ms), step_returns(equity)
        opens = self.steps.index.to_numpy().astype("datetime64[ms]").astype(np.int64)
        days, _ = daily_returns(equity, np.append(opens, opens[-1:] + step_ms))
        profits = account_trades(self.fills, self.funding).profit
        return {
            "net_return": total_return(equity),
            "gross_return": float(self.steps["price"].sum()) / start,
            "fees": -float(self.steps["fee"].sum()),
            "slippage": -float(self.steps["slippage"].sum()),
            "liquidation": -float(self.steps["liquidation"].sum()),
            "funding_paid": -float(amounts[amounts < 0].sum()) + 0.0,
            "funding_received": float(amounts[amounts > 0].sum()),
            "funding_net": float(self.steps["funding"].sum()),
            "sharpe_365": annualised_sharpe(returns, year),
            "sortino_365": sortino(returns, year),
            "max_drawdown": max_drawdown(equity),
            "calmar": calmar(equity, year),
            "win_rate": win_rate(profits),
            "profit_factor": profit_factor(profits),
            "var_95": value_at_risk(days, 0.95),
            "es_95": expected_shortfall(days, 0.95),
            "turnover": float(np.nansum(step_turnover(self.steps["turnover"].to_numpy(), equity))),
            "trades": float(len(self.fills)),
        }
