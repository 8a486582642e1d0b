"""Bars and funding of a backtest as time x instrument arrays, read once from the provider.

Qlib stores float32. A price whose tick is known is put back on its tick where that is the same float32, which
restores the venue's exact decimal; other prices, and all funding amounts, carry up to 6e-8 of relative error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qlib.backtest.high_performance_ds import BaseQuote
from qlib.utils.index_data import SingleData

from qlib_crypto.backtest.orders import OrderRules

Floats = NDArray[np.float64]

PRICES = ("$open", "$close")
FUNDING = ("$funding_open", "$funding_open_cash", "$funding", "$funding_cash")
FIELDS = (*PRICES, "$volume", *FUNDING)


class Quotes(BaseQuote):
    """Quote arrays of shape (bars, instruments), float64, NaN where missing; `times` and `names` are their axes.

    Parameters
    ----------
    quote_df
        Rows by (instrument, datetime), columns `FIELDS`.
    freq
        Qlib's spelling of the bar length; Qlib passes it, nothing here needs it.
    rules
        Order rules by instrument, for the ticks.

    """

    def __init__(self, quote_df: pd.DataFrame, freq: str, rules: Mapping[str, OrderRules] | None = None) -> None:
        super().__init__(quote_df, freq)
        names = quote_df.index.get_level_values("instrument").unique().sort_values()
        times = quote_df.index.get_level_values("datetime").unique().sort_values()
        row = times.get_indexer(quote_df.index.get_level_values("datetime"))
        column = names.get_indexer(quote_df.index.get_level_values("instrument"))
        self.names: list[str] = list(names)
        self.times = pd.DatetimeIndex(times)
        self.column = {name: i for i, name in enumerate(self.names)}
        self._row = {time: i for i, time in enumerate(self.times)}
        self.data: dict[str, Floats] = {}
        for field in FIELDS:
            values = np.full((len(times), len(names)), np.nan)
            values[row, column] = quote_df[field].to_numpy(dtype=np.float64)
            self.data[field] = values
        self._clean(rules or {})

    def _clean(self, rules: Mapping[str, OrderRules]) -> None:
        ticks = np.array([rules[name].tick_size if name in rules else 0.0 for name in self.names])
        for field in PRICES:
            self.data[field] = on_tick(self.data[field], ticks)
        bar = np.isfinite(self.data["$open"]) & np.isfinite(self.data["$close"])
        self.has_bar = bar & (self.data["$open"] > 0) & (self.data["$close"] > 0)
        for field in PRICES:
            self.data[field][~self.has_bar] = np.nan
        self._last = [self.times[np.flatnonzero(bars)[-1]] if bars.any() else None for bars in self.has_bar.T]

    def row(self, time: pd.Timestamp) -> int | None:
        """The row of the bar that opens at `time`, None when nothing was loaded for it."""
        return self._row.get(time)

    def at(self, field: str, name: str, row: int | None) -> float:
        """One value, NaN where bar, instrument or value is missing."""
        column = self.column.get(name)
        return float("nan") if row is None or column is None else float(self.data[field][row, column])

    def is_over(self, name: str, time: pd.Timestamp) -> bool:
        """True when the instrument has no bar at `time` or later."""
        column = self.column.get(name)
        last = None if column is None else self._last[column]
        return last is None or last < time

    def get_all_stock(self) -> Iterable[str]:
        return self.column.keys()

    def get_data(
        self, stock_id: str, start_time: Any, end_time: Any, field: str, method: str | None = None
    ) -> float | SingleData | None:
        """The value over [start_time, end_time] as Qlib's other quote classes give it; None without any row."""
        column = self.column.get(stock_id)
        first = self._row.get(start_time)
        if first is None:
            first = int(self.times.searchsorted(pd.Timestamp(start_time)))
        stop = int(self.times.searchsorted(pd.Timestamp(end_time), side="right"))
        if column is None or first >= stop:
            return None
        values = self.data[field][first:stop, column]
        if method is None:
            return SingleData(pd.Series(values, index=self.times[first:stop]))
        return _aggregate(values, method)


def _aggregate(values: Floats, method: str) -> float | None:
    valid = values[np.isfinite(values)]
    if method in ("ts_data_last", "last"):
        return float(valid[-1]) if valid.size else None
    if method == "sum":
        return float(valid.sum())
    if method == "mean":
        return float(valid.mean()) if valid.size else None
    raise NotImplementedError(f"quotes have no aggregation {method!r}; use ts_data_last, last, sum or mean")


def on_tick(prices: Floats, ticks: Floats) -> Floats:
    """The float32 prices, each moved to its nearest multiple of its tick where that is the same float32.

    Shapes (bars, instruments) and (instruments,); tick 0 leaves a column alone. A price that is on no multiple, as
    of before a change of tick size, is therefore never moved.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        snapped = np.round(prices / ticks) * ticks
    same = np.isfinite(snapped) & (snapped.astype(np.float32) == prices.astype(np.float32))
    return np.where(same, snapped, prices)
