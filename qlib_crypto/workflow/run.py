"""One workflow from file to report: checked, timed, with a manifest, and otherwise what qrun does."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import qlib
from alembic.util.exc import CommandError
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from qlib.data.dataset import Dataset
from qlib.model.base import Model
from qlib.utils import auto_filter_kwargs, fill_placeholder, init_instance_by_config
from qlib.workflow import R
from qlib.workflow.recorder import MLflowRecorder, Recorder
from sqlalchemy.exc import SQLAlchemyError

from qlib_crypto.clock import iso
from qlib_crypto.errors import DataError, StorageError
from qlib_crypto.features.handler import PerpAlpha158
from qlib_crypto.lake import Lake
from qlib_crypto.provider.manifest import Manifest
from qlib_crypto.settings import Settings
from qlib_crypto.workflow.check import Workflow, check_workflow, label_bars
from qlib_crypto.workflow.data import check_data, check_unchanged
from qlib_crypto.workflow.identity import run_manifest
from qlib_crypto.workflow.load import LOG, MANIFEST, SECONDS
from qlib_crypto.workflow.metrics import batched_metrics
from qlib_crypto.workflow.quiet import INDENT, Progress, Stages
from qlib_crypto.workflow.template import render, variables_of

#: What a stage is called; another record keeps its class name.
_STAGES = {
    "SignalRecord": "predict",
    "SigAnaRecord": "signal",
    "FeatureRecord": "importance",
    "PerpPortfolioRecord": "backtest",
    "ReportRecord": "report",
}
_REPORT = "ReportRecord"
_OPENINGS = 4
#: Variables that the name of a run leaves out: it says them anyway, or they are places.
_UNTITLED = ("NAME", "MARKET", "PROVIDER_URI", "TRACKING_URI", "REPORT_DIR")


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left behind.

    Attributes
    ----------
    name, run_id
        Experiment and MLflow's id of the run.
    report, summary
        The files, None when the workflow has no `ReportRecord`.
    seconds
        Wall seconds of each stage, in order.
    dropped
        Features without a value in the training segment.
    metrics
        The content of `summary`, None without one.
    manifest
        See `run_manifest`.

    """

    name: str
    run_id: str
    report: Path | None
    summary: Path | None
    seconds: Mapping[str, float]
    dropped: tuple[str, ...]
    metrics: Mapping[str, Any] | None
    manifest: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, without the manifest, which holds the whole configuration."""
        fields = {key: value for key, value in asdict(self).items() if key != "manifest"}
        plain: dict[str, Any] = json.loads(json.dumps(fields, default=str))
        return plain


def run(
    path: Path,
    *,
    variables: Mapping[str, str],
    settings: Settings,
    lake: Lake | None = None,
    progress: Progress = lambda _: None,
) -> RunResult:
    """Check a workflow and its data, run it as qrun would, and store a manifest with the results.

    Parameters
    ----------
    path
        The workflow file.
    variables
        Values for its `{{ NAME }}`. `PROVIDER_URI`, `TRACKING_URI` and `REPORT_DIR` come from the settings otherwise.
    settings
        The user's.
    lake
        The lake that the provider should be made from; when it holds other data by now, that is said.
    progress
        Gets one line a stage, with its seconds, one every 10 s while a stage goes on, and every warning.

    Raises
    ------
    ConfigError
        The workflow is wrong, or asks for what the provider does not have.
    DataError
        The provider is missing, damaged or was changed meanwhile; no row is left to learn from.

    """
    stages = Stages(progress)
    given = {**_from_settings(path, settings), **variables}
    with stages("check") as said:
        workflow = check_workflow(path, render(path, given))
        provider = check_data(workflow)
        said.append(f"{path.name}: {workflow.markets[0]}, {workflow.interval.qlib}, {provider_words(provider)}")
    if lake is not None and lake.content_hash() != provider.lake_content:
        progress(f"{'':{INDENT}}the lake has changed since the conversion; run qlib-crypto convert to use all of it")
    with stages("open"):
        _make_store(workflow.tracking_uri)
        # without its logging configuration Qlib leaves the handlers of `Log` in place
        qlib.init(**{**workflow.config["qlib_init"], "logging_config": None})
        # Qlib would log the command line and git's status: the manifest has variables and commit
        with patch.multiple(MLflowRecorder, log_params=_nothing, _log_uncommitted_code=_nothing):
            R.start_exp(experiment_name=workflow.name, recorder_name=run_title(workflow, variables))
    try:
        result = _recorded(workflow, provider, variables, stages)
    except BaseException:
        _end(stages, Recorder.STATUS_FA)
        raise
    _end(stages, Recorder.STATUS_FI)
    return result


def _make_store(uri: str) -> None:
    """Opens MLflow's database, which makes it at the first run; two first runs at once disturb each other there."""
    for attempt in range(1, _OPENINGS + 1):
        try:
            MlflowClient(uri).search_experiments(max_results=1)
        except (CommandError, SQLAlchemyError, MlflowException) as error:
            if attempt == _OPENINGS:
                text = " ".join(str(error).split())[:200]
                raise StorageError(f"MLflow cannot open {uri} ({text}); check its folder, or choose another") from error
            time.sleep(attempt)
        else:
            return


