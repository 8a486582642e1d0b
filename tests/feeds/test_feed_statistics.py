"""Open interest and ratios against venues simulated by the documentation, and what the clients say of their reach."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_feeds import settings_at
from support_wire import client_of

from qlib_crypto.clock import DAY_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds import rest_client
from qlib_crypto.schemas import PERIOD_MS
from qlib_crypto.symbols import Instrument, Venue

ETH = {venue: Instrument("ETH", "USDT", venue) for venue in Venue}
NOW = 1_750_000_000_000 - 1_750_000_000_000 % PERIOD_MS
KEPT = {Venue.OKX: 1_440, Venue.BINANCE: 30 * 288}


class Statistics:
    """Both venues' 5-minute statistics over a list of times; what may differ from the documents is a knob.

    `inclusive`: whether the bounds are; `newest`: from which end too long a window is cut.
    """

    def __init__(self, venue, times, now, *, inclusive=False, newest=True, cap=None):
        self.venue, self.times, self.now = venue, times, now
        self.inclusive, self.newest = inclusive, newest
        self.cap = cap or {Venue.OKX: 100, Venue.BINANCE: 500}[venue]
        self.asked = []

    def get(self, path, **params):
        self.asked.append((path, params))
        if path.endswith("/time"):
            return {"data": [{"ts": str(self.now)}]} if self.venue is Venue.OKX else {"serverTime": self.now}
        assert params["period"] == "5m"
        okx = self.venue is Venue.OKX
        low, high = (params["begin"], params["end"]) if okx else (params["startTime"], params["endTime"])
        assert self.now - KEPT[self.venue] * PERIOD_MS <= low + 1, "Binance refuses what it has not, with -1130"
        inside = [
            t for t in self.times
            if (low <= t <= high if self.inclusive or not okx else low < t < high) and t <= self.now
        ]  # fmt: skip
        cap = min(self.cap, params["limit"])
        page = inside[-cap:] if self.newest else inside[:cap]
        if okx:
            rows = [[str(t), str(t % 97)] if "ratio" in path else [str(t), "9", str(t % 97), str(t % 89)] for t in page]
            return {"data": rows[::-1]}
        named = {"longShortRatio", "sumOpenInterest"}
        return [
            {"timestamp": t, **dict.fromkeys(named, str(t % 97)), "sumOpenInterestValue": str(t % 89)} for t in page
        ]


@pytest.mark.parametrize("venue", list(Venue))
@settings(max_examples=150)
@given(
    missing=st.sets(st.integers(0, 2_000), max_size=300),
    span=st.tuples(st.integers(-2_000, 60), st.integers(-2_000, 60)),
    past=st.integers(0, PERIOD_MS - 1),
    inclusive=st.booleans(),
    newest=st.booleans(),
    ratio=st.booleans(),
)
def test_statistics_are_exactly_those_of_the_window_once_each(venue, missing, span, past, inclusive, newest, ratio):
    """Whatever the venue lacks in between, a page of nothing included."""
    times = [NOW - k * PERIOD_MS for k in range(2_000, -1, -1) if k not in missing]
    pages = Statistics(venue, times, NOW + past, inclusive=inclusive, newest=newest)
    client = client_of(venue, pages)
    start, end = (NOW + k * PERIOD_MS for k in span)
    walked = list((client.long_short_ratio if ratio else client.open_interest)(ETH[venue], start, end))
    assert all(walked), "no page is empty"
    got = sorted(row for page in walked for row in page)
    reach = NOW + past - KEPT[venue] * PERIOD_MS
    want = [t for t in times if max(start, reach) <= t < end and t + PERIOD_MS <= NOW + past]
    assert [row.time_ms for row in got] == want
    if ratio:
        assert all(row.ratio == row.time_ms % 97 for row in got)
    else:
        assert all(
            (row.open_interest_base, row.open_interest_quote) == (row.time_ms % 97, row.time_ms % 89) for row in got
        )


@pytest.mark.parametrize(("venue", "requests"), [(Venue.OKX, 15), (Venue.BINANCE, 18)])
def test_all_that_is_kept_is_reached_in_whole_pages(venue, requests):
    times = [NOW - k * PERIOD_MS for k in range(10_000, -1, -1)]
    pages = Statistics(venue, times, NOW)
    rows = [row for page in client_of(venue, pages).open_interest(ETH[venue], 0, NOW + DAY_MS) for row in page]
    assert len(rows) == KEPT[venue] - (venue is Venue.BINANCE)  # there a minute less is asked for
    assert sum(not path.endswith("/time") for path, _ in pages.asked) == requests


def test_the_time_is_asked_once_for_many_that_end_before_it():
    """A poll of many instruments up to the last full 5 minutes needs one."""
    for venue in Venue:
        pages = Statistics(venue, [NOW - PERIOD_MS], NOW + 1)
        client = client_of(venue, pages)
        for _ in range(20):
            assert len(list(client.open_interest(ETH[venue], NOW - PERIOD_MS, NOW - PERIOD_MS + 1))) == 1
        assert sum(path.endswith("/time") for path, _ in pages.asked) == 1


def test_what_the_clients_say_of_reach_pages_and_limits():
    okx, binance = (rest_client(venue, settings_at(venue, "http://127.0.0.1:9", rate_scale=0.5)) for venue in Venue)
    names = ("kline_1m", "kline_4h", "funding", "mark_1m", "index_1m", "open_interest", "long_short_ratio")
    assert [okx.reach_ms(name) for name in names] == [None, None, 90 * DAY_MS, None, None, 5 * DAY_MS, 5 * DAY_MS]
    assert [binance.reach_ms(name) for name in names] == [None, None, None, None, None, 30 * DAY_MS, 30 * DAY_MS]
    assert [okx.page_rows(name) for name in names] == [300, 300, 400, 100, 100, 100, 100]
    assert [binance.page_rows(name) for name in names] == [499, 499, 1000, 499, 499, 500, 500]
    assert [okx.requests_per_s(name) for name in names] == [5.0, 5.0, 2.5, 5.0, 2.5, 2.5, 1.25]
    assert [binance.requests_per_s(name) for name in names] == pytest.approx([10, 10, 5 / 6, 10, 10, 5 / 3, 5 / 3])
    for client in (okx, binance):
        assert {client.reach_ms(name) for name in ("liquidations", "trades", "books", "funding_estimate")} == {0}
        with pytest.raises(ConfigError, match="'trades' does not come over REST from"):
            client.page_rows("trades")
        client.close()
