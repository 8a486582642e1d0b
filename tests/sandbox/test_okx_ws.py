"""OKX websocket: requests and answers, candles, funding, keep-alive."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import numpy as np
import pytest
from sandbox_support import HOURS, START, Socket, close_code, read, silent

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.series import Grid
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Instrument, Interval

END = START + HOURS * HOUR_MS
BTC, ETH = (Instrument.parse(f"{name}_USDT.OKX") for name in ("BTC", "ETH"))
PUBLIC, BUSINESS = "/ws/v5/public", "/ws/v5/business"


def arg(channel, inst_id="BTC-USDT-SWAP"):
    return {"channel": channel, "instId": inst_id}


def subscribe(*args, **more):
    return {**more, "op": "subscribe", "args": list(args)}


@pytest.fixture(scope="module")
def frozen(okx_tape):
    with running([okx_tape], speed=0, at=END - HOUR_MS + 90_500, rate_scale=float("inf")) as handle:
        yield handle


def test_every_argument_is_answered_by_itself(frozen):
    async def client():
        async with Socket(frozen.url + PUBLIC) as ws:
            await ws.send_json(subscribe(arg("mark-price"), arg("candle1m"), arg("tickers", "NO-USDT-SWAP"), id="7"))
            return await read(ws, 4)

    ack, push, wrong_url, unknown = asyncio.run(client())
    assert (ack["event"], ack["arg"], ack["id"]) == ("subscribe", arg("mark-price"), "7")
    assert len(ack["connId"]) == 8
    assert push["arg"] == arg("mark-price")
    for error in (wrong_url, unknown):
        assert (error["event"], error["code"], "arg" in error) == ("error", "60018", False)
    assert "candle1m" in wrong_url["msg"]
    assert "NO-USDT-SWAP" in unknown["msg"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "60012"),
        ("[]", "60012"),
        ('{"op":"buy","args":[1]}', "60012"),
        ('{"op":"subscribe","args":[]}', "60012"),
        ('{"op":"subscribe","args":["candle1m"]}', "60013"),
        ('{"op":"subscribe","args":[{"channel":"candle1m","uly":"BTC-USDT"}]}', "64000"),
        ('{"op":"subscribe","args":[{"channel":"liquidation-orders","instId":"BTC-USDT-SWAP"}]}', "60018"),
        ('{"op":"subscribe","args":[{"channel":"candle7m","instId":"BTC-USDT-SWAP"}]}', "60018"),
    ],
)
def test_what_is_wrong_is_an_error_event_and_the_socket_stays_open(frozen, text, code):
    async def client():
        async with Socket(frozen.url + PUBLIC) as ws:
            await ws.send_str(text)
            await ws.send_str("ping")
            return await read(ws, 2)

    error, pong = asyncio.run(client())
    assert (error["event"], error["code"], pong) == ("error", code, "pong")


def test_pushes_have_the_documented_shape(frozen, okx_tape):
    async def client():
        async with Socket(frozen.url + PUBLIC) as ws:
            channels = ("funding-rate", "mark-price", "open-interest", "tickers")
            await ws.send_json(subscribe(*map(arg, channels), {"channel": "instruments", "instType": "SWAP"}))
            return [m for m in await read(ws, 10) if "data" in m]

    pushes = {m["arg"]["channel"]: m["data"] for m in asyncio.run(client())}
    assert {row["instId"] for row in pushes["instruments"]} == {i.venue_id for i in okx_tape.specs}
    assert all(len(pushes[channel]) == 1 for channel in ("funding-rate", "mark-price", "open-interest", "tickers"))
    assert pushes["funding-rate"][0]["settState"] == "settled"


def test_documented_examples_have_no_field_that_we_lack(real_data, frozen):
    folder = real_data / "wire/okx/api_examples_okx_net/Subscriptions/Unified/ExchangeData"

    def example(name):
        return set(json.loads((folder / name).read_text().split("= ", 1)[1])["data"][0])

    async def client():
        async with Socket(frozen.url + PUBLIC) as ws:
            args = [arg(channel, "ETH-USDT-SWAP") for channel in ("funding-rate", "mark-price", "tickers")]
            await ws.send_json(subscribe(*args))
            return {m["arg"]["channel"]: set(m["data"][0]) for m in await read(ws, 6) if "data" in m}

    fields = asyncio.run(client())
    assert example("FundingRate.txt") <= fields["funding-rate"] | {"nextFundingRate"}  # absent for some
    assert example("MarkPrice.txt") <= fields["mark-price"]
    assert example("Ticker.txt") <= fields["tickers"]


def replay(tape, topics, at, until, route=BUSINESS):
    """Every push of a replay at maximum speed."""

    async def client(url):
        pushes = []
        async with Socket(url + route) as ws:
            await ws.send_json(subscribe(*topics))
            while not (await asyncio.to_thread(handle.status))["finished"]:
                pushes += await drain(ws)
            pushes += await drain(ws)
        return [push for push in pushes if "data" in push]

    async def drain(ws):
        got = []
        while True:
            try:
                got += await read(ws, 1, 0.2)
            except TimeoutError:
                return got

    with running([tape], speed="max", at=at, until=until, hold_streams=len(topics)) as handle:
        pushes = asyncio.run(client(handle.url))
        return pushes, handle.status()


def test_a_replay_gives_each_bar_once_confirmed_and_at_least_once_open_before(okx_tape):
    at, until = END - 5 * HOUR_MS, END
    topics = [arg("candle1m"), arg("candle1m", "ETH-USDT-SWAP")]
    pushes, status = replay(okx_tape, topics, at, until)
    confirmed = {"BTC-USDT-SWAP": [], "ETH-USDT-SWAP": []}
    opened = {"BTC-USDT-SWAP": set(), "ETH-USDT-SWAP": set()}
    for push in pushes:
        inst_id = push["arg"]["instId"]
        for row in push["data"]:
            if row[8] == "1":
                assert row[0] in opened[inst_id]
                confirmed[inst_id].append(row)
            else:
                assert not any(done[0] == row[0] for done in confirmed[inst_id])
                opened[inst_id].add(row[0])
    for instrument in (BTC, ETH):
        bars = okx_tape.bars(instrument, Interval.parse("1m"))
        mine = (bars.open_ms >= at) & (bars.open_ms + MINUTE_MS <= until)
        rows = confirmed[instrument.venue_id]
        assert [int(row[0]) for row in rows] == bars.open_ms[mine].tolist()
        for column, name in ((1, "open"), (2, "high"), (3, "low"), (4, "close"), (6, "volume_base")):
            assert [float(row[column]) for row in rows] == getattr(bars, name)[mine].tolist()
    assert {len(push["data"]) for push in pushes} == {1, 2}
    assert status["bars_sent"] == 2 * 300
    assert status["market_ms"] == until


def test_bars_that_the_tape_lacks_are_streamed_resampled(okx_tape):
    at, until = END - 6 * HOUR_MS, END
    args = (
        arg("candle5m", "ETH-USDT-SWAP"),
        arg("mark-price-candle5m", "ETH-USDT-SWAP"),
        arg("index-candle5m", "ETH-USDT"),
    )
    pushes, _ = replay(okx_tape, list(args), at, until)
    series = Market(okx_tape, None).series(ETH, Grid(5 * MINUTE_MS))
    mine = series.open_ms >= at
    assert {push["arg"]["instId"] for push in pushes if push["arg"]["channel"] == "index-candle5m"} == {"ETH-USDT"}
    for channel, flag in (("candle5m", 8), ("mark-price-candle5m", 5), ("index-candle5m", 5)):
        rows = [row for push in pushes if push["arg"]["channel"] == channel for row in push["data"] if row[flag] == "1"]
        assert [int(row[0]) for row in rows] == series.open_ms[mine].tolist()
        assert [float(row[2]) for row in rows] == series.high[mine].tolist()


def test_funding_comes_every_30_to_90_s_and_at_each_settlement(okx_tape):
    at, until = START + 30 * HOUR_MS, START + 42 * HOUR_MS
    pushes, _ = replay(okx_tape, [arg("funding-rate", "ETH-USDT-SWAP")], at, until, PUBLIC)
    rows = [push["data"][0] for push in pushes]
    times = np.array([int(row["ts"]) for row in rows])
    settled = okx_tape.settlements(ETH)
    passed = settled.time_ms[(settled.time_ms > at) & (settled.time_ms <= until)]
    assert set(passed.tolist()) <= set(times.tolist())
    regular = times[~np.isin(times, passed)]
    assert np.diff(regular).min() >= 30_000
    assert np.diff(times).max() <= 90_000
    for row, time in zip(rows, times, strict=True):
        now = okx_tape.funding_now(ETH, int(time))
        assert (float(row["fundingRate"]), int(row["fundingTime"])) == (now.rate, now.settles_ms)
        last = settled.time_ms[settled.time_ms <= time][-1]
        assert int(row["prevFundingTime"]) == last
        assert row["settState"] == ("processing" if time - last < 10_000 else "settled")


def test_after_unsubscribing_nothing_comes(okx_tape):
    async def client(url):
        async with Socket(url + BUSINESS) as ws:
            await ws.send_json(subscribe(arg("candle1m")))
            await read(ws, 40)
            await ws.send_json({"op": "unsubscribe", "args": [arg("candle1m")]})
            while (message := (await read(ws, 1))[0]).get("event") != "unsubscribe":
                assert "data" in message
            return await silent(ws)

    with running([okx_tape], speed=300, at=END - 10 * HOUR_MS) as handle:
        assert asyncio.run(client(handle.url))
        assert handle.status()["streams"] == 0
        assert handle.status()["bars_sent"] > 0


def test_an_idle_socket_is_closed_with_4004_unless_the_client_pings(okx_tape):
    async def idle(url):
        async with Socket(url + BUSINESS) as ws:
            return await close_code(ws)

    async def pinging(url):
        async with Socket(url + BUSINESS) as ws:
            for _ in range(6):
                await asyncio.sleep(0.25)
                await ws.send_str("ping")
            return await read(ws, 6)

    with running([okx_tape], speed=0, okx_idle_s=0.6) as handle:
        assert asyncio.run(idle(handle.url)) == 4004
        assert asyncio.run(pinging(handle.url)) == ["pong"] * 6


def test_a_long_life_ends_with_notice_64008_and_a_close(okx_tape):
    async def client(url):
        async with Socket(url + BUSINESS) as ws:
            (notice,) = await read(ws, 1)
            return notice, await close_code(ws)

    with running([okx_tape], speed=0, lifetime_s=0.5) as handle:
        notice, code = asyncio.run(client(handle.url))
    assert (notice["event"], notice["code"], code) == ("notice", "64008", 1001)


def test_protocol_limits(okx_tape):
    async def too_long(url):
        async with Socket(url + BUSINESS) as ws:
            await ws.send_str("x" * 70_000)
            return await close_code(ws)

    async def too_many(url):
        async with Socket(url + PUBLIC), Socket(url + PUBLIC):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                async with Socket(url + PUBLIC):
                    pass
            return refused.value.status

    with running([okx_tape], speed=0) as handle:
        assert asyncio.run(too_long(handle.url)) == 1009
        assert asyncio.run(too_many(handle.url)) == 429  # the third and fourth of one second
