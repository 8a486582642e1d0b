"""The walk through history against venues simulated by the documentation, with every awkward page they may send."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds.binance_rest import BinanceRest
from qlib_crypto.feeds.okx_rest import OkxRest
from qlib_crypto.schemas import IndexBar
from qlib_crypto.settings import BinanceSettings, OkxSettings
from qlib_crypto.symbols import BINANCE_BAR, OKX_BAR, Instrument, Interval, Venue

ETH = {venue: Instrument("ETH", "USDT", venue) for venue in Venue}
START = 1_700_000_000_000 - 1_700_000_000_000 % HOUR_MS


class OkxPages:
    """OKX's two candle endpoints and its funding history over a list of open times.

    `cap` is the venue's page size, `horizon` how many bars `candles` knows, `overlap` puts rows of the last page in
    front of the next, `lie` leaves the last row out of every second page (a short page that is no end).
    """

    def __init__(self, opens, now, interval, *, cap=300, horizon=1440, overlap=0, lie=False):
        self.opens, self.now, self.interval = opens, now, interval
        self.cap, self.horizon, self.overlap, self.lie = cap, horizon, overlap, lie
        self.asked = []

    def get(self, path, **params):
        self.asked.append((path, params))
        if path.endswith("/time"):
            return {"code": "0", "data": [{"ts": str(self.now)}]}
        shown = self.opens[: bisect_right(self.opens, self.now)]
        if path.endswith(("/candles", "/mark-price-candles", "/index-candles")):
            shown = shown[-self.horizon :]
        before = bisect_left(shown, params["after"])
        page = shown[max(0, before - min(self.cap, params["limit"])) : before]
        if self.lie and len(self.asked) % 2 and len(page) > 1:
            page = page[1:]
        page = page + shown[before : before + self.overlap]
        if "funding" in path:
            return {
                "data": [
                    {"fundingTime": str(t), "realizedRate": f"{t % 97}e-6", "fundingRate": "9"} for t in page[::-1]
                ]
            }
        volumes = ["9", "3", "4"] if path.endswith(("/candles", "/history-candles")) else []
        flags = ["1" if t + self.interval <= self.now else "0" for t in page]
        rows = [[str(t), "1", "2", "0.5", "1.5", *volumes, flag] for t, flag in zip(page, flags, strict=True)]
        return {"code": "0", "data": rows[::-1]}


class BinancePages:
    """Binance's klines and funding history: oldest first, inclusive bounds, the open bar last, weightless."""

    def __init__(self, opens, now, interval, *, cap=499, overlap=0, lie=False):
        self.opens, self.now, self.interval = opens, now, interval
        self.cap, self.overlap, self.lie = cap, overlap, lie
        self.asked = []

    def get(self, path, **params):
        self.asked.append((path, params))
        if path.endswith("/time"):
            return {"serverTime": self.now}
        shown = self.opens[: bisect_right(self.opens, self.now)]
        lo, hi = bisect_left(shown, params["startTime"]), bisect_right(shown, params["endTime"])
        page = shown[lo : min(hi, lo + min(self.cap, params["limit"]))]
        if self.lie and len(self.asked) % 2 and len(page) > 1:
            page = page[:-1]
        page = shown[max(0, lo - self.overlap) : lo] + page
        if "funding" in path:
            return [{"fundingTime": t, "fundingRate": f"{t % 97}e-6", "markPrice": ""} for t in page]
        return [[t, "1", "2", "0.5", "1.5", "3", t + self.interval - 1, "4", 7, "0", "0", "0"] for t in page]


def client(venue, pages):
    made = OkxRest(OkxSettings()) if venue is Venue.OKX else BinanceRest(BinanceSettings())
    made.close()
    made._http = pages
    return made


