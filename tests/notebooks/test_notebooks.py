"""The notebooks run from the first cell to the last, as a reader would run them, on a small provider."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import jupytext
import nbclient
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_provider import synthetic_bars, write_provider

SOURCES = ("data_tour", "workflow_tour")


@pytest.fixture(scope="module")
def home(tmp_path_factory, root):
    """A folder that looks like the repository, with a provider of its own: notebooks write beside it."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "workflows").symlink_to(root / "workflows")
    write_provider(folder / "qlib_data", synthetic_bars(symbols=6), "60min")
    return folder


@pytest.fixture
def execute(home, root, monkeypatch):
    """A function that executes a notebook in `home` and returns it."""
    for name in list(os.environ):
        if name.startswith(("QLIB_CRYPTO_", "TOUR_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TOUR_VARIABLES", json.dumps({"TOPK": 2, "NUM_THREADS": 1}))

    def run(name):
        notebook = jupytext.read(root / "workflows" / "notebooks" / f"{name}.py")
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        resources = {"metadata": {"path": str(home)}}
        return nbclient.NotebookClient(notebook, timeout=240, resources=resources).execute()

    return run


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def figures(notebook):
    found = [output.data["application/vnd.plotly.v1+json"] for output in outputs(notebook)
             if "application/vnd.plotly.v1+json" in output.get("data", {})]  # fmt: skip
    return [figure for figure in found if figure["data"]]


@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_jupytext_and_hold_no_outputs(root, name):
    notebook = jupytext.read(root / "workflows" / "notebooks" / f"{name}.py")
    assert notebook.cells[0].source.startswith("# ")
    assert all(not cell.get("outputs") for cell in notebook.cells)


def opens_offline(notebook):
    html = [output.data["text/html"] for output in outputs(notebook) if "text/html" in output.get("data", {})]
    library = [text for text in html if "plotly.js v" in text]
    drawn = [text for text in html if "Plotly.newPlot" in text and text not in library]
    return len(library) == 1 and len(drawn) == len(figures(notebook))


@pytest.mark.long
def test_data_tour(execute):
    notebook = execute("data_tour")
    drawn = figures(notebook)
    assert opens_offline(notebook)
    assert [figure["layout"]["title"]["text"] for figure in drawn] == [
        "BTC_USDT.OKX",
        "What a long paid since the start: the six with the most funding",
        "Bars, 60min",
        "Known funding",
    ]
    text = " ".join(output.get("text", "") for output in outputs(notebook))
    assert "okx_60min: 6 instruments" in text
    tables = " ".join(output.get("data", {}).get("text/html", "") for output in outputs(notebook))
    assert "under 90 days" in tables, "60 days of funding are not made into a year's"
    assert ">nan%" not in tables
    assert not [output for output in outputs(notebook) if output.output_type == "stream" and output.name == "stderr"]


@pytest.mark.long
def test_workflow_tour(execute, home):
    notebook = execute("workflow_tour")
    assert len(figures(notebook)) == 6
    assert opens_offline(notebook)
    summary = json.loads((home / "reports" / "workflow_tour" / "summary.json").read_text(encoding="utf-8"))
    assert summary["symbols"] == 6
    text = " ".join(output.get("text", "") for output in outputs(notebook))
    assert "reports/workflow_tour/report.html" in text
