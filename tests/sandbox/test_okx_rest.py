"""OKX REST: envelope, fields, paging, horizons, errors, limits."""

from __future__ import annotations

import json
import time
from urllib.parse import urlencode

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_support import HOURS, START, get

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Instrument, Interval

END = START + HOURS * HOUR_MS
AT = END - 12 * HOUR_MS + 90_500  # inside a minute and an hour
BTC = Instrument.parse("BTC_USDT.OKX")
COLUMNS = ("open", "high", "low", "close")


@pytest.fixture(scope="module")
def sandbox(okx_tape):
    with running([okx_tape], speed=0, at=AT, rate_scale=float("inf")) as handle:
        yield handle


@pytest.fixture(scope="module")
def ask(sandbox):
    def ask(path, **query):
        return get(f"{sandbox.url}/api/v5/{path}?{urlencode(query)}")

    return ask


def data(answer):
    assert answer.status == 200
    assert answer.body["code"] == "0", answer.body
    return answer.body["data"]


def closed(tape, instrument, interval, at_ms=AT):
    bars = tape.bars(instrument, interval)
    return bars, int(np.searchsorted(bars.open_ms, at_ms - interval.ms, side="right"))


def test_time_is_market_time_in_text(ask):
    assert data(ask("public/time")) == [{"ts": str(AT)}]


def test_a_candle_row_is_the_bar_of_the_tape(ask, okx_tape):
    rows = data(ask("market/candles", instId="BTC-USDT-SWAP", limit=3))
    bars, n = closed(okx_tape, BTC, Interval.parse("1m"))
    assert [row[8] for row in rows] == ["0", "1", "1"]
    newest = rows[1]
    assert int(newest[0]) == bars.open_ms[n - 1]
    assert [float(text) for text in newest[1:5]] == [getattr(bars, name)[n - 1] for name in COLUMNS]
    assert float(newest[6]) == bars.volume_base[n - 1]
    assert float(newest[5]) == pytest.approx(bars.volume_base[n - 1] / okx_tape.specs[BTC].contract_value_base)
    assert newest[7] == ""
    open_row = rows[0]
    assert int(open_row[0]) == bars.open_ms[n]
    assert {float(text) for text in open_row[1:5]} == {bars.open[n]}


@settings(max_examples=10, deadline=None)
@given(limit=st.integers(60, 300), hours=st.integers(0, 28 * 24), bar=st.sampled_from(["1H", "4H", "1m"]))
def test_walking_back_with_after_yields_each_bar_once(ask, okx_tape, limit, hours, bar):
    interval = Interval.parse(bar)
    since = END - 12 * HOUR_MS - hours * HOUR_MS
    if bar == "1m":
        since = max(since, AT - 8 * HOUR_MS)
    walked, after = [], 2**53
    while True:
        page = data(ask("market/history-candles", instId="BTC-USDT-SWAP", bar=bar, limit=limit, after=after))
        assert len(page) <= limit
        walked += [row for row in page if int(row[0]) >= since]
        if not page or int(page[-1][0]) < since:
            break
        after = page[-1][0]
    times = [int(row[0]) for row in walked if row[8] == "1"]
    assert times == sorted(set(times), reverse=True)
    if bar == "4H":
        step, first = 4 * HOUR_MS, START
        expected = [t for t in range(first, AT - step + 1, step) if t >= since]
    else:
        bars, n = closed(okx_tape, BTC, interval)
        expected = [t for t in bars.open_ms[:n].tolist() if t >= since]
    assert times == expected[::-1]


@settings(max_examples=40, deadline=None)
@given(data_=st.data())
def test_after_and_before_are_exclusive_and_the_newest_rows_win(ask, okx_tape, data_):
    bars, n = closed(okx_tape, BTC, Interval.parse("1h"))
    opens = [*bars.open_ms[:n].tolist(), Interval.parse("1h").floor(AT)]
    after = data_.draw(st.sampled_from([None, *opens[-400:]]))
    before = data_.draw(st.sampled_from([None, *opens[-400:]]))
    limit = data_.draw(st.integers(1, 300))
    query = {key: value for key, value in (("after", after), ("before", before)) if value is not None}
    rows = data(ask("market/history-candles", instId="BTC-USDT-SWAP", bar="1H", limit=limit, **query))
    inside = [t for t in opens if t < (after or 2**60) and t > (before or 0)]
    assert [int(row[0]) for row in rows] == inside[::-1][:limit]


