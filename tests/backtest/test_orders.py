from __future__ import annotations

import json

import pytest

from qlib_crypto.backtest.orders import OrderRules, load_specs
from qlib_crypto.errors import SchemaError


def test_specs_are_read_from_one_object_or_one_a_line(tmp_path):
    btc = {"lot_base": 0.0001, "min_base": 0.0001, "min_notional_quote": None, "tick_size": 0.1, "spec_source": "venue"}
    eth = {"lot_base": 0.001}
    one, lines = tmp_path / "one.json", tmp_path / "lines.json"
    one.write_text(json.dumps({"BTC_USDT.OKX": btc, "ETH_USDT.OKX": eth}, indent=1))
    lines.write_text(json.dumps({"BTC_USDT.OKX": btc}) + "\n" + json.dumps({"ETH_USDT.OKX": eth}) + "\n")
    expected = {
        "BTC_USDT.OKX": ((0, OrderRules(0.0001, 0.0001, 0.0, 0.1, "venue")),),
        "ETH_USDT.OKX": ((0, OrderRules(0.001, 0.0, 0.0, 0.0, "assumed")),),
    }
    assert load_specs(one) == load_specs(lines) == expected
    assert load_specs(tmp_path / "absent.json") == {}


def test_states_are_read_with_their_times(tmp_path):
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"A_USDT.OKX": [{"since_ms": 5, "lot_base": 1}, {"since_ms": 9, "lot_base": 2}]}))
    assert load_specs(path) == {"A_USDT.OKX": ((5, OrderRules(1.0)), (9, OrderRules(2.0)))}


@pytest.mark.parametrize(
    "text",
    [
        '{"A_USDT.OKX": []}',
        '{"A_USDT.OKX": [{"since_ms": 5}, {"since_ms": 5}]}',
        "[1]",
        "{",
        '{"A_USDT.OKX": 3}',
        '{"A_USDT.OKX": {"lot_base": -1}}',
        '{"A": {"lot_base": "x"}}',
    ],
)
def test_a_file_of_another_shape_is_named(tmp_path, text):
    path = tmp_path / "specs.json"
    path.write_text(text)
    with pytest.raises(SchemaError, match=r"specs\.json"):
        load_specs(path)
