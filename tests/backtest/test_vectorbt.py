"""Vectorbt agrees on what it can express: target weights with shorts and costs, stops and targets of one name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support_arrays import engine

from qlib_crypto.backtest.entries import PLAN, PLAN_LOSS, PLAN_PROFIT
from qlib_crypto.backtest.layout import FILL
from qlib_crypto.backtest.notes import KINDS

vbt = pytest.importorskip("vectorbt", reason="vectorbt is one of the extras: scripts/setup.sh --extras")
pytestmark = pytest.mark.long

BAR, COLUMN, QUANTITY, PRICE, FEE, ORDER = (
    FILL.index(name) for name in ("bar", "column", "quantity", "price", "fee", "order")
)


def prices(rng, bars, names):
    """Open, high, low, close, volume of shape (names, bars, 5); each opens at the close before: both size alike."""
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (bars, names)), axis=0))
    opens = np.vstack([np.full((1, names), 100.0), close[:-1]])
    far = rng.random((2, bars, names)) * 0.01
    high, low = np.maximum(opens, close) * (1 + far[0]), np.minimum(opens, close) * (1 - far[1])
    return np.moveaxis(np.stack([opens, high, low, close, np.full_like(close, 1e9)]), (0, 1, 2), (2, 1, 0))


@pytest.mark.parametrize("seed", range(20))
def test_target_weights_with_fees_and_slippage(seed):
    rng = np.random.default_rng(seed)
    bars, names = 200, int(rng.integers(1, 6))
    market = prices(rng, bars, names)
    weights = np.clip(rng.normal(0, 0.4 / names, (bars, names)), -0.9 / names, 0.9 / names)  # vectorbt lends nothing
    weights[rng.random((bars, names)) < 0.3] = 0.0
    fee, slip = rng.choice([0.0, 0.0005]), rng.choice([0.0, 0.001])
    mine = engine(market, taker=fee, slippage=slip)
    mine.run(weights, np.ones(bars, bool))
    opens, closes = pd.DataFrame(market[:, :, 0].T), pd.DataFrame(market[:, :, 3].T)
    theirs = vbt.Portfolio.from_orders(
        closes, weights, size_type="targetpercent", price=opens, val_price=opens, fees=fee, slippage=slip,
        init_cash=100_000.0, cash_sharing=True, group_by=True, call_seq="auto",
    )  # fmt: skip
    np.testing.assert_allclose(mine.curve[:, 0], theirs.value().to_numpy(), rtol=1e-9)
    records = theirs.orders.records.sort_values(["idx", "col"])
    own = mine.fills[np.lexsort((mine.fills[:, COLUMN], mine.fills[:, BAR]))]
    np.testing.assert_array_equal(own[:, [BAR, COLUMN]], records[["idx", "col"]])
    np.testing.assert_allclose(np.abs(own[:, QUANTITY]), records["size"], rtol=1e-7)
    np.testing.assert_allclose(own[:, PRICE], records["price"], rtol=1e-12)
    np.testing.assert_allclose(own[:, FEE], records["fees"], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("kind", ["stop loss", "take profit"])
@pytest.mark.parametrize("seed", range(5))
def test_stops_and_targets_of_one_name(kind, side, seed):
    """One position at a time: entered in quiet bars, as vectorbt looks at stops from the next bar on."""
    rng = np.random.default_rng(seed)
    bars = 600
    (market,) = prices(rng, bars, 1)
    quiet = np.arange(0, bars, 40)
    market[quiet, 1:4] = market[quiet, :1]
    market[quiet[1:], :4] = market[quiet[1:] - 1, 3][:, None]
    market[quiet[:-1] + 1, 0] = market[quiet[:-1], 3]
    market[:, 1] = np.maximum(market[:, 1], market[:, [0, 3]].max(axis=1))
    market[:, 2] = np.minimum(market[:, 2], market[:, [0, 3]].min(axis=1))
    distance = 0.02
    mine = engine([market], taker=0.0, maker=0.0)
    plan, weights = np.zeros((len(PLAN), bars, 1)), np.full((bars, 1), 0.5 * side)
    plan[PLAN_LOSS if kind == "stop loss" else PLAN_PROFIT] = distance
    rebalance = np.isin(np.arange(bars), quiet)
    for at in quiet:  # what is still held goes on
        now = rebalance & (np.arange(bars) == at) & (mine.book[0, 0] == 0)
        mine.run(weights, now, int(at), min(int(at) + 40, bars), plan=plan, until=np.zeros(bars, np.int64))
    o, h, low, c = (pd.Series(market[:, at]) for at in range(4))
    entries = pd.Series(rebalance)
    stops = {"sl_stop" if kind == "stop loss" else "tp_stop": distance}
    theirs = vbt.Portfolio.from_signals(
        c, open=o, high=h, low=low, price=o, size=0.5, size_type="percent", init_cash=100_000.0,
        stop_entry_price="fillprice", stop_exit_price="stoplimit", accumulate=False,
        **({"entries": entries} if side > 0 else {"short_entries": entries}), **stops,
    )  # fmt: skip
    own = mine.fills[:, [BAR, PRICE]]
    records = theirs.orders.records
    np.testing.assert_array_equal(own[:, 0], records["idx"])
    np.testing.assert_allclose(own[:, 1], records["price"], rtol=1e-12)
    assert {KINDS[int(order)] for order in mine.fills[:, ORDER]} == {"market", kind}
