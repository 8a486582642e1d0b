"""The stress scenarios of a report: which there are, what they assume, and what each does to a book."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qlib_crypto.stats import stress

__all__ = ["CAP", "LARGE_MOVES", "SETTLEMENTS", "SIZES", "stress_table"]

Floats = NDArray[np.float64]
#: Moves of prices, fractions.
SIZES = (0.1, 0.2, 0.3)
SHIFTS = (*(-size for size in SIZES), *SIZES)
#: Binance's cap for contracts with a maximum leverage of 25 or less, per settlement; the larger ones have lower caps:
#: https://www.binance.com/en/support/announcement/98d6b24d3e5c4f84a8ed04087997d8d0
CAP = 0.03
#: A day of settlements every 8 hours; venues shorten the interval when the cap is reached, which is not assumed.
SETTLEMENTS = 3
#: Of the real moves, so many of the largest are replayed.
LARGE_MOVES = 250
_DAY = pd.Timedelta(days=1)
_COLUMNS = ["name", "kind", "move", "last", "worst", "at", "move_last", "move_worst"]


class _Row(NamedTuple):
    name: str
    kind: str
    size: float
    change: Floats
    moves: NDArray[np.int64] | None = None


def stress_table(
    held: Floats,
    equity: Floats,
    moves: Floats,
    beta: Floats,
    market: Floats,
    closes: pd.DatetimeIndex,
    step: pd.Timedelta | None,
) -> pd.DataFrame:
    """One row a scenario: `name`, the change of equity at the `last` step, the `worst` and the close `at` which it was.

    `kind` is `all`, `against`, `btc`, `funding`, `step` or `day`; `move` the fraction of the first three, NaN without
    one. Replayed moves (`step`, `day`) have the time at which the real move began: `move_last`, `move_worst`.

    Parameters
    ----------
    held, equity
        Signed notional (T, N) and equity (T,) at the step closes, quote coin.
    moves
        The real price moves of the steps, (T, N), fractions.
    beta, market
        Slopes on BTC, (N,), one for a missing one; and BTC's returns, (T,): without any there are no such scenarios.
    closes, step
        Times of the closes, and a step's length.

    """
    if held.size == 0:
        return pd.DataFrame(columns=_COLUMNS)
    rows = [*_made_up(held, equity, np.where(np.isfinite(beta), beta, 1.0), bool(np.isfinite(market).any()))]
    opens = closes - (step if step is not None else pd.Timedelta(0))
    rows += _real(held, equity, moves, step)
    found = [(row, stress.stressed(row.change)) for row in rows]
    table = pd.DataFrame(
        [
            (
                row.name,
                row.kind,
                row.size,
                result.last,
                result.worst,
                closes[result.at] if result.at is not None else pd.NaT,
                _began(row, opens, len(row.change) - 1),
                _began(row, opens, result.at),
            )
            for row, result in found
        ],
        columns=_COLUMNS,
    )
    return table.astype({"move": np.float64, "last": np.float64, "worst": np.float64})


def _made_up(held: Floats, equity: Floats, beta: Floats, has_market: bool) -> Iterator[_Row]:
    for move in SHIFTS:
        yield _Row(f"All prices {move:+.0%}", "all", move, stress.parallel_move(held, equity, move))
    for move in SIZES:
        name = f"Longs {-move:+.0%} while shorts {move:+.0%}"
        yield _Row(name, "against", -move, stress.all_against(held, equity, move))
    for move in SHIFTS if has_market else ():
        name = f"BTC {move:+.0%}, each instrument by its beta"
        yield _Row(name, "btc", move, stress.market_move(held, equity, move, beta))
    due = stress.funding_against(held, equity, CAP, SETTLEMENTS)
    yield _Row(f"A day of funding against every position, {SETTLEMENTS} times {CAP:.0%}", "funding", np.nan, due)


def _real(held: Floats, equity: Floats, moves: Floats, step: pd.Timedelta | None) -> Iterator[_Row]:
    a_day = round(_DAY / step) if step is not None and step < _DAY and _DAY % step == pd.Timedelta(0) else 0
    for kind, length in (("step", 1), ("day", a_day)):
        past = stress.moves_over(moves, length) if length else moves[:0]
        large = stress.large_moves(past, LARGE_MOVES)
        if large.size:
            replay = stress.replayed(held, equity, past[large])
            began = np.where(replay.move >= 0, large[replay.move], -1)
            yield _Row(f"Worst of the largest real moves of a {kind}", kind, np.nan, replay.change, began)


def _began(row: _Row, opens: pd.DatetimeIndex, at: int | None) -> Any:
    return pd.NaT if row.moves is None or at is None or row.moves[at] < 0 else opens[row.moves[at]]
