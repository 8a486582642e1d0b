"""Everything a reader must know to judge the numbers of a backtest, in words and plain types."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from qlib_crypto.backtest.load import Loaded
from qlib_crypto.backtest.market import OPEN
from qlib_crypto.backtest.qlib_exchange import PerpExchange
from qlib_crypto.backtest.terms import Terms
from qlib_crypto.provider.funding import PRICE_SOURCES

#: Who pays which fee where orders rest.
_MIXED_FEES = "taker; maker for limit entries and targets"


def assumptions_of(
    exchange: PerpExchange, strategy: Any, steps: pd.DataFrame, start_equity: float, notes: Mapping[str, int]
) -> dict[str, Any]:
    """By what they are called in the report, see `report.assumptions`."""
    loaded, told = exchange.loaded, _orders(strategy, exchange)
    has_bar, bars = loaded.has_bar, int(loaded.has_bar.sum())
    sources = Counter(loaded.rule_sources)
    return {
        "account": start_equity,
        "freq": exchange.freq,
        "start": str(steps.index[0]),
        "end": str(steps.index[-1]),
        "market": exchange.market,
        "instruments": len(loaded.names),
        "instruments_with_bars": int(has_bar.any(axis=0).sum()),
        "bars": bars,
        "deal_price": _deal(exchange.terms, told),
        **told,
        "sizing": "weight x equity at the last marks / open",
        **exchange.terms.told(Counter(loaded.tier_sources)),
        **({"fee_paid": _MIXED_FEES} if told.get("orders", "market") != "market" else {}),
        "mark": f"{_marks(loaded)}: open before the orders, close after them; without a bar the last one stays",
        "order_rules": {source: sources[source] for source in sorted(sources)},
        "benchmarks": "BTC held; the market in equal weights, set anew every step; neither pays fees or funding",
        "funding_coverage": float((loaded.funding_known & has_bar).sum() / bars) if bars else math.nan,
        "funding_price": _settlement_prices(loaded),
        "delisting": "settled at the last mark with the taker fee once neither prices nor funding go on in the data",
        "precision": "account and settlements in float64; prices on their tick where it is known, else Qlib's float32",
        "notes": {note: int(count) for note, count in sorted(notes.items()) if count},
    }


def _deal(terms: Terms, told: Mapping[str, Any]) -> str:
    what = (
        "what the bar's volume bears of each admitted order" if terms.participation else "every admitted order, whole"
    )
    resting = "; orders that rest as under Orders" if told else ""
    return f"open of the bar after the signal's; {what}{resting}"


def _orders(strategy: Any, exchange: PerpExchange) -> dict[str, str]:
    """How positions are entered and protected, and what bars say of it."""
    told = dict(getattr(strategy, "told", {}))
    each = exchange.loaded.market.inner.shape[1] // len(exchange.loaded.opens_ms)
    if told or each:
        whole = walked_whole(exchange.loaded) if each else 0
        looked = each and whole < exchange.loaded.has_bar.sum()
        within = f"in each of its {each} bars of {exchange.inner}, " if looked else ""
        if whole:
            told["walked_as_one"] = (
                f"{whole:,} bars of an instrument, whose finer ones are missing, or do not show their extremes"
            )
        told["inside_a_bar"] = f"{within}what harms most: liquidation and stops before targets"
    return told


def walked_whole(loaded: Loaded) -> int:
    """The bars of an instrument that have none of the finer ones, or not those with their extremes."""
    bars, n = loaded.market.prices.shape[1:]
    opens = loaded.market.inner[OPEN].reshape(bars, -1, n)
    return int((loaded.has_bar & np.isnan(opens[:, 1:]).all(axis=1)).sum())


def _settlement_prices(loaded: Loaded) -> dict[str, int]:
    """How many settlements of the span have which price."""
    counts = np.bincount(loaded.series["price_source"], minlength=len(PRICE_SOURCES)).tolist()
    return {source: count for source, count in sorted(zip(PRICE_SOURCES, counts, strict=True)) if count}


def _marks(loaded: Loaded) -> str:
    return "trade price" if loaded.market.marks == OPEN else "mark price, the trade price where there is none"
