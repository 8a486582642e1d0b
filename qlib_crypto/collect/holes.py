"""Why rows are missing: the venue was asked twice, and was down or saw nothing happen; or it serves them no more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.collect.spans import Span, minus
from qlib_crypto.lake import missing_ranges

VENUE_DOWN, NO_TRADE = "venue_down", "no_trade"
#: Not collected while the contract traded, and now the venue serves nothing of it; bulk files may still.
DELISTED = "delisted"


def typed(spans: list[Span], alive: NDArray[np.int64], step_ms: int) -> list[tuple[int, int, str]]:
    """The spans cut into parts `(start, end, cause)`, ascending, each as long as its cause holds.

    Parameters
    ----------
    spans
        What one instrument lacks, disjoint, on the grid.
    alive
        Times of rows of any other instrument of the same dataset and venue: there the venue was up.
    step_ms
        The grid.

    """
    down = [part for span in spans for part in missing_ranges(alive, *span, step_ms)]
    parts = [(*part, VENUE_DOWN) for part in down] + [(*part, NO_TRADE) for part in minus(spans, down)]
    return sorted(parts)
