from __future__ import annotations

import pytest

from qlib_crypto.lake import Lake


@pytest.fixture
def lake(tmp_path):
    store = Lake(tmp_path)
    yield store
    store.close()
