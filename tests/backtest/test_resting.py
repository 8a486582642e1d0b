"""Orders that rest: each rule by hand, long and short mirrored, and against a walk along the paths of a bar."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_arrays import engine

from qlib_crypto.backtest.layout import FILL
from qlib_crypto.backtest.notes import KINDS, LIMIT, MARKET, STOP
from qlib_crypto.errors import ConfigError

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


LENT = {"margin_mode": "isolated", "leverage": 10.0, "account": 1_000.0, "taker": 0.0, "maker": 0.0}


@pytest.mark.parametrize(
    ("entry", "then"),
    [
        # 10 are set aside: taken over at 90 / 0.99, before the limit is reached
        (order(1.0, kind=LIMIT, level=85.0, until=9), [("limit", 1.0, 85.0)]),
        (order(-1.0, kind=STOP, level=90.0, until=9), []),
        # what it opens has the whole bar to come: the short is taken over at (90 + 9) / 1.01
        (
            order(-3.0, kind=STOP, level=90.0, until=9),
            [("stop", -2.0, 90.0), ("venue", 2.0, pytest.approx(99 / 1.01))],
        ),
        # the price goes down first, to harm most
        (order(-1.0, kind=LIMIT, level=100.5, until=9), []),
    ],
)
def test_no_entry_saves_a_position_from_a_liquidation_before_it(entry, then):
    bars = [QUIET, QUIET, (100, 101, 84.5, 100, 1000)]
    account = ran(bars, {0: order(1.0), 1: entry}, **LENT)
    assert [row[1:] for row in fills(account)[1:]] == [("venue", -1.0, pytest.approx(90 / 0.99)), *then]


def test_an_entry_before_the_liquidation_comes_first():
    bars = [QUIET, QUIET, (100, 101, 84.5, 100, 1000)]
    for sold in (order(-1.0, kind=STOP, level=92.0, until=9), order(-1.0, kind=STOP, level=99.5, until=9)):
        account = ran(bars, {0: order(1.0), 1: sold}, **LENT)
        assert [row[1] for row in fills(account)[1:]] == ["stop"]
    # two coins, 10 and 9.2 set aside, at 96 in the mean: what is lost counts from where it was added
    added = ran(bars, {0: order(1.0), 1: order(1.0, kind=LIMIT, level=92.0, until=9)}, **LENT)
    assert fills(added)[1] == (2, "limit", 1.0, 92.0)
    ((_, kind, quantity, price),) = fills(added)[2:]
    assert (kind, quantity) == ("venue", -2.0)
    assert price == pytest.approx((2 * 96 - 19.2) / (2 * 0.99))


def test_a_cross_account_is_called_before_a_stop_entry_sells():
    bars = [QUIET, QUIET, (100, 100, 80, 90, 1000)]
    terms = {"margin_mode": "cross", "leverage": 20.0, "account": 100.0, "taker": 0.0, "maker": 0.0}
    account = ran(bars, {0: order(10.0), 1: order(-10.0, kind=STOP, level=85.0, until=9)}, **terms)
    # 100 - 10 (100 - p) = 10 p / 100
    assert fills(account)[1:] == [(2, "venue", -10.0, pytest.approx(900 / 9.9))]


def test_a_stop_goes_with_the_position_that_plain_orders_close():
    bars = [QUIET, QUIET, (100, 100, 90, 95, 1000)]
    for orders in ([-10.0, 5.0], [-15.0, 10.0]):
        account = engine([bars])
        account.step(0, np.zeros(1, np.int64), np.array([10.0]), np.array([[MARKET, 0, 0, 95.0, 0, 0]]))
        account.step(1, np.zeros(2, np.int64), np.array(orders))
        account.step(2, np.zeros(0, np.int64), np.zeros(0))
        assert [row[1] for row in fills(account)] == ["market"] * 3


@pytest.mark.parametrize("amount", [np.nan, np.inf])
def test_an_order_of_no_number_is_refused(amount):
    account = engine([[QUIET]])
    with pytest.raises(
        ConfigError, match=r"the order of A0_USDT\.OKX at 1970-01-01.* base coins; give a finite number"
    ):
        account.step(0, np.zeros(1, np.int64), np.array([amount]))


def test_a_stop_can_be_moved_in_a_bar_without_a_price():
    bars = [QUIET, NONE, (100, 100, 92, 95, 1000)]
    account = ran(bars, {0: order(1.0, loss=90.0), 1: order(0.0, loss=93.0)})
    assert fills(account)[1:] == [(2, "stop loss", -1.0, 93.0)]


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


def test_an_order_closes_no_more_than_a_stop_left():
    bars = [QUIET, (80, 81, 79, 80, 1000)]
    held = order(10.0, loss=95.0)
    gone = ran(bars, {0: held, 1: order(-4.0)})
    assert fills(gone)[1:] == [(1, "stop loss", -10.0, 80.0)]
    assert gone.notes["closed before by a stop, a limit or the venue: nothing left of the order"] == 1
    turned = ran(bars, {0: held, 1: order(-15.0, loss=90.0)})
    assert fills(turned)[1:] == [(1, "stop loss", -10.0, 80.0), (1, "market", -5.0, 80.0)]
    # a part, where the volume lets the stop close a part
    part = ran([QUIET, (80, 81, 79, 80, 12), QUIET], {0: held, 1: order(-9.0)}, participation=0.5)
    assert fills(part)[1:] == [(1, "stop loss", -6.0, 80.0), (2, "stop loss", -4.0, 100.0)]
    assert part.notes["participation cap: no volume left"] == 1


def test_several_plain_orders_of_a_name_close_no_more_than_a_stop_left():
    account = engine([[QUIET, (80, 81, 79, 80, 1000)]])
    account.step(0, np.zeros(1, np.int64), np.array([10.0]), np.array([[MARKET, 0, 0, 95.0, 0, 0]]))
    account.step(1, np.zeros(3, np.int64), np.array([-10.0, -3.0, 1.0]))
    assert fills(account)[1:] == [(1, "stop loss", -10.0, 80.0), (1, "market", -3.0, 80.0), (1, "market", 1.0, 80.0)]


def test_what_rests_closes_no_more_than_a_stop_left():
    bars = [QUIET, (100, 100, 94, 96, 1000), (96, 110, 96, 108, 1000)]
    orders = {0: order(1.0, loss=95.0), 1: order(-1.0, kind=LIMIT, level=105.0, until=9)}
    assert fills(ran(bars, orders))[1:] == [(1, "stop loss", -1.0, 95.0)]
    turn = {0: order(1.0, loss=95.0), 1: order(-3.0, kind=LIMIT, level=105.0, until=9)}
    assert fills(ran(bars, turn))[1:] == [(1, "stop loss", -1.0, 95.0), (2, "limit", -2.0, 105.0)]


def test_an_order_replaces_what_rests_before_the_open_reaches_it():
    bars = [QUIET, (94, 95, 93, 94, 1000)]
    account = ran(bars, {0: order(1.0, kind=LIMIT, level=95.0, until=9), 1: order(-2.0)})
    assert fills(account) == [(1, "market", -2.0, 94.0)]


def test_a_stop_does_not_outlive_its_position():
    bars = [QUIET, (80, 81, 79, 81, 1000), (81, 81, 60, 61, 1000)]
    account = engine([bars])
    account.step(0, np.zeros(1, np.int64), np.array([1.0]), np.array([[MARKET, 0, 0, 95.0, 0, 0]]))
    account.step(1, np.zeros(1, np.int64), np.array([1.0]))
    account.step(2, np.zeros(0, np.int64), np.zeros(0))
    assert fills(account)[1:] == [(1, "stop loss", -1.0, 80.0), (1, "market", 1.0, 80.0)]


def test_a_stop_nearer_than_an_entry_comes_first():
    bars = [QUIET, QUIET, (100, 100, 94, 96, 1000)]
    orders = {0: order(1.0, loss=97.0), 1: order(2.0, kind=LIMIT, level=95.0, until=5, loss=90.0)}
    assert fills(ran(bars, orders))[1:] == [(2, "stop loss", -1.0, 97.0), (2, "limit", 2.0, 95.0)]
    farther = {0: order(1.0, loss=94.5), 1: order(2.0, kind=LIMIT, level=95.0, until=5)}
    assert fills(ran(bars, farther))[1:] == [(2, "limit", 2.0, 95.0), (2, "stop loss", -3.0, 94.5)]


def test_what_is_opened_after_a_stop_can_be_stopped_in_the_same_bar():
    bars = [QUIET, QUIET, (100, 100, 90, 96, 1000)]
    orders = {0: order(1.0, loss=97.0), 1: order(2.0, kind=LIMIT, level=95.0, until=5, loss=92.0)}
    assert fills(ran(bars, orders))[2:] == [(2, "limit", 2.0, 95.0), (2, "stop loss", -2.0, 92.0)]


def test_a_target_that_the_market_is_beyond_is_closed_at_the_open():
    account = ran([QUIET], {0: order(1.0, profit=90.0)})
    assert fills(account)[1:] == [(0, "take profit", -1.0, 100.0)]
    assert fees(account)[1] == pytest.approx(100 * 0.0005)
    gapped = ran([QUIET, (110, 111, 109, 110, 1000)], {0: order(1.0, kind=STOP, level=103.0, until=5, profit=105.0)})
    assert fills(gapped) == [(1, "stop", 1.0, 110.0), (1, "take profit", -1.0, 110.0)]


def test_prices_between_ticks_are_reached_on_their_tick():
    target = ran([QUIET, (100, 104.9, 99, 100, 1000)], {0: order(1.0, profit=104.6)}, tick=0.5)
    assert fills(target)[1:] == []
    stop = ran([QUIET, (100, 101, 95.2, 100, 1000)], {0: order(1.0, loss=95.3)}, tick=0.5)
    assert fills(stop)[1:] == []
    trailed = ran([QUIET, (100, 101, 95.9, 100, 1000)], {0: order(1.0, trail=4.8)}, tick=0.5)
    assert fills(trailed)[1:] == [(1, "trailing stop", -1.0, 96.0)]


def test_an_entry_goes_on_resting_while_the_volume_is_less_than_a_lot():
    bars = [QUIET, (100, 100, 94, 94, 5), (94, 94, 93, 94, 1000)]
    account = ran(bars, {0: order(10.0, kind=LIMIT, level=95.0, until=5)}, lot=1.0, participation=0.1)
    assert fills(account) == [(2, "limit", 10.0, 95.0)]


def test_the_rest_of_a_stop_goes_on_wherever_the_next_bar_opens():
    bars = [QUIET, (100, 100, 94, 96, 10), (98, 99, 97, 98, 1000)]
    stopped = ran(bars, {0: order(8.0, loss=95.0)}, participation=0.5)
    assert fills(stopped)[1:] == [(1, "stop loss", -5.0, 95.0), (2, "stop loss", -3.0, 98.0)]
    trailed = ran(bars, {0: order(8.0, trail=5.0)}, participation=0.5)
    assert fills(trailed)[1:] == [(1, "trailing stop", -5.0, 95.0), (2, "trailing stop", -3.0, 98.0)]
    short = [QUIET, (100, 106, 100, 104, 10), (102, 103, 101, 102, 1000)]
    covered = ran(short, {0: order(-8.0, loss=105.0)}, participation=0.5)
    assert fills(covered)[1:] == [(1, "stop loss", 5.0, 105.0), (2, "stop loss", 3.0, 102.0)]
    entered = ran(short, {0: order(8.0, kind=STOP, level=105.0, until=5)}, participation=0.5)
    assert fills(entered) == [(1, "stop", 5.0, 105.0), (2, "stop", 3.0, 102.0)]
    sold = ran(bars, {0: order(-8.0, kind=STOP, level=95.0, until=5)}, participation=0.5)
    assert fills(sold) == [(1, "stop", -5.0, 95.0), (2, "stop", -3.0, 98.0)]


def test_the_rest_of_a_stop_entry_never_fills_at_a_price_that_is_gone():
    bars = [QUIET, (100, 100, 94, 96, 10), (90, 91, 89, 90, 4), (88, 90, 80, 82, 1000)]
    account = ran(bars, {0: order(-8.0, kind=STOP, level=95.0, until=5)}, participation=0.5, min_notional=185.0)
    # 2 of the 4 coins of bar 2 would be 180 at its open, 190 at the 95 that it never had
    assert fills(account) == [(1, "stop", -5.0, 95.0), (3, "stop", -3.0, 88.0)]


@pytest.mark.parametrize(("mark", "first"), [(102.0, "stop loss"), (98.0, "venue")])
def test_a_mark_beside_the_market_goes_as_far_as_the_stop_in_proportion(mark, first):
    # 5 behind 1 at 100: p with 5 + p - 100 = p (0.01 + 0.0005) is 96.008; 4 % below 102 is 97.92, below 98 94.08
    bars = [(*QUIET, *[mark] * 4), (100, 100, 90, 92, 1000, mark, mark, 88, 90)]
    terms = {"margin_mode": "isolated", "leverage": 20.0}
    account = ran(bars, {0: order(1.0, loss=96.0)}, **terms)
    at = 96.0 if first == "stop loss" else 95 / 0.9895
    assert fills(account)[1:] == [(1, first, -1.0, pytest.approx(at, rel=1e-12))]
    short = [(*QUIET, *[200 - mark] * 4), (100, 110, 100, 108, 1000, 200 - mark, 112, 200 - mark, 110)]
    account = ran(short, {0: order(-1.0, loss=104.0)}, **terms)
    at = 104.0 if first == "stop loss" else 105 / 1.0105
    assert fills(account)[1:] == [(1, first, 1.0, pytest.approx(at, rel=1e-12))]


def test_what_is_opened_beside_its_mark_is_marked_there():
    # A is bought at 95 with its mark 10 % above: 950 of profit while B loses 1,500 of the 1,000 that there were
    bars = [(*QUIET, *[104.5] * 4), (95, 95, 94, 95, 1000, *[104.5] * 4)]
    other = [(*QUIET, *QUIET[:4]), (100, 100, 85, 85, 1000, 100, 100, 85, 85)]
    terms = {"account": 1_000.0, "margin_mode": "cross", "leverage": 20.0, "taker": 0.0}
    account = engine([bars, other], **terms)
    for t in range(2):
        account.step(t, np.array([1 - t]), np.array([100.0]))
    assert fills(account) == [(0, "market", 100.0, 100.0), (1, "market", 100.0, 95.0)]
    assert account.curve[1, 0] == pytest.approx(1_000 + 950 - 1_500)


def test_what_a_bar_opens_is_marked_where_the_mark_is_then():
    # the mark 10 % below the market: bought at 95 it is at 85.5, less than the 475 of 20 times leverage can bear
    bars = [(*QUIET, *[90.0] * 4), (100, 100, 94, 95, 1000, 90, 90, 84.6, 85.5)]
    terms = {"margin_mode": "isolated", "leverage": 20.0}
    account = ran(bars, {0: order(1.0, kind=LIMIT, level=95.0, until=5)}, **terms)
    assert fills(account) == [(1, "limit", 1.0, 95.0), (1, "venue", -1.0, 85.5)]


def test_a_gap_inside_a_bar_is_a_margin_call_before_it_is_a_stop():
    terms = {"margin_mode": "isolated", "leverage": 20.0, "account": 1_000.0}
    inner = [(100,) * 4] * 2 + [(100, 100, 97, 97), (82, 85, 80, 85)]
    account = ran([QUIET, (100, 100, 80, 85, 1000)], {0: order(1.0, loss=95.5)}, inner=[inner], **terms)
    assert fills(account)[1:] == [(1, "venue", -1.0, 82.0)]


@st.composite
def changed(draw):
    """A long or short, stop and target, an entry of any kind with its own stop, and the bar that decides."""
    start = 100 + draw(st.integers(-9, 9))
    close = start + draw(st.integers(-9, 9))
    high, low = max(start, close) + draw(st.integers(0, 9)), min(start, close) - draw(st.integers(0, 9))
    side, kind = draw(st.sampled_from([1, -1])), draw(st.sampled_from([LIMIT, STOP]))
    wanted = draw(st.sampled_from([1.0, -0.5, -1.0, -3.0])) * side
    loss = draw(st.sampled_from([0, *(100 - side * (k + 0.25) for k in range(8))]))
    profit = draw(st.sampled_from([0, *(100 + side * (k + 0.75) for k in range(8))]))
    away = draw(st.integers(0, 7)) + 0.5
    level = 100 - away if (wanted > 0) == (kind == LIMIT) else 100 + away
    own = draw(st.sampled_from([0, *(level - np.sign(wanted) * (k + 0.375) for k in range(6))]))
    return (start, high, low, close), side, loss, profit, kind, level, wanted, own


def booked(case, turns, close):
    """Fills and profit when the price jumps from 100 to the first of the points and goes on straight to each next."""
    _, held, loss, profit, kind, level, wanted, own = case
    rests, before, cash, done, now = True, held, -100.0 * held, [], 100.0
    for number, to in enumerate(turns):
        way = 1 if to > now else -1
        while True:
            marks = []
            if held and loss and (held > 0) == (way < 0):
                marks.append((loss, "stop loss"))
            if held and profit and (held > 0) == (way > 0):
                marks.append((profit, "take profit"))
            if rests and ((wanted > 0) == (kind == LIMIT)) == (way < 0):
                marks.append((level, "limit" if kind == LIMIT else "stop"))
            marks = [(at, what) for at, what in marks if (at - now) * way > 0 and (to - at) * way > 0]
            if not marks:
                break
            at, what = min(marks, key=lambda mark: mark[0] * way)
            price = to if number == 0 and "stop" in what else at
            quantity = -held
            if what in ("limit", "stop"):
                rests = False
                closing = min(abs(wanted), abs(before)) if before * wanted < 0 else 0.0
                quantity = np.sign(wanted) * (abs(wanted) - closing + min(closing, abs(held)))
            now = at
            if quantity:
                done.append((what, quantity, price))
                cash -= quantity * price
                then = held + quantity
                if held * then <= 0:
                    loss, profit = own if then else 0, 0
                held = then
        now = to
    return done, cash + held * close


@settings(max_examples=3_000, deadline=None)
@given(changed())
def test_a_position_that_an_entry_changes_went_one_of_the_simple_paths(case):
    bar, side, loss, profit, kind, level, wanted, own = case
    o, h, low, c = bar
    rests = order(wanted, kind=kind, level=level, until=9, loss=own)
    account = ran(
        [QUIET, QUIET, (o, h, low, c, 1e9)], {0: order(float(side), loss=loss, profit=profit), 1: rests},
        taker=0.0, maker=0.0,
    )  # fmt: skip
    ways = [(o, low, h, c), (o, h, low, c)]
    if profit:  # turns just before the target: a stop comes first
        ways.append((o, min(h, profit - 0.1), low, h, c) if side > 0 else (o, max(low, profit + 0.1), h, low, c))
    if loss:  # turns just after the stop: what is opened then has all of the bar to come
        ways.append((o, max(low, loss - 0.1), h, low, c) if side > 0 else (o, min(h, loss + 0.1), low, h, c))
    ends = [booked(case, turns, c) for turns in ways]
    mine = [(kind, quantity, price) for _, kind, quantity, price in fills(account)[1:]]
    assert (mine, pytest.approx(account.curve[-1, 0] - 100_000)) in ends


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


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**31))
def test_no_fill_has_a_price_or_a_volume_that_its_bar_had_not(seed):
    """Any sequence of orders, mirrored, with and without finer bars; limits that the open has passed fill at theirs."""
    rng = np.random.default_rng(seed)
    length, each, base = 4, int(rng.choice([1, 3])), 1000.0
    way = base + np.cumsum(rng.integers(-6, 7, size=length * each * 6)).astype(float).reshape(length * each, 6)
    fine = np.stack([way[:, 0], way.max(1), way.min(1), way[:, -1]], 1)
    parts = fine.reshape(length, each, 4)
    volume = np.full(length, rng.choice([10.0, 1e4]))
    bars = np.stack([parts[:, 0, 0], parts[:, :, 1].max(1), parts[:, :, 2].min(1), parts[:, -1, 3], volume], 1)
    orders, mirrored = {}, {}
    for t in np.flatnonzero(rng.random(length) < 0.6).tolist():
        side, kind, away = float(rng.choice([1, -1])), int(rng.integers(0, 3)), rng.integers(1, 9)
        level = {MARKET: bars[t, 0], LIMIT: bars[t, 0] - side * away, STOP: bars[t, 0] + side * away}[kind]
        loss, profit, trail = (float(distance) for distance in rng.integers(1, 9, 3) * rng.integers(0, 2, 3))
        says = {"kind": kind, "until": t + int(rng.integers(0, 3)), "trail": trail}
        quantity = side * float(rng.integers(1, 9))
        for given_, sign in ((orders, 1.0), (mirrored, -1.0)):
            at = level if sign > 0 else 2 * base - level
            given_[t] = order(
                sign * quantity, **says, level=at, loss=loss and at - sign * side * loss,
                profit=profit and at + sign * side * profit,
            )  # fmt: skip

    def turned(rows):
        mirror = np.array(rows)
        mirror[:, :4] = 2 * base - mirror[:, [0, 2, 1, 3]]
        return mirror

    terms = {"participation": 0.3, "taker": 0.0, "maker": 0.0}
    one = ran(bars, orders, **terms, inner=[fine] if each > 1 else None)
    other = ran(turned(bars), mirrored, **terms, inner=[turned(fine)] if each > 1 else None)
    assert fills(one) == [(t, kind, -quantity, 2 * base - price) for t, kind, quantity, price in fills(other)]
    for t, kind, _, price in fills(one):
        assert kind in ("limit", "take profit") or bars[t, 2] <= price <= bars[t, 1]
    traded = np.bincount(one.fills[:, 0].astype(int), np.abs(one.fills[:, 2]), minlength=length)
    assert (traded <= 0.3 * volume + 1e-9).all()


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
