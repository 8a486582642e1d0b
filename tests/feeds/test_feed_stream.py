"""How a stream behaves towards a venue: what it asks, how it keeps connections up, and how it gives up on dead ones."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import threading
import time
import warnings
from itertools import pairwise

import orjson
import pytest
from aiohttp import WSMsgType, web
from hypothesis import given
from hypothesis import strategies as st
from support_feeds import QUICK, loopback, settings_at, streaming

from qlib_crypto.errors import ConfigError
from qlib_crypto.feeds import VenueStream
from qlib_crypto.feeds.links import Gate, Pace
from qlib_crypto.symbols import Instrument, Interval, Venue

M1 = Interval.parse("1m")
#: For servers that say little on purpose.
CALM = dataclasses.replace(QUICK, silence_s=60.0)


async def greet(ws, _number, _request):
    """One word on each connection: when it is heard, the connection is open on our side too."""
    await ws.send_json({"event": "subscribe"})


ROW = ["1747093980000", "102806", "102820.5", "102783.1", "102806.1", "7164.04", "71.6404", "7364701.57952", "1"]


def names(venue, n):
    return [Instrument(f"COIN{i}", "USDT", venue) for i in range(n)]


class Venues:
    """A websocket server that records what it is told; `play` says what each connection does."""

    def __init__(self, play=None):
        self.play = play
        self.paths, self.said, self.opened, self.closed = [], [], [], 0

    async def __call__(self, request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        number = len(self.paths)
        self.paths.append(request.path_qs)
        self.opened.append(time.monotonic())
        if self.play:
            await self.play(ws, number, request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                self.said.append((request.path, message.data))
                if message.data == "ping" and not ws.closed:
                    with contextlib.suppress(ConnectionError):
                        await ws.send_str("pong")
        self.closed += 1
        return ws

    def requests(self):
        """What was said, without pings."""
        return [orjson.loads(message) for _, message in self.said if message != "ping"]


def candle(name, row=ROW):
    return orjson.dumps({"arg": {"channel": "candle1m", "instId": name}, "data": [row]}).decode()


def test_okx_candles_are_asked_on_business_and_funding_on_public_in_batches():
    server = Venues()
    instruments = names(Venue.OKX, 350)
    with loopback(server) as url, streaming(Venue.OKX, url, instruments, M1) as got:
        got.wait(lambda: sum(len(orjson.loads(m)["args"]) for _, m in server.said if m != "ping") == 700)
    requests = [(path, orjson.loads(message)) for path, message in server.said if message != "ping"]
    assert {request["op"] for _, request in requests} == {"subscribe"}
    assert max(len(request["args"]) for _, request in requests) == 100
    asked = {(path, arg["channel"], arg["instId"]) for path, request in requests for arg in request["args"]}
    want = {("/ws/v5/business", "candle1m", i.venue_id) for i in instruments}
    want |= {("/ws/v5/public", "funding-rate", i.venue_id) for i in instruments}
    assert asked == want
    assert sorted(server.paths) == ["/ws/v5/business"] * 2 + ["/ws/v5/public"] * 2


def test_binance_connections_carry_200_streams_at_most_on_the_market_route():
    server = Venues()
    instruments = names(Venue.BINANCE, 250)
    with loopback(server) as url, streaming(Venue.BINANCE, url, instruments, M1) as got:
        got.wait(lambda: len(server.paths) == 3)
    assert all(path.startswith("/market/stream?streams=") for path in server.paths)
    streams = [path.partition("=")[2].split("/") for path in server.paths]
    assert sorted(map(len, streams)) == [100, 200, 200]
    want = {f"{i.venue_id.lower()}@{kind}" for i in instruments for kind in ("kline_1m", "markPrice")}
    assert {name for names_ in streams for name in names_} == want
    assert max(map(len, server.paths)) < 8_000
    assert server.said == []


def test_changes_are_one_request_a_connection():
    for venue, count in ((Venue.OKX, 2), (Venue.BINANCE, 1)):
        server = Venues(greet)
        a, b, c, d = names(venue, 4)
        with loopback(server) as url, streaming(venue, url, [a, b], M1, pace=CALM) as got:
            got.wait(lambda g=got, n=count: g.stream.counters.frames == n)
            got.wait(lambda s=server, n=count, v=venue: len(s.requests()) == n or v is Venue.BINANCE)
            server.said.clear()
            got.stream.replace([b, c, d])
            got.wait(lambda s=server, n=count: len(s.requests()) == 2 * n)
        verbs = [request.get("op") or request["method"].lower() for request in server.requests()]
        assert sorted(verbs) == ["subscribe"] * count + ["unsubscribe"] * count
        assert len(server.paths) == count, "no connection was made anew"


def test_okx_is_kept_alive_with_a_text_ping_and_its_pong_is_no_message():
    server = Venues()
    with loopback(server) as url, streaming(Venue.OKX, url, names(Venue.OKX, 1), M1) as got:
        got.wait(lambda: len([m for _, m in server.said if m == "ping"]) >= 6)
    assert got.problems == []


def test_an_announced_close_is_not_waited_for():
    async def announce(ws, number, request):
        if number == 0 and request.path.endswith("business"):
            await ws.send_json({"event": "notice", "code": "64008", "msg": "service upgrade", "connId": "a"})

    server = Venues(announce)
    with loopback(server) as url, streaming(Venue.OKX, url, names(Venue.OKX, 1), M1) as got:
        got.wait(lambda: len(server.paths) == 3)
    assert len(got.problems) == 1
    assert "64008 service upgrade" in got.problems[0]
    assert "reconnects in" in got.problems[0]


def test_a_half_open_connection_is_noticed():
    """The server stops to read and to answer, and closes nothing."""
    release = threading.Event()

    async def deaf(_ws, number, _request):
        if number < 2:
            await asyncio.to_thread(release.wait, 20)

    server = Venues(deaf)
    with loopback(server) as url, streaming(Venue.OKX, url, names(Venue.OKX, 1), M1) as got:
        got.wait(lambda: len(server.paths) == 4)
        release.set()
    assert len(got.problems) == 2, got.problems
    assert all("was silent for" in problem for problem in got.problems)


def test_a_connection_that_only_answers_pings_is_noticed():
    """As a subscription on the wrong route: accepted, alive, and silent for ever."""
    pace = dataclasses.replace(QUICK, no_data_s=0.4)
    server = Venues()
    with loopback(server) as url, streaming(Venue.OKX, url, names(Venue.OKX, 1), M1, pace=pace) as got:
        got.wait(lambda: len(server.paths) >= 4)
    assert all("brought no data for" in problem for problem in got.problems)


def test_a_duplicate_is_dropped_and_a_revision_is_not():
    revised = [*ROW[:4], "102807", *ROW[5:]]

    async def repeat(ws, _number, request):
        if request.path.endswith("business"):
            for row in (ROW, ROW, revised, revised):
                await ws.send_str(candle("COIN0-USDT-SWAP", row))

    with loopback(Venues(repeat)) as url, streaming(Venue.OKX, url, names(Venue.OKX, 1), M1) as got:
        got.wait(lambda: len(got.bars) >= 2)
        time.sleep(0.2)
    assert [bar.close for bar in got.bars] == [102806.1, 102807.0]


def test_a_bar_that_makes_no_sense_is_told_and_kept_out():
    async def play(ws, _number, request):
        if request.path.endswith("business"):
            await ws.send_str(candle("COIN0-USDT-SWAP", ["1747093980001", *ROW[1:]]))
            await ws.send_str(candle("COIN0-USDT-SWAP"))

    with loopback(Venues(play)) as url, streaming(Venue.OKX, url, names(Venue.OKX, 1), M1) as got:
        got.wait(lambda: got.bars)
    assert [bar.open_ms for bar in got.bars] == [1747093980000]
    assert "off the UTC grid" in got.problems[0]


def test_a_listener_to_problems_that_fails_stops_nothing(caplog):
    async def play(ws, number, request):
        if request.path.endswith("business"):
            await ws.send_str("{")
            await ws.send_str(candle("COIN0-USDT-SWAP", [str(int(ROW[0]) + 60_000 * number), *ROW[1:]]))
            await ws.close()

    bars = []

    def deaf(text):
        raise RuntimeError(text)

    async def main(url):
        stream = VenueStream(
            Venue.OKX,
            settings_at(Venue.OKX, url),
            names(Venue.OKX, 1),
            M1,
            on_row=bars.append,
            on_problem=deaf,
            pace=QUICK,
        )
        task = asyncio.create_task(stream.run())
        async with asyncio.timeout(20):
            while len(bars) < 2:  # noqa: ASYNC110 - the server is in another thread
                await asyncio.sleep(0.01)
        stream.stop()
        await task

    with loopback(Venues(play)) as url:
        asyncio.run(main(url))
    assert "on_problem failed at: okx message not understood" in caplog.text


def test_a_listing_number_is_kept():
    """The venue's id of a second listing is the first one's; the bars are the second's."""
    second = Instrument("COIN0", "USDT", Venue.OKX, 2)

    async def play(ws, _number, request):
        if request.path.endswith("business"):
            await ws.send_str(candle("COIN0-USDT-SWAP"))

    with loopback(Venues(play)) as url, streaming(Venue.OKX, url, [second], M1) as got:
        got.wait(lambda: got.bars)
    assert got.bars[0].instrument == second


