"""Every recorded or documented message of candles, funding, tickers and instruments goes through our parsers."""

from __future__ import annotations

import math

import orjson
import pyarrow.parquet as pq
import pytest
from support_wire import Fed, Told, client_of, example, load, recorded

from qlib_crypto.errors import SchemaError
from qlib_crypto.feeds import binance_rows as binance
from qlib_crypto.feeds import okx_rows as okx
from qlib_crypto.feeds.binance_rows import event_bar_of, event_estimate_of
from qlib_crypto.feeds.okx_rows import estimate_of
from qlib_crypto.lake.checks import fault
from qlib_crypto.symbols import Instrument, Interval, Venue

BTC_OKX = Instrument("BTC", "USDT", Venue.OKX)
BTC_BIN = Instrument("BTC", "USDT", Venue.BINANCE)
M1, M5, D1 = map(Interval.parse, ("1m", "5m", "1d"))


@pytest.fixture(scope="module")
def wire(real_data):
    return real_data / "wire"


@pytest.fixture(scope="module")
def okx_examples(wire):
    return wire / "okx/api_examples_okx_net"


@pytest.fixture(scope="module")
def binance_examples(wire):
    return wire / "binance/api_examples_binance_net"


@pytest.fixture(scope="module")
def mock(wire):
    return load(wire / "binance/gocryptotrader_http_mock/http.json")["routes"]


def answers_of(mock, path):
    return [one["data"] for one in mock[path]["GET"] if one["data"]]


# OKX


def test_okx_candles_as_recorded(wire, real_data):
    """Volume is the column that real data, downloaded by others, calls volume; the venue's 5m bar agrees."""
    rows = load(wire / "okx/nautilus_fixtures_mixed/http_get_candlesticks_full.json")["data"]
    bars = [okx.bar_of(BTC_OKX, M1, row, "rest", 5) for row in rows]
    assert bars[0][2:] == (
        1747094040000,
        102806.1,
        102820.4,
        102806.1,
        102820.4,
        10.4037,
        1069603.34883,
        None,
        "rest",
        5,
    )
    assert bars[1].volume_quote / bars[1].volume_base == pytest.approx(102801, rel=1e-4)
    stored = pq.read_table(real_data / "candles/okx_swap_5m/BTC-USDT-SWAP.parquet").to_pandas()
    five = stored.set_index("timestamp").loc["2025-05-12 23:50:00+00:00"]
    assert five["close"] == bars[0].close
    assert five["low"] <= min(bar.low for bar in bars)
    assert five["volume"] > sum(bar.volume_base for bar in bars)


def test_okx_open_and_misplaced_candles(wire, okx_examples):
    old = load(wire / "okx/nautilus_fixtures_mixed/http_get_candlesticks.json")["data"]
    assert [okx.bar_of(BTC_OKX, M1, row, "rest", 0) for row in old] == [None, None]
    for name in ("GetKlines", "GetKlineHistory"):
        rows = example(okx_examples / f"Endpoints/UnifiedApi/ExchangeData/{name}.txt")["data"]
        assert all(okx.bar_of(BTC_OKX, M1, row, "rest", 0) is None for row in rows)
    row = load(wire / "okx/nautilus_fixtures_mixed/ws_candle.json")["data"][0]
    with pytest.raises(SchemaError, match="off the UTC grid"):  # documented as a day that opens at 02:26:23
        okx.bar_of(BTC_OKX, D1, row, "ws", 0)
    with pytest.raises(SchemaError, match="8 fields instead of 9"):
        okx.bar_of(BTC_OKX, M1, old[0][:8], "rest", 0)


@pytest.mark.parametrize("bad", ["", "NaN", "inf", None, math.nan])
@pytest.mark.parametrize("column", [1, 2, 3, 4, 6])
def test_a_price_that_is_none_makes_a_bar_for_the_quarantine(bad, column):
    row = ["1747094040000", "1", "2", "0.5", "1.5", "100", "1", "1.5", "1"]
    assert fault(okx.bar_of(BTC_OKX, M1, row, "rest", 0)) is None
    row[column] = bad
    assert fault(okx.bar_of(BTC_OKX, M1, row, "rest", 0)) is not None


