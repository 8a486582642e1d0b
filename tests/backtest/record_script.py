"""Run by test_record.py in its own process: one recorded backtest; prints what the recorder holds as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import qlib
from qlib.workflow import R

from qlib_crypto.backtest.qlib_record import OBJECTS, PerpPortfolioRecord
from qlib_crypto.errors import QlibCryptoError

folder = Path(sys.argv[1])
qlib.init(
    provider_uri=str(folder / "provider"), region="cn", trade_unit=None, limit_threshold=None, kernels=1,
    exp_manager={
        "class": "MLflowExpManager", "module_path": "qlib.workflow.expm",
        "kwargs": {"uri": f"sqlite:///{folder / 'mlruns.db'}", "default_exp_name": "test"},
    },
)  # fmt: skip
CONFIG = {
    "executor": {
        "class": "PerpExecutor", "module_path": "qlib_crypto.backtest.qlib_executor",
        "kwargs": {"time_per_step": "60min", "generate_portfolio_metrics": True},
    },
    "strategy": {
        "class": "LongShortTopk", "module_path": "qlib_crypto.strategy.long_short",
        "kwargs": {"signal": "<PRED>", "topk": 2},
    },
    "backtest": {
        "account": 50_000, "pos_type": "qlib_crypto.backtest.qlib_position.PerpPosition",
        "exchange_kwargs": {
            "exchange": {
                "class": "PerpExchange", "module_path": "qlib_crypto.backtest.qlib_exchange",
                "kwargs": {"codes": "okx_60min", "deal_price": "open", "missing_funding": "zero"},
            },
        },
    },
}  # fmt: skip

with R.start(experiment_name="test", uri=f"sqlite:///{folder / 'mlruns.db'}"):
    recorder = R.get_recorder()
    try:
        PerpPortfolioRecord(recorder, CONFIG).generate()
        refusal = ""
    except QlibCryptoError as error:
        refusal = str(error)
    pred = pd.read_pickle(folder / "pred.pkl")  # noqa: S301 - the test wrote it
    recorder.save_objects(**{"pred.pkl": pred, "label.pkl": pred})
    record = PerpPortfolioRecord(recorder, CONFIG)
    record.generate()
    record.check(include_self=True)
    loaded = {name: recorder.load_object(name) for name in OBJECTS}
    for name, value in loaded.items():
        pd.to_pickle(value, folder / name)
    print("RESULT" + json.dumps({"refusal": refusal, "metrics": recorder.list_metrics()}))  # noqa: T201 - the answer to the test