def test_a_server_that_closes_at_once_is_not_hammered():
    async def close(ws, _number, _request):
        await ws.close(code=1000)

    pace = dataclasses.replace(QUICK, first_wait_s=0.2, longest_wait_s=0.4)
    server = Venues(close)
    with loopback(server) as url, streaming(Venue.OKX, url, names(Venue.OKX, 1), M1, pace=pace) as got:
        got.wait(lambda: len(server.paths) >= 6)
    by_path = [
        [at for at, path in zip(server.opened, server.paths, strict=True) if path == wanted]
        for wanted in set(server.paths)
    ]
    assert all(later - first >= 0.1 - 0.02 for times in by_path for first, later in pairwise(times))
    assert all("was closed by the venue (" in problem for problem in got.problems), got.problems


def test_a_venue_that_is_gone_is_told_and_waited_for_and_stopping_does_not_wait():
    pace = dataclasses.replace(QUICK, first_wait_s=600, longest_wait_s=600)
    with streaming(Venue.OKX, "http://127.0.0.1:9", names(Venue.OKX, 1), M1, pace=pace) as got:
        got.wait(lambda: len(got.problems) == 2)
        before = time.monotonic()
    assert time.monotonic() - before < 300
    assert all("reconnects in" in problem and "\n" not in problem for problem in got.problems)
    assert all(problem.startswith("okx websocket /ws/v5/") for problem in got.problems)