def test_before_alone_is_the_newest_page(ask):
    rows = data(ask("market/candles", instId="BTC-USDT-SWAP", before=END - DAY_MS, limit=5))
    assert int(rows[0][0]) == Interval.parse("1m").floor(AT)


def test_candles_know_only_the_newest_1440(ask, okx_tape):
    bars, n = closed(okx_tape, BTC, Interval.parse("1m"))
    horizon = int(bars.open_ms[n]) - 1439 * MINUTE_MS
    assert n > 1440
    oldest = data(ask("market/candles", instId="BTC-USDT-SWAP", after=horizon + 1))
    assert [int(row[0]) for row in oldest] == [horizon]
    assert data(ask("market/candles", instId="BTC-USDT-SWAP", after=horizon)) == []
    assert len(data(ask("market/history-candles", instId="BTC-USDT-SWAP", after=horizon))) == 100


def test_long_bars_open_at_utc8_unless_told(ask):
    for bar, hour in (("1D", 16), ("1Dutc", 0), ("12H", 4), ("6Hutc", 0)):
        rows = data(ask("market/history-candles", instId="BTC-USDT-SWAP", bar=bar, limit=10))
        step = {"1": 24, "6": 6}.get(bar[0] if bar[1] in "DH" else "", 12)
        assert {(int(row[0]) // HOUR_MS) % step for row in rows} == {hour % step}, bar


@pytest.mark.parametrize(("kind", "inst_id"), [("mark-price", "BTC-USDT-SWAP"), ("index", "BTC-USDT")])
def test_mark_price_and_index_candles_have_six_columns(ask, kind, inst_id):
    for path in (f"market/{kind}-candles", f"market/history-{kind}-candles"):
        rows = data(ask(path, instId=inst_id, limit=100))
        assert {len(row) for row in rows} == {6}
        assert [row[5] for row in rows] == ["0"] + ["1"] * 99


def test_settled_funding_pages_backwards_over_three_months(okx_tape):
    far = START + 40 * DAY_MS
    with running([okx_tape], speed=0, at=far, rate_scale=float("inf")) as handle:
        walked, after = [], ""
        url = f"{handle.url}/api/v5/public/funding-rate-history?instId=ETH-USDT-SWAP"
        while page := data(get(f"{url}&limit=23&after={after}")):
            walked += page
            after = page[-1]["fundingTime"]
        settled = okx_tape.settlements(Instrument.parse("ETH_USDT.OKX"))
        assert [int(row["fundingTime"]) for row in walked] == settled.time_ms.tolist()[::-1]
        assert [float(row["realizedRate"]) for row in walked] == settled.rate.tolist()[::-1]
        predicted = [row["fundingRate"] for row in walked]
        assert predicted[-1] == ""
        assert [float(text) for text in predicted[:-1]] == settled.rate.tolist()[-2::-1]
        handle.set_clock(at=START + 100 * DAY_MS, until=START + 100 * DAY_MS)
        late = data(get(url))
        assert min(int(row["fundingTime"]) for row in late) == START + 10 * DAY_MS


def test_running_funding(ask, okx_tape):
    (row,) = data(ask("public/funding-rate", instId="BTC-USDT-SWAP"))
    now = okx_tape.funding_now(BTC, AT)
    assert (float(row["fundingRate"]), int(row["fundingTime"])) == (now.rate, now.settles_ms)
    assert int(row["nextFundingTime"]) - int(row["fundingTime"]) == now.interval_ms
    assert int(row["prevFundingTime"]) == now.settles_ms - now.interval_ms
    assert (row["settState"], float(row["settFundingRate"])) == ("settled", now.rate)
    everything = {row["instId"]: row for row in data(ask("public/funding-rate", instId="ANY"))}
    assert {"BTC-USDT-SWAP", "ETH-USDT-SWAP", "BTC-USD-SWAP", "XPRE-USDT-SWAP"} <= set(everything)
    assert "PEPE-USDT-SWAP" not in everything  # the tape has no funding of it


def test_next_funding_rate_is_empty_or_absent(ask):
    rows = data(ask("public/funding-rate", instId="ANY"))
    assert {row.get("nextFundingRate", "absent") for row in rows} == {"", "absent"}


def test_instruments_hold_what_a_client_must_survive(ask, okx_tape):
    rows = data(ask("public/instruments", instType="SWAP"))
    by_id = {row["instId"]: row for row in rows}
    assert {i.venue_id for i in okx_tape.specs} <= set(by_id)
    assert {"", "LISTING-SWAP-SLX-USDT", "BTC-USD_UM-SWAP", "BTC-USD-SWAP", "XNEW-USDT-SWAP"} <= set(by_id)
    assert by_id["XNEW-USDT-SWAP"]["state"] == "preopen"
    assert by_id["XNEW-USDT-SWAP"]["ctVal"] == ""
    assert by_id["XSTOCK-USDT-SWAP"]["instCategory"] == "3"
    assert by_id["XPRE-USDT-SWAP"]["ruleType"] == "pre_market"
    btc = by_id["BTC-USDT-SWAP"]
    known = {"ctVal": "0.0001", "ctValCcy": "BTC", "tickSz": "0.1", "lotSz": "1", "state": "live", "expTime": ""}
    assert {key: btc[key] for key in known} == known
    assert (btc["baseCcy"], btc["quoteCcy"], btc["uly"]) == ("", "", "BTC-USDT")
    assert [row["instId"] for row in data(ask("public/instruments", instType="SWAP", instId="BTC-USDT-SWAP"))] == [
        "BTC-USDT-SWAP"
    ]


def test_plain_markets_have_only_the_tape(okx_tape):
    with running([okx_tape], speed=0, at=AT, awkward=False) as handle:
        rows = data(get(f"{handle.url}/api/v5/public/instruments?instType=SWAP"))
    assert {row["instId"] for row in rows} == {i.venue_id for i in okx_tape.specs}


def test_tickers_mark_prices_and_open_interest(ask, okx_tape):
    tickers = {row["instId"]: row for row in data(ask("market/tickers", instType="SWAP"))}
    marks = {row["instId"]: row["markPx"] for row in data(ask("public/mark-price", instType="SWAP"))}
    bars, n = closed(okx_tape, BTC, Interval.parse("1m"))
    assert float(tickers["BTC-USDT-SWAP"]["last"]) == float(marks["BTC-USDT-SWAP"]) == bars.open[n]
    assert set(tickers) == set(marks) == {i.venue_id for i in okx_tape.specs}
    interest = data(ask("public/open-interest", instType="SWAP"))
    assert {row["oi"] for row in interest} == {""}
    assert data(ask("market/ticker", instId="BTC-USDT-SWAP")) == [tickers["BTC-USDT-SWAP"]]


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("market/candles", {"instId": "NO-USDT-SWAP"}, 200, "51001"),
        ("market/candles", {}, 400, "50014"),
        ("market/candles", {"instId": "BTC-USDT-SWAP", "bar": "1h"}, 400, "51000"),
        ("market/candles", {"instId": "BTC-USDT-SWAP", "limit": 301}, 400, "51000"),
        ("market/candles", {"instId": "BTC-USDT-SWAP", "after": "now"}, 400, "51000"),
        ("market/mark-price-candles", {"instId": "BTC-USDT-SWAP", "limit": 101}, 400, "51000"),
        ("market/index-candles", {"instId": "BTC-USDT-SWAP"}, 200, "51001"),
        ("market/index-candles", {"instId": "BTC-USDT", "limit": 101}, 400, "51000"),
        ("public/funding-rate", {"instId": "NO-USDT-SWAP"}, 200, "51001"),
        ("public/funding-rate-history", {"instId": "BTC-USDT-SWAP", "limit": 401}, 400, "51000"),
        ("public/instruments", {}, 400, "50014"),
        ("public/instruments", {"instType": "swap"}, 400, "51000"),
        ("public/instruments", {"instType": "SWAP", "instId": "NO-USDT-SWAP"}, 200, "51001"),
        ("market/tickers", {"instType": ""}, 400, "50014"),
        ("public/position-tiers", {"instType": "SWAP", "instFamily": "BTC-USDT"}, 400, "50014"),
        ("public/position-tiers", {"instType": "SWAP", "tdMode": "cross"}, 400, "50014"),
        ("public/position-tiers", {"instType": "SWAP", "tdMode": "cash", "instFamily": "BTC-USDT"}, 400, "51000"),
        ("public/position-tiers", {"instType": "SWAP", "tdMode": "cross", "instFamily": "A,B,C,D,E,F"}, 400, "51000"),
        ("public/position-tiers", {"instType": "SWAP", "tdMode": "cross", "instFamily": "NO-USDT"}, 200, "51001"),
    ],
)
def test_errors_are_objects_with_the_documented_code(ask, path, query, status, code):
    answer = ask(path, **query)
    assert (answer.status, answer.body["code"], answer.body["data"]) == (status, code, [])
    assert answer.body["msg"]


