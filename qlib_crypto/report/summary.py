"""A run in numbers: `summary.json`, for machines and for comparing runs.

================== ====================================================================================================
key                value
================== ====================================================================================================
name, run_id       the report's name; MLflow's run id
started            when the run began, ISO 8601 UTC
version, commit    of this package; its git commit
data_hash          the lake's content hash
start, end         first step open and last step close, ISO 8601 UTC
step_minutes       length of a step
symbols            instruments with predictions (of the portfolio when there are none)
bars               timestamps with predictions (steps when there are none)
rows               predictions, one an instrument and timestamp
steps              backtest steps
ic, rank_ic        mean over timestamps of Pearson's and Spearman's correlation of prediction and label
ic_se, rank_ic_se  their standard errors: stationary block bootstrap, 1,000 draws, seed 0, blocks of a day or of
                   n ** (1/3) timestamps, whichever is longer; never below std / sqrt(n) of independent values
icir, rank_icir    mean over standard deviation across timestamps, not annualised
trades             fills
turnover           traded notional over the equity at the step's start, summed over all steps (both sides count);
                   `turnover_per_day` is that over the days of the span, in multiples of equity
gross_return       price gains over starting equity, before funding and costs
net_return         all gains over starting equity;
                   = gross_return + (funding_net - fees - slippage - liquidation) / start_equity
start_equity       quote coin; likewise end_equity
quote              the quote coin
fees               paid, quote coin; < 0 when rebates exceed fees
slippage           what fills cost more than the market's price, quote coin
liquidation        what the venue kept of positions that it took over, quote coin
funding_paid       what our positions paid at settlements, quote coin, ≥ 0; likewise funding_received, ≥ 0
funding_net        funding_received - funding_paid, quote coin; > 0 is a gain
settlements        payments and receipts of funding
sharpe_365         mean over standard deviation of step returns, times sqrt(steps in 365 x 24 h)
sortino_365        the same with downside deviation
volatility_365     standard deviation of step returns, annualised
annual_return_365  net return compounded to a year
max_drawdown       deepest fall from a peak between step closes, ≤ 0; `max_drawdown_at` the close it ends at, UTC
benchmarks         return of `btc` and of the equally weighted market over the span
seconds            wall seconds of each stage, when known
universe           how the market was chosen, see `qlib_crypto.report.universe.chosen`
dropped_features   features left out because they had no value in training
strategy           the strategy's class and its settings; empty when unknown
worst_steps        the five worst steps by return: open, return, the instrument that lost most and its amount
risk               tails, trades, exposure and stress, see `qlib_crypto.report.risk`
assumptions        what the backtest assumed
notices            what a reader must know first, in words
================== ====================================================================================================

Returns are fractions. A number that does not exist is null: JSON has neither NaN nor infinity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from qlib_crypto.report.data import ReportData
from qlib_crypto.report.measures import Measures, quote_coin
from qlib_crypto.report.notices import notices
from qlib_crypto.report.worst import worst_steps
from qlib_crypto.stats.ic import icir, mean_ic
from qlib_crypto.stats.returns import (
    annualised_return,
    annualised_sharpe,
    annualised_volatility,
    sortino,
    step_returns,
    total_return,
    worst_drawdown,
)
from qlib_crypto.stats.significance import block_length_rule, cautious_standard_error

__all__ = ["plain", "summarise", "to_json"]

_DAY = pd.Timedelta(days=1)


def summarise(data: ReportData, measures: Measures) -> dict[str, Any]:
    """The summary of a run as finite JSON values or None; the module's text says what each key means."""
    summary = {
        "name": data.name,
        "run_id": data.run_id,
        "started": data.started,
        "version": data.version,
        "commit": data.commit,
        "data_hash": data.data_hash,
        "start": measures.equity.index[0],
        "end": measures.equity.index[-1],
        "step_minutes": measures.step / pd.Timedelta(minutes=1) if measures.step is not None else None,
        **_counts(data),
        **_signal(measures),
        **_performance(data, measures),
        "seconds": dict(data.seconds),
        "universe": dict(data.universe),
        "dropped_features": list(data.dropped_features),
        "strategy": dict(data.strategy),
        "worst_steps": worst_steps(data, measures).reset_index().to_dict("records"),
        "risk": {**measures.risk.numbers, "stress": measures.risk.stress.to_dict("records")},
        "assumptions": dict(data.assumptions),
        "notices": [notice.text for notice in notices(data, measures)],
    }
    result: dict[str, Any] = plain(summary)
    return result


