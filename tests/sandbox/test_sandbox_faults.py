"""Faults on request, outages, and what a client can still get."""

from __future__ import annotations

import asyncio
import json
import threading
from itertools import pairwise

import aiohttp
import pytest
from sandbox_support import HOURS, START, Socket, close_code, get, read

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.sandbox.serve import running
from qlib_crypto.sandbox.tape_files import FileTape
from qlib_crypto.symbols import Instrument, Interval, Venue

END = START + HOURS * HOUR_MS
BTC = Instrument.parse("BTC_USDT.OKX")
CANDLES = {"op": "subscribe", "args": [{"channel": "candle1m", "instId": "BTC-USDT-SWAP"}]}
BUSINESS = "/ws/v5/business"


def confirmed(messages):
    return {int(row[0]) for message in messages for row in message.get("data", ()) if row[8] == "1"}


async def until_confirmed(ws, n):
    got = set()
    while len(got) < n:
        got |= confirmed(await read(ws, 1))
    return got


@pytest.mark.parametrize(("kind", "code"), [("drop", 1001), ("abort", 1006)])
def test_what_a_broken_connection_lost_is_there_by_rest(okx_tape, kind, code):
    """Websocket rows before and after the break, and REST up to the reconnect, are the whole tape."""
    at = END - 10 * HOUR_MS

    async def client(handle):
        async with Socket(handle.url + BUSINESS) as ws:
            await ws.send_json(CANDLES)
            rows = await until_confirmed(ws, 30)
            # the client reads on meanwhile: a clean close waits for its answer
            hit, closed = await asyncio.gather(asyncio.to_thread(handle.fault, kind, venue="okx"), close_code(ws))
            assert closed == code
        async with Socket(handle.url + BUSINESS) as ws:
            await ws.send_json(CANDLES)
            await read(ws, 1)
            for after in (END, END - 300 * MINUTE_MS):
                path = f"/api/v5/market/history-candles?instId=BTC-USDT-SWAP&limit=300&after={after}"
                page = await asyncio.to_thread(get, handle.url + path)
                rows |= confirmed([page.body])
            while END - MINUTE_MS not in rows:
                rows |= confirmed(await read(ws, 1))
        return rows, hit

    with running([okx_tape], speed="max", at=at, until=END, hold_streams=1) as handle:
        rows, hit = asyncio.run(client(handle))
    bars = okx_tape.bars(BTC, Interval.parse("1m"))
    assert hit == {"kind": kind, "connections": 1}
    assert set(bars.open_ms[bars.open_ms >= at].tolist()) <= rows


def test_rest_faults_hit_so_many_requests_of_one_venue(okx_tape, binance_tape):
    with running([okx_tape, binance_tape], speed=0, at=END, rate_scale=float("inf")) as handle:
        okx, binance = f"{handle.url}/api/v5/public/mark-price?instType=SWAP", f"{handle.url}/fapi/v1/premiumIndex"
        handle.fault("rate_limit", venue="okx", count=2)
        assert [get(okx).body["code"] for _ in range(3)] == ["50011", "50011", "0"]
        assert get(binance).status == 200
        handle.fault("error")
        assert (get(okx).status, get(okx).status) == (500, 200)
        assert [get(binance).status for _ in range(2)] == [503, 200]
        handle.fault("rate_limit", venue="binance", retry_after=3)
        limited = get(binance)
        assert (limited.status, limited.body["code"], limited.headers["Retry-After"]) == (429, -1003, "3")
        handle.fault("rate_limit", venue="binance")
        limited = get(binance)
        assert (limited.status, "Retry-After" in limited.headers) == (429, False)
        assert get(binance).status == 200


