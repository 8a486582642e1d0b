"""Both files whole or as they were before."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest

from qlib_crypto.errors import StorageError
from qlib_crypto.report import write
from qlib_crypto.report.write import replaced, write_report


@pytest.fixture(scope="module")
def small(make_run):
    return make_run(days=2, names=6)


def test_page_and_summary(small, tmp_path):
    path = write_report(small, tmp_path / "reports" / "demo")
    assert path == tmp_path / "reports" / "demo" / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads((path.parent / "summary.json").read_text(encoding="utf-8"))["name"] == "lightgbm_60min"
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "summary.json"]


def test_written_again_the_files_are_the_same(small, tmp_path):
    first = write_report(small, tmp_path).read_bytes()
    assert write_report(small, tmp_path).read_bytes() == first


def test_a_full_disk_leaves_the_earlier_report(small, tmp_path, monkeypatch):
    before = {p.name: p.read_bytes() for p in write_report(small, tmp_path).parent.iterdir()}

    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", full)
    with pytest.raises(StorageError, match=r"No space left on device; free space or give another folder"):
        write_report(small, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_file_in_the_way_is_one_line(small, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match=r"report .*taken") as caught:
        write_report(small, tmp_path / "taken")
    assert os.linesep not in str(caught.value)


def test_only_the_report_of_another_run_is_replaced(small, tmp_path):
    assert replaced(tmp_path, small) is None
    write_report(dataclasses.replace(small, started="2025-06-01 08:30:12"), tmp_path)
    assert replaced(tmp_path, small) is None
    assert replaced(tmp_path, dataclasses.replace(small, run_id="f00")) == (small.run_id, "2025-06-01 08:30:12 UTC")
    (tmp_path / "summary.json").write_text("[]")
    assert replaced(tmp_path, small) is None
