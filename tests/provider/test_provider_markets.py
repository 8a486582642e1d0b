from __future__ import annotations

import pytest
from provider_lakes import T0

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.provider.instruments import market_lines, market_texts, read_market
from qlib_crypto.symbols import Instrument, Interval, Venue

MINUTE, HOUR, DAY = (Interval.parse(name) for name in ("1m", "1h", "1d"))
BTC = Instrument("BTC", "USDT", Venue.OKX)
ETH = Instrument("ETH", "USDT", Venue.BINANCE)
GONE = Instrument("GONE", "USDT", Venue.OKX)
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
    lines = market_lines(EXTENTS, {"top50": {BTC: spans, GONE: [(T0, None)]}, "empty": {}})
    assert lines["top50"] == [
        "BTC_USDT.OKX\t2025-03-12 00:00:00\t2025-03-12 23:59:59",
        "BTC_USDT.OKX\t2025-03-13 08:00:00\t2025-03-13 15:59:59",
        "BTC_USDT.OKX\t2025-03-14 00:00:00\t2025-03-15 00:05:00",
    ]
    assert lines["top50_1min"] == lines["top50"][1:], "no minute bars in the first span"
    assert lines["top50_60min"][-1].endswith("2025-03-15 00:00:00")


def test_a_membership_that_never_meets_a_bar_makes_no_market():
    texts = market_texts(EXTENTS, {"top50": {BTC: [(T0 + 9 * DAY_MS, None)]}})
    assert not any(name.startswith("top50") for name in texts)
    assert texts["okx.txt"].endswith(b"2025-03-15 00:05:00\n")


def test_a_list_of_ones_own_is_a_market(tmp_path):
    path = tmp_path / "majors.txt"
    path.write_text(
        "# as in Qlib\nBTC_USDT.OKX\t2025-03-13\t2025-03-13\nBTC_USDT.OKX,2025-03-14 08:00:00,2025-03-14 08:59:59\n"
        "ETH_USDT.BINANCE\n\nGONE_USDT.OKX\t2020-01-01\n"
    )
    majors = read_market("majors", path)
    assert majors[BTC] == [(T0, T0 + DAY_MS), (T0 + DAY_MS + 8 * HOUR_MS, T0 + DAY_MS + 9 * HOUR_MS)]
    assert (majors[ETH], list(majors)) == ([(0, None)], [BTC, ETH, GONE])
    lines = market_lines(EXTENTS, {"majors": majors})
    assert sorted(lines["majors"]) == [
        "BTC_USDT.OKX\t2025-03-13 00:00:00\t2025-03-13 23:59:59",
        "BTC_USDT.OKX\t2025-03-14 08:00:00\t2025-03-14 08:59:59",
        "ETH_USDT.BINANCE\t2025-03-13 00:00:00\t2025-03-14 00:00:00",
    ]
    assert lines["majors_1min"][0] == "BTC_USDT.OKX\t2025-03-13 00:17:00\t2025-03-13 23:59:59"


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("okx", "", "'okx' is taken"),
        ("top50", "", "'top50' is taken"),
        ("a_60min", "", "is taken or no name"),
        ("../x", "", "is taken or no name"),
        ("majors", "BTC", "majors.txt:1: symbol 'BTC' is unknown"),
        ("majors", "BTC_USDT.OKX\tlately", "majors.txt:1: "),
        ("majors", "BTC_USDT.OKX\t2025-03-13\t2025-03-12", "its first and its last time"),
        ("majors", "BTC_USDT.OKX\t2025-03-13\t2025-03-14\t7", "its first and its last time"),
    ],
)
def test_a_list_that_cannot_be_read_says_where(tmp_path, name, line, said):
    (tmp_path / "majors.txt").write_text(line + "\n")
    with pytest.raises(ConfigError, match=said):
        read_market(name, tmp_path / "majors.txt")


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.txt cannot be read"):
        read_market("majors", tmp_path / "none.txt")