markets = st.builds(
    lambda steps, first: [START + (first + sum(steps[:i])) * MINUTE_MS for i in range(len(steps))],
    st.lists(st.sampled_from([1, 1, 1, 1, 2, 7]), max_size=60),
    st.integers(0, 20),
)
span = st.tuples(st.integers(-10, 120), st.integers(-10, 120))
awkward = {"cap": st.integers(1, 9), "overlap": st.integers(0, 3), "lie": st.booleans()}


@pytest.mark.parametrize("kind", ["bars", "marks", "indexes"])
@pytest.mark.parametrize("venue", list(Venue))
@settings(max_examples=150)
@given(opens=markets, span=span, now=st.integers(0, 130 * MINUTE_MS), data=st.data())
def test_candles_are_exactly_the_closed_ones_of_the_window_once_each(venue, kind, opens, span, now, data):
    now += START
    knobs = {name: data.draw(knob, label=name) for name, knob in awkward.items()}
    if venue is Venue.OKX:
        knobs["horizon"] = data.draw(st.integers(1, 20), label="horizon")
    pages = (OkxPages if venue is Venue.OKX else BinancePages)(opens, now, MINUTE_MS, **knobs)
    start, end = (START + minute * MINUTE_MS for minute in span)
    walked = list(getattr(client(venue, pages), kind)(ETH[venue], Interval.parse("1m"), start, end))
    assert all(walked), "no page is empty"
    got = [bar.open_ms for page in walked for bar in page]
    # Binance's closeTime is the last millisecond of the bar, and closed means that it has passed
    closed = [t for t in opens if start <= t < end and t + MINUTE_MS <= now]
    assert sorted(got) == closed
    assert len(pages.asked) <= 6 + 2 * len(opens) + 4


@pytest.mark.parametrize("venue", list(Venue))
@given(opens=markets, span=span, data=st.data())
def test_settlements_are_exactly_those_of_the_window_once_each(venue, opens, span, data):
    knobs = {name: data.draw(knob, label=name) for name, knob in awkward.items()}
    pages = (OkxPages if venue is Venue.OKX else BinancePages)(opens, START + HOUR_MS, MINUTE_MS, **knobs)
    start, end = (START + minute * MINUTE_MS for minute in span)
    got = [row for page in client(venue, pages).settlements(ETH[venue], start, end) for row in page]
    want = [t for t in opens if start <= t < end and t <= START + HOUR_MS]
    assert sorted(row.time_ms for row in got) == want
    assert all(row.rate == pytest.approx(row.time_ms % 97 * 1e-6) and row.mark_price is None for row in got)


def test_okx_asks_candles_for_what_is_recent_and_the_history_for_the_rest():
    minute = Interval.parse("1m")
    opens = [START + i * MINUTE_MS for i in range(5_000)]
    pages = OkxPages(opens, opens[-1] + 30_000, MINUTE_MS)
    bars = [
        bar for page in client(Venue.OKX, pages).bars(ETH[Venue.OKX], minute, opens[0], opens[-1] + 1) for bar in page
    ]
    assert len(bars) == 4_999  # the last one is open
    paths = [path.rsplit("/", 1)[1] for path, _ in pages.asked]
    assert paths == ["time"] + ["candles"] * 5 + ["history-candles"] * 12
    assert [params["limit"] for _, params in pages.asked[1:-1]] == [300] * 16
    assert pages.asked[-1][1]["limit"] == 5_000 - 1_440 - 11 * 300


def test_the_index_is_asked_for_by_its_own_name():
    """OKX names it without `SWAP`, Binance calls it the pair; the newest have a path of their own on OKX."""
    opens = [START + i * MINUTE_MS for i in range(1_500)]
    for venue, kind in ((Venue.OKX, OkxPages), (Venue.BINANCE, BinancePages)):
        pages = kind(opens, opens[-1] + MINUTE_MS, MINUTE_MS)
        walker = client(venue, pages)
        rows = [
            row for page in walker.indexes(ETH[venue], Interval.parse("1m"), opens[0], opens[-1] + 1) for row in page
        ]
        assert sorted(row.open_ms for row in rows) == opens
        assert {type(row) for row in rows} == {IndexBar}
        asked = [(path.rsplit("/", 1)[1], params) for path, params in pages.asked if not path.endswith("/time")]
        if venue is Venue.OKX:
            assert {(path, params["instId"], params["limit"]) for path, params in asked} == {
                ("index-candles", "ETH-USDT", 100), ("history-index-candles", "ETH-USDT", 100)
            }  # fmt: skip
        else:
            assert {(path, params["pair"], "symbol" in params) for path, params in asked} == {
                ("indexPriceKlines", "ETHUSDT", False)
            }