@pytest.mark.parametrize("column", [1, 2, 3, 4, 6])
def test_a_price_that_spells_no_number_is_another_shape(column):
    row = ["1747094040000", "1", "2", "0.5", "1.5", "100", "1", "1.5", "1"]
    row[column] = "abc"
    with pytest.raises(SchemaError, match="'abc' is no number"):
        okx.bar_of(BTC_OKX, M1, row, "rest", 0)


def test_okx_instruments_as_recorded(wire):
    rows = load(wire / "okx/nautilus_fixtures_mixed/http_get_instruments_swap.json")
    client = client_of(
        Venue.OKX,
        {"/api/v5/public/time": {"data": [{"ts": "1750000000000"}]}, "/api/v5/public/instruments": rows},
    )
    specs = {spec.instrument.symbol: spec for spec in client.specs()}
    assert set(specs) == {"BTC_USDT", "ETH_USDT"}  # BTC-USD-SWAP is inverse
    btc = specs["BTC_USDT"]
    by_id = {row["instId"]: row for row in rows["data"]}
    assert btc.contract_value_base == float(by_id["BTC-USDT-SWAP"]["ctVal"]) == 0.01
    assert (btc.state, btc.category, btc.rule_type, btc.seen_ms) == ("live", "crypto", "normal", 1750000000000)
    assert btc.lot_base == pytest.approx(1e-4)
    assert btc.max_leverage == 100
    assert btc.min_notional_quote is None
    assert btc.listed_ms == 1573557408000
    assert btc.delisted_ms is None


def test_okx_instruments_of_a_recorded_day(wire):
    """All of 2022-05-13: every linear swap in USDT or USDC, and nothing else, whatever shape the other rows have."""
    lines = recorded(wire / "okx/cryptofeed_recording/OKX.jsonl.zst")
    pages = [orjson.loads(line["data"]) for line in lines if line["t"] == "http"]
    rows = [row for page in pages for row in page["data"]]
    assert {row["instType"] for row in rows} == {"SPOT", "SWAP", "FUTURES", "OPTION"}
    specs = [spec for row in rows if (spec := okx.spec_of(row, 0))]
    want = {
        r["instId"]
        for r in rows
        if r["instType"] == "SWAP" and r["ctType"] == "linear" and r["uly"].endswith(("-USDT", "-USDC"))
    }
    assert {spec.instrument.venue_id for spec in specs} == want
    assert len(want) > 100
    assert all(spec.category == "crypto" and spec.rule_type == "normal" for spec in specs)
    assert all(math.isfinite(s.lot_base) and s.lot_base > 0 and s.tick_size > 0 for s in specs)


COMPLETE = {"ctType": "linear", "ctVal": "0.1", "tickSz": "1", "lotSz": "1", "minSz": "1"}


@pytest.mark.parametrize(
    "odd",
    [
        {"instId": "", "instType": "SWAP", "state": "preopen"},
        {"instId": "LISTING-SWAP-SLX-USDT", "instType": "SWAP", "state": "preopen"},
        {"instId": "NEW-USDT-SWAP", "instType": "SWAP", "state": "preopen", "ctType": "", "ctVal": "", "tickSz": ""},
        {"instId": "NEW-USDT-SWAP", "instType": "SWAP", "state": "preopen"},
        {"instId": "BTC-USD_UM-SWAP", "ctValCcy": "BTC", **COMPLETE},
        {"instId": "BTC-USD_UM_XPERP-310404", "ctType": "linear", "ctValCcy": "BTC"},
        {"instId": "币安-USDT-SWAP", "ctValCcy": "币安", **COMPLETE},
        {"instId": "BTC-USDT-SWAP", "ctValCcy": "USDT", **COMPLETE},
        {"instId": None},
        {},
    ],
    ids=str,
)  # fmt: skip
def test_odd_okx_rows_are_left_out(odd):
    assert okx.spec_of(odd, 0) is None
    assert okx.spec_of({"instId": "BTC-USDT-SWAP", "ctValCcy": "BTC", **COMPLETE}, 0) is not None


