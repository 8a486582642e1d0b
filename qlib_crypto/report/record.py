"""The report as a step of a workflow, and again from what a run stored.

Named in YAML, last in the list, as `record: {class: ReportRecord, module_path: qlib_crypto.report.record}`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import qlib_crypto.workflow  # noqa: F401 # isort: skip - keeps gym quiet, which Qlib's modules below import
from qlib.config import C
from qlib.log import get_module_logger
from qlib.workflow.record_temp import RecordTemp

from qlib_crypto import __version__
from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.provider.manifest import Manifest, read_manifest
from qlib_crypto.report.data import ReportData
from qlib_crypto.report.formats import text, words
from qlib_crypto.report.universe import chosen
from qlib_crypto.report.write import PAGE, SUMMARY, replaced, write_report
from qlib_crypto.settings import Settings
from qlib_crypto.workflow.load import UNIVERSE, LoadedRun, load_run

__all__ = ["ReportRecord", "report_data", "rewrite_report"]


class ReportRecord(RecordTemp):
    """Writes `{report_dir}/{name}/report.html` and `summary.json` and logs both as artifacts of the run.

    The folder shows the newest run; an earlier one's report is replaced, which is said with how to draw it again.

    Parameters
    ----------
    recorder
        Qlib's recorder of the run, with the objects of `SignalRecord` and `PerpPortfolioRecord`, and of
        `FeatureRecord` when there was one.
    report_dir
        Folder of all reports.
    name
        Folder of this one and its title; the experiment's name when None.

    Attributes
    ----------
    report, summary
        The files, None before `generate`.

    Raises
    ------
    ConfigError
        When the name is no single folder.

    """

    def __init__(self, recorder: Any = None, report_dir: str = "reports", name: str | None = None) -> None:
        super().__init__(recorder=recorder)
        if name is not None and (Path(name).name != name or not name.strip(" .")):
            raise ConfigError(f"ReportRecord name {name!r}: write the name of one folder, such as lightgbm_60min")
        self.report_dir = Path(report_dir)
        self.name = name
        self.report: Path | None = None
        self.summary: Path | None = None

    def generate(self, **_kwargs: Any) -> None:
        """Write the report of what the recorder holds now.

        Raises
        ------
        DataError
            When the run has no backtest.

        """
        experiment = self.recorder.client.get_experiment(self.recorder.experiment_id).name
        run = load_run(experiment, self.recorder.id, tracking_uri=self.recorder.uri)
        provider, manifest = _open_provider()
        if provider is not None:
            universe = chosen(provider, str((run.assumptions or {}).get("market")))
            self.recorder.save_objects(**{UNIVERSE: universe})
            run = dataclasses.replace(run, universe=universe)
        data = report_data(run, name=self.name, provider_hash=manifest.lake_content if manifest else None)
        folder = self.report_dir / Path(data.name).name
        if earlier := replaced(folder, data):
            get_module_logger("report").warning(
                "%s replaces the report of run %s of %s; to draw that again: qlib-crypto report %s --run %s",
                folder, *earlier, experiment, earlier[0],
            )  # fmt: skip
        self.report, self.summary = write_report(data, folder), folder / SUMMARY
        for path in (self.report, self.summary):
            self.recorder.log_artifact(str(path))
        get_module_logger("report").info("report %s", self.report)

    def list(self) -> list[str]:
        """The names of the logged artifacts."""
        return [PAGE, SUMMARY]


def rewrite_report(settings: Settings, experiment: str, run_id: str | None, out_dir: Path) -> Path:
    """The page of a stored run, written again to `out_dir`; the newest finished run when `run_id` is None.

    Raises
    ------
    ConfigError
        When there is no such experiment or run.
    DataError
        When the run has no backtest, or an object of it cannot be read.

    """
    return write_report(report_data(load_run(experiment, run_id, tracking_uri=settings.tracking_uri)), out_dir)


def report_data(run: LoadedRun, *, name: str | None = None, provider_hash: str | None = None) -> ReportData:
    """The report's data from what a run stored.

    Parameters
    ----------
    run
        As `load_run` gives it.
    name
        The title; the experiment when None.
    provider_hash
        The lake's content hash for a run that has no manifest of its own (plain `qrun`).

    Raises
    ------
    DataError
        When the run has no backtest.

    """
    if run.steps is None or run.fills is None or run.funding is None or run.positions is None:
        raise DataError(
            f"run {run.run_id} of {run.name} has no backtest to report; put PerpPortfolioRecord before ReportRecord"
        )
    manifest = run.manifest or {}
    task = manifest.get("config", {}).get("task") or run.task or {}
    code = manifest.get("code", {})
    return ReportData(
        name=name or run.name,
        steps=run.steps,
        fills=run.fills,
        funding=run.funding,
        positions=run.positions,
        prediction=run.pred,
        label=run.label,
        assumptions=run.assumptions or {},
        feature_importance=run.importance,
        dropped_features=tuple(run.dropped or ()),
        setup=_setup(task, manifest.get("seed")),
        strategy=_strategy(task),
        seconds=run.seconds or {},
        universe=run.universe or {},
        run_id=run.run_id,
        started=run.started or None,
        data_hash=manifest.get("data", {}).get("lake_content") or provider_hash,
        version=code.get("version") or __version__,
        commit=f"{code['commit'][:10]}{' with changes' if code.get('changed') else ''}" if code.get("commit") else None,
    )


def _setup(task: Mapping[str, Any], seed: int | None) -> dict[str, str]:
    """What was learned from what, from the run's task; empty without one."""
    model, dataset = task.get("model", {}), task.get("dataset", {}).get("kwargs", {})
    if not model or not dataset:
        return {}
    parameters = dict(model.get("kwargs") or {})
    seed = parameters.pop("seed", None) if seed is None else seed
    lines = {"Model": f"{model.get('class')}, {'no seed' if seed is None else f'seed {seed}'}"}
    parameters.pop("seed", None)
    if parameters:
        lines["Model parameters"] = ", ".join(f"{words(key)} {text(value)}" for key, value in parameters.items())
    handler = dataset.get("handler", {})
    lines["Features"] = str(handler.get("class"))
    if label := handler.get("kwargs", {}).get("label"):
        lines["Label"] = str(label)
    segments = dataset.get("segments", {})
    names = {"train": "Training", "valid": "Validation", "test": "Test"}
    return lines | {names.get(key, key): f"{first} to {last}" for key, (first, last) in segments.items()}


def _strategy(task: Mapping[str, Any]) -> dict[str, Any]:
    """Class and settings of the portfolio record's strategy; empty without one."""
    for record in task.get("record") or ():
        strategy = ((record.get("kwargs") or {}).get("config") or {}).get("strategy") or {}
        if strategy:
            settings = strategy.get("kwargs") or {}
            return {"class": strategy.get("class")} | {k: v for k, v in settings.items() if k != "signal"}
    return {}


def _open_provider() -> tuple[Path, Manifest] | tuple[None, None]:
    """The folder and the manifest of the provider that is open, None when it has no manifest."""
    for folder in C.dpm.provider_uri.values() if C.registered else ():
        manifest = read_manifest(Path(folder))
        if manifest is not None:
            return Path(folder), manifest
    return None, None
