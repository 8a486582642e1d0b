"""Loaded bars as Qlib asks for quotes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from qlib.backtest.high_performance_ds import BaseQuote
from qlib.utils.index_data import SingleData

from qlib_crypto.backtest.account import Floats
from qlib_crypto.backtest.load import Loaded
from qlib_crypto.backtest.market import CLOSE, HIGH, LOW, OPEN, VOLUME
from qlib_crypto.clock import parse_utc

FIELDS = {"$open": OPEN, "$high": HIGH, "$low": LOW, "$close": CLOSE, "$volume": VOLUME}


def unix_ms(time: pd.Timestamp) -> int:
    """Unix milliseconds of a time of Qlib's, which is UTC."""
    return int(time.value // 1_000_000)


def naive_utc(time: Any) -> pd.Timestamp:
    """A time as `parse_utc` takes it, as Qlib wants it: UTC without a zone."""
    return pd.Timestamp(parse_utc(time), unit="ms").as_unit("ns")


class Quotes(BaseQuote):
    """`Loaded` behind Qlib's interface of quotes; `quote_df` and `freq` are what Qlib passes."""

    def __init__(self, quote_df: pd.DataFrame, freq: str, *, loaded: Loaded) -> None:
        super().__init__(quote_df, freq)
        self.loaded = loaded
        self.times = pd.DatetimeIndex(loaded.opens_ms.astype("datetime64[ms]").astype("datetime64[ns]"))

    def row(self, time: pd.Timestamp) -> int | None:
        """The row of the bar that opens at `time`, None when nothing was loaded for it."""
        return self.loaded.row(unix_ms(time))

    def bar_of(self, time: pd.Timestamp) -> int:
        """The row of the bar that `time` lies in; the first or last one outside of what was loaded."""
        opens = self.loaded.opens_ms
        return min(max((unix_ms(pd.Timestamp(time)) - int(opens[0])) // self.loaded.interval.ms, 0), len(opens) - 1)

    def at(self, field: int, name: str, time: pd.Timestamp) -> float:
        """One value of the bar that opens at `time`, NaN where bar, instrument or value is missing."""
        row, column = self.row(time), self.loaded.column.get(name)
        return float("nan") if row is None or column is None else float(self.loaded.market.prices[field, row, column])

    def get_all_stock(self) -> Iterable[str]:
        return self.loaded.names

    def get_data(
        self, stock_id: str, start_time: Any, end_time: Any, field: str, method: str | None = None
    ) -> float | SingleData | None:
        """The value over [start_time, end_time] as Qlib's other quote classes give it; None without any row."""
        column, opens, step = self.loaded.column.get(stock_id), self.loaded.opens_ms, self.loaded.interval.ms
        first = max(-((int(opens[0]) - unix_ms(pd.Timestamp(start_time))) // step), 0)
        stop = min((unix_ms(pd.Timestamp(end_time)) - int(opens[0])) // step + 1, len(opens))
        if column is None or first >= stop:
            return None
        values = self.loaded.market.prices[FIELDS[field], first:stop, column]
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