def test_binance_asks_pages_of_the_cheapest_weight():
    opens = [START + i * MINUTE_MS for i in range(2_000)]
    pages = BinancePages(opens, opens[-1] + 10 * MINUTE_MS, MINUTE_MS)
    got = client(Venue.BINANCE, pages).bars(ETH[Venue.BINANCE], Interval.parse("1m"), opens[0], opens[-1] + MINUTE_MS)
    assert [len(page) for page in got] == [499, 499, 499, 499, 4]
    assert {params["limit"] for path, params in pages.asked if path.endswith("klines")} == {499}


def test_binance_a_bar_that_closes_while_we_ask_is_not_taken_for_closed():
    """The time is read before the page: what closed in between is still half a bar on the page."""

    class Moving(BinancePages):
        def get(self, path, **params):
            answer = super().get(path, **params)
            self.now += 2 * MINUTE_MS  # by the next answer the bar has closed
            return answer

    opens = [START + i * MINUTE_MS for i in range(10)]
    pages = Moving(opens, opens[5] + 30_000, MINUTE_MS)
    got = client(Venue.BINANCE, pages).bars(ETH[Venue.BINANCE], Interval.parse("1m"), opens[0], opens[-1] + MINUTE_MS)
    times = [bar.open_ms for page in got for bar in page]
    asked_at = [
        opens[5] + 30_000 + 2 * MINUTE_MS * i for i, (path, _) in enumerate(pages.asked) if path.endswith("time")
    ]
    assert max(times) + MINUTE_MS <= max(asked_at)


@pytest.mark.parametrize(("venue", "table"), [(Venue.OKX, OKX_BAR), (Venue.BINANCE, BINANCE_BAR)])
def test_every_interval_is_asked_in_the_venues_spelling(venue, table):
    for name, spelling in table.items():
        interval = Interval.parse(name)
        start = START - START % interval.ms
        kind = OkxPages if venue is Venue.OKX else BinancePages
        pages = kind([start, start + interval.ms], start + 2 * interval.ms, interval.ms)
        bars = [
            bar
            for page in client(venue, pages).bars(ETH[venue], interval, start, start + 2 * interval.ms)
            for bar in page
        ]
        assert [bar.open_ms for bar in sorted(bars)] == [start, start + interval.ms]
        assert {bar.interval for bar in bars} == {interval}
        asked = {params.get("bar") or params.get("interval") for _, params in pages.asked} - {None}
        assert asked == {spelling}


@pytest.mark.parametrize(("venue", "name"), [(Venue.OKX, "8h"), (Venue.BINANCE, "3h")])
def test_an_interval_that_is_not_served_is_the_users_error(venue, name):
    with pytest.raises(ConfigError, match="is not served"):
        list(client(venue, None).bars(ETH[venue], Interval.parse(name), START, START + HOUR_MS))


def test_okx_is_not_asked_for_its_time_before_every_walk():
    opens = [START + k * MINUTE_MS for k in range(100)]
    pages = OkxPages(opens, opens[-1] + 30_000, MINUTE_MS)
    walker = client(Venue.OKX, pages)
    for k in range(20):
        assert list(walker.bars(ETH[Venue.OKX], Interval.parse("1m"), opens[k], opens[k + 1]))
    assert sum(path.endswith("/time") for path, _ in pages.asked) <= 2
