"""Binance websocket: routes and their silence, live requests, klines, mark price, pings."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import numpy as np
import pytest
from sandbox_support import HOURS, START, Socket, close_code, read, silent

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Instrument, Interval

END = START + HOURS * HOUR_MS
BTC = Instrument.parse("BTC_USDT.BINANCE")


@pytest.fixture(scope="module")
def slow(binance_tape):
    """Ten minutes of market time a second."""
    with running([binance_tape], speed=600, at=END - 30 * HOUR_MS, until=END) as handle:
        yield handle


@pytest.mark.parametrize(
    "path",
    [
        "/stream?streams=btcusdt@kline_1m",
        "/ws/btcusdt@kline_1m",
        "/public/stream?streams=btcusdt@kline_1m",
        "/public/ws/btcusdt@kline_1m",
        "/market/stream?streams=BTCUSDT@kline_1m",
        "/market/stream?streams=nousdt@kline_1m",
        "/market/stream?streams=btcusdt@kline_7m",
        "/market/stream?streams=btcusdt@depth",
    ],
)
def test_the_wrong_route_or_name_is_accepted_and_silent(slow, path):
    async def client():
        async with Socket(slow.url + path) as ws:
            return await silent(ws)

    assert asyncio.run(client())


def test_a_live_subscription_on_the_wrong_route_is_acknowledged_and_silent(slow):
    async def client():
        async with Socket(slow.url + "/public/ws") as ws:
            await ws.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 1})
            (ack,) = await read(ws, 1)
            return ack, await silent(ws)

    assert asyncio.run(client()) == ({"result": None, "id": 1}, True)


def test_combined_streams_are_wrapped_and_raw_ones_are_not(slow):
    async def client(path):
        async with Socket(slow.url + path) as ws:
            return (await read(ws, 1))[0]

    wrapped = asyncio.run(client("/market/stream?streams=btcusdt@kline_1m"))
    assert set(wrapped) == {"stream", "data"}
    assert wrapped["stream"] == "btcusdt@kline_1m"
    raw = asyncio.run(client("/market/ws/btcusdt@kline_1m"))
    assert (raw["e"], raw["s"], raw["k"]["i"], raw["st"]) == ("kline", "BTCUSDT", "1m", 1)


def test_live_requests(slow):
    async def client():
        async with Socket(slow.url + "/market/stream") as ws:
            await ws.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m", "no@kline_1m"], "id": "a"})
            await ws.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
            await ws.send_json({"method": "UNSUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 3})
            await ws.send_json({"method": "BUY", "id": 4})
            await ws.send_json({"method": "SUBSCRIBE", "params": "btcusdt@kline_1m", "id": 5})
            answers = [m for m in await read(ws, 6) if "stream" not in m]
            quiet = await silent(ws)
            await ws.send_str("{")
            return answers, quiet, await close_code(ws)

    answers, quiet, code = asyncio.run(client())
    assert answers[:3] == [
        {"result": None, "id": "a"},
        {"result": ["btcusdt@kline_1m", "no@kline_1m"], "id": 2},
        {"result": None, "id": 3},
    ]
    assert [(a["error"]["code"], a["id"]) for a in answers[3:]] == [(2, 4), (2, 5)]
    assert (quiet, code) == (True, 1008)


def test_ten_messages_a_second_are_the_limit(slow):
    async def client():
        async with Socket(slow.url + "/market/ws") as ws:
            for number in range(12):
                await ws.send_json({"method": "LIST_SUBSCRIPTIONS", "id": number})
            return await close_code(ws)

    assert asyncio.run(client()) == 1008


def replay(tape, streams, at, until):
    async def client(handle):
        events = []
        async with Socket(f"{handle.url}/market/stream?streams={'/'.join(streams)}") as ws:
            done = False
            while True:
                try:
                    events += await read(ws, 1, 0.2)
                except TimeoutError:
                    if done:
                        return events
                    done = (await asyncio.to_thread(handle.status))["finished"]

    with running([tape], speed="max", at=at, until=until, hold_streams=len(streams)) as handle:
        return asyncio.run(client(handle))


def test_a_replay_gives_each_bar_once_closed_and_at_least_once_open_before(binance_tape):
    at, until = END - 4 * HOUR_MS, END
    events = replay(binance_tape, ["btcusdt@kline_1m", "solusdt@kline_1m"], at, until)
    klines = [event["data"]["k"] for event in events if event["stream"] == "btcusdt@kline_1m"]
    closed = [k for k in klines if k["x"]]
    bars = binance_tape.bars(BTC, Interval.parse("1m"))
    mine = bars.open_ms >= at
    assert [k["t"] for k in closed] == bars.open_ms[mine].tolist()
    names = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume_base", "q": "volume_quote"}
    for short, name in names.items():
        assert [float(k[short]) for k in closed] == getattr(bars, name)[mine].tolist()
    assert [k["n"] for k in closed] == bars.trades[mine].tolist()
    first_seen = {}
    for position, k in enumerate(klines):
        first_seen.setdefault(k["t"], (position, k["x"]))
    assert not any(x for _, x in first_seen.values())
    assert all(k["T"] == k["t"] + MINUTE_MS - 1 for k in klines)
    unknown = [event["data"]["k"] for event in events if event["stream"] == "solusdt@kline_1m"]
    assert {(k["q"], k["n"], k["V"]) for k in unknown} == {("", "", "")}


def test_the_next_settlement_moves_on_when_one_has_happened(binance_tape):
    at, until = END - 22 * HOUR_MS, END - HOUR_MS
    events = [e["data"] for e in replay(binance_tape, ["btcusdt@markPrice"], at, until)]
    settled = binance_tape.settlements(BTC)
    for event in events:
        now = binance_tape.funding_now(BTC, event["E"])
        assert (event["T"], float(event["r"])) == (now.settles_ms, now.rate)
        assert event["T"] > event["E"]
    passed = settled.time_ms[(settled.time_ms > at) & (settled.time_ms <= until)]
    assert set(passed.tolist()) <= {event["E"] for event in events}
    assert np.diff(sorted({event["T"] for event in events})).tolist() == [8 * HOUR_MS] * 2


def test_mark_prices_of_all_mix_coin_m_in(slow):
    async def client():
        async with Socket(slow.url + "/market/ws/!markPrice@arr") as ws:
            return (await read(ws, 1))[0]

    rows = {row["s"]: row for row in asyncio.run(client())}
    assert rows["BTCUSD_PERP"]["st"] == 2
    assert rows["BTCUSDT"]["st"] == 1


def test_recorded_events_have_no_field_that_we_lack(real_data, slow):
    folder = real_data / "wire/binance/nautilus_fixtures_mixed/market_data_json"

    def recorded(name):
        return json.loads((folder / f"{name}.json").read_text())

    async def client():
        names = ("btcusdt@kline_1m", "btcusdt@markPrice", "btcusdt@ticker")
        async with Socket(f"{slow.url}/market/stream?streams={'/'.join(names)}") as ws:
            got = {}
            while set(got) != set(names):
                (event,) = await read(ws, 1)
                got[event["stream"]] = event["data"]
            return got

    got = asyncio.run(client())
    kline = recorded("kline_stream_closed")
    assert set(kline) <= set(got["btcusdt@kline_1m"])
    assert set(kline["k"]) == set(got["btcusdt@kline_1m"]["k"])
    assert set(recorded("mark_price_stream")) <= set(got["btcusdt@markPrice"])
    assert set(recorded("ticker_stream")) == set(got["btcusdt@ticker"])


def test_the_server_pings_and_wants_an_answer(binance_tape):
    async def client(url, *, answers):
        async with Socket(url + "/market/ws") as ws:
            pings = 0
            async with asyncio.timeout(20):
                while pings < 8:
                    message = await ws.receive()
                    if message.type is aiohttp.WSMsgType.PING:
                        pings += 1
                        if answers:
                            await ws.pong(message.data)
                    else:
                        return pings, ws.close_code
            return pings, None

    with running([binance_tape], speed=0, binance_ping_s=0.15) as handle:
        assert asyncio.run(client(handle.url, answers=True)) == (8, None)
        pings, code = asyncio.run(client(handle.url, answers=False))
        assert code == 1008
        assert 2 <= pings <= 5


def test_a_connection_lives_for_a_day_at_most(binance_tape):
    async def client(url):
        async with Socket(url + "/market/ws") as ws:
            return await close_code(ws)

    with running([binance_tape], speed=0, lifetime_s=0.3) as handle:
        assert asyncio.run(client(handle.url)) == 1001
