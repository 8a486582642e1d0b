from __future__ import annotations

import math

import pandas as pd
import pytest

from qlib_crypto.report import formats

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (formats.percent(0.12345), "12.35%"),
        (formats.percent(-0.5, signed=True), f"{MINUS}50.00%"),
        (formats.percent(0.5, 1, signed=True), "+50.0%"),
        (formats.percent(-0.00001), "0.00%"),
        (formats.percent(0.0, signed=True), "0.00%"),
        (formats.percent(None), DASH),
        (formats.percent(math.nan), DASH),
        (formats.number(-1234.5), f"{MINUS}1,234.50"),
        (formats.number(math.inf), DASH),
        (formats.money(999.994), "999.99"),
        (formats.money(-12345.678, signed=True), f"{MINUS}12,346"),
        (formats.integer(1234567), "1,234,567"),
        (formats.times(1.256), "1.26\N{MULTIPLICATION SIGN}"),
        (formats.times(None), DASH),
        (formats.step(pd.Timedelta("5min")), "5 minutes"),
        (formats.step(pd.Timedelta("1h")), "1 hour"),
        (formats.step(pd.Timedelta("4h")), "4 hours"),
        (formats.step(pd.Timedelta("1D")), "1 day"),
        (formats.step(None), DASH),
        (formats.days(pd.Timestamp("2025-01-01"), pd.Timestamp("2028-01-06")), "1,100 days"),
        (formats.days(pd.Timestamp("2025-01-01"), pd.Timestamp("2025-01-02")), "1 day"),
        (formats.days(pd.Timestamp("2025-01-01"), pd.Timestamp("2025-01-02 12:00")), "1.5 days"),
        (formats.text(True), "yes"),
        (formats.text(100_000.0), "100,000"),
        (formats.text(-0.0005), f"{MINUS}0.0005"),
        (formats.text(math.nan), DASH),
        (formats.text([]), "none"),
        (formats.text({}), "none"),
        (formats.text(["a", 2]), "a, 2"),
        (formats.text({"taker_fee": 0.1}), "taker fee: 0.1"),
        (formats.text(range(3)), "range(0, 3)"),
    ],
)  # fmt: skip
def test_written(written, expected):
    assert written == expected


def test_a_long_list_is_cut():
    assert formats.text(list(range(45))).endswith("39 and 5 more")
