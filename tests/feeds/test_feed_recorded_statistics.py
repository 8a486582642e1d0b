"""Recorded and documented messages of mark and index prices, open interest, ratios, liquidations, trades and books.

Binance: recordings by gocryptotrader and cryptofeed, documented examples, and cryptofeed's recording of aggTrade. OKX:
documented examples; of `open-interest-history`, `long-short-account-ratio-contract`, `liquidation-orders` and `books5`
there is no file: their shapes are those of the reference, and of `books`, whose levels are the same.
"""

from __future__ import annotations

import pytest
from support_wire import Fed, client_of, example, load, recorded

from qlib_crypto.errors import SchemaError
from qlib_crypto.feeds import binance_rows, okx_rows
from qlib_crypto.lake.checks import fault
from qlib_crypto.schemas import Book, IndexBar, Liquidation, LongShortRatio, MarkBar, OpenInterest, Trade
from qlib_crypto.symbols import Instrument, Interval, Venue

BTC_OKX, BTC_BIN = (Instrument("BTC", "USDT", venue) for venue in (Venue.OKX, Venue.BINANCE))
M1 = Interval.parse("1m")


@pytest.fixture(scope="module")
def wire(real_data):
    return real_data / "wire"


@pytest.fixture(scope="module")
def okx_pushes(wire):
    return wire / "okx/api_examples_okx_net/Subscriptions/Unified/ExchangeData"


@pytest.fixture(scope="module")
def binance_examples(wire):
    return wire / "binance/api_examples_binance_net"


@pytest.fixture(scope="module")
def mock(wire):
    return load(wire / "binance/gocryptotrader_http_mock/http.json")["routes"]


# mark and index prices


@pytest.mark.parametrize(("kind", "name"), [(MarkBar, "GetMarkPriceKlines.txt"), (IndexBar, "GetIndexKlines.txt")])
def test_okx_mark_and_index_candles_as_documented(wire, kind, name):
    """Six columns; the documented stamp is on no grid, so it is put on one."""
    rows = example(wire / "okx/api_examples_okx_net/Endpoints/UnifiedApi/ExchangeData" / name)["data"]

    def made(row):
        return okx_rows.price_bar_of(kind, BTC_OKX, M1, row, "rest", 1)

    with pytest.raises(SchemaError, match="off the UTC grid"):
        made(rows[1])
    opened, closed = ([str(int(row[0]) - int(row[0]) % 60_000), *row[1:]] for row in rows)
    assert made(opened) is None
    got = made(closed)
    assert type(got) is kind
    assert got == (BTC_OKX, M1, 1597026360000, 3.731, 3.799, 3.494, 3.72, "rest", 1)
    with pytest.raises(SchemaError, match="5 fields instead of 6"):
        made(closed[:5])
    assert fault(made([closed[0], "", *closed[2:]])) is not None


def test_binance_index_klines_as_documented(binance_examples):
    """`GetIndexPriceKlines.txt`."""
    (row,) = example(binance_examples / "Endpoints/UsdFutures/ExchangeData/GetIndexPriceKlines.txt")
    got = binance_rows.price_bar_of(IndexBar, BTC_BIN, M1, row, row[6] + 1, 2)
    assert type(got) is IndexBar
    assert got == (BTC_BIN, M1, 1591256400000, 9653.6944, 9653.6964, 9651.386, 9651.552, "rest", 2)
    assert binance_rows.price_bar_of(IndexBar, BTC_BIN, M1, row, row[6], 2) is None


def test_binance_mark_klines_as_documented(wire, binance_examples):
    """`GetMarkPriceKlines.txt`, and nautilus' `http_futures_market_mark_price_klines.json`, which say the same."""
    documented = example(binance_examples / "Endpoints/UsdFutures/ExchangeData/GetMarkPriceKlines.txt")
    folder = wire / "binance/nautilus_fixtures_mixed/python_resources/http_responses"
    for row in (*documented, *load(folder / "http_futures_market_mark_price_klines.json")):
        got = binance_rows.price_bar_of(MarkBar, BTC_BIN, M1, row, row[6] + 1, 2)
        want = (BTC_BIN, M1, 1591256460000, 9653.29201333, 9654.56401333, 9653.07367333, 9653.07367333, "rest", 2)
        assert got == want
        assert (
            binance_rows.price_bar_of(MarkBar, BTC_BIN, M1, row, row[6], 2) is None
        )  # still open in its last millisecond


# open interest and ratio


def answers(mock, path):
    return [one["data"] for one in mock[path]["GET"] if one["data"]]


