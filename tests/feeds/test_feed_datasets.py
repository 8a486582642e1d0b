"""Liquidations, trades and books on a stream, dead feeds revived, counters, and bars that come twice or out of turn."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_feeds import loopback, settings_at, streaming
from test_feed_stream import CALM, ROW, Venues, candle, greet, names

from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds import StreamCounters, VenueStream
from qlib_crypto.feeds.telling import Repeats
from qlib_crypto.schemas import Book, Liquidation, Trade
from qlib_crypto.symbols import Instrument, Interval, Venue

M1 = Interval.parse("1m")
ALL = ("mark", "liquidations", "trades", "books")


def asked_of_okx(server):
    """What is subscribed, by path."""
    out = {}
    for path, message in server.said:
        if message != "ping":
            request = orjson.loads(message)
            for arg in request["args"]:
                topic = (arg["channel"], arg.get("instId") or arg["instType"])
                assert (request["op"] == "subscribe") == (topic not in out.setdefault(path, set()))
                (out[path].add if request["op"] == "subscribe" else out[path].discard)(topic)
    return out


def test_okx_topics_of_all_datasets_are_on_public_and_liquidations_asked_once():
    a, b, c = names(Venue.OKX, 3)
    server = Venues()

    def wanted(*instruments):
        topics = {(channel, i.venue_id) for channel in ("funding-rate", "trades", "books5") for i in instruments}
        return {
            "/ws/v5/public": topics | {("liquidation-orders", "SWAP")},
            "/ws/v5/business": {("candle1m", i.venue_id) for i in instruments},
        }

    with loopback(server) as url, streaming(Venue.OKX, url, [a, b], M1, datasets=ALL) as got:
        got.wait(lambda: asked_of_okx(server) == wanted(a, b))
        got.stream.replace([b, c])
        got.wait(lambda: asked_of_okx(server) == wanted(b, c))
    assert len(server.paths) == 2


def test_binance_books_are_on_the_public_route_and_no_address_has_more_than_200_streams():
    server = Venues()
    instruments = [Instrument(f"1000COIN{i:05}", "USDT", Venue.BINANCE) for i in range(120)]
    with (
        loopback(server) as url,
        streaming(Venue.BINANCE, url, instruments, M1, datasets=ALL, book_depth=20) as got,
    ):
        got.wait(lambda: len(server.paths) == 6)
    by_route = {"market": [], "public": []}
    for path in server.paths:
        by_route[path.split("/")[1]].append(path.partition("=")[2].split("/"))
    assert [max(map(len, streams)) for streams in by_route.values()] == [200, 50]
    assert max(map(len, server.paths)) < 8_000
    market = {f"{i.venue_id.lower()}@{kind}" for i in instruments
              for kind in ("kline_1m", "markPrice", "forceOrder", "aggTrade")}  # fmt: skip
    assert {name for streams in by_route["market"] for name in streams} == market
    books = {f"{i.venue_id.lower()}@depth20@500ms" for i in instruments}
    assert {name for streams in by_route["public"] for name in streams} == books


def test_only_what_is_wanted_is_asked():
    server = Venues()
    with (
        loopback(server) as url,
        streaming(Venue.BINANCE, url, names(Venue.BINANCE, 1), M1, datasets=["liquidations"]) as got,
    ):
        got.wait(lambda: server.paths)
    asked = {"coin0usdt@kline_1m", "coin0usdt@markPrice", "coin0usdt@forceOrder"}
    assert set(server.paths[0].partition("=")[2].split("/")) == asked
    assert len(server.paths) == 1


def test_okx_rows_of_all_datasets_come_in_coins():
    one = names(Venue.OKX, 1)[0]
    trade = {"px": "2", "sz": "3", "side": "sell", "ts": "5", "tradeId": "7"}
    level = [["10", "4", "0", "1"]]
    forced = {"side": "buy", "bkPx": "9", "sz": "6", "ts": "8"}

    def push(channel, row, **arg):
        return {"arg": {"channel": channel, **arg}, "data": [row]}

    async def play(ws, _number, request):
        if request.path.endswith("public"):
            await ws.send_json(push("trades", trade, instId=one.venue_id))
            await ws.send_json(push("books5", {"asks": level, "bids": level, "ts": "50000"}, instId=one.venue_id))
            await ws.send_json(
                push("liquidation-orders", {"instId": one.venue_id, "details": [forced]}, instType="SWAP")
            )

    with (
        loopback(Venues(play)) as url,
        streaming(Venue.OKX, url, [one], M1, datasets=ALL, contract_values={one: 0.5}.get) as got,
    ):
        got.wait(lambda: len(got.others) == 3)
        assert got.stream.counters.rows == 3
    assert [row[:-1] for row in got.others] == [
        Trade(one, 5, 7, "sell", 2.0, 1.5, 0)[:-1],
        Book(one, 50000, (10.0,), (2.0,), (10.0,), (2.0,), 0)[:-1],
        Liquidation(one, 8, "buy", 9.0, 3.0, 0)[:-1],
    ]
    assert got.problems == []


def test_a_second_listing_keeps_its_number_in_every_row():
    """Also when the ticker changes hands while it streams."""
    first, second = (Instrument("COIN0", "USDT", Venue.BINANCE, n) for n in (1, 2))
    event = {"e": "aggTrade", "s": "COIN0USDT", "a": 1, "p": "1", "q": "1", "T": 5, "m": True}
    sockets = []

    async def play(ws, _number, _request):
        sockets.append(ws)
        await ws.send_json({"stream": "x", "data": event})

    server = Venues(play)
    with loopback(server) as url, streaming(Venue.BINANCE, url, [first], M1, datasets=["trades"]) as got:
        got.wait(lambda: got.others)
        got.stream.replace([second])
        got.wait(lambda: got.stream._members.get("COIN0-USDT-PERP") == second)
        feed = next(iter(got.stream._feeds))
        got.wait(lambda: feed.known("COIN0USDT") == second)
    assert got.others[0].instrument == first
    assert len(server.paths) == 1


def test_books_deeper_than_okx_pushes_are_the_users_error():
    def make(venue, depth):
        return VenueStream(
            venue, settings_at(venue, "http://127.0.0.1:9", book_depth=depth), names(venue, 1), M1, on_row=print,
            on_problem=print, datasets=["books"],
        )  # fmt: skip

    with pytest.raises(ConfigError, match=r"okx pushes books of 5 levels; set okx\.book_depth to 5 instead of 10"):
        make(Venue.OKX, 10)
    make(Venue.OKX, 5)
    make(Venue.BINANCE, 20)


# dead feeds


@pytest.mark.parametrize("venue", list(Venue))
def test_a_revived_instrument_gets_a_connection_of_its_own_and_the_others_keep_theirs(venue):
    a, b, c = names(venue, 3)
    server = Venues(greet)
    each = 2 if venue is Venue.OKX else 1
    with loopback(server) as url, streaming(venue, url, [a, b, c], M1, pace=CALM) as got:
        got.wait(lambda: got.stream.counters.frames == each)
        got.wait(lambda: len(server.requests()) == each or venue is Venue.BINANCE)
        server.said.clear()
        got.stream.revive([b, Instrument("NOBODY", "USDT", venue)])
        got.wait(lambda: got.stream.counters.frames == 2 * each)
        got.wait(lambda: len(server.requests()) >= (2 * each if venue is Venue.OKX else 1))
        got.wait(lambda: len(got.stream._feeds) == 2)
        carried = sorted([i.symbol for i in some] for some in got.stream._feeds.values())
        said = [orjson.dumps(r).decode() for r in server.requests()]
        said += server.paths[each:] if venue is Venue.BINANCE else []
        assert all("coin1" in text.lower() and "coin0" not in text.lower() for text in said)
        # a new one fills up where there is room, and reviving all leaves no empty connection
        got.stream.revive([a, b, c])
        got.wait(lambda: len(server.paths) == 3 * each)
        got.wait(lambda: len(got.stream._feeds) == 1)
        got.wait(lambda: server.closed == 2 * each)
    assert carried == [["COIN0_USDT", "COIN2_USDT"], ["COIN1_USDT"]]
    assert got.problems == []


def test_a_feed_that_is_dead_on_a_living_socket_speaks_again_when_revived():
    a, b = names(Venue.OKX, 2)

    async def play(ws, number, request):
        """The first connections never deliver `b`."""
        if request.path.endswith("business"):
            await ws.send_str(candle(a.venue_id if number < 2 else b.venue_id))

    with loopback(Venues(play)) as url, streaming(Venue.OKX, url, [a, b], M1) as got:
        got.wait(lambda: got.bars)
        got.stream.revive([b])
        got.wait(lambda: len(got.bars) == 2)
    assert [bar.instrument for bar in got.bars] == [a, b]


def test_reviving_before_and_after_it_runs_is_fine():
    stream = VenueStream(
        Venue.OKX, settings_at(Venue.OKX, "http://127.0.0.1:9"), names(Venue.OKX, 1), M1, on_row=print, on_problem=print
    )
    stream.revive(names(Venue.OKX, 1))


# what comes twice or out of turn


@settings(max_examples=15)
@given(order=st.lists(st.integers(0, 5), min_size=1, max_size=25))
def test_bars_that_come_again_or_out_of_turn_are_given_once(order):
    rows = [[str(int(ROW[0]) + k * 60_000), *ROW[1:]] for k in range(6)]

    async def play(ws, _number, request):
        if request.path.endswith("business"):
            for k in order:
                await ws.send_str(candle("COIN0-USDT-SWAP", rows[k]))
            await ws.send_str(candle("COIN0-USDT-SWAP", [str(int(ROW[0]) + 6 * 60_000), *ROW[1:]]))

    with loopback(Venues(play)) as url, streaming(Venue.OKX, url, names(Venue.OKX, 1), M1) as got:
        got.wait(lambda: got.bars and got.bars[-1].open_ms == int(ROW[0]) + 6 * 60_000)
    assert [bar.open_ms for bar in got.bars[:-1]] == [int(rows[k][0]) for k in dict.fromkeys(order)]


# counters


def test_everything_that_happens_is_counted():
    async def play(ws, number, request):
        if not request.path.endswith("business"):
            return
        await ws.send_str("{")
        await ws.send_str("[]")
        await ws.send_str(candle("OTHER-USDT-SWAP"))
        await ws.send_json({"event": "error", "code": "60018", "msg": "Wrong URL or channel doesn't exist"})
        await ws.send_str(candle("COIN0-USDT-SWAP", [str(int(ROW[0]) + 60_000 * number), *ROW[1:]]))
        if number < 2:
            await ws.send_json({"event": "notice", "code": "64008", "msg": "upgrade"})

    with loopback(Venues(play)) as url, streaming(Venue.OKX, url, names(Venue.OKX, 1), M1) as got:
        got.wait(lambda: len(got.bars) == 2)
        got.wait(lambda: got.stream.counters.reconnects == 1)
        counters = got.stream.counters
    assert counters == StreamCounters(
        frames=11, rows=2, malformed=4, unknown=2, reconnects=1, notices=1, subscribe_errors=2
    )
    assert len(got.problems) == 5, "each cause once: two kinds of frame, an instrument, an error, a reconnect"


def test_what_was_just_dropped_is_no_unknown_instrument():
    a, b = names(Venue.OKX, 2)
    sockets = []

    async def play(ws, _number, request):
        if request.path.endswith("business"):
            sockets.append(ws)
            await ws.send_str(candle(a.venue_id))

    server = Venues(play)
    with loopback(server) as url, streaming(Venue.OKX, url, [a, b], M1) as got:
        got.wait(lambda: got.bars)
        got.stream.replace([b])
        feed = next(iter(got.stream._feeds))
        got.wait(lambda: a.venue_id not in feed._instruments)
        assert feed.known(a.venue_id) is None
        assert feed.known("NEVER-USDT-SWAP") is None
    assert got.stream.counters.unknown == 1
    assert len(got.problems) == 1


def test_a_cause_is_told_once_a_minute():
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    told = []
    for at in range(0, 200, 10):
        now[0] = at
        told += [(at, cause) for cause in ("a", "b") if (cause == "a" or at >= 50) and repeats.fresh(cause)]
    assert told == [(0, "a"), (50, "b"), (60, "a"), (110, "b"), (120, "a"), (170, "b"), (180, "a")]
    for k in range(5_000):
        repeats.fresh(f"cause {k}")
        now[0] += 1
    assert len(repeats._told) <= 1_000
