"""Binance USD-M REST: fields, pages, errors, weights."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_support import HOURS, MINUTES, START, get

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Instrument, Interval

END = START + HOURS * HOUR_MS
AT = END - 12 * HOUR_MS + 90_500
M1, H1 = Interval.parse("1m"), Interval.parse("1h")
BTC, SOL, PEPE = (Instrument.parse(f"{name}_USDT.BINANCE") for name in ("BTC", "SOL", "1000PEPE"))


@pytest.fixture(scope="module")
def sandbox(binance_tape):
    with running([binance_tape], speed=0, at=AT, rate_scale=float("inf")) as handle:
        yield handle


@pytest.fixture(scope="module")
def ask(sandbox):
    def ask(path, **query):
        return get(f"{sandbox.url}/fapi/v1/{path}?{urlencode(query)}")

    return ask


def body(answer):
    assert answer.status == 200, answer
    assert "X-MBX-USED-WEIGHT-1M" in answer.headers
    return answer.body


def test_time_and_ping(ask):
    assert body(ask("time")) == {"serverTime": AT}
    assert body(ask("ping")) == {}


def test_kline_rows_are_the_bars_of_the_tape(ask, binance_tape):
    rows = body(ask("klines", symbol="BTCUSDT", interval="1m", limit=3))
    bars = binance_tape.bars(BTC, M1)
    n = int(np.searchsorted(bars.open_ms, AT - MINUTE_MS, side="right"))
    assert [row[0] for row in rows] == bars.open_ms[n - 2 : n + 1].tolist()
    row = rows[1]
    assert row[6] == row[0] + 59_999
    values = [float(text) for text in (*row[1:6], row[7])]
    names = ("open", "high", "low", "close", "volume_base", "volume_quote")
    assert values == [getattr(bars, name)[n - 1] for name in names]
    assert row[8] == bars.trades[n - 1]
    assert rows[2][6] > AT  # the open bar comes last, and only its close time tells
    assert {float(text) for text in rows[2][1:5]} == {bars.open[n]}


def test_what_a_tape_does_not_know_is_empty(ask):
    row = body(ask("klines", symbol="SOLUSDT", interval="1m", limit=1, endTime=AT - DAY_MS))[0]
    assert (row[7], row[8], row[9], row[10]) == ("", "", "", "")


def every(ask, symbol, interval, limit, start, end):
    """Walk forward as a client does."""
    walked, bounds = [], {"endTime": end} if end else {}
    while end is None or start <= end:
        page = body(ask("klines", symbol=symbol, interval=interval, limit=limit, startTime=start, **bounds))
        if not page:
            break
        walked += page
        start = page[-1][0] + 1
    return walked


@settings(max_examples=10, deadline=None)
@given(limit=st.integers(200, 1500), skip=st.integers(0, 20), until=st.one_of(st.none(), st.integers(0, 30)))
def test_walking_forward_yields_each_bar_once(ask, binance_tape, limit, skip, until):
    start = START + skip * DAY_MS + 1
    end = None if until is None else START + until * DAY_MS
    if end is not None and end < start:
        assert ask("klines", symbol="1000PEPEUSDT", interval="1h", startTime=start, endTime=end).body["code"] == -1023
        return
    walked = every(ask, "1000PEPEUSDT", "1h", limit, start, end)
    bars = binance_tape.bars(PEPE, H1)
    expected = [t for t in bars.open_ms.tolist() if start <= t <= (end or AT) and t < AT]
    assert [row[0] for row in walked] == expected
    done = [row for row in walked if row[6] < AT]
    rows = np.searchsorted(bars.open_ms, [row[0] for row in done])
    assert [float(row[4]) for row in done] == bars.close[rows].tolist()


@settings(max_examples=30, deadline=None)
@given(limit=st.integers(1, 600), end=st.integers(START - HOUR_MS, AT + HOUR_MS))
def test_without_a_start_the_newest_rows_up_to_the_end(ask, binance_tape, limit, end):
    rows = body(ask("klines", symbol="1000PEPEUSDT", interval="1h", limit=limit, endTime=end))
    opens = binance_tape.bars(PEPE, H1).open_ms
    inside = [t for t in opens.tolist() if t <= end and t < AT]
    assert [row[0] for row in rows] == inside[-limit:]


def test_defaults_and_resampled_klines(ask, binance_tape):
    assert len(body(ask("klines", symbol="1000PEPEUSDT", interval="1h"))) == 500
    five = body(ask("klines", symbol="BTCUSDT", interval="5m", limit=1500))
    assert five[0][0] == binance_tape.bars(BTC, M1).open_ms[0]
    assert {b[0] - a[0] for a, b in pairwise(five)} == {5 * MINUTE_MS}
    for path, named in (("markPriceKlines", "symbol"), ("indexPriceKlines", "pair")):
        rows = body(ask(path, **{named: "BTCUSDT"}, interval="1m", limit=2))
        assert [row[5] for row in rows] == ["0", "0"]
    assert ask("indexPriceKlines", symbol="BTCUSDT", interval="1m").body["code"] == -1102


def test_settled_funding_with_its_jitter(ask, binance_tape):
    settled = binance_tape.settlements(BTC)
    times = settled.time_ms[settled.time_ms <= AT].tolist()
    walked, start = [], 0
    while page := body(ask("fundingRate", symbol="BTCUSDT", startTime=start, limit=7)):
        walked += page
        start = page[-1]["fundingTime"] + 1
    assert [row["fundingTime"] for row in walked] == times
    assert [float(row["fundingRate"]) for row in walked] == settled.rate[: len(times)].tolist()
    assert {row["rateType"] for row in walked} == {"Regular"}
    assert {row["markPrice"] for row in walked} == {""}
    assert any(time % 1000 for time in times)
    assert [row["fundingTime"] for row in body(ask("fundingRate", symbol="BTCUSDT", limit=5))] == times[-5:]
    assert len(body(ask("fundingRate", symbol="BTCUSDT"))) == len(times)
    both = body(ask("fundingRate", limit=1000))
    assert [row["fundingTime"] for row in both] == sorted(row["fundingTime"] for row in both)
    assert {row["symbol"] for row in both} == {"BTCUSDT", "1000PEPEUSDT"}
    assert len(body(ask("fundingRate"))) == 200


def test_a_stock_perpetual_pays_a_special_funding(ask):
    rows = body(ask("fundingRate", symbol="XSTOCKUSDT"))
    assert [row["rateType"] for row in rows] == ["Regular", "Special"]
    assert rows[0]["fundingTime"] == rows[1]["fundingTime"]


def test_funding_info_lists_only_unusual_intervals(ask):
    rows = body(ask("fundingInfo"))
    assert {row["symbol"]: row["fundingIntervalHours"] for row in rows} == {"1000PEPEUSDT": 4}


def test_premium_index_tickers_and_open_interest(ask, binance_tape):
    one = body(ask("premiumIndex", symbol="BTCUSDT"))
    now = binance_tape.funding_now(BTC, AT)
    assert (float(one["lastFundingRate"]), one["nextFundingTime"]) == (now.rate, now.settles_ms)
    bars = binance_tape.bars(BTC, M1)
    last = bars.open[int(np.searchsorted(bars.open_ms, AT, side="right")) - 1]
    assert float(one["markPrice"]) == last
    every_one = {row["symbol"]: row for row in body(ask("premiumIndex"))}
    assert {"BTCUSDT", "SOLUSDT", "1000PEPEUSDT", "XSTOCKUSDT", "BTCUSDT_260925"} == set(every_one)
    assert every_one["SOLUSDT"]["lastFundingRate"] == ""
    tickers = {row["symbol"]: row for row in body(ask("ticker/24hr"))}
    n = int(np.searchsorted(bars.open_ms, AT - MINUTE_MS, side="right"))
    inside = (bars.open_ms >= AT - DAY_MS) & (np.arange(len(bars.open_ms)) < n)
    assert float(tickers["BTCUSDT"]["quoteVolume"]) == pytest.approx(bars.volume_quote[inside].sum(), rel=1e-12)
    assert float(tickers["BTCUSDT"]["lastPrice"]) == last
    assert body(ask("openInterest", symbol="BTCUSDT"))["openInterest"] == ""


def test_symbols_hold_what_a_client_must_survive(ask, binance_tape):
    rows = {row["symbol"]: row for row in body(ask("exchangeInfo"))["symbols"]}
    assert {i.venue_id for i in binance_tape.specs} <= set(rows)
    assert rows["XSTOCKUSDT"]["contractType"] == "TRADIFI_PERPETUAL"
    assert any(not symbol.isascii() for symbol in rows)
    filters = {row["filterType"]: row for row in rows["BTCUSDT"]["filters"]}
    assert (filters["PRICE_FILTER"]["tickSize"], filters["LOT_SIZE"]["stepSize"]) == ("0.1", "0.0001")
    assert "MIN_NOTIONAL" not in filters  # unknown for a derived spec
    assert rows["BTCUSDT"]["deliveryDate"] == 4133404800000
    name = next(symbol for symbol in rows if not symbol.isascii())
    assert body(ask("klines", symbol=name, interval="1m")) == []
    assert quote(name).isascii()


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("klines", {"symbol": "NOUSDT", "interval": "1m"}, -1121),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("klines", {"symbol": "BTCUSDT"}, -1102),
        ("klines", {"interval": "1m"}, -1102),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 1501}, -1130),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": "x"}, -1100),
        ("fundingRate", {"symbol": "NOUSDT"}, -1121),
        ("premiumIndex", {"symbol": "NOUSDT"}, -1121),
        ("openInterest", {}, -1102),
    ],
)
def test_errors_have_the_documented_code(ask, path, query, code):
    answer = ask(path, **query)
    assert (answer.status, answer.body["code"]) == (400, code)
    assert answer.body["msg"]


def test_weight_grows_as_documented(binance_tape):
    with running([binance_tape], speed=0, at=AT) as handle:
        used = 0
        for query, weight in (
            ("klines?symbol=BTCUSDT&interval=1m&limit=99", 1),
            ("klines?symbol=BTCUSDT&interval=1m&limit=499", 2),
            ("klines?symbol=BTCUSDT&interval=1m", 5),
            ("klines?symbol=BTCUSDT&interval=1m&limit=1500", 10),
            ("premiumIndex", 10),
            ("premiumIndex?symbol=BTCUSDT", 1),
            ("ticker/24hr", 40),
            ("exchangeInfo", 1),
            ("fundingRate?symbol=BTCUSDT", 0),
        ):
            answer = get(f"{handle.url}/fapi/v1/{query}")
            now = int(answer.headers["X-MBX-USED-WEIGHT-1M"])
            assert now - used == weight or now == weight, query  # a new wall minute starts at zero
            used = now


def test_over_the_limit_429_then_418(binance_tape):
    if (left := 60 - time.time() % 60) < 15:  # all within one minute, which is the venue's window
        time.sleep(left + 0.5)
    with running([binance_tape], speed=0, at=AT, rate_scale=0.01, ban_s=60) as handle:
        answers = [get(f"{handle.url}/fapi/v1/ticker/24hr") for _ in range(8)]
        statuses = [answer.status for answer in answers]
        assert statuses == [429] * 5 + [418] * 3  # 40 is more than 24 a minute
        assert {answer.body["code"] for answer in answers} == {-1003}
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
        assert get(f"{handle.url}/fapi/v1/ping").status == 418


def test_fields_are_those_that_were_recorded_or_documented(real_data, ask):
    recorded = real_data / "wire/binance/nautilus_fixtures_mixed/python_resources/http_responses"

    def known(name):
        found = json.loads((recorded / f"http_futures_market_{name}.json").read_text())
        return found[0] if isinstance(found, list) else found

    assert set(known("premium_index")) == set(body(ask("premiumIndex", symbol="BTCUSDT")))
    assert set(known("open_interest")) == set(body(ask("openInterest", symbol="BTCUSDT")))
    assert set(known("ticker_24hr")) == set(body(ask("ticker/24hr", symbol="BTCUSDT")))
    assert set(known("funding_rate")) <= set(body(ask("fundingRate", symbol="BTCUSDT"))[0])
    row = body(ask("klines", symbol="BTCUSDT", interval="1m", limit=1))[0]
    assert len(known("klines")) == len(row) == 12
    old = {"pair", "settlePlan", "underlyingSubType"}  # settlePlan left the answer
    ours = body(ask("exchangeInfo"))
    assert set(known("exchange_info")["symbols"][0]) - old <= set(ours["symbols"][0])
    assert set(known("exchange_info")) <= set(ours)
    example = real_data / "wire/binance/api_examples_binance_net/Endpoints/UsdFutures/ExchangeData/GetFundingInfo.txt"
    documented = json.loads(example.read_text().split("false\n", 1)[1])[0]
    assert set(documented) == set(body(ask("fundingInfo"))[0])
    assert MINUTES > 1500
