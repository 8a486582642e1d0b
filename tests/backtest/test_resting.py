"""Orders that rest: each rule by hand, long and short mirrored, and against a walk along the paths of a bar."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_arrays import engine

from qlib_crypto.backtest.notes import KINDS, LIMIT, MARKET, STOP
from qlib_crypto.backtest.trading import FILL

#: Nothing happens: open, high, low, close, volume.
QUIET = (100.0, 100.0, 100.0, 100.0, 1000.0)
NONE = (np.nan,) * 5


def order(quantity, *, kind=MARKET, level=0.0, until=0, loss=0.0, profit=0.0, trail=0.0):
    return quantity, (kind, level, until, loss, profit, trail)


def ran(bars, orders, **kwargs):
    """The engine after the bars of one instrument, with `orders` at the opens of some."""
    account = engine([bars], **kwargs)
    for t in range(len(bars)):
        given_ = [orders[t]] if t in orders else []
        rows = np.array([row for _, row in given_], dtype=np.float64).reshape(-1, 6)
        account.step(t, np.zeros(len(given_), np.int64), np.array([q for q, _ in given_], dtype=np.float64), rows)
    change = np.diff(np.concatenate([[account.start_equity], account.curve[:, 0]]))
    assert np.allclose(account.curve[:, 5:10].sum(axis=1), change, rtol=0, atol=1e-9 * account.start_equity)
    return account


def fills(account):
    """Bar, kind, quantity and price of each fill."""
    at = [FILL.index(name) for name in ("bar", "order", "quantity", "price")]
    return [(int(row[0]), KINDS[int(row[1])], row[2], row[3]) for row in account.fills[:, at].tolist()]


def fees(account):
    return account.fills[:, FILL.index("fee")].tolist()


def test_a_limit_is_reached_by_a_price_beyond_it_and_pays_the_maker():
    bars = [QUIET, (100, 101, 95, 99, 1000), (99, 99, 94.9, 96, 1000)]
    account = ran(bars, {0: order(2.0, kind=LIMIT, level=95.0, until=5)})
    assert fills(account) == [(2, "limit", 2.0, 95.0)]
    assert fees(account) == [pytest.approx(2 * 95 * 0.0002)]
    assert account.notes == {"rests until its price is reached": 1}


def test_a_limit_that_the_open_has_passed_fills_at_its_price():
    account = ran([QUIET, (90, 91, 89, 90, 1000)], {0: order(1.0, kind=LIMIT, level=95.0, until=5)})
    assert fills(account) == [(1, "limit", 1.0, 95.0)]


def test_a_limit_where_the_market_already_is_trades_at_the_open_as_taker():
    account = ran([QUIET], {0: order(1.0, kind=LIMIT, level=100.0)})
    assert fills(account) == [(0, "market", 1.0, 100.0)]
    assert fees(account) == [pytest.approx(0.05)]


def test_a_limit_goes_away_after_its_last_bar():
    account = ran([QUIET, QUIET, (100, 100, 90, 95, 1000)], {0: order(1.0, kind=LIMIT, level=95.0, until=1)})
    assert fills(account) == []
    assert account.notes["resting orders whose price was never reached"] == 1


def test_a_new_order_replaces_what_rests():
    bars = [QUIET, QUIET, (100, 100, 90, 95, 1000)]
    orders = {0: order(1.0, kind=LIMIT, level=95.0, until=9), 1: order(1.0, kind=LIMIT, level=92.0, until=9)}
    assert fills(ran(bars, orders)) == [(2, "limit", 1.0, 92.0)]


def test_a_stop_entry_pays_what_it_is_triggered_at_and_slips():
    bars = [QUIET, (101, 105, 100, 104, 1000)]
    account = ran(bars, {0: order(1.0, kind=STOP, level=103.0, until=5)}, slippage=0.01, tick=0.01)
    assert fills(account) == [(1, "stop", 1.0, pytest.approx(103 * 1.01))]
    assert account.curve[1, 8] == pytest.approx(-1.03)
    gapped = ran([QUIET, (104, 105, 100, 104, 1000)], {0: order(1.0, kind=STOP, level=103.0, until=5)})
    assert fills(gapped) == [(1, "stop", 1.0, 104.0)]


def test_the_stop_comes_before_the_target():
    bars = [QUIET, (100, 110, 90, 105, 1000)]
    account = ran(bars, {0: order(1.0, loss=95.0, profit=105.0)})
    assert fills(account) == [(0, "market", 1.0, 100.0), (1, "stop loss", -1.0, 95.0)]
    assert account.curve[1, 0] == pytest.approx(100_000 - 5 - 0.05 - 95 * 0.0005)


def test_a_target_is_reached_by_a_price_beyond_it_alone():
    bars = [QUIET, (100, 105, 99, 100, 1000), (100, 105.1, 99, 100, 1000)]
    account = ran(bars, {0: order(1.0, loss=95.0, profit=105.0)})
    assert fills(account)[1:] == [(2, "take profit", -1.0, 105.0)]
    assert fees(account)[1] == pytest.approx(105 * 0.0002)


def test_a_stop_that_the_open_has_passed_fills_at_the_open():
    account = ran([QUIET, (80, 82, 79, 81, 1000)], {0: order(1.0, loss=95.0)})
    assert fills(account)[1:] == [(1, "stop loss", -1.0, 80.0)]


def test_a_bar_without_a_price_reaches_nothing():
    account = ran([QUIET, NONE, (94, 95, 93, 94, 1000)], {0: order(1.0, loss=95.0)})
    assert fills(account)[1:] == [(2, "stop loss", -1.0, 94.0)]


def test_what_is_opened_inside_a_bar_can_be_stopped_in_it_but_not_reach_its_target():
    entry = order(1.0, kind=LIMIT, level=95.0, until=5, loss=90.0, profit=97.0)
    stopped = ran([QUIET, (100, 101, 89, 100, 1000)], {0: entry})
    assert fills(stopped) == [(1, "limit", 1.0, 95.0), (1, "stop loss", -1.0, 90.0)]
    kept = ran([QUIET, (100, 101, 94, 100, 1000), (100, 101, 99, 100, 1000)], {0: entry})
    assert fills(kept) == [(1, "limit", 1.0, 95.0), (2, "take profit", -1.0, 97.0)]


def test_what_protects_a_position_stays_when_it_is_changed_and_goes_with_it():
    bars = [QUIET, QUIET, QUIET, QUIET, (100, 100, 85, 90, 1000)]
    orders = {0: order(1.0, loss=95.0), 1: order(1.0, loss=80.0)}
    assert fills(ran(bars, orders))[2:] == [(4, "stop loss", -2.0, 95.0)]
    closed = {0: order(1.0, loss=95.0), 1: order(-1.0), 2: order(1.0)}
    assert [kind for _, kind, _, _ in fills(ran(bars, closed))] == ["market"] * 3
    moved = {0: order(1.0, loss=95.0), 1: order(0.0, loss=88.0)}
    assert fills(ran(bars, moved))[1:] == [(4, "stop loss", -1.0, 88.0)]


def test_a_trailing_stop_follows_the_best_price():
    bars = [QUIET, (100, 108, 100, 107, 1000), (107, 109, 104.5, 108, 1000), (108, 108, 103.9, 104, 1000)]
    account = ran(bars, {0: order(1.0, trail=5.0)})
    # bar 1: best 108, stop 103, low 100: as the high may have come first, it is out there
    assert fills(account)[1:] == [(1, "trailing stop", -1.0, 103.0)]
    later = ran([QUIET, (100, 104, 99.5, 104, 1000), (104, 109, 104.5, 108, 1000), bars[3]], {0: order(1.0, trail=5.0)})
    assert fills(later)[1:] == [(3, "trailing stop", -1.0, 104.0)]


def test_a_partial_stop_goes_on_at_the_next_open():
    bars = [QUIET, (100, 100, 94, 94, 10), (93, 93, 92, 92, 1000)]
    account = ran(bars, {0: order(8.0, loss=95.0)}, participation=0.5)
    assert fills(account)[1:] == [(1, "stop loss", -5.0, 95.0), (2, "stop loss", -3.0, 93.0)]


def test_liquidation_where_it_comes_before_the_stop():
    bars = [QUIET, (100, 100, 80, 90, 1000)]
    terms = {"margin_mode": "isolated", "leverage": 10.0, "account": 1_000.0}
    # 10 are set aside: taken over at 90 / (1 - 0.01 - 0.0005)
    taken = ran(bars, {0: order(1.0, loss=85.0)}, **terms)
    assert fills(taken)[1:] == [(1, "venue", -1.0, pytest.approx(90 / 0.9895))]
    stopped = ran(bars, {0: order(1.0, loss=92.0)}, **terms)
    assert fills(stopped)[1:] == [(1, "stop loss", -1.0, 92.0)]
    crossed = ran(bars, {0: order(30.0, loss=92.0)}, margin_mode="cross", leverage=10.0, account=1_000.0)
    assert fills(crossed)[1:] == [(1, "stop loss", -30.0, 92.0)]


def test_an_entry_without_margin_is_refused_when_it_is_reached():
    bars = [QUIET, (100, 100, 90, 95, 1000)]
    account = ran(
        bars, {0: order(2_000.0, kind=LIMIT, level=95.0, until=5)}, margin_mode="cross", leverage=1.0, account=100.0
    )
    assert account.notes["scaled to the margin left"] == 1
    ((_, _, quantity, _),) = fills(account)
    assert quantity * 95 * (1 + 0.0002) == pytest.approx(100.0)


def test_prices_are_rounded_away_from_the_market():
    bars = [QUIET, (100, 110, 85, 100, 1000)]
    entry = ran(bars, {0: order(1.0, kind=LIMIT, level=95.07, until=5)}, tick=0.5)
    assert fills(entry) == [(1, "limit", 1.0, 95.0)]
    stop = ran(bars, {0: order(1.0, loss=95.3)}, tick=0.5)
    assert fills(stop)[1:] == [(1, "stop loss", -1.0, 95.0)]
    target = ran([QUIET, (100, 110, 99, 100, 1000)], {0: order(1.0, profit=104.6)}, tick=0.5)
    assert fills(target)[1:] == [(1, "take profit", -1.0, 105.0)]


@st.composite
def paths(draw):
    """Bars of whole prices around 100 and a bracket."""
    bars, last = [], 100
    for _ in range(draw(st.integers(1, 6))):
        start = last + draw(st.integers(-3, 3))
        close = start + draw(st.integers(-8, 8))
        high, low = max(start, close) + draw(st.integers(0, 6)), min(start, close) - draw(st.integers(0, 6))
        bars.append((start, high, low, close))
        last = close
    start = bars[0][0]
    loss = draw(st.sampled_from([0, *range(start - 12, start)]))
    profit = draw(st.sampled_from([0, *range(start + 1, start + 13)]))
    trail = draw(st.sampled_from([0, *range(1, 13)]))
    return bars, loss, profit, trail


def walked(points, best, loss, profit, trail, *, first):
    """Exit price (None when still held) and best price along straight lines between whole prices."""
    at = points[0]
    steps = [at]
    for to in points[1:]:
        steps += list(range(at + (1 if to > at else -1), to + (1 if to > at else -1), 1 if to > at else -1))
        at = to
    for number, price in enumerate(steps):
        stop = max(loss or -(10**6), best - trail if trail else -(10**6))
        if price <= stop:
            return (price if number == 0 and not first else stop if number else price), best
        if profit and price > profit:
            return profit, best
        best = max(best, price)
    return None, best


@settings(max_examples=1_000, deadline=None)
@given(paths())
def test_a_bar_is_the_one_of_its_simple_paths_that_harms_most(case):
    bars, loss, profit, trail = case
    rows = [(o, h, low, c, 1e9) for o, h, low, c in bars]
    account = ran(
        [(row[0],) * 4 + (1e9,) for row in rows[:1]] + rows, {0: order(1.0, loss=loss, profit=profit, trail=trail)},
        taker=0.0, maker=0.0,
    )  # fmt: skip
    best, out = bars[0][0], None
    for o, h, low, c in bars:
        below = min(h, profit) if profit else h
        ways = [(o, low, h, c), (o, h, low, c), (o, max(below, o), low, h, c)]
        ends = [walked(way, best, loss, profit, trail, first=False) for way in ways]
        worst = min(ends, key=lambda end: c if end[0] is None else end[0])
        if worst[0] is not None:
            out = worst[0]
            break
        best = max(best, h)
    mine = fills(account)[1:]
    assert [price for *_, price in mine] == ([] if out is None else [out])


@settings(max_examples=200, deadline=None)
@given(paths(), st.integers(1, 12), st.sampled_from([MARKET, LIMIT, STOP]))
def test_shorts_mirror_longs(case, away, kind):
    bars, loss, profit, trail = case
    level = bars[0][0] - away if kind == LIMIT else bars[0][0] + away
    both = []
    for side in (1, -1):

        def turned(price, side=side):
            return price if side == 1 else 1_000 - price

        rows = [
            (turned(o), turned(h if side == 1 else low), turned(low if side == 1 else h), turned(c), 1e9)
            for o, h, low, c in bars
        ]
        says = order(
            float(side), kind=kind, level=turned(level), until=4, loss=loss and turned(loss),
            profit=profit and turned(profit), trail=trail,
        )  # fmt: skip
        both.append(ran(rows, {0: says}, taker=0.0, maker=0.0))
    assert np.allclose(both[0].curve[:, 0], both[1].curve[:, 0], rtol=1e-12)
    assert [row[:2] for row in fills(both[0])] == [row[:2] for row in fills(both[1])]


def test_finer_bars_say_what_came_first():
    coarse = [QUIET, (100, 110, 90, 105, 1000)]
    up_first = [(100, 100, 100, 100)] * 4 + [(100, 110, 100, 109), (109, 109, 90, 91), (91, 105, 91, 105), (105,) * 4]
    down_first = [(100, 100, 100, 100)] * 4 + [(100, 100, 90, 91), (91, 110, 91, 109), (109, 109, 105, 105), (105,) * 4]
    given_ = {0: order(1.0, loss=95.0, profit=107.0)}
    for inner, kind, price in ((up_first, "take profit", 107.0), (down_first, "stop loss", 95.0)):
        assert fills(ran(coarse, given_, inner=[inner]))[1:] == [(1, kind, -1.0, price)]


def test_what_was_opened_in_a_finer_bar_may_reach_its_target_in_the_next():
    coarse = [QUIET, (100, 101, 94, 100, 1000)]
    inner = [(100,) * 4] * 2 + [(100, 100, 94, 94), (94, 101, 94, 100)]
    entry = order(1.0, kind=LIMIT, level=95.0, until=5, loss=90.0, profit=97.0)
    account = ran(coarse, {0: entry}, inner=[inner])
    assert fills(account) == [(1, "limit", 1.0, 95.0), (1, "take profit", -1.0, 97.0)]


def test_a_finer_bar_that_opens_beyond_a_stop():
    coarse = [QUIET, (100, 100, 80, 85, 1000)]
    inner = [(100,) * 4] * 2 + [(100, 100, 97, 97), (82, 85, 80, 85)]
    assert fills(ran(coarse, {0: order(1.0, loss=95.0)}, inner=[inner]))[1:] == [(1, "stop loss", -1.0, 82.0)]


def test_two_positions_that_are_never_at_their_worst_together():
    """Each loses 12 % for a while: the bar puts both together and takes all over, its halves do not."""
    coarse = [QUIET, (100, 100, 88, 100, 1000)]
    first = [(100,) * 4] * 2 + [(100, 100, 88, 100), (100,) * 4]
    second = [(100,) * 4] * 2 + [(100,) * 4, (100, 100, 88, 100)]
    ends = []
    for inner in (None, [first, second]):
        account = engine([coarse] * 2, margin_mode="cross", leverage=20.0, account=1_000.0, taker=0.0, inner=inner)
        account.step(0, np.arange(2), np.array([45.0, 45.0]))
        account.step(1, np.arange(0), np.empty(0))
        ends.append(account.fills[2:, FILL.index("order")].tolist())
    assert ends == [[KINDS.index("venue")] * 2, []]


def test_finer_bars_that_say_the_same_change_nothing():
    rng = np.random.default_rng(4)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, 80)))
    opens = np.concatenate([[100.0], close[:-1]])
    high, low = np.maximum(opens, close) * 1.01, np.minimum(opens, close) * 0.99
    bars = np.column_stack([opens, high, low, close, np.full(80, 1e9)])
    orders = {t: order(1.0 - 2.0 * (t % 20 == 0), loss=0.0, trail=3.0) for t in range(0, 80, 10)}
    one, two = ran(bars, orders), ran(bars, orders, inner=[bars[:, :4]])
    np.testing.assert_allclose(one.curve, two.curve, rtol=1e-12)
    assert fills(one) == fills(two)
