from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pandas as pd
import pytest

from qlib_crypto.workflow import identity
from qlib_crypto.workflow.record import DROPPED, IMPORTANCE, MISSING, FeatureRecord


def test_the_commit_is_that_of_this_repository(root):
    done = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert identity._git("rev-parse", "HEAD") == (done.stdout.strip() if done.returncode == 0 else None)


def test_a_package_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "qlib_crypto"
    package.mkdir(parents=True)
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    monkeypatch.setattr(identity, "_PACKAGE", package)
    assert identity._git("rev-parse", "HEAD") is None
    monkeypatch.setattr(identity, "_PACKAGE", tmp_path / "qlib_crypto")
    (tmp_path / "qlib_crypto").mkdir()
    assert len(identity._git("rev-parse", "HEAD")) == 40


def test_a_package_that_is_not_installed_has_no_version():
    assert identity._version("no-such-package-here") is None
    assert identity._version("pandas") == pd.__version__


@pytest.fixture
def saved():
    return {}


def test_a_model_without_gains_has_no_importance(saved):
    table = pd.DataFrame({"A": [1.0, None], "B": [None, None], "C": [1.0, 2.0]})
    dataset = SimpleNamespace(prepare=lambda *_, **__: table, handler=None)
    recorder = SimpleNamespace(save_objects=lambda **objects: saved.update(objects))
    record = FeatureRecord(model=object(), dataset=dataset, recorder=recorder)
    record.generate()
    del saved["artifact_path"]
    assert set(saved) == set(record.list()) == {DROPPED, MISSING}
    assert IMPORTANCE not in saved
    assert saved[MISSING].to_dict() == {"B": 1.0, "A": 0.5, "C": 0.0}
