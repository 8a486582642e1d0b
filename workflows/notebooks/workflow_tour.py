# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Workflow tour
#
# A workflow run from Python, its results loaded from the recorder, and the report's figures drawn one by one.
# Folders and the tracking store come from `config.yaml` (or `QLIB_CRYPTO_PROVIDER_DIR`, `QLIB_CRYPTO_REPORTS_DIR`,
# `QLIB_CRYPTO_TRACKING_URI`). `TOUR_WORKFLOW` chooses another file, `TOUR_VARIABLES` sets its variables as JSON.

# %%
import json
import os
from pathlib import Path

# the settings name folders relative to the repository, wherever this notebook was opened
os.chdir(next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "workflows").is_dir()))

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import pandas as pd
import plotly.io

from qlib_crypto.provider.manifest import read_manifest
from qlib_crypto.report import figures
from qlib_crypto.report.measures import measure
from qlib_crypto.report.record import report_data
from qlib_crypto.report.summary import summarise
from qlib_crypto.settings import load_settings
from qlib_crypto.workflow.check import check_workflow
from qlib_crypto.workflow.load import load_run
from qlib_crypto.workflow.run import run
from qlib_crypto.workflow.template import render

plotly.io.renderers.default = "plotly_mimetype+notebook"  # plotly.js inside, so that an HTML export opens offline

settings = load_settings()
workflow = Path(os.environ.get("TOUR_WORKFLOW", "workflows/lightgbm_60min.yaml"))

# %% [markdown]
# ## What to learn from
#
# The YAML's own dates are those of a long history. Here the provider's calendar is cut by itself: 60 % to train, 10 % to
# stop the boosting, the rest to test, with a day in between so that no label of one part looks into the next.

# %%
grid = read_manifest(settings.provider_dir).grid(check_workflow(workflow, render(workflow, {})).interval.qlib)
times = pd.to_datetime(range(grid.origin_ms, grid.end_ms, grid.interval.ms), unit="ms")
markets = {path.stem for path in (settings.provider_dir / "instruments").glob("*.txt")}
day = max(3, round(pd.Timedelta("1D") / (times[1] - times[0])))
train_end, valid_end = int(0.6 * len(times)), int(0.7 * len(times))

variables = {
    "NAME": "workflow_tour",
    "MARKET": next(name for name in (f"{venue}_{grid.interval.qlib}" for venue in ("okx", "binance")) if name in markets),
    "TRAIN_START": str(times[0]),
    "TRAIN_END": str(times[train_end]),
    "VALID_START": str(times[train_end + day]),
    "VALID_END": str(times[valid_end]),
    "TEST_START": str(times[valid_end + day]),
    "TEST_END": str(times[-1]),
    "MISSING_FUNDING": "untradable",
    **json.loads(os.environ.get("TOUR_VARIABLES", "{}")),
}
pd.Series(variables, name="value").to_frame()

# %% [markdown]
# ## Run
#
# The same as `qlib-crypto run workflows/lightgbm_60min.yaml --var NAME=workflow_tour …`: data and configuration are
# checked, then every step of `qrun`, and the results are stored with a manifest.

# %%
result = run(workflow, variables=variables, settings=settings, progress=print)
print("report:", result.report)

# %% [markdown]
# ## Load the last run
#
# What a run stored is read back from the tracking store; nothing is kept in this notebook. Start
# `mlflow ui --backend-store-uri sqlite:///mlruns.db` in the repository to look through all runs.

# %%
stored = load_run(variables["NAME"], tracking_uri=settings.tracking_uri)
data = report_data(stored)
measures = measure(data)
summary = summarise(data, measures)
numbers = ("symbols", "bars", "rows", "ic", "ic_se", "rank_ic", "rank_ic_se", "trades", "turnover_per_day", "gross_return",
           "net_return", "fees", "funding_net", "sharpe_365", "max_drawdown")  # fmt: skip
pd.Series({key: summary[key] for key in numbers}, name=summary["name"]).to_frame()

# %%
for notice in summary["notices"]:
    print("-", notice)

# %% [markdown]
# ## Figures
#
# Each figure is one function of what `measure` computed, the same as in `report.html`.

# %%
figures.equity_and_drawdown(measures.curve)

# %%
figures.source_attribution(measures.attribution, summary["quote"])

# %%
figures.instrument_attribution(measures.instruments, summary["quote"])

# %%
figures.exposure(measures.exposure)

# %%
figures.information_coefficient(measures.ic, f"{measures.ic_window} bars")

# %%
figures.feature_importance(measures.importance)

# %% [markdown]
# ## The tables behind them

# %%
stored.steps.tail()

# %%
stored.fills.tail()
