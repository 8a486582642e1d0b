"""`environment.yml`, `pyproject.toml`, `requirements.lock` and `.python-version` say the same."""

import re
import tomllib
from importlib.metadata import version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def lock(root):
    return read_lock(root / "requirements.lock")


def read_lock(path):
    lines = path.read_text().splitlines()
    pins = [line.split("#")[0].strip() for line in lines if re.match(r"[A-Za-z0-9]", line)]
    return {canonicalize_name(r.name): r for r in map(Requirement, pins)}


def pinned(requirement):
    (pin,) = requirement.specifier
    assert pin.operator == "==", f"{requirement} is not an exact pin"
    return pin.version


def test_lock_satisfies_every_requirement_of_pyproject(project, lock):
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned(lock[canonicalize_name(requirement.name)])), requirement


def test_environment_yml_installs_the_lock_on_the_same_python(root, project):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    assert environment["name"] == "qlib"
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python="))
    python_version = (root / ".python-version").read_text().strip()
    assert python == f"python={python_version}"
    assert SpecifierSet(project["requires-python"]).contains(f"{python_version}.1")
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == ["-r requirements.lock", "-e ."]


def test_this_environment_is_the_locked_one(lock):
    for name in ("pyqlib", "cryptofeed", "pandas", "numpy", "lightgbm", "mlflow", "plotly", "pyarrow"):
        assert version(name) == pinned(lock[name])


def test_lock_has_no_index_address_and_no_heavy_extras(root, lock):
    text = (root / "requirements.lock").read_text()
    assert "://" not in text
    assert "--index" not in text.replace("--no-emit-index-url", "")
    assert not {"torch", "ray", "vectorbt", "s3fs", "boto3"} & set(lock)


def test_lock_of_the_extras_goes_with_the_lock(root, project, lock):
    extras = read_lock(root / "requirements-extras.lock")
    wanted = [*project["optional-dependencies"]["ray"], *project["optional-dependencies"]["s3"]]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned(extras[canonicalize_name(requirement.name)])), requirement
    differing = {name for name in extras.keys() & lock.keys() if pinned(extras[name]) != pinned(lock[name])}
    assert differing <= {"python-dateutil"}, "botocore holds that one back; anything else must agree"
    assert "://" not in (root / "requirements-extras.lock").read_text()
    assert "setup.sh --extras" in (root / ".ci" / "run").read_text()


def test_test_modules_have_names_of_their_own(root):
    names = [p.name for p in (root / "tests").rglob("*.py") if p.name != "conftest.py"]
    assert sorted(names) == sorted(set(names)), "pytest imports test modules by name alone"