def test_okx_spec_fields_that_change():
    row = {
        "instId": "PEPE-USDT-SWAP", "ctType": "linear", "ctValCcy": "PEPE", "ctVal": "0.1", "ctMult": "3",
        "tickSz": "0.000000001", "lotSz": "0.1", "minSz": "0.1", "state": "suspend", "instCategory": "3",
        "ruleType": "pre_market", "expTime": "1790000000000", "listTime": "", "lever": "",
    }  # fmt: skip
    spec = okx.spec_of(row, 9)
    assert spec.contract_value_base == 0.3  # in floats 0.1 * 3 is not
    assert (spec.state, spec.category, spec.rule_type) == ("suspend", "other", "pre_market")
    assert (spec.delisted_ms, spec.listed_ms, spec.max_leverage) == (1790000000000, None, None)


def test_okx_funding_as_recorded(wire, okx_examples):
    pushed = load(wire / "okx/nautilus_fixtures_mixed/ws_funding_rate.json")["data"][0]
    assert estimate_of(BTC_OKX, pushed, 7) == (BTC_OKX, 1744590349506, 0.0001, 1744590349506, 8.0, None, 7)
    row = example(okx_examples / "Endpoints/UnifiedApi/ExchangeData/GetFundingRates.txt")["data"][0]
    assert "nextFundingRate" not in row
    got = estimate_of(BTC_OKX, row, 7)
    assert (got.rate, got.settles_ms, got.interval_hours) == (0.000079238688534, 1703088000000, 8.0)
    assert estimate_of(BTC_OKX, {**row, "fundingRate": ""}, 7) is None
    assert estimate_of(BTC_OKX, {**row, "nextFundingTime": ""}, 7).interval_hours is None
    pushed = example(okx_examples / "Subscriptions/Unified/ExchangeData/FundingRate.txt")["data"][0]
    assert estimate_of(BTC_OKX, pushed, 7).rate == 0.0001875391284828


def test_okx_settlement_is_what_was_paid(wire):
    """`realizedRate`, not the prediction."""
    page = load(wire / "okx/nautilus_fixtures_mixed/http_get_funding_rate_history.json")

    class Once(Told):
        def get(self, _path, **params):
            return page if params["after"] > 1704067200000 else {"data": []}

    client = client_of(Venue.OKX, {})
    client._http = Once({})
    rows = [row for rows in client.settlements(BTC_OKX, 0, 1704067200001) for row in rows]
    assert [(row.time_ms, row.rate, row.mark_price) for row in rows] == [
        (1704067200000, 0.00015, None),
        (1704038400000, -0.00002, None),
    ]


def test_okx_tickers_as_documented(okx_examples):
    answer = example(okx_examples / "Endpoints/UnifiedApi/ExchangeData/GetTickers.txt")
    assert client_of(Venue.OKX, {"/api/v5/market/tickers": answer}).tickers() == []  # inverse ones
    for row in answer["data"]:
        row["instId"] = row["instId"].replace("-USD-", "-USDT-")
    answer["data"].append({**answer["data"][0], "instId": "NEW-USDT-SWAP", "last": ""})
    tickers = client_of(Venue.OKX, {"/api/v5/market/tickers": answer}).tickers()
    assert [t.instrument.symbol for t in tickers] == ["LTC_USDT", "BTC_USDT"]
    assert tickers[0].turnover_quote == 2222 * 9999.99


# Binance


def test_binance_klines_as_recorded(mock, wire):
    pages = answers_of(mock, "/fapi/v1/klines")
    rows = [row for page in pages for row in page]
    assert len(rows) >= 20
    grids = {row[6] - row[0] + 1: Interval.of_ms(row[6] - row[0] + 1) for row in rows}
    for row in rows:
        bar = binance.bar_of(BTC_BIN, grids[row[6] - row[0] + 1], row, row[6] + 1, 0)
        assert bar.low <= bar.volume_quote / bar.volume_base <= bar.high
        assert bar[2:10] == (row[0], *map(float, row[1:6]), float(row[7]), row[8])
        assert binance.bar_of(BTC_BIN, bar.interval, row, row[6], 0) is None  # still open in its last millisecond
    week = load(
        wire / "binance/nautilus_fixtures_mixed/python_resources/http_responses/http_futures_market_klines.json"
    )
    with pytest.raises(SchemaError, match="off the UTC grid"):  # a documented row of seven days from a Monday
        binance.bar_of(BTC_BIN, D1, [1, *week[0][1:]], 2**60, 0)


