"""Bars to a feature table, without the rows that have too little history."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qlib.data import D
from qlib.data.dataset.loader import DataLoader

from qlib_crypto.errors import DataError
from qlib_crypto.features.cross_section import without_tails, z_scores
from qlib_crypto.features.expressions import Expressions
from qlib_crypto.symbols import Interval

#: Ending of a feature that is compared across instruments.
ACROSS = "_CS"

#: The fewest instruments that a feature is compared across.
MIN_INSTRUMENTS = 3


class PerpLoader(DataLoader):
    """Features and label of a market at one stored frequency, one row an instrument and bar.

    Qlib's rolling operators give a value from the first bar on, so a row right after a listing or a gap looks like
    any other. Here a row exists only where its own bar does and where enough of the bars before it do.

    Parameters
    ----------
    features, label
        Expressions and names.
    interval
        Bar length.
    warmup_bars
        A row needs an instrument that began this many bars ago, its own included.
    min_coverage
        Share of those bars that must exist, in (0, 1]; 1 refuses every row within `warmup_bars` of a missing bar.
    cross_section
        Features that are also compared across instruments: `ROC5` becomes `ROC5` and, as a z-score without tails,
        `ROC5_CS`.
    filter_pipe
        Qlib's dynamic instrument filters.

    """

    def __init__(
        self,
        *,
        features: Expressions,
        label: Expressions,
        interval: Interval,
        warmup_bars: int,
        min_coverage: float,
        cross_section: tuple[str, ...] = (),
        filter_pipe: list[Any] | None = None,
    ) -> None:
        self.features = features
        self.label = label
        self.interval = interval
        self.warmup_bars = warmup_bars
        self.min_coverage = min_coverage
        self.cross_section = cross_section
        self.filter_pipe = filter_pipe

    @property
    def names(self) -> list[str]:
        """The features in column order."""
        return [*self.features.names, *(name + ACROSS for name in self.cross_section)]

    def load(self, instruments: Any = None, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        """The table, index (datetime, instrument) ascending, columns (`feature` | `label`, name), float32.

        Both ends belong to the range. NaN is unknown: a feature whose window holds an unknown value it cannot do
        without, a label whose later opens are missing.

        Raises
        ------
        DataError
            When no row has enough history.

        """
        market = D.instruments(instruments, filter_pipe=self.filter_pipe) if isinstance(instruments, str) else None
        n = self.warmup_bars
        # a comparison is never NaN: the last one counts slots since the instrument's first bar, missing ones too
        guards = ["$close", f"Count($close, {n})", f"Count($close>0, {n})"]
        fields = [*self.features.fields, *self.label.fields]
        bars = D.features(market or instruments, [*fields, *guards], start_time, end_time, freq=self.interval.qlib)
        close, held, slots = (np.asarray(bars.iloc[:, len(fields) + i]) for i in range(len(guards)))
        keep = np.flatnonzero(np.isfinite(close) & (slots >= n) & (held >= np.ceil(self.min_coverage * n)))
        if not keep.size:
            raise DataError(
                f"market {instruments!r} has no bar at {self.interval.qlib} from {start_time} to {end_time} with "
                f"{n} bars of history; choose a later start or convert more data"
            )
        return self._table(bars, keep)

    def _table(self, bars: pd.DataFrame, keep: NDArray[np.intp]) -> pd.DataFrame:
        index = cast("pd.MultiIndex", bars.index)
        names, times = (np.asarray(level)[codes[keep]] for level, codes in zip(index.levels, index.codes, strict=True))
        order = np.lexsort((np.unique(names, return_inverse=True)[1], times))
        keep, names, times = keep[order], names[order], times[order]
        columns = [*(("feature", name) for name in self.names), *(("label", name) for name in self.label.names)]
        # one column after the other in memory, as pandas keeps a frame: nothing is copied twice
        table = np.empty((len(keep), len(columns)), dtype=np.float32, order="F")
        wide = bars.to_numpy()
        k = len(self.features.names)
        for place in range(k):
            table[:, place] = wide[keep, place]
        for place in range(len(self.label.names)):
            table[:, len(self.names) + place] = wide[keep, k + place]
        self._derive(table, times)
        rows = pd.MultiIndex.from_arrays([times, names], names=["datetime", "instrument"])
        return pd.DataFrame(table, rows, pd.MultiIndex.from_tuples(columns), copy=False)

    def _derive(self, table: NDArray[np.float32], times: NDArray[np.datetime64]) -> None:
        moments, at = np.unique(times, return_inverse=True)
        for place, name in enumerate(self.cross_section, start=len(self.features.names)):
            values = without_tails(table[:, self.features.names.index(name)], at)
            table[:, place] = z_scores(values, at, moments.size, MIN_INSTRUMENTS)[0]
