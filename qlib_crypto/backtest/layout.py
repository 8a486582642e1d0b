"""What is where in the arrays that the compiled functions of a backtest hand on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]

#: What to do where funding is unknown.
ERROR, UNTRADABLE, ZERO = range(3)
#: Places in the terms that an account and its venue agreed on, shape (15,):
#:
#: - whether orders at the open pay the taker's fee (1) or the maker's (0);
#: - fraction of the price by which they fill worse, where `Market.slips` says nothing;
#: - fraction of a bar's volume that they may be, inf for no cap;
#: - gross notional over equity that no order may take the account beyond, inf for no cap;
#: - notional over initial margin, at most that of the tier; 0 asks for no margin and never liquidates;
#: - whether each position has its own margin (1) or all share the account's (0);
#: - share of notional that the venue keeps of what it liquidates, see `liquidation.liquidate_isolated`;
#: - `ERROR`, `UNTRADABLE` or `ZERO`;
#: - whether any of the following risk limits is set (1);
#: - notional over equity of one position, and |longs - shorts| over equity, that no order may go beyond, inf for none;
#: - part of equity that may be lost in a UTC day, and since its highest, inf for none;
#: - bars in which nothing is opened after a stop (of that instrument), and after the drawdown limit (inf for good).
(
    AS_TAKER, SLIP, PARTICIPATION, MAX_GROSS, MAX_LEVERAGE, ISOLATED, PENALTY_RATE, MISSING_FUNDING,
    LIMITED, MAX_POSITION, MAX_NET, DAILY_LOSS, DRAWDOWN, COOL_DOWN, PAUSE,
) = range(15)  # fmt: skip
#: Rows of fees by bar, shape (2, bars).
TAKER, MAKER = range(2)

#: Columns of the fills, shape (most, 10); `after` is what is held then, `order` one of `notes.KINDS`. The fee of a
#: liquidation is what the venue kept.
FILL = ("bar", "column", "quantity", "price", "reference", "fee", "realised", "note", "after", "order")
FEE_OF_FILL = FILL.index("fee")
#: Columns of the payments, shape (most, 6): `settlement` is a row of `Market.settled`; `guessed` 1 where the price was
#: a position's last known one.
PAYMENT = ("settlement", "bar", "quantity", "price", "amount", "guessed")
#: Places in the ends, shape (7,): rows of fills and payments so far, settlements looked at, positions; whether anything
#: rests (see `resting`); the column and the note of an order that was reached.
FILLS, PAYMENTS, SETTLED, HELD, RESTS, REACHED, REACHED_NOTE = range(7)
ENDS = REACHED_NOTE + 1
#: Rows of a desk, shape (14, n), room to work in: what was traded of the bar's volume; extremes of marks; 1 where
#: orders are void; orders that come after the others; 1 where unknown funding was counted; what was held before the
#: orders, and what is now; the prices at which a reached order finds the market; lows and highs that stops leave; where
#: a position was opened within the bar; 1 where an entry waits for the position to be closed; the mark before an entry
#: moved it. The last one stays from bar to bar: the first bar in which it may be opened again.
USED, EXTREME, VOID, LATER, TOLD, BEFORE, NOW, AT, LOWS, HIGHS, BEGUN, WAITS, MARKED, OPENS_AGAIN = range(14)
DESK_ROWS = OPENS_AGAIN + 1
#: Places in the sums of a desk, shape (11,): money and gross notional at the bar's opens; equity and gross notional at
#: the last marks; then what risk limits remember: the highest equity, that at the start of the UTC day, the day's
#: number; the day and the first bar in which anything may be opened again; the note of what closes everything, or 0,
#: below 0 in the bar that has closed it; then the margin ratio, see `margin_calls.margin_ratio`.
MONEY, DESK_GROSS, EQUITY, GROSS, HIGHEST, DAY_EQUITY, DAY, HALTED_DAY, GOES_ON, CLOSING, RATIO = range(11)
SUMS = RATIO + 1