def test_silence_loses_market_time_but_answers_pings(okx_tape):
    async def client(handle):
        async with Socket(handle.url + BUSINESS) as ws:
            await ws.send_json(CANDLES)
            rows = await until_confirmed(ws, 1)
            await asyncio.to_thread(handle.fault, "silence", seconds=3600)
            silent_from = (await asyncio.to_thread(handle.status))["market_ms"]
            await ws.send_str("ping")
            pong = False
            while not pong or len(rows) < 100:
                for message in await read(ws, 1):
                    pong = pong or message == "pong"
                    rows |= confirmed([message]) if message != "pong" else set()
            return rows, silent_from

    at = END - 40 * HOUR_MS
    with running([okx_tape], speed=6000, at=at, until=END) as handle:
        rows, silent_from = asyncio.run(client(handle))
    closes = sorted(row + MINUTE_MS for row in rows)
    gap = max(b - a for a, b in pairwise(closes))
    assert gap >= HOUR_MS - 30 * MINUTE_MS  # the fault was armed a little before the status was read
    assert not any(silent_from < close < silent_from + 20 * MINUTE_MS for close in closes)


class Down(FileTape):
    """A tape whose venue was down for an hour."""

    outages = ((END - 5 * HOUR_MS, END - 4 * HOUR_MS),)


def test_in_an_outage_rest_says_so_and_sockets_are_closed(folder):
    async def client(handle):
        async with Socket(handle.url + BUSINESS) as ws:
            code = await close_code(ws)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with Socket(handle.url + BUSINESS):
                pass
        return code, refused.value.status

    tapes = [Down(folder, Venue.OKX), Down(folder, Venue.BINANCE)]
    with running(tapes, speed=0, at=END - 5 * HOUR_MS - 1) as handle:
        mark, klines = "/api/v5/public/mark-price?instType=SWAP", "/fapi/v1/klines?symbol=BTCUSDT&interval=1m"
        assert get(handle.url + mark).body["code"] == "0"
        timer = threading.Timer(0.3, lambda: handle.set_clock(at=END - 5 * HOUR_MS))
        timer.start()
        assert asyncio.run(client(handle)) == (1001, 503)
        timer.join()
        down = get(handle.url + mark)
        assert (down.status, down.body["code"], down.body["data"]) == (503, "50001", [])
        assert get(handle.url + klines).status == 503
        assert get(f"{handle.url}/api/v5/public/time").status == 200
        handle.set_clock(at=END - 4 * HOUR_MS)
        assert get(handle.url + mark).status == get(handle.url + klines).status == 200


def test_at_max_speed_an_outage_is_announced_passes_and_the_replay_goes_on(folder):
    async def client(handle):
        async with Socket(handle.url + BUSINESS) as ws:
            await ws.send_json(CANDLES)
            messages = []
            while True:
                message = await ws.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    break
                messages.append(json.loads(message.data))
        while True:
            try:
                async with Socket(handle.url + BUSINESS) as ws:
                    await ws.send_json(CANDLES)
                    return messages, await until_confirmed(ws, 4 * 60)
            except aiohttp.WSServerHandshakeError:
                await asyncio.sleep(0.1)

    at = END - 6 * HOUR_MS
    with running([Down(folder, Venue.OKX)], speed="max", at=at, hold_streams=1, rate_scale=100) as handle:
        before, after = asyncio.run(client(handle))
    start, end = Down.outages[0]
    assert [m["code"] for m in before if m.get("event") == "notice"] == ["64008"]
    assert confirmed(before) == set(range(at, start, MINUTE_MS))
    assert after == set(range(end, END, MINUTE_MS))


class Broken(FileTape):
    """A tape that fails while it is played."""

    def funding_now(self, instrument, at_ms):
        if at_ms > END - HOUR_MS:
            raise OSError("disk is gone")
        return super().funding_now(instrument, at_ms)


def test_a_tape_that_fails_is_not_passed_over_in_silence(folder):
    async def client(handle):
        async with Socket(handle.url + "/ws/v5/public") as ws:
            args = [{"channel": "funding-rate", "instId": "BTC-USDT-SWAP"}]
            await ws.send_json({"op": "subscribe", "args": args})
            await read(ws, 2)
            while not (failed := (await asyncio.to_thread(handle.status))["failed"]):  # noqa: ASYNC110 - it is another process's state
                await asyncio.sleep(0.05)
            return failed

    with (
        pytest.raises(OSError, match="disk is gone"),
        running([Broken(folder, Venue.OKX)], speed="max", at=END - 2 * HOUR_MS) as handle,
    ):
        assert "disk is gone" in asyncio.run(client(handle))
