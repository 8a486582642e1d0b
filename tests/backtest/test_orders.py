from __future__ import annotations

import json
import math

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qlib_crypto.backtest import orders
from qlib_crypto.backtest.orders import OrderRules, admit, load_specs, worse_tick
from qlib_crypto.errors import SchemaError

size = st.floats(-100, 100)
positive = st.floats(1e-3, 1e3)


def test_a_size_is_cut_towards_zero_to_whole_lots():
    assert admit(1.2345, held=0, price=10, rules=OrderRules(lot_base=0.1)).quantity == pytest.approx(1.2)
    assert admit(-1.2999, held=0, price=10, rules=OrderRules(lot_base=0.1)).quantity == pytest.approx(-1.2)
    assert admit(0.3, held=0, price=10, rules=OrderRules(lot_base=0.1)).quantity == pytest.approx(0.3)


def test_a_lot_that_rounds_to_nothing_is_no_order():
    assert admit(0.0004, held=0, price=60_000, rules=OrderRules(lot_base=0.001)) == (0.0, orders.BELOW_LOT)


def test_an_order_below_the_minimum_size_or_notional_is_refused():
    assert admit(0.5, held=0, price=10, rules=OrderRules(min_base=1.0)) == (0.0, orders.BELOW_MINIMUM)
    assert admit(0.5, held=0, price=9.99, rules=OrderRules(min_notional_quote=5.0)) == (0.0, orders.BELOW_NOTIONAL)
    assert admit(0.5, held=0, price=10, rules=OrderRules(min_notional_quote=5.0)) == (0.5, "")


def test_closing_exactly_is_exempt_from_every_size_rule():
    rules = OrderRules(lot_base=1.0, min_base=5.0, min_notional_quote=100.0)
    assert admit(-0.123, held=0.123, price=10, rules=rules, may_open=False, notional_limit=0) == (-0.123, "")


@given(
    st.floats(1e-8, 1e6),
    st.sampled_from([1e-8, 1e-4, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0]),
    st.sampled_from([-1, 1]),
)
@example(50_000.3, 0.1, 1)
@example(0.3, 0.1, -1)
@example(1e-9, 0.1, -1)
def test_a_worse_tick_is_the_next_one_on_the_worse_side(price, tick, side):
    found = worse_tick(price, tick, side)
    ticks = round(found / tick)
    assert ticks >= 1
    assert found == ticks * tick
    assert abs(found - price) < tick * (1 + 1e-6)
    if ticks > 1 or side > 0:
        assert (found - price) * side >= -2e-9 * price
    assert worse_tick(found, tick, side) == found
    assert worse_tick(price, 0.0, side) == price


def test_without_a_price_nothing_trades_not_even_a_close():
    assert admit(-1.0, held=1.0, price=math.nan) == (0.0, orders.NO_PRICE)


def test_unknown_funding_lets_a_position_only_shrink():
    assert admit(1.0, held=0.0, price=10, may_open=False) == (0.0, orders.FUNDING_UNKNOWN)
    assert admit(1.0, held=2.0, price=10, may_open=False) == (0.0, orders.FUNDING_UNKNOWN)
    assert admit(-1.0, held=2.0, price=10, may_open=False) == (-1.0, "")
    assert admit(-5.0, held=2.0, price=10, may_open=False) == (-2.0, orders.FUNDING_UNKNOWN)


def test_the_leverage_cap_scales_an_order_and_never_stops_a_reduction():
    assert admit(10.0, held=0.0, price=10, notional_limit=60) == (6.0, orders.CLIPPED_LEVERAGE)
    assert admit(-10.0, held=2.0, price=10, notional_limit=60) == (-8.0, orders.CLIPPED_LEVERAGE)
    assert admit(1.0, held=8.0, price=10, notional_limit=60) == (0.0, orders.LEVERAGE)
    assert admit(-1.0, held=8.0, price=10, notional_limit=60) == (-1.0, "")
    assert admit(-9.0, held=8.0, price=10, notional_limit=-5) == (-8.0, orders.CLIPPED_LEVERAGE)


@example(2e-15, 32.0, 1.0, 0.0, False, 0.0, 0.0, 0.0)  # lost in the sum, and yet no reduction
@given(size, size, positive, st.floats(-10, 1e4), st.booleans(), st.floats(0, 2), st.floats(0, 2), st.floats(0, 50))
def test_what_is_admitted_obeys_every_rule(wanted, held, price, limit, may_open, lot, least, notional):
    assume(lot == 0 or lot > 1e-6)
    rules = OrderRules(lot, least, notional)
    quantity, note = admit(
        wanted, held=held, price=price, rules=rules, may_open=may_open, notional_limit=limit
    )  # fmt: skip
    assert abs(quantity) <= abs(wanted)
    assert quantity * wanted >= 0
    assert bool(note) or quantity == wanted or math.isclose(quantity, wanted, abs_tol=lot * 1.01)
    after = held + quantity
    if quantity in (0, -held):
        return
    if not may_open:
        assert (quantity > 0) != (held > 0)
        assert after * held >= 0
    if abs(after) > abs(held) or after * held < 0:
        assert abs(after) * price <= max(limit, 0) * (1 + 1e-9) + 1e-9
    assert abs(quantity) * price >= notional
    assert abs(quantity) >= least * (1 - 1e-8)
    if lot:
        assert math.isclose(quantity / lot, round(quantity / lot), abs_tol=1e-6)


def test_specs_are_read_from_one_object_or_one_a_line(tmp_path):
    btc = {"lot_base": 0.0001, "min_base": 0.0001, "min_notional_quote": None, "tick_size": 0.1, "spec_source": "venue"}
    eth = {"lot_base": 0.001}
    one, lines = tmp_path / "one.json", tmp_path / "lines.json"
    one.write_text(json.dumps({"BTC_USDT.OKX": btc, "ETH_USDT.OKX": eth}, indent=1))
    lines.write_text(json.dumps({"BTC_USDT.OKX": btc}) + "\n" + json.dumps({"ETH_USDT.OKX": eth}) + "\n")
    expected = {
        "BTC_USDT.OKX": OrderRules(0.0001, 0.0001, 0.0, 0.1, "venue"),
        "ETH_USDT.OKX": OrderRules(0.001, 0.0, 0.0, 0.0, "assumed"),
    }
    assert load_specs(one) == load_specs(lines) == expected
    assert load_specs(tmp_path / "absent.json") == {}


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"A_USDT.OKX": 3}', '{"A_USDT.OKX": {"lot_base": -1}}', '{"A": {"lot_base": "x"}}']
)
def test_a_file_of_another_shape_is_named(tmp_path, text):
    path = tmp_path / "specs.json"
    path.write_text(text)
    with pytest.raises(SchemaError, match=r"specs\.json"):
        load_specs(path)