def test_awkward_instruments_trade_without_bars(ask):
    assert data(ask("market/candles", instId="XSTOCK-USDT-SWAP")) == []
    assert data(ask("public/funding-rate-history", instId="XSTOCK-USDT-SWAP")) == []


def test_the_true_limit_answers_50011_with_429_and_with_200(okx_tape):
    with running([okx_tape], speed=0, at=AT) as handle:
        url = f"{handle.url}/api/v5/public/funding-rate?instId=BTC-USDT-SWAP"
        for _ in range(10):  # all within one window of 2 s: a busy machine may need another try
            refused, began = handle.status()["refused"], time.monotonic()
            answers = [get(url) for _ in range(14)]
            if time.monotonic() - began < 1.8:
                break
            time.sleep(2.2)
        assert [answer.body["code"] for answer in answers] == ["0"] * 10 + ["50011"] * 4
        assert sorted(answer.status for answer in answers[10:]) == [200, 200, 429, 429]
        assert "Retry-After" not in answers[10].headers
        other = get(f"{handle.url}/api/v5/public/funding-rate?instId=ETH-USDT-SWAP")
        assert other.body["code"] == "0"  # the limit is per instId
        assert handle.status()["refused"] - refused == 4


def keys(path, pick):
    return set(pick(json.loads(path.read_text())))


