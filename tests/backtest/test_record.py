from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support_backtest import random_market, replay

from qlib_crypto.backtest.qlib_record import OBJECTS, PerpPortfolioRecord
from qlib_crypto.backtest.result import PerpRun
from qlib_crypto.errors import ConfigError
from qlib_crypto.report.assumptions import assumptions as shown
from qlib_crypto.report.data import ReportData
from qlib_crypto.report.measures import measure
from qlib_crypto.report.summary import summarise


def test_the_record_saves_the_tables_of_the_report_and_logs_the_headline_numbers(tmp_path):
    market = random_market(bars=72)
    market.write(tmp_path / "provider")
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [market.times[10:60], sorted(market.bars)], names=["datetime", "instrument"]
    )  # fmt: skip
    pd.DataFrame({"score": rng.normal(size=len(index))}, index).to_pickle(tmp_path / "pred.pkl")
    script = Path(__file__).with_name("record_script.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False, cwd=tmp_path,
        timeout=240, env={"PYTHONPATH": str(script.parents[2]), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Mean of empty slice" not in done.stderr
    answer = json.loads(done.stdout.split("RESULT")[1])
    assert answer["refusal"].startswith("the run has no pred.pkl to backtest; put SignalRecord before")

    steps, fills, funding, positions, assumptions = (pd.read_pickle(tmp_path / n) for n in OBJECTS)  # noqa: S301 - ours
    data = ReportData(
        name="test", steps=steps, fills=fills, funding=funding, positions=positions, assumptions=assumptions
    )
    figures = measure(data)
    box = {group.title: [line[0] for line in group.lines] for group in shown(data, figures, summarise(data, figures))}
    assert box["Other"] == ["Decisions the backtest had to take"]
    assert "Benchmarks" in box["Universe"]
    assert steps.index[0] == market.times[10]
    assert steps.index[-1] == market.times[59]
    assert steps.index.name == "datetime"
    assert (steps.dtypes == np.float64).all()
    run = PerpRun(steps, fills, funding, positions, assumptions)
    truth = replay(market, run, account=50_000.0, fee_rate=0.0005)
    assert np.allclose(steps["equity"], truth["equity"], rtol=1e-9)

    metrics = answer["metrics"]
    assert set(metrics) == {
        "net_return", "gross_return", "fees", "slippage", "liquidation", "funding_paid", "funding_received",
        "funding_net", "sharpe_365", "sortino_365", "max_drawdown", "calmar", "win_rate", "profit_factor",
        "turnover", "trades",
    }  # fmt: skip # two days have no tail of days
    assert metrics["net_return"] == pytest.approx(truth["equity"].iloc[-1] / 50_000 - 1, rel=1e-6)
    assert metrics["fees"] == pytest.approx(-truth["fee"].iloc[-1])
    assert metrics["funding_net"] == pytest.approx(truth["funding"].iloc[-1], rel=1e-5)
    assert metrics["funding_received"] - metrics["funding_paid"] == pytest.approx(metrics["funding_net"])
    assert min(metrics["funding_paid"], metrics["funding_received"]) > 0
    costs = (metrics["fees"] - metrics["funding_net"]) / 50_000
    assert metrics["gross_return"] - costs == pytest.approx(metrics["net_return"], abs=1e-9)
    returns = truth["equity"].pct_change().fillna(truth["equity"].iloc[0] / 50_000 - 1)
    assert metrics["sharpe_365"] == pytest.approx(returns.mean() / returns.std() * np.sqrt(365 * 24), rel=1e-6)
    assert metrics["trades"] == len(fills) > 50
    assert 0 < metrics["win_rate"] < 1
    assert metrics["profit_factor"] > 0
    assert assumptions["taker_fee"] == 0.0005
    assert assumptions["market"] == "okx_60min"


@pytest.mark.parametrize("config", [{}, {"strategy": {}, "risk": {}}])
def test_a_record_of_other_parts_is_refused(config):
    with pytest.raises(ConfigError, match="write strategy, executor, backtest"):
        PerpPortfolioRecord(None, config)