def run_title(workflow: Workflow, variables: Mapping[str, str]) -> str:
    """What MLflow lists the run as: workflow, market, days of the test, and the variables that say something else."""
    first, last = (iso(at)[:10] for at in workflow.segments["test"])
    changed = [
        f"{name}={value}"
        for name, value in variables.items()
        if name not in _UNTITLED and not name.endswith(("_START", "_END"))
    ]
    return " ".join([workflow.path.stem, workflow.markets[0], f"{first} to {last}", *changed])


def main_parameters(workflow: Workflow) -> dict[str, Any]:
    """What people change and compare runs by: the file's `values`, the model's and the strategy's, the segments."""
    values = {
        name: " to ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in (workflow.config.get("values") or {}).items()
    }
    segments = {name: f"{iso(first)} to {iso(last)}" for name, (first, last) in workflow.segments.items()}
    model = workflow.config["task"]["model"]
    return (
        values
        | (model.get("kwargs") or {})
        | _strategy(workflow.config["task"])
        | segments
        | {
            "workflow": workflow.path.name,
            "model": model["class"],
            "market": " ".join(workflow.markets),
            "interval": workflow.interval.qlib,
            "label": workflow.label,
            "label_bars_ahead": label_bars(workflow.label),
            "seed": workflow.seed,
        }
    )


def _strategy(task: Mapping[str, Any]) -> dict[str, Any]:
    """The strategy's own values, empty without a portfolio."""
    for record in task["record"]:
        if record["class"] == "PerpPortfolioRecord":
            kwargs = record["kwargs"]["config"]["strategy"].get("kwargs") or {}
            return {key: value for key, value in kwargs.items() if key != "signal"}
    return {}


