"""The arithmetic and refusals of `benchmarks/real_workflows.py`; the runs themselves are the benchmark."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from qlib_crypto.workflow.check import check_workflow
from qlib_crypto.workflow.template import render

SUMMARY = {
    "symbols": 30, "bars": 10, "rows": 300, "trades": 7, "turnover": 2.0, "quote": "USDT",
    "ic": 0.02, "ic_se": 0.01, "rank_ic": 0.03, "rank_ic_se": 0.01,
    "start_equity": 1000.0, "gross_return": 0.05, "net_return": 0.039, "fees": 10.0,
    "funding_paid": 3.0, "funding_received": 2.0, "funding_net": -1.0, "settlements": 4,
    "sharpe_365": 1.0, "max_drawdown": -0.1, "benchmarks": {"btc": 0.1, "equal": 0.2},
    "dropped_features": ["VWAP0"], "assumptions": {"funding_coverage": 0.9}, "seconds": {"model": 3.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(root):
    spec = importlib.util.spec_from_file_location("real_workflows", root / "benchmarks" / "real_workflows.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(root / "benchmarks"))  # benchmarks share modules
    spec.loader.exec_module(module)
    sys.path.remove(str(root / "benchmarks"))
    yield module
    del sys.modules[spec.name]


def test_a_measure_has_value_bounds_unit_and_check(bench):
    found = bench.measures(SUMMARY)
    assert found["seconds_model"] == {"value": 3.0, "min": 3.0, "max": 3.0, "unit": "s", "equal": None}
    assert found["net_return"]["equal"] is True
    assert found["dropped_features"]["value"] == 1


def test_a_return_that_is_not_its_parts_fails_its_check(bench):
    assert bench.measures({**SUMMARY, "net_return": 0.041})["net_return"]["equal"] is False


def test_a_folder_without_candles_is_wrong_usage(bench, tmp_path, capsys):
    assert bench.main(["--data", str(tmp_path)]) == 2
    assert "--data" in capsys.readouterr().err


def test_the_cases_are_valid_workflows(bench, root):
    for case in bench.CASES.values():
        path = root / "workflows" / f"{case.workflow}.yaml"
        checked = check_workflow(path, render(path, {"MISSING_FUNDING": "untradable", **case.variables}))
        assert checked.segments["test"][0] < checked.segments["test"][1]
