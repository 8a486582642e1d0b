"""What the commands of research and back-fill say at their end."""

from __future__ import annotations

import re

import pytest

from qlib_crypto.cli.collecting import _say_missing
from qlib_crypto.cli.demo import ic_verdict
from qlib_crypto.cli.research import result_lines
from qlib_crypto.clock import parse_utc
from qlib_crypto.collect import BackfillPlan, BackfillSummary
from qlib_crypto.symbols import Instrument, Venue

SUMMARY = {
    "ic": 0.08274, "ic_se": 0.00598, "rank_ic": 0.08049, "rank_ic_se": 0.00595, "net_return": 0.27555,
    "gross_return": 0.28748, "sharpe_365": 20.098, "max_drawdown": -0.01253, "turnover": 79.144,
    "turnover_per_day": 3.039, "trades": 1115, "fees": 4425.5, "funding_net": 3232.1, "quote": "USDT",
    "symbols": 31, "bars": 625, "assumptions": {"funding_coverage": 0.9876},
}  # fmt: skip


def test_a_run_ends_with_its_numbers():
    assert dict(result_lines(SUMMARY)) == {
        "IC": "0.0827 ± 0.0060, rank IC 0.0805 ± 0.0060",
        "return": "+27.56% net, +28.75% gross",
        "Sharpe, 365 d": "20.10, max drawdown -1.25%",
        "fees, funding": "-4,426, +3,232 USDT",
        "turnover": "79.1 x equity, 3.04 a day, 1,115 trades",
        "coverage": "31 instruments, 625 bars, funding known in 98.8%",
    }


def test_numbers_that_do_not_exist_are_undefined():
    lines = dict(result_lines({**SUMMARY, "ic": None, "sharpe_365": None, "assumptions": {}}))
    assert lines["IC"].startswith("undefined ± 0.0060")
    assert lines["Sharpe, 365 d"].startswith("undefined")
    assert lines["coverage"].endswith("known in undefined")
    assert result_lines({}) == []


@pytest.mark.parametrize(
    ("ic", "words"), [(0.0764, "81% of the 0.0940 .*: passed, 50%"), (0.04, "43% .*NOT passed"), (None, "0% .*NOT")]
)
def test_the_demo_says_whether_the_model_found_enough(ic, words):
    assert re.match(words, ic_verdict(ic, 0.094))


def test_rows_older_than_rest_reaches_say_so(capsys):
    spans = [(parse_utc("2025-01-29"), parse_utc("2025-02-28"))]
    missing = {Instrument.parse("BTC_USDT", Venue.OKX): spans}
    for reached in ("2025-02-28", "2025-01-29"):
        plan = BackfillPlan("funding", 1, 9, 0, 0, 0.0, 0.0, "nothing", 9, parse_utc(reached), {})
        _say_missing("settlements", BackfillSummary(1, plan, 0, missing, {}, ()))
    old, new = capsys.readouterr().err.splitlines()
    assert old.endswith("; REST ends at 2025-02-28 00:00:00")
    assert new.endswith("→ 2025-02-28 00:00:00")
