"""What a backtest leaves behind: one row a step, fill, funding payment and held position, as frames."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from qlib_crypto.backtest.account import Attribution, Fill, FundingPayment, PerpAccount

STEP_COLUMNS = ("equity", "cash", "gross", "net", "turnover", "price", "funding", "fee", "slippage")
FILL_COLUMNS = ("datetime", "instrument", "quantity", "price", "reference", "fee", "note")
FUNDING_COLUMNS = ("time", "instrument", "quantity", "mark", "rate", "amount", "mark_source")
POSITION_COLUMNS = ("datetime", "instrument", "quantity", "mark")


@dataclass
class Ledger:
    """The rows of one backtest in the order they happened; quote coin, base coins, naive UTC times as in Qlib.

    `counts` tells how often something had to be decided that a reader should know of.
    """

    start_equity: float = 0.0
    _steps: list[tuple[object, ...]] = field(default_factory=list)
    _fills: list[tuple[object, ...]] = field(default_factory=list)
    _payments: list[FundingPayment] = field(default_factory=list)
    _positions: list[tuple[object, ...]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _turnover: float = 0.0
    _before: Attribution = field(default_factory=lambda: Attribution(0.0, 0.0, 0.0, 0.0))

    def fill(self, step: pd.Timestamp, fill: Fill, note: str) -> None:
        """One executed order of the step; `note` says why it is not what the strategy asked for."""
        self._fills.append((step, fill.instrument, fill.quantity, fill.price, fill.reference, fill.fee, note))
        self._turnover += abs(fill.quantity) * fill.price

    def pay(self, payment: FundingPayment) -> None:
        """One funding payment of the step."""
        self._payments.append(payment)

    def close_step(self, step: pd.Timestamp, account: PerpAccount) -> None:
        """The account at the step's close; everything logged since the last one belongs to this step."""
        now, before = account.attribution, self._before
        change = [after - earlier for after, earlier in zip(now, before, strict=True)]
        self._steps.append((step, account.equity, account.cash, account.gross, account.net, self._turnover, *change))
        self._positions.extend((step, name, held.quantity, held.mark) for name, held in account.holdings.items())
        self._before, self._turnover = now, 0.0

    def steps(self) -> pd.DataFrame:
        """Equity and exposure at each step's close with the step's own changes; index `datetime`, float64."""
        frame = pd.DataFrame(self._steps, columns=("datetime", *STEP_COLUMNS)).set_index("datetime")
        return frame.astype(np.float64)

    def fills(self) -> pd.DataFrame:
        """One row a fill: signed base quantity, price, the market's price then (`reference`), fee (> 0 paid by us)."""
        return _frame(self._fills, FILL_COLUMNS)

    def funding(self) -> pd.DataFrame:
        """One row a funding payment; `amount` < 0 is paid by us."""
        frame = _frame(self._payments, ("time_ms", *FUNDING_COLUMNS[1:]))
        frame.insert(0, "time", pd.to_datetime(frame.pop("time_ms").astype(np.int64), unit="ms"))
        return frame

    def positions(self) -> pd.DataFrame:
        """One row a held instrument at each step's close."""
        return _frame(self._positions, POSITION_COLUMNS)


def _frame(rows: list[tuple[object, ...]] | list[FundingPayment], columns: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=columns)
    text = {"instrument", "note", "mark_source"}
    kinds = {name: np.float64 for name in columns if name not in text and name not in ("datetime", "time_ms")}
    if "datetime" in columns and frame.empty:
        frame["datetime"] = pd.to_datetime(frame["datetime"])
    return frame.astype(dict.fromkeys(text & set(columns), object)).astype(kinds)
