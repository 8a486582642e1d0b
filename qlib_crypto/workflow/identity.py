"""What a run was made from: data, code, configuration and packages, for `manifest.json`."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import qlib_crypto
from qlib_crypto.provider.manifest import Manifest
from qlib_crypto.workflow.check import Workflow

PACKAGES = ("pyqlib", "pandas", "numpy", "lightgbm", "scikit-learn", "scipy", "mlflow", "pyarrow")
_PACKAGE = Path(qlib_crypto.__file__).resolve().parent


def run_manifest(workflow: Workflow, provider: Manifest, variables: Mapping[str, str], run_id: str) -> dict[str, Any]:
    """What one run was made from, as JSON values (times of the configuration as text).

    ============ =====================================================================================================
    key          value
    ============ =====================================================================================================
    run_id, name MLflow's id; the experiment
    started      UTC, ISO 8601
    workflow     the file
    variables    those that were given
    config       the configuration after Jinja
    seed         of the model
    data         provider folder, its generation, and `lake_content`, the hash of the lake that it was made from
    code         version of this package, git commit and whether files differ from it; null outside a repository
    packages     versions of what computes
    python       its version
    ============ =====================================================================================================
    """
    commit = _git("rev-parse", "HEAD")
    return {
        "run_id": run_id,
        "name": workflow.name,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "workflow": str(workflow.path),
        "variables": dict(variables),
        "config": workflow.config,
        "seed": workflow.seed,
        "data": {
            "provider": str(workflow.provider),
            "generation": provider.generation,
            "lake_content": provider.lake_content,
            "code_version": provider.code_version,
        },
        "code": {
            "version": qlib_crypto.__version__,
            "commit": commit,
            "changed": bool(_git("status", "--porcelain", "--", str(_PACKAGE))) if commit else None,
        },
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says about the repository that this package is the source of, None outside one."""
    try:
        top = _output("rev-parse", "--show-toplevel")
        return _output(*arguments) if Path(top).resolve() == _PACKAGE.parent else None
    except (OSError, subprocess.CalledProcessError):
        return None


def _output(*arguments: str) -> str:
    command = ["git", "-C", str(_PACKAGE), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
