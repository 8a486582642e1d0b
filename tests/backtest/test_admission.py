from __future__ import annotations

import math

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qlib_crypto.backtest.admission import sized, towards, worse_tick
from qlib_crypto.backtest.notes import BELOW_LOT, BELOW_MINIMUM, BELOW_NOTIONAL, CLIPPED_TIER, WHOLE

size = st.floats(-100, 100)
positive = st.floats(1e-3, 1e3)


def cut(quantity, *, held=0.0, price=10.0, lot=0.0, least=0.0, notional=0.0):
    return sized(quantity, WHOLE, held, price, lot, least, notional)


def test_a_size_is_cut_towards_zero_to_whole_lots():
    assert cut(1.2345, lot=0.1)[0] == pytest.approx(1.2)
    assert cut(-1.2999, lot=0.1)[0] == pytest.approx(-1.2)
    assert cut(0.3, lot=0.1)[0] == pytest.approx(0.3)


def test_a_lot_that_rounds_to_nothing_is_no_order():
    assert cut(0.0004, price=60_000, lot=0.001) == (0.0, BELOW_LOT)


def test_an_order_below_the_minimum_size_or_notional_is_refused():
    assert cut(0.5, least=1.0) == (0.0, BELOW_MINIMUM)
    assert cut(0.5, price=9.99, notional=5.0) == (0.0, BELOW_NOTIONAL)
    assert cut(0.5, notional=5.0) == (0.5, WHOLE)


def test_closing_exactly_is_exempt_from_every_size_rule_and_keeps_its_note():
    assert sized(-0.123, CLIPPED_TIER, 0.123, 10.0, 1.0, 5.0, 100.0) == (-0.123, CLIPPED_TIER)


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


@pytest.mark.parametrize(
    ("held", "wanted", "most", "part"),
    [
        (0, 10, 6, 6), (2, -10, 6, -8), (8, 1, 6, 0), (8, -1, 6, -1), (8, -9, 0, -8), (0, 1, 0, 0), (2, 1, 0, 0),
        (2, -1, 0, -1), (2, -5, 0, -2), (-8, 3, 6, 3), (-8, -1, 6, 0), (5, 1, 6, 1),
    ],
)  # fmt: skip
def test_a_limit_scales_an_order_and_never_stops_a_reduction(held, wanted, most, part):
    assert towards(float(held), float(wanted), float(most)) == part


@example(2e-15, 32.0, 0.0)  # lost in the sum, and yet no reduction
@given(size.filter(lambda q: abs(q) > 1e-9), size, st.floats(0, 200))
def test_what_is_left_of_an_order_is_a_part_of_it_within_the_limit(wanted, held, most):
    part = towards(held, wanted, most)
    assert abs(part) <= abs(wanted) * (1 + 1e-12)
    assert part * wanted >= 0
    after = held + part
    if abs(after) > abs(held) or after * held < 0:
        assert abs(after) <= most * (1 + 1e-12) + 1e-13


@given(size.filter(bool), size, positive, st.floats(0, 2), st.floats(0, 2), st.floats(0, 50))
def test_what_is_sized_obeys_every_rule(wanted, held, price, lot, least, notional):
    assume(lot == 0 or lot > 1e-6)
    quantity, note = cut(wanted, held=held, price=price, lot=lot, least=least, notional=notional)
    assert abs(quantity) <= abs(wanted) * (1 + 1e-9)
    assert quantity * wanted >= 0
    if quantity in (0, -held):
        return
    assert note == WHOLE
    assert abs(quantity) * price >= notional
    assert abs(quantity) >= least * (1 - 1e-8)
    if lot:
        assert math.isclose(quantity / lot, round(quantity / lot), abs_tol=1e-6)
