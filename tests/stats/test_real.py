"""Statistics of real prices: against pandas, and against what everybody knows of BTC."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from qlib_crypto.stats import ic
from qlib_crypto.stats import returns as r
from qlib_crypto.stats.significance import bootstrap_standard_error


@pytest.fixture(scope="module")
def closes(real_data):
    files = sorted((real_data / "candles" / "okx_swap_1h").glob("*.parquet"))
    read = {
        path.stem: pd.read_parquet(path, columns=["timestamp", "close"]).set_index("timestamp")["close"]
        for path in files
    }
    return pd.DataFrame(read).loc["2022-01-01":"2025-05-10"]


def test_bitcoins_fall_of_2022(closes):
    btc = closes[next(name for name in closes if name.startswith("BTC"))].dropna()
    fall = r.worst_drawdown(btc)
    assert btc.index[fall.trough].strftime("%Y-%m") == "2022-11"  # the bottom after FTX
    assert btc.index[fall.peak].strftime("%Y-%m") in {"2022-01", "2022-03"}
    assert fall.depth == pytest.approx((btc / btc.cummax() - 1).min())
    assert btc.index[fall.recovered].year == 2024
    returns = btc.pct_change().dropna()
    assert r.annualised_sharpe(r.step_returns(btc), 8760) == pytest.approx(
        returns.mean() / returns.std() * math.sqrt(8760)
    )


def test_the_last_hour_reverses_across_coins(closes):
    """A known effect and thirty coins with gaps before their listings: the same numbers as pandas, row by row."""
    part = closes.loc["2024-01-01":]
    change = part.pct_change(fill_method=None)
    signal, label = -change.to_numpy(), change.shift(-1).to_numpy()
    ours = ic.rank_ic(signal, label)
    theirs = pd.DataFrame(signal).where(~np.isnan(label)).rank(axis=1).corrwith(
        pd.DataFrame(label).where(~np.isnan(signal)).rank(axis=1), axis=1
    )  # fmt: skip
    known = np.isfinite(ours)
    np.testing.assert_allclose(ours[known], theirs[known], atol=1e-10)
    assert ic.mean_ic(ours) > 3 * bootstrap_standard_error(ours, block_length=24, draws=300)