def test_binance_kline_events_as_recorded(wire, binance_examples):
    """Half a minute of real klines: only what `x` closes is a bar, and it is the last state of its minute."""
    lines = recorded(wire / "binance/cryptofeed_recording/BINANCE_FUTURES.jsonl.zst")
    pushed = [orjson.loads(line["data"]) for line in lines if line["t"] == "recv"]
    events = [m["data"] for m in pushed if m.get("stream", "").endswith("@kline_1m")]
    assert len(events) > 50
    bars = [b for e in events if (b := event_bar_of(Instrument.from_venue_id(Venue.BINANCE, e["s"]), M1, e, 1))]
    closed = [e["k"] for e in events if e["k"]["x"]]
    assert [b.open_ms for b in bars] == [k["t"] for k in closed]
    assert [b.trades for b in bars] == [k["n"] for k in closed]
    for bar in bars:
        last = [e["k"] for e in events if e["s"] == bar.instrument.venue_id and e["k"]["t"] == bar.open_ms][-1]
        assert bar[3:9] == tuple(float(last[name]) for name in "ohlcvq")
    folder = wire / "binance/nautilus_fixtures_mixed/market_data_json"
    assert event_bar_of(BTC_BIN, M1, load(folder / "kline_stream_open.json"), 1) is None
    bar = event_bar_of(BTC_BIN, M1, load(folder / "kline_stream_closed.json"), 1)
    assert bar[2:] == (1638747660000, 0.001, 0.0025, 0.001, 0.002, 1000.0, 1.0, 100, "ws", 1)
    documented = example(binance_examples / "Subscriptions/UsdFutures/Klines.txt")["data"]
    assert event_bar_of(BTC_BIN, M1, documented, 1) is None


def test_binance_marks_as_recorded(wire, binance_examples):
    """`P` is a price, however much it stands where a rate could be."""
    event = load(wire / "binance/nautilus_fixtures_mixed/market_data_json/mark_price_stream.json")
    want = (BTC_BIN, 1562305380000, 0.00038167, 1562306400000, None, 11794.15, 3)
    assert event_estimate_of(BTC_BIN, event, 3) == want
    assert (
        event_estimate_of(BTC_BIN, example(binance_examples / "Subscriptions/UsdFutures/MarkPrice.txt")["data"], 3)
        == want
    )
    assert event_estimate_of(BTC_BIN, {**event, "r": "", "T": 0}, 3) is None


def test_binance_exchange_info_as_recorded(mock, wire, binance_examples):
    lines = recorded(wire / "binance/cryptofeed_recording/BINANCE_FUTURES.jsonl.zst")
    answers = [orjson.loads(x["data"]) for x in lines if x["t"] == "http" and "exchangeInfo" in x["url"]]
    answers += answers_of(mock, "/fapi/v1/exchangeInfo")
    answers += [
        load(
            wire
            / "binance/nautilus_fixtures_mixed/python_resources/http_responses/http_futures_market_exchange_info.json"
        )
    ]
    answers += [example(binance_examples / "Endpoints/UsdFutures/ExchangeData/GetExchangeInfo.txt")]
    for answer in answers:
        specs = client_of(Venue.BINANCE, {"/fapi/v1/exchangeInfo": answer}).specs()
        rows = {row["symbol"]: row for row in answer["symbols"]}
        want = {s for s, r in rows.items() if r["contractType"] == "PERPETUAL" and r["quoteAsset"] in ("USDT", "USDC")}
        assert {spec.instrument.venue_id for spec in specs} == want
        for spec in specs:
            row = rows[spec.instrument.venue_id]
            assert (spec.state == "live") == (row["status"] == "TRADING")
            assert spec.listed_ms == row.get("onboardDate")
            sizes = next(f for f in row["filters"] if f["filterType"] == "LOT_SIZE")
            assert (spec.lot_contracts, spec.min_contracts) == (float(sizes["stepSize"]), float(sizes["minQty"]))
            assert spec.contract_value_base == 1.0
    assert sum(len(answer["symbols"]) for answer in answers) > 100


