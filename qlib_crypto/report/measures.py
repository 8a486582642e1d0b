"""Everything a report shows, computed: frames and numbers in, frames and numbers out; nothing is drawn here.

Times are naive UTC. A step is named by its open; curves are given at step closes with the starting equity first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from qlib_crypto.backtest.attribution import SOURCES, instrument_attribution
from qlib_crypto.errors import QlibCryptoError
from qlib_crypto.report.attribution import cumulated
from qlib_crypto.report.data import ReportData
from qlib_crypto.report.risk import Risk, risk
from qlib_crypto.stats import ic
from qlib_crypto.stats.returns import drawdown_series, steps_in_year
from qlib_crypto.stats.turnover import step_turnover
from qlib_crypto.symbols import Instrument, Interval

__all__ = ["Measures", "measure", "monthly_returns", "quote_coin", "step_length"]

#: Annualised figures of a shorter test say little.
SHORT_DAYS = 90
_DAY = pd.Timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Measures:
    """The computed content of a report.

    Attributes
    ----------
    step
        Length of a step, None when one step alone does not tell.
    steps_per_year
        365 days of 24 hours over the step; NaN without a step length.
    equity
        Quote coin at the start and at each close, shape (n + 1,), index of times.
    curve
        At the same times: `strategy btc equal` as growth (1.0 at the start), `drawdown` (≤ 0). A benchmark without
        a value in a step is NaN there and goes on from where it was.
    exposure
        `gross net` at each close as multiples of equity.
    attribution
        `attribution.SOURCES` and `total` cumulated from 0, quote coin, same times as `equity`.
    turnover
        Traded notional over starting equity, one a step, index of step opens.
    periods
        `returns turnover` (sum) a day, week or month (`period`), so that a chart has some hundred bars at most.
    period
        `day`, `week` or `month`.
    months
        Returns, one row a year, one column a month (1 to 12) and `year`; NaN outside the span.
    instruments
        See `backtest.attribution.instrument_attribution`.
    ic
        `ic rank_ic` of each timestamp with predictions, NaN where undefined; `…_rolling` their mean over the last
        `ic_window` timestamps (NaN while fewer than half of them have one), `…_cumulated` their running sum.
    ic_window
        Timestamps in a rolling mean.
    constant
        Share of timestamps whose predictions are all the same; NaN without predictions.
    unlabelled
        Share of predictions without a label to compare with; NaN without predictions.
    importance
        Each feature's share of the total gain, largest first; None when the model has none.
    settlement_marks
        Settlements by where their price came from.
    risk
        See `qlib_crypto.report.risk`.

    """

    step: pd.Timedelta | None
    steps_per_year: float
    equity: pd.Series[float]
    curve: pd.DataFrame
    exposure: pd.DataFrame
    attribution: pd.DataFrame
    turnover: pd.Series[float]
    periods: pd.DataFrame
    period: str
    months: pd.DataFrame
    instruments: pd.DataFrame
    ic: pd.DataFrame
    ic_window: int
    constant: float
    unlabelled: float
    importance: pd.Series[float] | None
    settlement_marks: pd.Series[int]
    risk: Risk

    @property
    def short(self) -> bool:
        """True when the test is too short for annualised figures to say much."""
        return bool(self.equity.index[-1] - self.equity.index[0] < SHORT_DAYS * _DAY)


def measure(data: ReportData) -> Measures:
    """The computed content of `data`."""
    steps = data.steps.sort_index()
    step = step_length(data)
    equity = _equity(steps, step)
    turnover = pd.Series(step_turnover(steps["turnover"], equity), index=steps.index, name="turnover")
    period = _period(equity.index)
    prediction, label = _tables(data.prediction, data.label)
    window = _window(prediction.index)
    closing = equity.iloc[1:].where(equity.iloc[1:] > 0)
    named = np.isfinite(prediction.to_numpy(np.float64))
    a_year = steps_in_year(int(step / pd.Timedelta(milliseconds=1))) if step is not None else np.nan
    return Measures(
        step=step,
        steps_per_year=a_year,
        equity=equity,
        curve=_curve(steps, equity),
        exposure=pd.DataFrame({side: steps[side].to_numpy() / closing for side in ("gross", "net")}),
        attribution=cumulated(steps, equity),
        turnover=turnover,
        periods=_periods(equity, turnover, period),
        period=period,
        months=monthly_returns(equity),
        instruments=instrument_attribution(data.fills, data.funding, data.positions, steps.index[-1]),
        ic=_correlations(prediction, label, window),
        ic_window=window,
        constant=_share((prediction.max(axis=1) == prediction.min(axis=1)).to_numpy() & (named.sum(axis=1) > 1)),
        unlabelled=_share(np.isnan(label.to_numpy(np.float64))[named]),
        importance=_importance(data.feature_importance),
        settlement_marks=data.funding["mark_source"].fillna("unknown").value_counts(),
        risk=risk(data, equity, step, a_year),
    )


def step_length(data: ReportData) -> pd.Timedelta | None:
    """The commonest distance of two step opens; of a single step the assumed `freq`; None when neither tells."""
    distances = data.steps.index.sort_values().to_series().diff().dropna()
    if len(distances):
        return pd.Timedelta(distances.mode().iloc[0])
    try:
        return pd.Timedelta(milliseconds=Interval.parse(str(data.assumptions.get("freq", ""))).ms)
    except QlibCryptoError:
        return None


def quote_coin(data: ReportData) -> str:
    """The one quote coin of all traded instruments; `quote coin` when there are several or none."""
    names = set(data.fills["instrument"]) | set(data.positions["instrument"])
    if not names and data.prediction is not None:
        names = set(data.prediction.index.get_level_values("instrument"))
    try:
        quotes = {Instrument.parse(str(name)).quote for name in names}
    except QlibCryptoError:
        quotes = set()
    return quotes.pop() if len(quotes) == 1 else "quote coin"


def monthly_returns(equity: pd.Series[float]) -> pd.DataFrame:
    """Returns by calendar month, one row a year; columns 1 to 12 and `year`, the return of the year's part in the span.

    A month runs from the last equity at or before its start (the first one from the starting equity) to the last at
    or before its end, 00:00 UTC of the next: a close at 00:00 belongs to the month before. NaN outside the span.
    """
    months, years = (_period_returns(equity, rule) for rule in ("M", "Y"))
    grid = pd.DataFrame(
        np.nan, index=pd.Index(pd.PeriodIndex(years.index).year, name="year"), columns=[*range(1, 13), "year"]
    )
    for period, value in zip(pd.PeriodIndex(months.index), months, strict=True):
        grid.loc[period.year, period.month] = value
    grid["year"] = years.to_numpy()
    return grid


def _equity(steps: pd.DataFrame, step: pd.Timedelta | None) -> pd.Series[float]:
    first = steps.iloc[0]
    start = float(first["equity"]) - float(sum(first[source] for source in SOURCES))
    closes = steps.index + (step if step is not None else pd.Timedelta(0))
    times = closes.insert(0, steps.index[0])
    return pd.Series(np.concatenate(([start], steps["equity"].to_numpy(np.float64))), index=times, name="equity")


def _curve(steps: pd.DataFrame, equity: pd.Series[float]) -> pd.DataFrame:
    start = equity.iloc[0]
    frame = pd.DataFrame({"strategy": equity / start if start > 0 else np.nan}, index=equity.index)
    for name, column in (("btc", "bench_btc"), ("equal", "bench_equal")):
        returns = steps[column].to_numpy(np.float64)
        known = np.isfinite(returns)
        growth = np.cumprod(1.0 + np.where(known, returns, 0.0))
        frame[name] = np.concatenate(([1.0 if known.any() else np.nan], np.where(known, growth, np.nan)))
    frame["drawdown"] = drawdown_series(equity)
    return frame


def _period(times: pd.Index[Any]) -> str:
    days = float((times.to_numpy()[-1] - times.to_numpy()[0]) / _DAY.to_timedelta64())
    return "day" if days <= 100 else "week" if days <= 800 else "month"  # noqa: PLR2004 - some hundred bars at most


def _period_returns(equity: pd.Series[float], rule: str) -> pd.Series[float]:
    """Return of each calendar period; a close at 00:00 belongs to the period that ends there."""
    owner = (pd.DatetimeIndex(equity.index)[1:] - pd.Timedelta(1, "ns")).to_period(rule)
    ends = equity.iloc[1:].groupby(owner).last()
    starts = ends.shift(1)
    starts.iloc[0] = equity.iloc[0]
    return ends / starts.where(starts > 0) - 1.0


def _periods(equity: pd.Series[float], turnover: pd.Series[float], period: str) -> pd.DataFrame:
    rule = {"day": "D", "week": "W-SUN", "month": "M"}[period]
    returns = _period_returns(equity, rule)
    traded = turnover.groupby(pd.DatetimeIndex(turnover.index).to_period(rule)).sum().reindex(returns.index)
    opens = pd.PeriodIndex(returns.index).start_time
    return pd.DataFrame({"returns": returns.to_numpy(), "turnover": traded.to_numpy()}, index=opens)


def _tables(prediction: pd.DataFrame | None, label: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions and their labels as timestamps by instruments; empty without predictions, NaN without labels."""
    if prediction is None or prediction.empty:
        empty = pd.DataFrame(index=pd.DatetimeIndex([], name="datetime"), dtype=np.float64)
        return empty, empty
    wide = _wide(prediction).sort_index()
    target = pd.DataFrame(np.nan, index=wide.index, columns=wide.columns)
    if label is not None and not label.empty:
        target = _wide(label).reindex(index=wide.index, columns=wide.columns)
    return wide, target


