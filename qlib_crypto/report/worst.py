"""The steps that cost most, and who cost it."""

from __future__ import annotations

import pandas as pd

from qlib_crypto.backtest.attribution import instrument_attribution
from qlib_crypto.report.data import ReportData
from qlib_crypto.report.measures import Measures
from qlib_crypto.stats.returns import step_returns

__all__ = ["worst_steps"]


def worst_steps(data: ReportData, measures: Measures, count: int = 5) -> pd.DataFrame:
    """The `count` losing steps with the lowest return, the worst first.

    Index `datetime` (step opens); `return` of the step, `instrument` that lost most in it and the `amount` of that,
    all sources together, quote coin.
    """
    steps = data.steps.sort_index()
    returns = pd.Series(step_returns(measures.equity), index=steps.index.rename("datetime"), name="return")
    worst = returns[returns < 0].nsmallest(count).to_frame()
    lost = [_by_instrument(data, steps.index, int(steps.index.searchsorted(at))) for at in worst.index]
    worst["instrument"] = [None if amounts.empty else str(amounts.idxmin()) for amounts in lost]
    worst["amount"] = [None if amounts.empty else float(amounts.min()) for amounts in lost]
    return worst


def _by_instrument(data: ReportData, opens: pd.Index, row: int) -> pd.Series[float]:
    """What each instrument earned in one step, quote coin: the value at its close less that at the close before."""
    at = opens[row]
    settled = data.funding["time"] >= at
    if row + 1 < len(opens):
        settled &= data.funding["time"] < opens[row + 1]
    fills = data.fills.loc[data.fills["datetime"] == at]
    earned = instrument_attribution(fills, data.funding.loc[settled], data.positions, at)["total"]
    if row:
        held = data.positions.loc[data.positions["datetime"] == opens[row - 1]]
        before = (held["quantity"] * held["mark"]).groupby(held["instrument"]).sum()
        earned = earned.sub(before, fill_value=0.0)
    return earned
