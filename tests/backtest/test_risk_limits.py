"""The limits that an account sets itself, each by hand."""

from __future__ import annotations

import numpy as np
import pytest
from support_arrays import engine

from qlib_crypto.backtest.layout import FILL
from qlib_crypto.backtest.notes import KINDS, WORDS
from qlib_crypto.backtest.terms import RiskLimits
from qlib_crypto.errors import ConfigError


def bars(*closes):
    """Each opens at the close before, the first at 100."""
    opens = (100.0, *closes[:-1])
    return [(o, max(o, c), min(o, c), c, 1e6) for o, c in zip(opens, closes, strict=True)]


def ran(markets, orders, *, limits, protect=None, **terms):
    """An account of 1,000 without costs: orders are (column, quantity) by bar, `protect` a stop by bar."""
    account = engine(markets, account=1_000.0, taker=0.0, maker=0.0, limits=RiskLimits.of(limits), **terms)
    for t in range(len(markets[0])):
        asked = orders.get(t, [])
        rows = np.zeros((len(asked), 6))
        rows[:, 3] = (protect or {}).get(t, 0.0)
        account.step(t, np.array([i for i, _ in asked], np.int64), np.array([q for _, q in asked], float), rows)
    return account


def fills(account):
    at = [FILL.index(name) for name in ("bar", "column", "order", "quantity", "price", "note")]
    return [
        (int(t), int(i), KINDS[int(order)], quantity, price, WORDS[int(note)])
        for t, i, order, quantity, price, note in account.fills[:, at].tolist()
    ]


FLAT = bars(*[100.0] * 60)


def test_what_a_limit_closes_in_part_takes_its_margin_along_in_whole_lots():
    # 10 at 100 with 4 times leverage: 250 aside; 5 of them closed at 80 leave 125 behind 5 from 100:
    # 125 + 5 (p - 100) = 5 p 0.01 at p = 375 / 4.95, which the fall to 50 meets
    fall = [(*bar[:4], volume) for bar, volume in zip(bars(100, 80, 80, 80, 50), [1e6, 1e6, 11, 0, 0], strict=True)]
    terms = {"margin_mode": "isolated", "leverage": 4.0, "participation": 0.5, "lot": 1.0}
    account = ran([fall], {0: [(0, 10.0)]}, limits={"daily_loss": 0.1}, **terms)
    assert [row[:5] for row in fills(account)] == [
        (0, 0, "market", 10.0, 100.0),
        (2, 0, "risk limit", -5.0, 80.0),
        (4, 0, "venue", -5.0, pytest.approx(375 / 4.95)),
    ]


def test_no_order_takes_a_position_beyond_its_limit():
    account = ran([FLAT], {0: [(0, 8.0)], 1: [(0, 1.0)], 2: [(0, -20.0)], 3: [(0, 3.0)]}, limits={"position": 0.5})
    assert fills(account) == [
        (0, 0, "market", 5.0, 100.0, "scaled to the position limit"),
        (2, 0, "market", -10.0, 100.0, "scaled to the position limit"),
        (3, 0, "market", 3.0, 100.0, ""),
    ]
    assert account.notes["position limit"] == 1


def test_no_order_takes_longs_less_shorts_beyond_the_limit():
    orders = {0: [(0, 3.0), (1, -3.0), (1, -5.0)], 1: [(0, -1.0)], 2: [(1, 1.0), (0, 9.0)]}
    account = ran([FLAT, FLAT], orders, limits={"net": 0.2})
    assert fills(account) == [
        (0, 0, "market", 2.0, 100.0, "scaled to the net limit"),
        (0, 1, "market", -3.0, 100.0, ""),
        (0, 1, "market", -1.0, 100.0, "scaled to the net limit"),
        (1, 0, "market", -1.0, 100.0, ""),
        (2, 1, "market", 1.0, 100.0, ""),
        (2, 0, "market", 4.0, 100.0, "scaled to the net limit"),
    ]


