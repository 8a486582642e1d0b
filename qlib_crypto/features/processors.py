"""Processors for Qlib's handler chain, vectorised: none loops over timestamps, none writes into its input."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from qlib.data.dataset.processor import Processor, get_group_columns
from qlib.data.dataset.utils import fetch_df_by_index

from qlib_crypto.errors import ConfigError, DataError, counted
from qlib_crypto.features.cross_section import z_scores

log = logging.getLogger(__name__)


class _ReadOnly(Processor):
    def readonly(self) -> bool:
        """True: the handler need not copy the table before the call."""
        return True


class ReplaceInf(_ReadOnly):
    """Infinite values become NaN, unknown. (Qlib's `ProcessInf` puts a mean in their place, in a Python loop.)"""

    def __init__(self, fields_group: str | None = None) -> None:
        self.fields_group = fields_group

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """The table without infinities; the input itself when it has none."""
        wanted = get_group_columns(df, self.fields_group)
        out = df
        for place in _places(df, wanted):
            values = np.asarray(df.iloc[:, place])
            infinite = np.isinf(values)
            if infinite.any():
                out = df.copy(deep=False) if out is df else out
                out.isetitem(place, np.where(infinite, np.array(np.nan, values.dtype), values))
        return out


class DropEmptyFeatures(_ReadOnly):
    """Features without a single finite value in the training segment are dropped, with a message.

    Attributes
    ----------
    dropped
        Their names after `fit`, in column order; kept when the handler is pickled, so that a report can list them.

    """

    def __init__(self, fit_start_time: Any, fit_end_time: Any, fields_group: str = "feature") -> None:
        self.fit_start_time = fit_start_time
        self.fit_end_time = fit_end_time
        self.fields_group = fields_group
        self.dropped: list[str] = []

    def fit(self, df: pd.DataFrame | None = None) -> None:
        """Learn which features are empty between `fit_start_time` and `fit_end_time`, both included.

        Raises
        ------
        DataError
            When the training segment has no row, or no feature with a value.

        """
        train = fetch_df_by_index(df, slice(self.fit_start_time, self.fit_end_time), level="datetime")
        span = f"{self.fit_start_time} to {self.fit_end_time}"
        if train.empty:
            raise DataError(f"the training segment {span} has no row; choose a span that the provider holds")
        columns = get_group_columns(train, self.fields_group)
        self.dropped = [str(c[-1]) for c in columns if not np.isfinite(train[c].to_numpy()).any()]
        if len(self.dropped) == len(columns):
            raise DataError(f"no feature has a value in the training segment {span}; check the provider's data")
        if self.dropped:
            names = " ".join(self.dropped)
            log.warning("dropped %s without a value in %s: %s", counted(len(self.dropped), "feature"), span, names)

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """The table without the dropped features."""
        if not self.dropped:
            return df
        empty = df.columns.isin([(self.fields_group, name) for name in self.dropped])
        return df.loc[:, ~empty]


class CrossSectionalZScore(_ReadOnly):
    """Each column's distance from its mean across instruments, in sample standard deviations, timestamp by timestamp.

    Equal to Qlib's `CSZScoreNorm`, at a thousandth of its cost, but for three cases that become NaN here: timestamps
    with fewer than `min_instruments` finite values, timestamps where all values are equal, infinities.

    Parameters
    ----------
    fields_group
        Column group, None for every column.
    min_instruments
        The fewest finite values that make a cross-section; 2 is the least a standard deviation needs.

    """

    def __init__(self, fields_group: str | None = "label", min_instruments: int = 3) -> None:
        if min_instruments < 2:  # noqa: PLR2004 - what a sample standard deviation needs
            raise ConfigError(f"min_instruments {min_instruments}: a cross-section needs at least 2")
        self.fields_group = fields_group
        self.min_instruments = min_instruments

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        """The table with the group's columns standardised; a timestamp refused by the rule is NaN in them."""
        times, at = np.unique(df.index.get_level_values("datetime").to_numpy(), return_inverse=True)
        wanted = get_group_columns(df, self.fields_group)
        out = df.copy(deep=False)
        for place in _places(df, wanted):
            values = np.asarray(df.iloc[:, place])
            scores, thin = z_scores(values, at, times.size, self.min_instruments)
            out.isetitem(place, scores.astype(values.dtype, copy=False))
            if thin:
                log.info(
                    "group %s: %d of %d timestamps have fewer than %d instruments and are left out",
                    wanted[0][0], thin, times.size, self.min_instruments,
                )  # fmt: skip
        return out

    def is_for_infer(self) -> bool:
        """True: it looks at one timestamp only."""
        return True


def _places(df: pd.DataFrame, columns: pd.Index) -> list[int]:
    return [int(place) for place in np.flatnonzero(df.columns.isin(columns))]