def training_words(evaluations: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Round and score of a training that goes on, from what LightGBM records of it; empty before the first round."""
    scores = [(name, values[-1], len(values)) for name, values in list(evaluations.get("valid", {}).items()) if values]
    return f"round {scores[0][2]}, validation {scores[0][0]} {scores[0][1]:.6g}" if scores else ""


def provider_words(manifest: Manifest) -> str:
    """A provider in a few words, for the progress line."""
    return f"{len(manifest.instruments)} instruments, generation {manifest.generation}"


def _from_settings(path: Path, settings: Settings) -> dict[str, str]:
    values = {
        "PROVIDER_URI": str(settings.provider_dir),
        "TRACKING_URI": settings.tracking_uri,
        "REPORT_DIR": str(settings.reports_dir),
    }
    known = variables_of(path)
    return {name: value for name, value in values.items() if name in known}


def _recorded(workflow: Workflow, provider: Manifest, variables: Mapping[str, str], stages: Stages) -> RunResult:
    """The steps of `qlib.model.trainer.task_train`, one stage each."""
    task, recorder = workflow.config["task"], R.get_recorder()
    manifest = run_manifest(workflow, provider, variables, recorder.id)
    with stages.log.captured():
        R.log_params(**main_parameters(workflow))
        R.save_objects(task=task)
        _save_text(recorder, MANIFEST, json.dumps(manifest, indent=1, default=str, ensure_ascii=False))
    with stages("features") as said:
        dataset = init_instance_by_config(task["dataset"], accept_types=Dataset)
        check_unchanged(workflow, provider)
        said.append(_table_words(dataset))
    evaluations: dict[str, dict[str, list[float]]] = {}
    with stages("model", lambda: training_words(evaluations)) as said:
        model = init_instance_by_config(task["model"], accept_types=Model)
        with batched_metrics(recorder):
            _fit(model, dataset, evaluations)
        R.save_objects(**{"params.pkl": model})
        dataset.config(dump_all=False, recursive=True)
        R.save_objects(dataset=dataset)
        said.append(type(model).__name__)
    out = None
    task = fill_placeholder(deepcopy(task), {"<MODEL>": model, "<DATASET>": dataset})
    for config in task["record"]:
        if config["class"] == _REPORT:
            with stages.log.captured():
                R.save_objects(**{SECONDS: dict(stages.seconds)})
        with stages(_STAGES.get(config["class"], config["class"])):
            record = init_instance_by_config(
                config,
                recorder=recorder,
                default_module="qlib.workflow.record_temp",
                try_kwargs={"model": model, "dataset": dataset},
            )
            record.generate()
        out = record if config["class"] == _REPORT else out
    report, summary = (getattr(out, key, None) for key in ("report", "summary"))
    with stages.log.captured():
        R.save_objects(**{SECONDS: dict(stages.seconds)})
        recorder.save_objects(config=workflow.config)
        metrics = _complete(summary, stages.seconds) if summary is not None else None
        if metrics is not None:
            recorder.log_artifact(str(summary))
    dropped = tuple(dataset.handler.dropped_features) if isinstance(dataset.handler, PerpAlpha158) else ()
    return RunResult(workflow.name, recorder.id, report, summary, dict(stages.seconds), dropped, metrics, manifest)


def _complete(summary: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Put the seconds of all stages into `summary.json`, written before the report's were known; its content."""
    content: dict[str, Any] = {**json.loads(summary.read_text(encoding="utf-8")), "seconds": dict(seconds)}
    partial = summary.with_name(f".{summary.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(summary)
    return content


def _fit(model: Any, dataset: Any, evaluations: dict[str, dict[str, list[float]]]) -> None:
    watched = {"evals_result": evaluations} if "evals_result" in inspect.signature(model.fit).parameters else {}
    try:
        auto_filter_kwargs(model.fit)(dataset, reweighter=None, **watched)
    except ValueError as error:
        if "Empty data" not in str(error):
            raise
        raise DataError(
            "no row of the training or validation segment has a label and enough history; choose longer segments or "
            "collect more instruments"
        ) from None


def _table_words(dataset: Any) -> str:
    handler = dataset.handler
    index = handler.fetch(col_set="label", data_key=handler.DK_I).index
    names = index.get_level_values("instrument").nunique()
    return f"{len(index):,} rows, {len(handler.get_cols('feature')):,} features, {names:,} instruments"


def _save_text(recorder: Recorder, name: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(text, encoding="utf-8")
        recorder.save_objects(local_path=str(path))


def _end(stages: Stages, status: str) -> None:
    with stages.log.captured():
        _save_text(R.get_recorder(), LOG, stages.log.text)
        R.end_exp(status)


def _nothing(_recorder: Any, **_params: Any) -> None:
    """Stands in for what Qlib would print or log."""
