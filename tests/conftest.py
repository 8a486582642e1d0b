"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# a busy machine is no failure: speed is never asserted in a test
settings.register_profile("project", deadline=None)
settings.load_profile("project")

# before anything imports numpy or LightGBM: threads collapse under contention
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real candles, funding and recorded messages, kept beside the repository; absent on a user's machine."""
    path = ROOT.parent / "shared" / "data" / "real"
    if not path.is_dir():
        pytest.skip(f"real market data is not at {path}; it is not part of the repository")
    return path
