"""The Python of docs/backtesting.md, word for word."""

from __future__ import annotations

import re

import pytest
from support_backtest import random_market

from qlib_crypto.backtest.run import run_backtest


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A market in the demo's folder of the working folder."""
    market = random_market(freq="60min", bars=240, names=6, seed=7, settle_hours=8, wicks=0.01, start="2025-03-01")
    market.write(tmp_path / "demo" / "qlib_data")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("demo")
def test_it_runs(root, capsys):
    text = (root / "docs" / "backtesting.md").read_text()
    section = text[text.index("## From Python") : text.index("## Slippage")]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/backtesting.md", "exec"), names)  # noqa: S102 - it is our own page
    assert "sharpe_365" in capsys.readouterr().out
    # the score of the bar before the span trades in the first one, and its stop knows the bars before
    assert names["result"].fills["datetime"].min() == names["result"].steps.index[0]
    fills = run_backtest({**names["config"], "engine": "qlib"}, names["Brackets"]()).fills
    assert {"limit", "take profit", "stop loss"} <= set(fills["order"])
    assert (fills.loc[fills["order"] == "limit", "quantity"] > 0).all()