def binance_row(**other):
    return {
        "symbol": "TSLAUSDT", "contractType": "PERPETUAL", "deliveryDate": 4133404800000, "onboardDate": 5,
        "status": "TRADING", "baseAsset": "TSLA", "quoteAsset": "USDT", "underlyingType": "COIN",
        "filters": [
            {"filterType": "LOT_SIZE", "stepSize": "1", "minQty": "2"},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
            {"filterType": "PRICE_FILTER", "tickSize": "0.01"},
        ],
        **other,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("other", "want"),
    [
        ({}, ("live", "crypto", "normal", None)),
        ({"contractType": "TRADIFI_PERPETUAL", "underlyingType": "EQUITY"}, ("live", "other", "normal", None)),
        ({"underlyingType": "PREMARKET"}, ("live", "crypto", "pre_market", None)),
        ({"status": "SETTLING", "deliveryDate": 1790000000000}, ("settling", "crypto", "normal", 1790000000000)),
    ],
    ids=str,
)
def test_binance_spec_states(other, want):
    spec = binance.spec_of(binance_row(**other), 0)
    assert (spec.state, spec.category, spec.rule_type, spec.delisted_ms) == want
    assert (spec.tick_size, spec.lot_contracts, spec.min_contracts, spec.min_notional_quote) == (0.01, 1, 2, 5)


@pytest.mark.parametrize(
    "other",
    [
        {"contractType": "CURRENT_QUARTER", "symbol": "BTCUSDT_260925"},
        {"contractType": ""},
        {"symbol": "币安人生USDT", "baseAsset": "币安人生"},
        {"symbol": "BTCUSD_PERP", "baseAsset": "BTC", "quoteAsset": "USD"},
        {"symbol": "BTCBUSD", "baseAsset": "BTC", "quoteAsset": "BUSD"},
        {"filters": []},
        {"baseAsset": "OTHER"},
    ],
    ids=str,
)
def test_odd_binance_symbols_are_left_out(other):
    assert binance.spec_of(binance_row(**other), 0) is None


def test_binance_funding_as_recorded(mock, binance_examples):
    pages = answers_of(mock, "/fapi/v1/fundingRate")
    pages += [example(binance_examples / "Endpoints/UsdFutures/ExchangeData/GetFundingRates.txt")]
    for unordered in pages:

        class Once(Told):
            def get(self, _path, **params):
                return [r for r in self.answers if params["startTime"] <= r["fundingTime"] <= params["endTime"]]

        page = sorted(unordered, key=lambda row: row["fundingTime"])
        special = {**page[0], "rateType": "Special", "fundingRate": "0.5"}
        client = client_of(Venue.BINANCE, {})
        client._http = Once([*page, special])
        end = page[-1]["fundingTime"] + 1
        rows = [row for rows in client.settlements(BTC_BIN, page[0]["fundingTime"], end) for row in rows]
        assert [(r.time_ms, r.rate) for r in rows] == [(r["fundingTime"], float(r["fundingRate"])) for r in page]
        assert [r.mark_price for r in rows] == [float(r["markPrice"]) if r.get("markPrice") else None for r in page]


