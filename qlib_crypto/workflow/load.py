"""A finished run, read back from the recorder, for notebooks and reports."""

from __future__ import annotations

import json
import pickle
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from qlib_crypto.clock import iso
from qlib_crypto.errors import ConfigError, DataError, hint
from qlib_crypto.workflow.record import DROPPED, IMPORTANCE

MANIFEST, SUMMARY, SECONDS, LOG = "manifest.json", "summary.json", "stage_seconds.pkl", "qlib.log"
UNIVERSE = "universe.pkl"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """What one run stored; what it did not store is None.

    Attributes
    ----------
    name, run_id
        Experiment, and MLflow's id of the run.
    started
        When the run began, UTC: `2025-06-01 08:30:12`.
    metrics
        The numbers logged with MLflow.
    pred, label
        Score and true label of the test segment, index (datetime, instrument).
    steps, fills, funding, positions, assumptions
        Of the portfolio record; shapes in `openspec/project.md`, run results.
    importance
        Gain of each feature, largest first.
    dropped
        Features without a value in training.
    universe
        How the market was chosen, see `qlib_crypto.report.universe.chosen`.
    summary, manifest
        `summary.json` and `manifest.json`.
    task
        The workflow's `task` section as Qlib stored it.
    seconds
        Of each stage.

    """

    name: str
    run_id: str
    started: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    pred: pd.DataFrame | None = None
    label: pd.DataFrame | None = None
    steps: pd.DataFrame | None = None
    fills: pd.DataFrame | None = None
    funding: pd.DataFrame | None = None
    positions: pd.DataFrame | None = None
    assumptions: dict[str, Any] | None = None
    importance: pd.Series[float] | None = None
    dropped: list[str] | None = None
    universe: dict[str, Any] | None = None
    summary: dict[str, Any] | None = None
    manifest: dict[str, Any] | None = None
    task: dict[str, Any] | None = None
    seconds: dict[str, float] | None = None


_FILES = {
    "pred": "pred.pkl",
    "label": "label.pkl",
    "steps": "perp_steps.pkl",
    "fills": "perp_fills.pkl",
    "funding": "perp_funding.pkl",
    "positions": "perp_positions.pkl",
    "assumptions": "perp_assumptions.pkl",
    "importance": IMPORTANCE,
    "dropped": DROPPED,
    "universe": UNIVERSE,
    "summary": SUMMARY,
    "manifest": MANIFEST,
    "task": "task",
    "seconds": SECONDS,
}


def load_run(name: str, run_id: str | None = None, *, tracking_uri: str = "sqlite:///mlruns.db") -> LoadedRun:
    """The newest finished run of an experiment, or the one with this id.

    Objects are unpickled, so load only what you or your colleagues wrote.

    Raises
    ------
    ConfigError
        When there is no such experiment or run.
    DataError
        When an object of the run cannot be read.

    """
    objects: dict[str, Any] = {}
    with redirect_stderr(StringIO()):  # MLflow tells of the tables it makes, and draws a progress bar for each file
        client = MlflowClient(tracking_uri)
        found = _find(client, name, run_id, tracking_uri)
        stored = {item.path for item in client.list_artifacts(found.info.run_id)}
        for key, file in _FILES.items():
            if file in stored:
                objects[key] = _read(Path(client.download_artifacts(found.info.run_id, file)))
    info = found.info
    return LoadedRun(
        name=name, run_id=info.run_id, started=iso(info.start_time), metrics=dict(found.data.metrics), **objects
    )


def _find(client: MlflowClient, name: str, run_id: str | None, tracking_uri: str) -> Run:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        known = [e.name for e in client.search_experiments()]
        raise ConfigError(f"{tracking_uri} has no experiment {name!r}{hint(name, known)}")
    if run_id is not None:
        try:
            found = client.get_run(run_id)
        except MlflowException:
            found = None
        if found is None or found.info.experiment_id != experiment.experiment_id:
            raise ConfigError(f"experiment {name!r} has no run {run_id!r}; leave the id out for the newest")
        return found
    newest = client.search_runs(
        [experiment.experiment_id],
        "attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not newest:
        raise ConfigError(f"experiment {name!r} has no finished run; run its workflow")
    return newest[0]


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301 - Qlib stores pickles; the docstring says whose to load
    except (OSError, ValueError, pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
        raise DataError(f"{path} cannot be read ({error}); run the workflow again") from None
