"""Markets as arrays, without a provider: bars that a test writes out."""

from __future__ import annotations

import numpy as np

from qlib_crypto.backtest.costs import Costs
from qlib_crypto.backtest.engine import Engine
from qlib_crypto.backtest.load import Loaded
from qlib_crypto.backtest.market import OPEN, VOLUME, Market, bounds_of, rules_of, tiers_of
from qlib_crypto.backtest.orders import OrderRules
from qlib_crypto.backtest.prices import moves_of
from qlib_crypto.backtest.terms import Terms
from qlib_crypto.market.margin import MarginTable, MarginTier
from qlib_crypto.provider.funding import SERIES
from qlib_crypto.symbols import Interval

TABLE = MarginTable((MarginTier(0, 1e12, 0.01, 20),), by_quantity=False, source="file")


def loaded(
    bars, *, tick: float = 0.0, lot: float = 0.0, min_notional: float = 0.0, table: MarginTable = TABLE, inner=None
) -> Loaded:
    """Bars of shape (n, bars, 5 or 9): open, high, low, close, volume, marks, each an hour; NaN is no bar.

    `inner`, shape (n, bars x k, 4), are finer ones.
    """
    prices = np.ascontiguousarray(np.moveaxis(np.asarray(bars, dtype=np.float64), 2, 0).swapaxes(1, 2))
    length, n = prices.shape[1:]
    fine = np.empty((4, 0, n))
    if inner is not None:
        fine = np.ascontiguousarray(np.moveaxis(np.asarray(inner, dtype=np.float64), 2, 0).swapaxes(1, 2))
    tiers, by_quantity = tiers_of([table] * n)
    there = np.isfinite(prices[0])
    moves = np.empty(length)
    marks = VOLUME + 1 if len(prices) > VOLUME + 1 else OPEN
    moves_of(prices, marks, moves)
    market = Market(
        prices, marks, np.empty((0, 3), np.int64), np.empty((0, 2)), np.zeros((length, n + 1), np.uint8),
        np.array([np.flatnonzero(own)[-1] for own in there.T]), np.zeros(1, np.int64),
        rules_of([OrderRules(lot, 0.0, min_notional, tick)] * n)[None], np.zeros(1, np.int64), tiers[None],
        by_quantity[None], bounds_of(tiers[None]), np.empty((0, 2, n)), fine, np.arange(length) // 24, moves,
    )  # fmt: skip
    names = tuple(f"A{i}_USDT.OKX" for i in range(n))
    opens = np.arange(length) * 3_600_000
    return Loaded(
        market,
        names,
        Interval.parse("1h"),
        opens,
        np.zeros(0, SERIES),
        (),
        ("venue",) * n,
        ("file",) * n,
        np.full((2, 1, n), np.nan),
    )


def engine(
    bars,
    *,
    account: float = 100_000.0,
    taker=0.0005,
    maker=0.0002,
    slippage=0.0,
    tick=0.0,
    lot=0.0,
    min_notional=0.0,
    table=TABLE,
    inner=None,
    **terms,
) -> Engine:  # fmt: skip
    """An account on such bars; nothing is margined unless said."""
    costs = Costs.of(None, taker, maker, "taker", slippage)
    usual = {"missing_funding": "zero", "margin_mode": "none", "max_gross_leverage": None}
    return Engine(
        loaded(bars, tick=tick, lot=lot, min_notional=min_notional, table=table, inner=inner),
        Terms(costs, **{**usual, **terms}),
        account,
    )
