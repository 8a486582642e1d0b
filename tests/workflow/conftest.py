from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_provider import synthetic_bars, write_provider

from qlib_crypto.workflow.template import render

#: 60 days of hours from 2025-01-01, as `hourly_provider` has them.
SPAN = {
    "TRAIN_START": "2025-01-01 00:00:00",
    "TRAIN_END": "2025-02-05 23:00:00",
    "VALID_START": "2025-02-07 00:00:00",
    "VALID_END": "2025-02-13 23:00:00",
    "TEST_START": "2025-02-15 00:00:00",
    "TEST_END": "2025-02-28 23:00:00",
    "TOPK": "2",
    "NUM_THREADS": "1",
}


@pytest.fixture(scope="session")
def hourly_provider(tmp_path_factory) -> Path:
    """Six instruments, 60 days of hours; no vwap."""
    frames = {name: frame.assign(vwap=float("nan")) for name, frame in synthetic_bars(symbols=6).items()}
    return write_provider(tmp_path_factory.mktemp("provider") / "qlib_data", frames, "60min")


@pytest.fixture(scope="module")
def module_span() -> dict[str, str]:
    """Variables that fit `hourly_provider`."""
    return dict(SPAN)


@pytest.fixture
def hourly(root, hourly_provider) -> Mapping[str, Any]:
    """The configuration of `lightgbm_60min.yaml` on `hourly_provider`, free to be spoilt."""
    variables = {**SPAN, "PROVIDER_URI": str(hourly_provider)}
    return deepcopy(render(root / "workflows" / "lightgbm_60min.yaml", variables))