def test_fields_are_those_that_were_recorded_or_documented(real_data, ask):
    fixtures = real_data / "wire/okx/nautilus_fixtures_mixed"
    examples = real_data / "wire/okx/api_examples_okx_net/Endpoints/UnifiedApi/ExchangeData"

    def documented(name):
        return set(json.loads((examples / name).read_text().split("false\n", 1)[1])["data"][0])

    (funding,) = data(ask("public/funding-rate", instId="ETH-USDT-SWAP"))
    settled = data(ask("public/funding-rate-history", instId="BTC-USDT-SWAP", limit=1))[0]
    mark = data(ask("public/mark-price", instType="SWAP"))[0]
    ticker = data(ask("market/tickers", instType="SWAP"))[0]
    swap = data(ask("public/instruments", instType="SWAP"))[0]
    first = lambda body: body["data"][0]  # noqa: E731 - the same pick three times
    assert keys(fixtures / "http_get_instruments_swap.json", first) <= set(swap)
    assert keys(fixtures / "http_get_funding_rate_history.json", first) <= set(settled)
    assert keys(fixtures / "http_get_mark_price.json", first) == set(mark)
    assert documented("GetFundingRates.txt") <= set(funding)
    assert documented("GetFundingRateHistory.txt") <= set(settled)
    assert documented("GetTickers.txt") == set(ticker)
    assert documented("GetOpenInterests.txt") <= set(data(ask("public/open-interest", instType="SWAP"))[0])
    recorded = json.loads((fixtures / "http_get_candlesticks_full.json").read_text())["data"][0]
    row = data(ask("market/candles", instId="BTC-USDT-SWAP", limit=2))[1]
    assert [type(value) for value in row] == [type(value) for value in recorded]
