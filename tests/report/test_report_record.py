"""The record in a real run on a real tracking store, and the report written again from it."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from qlib.config import C
from qlib.workflow.expm import MLflowExpManager
from qlib.workflow.recorder import MLflowRecorder
from typer.testing import CliRunner

from qlib_crypto.cli.app import app
from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.report.record import ReportRecord, _setup, _strategy, report_data, rewrite_report
from qlib_crypto.settings import load_settings
from qlib_crypto.workflow.load import load_run

MANIFEST = {
    "seed": 7,
    "code": {"version": "0.0.9", "commit": "77aa1e3abcdef0", "changed": True},
    "data": {"lake_content": "abc123"},
    "config": {
        "task": {
            "model": {"class": "LGBModel", "kwargs": {"num_leaves": 31, "seed": 7}},
            "record": [
                {"class": "SignalRecord"},
                {
                    "class": "PerpPortfolioRecord",
                    "kwargs": {
                        "config": {"strategy": {"class": "LongShortTopk", "kwargs": {"signal": "<PRED>", "topk": 5}}}
                    },
                },
            ],
            "dataset": {
                "kwargs": {
                    "handler": {"class": "PerpAlpha158", "kwargs": {"label": "Ref($open, -2)/Ref($open, -1) - 1"}},
                    "segments": {"train": ["2024-01-01 00:00:00", "2024-12-31 23:00:00"], "test": ["a", "b"]},
                }
            },
        }
    },
}


# MLflow 3.17 asks SQLAlchemy 2.1 for a loader that it calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A new tracking database, made once: its migrations take seconds."""
    path = tmp_path_factory.mktemp("store") / "mlruns.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(tmp_path, monkeypatch, empty_store):
    """A recorder of a running run in a new store, and its address; nothing is written outside."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlruns.db")
    monkeypatch.setattr(MLflowRecorder, "_log_uncommitted_code", lambda _: None)
    uri = f"sqlite:///{tmp_path / 'mlruns.db'}"
    manager = MLflowExpManager(uri=uri, default_exp_name="demo")
    experiment = manager.start_exp(experiment_name="demo", uri=uri)
    yield experiment.active_recorder, uri, manager
    if mlflow.active_run():
        manager.end_exp()


def save(recorder, run, **more):
    recorder.save_objects(
        **{
            "pred.pkl": run.prediction,
            "label.pkl": run.label,
            "perp_steps.pkl": run.steps,
            "perp_fills.pkl": run.fills,
            "perp_funding.pkl": run.funding,
            "perp_positions.pkl": run.positions,
            "perp_assumptions.pkl": dict(run.assumptions),
            **more,
        }
    )


@pytest.fixture(scope="module")
def small(make_run):
    return make_run(days=2, names=6)


def test_the_record_writes_and_logs_both_files(store, small, tmp_path):
    recorder, uri, manager = store
    gain = pd.Series({"KMID": 3.0, "funding_mean_8": 1.0}, name="gain")
    save(recorder, small, **{
        "feature_importance.pkl": gain, "dropped_features.pkl": ["x"], "stage_seconds.pkl": {"model": 2.5},
    })  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    recorder.save_objects(local_path=str(tmp_path / "manifest.json"))
    record = ReportRecord(recorder=recorder)
    record.generate()
    assert record.report == Path("reports/demo/report.html")
    assert record.report.is_file()
    summary = json.loads(record.summary.read_text(encoding="utf-8"))
    assert summary["run_id"] == recorder.id
    assert summary["data_hash"] == "abc123"
    assert summary["version"] == "0.0.9"
    assert summary["commit"] == "77aa1e3abc with changes"
    assert summary["dropped_features"] == ["x"]
    assert summary["seconds"] == {"model": 2.5}
    text = record.report.read_text(encoding="utf-8")
    assert "2024-01-01 00:00:00 to 2024-12-31 23:00:00" in text
    assert 'data-plot="importance"' in text
    assert set(record.list()) <= set(recorder.list_artifacts())

    manager.end_exp(recorder_status=recorder.STATUS_FI)
    settings = load_settings(options={"tracking_uri": uri})
    again = rewrite_report(settings, "demo", None, tmp_path / "elsewhere")
    assert again.read_bytes() == record.report.read_bytes()
    assert load_run("demo", tracking_uri=uri).summary == summary


def test_a_replaced_report_is_said_with_how_to_draw_it_again(store, small, tmp_path, caplog, monkeypatch):
    recorder, uri, manager = store
    monkeypatch.setitem(C.__dict__["_config"], "logging_level", logging.INFO)
    monkeypatch.setattr(logging.getLogger("qlib"), "propagate", True)
    save(recorder, small)
    ReportRecord(recorder=recorder).generate()
    assert "replaces" not in caplog.text
    manager.end_exp(recorder_status=recorder.STATUS_FI)
    second = manager.start_exp(experiment_name="demo", uri=uri).active_recorder
    save(second, small)
    caplog.clear()
    ReportRecord(recorder=second).generate()
    assert f"reports/demo replaces the report of run {recorder.id} of 20" in caplog.text
    assert f"qlib-crypto report demo --run {recorder.id}" in caplog.text

    arguments = ["report", "demo", "--run", recorder.id, "--config", str(tmp_path / "config.yaml")]
    (tmp_path / "config.yaml").write_text(f"tracking_uri: {uri}\nreports_dir: {tmp_path / 'reports'}\n")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    drawn = json.loads((tmp_path / "reports" / "demo" / recorder.id / "summary.json").read_text())
    assert drawn["run_id"] == recorder.id
    assert drawn["started"].startswith("20")
    assert json.loads((tmp_path / "reports" / "demo" / "summary.json").read_text())["run_id"] == second.id


def test_name_and_folder_are_the_workflows_to_choose(store, small, tmp_path):
    save(store[0], small)
    record = ReportRecord(recorder=store[0], report_dir=str(tmp_path / "out"), name="mine")
    record.generate()
    assert json.loads((tmp_path / "out" / "mine" / "summary.json").read_text())["name"] == "mine"


@pytest.mark.parametrize("name", ["", " ", "a/b", "..", "/tmp"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(ConfigError, match="write the name of one folder"):
        ReportRecord(name=name)


def test_a_run_without_a_backtest_says_what_to_add(store, small):
    store[0].save_objects(**{"pred.pkl": small.prediction})
    with pytest.raises(DataError, match="put PerpPortfolioRecord before ReportRecord"):
        ReportRecord(recorder=store[0]).generate()


def test_an_unknown_experiment_is_one_line(store):
    settings = load_settings(options={"tracking_uri": store[1]})
    with pytest.raises(ConfigError, match="has no experiment 'nope'"):
        rewrite_report(settings, "nope", None, Path("x"))


def test_the_record_reads_what_the_run_holds(store, small):
    save(store[0], small)
    data = report_data(load_run("demo", store[0].id, tracking_uri=store[1]), provider_hash="p")
    assert data.data_hash == "p"
    assert data.setup == {}
    for field in ("steps", "fills", "funding", "positions", "prediction", "label"):
        pd.testing.assert_frame_equal(getattr(data, field), getattr(small, field), check_freq=False)


def test_strategy_and_model_are_read_from_the_manifest_or_else_the_task():
    task = MANIFEST["config"]["task"]
    assert _strategy(task) == {"class": "LongShortTopk", "topk": 5}
    assert _setup(task, None)["Model"] == "LGBModel, seed 7"
    assert _setup(task, 7)["Model parameters"] == "num leaves 31"
    assert _strategy({}) == _setup({}, None) == {}