def test_a_blocked_handshake_is_named():
    async def refuse(_request):
        return web.Response(status=451, text="restricted")

    with loopback(refuse) as url, streaming(Venue.BINANCE, url, names(Venue.BINANCE, 1), M1) as got:
        got.wait(lambda: got.problems)
    assert "geo-block" in got.problems[0]


def test_proxies_of_the_environment_do_not_come_between_us_and_loopback(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    server = Venues()
    with loopback(server) as url, streaming(Venue.OKX, url, names(Venue.OKX, 1), M1) as got:
        got.wait(lambda: len(server.paths) == 2)
    assert got.problems == []


def test_stopping_before_running_and_twice_and_after_is_fine():
    stream = VenueStream(
        Venue.OKX,
        settings_at(Venue.OKX, "http://127.0.0.1:9"),
        names(Venue.OKX, 1),
        M1,
        on_row=print,
        on_problem=print,
    )
    stream.stop()
    asyncio.run(stream.run())
    stream.stop()
    stream.replace([])


def test_cancelling_leaves_nothing_behind():
    """Neither tasks nor connections, and nothing that Python would complain about."""
    server, problems = Venues(), []

    async def main(url):
        stream = VenueStream(
            Venue.OKX,
            settings_at(Venue.OKX, url),
            names(Venue.OKX, 3),
            M1,
            on_row=print,
            on_problem=problems.append,
            pace=QUICK,
        )
        task = asyncio.create_task(stream.run())
        async with asyncio.timeout(20):
            while len(server.paths) < 2:  # noqa: ASYNC110 - the server is in another thread
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with loopback(server) as url:
            assert asyncio.run(main(url)) == []
        gc.collect()
    assert server.closed == 2
    assert problems == []


def test_wrong_instruments_and_intervals_are_the_users_errors():
    def make(venue, instruments, interval):
        return VenueStream(
            venue,
            settings_at(venue, "http://127.0.0.1:9"),
            instruments,
            interval,
            on_row=print,
            on_problem=print,
        )

    with pytest.raises(ConfigError, match=r"COIN0_USDT.BINANCE does not trade on okx"):
        make(Venue.OKX, names(Venue.BINANCE, 1), M1)
    with pytest.raises(ConfigError, match="8h is not served by okx"):
        make(Venue.OKX, names(Venue.OKX, 1), Interval.parse("8h"))
    with pytest.raises(ConfigError, match="does not trade on okx"):
        make(Venue.OKX, [], M1).replace(names(Venue.BINANCE, 1))


@given(st.integers(0, 10_000))
def test_the_back_off_grows_to_a_cap_and_is_never_nothing(failures):
    pace = Pace()
    wait = pace.wait_s(failures)
    assert 0.5 * min(60.0, 2.0 ** min(failures, 20)) <= wait <= min(60.0, 2.0 ** min(failures, 20))
    assert wait >= 0.5


def test_connections_open_one_after_the_other():
    async def main():
        gate, entered = Gate(0.05), []

        async def one():
            await gate.enter()
            entered.append(time.monotonic())

        await asyncio.gather(*(one() for _ in range(4)))
        return entered

    entered = asyncio.run(main())
    assert all(later - first >= 0.05 - 0.005 for first, later in pairwise(entered))