def test_binance_open_interest_as_recorded(mock, wire, binance_examples):
    """gocryptotrader's recording of `openInterestHist`, and the documented example, whose times are text."""
    pages = answers(mock, "/futures/data/openInterestHist")
    pages += [example(binance_examples / "Endpoints/UsdFutures/ExchangeData/GetOpenInterestHistory.txt")]
    folder = wire / "binance/nautilus_fixtures_mixed/python_resources/http_responses"
    pages += [load(folder / "http_futures_market_open_interest_historical.json")]
    rows = [row for page in pages for row in page if "symbol" in row]  # the recording has COIN-M pages too
    assert len(rows) >= 8
    for row in rows:
        got = binance_rows.open_interest_of(BTC_BIN, row, 3)
        want = (int(row["timestamp"]), float(row["sumOpenInterest"]), float(row["sumOpenInterestValue"]))
        assert got == OpenInterest(BTC_BIN, *want, "rest", 3)
        assert want[0] % 300_000 == 0
        assert 10 < got.open_interest_quote / got.open_interest_base < 100_000, "a price of LTC or BTC"


def test_binance_ratio_as_recorded(mock, binance_examples):
    """gocryptotrader's recording of `globalLongShortAccountRatio`: it is the longs over the shorts."""
    rows = [row for page in answers(mock, "/futures/data/globalLongShortAccountRatio") for row in page]
    assert len(rows) >= 5
    for row in rows:
        got = binance_rows.ratio_of(BTC_BIN, row, 3)
        assert got == LongShortRatio(BTC_BIN, int(row["timestamp"]), float(row["longShortRatio"]), "rest", 3)
        assert got.ratio == pytest.approx(float(row["longAccount"]) / float(row["shortAccount"]), rel=1e-3)
    documented = example(binance_examples / "Endpoints/UsdFutures/ExchangeData/GetGlobalLongShortAccountRatio.txt")
    assert [binance_rows.ratio_of(BTC_BIN, row, 3).time_ms for row in documented] == [1583139600000, 1583139900000]


def test_okx_open_interest_and_ratio(wire):
    """`[ts, oi, oiCcy, oiUsd]` and `[ts, ratio]`, as `GetRubikLongShortRatio.txt` has it too; coins, not contracts."""
    row = ["1747094100000", "2885344.1", "28853.441", "2967081346.36"]
    got = okx_rows.open_interest_of(BTC_OKX, row, 3)
    assert got == OpenInterest(BTC_OKX, 1747094100000, 28853.441, 2967081346.36, "rest", 3)
    folder = wire / "okx/api_examples_okx_net/Endpoints/UnifiedApi/ExchangeData"
    row = example(folder / "GetRubikLongShortRatio.txt")["data"][0]
    assert okx_rows.ratio_of(BTC_OKX, row, 3) == LongShortRatio(BTC_OKX, 1630502100000, 1.25, "rest", 3)
    assert okx_rows.open_interest_of(BTC_OKX, ["1747094100000", "1", "2", ""], 3).open_interest_quote is None


@pytest.mark.parametrize(
    ("make", "row"),
    [
        (okx_rows.open_interest_of, ["1747094100000", "1", "", "3"]),
        (okx_rows.open_interest_of, ["1747094100000", "1", "2"]),
        (okx_rows.ratio_of, ["1747094100000", ""]),
        (okx_rows.ratio_of, ["x", "1"]),
        (binance_rows.open_interest_of, {"sumOpenInterest": "", "timestamp": 1}),
        (binance_rows.open_interest_of, {"sumOpenInterest": "1"}),
        (binance_rows.ratio_of, {"longShortRatio": "nan", "timestamp": 1}),
    ],
)
def test_a_statistic_that_is_none_is_no_row(make, row):
    with pytest.raises(SchemaError):
        make(BTC_OKX, row, 0)


# liquidations, trades, books


def okx_push(channel, *rows, name="BTC-USDT-SWAP"):
    return {"arg": {"channel": channel, "instId": name}, "data": list(rows)}


#: As the reference has it: one topic for all swaps, `sz` in contracts.
LIQUIDATIONS = {
    "arg": {"channel": "liquidation-orders", "instType": "SWAP"},
    "data": [
        {"instId": "IOST-USDT-SWAP", "instFamily": "IOST-USDT", "instType": "SWAP", "uly": "IOST-USDT", "details": [
            {"side": "buy", "posSide": "short", "bkPx": "0.0078", "sz": "13", "bkLoss": "0", "ccy": "",
             "ts": "1692266434010"},
            {"side": "sell", "posSide": "long", "bkPx": "0.0079", "sz": "2", "bkLoss": "0", "ccy": "",
             "ts": "1692266434000"}]},
        {"instId": "BTC-USD-SWAP", "details": [{"side": "buy", "bkPx": "1", "sz": "1", "ts": "1692266434010"}]},
    ],
}  # fmt: skip


