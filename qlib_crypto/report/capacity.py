"""What would be left of a run with a larger account: the capacity curve of its own orders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from qlib_crypto.report.data import ReportData
from qlib_crypto.stats.capacity import CapacityCurve, capacity_curve, impact_costs, multiple_where
from qlib_crypto.stats.returns import step_returns

__all__ = ["COEFFICIENT", "Capacity", "capacity"]

#: Of the square-root law, as the literature has it; see `qlib_crypto.stats.capacity`.
COEFFICIENT = 1.0
_COLUMNS = ("market_volume", "market_volatility")


@dataclass(frozen=True, slots=True)
class Capacity:
    """The curve of a run whose account was `account` quote coins.

    `half` and `none` are the accounts at which half and nothing of the net return is left, NaN where that lies outside
    of the curve or the run earned nothing.
    """

    account: float
    curve: CapacityCurve
    half: float
    none: float

    @property
    def table(self) -> pd.DataFrame:
        """Columns `account`, `net_return`, `sharpe`, by size; the first is the run without impact at no size."""
        sizes = self.account * self.curve.multiple
        return pd.DataFrame({"account": sizes, "net_return": self.curve.net_return, "sharpe": self.curve.sharpe})


def capacity(data: ReportData, equity: pd.Series[float], steps_per_year: float) -> Capacity | None:
    """The capacity of a run, None without orders, or where their market is not known.

    `equity` is that at the start and at each close. What the venue did by itself is no order.
    """
    fills = data.fills
    if not set(fills.columns) >= set(_COLUMNS):
        return None
    own = fills[fills["order"] != "venue"]
    if own.empty:
        return None
    notional = (own["quantity"] * own["price"]).abs().to_numpy(np.float64)
    # where they are unknown the last known ones, before these the first: no capacity at all would say less
    by_name, columns = own.sort_values("datetime", kind="stable").groupby("instrument"), list(_COLUMNS)
    known = by_name[columns].ffill().fillna(by_name[columns].bfill()).reindex(own.index)
    volume, volatility = (known[name].to_numpy(np.float64) for name in _COLUMNS)
    paid = pd.Series(impact_costs(notional, volume, volatility, COEFFICIENT), index=own["datetime"].to_numpy())
    by_step = paid.groupby(level=0).sum(min_count=1) if paid.notna().all() else None
    if by_step is None:
        return None
    begun = np.asarray(equity, dtype=np.float64)[:-1]
    costs = by_step.reindex(data.steps.sort_index().index, fill_value=0.0).to_numpy(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(begun > 0, costs / begun, 0.0)
    account = float(begun[0])
    curve = capacity_curve(step_returns(equity), share, steps_per_year)
    half, none = (multiple_where(curve, left) * account for left in (0.5, 0.0))
    return Capacity(account, curve, half, none) if math.isfinite(curve.net_return[0]) else None