def test_a_position_shrinks_even_where_that_takes_the_net_beyond_its_limit():
    orders = {0: [(0, 4.0), (1, -4.0)], 1: [(0, -3.0)], 2: [(0, -5.0)]}
    account = ran([FLAT, FLAT], orders, limits={"net": 0.2, "position": 1.0})
    # 2 and -4: of -3 the 2 that shrink; then nothing, for it would open beyond
    assert [(row[0], row[1], row[3], row[5]) for row in fills(account)] == [
        (0, 0, 2.0, "scaled to the net limit"), (0, 1, -4.0, ""), (1, 0, -2.0, "scaled to the net limit"),
    ]  # fmt: skip
    assert account.notes["net limit"] == 1


def test_after_a_loss_of_the_day_all_is_closed_and_nothing_opened_until_the_next():
    market = bars(100, 97, 94, 95, *[95] * 18, 95, 95, 95, 96)
    orders = {0: [(0, 10.0)], 3: [(0, 1.0)], 10: [(0, 1.0)], 24: [(0, 1.0)]}
    account = ran([market], orders, limits={"daily_loss": 0.05})
    # 1,000 -> 970 -> 940: lost 6 % at the close of bar 2
    assert fills(account) == [
        (0, 0, "market", 10.0, 100.0, ""),
        (3, 0, "risk limit", -10.0, 94.0, "daily loss limit: closed"),
        (24, 0, "market", 1.0, 95.0, ""),
    ]
    assert account.notes["halted by a risk limit: not opened or added to"] == 2


def test_what_is_closed_with_the_next_day_is_opened_after_that_bar():
    market = bars(*[100] * 23, 94, *[94] * 10)
    account = ran([market], {0: [(0, 10.0)], 24: [(0, 4.0)], 25: [(0, 4.0)]}, limits={"daily_loss": 0.05})
    assert fills(account)[1:] == [
        (24, 0, "risk limit", -10.0, 94.0, "daily loss limit: closed"),
        (25, 0, "market", 4.0, 94.0, ""),
    ]
    assert account.notes["halted by a risk limit: not opened or added to"] == 1


@pytest.mark.parametrize("limits", [None, {"daily_loss": 0.05}])
def test_of_a_volume_that_is_not_known_nothing_is_traded(limits):
    market = [(*bar[:4], np.nan if 2 <= t < 4 else 1e6) for t, bar in enumerate(bars(100, 90, 90, 90, 90))]
    account = ran([market], {0: [(0, 10.0)], 2: [(0, -10.0)], 4: [(0, -10.0)]}, limits=limits, participation=0.5)
    assert [row[:5] for row in fills(account)[1:]] == [(4, 0, "risk limit" if limits else "market", -10.0, 90.0)]
    assert np.isfinite(account.curve[:, 0]).all()


def test_a_day_counts_from_what_it_began_with():
    # 3 % lost in the first day, 3 % in the second: neither is 5
    market = bars(*[100] * 20, 97, *[97] * 6, 94.1, *[94.1] * 10)
    account = ran([market], {0: [(0, 10.0)]}, limits={"daily_loss": 0.05})
    assert len(account.fills) == 1


def test_a_drawdown_closes_all_for_good_or_for_a_pause():
    market = bars(110, 104, 98, 99, 99, 99, 99, 99, 99, 99)
    orders = {0: [(0, 10.0)], 3: [(0, 1.0)], 5: [(0, 1.0)], 6: [(0, 1.0)], 9: [(0, 1.0)]}
    closed = (3, 0, "risk limit", -10.0, 98.0, "drawdown limit: closed")
    # the highest is 1,100; 980 is 10.9 % below it
    good = ran([market], orders, limits={"drawdown": 0.1})
    assert fills(good)[1:] == [closed]
    paused = ran([market], orders, limits={"drawdown": 0.1, "pause": "2h"})
    assert fills(paused)[1:] == [closed, (6, 0, "market", 1.0, 99.0, ""), (9, 0, "market", 1.0, 99.0, "")]


