"""`report.html` and `summary.json` of a run, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

from qlib_crypto.errors import StorageError
from qlib_crypto.report.data import ReportData
from qlib_crypto.report.html import page
from qlib_crypto.report.measures import measure
from qlib_crypto.report.summary import summarise, to_json

__all__ = ["PAGE", "SUMMARY", "replaced", "write_report"]

PAGE, SUMMARY = "report.html", "summary.json"


def write_report(data: ReportData, out_dir: Path) -> Path:
    """The path of the page, `out_dir/report.html`; `out_dir/summary.json` is written first.

    The same data give the same bytes. A reader sees an earlier file or the whole new one.

    Raises
    ------
    StorageError
        When the folder or a file cannot be written.

    """
    measures = measure(data)
    summary = summarise(data, measures)
    texts = {SUMMARY: to_json(summary), PAGE: page(data, measures, summary)}
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _replace(out_dir / name, text)
    except OSError as error:
        raise StorageError(
            f"report {out_dir}: {error.strerror or error}; free space or give another folder (reports_dir, --out)"
        ) from None
    return out_dir / PAGE


def replaced(out_dir: Path, data: ReportData) -> tuple[str, str] | None:
    """Id and time of the run whose report in `out_dir` one of `data` would replace; None when there is no other."""
    try:
        earlier = json.loads((out_dir / SUMMARY).read_text(encoding="utf-8"))
        run_id, started = earlier["run_id"], earlier.get("started")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (
        None
        if run_id is None or run_id == data.run_id
        else (str(run_id), f"{started} UTC" if started else "unknown time")
    )


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
