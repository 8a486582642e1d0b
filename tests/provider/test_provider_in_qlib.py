"""The provider as people use it: typed into Qlib, and backtested to its last bar."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from provider_lakes import T0, MemoryLake, make_bars, make_settlements

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.provider import convert
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

HOUR = Interval.parse("1h")
DAYS = 5
NAMES = ("BTC", "ETH", "SOL")

TYPED = """
import json, qlib
from qlib.constant import REG_CN
from qlib.data import D
qlib.init(provider_uri="qlib_data", region=REG_CN)
data = D.features(D.instruments("all"), ["$close", "$volume"])
by_hour = D.features(D.instruments("okx_60min"), ["$close"], freq="60min")
print(json.dumps({"rows": len(data), "nan": int(data.isna().sum().sum()), "columns": list(data.columns),
                  "names": sorted(set(data.index.get_level_values(0))),
                  "close": data.loc["BTC_USDT.OKX", "$close"].tolist(), "hours": len(by_hour)}))
"""

LAST_BAR = """
import json, sys, pandas as pd, qlib
from qlib.backtest import backtest
uri = {"class": "MLflowExpManager", "module_path": "qlib.workflow.expm",
       "kwargs": {"uri": "sqlite:///mlruns.db", "default_exp_name": "x"}}
qlib.init(provider_uri="qlib_data", region="us", kernels=1, trade_unit=None, limit_threshold=None,
          deal_price="open", exp_manager=uri)
from qlib.data import D
calendar = D.calendar(freq="60min")
index = pd.MultiIndex.from_product([calendar, ["BTC_USDT.OKX"]], names=["datetime", "instrument"])
signal = pd.Series(1.0, index=index)
report, _ = backtest(
    start_time=calendar[-24], end_time=calendar[-1], benchmark=pd.Series(0.0, index=calendar), account=1e6,
    strategy={"class": "TopkDropoutStrategy", "module_path": "qlib.contrib.strategy",
              "kwargs": {"signal": signal, "topk": 1, "n_drop": 0}},
    executor={"class": "SimulatorExecutor", "module_path": "qlib.backtest.executor",
              "kwargs": {"time_per_step": "60min", "generate_portfolio_metrics": True}},
    exchange_kwargs={"freq": "60min", "codes": ["BTC_USDT.OKX"], "deal_price": "open", "open_cost": 0, "close_cost": 0,
                     "min_cost": 0},
)
steps = report["60min"][0]
print(json.dumps({"last": str(steps.index[-1]), "steps": len(steps), "turnover": float(steps["turnover"].iloc[-1])}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed")
    rng = np.random.default_rng(3)
    instruments = [Instrument(name, "USDT", Venue.OKX) for name in NAMES]
    frames = {i: {HOUR: make_bars(rng, HOUR, T0, DAYS * 24)} for i in instruments}
    funding = {i: make_settlements(rng, T0, [8] * (DAYS * 3), jitter_ms=7, marked=1) for i in instruments}
    lake = MemoryLake(frames, funding)
    convert(lake, folder / "qlib_data", ProviderSettings())
    return folder, lake


def typed(code, folder):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_as_people_type_it(folder):
    path, lake = folder
    read = typed(TYPED, path)
    assert read["names"] == [f"{name}_USDT.OKX" for name in sorted(NAMES)]
    assert read["columns"] == ["$close", "$volume"]
    assert (read["rows"], read["nan"], read["hours"]) == (3 * DAYS, 0, 3 * DAYS * 24)
    bars = lake.frames[Instrument("BTC", "USDT", Venue.OKX)][HOUR]
    at = [T0 + (24 * day + 23) * HOUR_MS for day in range(DAYS)]
    np.testing.assert_allclose(read["close"], bars["close"][at], rtol=1e-6)


def test_a_backtest_reaches_the_last_bar(folder):
    path, _ = folder
    run = typed(LAST_BAR, path)
    assert run["last"] == "2025-03-17 23:00:00"
    assert run["steps"] == 24
    assert run["turnover"] > 0, "it trades on the last bar too"


ODD = """
import json, qlib
from qlib.data import D
qlib.init(provider_uri="qlib_data", region="cn", kernels=1)
names = D.list_instruments(D.instruments("all"), freq="day", as_list=True)
data = D.features(names, ["$close"], freq="60min")["$close"]
print(json.dumps({"names": sorted(names), "close": {name: data.loc[name].tolist() for name in names}}))
"""


def test_names_that_others_take_for_something_else(tmp_path):
    """`NA` and `NULL` are missing values to pandas, `CON` and `AUX` devices to Windows, `1E5` a number."""
    rng = np.random.default_rng(4)
    instruments = [Instrument(name, "USDT", Venue.OKX) for name in ("NA", "NULL", "NAN", "CON", "AUX", "1E5", "TRUE")]
    frames = {i: {HOUR: make_bars(rng, HOUR, T0, 24)} for i in instruments}
    convert(MemoryLake(frames), tmp_path / "qlib_data", ProviderSettings(), durable=False)
    read = typed(ODD, tmp_path)
    assert read["names"] == sorted(i.qlib for i in instruments)
    for instrument, frame in frames.items():
        np.testing.assert_allclose(read["close"][instrument.qlib], frame[HOUR]["close"], rtol=1e-6)