def test_okx_liquidations_are_in_coins():
    iost = Instrument("IOST", "USDT", Venue.OKX)
    fed = Fed(Venue.OKX, [LIQUIDATIONS], iost, contract_values=lambda i: {iost: 1000.0}[i])
    assert fed.problems == []
    assert fed.got == [
        Liquidation(iost, 1692266434010, "buy", 0.0078, 13_000.0, 1750000000500),
        Liquidation(iost, 1692266434000, "sell", 0.0079, 2_000.0, 1750000000500),
    ]
    unknown = Fed(Venue.OKX, [LIQUIDATIONS, LIQUIDATIONS], iost, contract_values=lambda _: None)
    assert unknown.got == []
    assert len(unknown.problems) == 1
    assert "IOST_USDT.OKX has no known contract value" in unknown.problems[0]


def test_binance_liquidations_as_documented(wire, binance_examples):
    """`Liquidations.txt`, and nautilus' `liquidation_stream.json`, where average and limit price differ."""
    pushed = example(binance_examples / "Subscriptions/UsdFutures/Liquidations.txt")
    event = load(wire / "binance/nautilus_fixtures_mixed/market_data_json/liquidation_stream.json")
    unfilled = {**event, "o": {**event["o"], "ap": "0", "z": "0", "X": "NEW"}}
    fed = Fed(Venue.BINANCE, [pushed, *({"stream": "x", "data": e} for e in (event, unfilled))], BTC_BIN)
    assert fed.problems == []
    assert fed.got == [
        Liquidation(BTC_BIN, 1568014460893, "sell", 9910.0, 0.014, 1750000000500),
        Liquidation(BTC_BIN, 1568014460893, "sell", 9910.12345678, 0.014, 1750000000500),
    ]


def test_okx_trades_as_documented(okx_pushes, wire):
    """`Trades.txt`, and nautilus' `ws_trades.json`; the ids are those of a spot pair, so ours takes their place."""
    for push in (example(okx_pushes / "Trades.txt"), load(wire / "okx/nautilus_fixtures_mixed/ws_trades.json")):
        fed = Fed(Venue.OKX, [okx_push("trades", *push["data"])], BTC_OKX, contract_values=lambda _: 0.01)
        assert fed.problems == []
        want = Trade(BTC_OKX, 1630048897897, 130639474, "buy", 42219.9, 0.12060306 * 0.01, 1750000000500)
        assert fed.got == [want]


def test_binance_trades_as_recorded(wire, binance_examples):
    """Half a minute of cryptofeed's recording: every aggTrade once, prices inside the klines of the same seconds."""
    lines = recorded(wire / "binance/cryptofeed_recording/BINANCE_FUTURES.jsonl.zst")
    sushi = Instrument("SUSHI", "USDT", Venue.BINANCE)
    frames = [line["data"] for line in lines if line["t"] == "recv" and '"SUSHIUSDT"' in line["data"]]
    fed = Fed(Venue.BINANCE, frames, sushi)
    assert fed.problems == []
    trades = [row for row in fed.got if isinstance(row, Trade)]
    assert len(trades) == sum('"e":"aggTrade"' in frame for frame in frames) > 5
    assert len({row.trade_id for row in trades}) == len(trades)
    assert {row.side for row in trades} <= {"buy", "sell"}
    low, high = min(row.price for row in trades), max(row.price for row in trades)
    assert 0 < high / low - 1 < 0.05
    documented = example(binance_examples / "Subscriptions/UsdFutures/AggTrades.txt")
    fed = Fed(Venue.BINANCE, [documented], BTC_BIN)
    assert fed.got == [Trade(BTC_BIN, 123456785, 5933014, "sell", 0.001, 100.0, 1750000000500)], "the buyer was maker"


def test_okx_books_as_documented(okx_pushes, wire):
    """The levels of `OrderBook.txt` and of nautilus' `ws_books_snapshot.json` (`books5` has the same)."""
    for push in (
        example(okx_pushes / "OrderBook.txt"),
        load(wire / "okx/nautilus_fixtures_mixed/ws_books_snapshot.json"),
    ):
        row = push["data"][0]
        fed = Fed(Venue.OKX, [okx_push("books5", row)], BTC_OKX, contract_values=lambda _: 0.01)
        assert fed.problems == []
        book = fed.got[0]
        assert (book.time_ms, book.received_ms) == (int(row["ts"]), 1750000000500)
        assert book.bid_prices == (8476.97, 8475.55, 8475.54, 8475.3, 8447.32)
        assert book.ask_prices == (8476.98, 8477.0, 8477.34, 8477.56, 8505.84)
        assert book.bid_quantities == (2.56, 1.01, 1.0, 0.01, 0.06)
        assert book.ask_quantities == pytest.approx((4.15, 0.07, 0.85, 0.01, 0.08))