def test_binance_premium_index_and_tickers_as_recorded(mock, binance_examples):
    info = answers_of(mock, "/fapi/v1/fundingInfo")[0]
    rows = answers_of(mock, "/fapi/v1/premiumIndex")[1]
    assert isinstance(rows, list)
    info = [*info, {"symbol": rows[0]["symbol"], "fundingIntervalHours": 4}]
    got = client_of(Venue.BINANCE, {"/fapi/v1/fundingInfo": info, "/fapi/v1/premiumIndex": rows}).estimates()
    adjusted = {row["symbol"]: row["fundingIntervalHours"] for row in info}
    want = [
        r
        for r in rows
        if Instrument.from_venue_id(Venue.BINANCE, r["symbol"]) and r["lastFundingRate"] and r["nextFundingTime"]
    ]
    assert [(e.instrument.venue_id, e.rate, e.settles_ms, e.interval_hours, e.mark_price) for e in got] == [
        (
            r["symbol"],
            float(r["lastFundingRate"]),
            r["nextFundingTime"],
            adjusted.get(r["symbol"], 8),
            float(r["markPrice"]),
        )
        for r in want
    ]
    assert got[0].interval_hours == 4
    ticker = example(binance_examples / "Endpoints/UsdFutures/ExchangeData/GetTicker.txt")
    tickers = client_of(Venue.BINANCE, {"/fapi/v1/ticker/24hr": [ticker]}).tickers()
    assert tickers == [(BTC_BIN, 4.000002, 15.3, 1499869899040)]


# what is not there is said


@pytest.mark.parametrize("venue", list(Venue))
@pytest.mark.parametrize("answer", [{"data": None}, {"data": {"a": 1}}, {"x": 1}], ids=str)
def test_another_shape_is_a_schema_error(venue, answer):
    path = {Venue.OKX: "/api/v5/market/tickers", Venue.BINANCE: "/fapi/v1/ticker/24hr"}[venue]
    with pytest.raises(SchemaError, match="instead of a list; check --endpoint"):
        client_of(venue, {path: answer}).tickers()


# the cryptofeed objects that the same messages become


def fed(venue, messages, instrument, **attributes):
    """What a feed's callbacks get, and its problems."""
    fed = Fed(venue, messages, instrument, attributes=attributes)
    return fed.got, fed.problems


def okx_push(*rows, name="BTC-USDT-SWAP", channel="candle1m"):
    return {"arg": {"channel": channel, "instId": name}, "data": list(rows)}


CLOSED = ["1747093980000", "102806", "102820.5", "102783.1", "102806.1", "7164.04", "71.6404", "7364701.57952", "1"]
OPEN = ["1747094040000", "102806.1", "102820.4", "102806.1", "102820.4", "1040.37", "10.4037", "1069603.34883", "0"]
FLAT = ["1747094100000", "1", "1", "1", "1", "0", "0", "0", "1"]


def test_okx_candles_have_their_own_flag_time_and_base_volume():
    """cryptofeed's own feed calls an open candle with volume closed, and a closed one without volume open."""
    got, problems = fed(Venue.OKX, [okx_push(CLOSED, OPEN), okx_push(FLAT)], BTC_OKX)
    assert problems == []
    assert [(c.start, c.stop, c.closed, float(c.volume)) for c in got] == [
        (1747093980.0, 1747094040.0, True, 71.6404),
        (1747094100.0, 1747094160.0, True, 0.0),
    ]
    assert (got[0].symbol, got[0].interval, float(got[0].high)) == ("BTC-USDT-PERP", "1m", 102820.5)
    both, _ = fed(Venue.OKX, [okx_push(CLOSED, OPEN)], BTC_OKX, candle_closed_only=False)
    assert [c.closed for c in both] == [True, False]


def test_okx_funding_objects_tell_settlement_and_observation_apart():
    row = {"instId": "BTC-USDT-SWAP", "fundingRate": "0.0001", "fundingTime": "1747094400000", "ts": "1747094000000"}
    got, problems = fed(Venue.OKX, [okx_push(row, channel="funding-rate")], BTC_OKX)
    assert problems == []
    assert (float(got[0].rate), got[0].timestamp, got[0].next_funding_time) == (0.0001, 1747094000.0, 1747094400.0)
    assert got[0].predicted_rate is None


