"""What changed the equity, by source and by instrument."""

from __future__ import annotations

import numpy as np
import pandas as pd

from qlib_crypto.backtest.notes import LIQUIDATED, WORDS

__all__ = ["SOURCES", "instrument_attribution"]

#: What changes equity, as columns and in words.
SOURCES = {"price": "Price", "funding": "Funding", "fee": "Fees", "slippage": "Slippage", "liquidation": "Liquidation"}


def instrument_attribution(
    fills: pd.DataFrame, funding: pd.DataFrame, positions: pd.DataFrame, last_step: pd.Timestamp
) -> pd.DataFrame:
    """What each instrument earned, quote coin, best first: `SOURCES`, `total`, with `trades` and `traded`.

    `price` is the value of what is held at the close of `last_step` less what all fills would have cost at the
    market's price; `slippage` ≤ 0 is what they cost more; `fee` ≤ 0 is what was paid; `liquidation` what the venue kept
    of what it took over, which is the fee of such a fill; `traded` is the sum of |quantity x price|. An account that
    began flat has the same sums by source.
    """
    cost = fills["quantity"] * fills["reference"]
    paid = fills["quantity"] * fills["price"]
    by_fill, taken = fills["instrument"], fills["note"] == WORDS[LIQUIDATED]
    held = positions.loc[positions["datetime"] == last_step]
    parts = {
        "price": (held["quantity"] * held["mark"], held["instrument"]),
        "cost": (cost, by_fill),
        "funding": (funding["amount"], funding["instrument"]),
        "fee": (-fills["fee"].mask(taken, 0.0), by_fill),
        "slippage": (cost - paid, by_fill),
        "liquidation": (-fills["fee"].where(taken, 0.0), by_fill),
        "trades": (fills["quantity"].notna().astype(np.float64), by_fill),
        "traded": (paid.abs(), by_fill),
    }
    sums = {name: values.groupby(names).sum() for name, (values, names) in parts.items()}
    table = pd.DataFrame(sums).astype(np.float64).fillna(0.0)  # the sum over no fills or no settlements is 0
    table["price"] -= table.pop("cost")
    table.insert(len(SOURCES), "total", table[list(SOURCES)].sum(axis=1))
    table["trades"] = table["trades"].astype(np.int64)
    table.index.name = "instrument"
    return table.sort_values(["total", "traded"], ascending=False)
