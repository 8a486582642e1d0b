"""The conversion benchmark on a small market: what it compares is equal, and it says so."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "convert.py"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(PATH.parent))  # benchmarks share modules
    spec = importlib.util.spec_from_file_location("benchmarks_convert", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "COUNT", 6)
    monkeypatch.setattr(module, "CALENDAR_DAYS", 60)
    return module


@pytest.mark.long
@pytest.mark.timeout(600)
def test_everything_compared_is_equal(bench, tmp_path, capsys):
    asked = ["--runs", "1", "--days", "3", "--folder", str(tmp_path), "--json"]
    for part in ("full", "from_days", "append", "calendar"):
        asked += ["--part", part]
    assert bench.main(asked) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["bench"], said["runs"]) == ("convert", 1)
    named = {"full_wall", "full_cpu", "from_days_limit", "append_unsynced", "append_synced", "peak_mb", "calendar"}
    assert named <= set(said["measures"])
    assert all(one["value"] > 0 for one in said["measures"].values())
    equal = {name: one["equal"] for name, one in said["measures"].items()}
    assert equal["full_wall"] is equal["from_days_limit"] is equal["append_unsynced_ms"] is equal["calendar"] is True
    assert equal["append_unsynced"] is None, "without Qlib's script there is nothing to compare an append with"