def to_json(summary: Mapping[str, Any]) -> str:
    """The summary as JSON text with a final line break; refuses NaN and infinities."""
    return json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """`value` in JSON's own types: numbers that are not finite become None, times ISO 8601 UTC, the unknown text."""
    if isinstance(value, Mapping | pd.Series):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    return _plain_scalar(value.item() if isinstance(value, np.generic) else value)


def _plain_scalar(value: Any) -> str | int | float | None:
    match value:
        case None | str() | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case datetime():  # also pandas' Timestamp and NaT
            return None if pd.isna(value) else value.isoformat(sep=" ", timespec="seconds")
        case _:
            return str(value)


def _counts(data: ReportData) -> dict[str, Any]:
    names, bars, rows = data.positions["instrument"].nunique(), len(data.steps), 0
    if data.prediction is not None and len(data.prediction):
        index = data.prediction.index
        names, bars = index.get_level_values("instrument").nunique(), index.get_level_values("datetime").nunique()
        rows = len(index)
    return {"symbols": names, "bars": bars, "rows": rows, "steps": len(data.steps)}


def _signal(measures: Measures) -> dict[str, Any]:
    times = measures.ic.index
    bars_a_day = round(_DAY / pd.Timedelta(np.median(np.diff(times.to_numpy())))) if len(times) > 1 else 1
    length = max(bars_a_day, block_length_rule(len(times)))
    result: dict[str, Any] = {}
    for kind in ("ic", "rank_ic"):
        values = measures.ic[kind].to_numpy(np.float64)
        result[kind] = mean_ic(values)
        result[f"{kind}_se"] = cautious_standard_error(values, block_length=length)
        result[f"{kind}ir"] = icir(values)
    return result


def _performance(data: ReportData, measures: Measures) -> dict[str, Any]:
    equity = measures.equity.to_numpy(np.float64)
    returns, a_year = step_returns(equity), measures.steps_per_year
    start, end = float(equity[0]), float(equity[-1])
    gained = measures.attribution.iloc[-1]
    amounts = data.funding["amount"].to_numpy(np.float64)
    fall = worst_drawdown(equity)
    days = (measures.equity.index[-1] - measures.equity.index[0]) / _DAY
    turnover = float(measures.turnover.sum())
    return {
        "quote": quote_coin(data),
        "start_equity": start,
        "end_equity": end,
        "trades": len(data.fills),
        "turnover": turnover,
        "turnover_per_day": turnover / days if days > 0 else None,
        "gross_return": gained["price"] / start if start > 0 else None,
        "net_return": total_return(equity),
        "fees": -gained["fee"] + 0.0,
        "slippage": -gained["slippage"] + 0.0,
        "liquidation": -gained["liquidation"] + 0.0,
        "funding_paid": -amounts[amounts < 0].sum() + 0.0,
        "funding_received": amounts[amounts > 0].sum(),
        "funding_net": gained["funding"],
        "settlements": len(data.funding),
        "sharpe_365": annualised_sharpe(returns, a_year),
        "sortino_365": sortino(returns, a_year),
        "volatility_365": annualised_volatility(returns, a_year),
        "annual_return_365": annualised_return(equity, a_year),
        "max_drawdown": fall.depth,
        "max_drawdown_at": measures.equity.index[fall.trough] if fall.depth < 0 else None,
        "benchmarks": {name: _last(measures.curve[name]) for name in ("btc", "equal")},
    }


def _last(growth: pd.Series[float]) -> float | None:
    known = growth.dropna()
    return float(known.iloc[-1] - 1.0) if len(known) else None
