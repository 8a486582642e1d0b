from __future__ import annotations

import math

import numpy as np
import pytest

from qlib_crypto.stats.turnover import annual_turnover, step_turnover

NAN = math.nan


def test_traded_over_the_equity_before_it():
    np.testing.assert_allclose(step_turnover([50.0, 0.0, 240.0], [100.0, 120.0, 80.0, 90.0]), [0.5, 0.0, 3.0])


def test_missing_and_ruined_steps_are_nan():
    np.testing.assert_allclose(step_turnover([NAN, 10.0, 10.0, 10.0], [100.0, NAN, 0.0, -5.0, 1.0]), [NAN] * 4)


def test_a_year_of_the_same_trade():
    assert annual_turnover([10.0] * 4, [100.0] * 5, 8760) == pytest.approx(876.0)
    assert annual_turnover([10.0, NAN], [100.0] * 3, 365) == pytest.approx(36.5)


def test_edges():
    assert step_turnover([], [100.0]).size == 0
    assert math.isnan(annual_turnover([], [100.0], 365))
    with pytest.raises(ValueError, match="starting equity comes first"):
        step_turnover([1.0], [100.0])
