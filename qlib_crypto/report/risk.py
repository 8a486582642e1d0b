"""The risk of a run: tails, trades, what was held, and what stress would have done to it.

`risk` in `summary.json` holds these; returns, losses and shares are fractions, `null` where there are too few values.

============================== ========================================================================================
key                            value
============================== ========================================================================================
days                           whole UTC days in the span
var_95, var_99                 historical value at risk of a day, > 0 is a loss: `qlib_crypto.stats.risk.value_at_risk`
es_95, es_99                   mean loss in the worst 5 % and 1 % of days
var_95_step … es_99_step       the same of steps
skew, kurtosis                 of daily returns; `kurtosis` is 0 for a normal distribution; `skew_step`,
                               `kurtosis_step` of steps
calmar                         return a year over the deepest fall
under_water_days               the longest way from a high until it was reached again, or to the end
closed_trades                  closed parts of positions: each fill against a position closes one
win_rate, profit_factor        of their profits with fees and funding; `win_rate_long`, `win_rate_short` of each side
mean_holding_hours             from entry to close, weighted by notional
win_rate_step                  share of steps with a gain among those with a gain or a loss; `profit_factor_step`
hit_rate_long, hit_rate_short  how often a held price went the position's way from one step close to the next
leverage_mean, leverage_max    gross notional over equity at step closes
margin_ratio_mean              maintenance margin and closing fee over equity at closes, 1 is liquidation (isolated:
                               of the worst position); `margin_ratio_max` likewise; NaN without margin
concentration_mean             the largest |notional| over gross at step closes; `concentration_max` likewise
names_mean, names_max          instruments held at step closes
capacity_half, capacity_none   quote coins of the account at which half and nothing of the net return is left when each
                               order pays its own square-root impact; NaN outside of the curve
betas_assumed                  of the instruments held, those whose beta to BTC is not known and taken as 1
var_95_breaches                days that lost more than the value at risk known before them, of `var_95_days`
stress                         of each scenario `name`, `last` and `worst` change of equity, and the close `at` which
                               the worst was; more in `qlib_crypto.report.scenarios.stress_table`
============================== ========================================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qlib_crypto.report.capacity import Capacity, capacity
from qlib_crypto.report.data import ReportData
from qlib_crypto.report.scenarios import stress_table
from qlib_crypto.stats import risk as stats
from qlib_crypto.stats.returns import calmar, step_returns
from qlib_crypto.stats.stress import betas
from qlib_crypto.stats.trades import account_trades, mean_holding_ms

__all__ = ["Risk", "risk"]

Floats = NDArray[np.float64]
_DAY = pd.Timedelta(days=1)
_HOUR_MS = 3_600_000
#: Days before each day from which its value at risk is taken: the longest that the span holds twice.
WINDOWS = (250, 120, 60, 30)


@dataclass(frozen=True, slots=True)
class Risk:
    """The computed risk of a run.

    Attributes
    ----------
    numbers
        As the module's text says, without `stress`.
    stress
        See `scenarios.stress_table`; empty when nothing was ever held.
    days
        `returns` of whole UTC days and `var_95`, the value at risk known before each (NaN in the first window), index
        the day.
    window
        Days in that window, 0 without one.
    capacity
        What would be left with a larger account; None where it is not known.

    """

    numbers: dict[str, Any]
    stress: pd.DataFrame
    days: pd.DataFrame
    window: int
    capacity: Capacity | None


def risk(data: ReportData, equity: pd.Series[float], step: pd.Timedelta | None, steps_per_year: float) -> Risk:
    """The risk of a run; `equity` at the start and at each close, shape (T + 1,), index of times."""
    returns = step_returns(equity)
    days = _days(equity)
    window = next((window for window in WINDOWS if len(days) >= 2 * window), 0)
    days["var_95"] = stats.rolling_value_at_risk(days["returns"], window) if window else np.nan
    held, mark = _held(data)
    moves = _moves(mark)
    closing = pd.DatetimeIndex(equity.index[1:])
    capital: Floats = np.asarray(equity, dtype=np.float64)[1:]
    market = data.steps.sort_index()["bench_btc"].to_numpy(np.float64)
    beta = betas(moves, market)
    larger = capacity(data, equity, steps_per_year)
    numbers = {
        **_tails(returns, days["returns"].to_numpy(np.float64)),
        "calmar": calmar(equity, steps_per_year),
        "under_water_days": stats.longest_under_water(equity) * (step / _DAY) if step is not None else math.nan,
        **_trades(data),
        "win_rate_step": stats.win_rate(returns),
        "profit_factor_step": stats.profit_factor(returns),
        **dict(zip(("hit_rate_long", "hit_rate_short"), stats.hit_rates(held[:-1], moves[1:]), strict=True)),
        **_exposures(held, capital),
        **_margin(data.steps),
        "capacity_half": math.nan if larger is None else larger.half,
        "capacity_none": math.nan if larger is None else larger.none,
        "betas_assumed": int(np.count_nonzero(~np.isfinite(beta))),
        "var_95_breaches": int((days["returns"] < -days["var_95"]).sum()),
        "var_95_days": int(days["var_95"].notna().sum()),
    }
    scenarios = stress_table(held, capital, _filled(moves, data), beta, market, closing, step)
    return Risk(numbers, scenarios, days, window, larger)


def _days(equity: pd.Series[float]) -> pd.DataFrame:
    times = pd.DatetimeIndex(equity.index).to_numpy().astype("datetime64[ms]").astype(np.int64)
    returns, opens = stats.daily_returns(equity, times)
    return pd.DataFrame({"returns": returns}, index=pd.to_datetime(opens, unit="ms").rename("day"))


def _held(data: ReportData) -> tuple[Floats, Floats]:
    """Signed notional and marks at the step closes, (T, N), NaN where an instrument was not held."""
    positions, opens = data.positions, pd.Index(data.steps.index).sort_values()
    row = opens.get_indexer(pd.Index(positions["datetime"]))
    column, names = pd.factorize(positions["instrument"], sort=True)
    marks, notional = (np.full((len(opens), len(names)), np.nan) for _ in range(2))
    inside = row >= 0
    mark = positions["mark"].to_numpy(np.float64)
    marks[row[inside], column[inside]] = mark[inside]
    notional[row[inside], column[inside]] = (positions["quantity"].to_numpy(np.float64) * mark)[inside]
    return notional, marks


def _moves(mark: Floats) -> Floats:
    """The price moves of the steps, (T, N), of what was held at both ends; NaN in the first step."""
    out = np.full(mark.shape, np.nan)
    before, after = mark[:-1], mark[1:]
    valid = np.isfinite(before) & np.isfinite(after) & (before > 0)
    out[1:] = np.where(valid, after / np.where(valid, before, 1.0) - 1.0, np.nan)
    return out


def _filled(moves: Floats, data: ReportData) -> Floats:
    """Moves with that of the equally weighted market where an instrument was not held."""
    equal = data.steps.sort_index()["bench_equal"].to_numpy(np.float64)[:, None]
    return np.where(np.isfinite(moves), moves, equal)


def _tails(steps: Floats, days: Floats) -> dict[str, Any]:
    numbers: dict[str, Any] = {"days": len(days)}
    for suffix, returns in (("", days), ("_step", steps)):
        for level in (95, 99):
            numbers[f"var_{level}{suffix}"] = stats.value_at_risk(returns, level / 100)
            numbers[f"es_{level}{suffix}"] = stats.expected_shortfall(returns, level / 100)
        numbers[f"skew{suffix}"] = stats.skewness(returns)
        numbers[f"kurtosis{suffix}"] = stats.excess_kurtosis(returns)
    return numbers


def _trades(data: ReportData) -> dict[str, Any]:
    trades = account_trades(data.fills, data.funding)
    return {
        "closed_trades": len(trades.profit),
        "win_rate": stats.win_rate(trades.profit),
        "win_rate_long": stats.win_rate(trades.of(1).profit),
        "win_rate_short": stats.win_rate(trades.of(-1).profit),
        "profit_factor": stats.profit_factor(trades.profit),
        "mean_holding_hours": mean_holding_ms(trades) / _HOUR_MS,
    }


def _margin(steps: pd.DataFrame) -> dict[str, float]:
    """Runs of before margin have no such column."""
    ratio = steps.get("margin_ratio", pd.Series(dtype=np.float64)).dropna()
    mean, largest = (float(ratio.mean()), float(ratio.max())) if len(ratio) else (math.nan, math.nan)
    return {"margin_ratio_mean": mean, "margin_ratio_max": largest}


def _exposures(held: Floats, capital: Floats) -> dict[str, Any]:
    shown = stats.exposures(held, capital)
    columns = {"leverage": shown.leverage, "concentration": shown.concentration, "names": shown.names}
    numbers: dict[str, Any] = {}
    for name, values in columns.items():
        known = values[np.isfinite(values)]
        numbers[f"{name}_mean"] = float(known.mean()) if known.size else math.nan
        numbers[f"{name}_max"] = float(known.max()) if known.size else math.nan
    return numbers