def test_binance_books_as_documented(wire, binance_examples):
    """`PartialBook.txt` and nautilus' `ws_futures_depth_update.json`: bids there go up; a book's best comes first."""
    pushed = example(binance_examples / "Subscriptions/UsdFutures/PartialBook.txt")["data"]
    folder = wire / "binance/nautilus_fixtures_mixed/python_resources/ws_messages"
    for event in (pushed, load(folder / "ws_futures_depth_update.json")):
        fed = Fed(Venue.BINANCE, [{"stream": "btcusdt@depth5@500ms", "data": event}], BTC_BIN)
        assert fed.problems == []
        assert fed.got == [
            Book(
                BTC_BIN, 1571889248276,
                (7405.43, 7404.85, 7404.0, 7403.9, 7403.89), (2.562, 5.239, 1.428, 3.906, 0.002),
                (7405.96, 7406.63, 7407.08, 7407.15, 7407.2), (3.34, 4.525, 2.475, 4.8, 0.175), 1750000000500,
            )
        ]  # fmt: skip


@pytest.mark.parametrize("venue", list(Venue))
def test_one_book_in_so_many_market_seconds_each_instrument(venue):
    """By the market's time, on a grid, and the first one of each step."""
    names = [Instrument(base, "USDT", venue) for base in ("AAA", "BBB")]
    start = 1_747_094_040_000

    def frame(instrument, at):
        if venue is Venue.OKX:
            level = [[str(1 + at % 7), "1", "0", "1"]]
            return okx_push("books5", {"bids": level, "asks": level, "ts": str(at)}, name=instrument.venue_id)
        event = {"e": "depthUpdate", "T": at, "s": instrument.venue_id, "b": [["1", "2"]], "a": [["3", "4"]]}
        return {"stream": "x", "data": event}

    frames = [frame(name, start + 300 * k) for k in range(200) for name in names]
    fed = Fed(venue, frames, *names, book_every_s=10.0)
    times = {name: [row.time_ms for row in fed.got if row.instrument == name] for name in names}
    want = [start + -(-10_000 * k // 300) * 300 for k in range(6)]
    assert times == dict.fromkeys(names, want)


@pytest.mark.parametrize(
    "bad",
    [
        okx_push("trades", {"px": "1", "sz": "1", "side": "hold", "ts": "1", "tradeId": "1"}),
        okx_push("trades", {"px": "", "sz": "1", "side": "buy", "ts": "1", "tradeId": "1"}),
        okx_push("trades", {"px": "1", "sz": "1", "side": "buy", "ts": "1"}),
        okx_push("books5", {"bids": [["1"]], "asks": [], "ts": "1"}),
        okx_push("books5", {"asks": [], "ts": "1"}),
        {"arg": {"channel": "liquidation-orders"}, "data": [{"instId": "BTC-USDT-SWAP", "details": [{"side": "buy"}]}]},
    ],
    ids=str,
)
def test_an_event_that_cannot_be_understood_costs_only_itself(bad):
    good = okx_push("trades", {"px": "1", "sz": "1", "side": "buy", "ts": "1", "tradeId": "1"})
    fed = Fed(Venue.OKX, [bad, good], BTC_OKX)
    assert [type(row) for row in fed.got] == [Trade]
    assert (fed.counters.malformed, len(fed.problems)) == (1, 1)


# how the pages of statistics are asked for: see test_feed_statistics; here only that answers become rows


def test_the_clients_give_these_rows():
    answers_ = {
        "/api/v5/public/time": {"data": [{"ts": "1747095000000"}]},
        "/api/v5/rubik/stat/contracts/open-interest-history": {"data": [["1747094400000", "5", "6", "7"]]},
        "/api/v5/rubik/stat/contracts/long-short-account-ratio-contract": {"data": [["1747094400000", "1.5"]]},
    }
    client = client_of(Venue.OKX, answers_)
    span = (1747094400000, 1747095000000)
    assert [row[:4] for page in client.open_interest(BTC_OKX, *span) for row in page] == [
        (BTC_OKX, 1747094400000, 6.0, 7.0)
    ]
    assert [row[:3] for page in client.long_short_ratio(BTC_OKX, *span) for row in page] == [
        (BTC_OKX, 1747094400000, 1.5)
    ]
