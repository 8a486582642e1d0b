from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from support_provider import synthetic_bars, write_provider

from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.features.loader import PerpLoader
from qlib_crypto.settings import Settings
from qlib_crypto.workflow.load import load_run
from qlib_crypto.workflow.run import RunResult, run, training_words

# MLflow's own models use a loader strategy that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

STAGES = ["check", "open", "features", "model", "predict", "signal", "importance", "backtest", "report"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The working directory of the runs in this module: MLflow puts its files there."""
    before = Path.cwd()
    folder = tmp_path_factory.mktemp("home")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def settings(home, hourly_provider):
    tracking = f"sqlite:///{home / 'runs.db'}"
    return Settings(provider_dir=hourly_provider, reports_dir=home / "reports", tracking_uri=tracking)


@pytest.fixture(scope="module")
def hourly_yaml(root):
    return root / "workflows" / "lightgbm_60min.yaml"


@pytest.fixture(scope="module")
def finished(hourly_yaml, settings, module_span) -> tuple[RunResult, list[str], str]:
    """The hourly workflow, run once: the result, what the user was told, what was printed."""
    told: list[str] = []
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        result = run(hourly_yaml, variables=module_span, settings=settings, progress=told.append)
    return result, told, printed.getvalue()


@pytest.fixture(scope="module")
def stored(finished, settings):
    return load_run("lightgbm_60min", tracking_uri=settings.tracking_uri)


def test_the_user_sees_the_stages_and_nothing_else(finished):
    result, told, printed = finished
    assert list(result.seconds) == STAGES
    assert all(seconds >= 0 for seconds in result.seconds.values())
    lines = [line.split()[0] for line in told if not line.startswith(" ")]
    assert lines == STAGES
    assert "188 features, 6 instruments" not in told[2]  # VWAP0 is gone
    assert any("dropped 1 feature without a value" in line and "VWAP0" in line for line in told)
    assert printed == ""


def test_the_learning_curve_is_stored_round_by_round(finished, settings):
    result, _, _ = finished
    history = MlflowClient(settings.tracking_uri).get_metric_history(result.run_id, "l2.valid")
    assert [m.step for m in history] == list(range(len(history)))
    assert len(history) > 1
    assert len({m.value for m in history}) > 1


def test_mlflow_shows_a_name_and_what_people_compare_runs_by(finished, settings, module_span):
    result, _, _ = finished
    stored = MlflowClient(settings.tracking_uri).get_run(result.run_id)
    assert stored.info.run_name == "lightgbm_60min okx_60min 2025-02-15 to 2025-02-28 TOPK=2 NUM_THREADS=1"
    expected = {
        "market": "okx_60min", "topk": "2", "taker_fee": "0.0005", "label_bars_ahead": "2", "interval": "60min",
        "learning_rate": "0.05", "model": "LGBModel", "rebalance_every": "8",
        "train": f"{module_span['TRAIN_START']} to {module_span['TRAIN_END']}",
        "test": f"{module_span['TEST_START']} to {module_span['TEST_END']}",
    }  # fmt: skip
    assert {key: stored.data.params[key] for key in expected} == expected
    assert not [key for key in stored.data.params if "." in key]  # nothing twice under a long name, no command line
    assert "task" in {item.path for item in MlflowClient(settings.tracking_uri).list_artifacts(result.run_id)}


def test_mlflow_and_the_summary_agree_in_name_and_sign(stored):
    names = (
        "net_return", "gross_return", "fees", "slippage", "liquidation", "funding_paid", "funding_received",
        "funding_net", "sharpe_365", "max_drawdown", "turnover", "trades",
    )  # fmt: skip
    assert {name: stored.metrics[name] for name in names} == pytest.approx(
        {name: stored.summary[name] for name in names}
    )
    nested = ("calmar", "win_rate", "profit_factor", "var_95", "es_95")
    logged = {name: stored.metrics[name] for name in nested if name in stored.metrics}
    assert {"win_rate", "profit_factor"} <= set(logged)
    assert logged == pytest.approx({name: stored.summary["risk"][name] for name in logged})
    assert stored.metrics["sortino_365"] == pytest.approx(stored.summary["sortino_365"])
    assert stored.metrics["IC"] == pytest.approx(stored.summary["ic"], abs=1e-6)
    assert stored.metrics["Rank IC"] == pytest.approx(stored.summary["rank_ic"], abs=1e-6)
    assert stored.summary["funding_paid"] > 0
    assert stored.summary["funding_net"] == pytest.approx(
        stored.summary["funding_received"] - stored.summary["funding_paid"]
    )
    for key in ("symbols", "bars", "rows", "seconds"):
        assert stored.summary[key]


def test_a_training_that_goes_on_is_told_by_round_and_score():
    assert training_words({}) == ""
    assert training_words({"train": {"l2": [1.0]}, "valid": {"l2": []}}) == ""
    assert training_words({"train": {"l2": [1.0, 0.9]}, "valid": {"l2": [1.0, 0.98765]}}) == (
        "round 2, validation l2 0.98765"
    )


def test_the_user_hears_of_a_long_training(hourly_yaml, settings, module_span, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr("qlib_crypto.workflow.quiet.BEAT_S", 0.05)
    run(hourly_yaml, variables={**module_span, "NAME": "slow"}, settings=settings, progress=told.append)
    assert any("features … " in line for line in told)
    assert any("model … " in line and "validation l2" in line for line in told)


def test_what_a_run_stores(finished, stored):
    result, _, _ = finished
    assert stored.run_id == result.run_id
    assert stored.pred.shape == (14 * 24 * 6, 1)
    assert stored.label.index.equals(stored.pred.index)
    assert stored.steps.index[0] == pd.Timestamp("2025-02-15 00:00:00")
    assert len(stored.steps) == 14 * 24
    assert stored.dropped == ["VWAP0"]
    assert result.dropped == ("VWAP0",)
    assert list(stored.seconds) == STAGES
    assert np.isfinite(stored.metrics["IC"])
    assert stored.summary["dropped_features"] == ["VWAP0"]
    assert stored.summary["data_hash"] == "synthetic"


def test_the_importance_has_the_features_by_name(stored):
    gain = stored.importance
    assert len(gain) == 187
    assert gain.is_monotonic_decreasing
    assert gain.iloc[0] > 0
    assert {"KMID", "ROC5", "ROC5_CS", "FUND8H", "FUNDNEXT"} <= set(gain.index)
    assert "VWAP0" not in gain.index


def test_the_summary_names_the_seconds_of_every_stage(finished):
    result, _, _ = finished
    summary = json.loads(result.summary.read_text())
    assert summary["seconds"] == dict(result.seconds)
    assert result.report.read_text().startswith("<!")
    assert result.report.parent.name == "lightgbm_60min"


def test_the_manifest_says_what_the_run_was_made_from(finished, stored, module_span):
    result, _, _ = finished
    manifest = stored.manifest
    assert manifest["run_id"] == result.run_id
    assert manifest["data"]["lake_content"] == "synthetic"
    assert manifest["data"]["generation"] == 1
    assert manifest["seed"] == 7
    assert manifest["variables"] == module_span
    assert manifest["config"]["task"]["model"]["kwargs"]["num_threads"] == 1
    assert manifest["config"]["task"]["record"][0]["kwargs"]["model"] == "<MODEL>"
    assert manifest["packages"]["pyqlib"] == "0.9.7"
    assert manifest["code"]["version"]
    plain = result.to_json()
    assert json.loads(json.dumps(plain)) == plain
    assert set(plain) == {"name", "run_id", "report", "summary", "seconds", "dropped", "metrics"}
    assert plain["metrics"] == json.loads(result.summary.read_text())


@pytest.mark.long
def test_the_same_seed_gives_the_same_run_and_the_newest_is_loaded(
    finished, stored, hourly_yaml, settings, module_span
):
    again = run(hourly_yaml, variables=module_span, settings=settings)
    assert again.run_id != stored.run_id
    newest = load_run("lightgbm_60min", tracking_uri=settings.tracking_uri)
    assert newest.run_id == again.run_id
    pd.testing.assert_frame_equal(newest.pred, stored.pred, check_exact=True)
    pd.testing.assert_frame_equal(newest.steps, stored.steps)
    first = load_run("lightgbm_60min", stored.run_id, tracking_uri=settings.tracking_uri)
    assert first.run_id == stored.run_id


def test_a_run_that_fails_is_stored_as_failed_and_not_loaded(hourly_yaml, settings, module_span, home):
    frames = synthetic_bars(symbols=6)
    for frame in frames.values():
        frame.loc["2025-02-20":, [c for c in frame if c.startswith("funding")]] = np.nan
    provider = write_provider(home / "holes", frames, "60min")
    variables = {**module_span, "NAME": "holes", "PROVIDER_URI": str(provider), "TRAIN_START": "2025-01-25 00:00:00"}
    told: list[str] = []
    with pytest.raises(
        DataError, match=r"funding of .* is unknown .* while -?[\d,.e+]{1,12} are held.* set missing_funding"
    ):
        run(hourly_yaml, variables=variables, settings=settings, progress=told.append)
    assert [line.split()[0] for line in told if not line.startswith(" ")] == STAGES[:7]
    assert "funding" not in told[0]  # known until the 20th
    client = MlflowClient(settings.tracking_uri)
    runs = client.search_runs([client.get_experiment_by_name("holes").experiment_id])
    assert [r.info.status for r in runs] == ["FAILED"]
    assert "qlib.log" in {item.path for item in client.list_artifacts(runs[0].info.run_id)}
    with pytest.raises(ConfigError, match="no finished run"):
        load_run("holes", tracking_uri=settings.tracking_uri)


def test_segments_without_a_row_to_learn_from(hourly_yaml, settings, module_span, home):
    frames = {name: frame.loc["2025-02-06":] for name, frame in synthetic_bars(symbols=6).items()}
    frames["BTC_USDT.OKX"] = synthetic_bars(symbols=1)["BTC_USDT.OKX"]  # one instrument is no cross-section
    provider = write_provider(home / "late", frames, "60min")
    variables = {**module_span, "NAME": "late", "PROVIDER_URI": str(provider)}
    with pytest.raises(DataError, match="no row of the training or validation segment"):
        run(hourly_yaml, variables=variables, settings=settings)


def test_a_conversion_while_features_are_read(hourly_yaml, settings, module_span, home, hourly_provider, monkeypatch):
    provider = shutil.copytree(hourly_provider, home / "moving")
    path = provider / "manifest.json"
    load = PerpLoader.load

    def converted_meanwhile(self, *args, **kwargs):
        path.write_text(json.dumps({**json.loads(path.read_text()), "generation": 2}))
        return load(self, *args, **kwargs)

    monkeypatch.setattr(PerpLoader, "load", converted_meanwhile)
    with pytest.raises(DataError, match="generation 1, now 2"):
        run(hourly_yaml, variables={**module_span, "PROVIDER_URI": str(provider), "NAME": "moving"}, settings=settings)


def test_a_database_that_does_not_exist_yet_is_told_of_in_one_line(tmp_path, capfd):
    with pytest.raises(ConfigError, match="no experiment 'demo'"):
        load_run("demo", tracking_uri=f"sqlite:///{tmp_path / 'new.db'}")
    assert capfd.readouterr() == ("", "")


def test_an_unknown_experiment_or_run(finished, settings):
    with pytest.raises(ConfigError, match=r"no experiment 'lightgbm_60mn'; did you mean lightgbm_60min\?"):
        load_run("lightgbm_60mn", tracking_uri=settings.tracking_uri)
    with pytest.raises(ConfigError, match="has no run 'f00'"):
        load_run("lightgbm_60min", "f00", tracking_uri=settings.tracking_uri)


@pytest.mark.long
def test_plain_qrun_gives_the_same_predictions_and_money(stored, hourly_yaml, settings, module_span, home):
    environment = {
        **os.environ,
        **module_span,
        "NAME": "plain",
        "PROVIDER_URI": str(settings.provider_dir),
        "TRACKING_URI": settings.tracking_uri,
        "REPORT_DIR": str(settings.reports_dir),
    }
    qrun = Path(sys.executable).with_name("qrun")
    done = subprocess.run(
        [qrun, str(hourly_yaml)], env=environment, cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    plain = load_run("plain", tracking_uri=settings.tracking_uri)
    pd.testing.assert_frame_equal(plain.pred, stored.pred, check_exact=True)
    pd.testing.assert_frame_equal(plain.steps, stored.steps)
    pd.testing.assert_series_equal(plain.importance, stored.importance)
    assert plain.dropped == stored.dropped
    assert (settings.reports_dir / "plain" / "report.html").is_file()
