from __future__ import annotations

from pathlib import Path

import pytest
from qlib.cli.run import render_template
from ruamel.yaml import YAML

from qlib_crypto.errors import ConfigError
from qlib_crypto.workflow.template import render, variables_of

WORKFLOWS = ("lightgbm_60min", "lightgbm_5min", "lightgbm_day")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_configuration_is_the_one_that_qrun_sees(root, monkeypatch, name):
    path = root / "workflows" / f"{name}.yaml"
    variables = {"MARKET": "binance_60min", "TOPK": "7", "TEST_END": "2025-03-01 00:00:00", "SEED": "0"}
    for variable in variables_of(path):
        monkeypatch.delenv(variable, raising=False)
    assert render(path, {}) == YAML(typ="safe", pure=True).load(render_template(str(path)))
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    config = render(path, variables)
    assert config == YAML(typ="safe", pure=True).load(render_template(str(path)))
    assert config["task"]["dataset"]["kwargs"]["handler"]["kwargs"]["instruments"] == "binance_60min"
    assert config["task"]["model"]["kwargs"]["seed"] == 0
    assert config["task"]["record"][3]["kwargs"]["config"]["strategy"]["kwargs"]["topk"] == 7


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_user_changes_is_a_variable(root, name):
    assert {
        "NAME", "PROVIDER_URI", "TRACKING_URI", "REPORT_DIR", "MARKET", "TRAIN_START", "TRAIN_END", "VALID_START",
        "VALID_END", "TEST_START", "TEST_END", "TOPK", "MISSING_FUNDING", "SEED",
    } <= set(variables_of(root / "workflows" / f"{name}.yaml"))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "variables", "message"),
    [
        ("a: {{ TOPK }}", {}, "'TOPK' is undefined; give it a value"),
        ("a: {{ TOPK | default(5, true) }}", {"TOPKK": "3"}, "no variable TOPKK; did you mean TOPK?"),
        ("a: 1\nb: [1, 2", {}, ":2 is not valid YAML"),
        ("a: 1\na: 2", {}, "found duplicate key"),
        ("- 1", {}, "holds no mapping"),
        ("a: {{ TOPK", {}, ":1: "),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, variables, message):
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        render(path, variables)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_names_its_neighbour(root):
    with pytest.raises(ConfigError, match=r"does not exist; did you mean .*lightgbm_60min.yaml\?"):
        render(root / "workflows" / "lightgbm_60mn.yaml", {})


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no UTF-8"):
        render(path, {})


def test_a_file_that_is_much_too_large(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_text("a: 1\n#" + "x" * 1_000_000)
    with pytest.raises(ConfigError, match="1,000,006 bytes"):
        render(path, {})


def test_an_expression_of_a_file_reaches_no_system_call(tmp_path):
    path = tmp_path / "w.yaml"
    path.write_text("a: {{ cycler.__init__.__globals__.os.getcwd() }}")
    with pytest.raises(ConfigError, match="unsafe"):
        render(path, {})


def test_only_workflows_are_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflows").mkdir()
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "workflows" / "mine.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"config.yml does not exist; known: workflows/mine.yaml$"):
        render(Path("config.yml"), {})
