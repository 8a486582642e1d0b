"""A sample of `qlib-crypto bench ingest`: every part ends with an equality check that can fail."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from support_lake import BTC

from qlib_crypto.lake import Lake


@pytest.fixture(scope="module")
def bench():
    path = Path(__file__).parents[2] / "benchmarks" / "ingest.py"
    spec = importlib.util.spec_from_file_location("benchmarks_ingest", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))  # benchmarks share modules
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    yield module
    del sys.modules[spec.name]


def test_what_is_measured_is_what_is_read_back(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "PARQUET_ROWS", 5)
    parts = ["--part", "sustained", "--part", "burst", "--part", "parquet"]
    assert bench.main([*parts, "--seconds", "0.1", "--bursts", "4", "--folder", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bench"] == "ingest"
    assert {"ingest_rows_per_s", "burst_p99_ms", "raw_p99_ms", "jsonl_rows_per_s", "parquet_rows_per_s"} <= set(
        told["measures"]
    )
    assert all(set(one) == {"value", "min", "max", "unit", "equal"} for one in told["measures"].values())
    assert all(one["equal"] and one["value"] > 0 for one in told["measures"].values())
    assert list(tmp_path.iterdir()) == []


def test_the_equality_check_sees_a_missing_a_wrong_and_a_foreign_row(bench, tmp_path):
    for k, rows in enumerate((
        bench.bars(0, 2)[:-1],
        [bench.bars(0)[0]._replace(close=7.0), *bench.bars(0, 2)[1:]],
        [*bench.bars(0, 2), bench.bars(0)[0]._replace(instrument=BTC)],
        bench.bars(0, 2),
    )):  # fmt: skip
        lake = Lake(tmp_path / str(k))
        lake.store(rows)
        assert bench.equal(lake, range(2)) == (k == 3)
        lake.close()


@pytest.mark.long
def test_a_day_is_sealed_while_bursts_go_on(bench, tmp_path, capsys):
    assert bench.main(["--part", "seal", "--folder", str(tmp_path), "--json"]) == 0
    assert all(one["equal"] for one in json.loads(capsys.readouterr().out)["measures"].values())
