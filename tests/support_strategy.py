"""Random markets as strategies know them, and one of every strategy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qlib_crypto.backtest.known import Known, Targets
from qlib_crypto.strategy.beta import BetaNeutral
from qlib_crypto.strategy.carry import FundingCarry
from qlib_crypto.strategy.long_short import LongShortTopk
from qlib_crypto.strategy.mean_variance import MeanVariance
from qlib_crypto.strategy.rank import RankWeighted
from qlib_crypto.strategy.volatility import VolatilityTargeted

HOUR_MS = 3_600_000
LIMITS = {"max_weight": 0.2, "max_turnover": 0.6, "capacity": {"account": 1e6, "share": 0.02, "bars": 5}}


def market(bars=40, n=8, seed=0, *, gaps=0.1, untradable=0.1, levels=0):
    """A random market; `gaps` and `untradable` are parts of the cells, scores have so many `levels` (0: no ties)."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.01, (bars, 1)) * rng.uniform(0.3, 1.7, n)
    close = 100 * np.exp(np.cumsum(common + rng.normal(0, 0.01, (bars, n)), axis=0))
    signal = rng.integers(0, levels, (bars, n)).astype(float) if levels else rng.normal(size=(bars, n))
    settled = rng.normal(0, 3e-4, (bars // 8 + 1, n))
    known = Known(
        opens_ms=np.arange(bars, dtype=np.int64) * HOUR_MS,
        step_ms=HOUR_MS,
        names=tuple(f"{chr(65 + i)}{(i * 7) % 10}_USDT.OKX" for i in rng.permutation(n)),
        signal=signal,
        close=close,
        dollar_volume=rng.lognormal(14, 1, (bars, n)),
        funding_rate=np.repeat(settled, 8, axis=0)[:bars],
        funding_interval=np.full((bars, n), 8.0),
        tradable=rng.random((bars, n)) >= untradable,
    )
    for name in ("signal", "close", "dollar_volume", "funding_rate"):
        values = getattr(known, name)
        values[rng.random((bars, n)) < gaps * (0.1 if name == "funding_rate" else 1.0)] = np.nan
    signal[rng.random(bars) < gaps] = np.nan
    return known


def permuted(known, order):
    """The same market with its columns in another order."""
    columns = {
        name: getattr(known, name)[:, order]
        for name in ("signal", "close", "dollar_volume", "funding_rate", "funding_interval", "tradable")
    }
    return replace(known, names=tuple(known.names[i] for i in order), **columns)


def strategies(limits=None):
    """One of every strategy by name, small enough for small markets."""
    risk = {"half_life": 6, "min_returns": 4}
    topk = {"topk": 3, "min_names": 1, "drop_buffer": 1}
    base = {"class": "LongShortTopk", "module_path": "qlib_crypto.strategy.long_short", "kwargs": {**topk, "topk": 4}}
    return {
        "topk": LongShortTopk(**topk, n_drop=1, rebalance_every=2, limits=limits),
        "rank": RankWeighted(power=1.5, limits=limits),
        "volatility": VolatilityTargeted(base=base, inverse_volatility=True, **risk, limits=limits),
        "beta": BetaNeutral(base=RankWeighted(rebalance_every=3), **risk, limits=limits),
        "carry": FundingCarry(
            short_enter=0.1, short_exit=0.05, long_enter=-0.1, long_exit=0.0, topk=3, settlements=2, limits=limits
        ),
        "mean_variance": MeanVariance(
            signal_scale=1e-3, risk_aversion=3.0, turnover_cost=5e-4, rebalance_every=4, **risk, limits=limits
        ),
    }


class Fixed:
    """The same row in every bar."""

    def __init__(self, *row):
        self.row = np.array(row, dtype=float)

    def targets(self, known):
        return Targets(np.tile(self.row, (known.bars, 1)), np.ones(known.bars, dtype=bool), {"fixed": 1})


def plain_returns(known, t):
    """Of each bar up to row t: the returns as a list, None where unknown."""
    rows = []
    for s in range(1, t + 1):
        pairs = zip(known.close[s], known.close[s - 1], strict=True)
        rows.append([None if math.isnan(now) or math.isnan(then) else now / then - 1 for now, then in pairs])
    return rows


def plain_covariance(known, t, half_life, shrinkage, least):
    rows, n = plain_returns(known, t), len(known.names)
    age = [0.5 ** ((len(rows) - 1 - s) / half_life) for s in range(len(rows))]
    weight = [sum(w for w, row in zip(age, rows, strict=True) if row[i] is not None) for i in range(n)]
    seen = [sum(row[i] is not None for row in rows) for i in range(n)]
    out = [[math.nan] * n for _ in range(n)]
    for i in range(n):
        for j in range(n):
            if min(seen[i], seen[j]) >= least:
                total = sum(w * (row[i] or 0) * (row[j] or 0) for w, row in zip(age, rows, strict=True))
                out[i][j] = total / math.sqrt(weight[i] * weight[j]) * (1 if i == j else 1 - shrinkage)
    return np.array(out)