def test_after_the_pause_the_highest_counts_from_there():
    market = bars(110, 98, 98, 98, 98, 90, 87, 87)
    account = ran([market], {0: [(0, 10.0)], 4: [(0, 10.0)]}, limits={"drawdown": 0.1, "pause": "1h"})
    # 980 is the highest then: 870 is 11.2 % below, 900 was 8.2 %
    assert [row[:3] for row in fills(account)] == [
        (0, 0, "market"), (2, 0, "risk limit"), (4, 0, "market"), (7, 0, "risk limit"),
    ]  # fmt: skip


def test_what_a_limit_cannot_close_is_closed_with_its_next_price():
    market = bars(100, 90, 90, 90, 88)
    market[2] = market[3] = (np.nan,) * 5
    account = ran([market, bars(*[100] * 5)], {0: [(0, 10.0)], 3: [(1, 1.0)]}, limits={"drawdown": 0.05})
    assert fills(account)[1:] == [(4, 0, "risk limit", -10.0, 90.0, "drawdown limit: closed")]


def test_what_the_volume_does_not_bear_is_closed_in_the_next_bar():
    market = [(*bar[:4], 8.0) for bar in bars(100, 90, 90, 90, 90)]
    market[0] = (*market[0][:4], 1e6)
    account = ran([market], {0: [(0, 10.0)]}, limits={"drawdown": 0.05}, participation=0.5)
    assert [row[:4] for row in fills(account)[1:]] == [
        (2, 0, "risk limit", -4.0), (3, 0, "risk limit", -4.0), (4, 0, "risk limit", -2.0),
    ]  # fmt: skip


def test_a_stopped_instrument_cools_down():
    market = bars(100, 94, 96, 96, 96, 96)
    orders = {0: [(0, 1.0)], 2: [(0, 1.0), (1, 1.0)], 3: [(0, 1.0)], 4: [(0, 1.0)]}
    account = ran([market, FLAT[:6]], orders, limits={"cool_down": "2h"}, protect={0: 95.0})
    assert fills(account)[1:] == [
        (1, 0, "stop loss", -1.0, 95.0, ""),
        (2, 1, "market", 1.0, 100.0, ""),
        (4, 0, "market", 1.0, 96.0, ""),
    ]
    assert account.notes["cool-down after a stop: not opened or added to"] == 2


def test_a_stopped_instrument_is_closed_from_the_stop_on():
    market = bars(100, 80, 80)
    market[1] = (80, 80, 80, 80, 1e6)
    orders = {0: [(0, 10.0)], 1: [(0, 5.0)]}
    account = ran([market], orders, limits={"cool_down": "1h"}, protect={0: 95.0})
    assert fills(account)[1:] == [(1, 0, "stop loss", -10.0, 80.0, "")]
    assert account.notes["cool-down after a stop: not opened or added to"] == 1


def test_orders_of_the_open_that_a_limit_closes_at_open_nothing():
    market = bars(*[100] * 23, 90, 90, 90)
    account = ran([market], {0: [(0, 10.0)], 24: [(0, -5.0)]}, limits={"daily_loss": 0.05})
    assert fills(account)[1:] == [(24, 0, "risk limit", -10.0, 90.0, "daily loss limit: closed")]


def test_a_halt_lets_positions_shrink_alone():
    market = bars(100, 90, 90, 90, 90)
    orders = {0: [(0, 10.0)], 1: [(1, 5.0)]}
    market_2 = bars(*[100] * 5)
    market_2[2] = (np.nan,) * 5
    account = ran([market, market_2], {**orders, 3: [(1, 3.0)]}, limits={"drawdown": 0.05})
    assert fills(account)[2:] == [
        (2, 0, "risk limit", -10.0, 90.0, "drawdown limit: closed"),
        (3, 1, "risk limit", -5.0, 100.0, "drawdown limit: closed"),
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gross": 3}, r"limits\.gross is unknown"),
        ({"position": 0}, r"limits\.position 0 must be positive"),
        ({"daily_loss": 5}, r"limits\.daily_loss 5 must be a fraction of equity"),
        ({"cool_down": 3}, r"limits\.cool_down 3 is no span of time; write such as 30min, 12h or 7d"),
        ({"pause": "1d"}, r"limits\.pause needs drawdown"),
        (0.5, r"limits 0\.5 must be a mapping"),
    ],
)
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        RiskLimits.of(given)
