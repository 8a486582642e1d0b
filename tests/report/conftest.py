"""Synthetic run results of the shapes in `openspec/project.md`, made by a second, plain account."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from qlib_crypto.report.data import FILL_COLUMNS, FUNDING_COLUMNS, POSITION_COLUMNS, ReportData

COINS = (  # noqa: SIM905 - thirty quoted names read worse
    "BTC ETH SOL XRP DOGE ADA AVAX LINK LTC BCH DOT TRX TON SUI APT ARB OP NEAR FIL ATOM UNI AAVE ETC XLM HBAR INJ "
    "TIA SEI PEPE WIF"
).split()
ASSUMPTIONS = {
    "account": 100_000.0,
    "freq": "60min",
    "market": "okx_60min",
    "instruments": 30,
    "bars": 64_800,
    "deal_price": "open of the bar after the signal's; every admitted order fills completely",
    "sizing": "weight x equity at the last marks / open",
    "taker_fee": 0.0005,
    "maker_fee": 0.0002,
    "fee_paid": "taker",
    "slippage": "none",
    "mark": "trade price: open before the orders, close after them; without a bar the last one stays",
    "margin": "none: no maintenance margin and no liquidation; new exposure ends at the leverage cap",
    "max_gross_leverage": 2.0,
    "order_rules": {"derived": 27, "venue": 3},
    "missing_funding": "untradable",
    "funding_coverage": 0.9873,
    "funding_price": {"mark": 0, "trade": 7621, "unknown": 43},
    "delisting": "settled at the last mark with the taker fee once neither prices nor funding go on in the data",
    "precision": "account in float64; prices on their tick where it is known, else and for funding Qlib's float32",
    "notes": {"below the minimum size": 312, "funding unknown: not opened or added to": 58},
}


def simulate(
    *, days=90, names=30, freq="1h", seed=11, skill=0.025, trading=True, funding=True, start="2025-02-11", slippage=0.0
):
    """A long-short book over a random market, step by step, as the objects that the records would save."""
    rng = np.random.default_rng(seed)
    step, coins = pd.Timedelta(freq), [f"{coin}_USDT.OKX" for coin in COINS[:names]]
    times = pd.date_range(start, periods=int(pd.Timedelta(days=days) / step), freq=freq)
    n, width, scale = len(times), len(coins), 0.006 * np.sqrt(step / pd.Timedelta("1h"))
    market = scale * 0.7 * rng.standard_t(4, n)[:, None]
    score = rng.normal(size=(n, width))
    for t in range(1, n):
        score[t] = 0.97 * score[t - 1] + 0.24 * score[t]  # what is right for an hour is mostly right for a day
    returns = market + scale * rng.standard_t(4, (n, width))
    returns[1:] += scale * 1.4 * skill * score[:-1]
    close = 10.0 ** rng.uniform(-2, 4, width) * np.cumprod(1 + returns, axis=0)
    opens = np.vstack((close[0] / (1 + returns[0]), close[:-1]))
    rate = 1e-4 + 5e-5 * rng.standard_t(3, (n, width))
    cash, held = 100_000.0, np.zeros(width)
    steps, fills, payments, positions = [], [], [], []
    mark = opens[0]
    for t, now in enumerate(times):
        before = cash + held @ mark
        paid = np.zeros(width)
        if funding and now.hour % 8 == 0 and now.minute == 0:
            paid = -held * rate[t] * opens[t]
            payments += [
                (now, coins[i], held[i], opens[t, i], rate[t, i], paid[i], "provider at the bar's open")
                for i in np.flatnonzero(held)
            ]
        cash += paid.sum()
        equity = cash + held @ opens[t]
        order = np.zeros(width)
        if trading and t and t % 24 == 0 and width > 1:
            rank = score[t - 1].argsort().argsort()
            k = max(1, width // 6)
            target = np.where(rank >= width - k, 0.5 / k, np.where(rank < k, -0.5 / k, 0.0)) * equity / opens[t]
            order = target - held
        elif trading and t == 1:
            order = np.full(width, 0.5 * equity / opens[t].sum())
        price = opens[t] * (1 + slippage * np.sign(order))
        fee = np.abs(order) * price * 0.0005
        fills += [(now, coins[i], order[i], price[i], opens[t, i], fee[i], "") for i in np.flatnonzero(order)]
        cash -= order @ price + fee.sum()
        slipped = -order @ (price - opens[t])
        held = held + order
        after = cash + held @ close[t]
        traded = np.abs(order) @ price
        change = after - before - paid.sum() + fee.sum() - slipped
        value = held * close[t]
        steps.append(
            (after, cash, np.abs(value).sum(), value.sum(), traded, change, paid.sum(), -fee.sum(), slipped, 0.0)
        )
        positions += [(now, coins[i], held[i], close[t, i]) for i in np.flatnonzero(held)]
        mark = close[t]
    columns = ["equity", "cash", "gross", "net", "turnover", "price", "funding", "fee", "slippage", "liquidation"]
    table = pd.DataFrame(steps, columns=columns, index=pd.Index(times, name="datetime"))
    table["bench_btc"] = returns[:, 0]
    table["bench_equal"] = returns.mean(axis=1)
    index = pd.MultiIndex.from_product([times, coins], names=["datetime", "instrument"])
    label = pd.DataFrame({"LABEL0": np.vstack((returns[1:], np.full((1, width), np.nan))).ravel()}, index=index)
    return {
        "steps": table,
        "fills": _frame(fills, FILL_COLUMNS, "datetime").assign(
            order="market", market_volatility=0.01, market_volume=2_000_000.0
        ),
        "funding": _frame(payments, FUNDING_COLUMNS, "time"),
        "positions": _frame(positions, POSITION_COLUMNS, "datetime"),
        "prediction": pd.DataFrame({"score": score.ravel()}, index=index),
        "label": label,
    }


def _frame(rows, columns, time):
    frame = pd.DataFrame(rows, columns=list(columns))
    numbers = [name for name in columns if name not in {time, "instrument", "note", "mark_source"}]
    return frame.astype({time: "datetime64[ns]", **dict.fromkeys(numbers, np.float64)})


@pytest.fixture(scope="session")
def make_run():
    """A function that makes `ReportData`; options of `simulate`, then fields that replace the simulated ones."""

    def make(fields=None, **options):
        rng = np.random.default_rng(1)
        factors = [f"{kind}{n}" for kind in ("CORR", "STD", "BETA", "ROC", "RSQR", "VSTD") for n in (5, 10, 20, 30, 60)]
        gain = pd.Series(rng.gamma(1.2, 100.0, 42), index=[*factors, *(f"funding_mean_{n}" for n in range(1, 13))])
        whole = {
            "name": "lightgbm_60min",
            **simulate(**options),
            "assumptions": ASSUMPTIONS,
            "feature_importance": gain,
            "dropped_features": ("funding_rate_mean_168", "funding_rate_std_168"),
            "setup": {
                "Model": "LGBModel, seed 7",
                "Label": "Ref($open, -2)/Ref($open, -1) - 1",
                "Training": "2022-01-01 00:00:00 to 2024-09-30 23:00:00",
                "Validation": "2024-10-02 00:00:00 to 2025-01-31 23:00:00",
                "Test": "2025-02-11 00:00:00 to 2025-05-11 23:00:00",
            },
            "seconds": {"check": 1.2, "dataset": 41.7, "model": 26.3, "signal": 2.1, "backtest": 38.4, "report": 3.0},
            "run_id": "3b6f0c2d9a1e4f77b1f0a4c5d6e7f809",
            "data_hash": "9c1185a5c5e9fc54612808977ee8f548b2258d31",
            "version": "0.1.0",
        }
        return ReportData(**(whole | (fields or {})))

    return make


@pytest.fixture(scope="session")
def run(make_run):
    return make_run(days=40)
