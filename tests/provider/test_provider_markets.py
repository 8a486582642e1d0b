from __future__ import annotations

from provider_lakes import T0

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.provider.instruments import market_lines, market_texts
from qlib_crypto.symbols import Instrument, Interval, Venue

MINUTE, HOUR, DAY = (Interval.parse(name) for name in ("1m", "1h", "1d"))
BTC = Instrument("BTC", "USDT", Venue.OKX)
ETH = Instrument("ETH", "USDT", Venue.BINANCE)
EXTENTS = {
    BTC: {MINUTE: (T0 + 17 * MINUTE_MS, T0 + 2 * DAY_MS + 5 * MINUTE_MS), HOUR: (T0 - DAY_MS, T0 + 2 * DAY_MS)},
    ETH: {HOUR: (T0, T0 + DAY_MS)},
}


def test_markets_are_the_venues_with_full_timestamps_and_the_bars_of_each_frequency():
    lines = market_lines(EXTENTS, {})
    assert set(lines) == {"all", "okx", "binance", "all_1min", "okx_1min", "all_60min", "okx_60min", "binance_60min"}
    assert lines["okx"] == ["BTC_USDT.OKX\t2025-03-12 00:00:00\t2025-03-15 00:05:00"]
    assert lines["okx_1min"] == ["BTC_USDT.OKX\t2025-03-13 00:17:00\t2025-03-15 00:05:00"]
    assert lines["okx_60min"] == ["BTC_USDT.OKX\t2025-03-12 00:00:00\t2025-03-15 00:00:00"]
    assert lines["binance"] == ["ETH_USDT.BINANCE\t2025-03-13 00:00:00\t2025-03-14 00:00:00"]
    assert sorted(lines["all_60min"]) == sorted(lines["okx_60min"] + lines["binance_60min"])


def test_members_have_a_line_for_each_span_and_no_bar_at_its_end():
    spans = [(T0 + 8 * HOUR_MS, T0 + 16 * HOUR_MS), (T0 - 5 * DAY_MS, T0), (T0 + DAY_MS, None)]
    lines = market_lines(EXTENTS, {Venue.OKX: {"BTC_USDT": spans, "GONE_USDT": [(T0, None)]}, Venue.BINANCE: {}})
    assert lines["top50"] == [
        "BTC_USDT.OKX\t2025-03-12 00:00:00\t2025-03-12 23:59:59",
        "BTC_USDT.OKX\t2025-03-13 08:00:00\t2025-03-13 15:59:59",
        "BTC_USDT.OKX\t2025-03-14 00:00:00\t2025-03-15 00:05:00",
    ]
    assert lines["top50_1min"] == lines["top50"][1:], "no minute bars in the first span"
    assert lines["top50_60min"][-1].endswith("2025-03-15 00:00:00")


def test_a_membership_that_never_meets_a_bar_makes_no_market():
    texts = market_texts(EXTENTS, {Venue.OKX: {"BTC_USDT": [(T0 + 9 * DAY_MS, None)]}})
    assert not any(name.startswith("top50") for name in texts)
    assert texts["okx.txt"].endswith(b"2025-03-15 00:05:00\n")
