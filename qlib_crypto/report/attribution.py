"""The sources of what changed the equity, as the page shows them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from qlib_crypto.backtest.attribution import SOURCES

__all__ = ["cumulated", "shown_sources"]

#: Those that many runs have nothing of.
_RARE = {"slippage", "liquidation"}


def shown_sources(amounts: pd.DataFrame) -> list[str]:
    """Those of `SOURCES` that a reader is shown: slippage and liquidation only where there are some."""
    return [name for name in SOURCES if name not in _RARE or bool((amounts[name] != 0).any())]


def cumulated(steps: pd.DataFrame, equity: pd.Series[float]) -> pd.DataFrame:
    """`SOURCES` and `total` at the start and at each close, cumulated from 0, quote coin."""
    changes = steps[list(SOURCES)].to_numpy(np.float64)
    sums = np.vstack((np.zeros(len(SOURCES)), np.cumsum(changes, axis=0)))
    frame = pd.DataFrame(sums, index=equity.index, columns=list(SOURCES))
    frame["total"] = equity - equity.iloc[0]
    return frame