def test_binance_objects():
    kline = {
        "e": "kline", "E": 1638747720010, "s": "BTCUSDT",
        "k": {"t": 1638747660000, "T": 1638747719999, "i": "1m", "o": "1", "c": "2", "h": "3", "l": "0.5", "v": "9",
              "n": 4, "x": True, "q": "7"},
    }  # fmt: skip
    mark = {
        "e": "markPriceUpdate",
        "E": 1562305380000,
        "s": "BTCUSDT",
        "p": "11.5",
        "P": "11784.2",
        "r": "0.0003",
        "T": 1562306400000,
    }
    messages = [{"result": None, "id": 1}, {"stream": "x", "data": kline}, {"stream": "x", "data": mark}]
    messages += [{"stream": "x", "data": {**mark, "r": ""}}]
    got, problems = fed(Venue.BINANCE, messages, BTC_BIN)
    assert problems == []
    candle, funding = got
    assert (candle.start, candle.stop, candle.closed, candle.trades) == (1638747660.0, 1638747720.0, True, 4)
    assert (float(funding.mark_price), float(funding.rate), funding.predicted_rate) == (11.5, 0.0003, None)
    assert funding.next_funding_time == 1562306400.0


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        "null",
        '"x"',
        okx_push(["1", "2"]),
        {"arg": {}, "data": []},
        okx_push({"x": 1}, channel="funding-rate"),
    ],
    ids=str,
)
def test_a_frame_that_cannot_be_understood_costs_only_itself(bad):
    got, problems = fed(Venue.OKX, [bad, okx_push(CLOSED)], BTC_OKX)
    assert len(got) == 1
    assert len(problems) == 1
    assert problems[0].startswith("okx message not understood")


def test_what_is_not_ours_is_passed_over():
    strange = [
        "pong",
        {"event": "subscribe", "arg": {"channel": "candle1m", "instId": "BTC-USDT-SWAP"}, "connId": "a"},
        {"event": "channel-conn-count", "channel": "x", "connCount": "1"},
        okx_push(CLOSED[:6], channel="mark-price-candle1m"),
        okx_push(CLOSED, channel="candle5m"),
        {"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": [{"instId": "OTHER-USDT-SWAP"}]},
    ]
    fed = Fed(Venue.OKX, strange, BTC_OKX)
    assert (fed.got, fed.problems) == ([], [])
    assert (fed.counters.frames, fed.counters.unknown, fed.counters.malformed) == (5, 0, 0)


@pytest.mark.parametrize("venue", list(Venue))
def test_an_instrument_that_nobody_subscribed_is_counted_and_told_once_a_minute(venue):
    now = [0.0]
    kline = {"e": "kline", "s": "NEWUSDT", "k": {}}
    strange = okx_push(CLOSED, name="NEW-USDT-SWAP") if venue is Venue.OKX else {"stream": "x", "data": kline}
    known = Instrument("BTC", "USDT", venue)

    def messages():
        for at in (0.0, 30.0, 59.9, 60.1, 61.0):
            now[0] = at
            yield strange

    fed = Fed(venue, messages(), known, monotonic=lambda: now[0])
    assert fed.got == []
    assert (fed.counters.frames, fed.counters.unknown) == (5, 5)
    assert len(fed.problems) == 2
    assert "which nobody subscribed" in fed.problems[0]


def test_frames_that_cannot_be_understood_are_told_once_a_minute_and_cause():
    fed = Fed(Venue.OKX, ["{"] * 50 + ["[]"] * 50 + [okx_push(CLOSED)], BTC_OKX)
    assert len(fed.got) == 1
    assert len(fed.problems) == 2
    assert (fed.counters.malformed, fed.counters.frames) == (100, 101)


def test_venue_errors_are_told():
    _, problems = fed(Venue.OKX, [{"event": "error", "code": "60018", "msg": "Wrong URL or x doesn't exist"}], BTC_OKX)
    assert problems == ["okx websocket error 60018: Wrong URL or x doesn't exist"]
    _, problems = fed(Venue.BINANCE, [{"error": {"code": 2, "msg": "Invalid request"}, "id": 1}], BTC_BIN)
    assert problems == ["binance websocket error {'code': 2, 'msg': 'Invalid request'}"]
    fed_ = Fed(Venue.OKX, [{"event": "error", "code": "60018", "msg": "Wrong URL"}] * 9, BTC_OKX)
    assert (fed_.counters.subscribe_errors, len(fed_.problems)) == (9, 1)
