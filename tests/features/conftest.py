from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import qlib

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support_provider import synthetic_bars, write_provider


@pytest.fixture
def open_provider(tmp_path) -> Callable[..., dict[str, pd.DataFrame]]:
    """Writes bars as a provider, opens it in Qlib and returns the bars as float32, as the provider holds them."""
    count = iter(range(100))

    def open_(frames, freq="60min"):
        directory = write_provider(tmp_path / f"qlib_{next(count)}", frames, freq)
        qlib.init(provider_uri=str(directory), region="cn", kernels=1, logging_level=40)
        return {name: frame.astype("float32") for name, frame in frames.items()}

    return open_


@pytest.fixture(scope="session")
def bars() -> dict[str, pd.DataFrame]:
    """Five instruments, 30 days of hours."""
    return synthetic_bars(bars=24 * 30)