def _correlations(prediction: pd.DataFrame, label: pd.DataFrame, window: int) -> pd.DataFrame:
    x, y = prediction.to_numpy(np.float64), label.to_numpy(np.float64)
    frame = pd.DataFrame({"ic": ic.pearson_ic(x, y), "rank_ic": ic.rank_ic(x, y)}, index=prediction.index)
    rolling = frame.rolling(window, min_periods=max(1, window // 2)).mean()
    return frame.join(rolling.add_suffix("_rolling")).join(frame.cumsum().add_suffix("_cumulated"))


def _importance(gain: pd.Series[float] | None) -> pd.Series[float] | None:
    if gain is None or gain.empty:
        return None
    total = float(gain.sum())
    return gain.sort_values(ascending=False, kind="stable") / (total if total > 0 else 1.0)


def _share(condition: ArrayLike) -> float:
    values = np.asarray(condition, dtype=bool)
    return float(values.mean()) if values.size else np.nan


def _wide(frame: pd.DataFrame) -> pd.DataFrame:
    wide: pd.DataFrame = frame.iloc[:, 0].unstack("instrument")  # noqa: PD010 - pivot_table averages duplicates away
    return wide


def _window(times: pd.Index[Any]) -> int:
    """A day, a week or 30 days of timestamps, the longest that the span holds eight times; never fewer than 2."""
    if len(times) < 2:  # noqa: PLR2004 - no distance between fewer
        return 1
    bar_days = float(np.median(np.diff(times.to_numpy())) / _DAY.to_timedelta64())
    fitting = [days for days in (1, 7, 30) if 8 * days <= len(times) * bar_days and days >= 5 * bar_days]
    return max(2, round(fitting[-1] / bar_days)) if fitting else max(2, len(times) // 8)
