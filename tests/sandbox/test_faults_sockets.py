"""Every fault of websocket connections, seen by a plain client of either venue."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager

import aiohttp
import pytest
from sandbox_support import HOURS, START, Socket, close_code, get

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Instrument, Interval, Venue

END = START + HOURS * HOUR_MS
M1 = Interval.parse("1m")
VENUES = list(Venue)
IDS = {Venue.OKX: "BTC-USDT-SWAP", Venue.BINANCE: "BTCUSDT"}


@pytest.fixture(scope="module", params=VENUES)
def venue(request):
    return request.param


@pytest.fixture
def tape(venue, okx_tape, binance_tape):
    return okx_tape if venue is Venue.OKX else binance_tape


class Client:
    """A plain subscriber to the one-minute bars of one instrument on one venue."""

    def __init__(self, handle, venue):
        self.handle, self.venue = handle, venue
        self.texts, self.rows = [], []

    def __aenter__(self):
        path = "/ws/v5/business" if self.venue is Venue.OKX else "/market/stream?streams=btcusdt@kline_1m"
        self._socket = Socket(self.handle.url + path)
        return self._enter()

    async def _enter(self):
        self.ws = await self._socket.__aenter__()
        if self.venue is Venue.OKX:
            arg = {"channel": "candle1m", "instId": "BTC-USDT-SWAP"}
            await self.ws.send_json({"op": "subscribe", "args": [arg]})
        return self

    async def __aexit__(self, *what):
        await self._socket.__aexit__(*what)

    async def fault(self, kind, **parameters):
        return await asyncio.to_thread(self.handle.fault, kind, venue=str(self.venue), **parameters)

    async def read(self, until, seconds=20.0):
        """Read until `until()` holds; every text and every confirmed row is kept."""
        async with asyncio.timeout(seconds):
            while not until():
                message = await self.ws.receive()
                if message.type is aiohttp.WSMsgType.TEXT:
                    self.take(message.data)
                elif message.type is not aiohttp.WSMsgType.PONG:
                    return message
        return None

    async def read_on(self):
        """Read up to what is sent ten market minutes from now."""
        now = (await asyncio.to_thread(self.handle.status))["market_ms"]
        await self.read(lambda: self.rows and self.rows[-1][1] > now + 10 * MINUTE_MS)

    def take(self, text):
        self.texts.append(text)
        try:
            message = json.loads(text)
        except ValueError:
            return
        self.rows += closed_rows(self.venue, message)

    async def quiet(self, seconds):
        """True when the socket says nothing at all for so long."""
        try:
            async with asyncio.timeout(seconds):
                message = await self.ws.receive()
        except TimeoutError:
            return True
        if message.type is aiohttp.WSMsgType.TEXT:
            self.take(message.data)
        return message


def closed_rows(venue, message):
    """(instrument, open time, close, volume) of the confirmed bars of a push; none for anything else."""
    try:
        if venue is Venue.OKX:
            inst = message["arg"]["instId"]
            rows = [[*map(float, r[:7])] for r in message["data"] if r[8] == "1"]
            return [(inst, int(r[0]), r[4], r[6]) for r in rows]
        bar = message["data"]["k"]
        o, c, v = (float(bar[name]) for name in "ocv")
        return [(bar["s"], bar["t"], c, v)] if bar["x"] and o else []
    except (KeyError, TypeError, IndexError, ValueError):
        return []


def truth(tape, start, n):
    """What the tape says of the `n` bars from the first that closes after `start`."""
    bars = tape.bars(Instrument.from_venue_id(tape.venue, IDS[tape.venue]), M1)
    first = int(bars.open_ms.searchsorted(start - MINUTE_MS, side="right"))
    mine = slice(first, first + n)
    columns = (bars.open_ms, bars.close, bars.volume_base)
    return [(IDS[tape.venue], *row) for row in zip(*(column[mine].tolist() for column in columns), strict=True)]


AT = END - 30 * HOUR_MS


@contextmanager
def served(tape, **options):
    with running([tape], **{"speed": 6000, "at": AT, "rate_scale": float("inf"), **options}) as handle:
        yield handle


def run(handle, venue, script):
    async def main():
        async with Client(handle, venue) as client:
            return await script(client)

    return asyncio.run(main())


def test_without_a_fault_the_rows_are_the_tape(tape, venue):
    async def script(client):
        await client.read(lambda: len(client.rows) >= 20)
        return client.rows

    with served(tape, hold_streams=1) as handle:
        assert run(handle, venue, script) == truth(tape, AT, 20)
        assert handle.status()["bars_sent"] >= 20
        assert handle.status()["frames_sent"] >= handle.status()["bars_sent"]


@pytest.mark.parametrize(("kind", "parameters", "code"), [("drop", {"code": 1012}, 1012), ("lifetime", {}, 1001)])
def test_a_clean_close_has_its_code(tape, venue, kind, parameters, code):
    async def script(client):
        await client.read(lambda: client.texts)
        hit, closed = await asyncio.gather(client.fault(kind, **parameters), close_code(client.ws))
        return hit["connections"], closed

    with served(tape) as handle:
        assert run(handle, venue, script) == (1, code)


def test_a_fault_of_connections_waits_for_the_next_one_when_there_is_none(tape, venue):
    async def script(client):
        return await close_code(client.ws)

    with served(tape) as handle:
        assert handle.fault("abort", venue=str(venue)) == {"kind": "abort", "connections": 0}
        armed = get(handle.url + "/sandbox/faults").body["armed"][str(venue)]
        assert armed == {"abort": {"waiting": 1}}
        assert run(handle, venue, script) == 1006
        assert get(handle.url + "/sandbox/faults").body["armed"][str(venue)] == {}


def test_half_open_says_nothing_and_a_new_connection_is_well(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        await client.fault("half_open")
        async with asyncio.timeout(5):
            while True:  # what was on its way
                if await client.quiet(0.5) is True:
                    break
        await client.ws.send_str("ping")
        await client.ws.ping()
        nothing = await client.quiet(0.7)
        async with Client(client.handle, venue) as second:
            await second.read(lambda: second.rows)
            return nothing, client.ws.closed, bool(second.rows)

    with served(tape) as handle:
        assert run(handle, venue, script) == (True, False, True)
        assert handle.status()["connections"] == 0


def test_half_open_ends_with_a_reset(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        await client.fault("half_open", seconds=0.3)
        return await close_code(client.ws)

    with served(tape) as handle:
        assert run(handle, venue, script) == 1006


def test_mute_accepts_and_never_says_a_word(tape, venue):
    async def main(handle):
        await asyncio.to_thread(handle.fault, "mute", venue=str(venue), seconds=0.6)
        async with Client(handle, venue) as client:
            await client.ws.send_str("ping")
            await client.ws.ping()
            nothing = await client.quiet(0.8)
            async with Client(handle, venue) as second:
                await second.read(lambda: second.rows)
                return nothing, await client.quiet(0.3)

    with served(tape) as handle:
        assert asyncio.run(main(handle)) == (True, True)


def test_a_stall_sends_everything_late_and_nothing_twice(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        await client.fault("stall", seconds=1.2)
        known, began = len(client.rows), time.monotonic()
        while await client.quiet(0.5) is not True:
            assert time.monotonic() - began < 5
        await client.ws.ping()  # the server is alive
        pong = await client.ws.receive()
        await client.read(lambda: len(client.rows) >= known + 30)
        return pong.type, client.rows

    with served(tape, hold_streams=1) as handle:
        pong, rows = run(handle, venue, script)
        assert pong is aiohttp.WSMsgType.PONG
        assert rows == truth(tape, AT, len(rows))


def test_duplicates_are_exact(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        await client.fault("duplicate", seconds=0.5)
        await asyncio.sleep(0.6)
        await client.read_on()
        return client.rows

    with served(tape, hold_streams=1) as handle:
        rows = run(handle, venue, script)
    assert list(dict.fromkeys(rows)) == truth(tape, AT, len(set(rows)))
    assert len(rows) > len(set(rows))
    assert max(rows.count(row) for row in rows) == 2
    assert rows.count(rows[-1]) == 1


def test_reordered_bars_are_all_there(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        await client.fault("reorder", seconds=0.3)
        await asyncio.sleep(0.4)
        await client.read_on()
        return client.rows

    with served(tape, hold_streams=1) as handle:
        rows = run(handle, venue, script)
    assert [row[1] for row in rows] != sorted(row[1] for row in rows)
    assert sorted(rows) == truth(tape, AT, len(rows))


def test_malformed_frames_come_beside_the_good_ones(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        await client.fault("malformed", count=24)
        await client.read(lambda: len(client.rows) >= 40)
        return client.texts, client.rows

    with served(tape, hold_streams=1) as handle:
        texts, rows = run(handle, venue, script)
        assert get(handle.url + "/sandbox/faults").body["acted"][str(venue)] == {"malformed": 24}

    def valid(text):
        try:
            return isinstance(json.loads(text), dict)
        except ValueError:
            return False

    assert sum(not valid(text) for text in texts) >= 12
    assert '{"arg": ' not in texts
    assert "" in texts
    assert "null" in texts
    assert rows == truth(tape, AT, len(rows))


def test_frames_of_an_unknown_instrument_are_good_copies(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        await client.fault("unknown_instrument", count=30)
        await client.read(lambda: len({row[1] for row in client.rows}) >= 40)
        return client.texts, client.rows

    with served(tape, hold_streams=1) as handle:
        texts, rows = run(handle, venue, script)
    nobody = "NOBODY-USDT-SWAP" if venue is Venue.OKX else "NOBODYUSDT"
    mine = [row for row in rows if row[0] == IDS[venue]]
    strange = [text for text in texts if nobody in text]
    assert mine == truth(tape, AT, len(mine))
    assert len(strange) == 30
    assert not any(IDS[venue] in text or IDS[venue].lower() in text for text in strange)


def test_an_unknown_channel_stays_silent_on_that_connection_only(tape, venue):
    async def script(client):
        if venue is Venue.OKX:
            await client.read(lambda: client.texts)
            error = json.loads(client.texts[0])
            assert (error["event"], error["code"], "arg" in error) == ("error", "60018", False)
            assert "candle1m" in error["msg"]
        nothing = await client.quiet(0.3)
        async with Client(client.handle, venue) as second:
            await second.read(lambda: second.rows)
            return nothing

    with served(tape) as handle:
        handle.fault("unknown_channel", venue=str(venue))
        assert run(handle, venue, script) is True


def test_a_live_subscription_on_binance_is_refused(binance_tape):
    async def main(handle):
        async with Socket(handle.url + "/market/ws") as ws:
            for number in (1, 2):
                await ws.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": number})
            return [json.loads((await ws.receive()).data) for _ in range(3)]

    with served(binance_tape) as handle:
        handle.fault("unknown_channel", venue="binance")
        refused, taken, push = asyncio.run(main(handle))
    assert (refused["error"]["code"], refused["id"]) == (2, 1)
    assert taken == {"result": None, "id": 2}
    assert push["e"] == "kline"


def test_a_notice_comes_before_the_close(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        began = time.monotonic()
        await client.fault("notice", seconds=0.7)
        await client.read(lambda: False)
        return client.texts, client.ws.close_code, time.monotonic() - began

    with served(tape) as handle:
        texts, code, spent = run(handle, venue, script)
    notices = [json.loads(text)["code"] for text in texts if '"notice"' in text]
    assert notices == (["64008"] if venue is Venue.OKX else [])
    assert code == 1001
    assert spent >= 0.7


def test_revised_bars_differ_from_what_rest_says(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        await client.fault("revise", count=5)
        await client.read(lambda: len(client.rows) >= 25)
        return client.rows

    with served(tape, hold_streams=1) as handle:
        rows = run(handle, venue, script)
        known = rest_rows(handle, venue)
    expected = truth(tape, AT, len(rows))
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    assert sum(row != true for row, true in zip(rows, expected, strict=True)) == 5
    assert set(expected) <= known


def rest_rows(handle, venue):
    """The closed rows of the newest page by REST, as `closed_rows` gives them."""
    if venue is Venue.OKX:
        page = get(f"{handle.url}/api/v5/market/history-candles?instId={IDS[venue]}&limit=300").body
        return set(closed_rows(venue, {"arg": {"instId": IDS[venue]}, **page}))
    page = get(f"{handle.url}/fapi/v1/klines?symbol={IDS[venue]}&interval=1m&limit=300").body
    return {(IDS[venue], row[0], float(row[4]), float(row[5])) for row in page[:-1]}


def test_lost_closing_bars_never_come(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        await client.fault("lose", count=4)
        await client.read(lambda: len(client.rows) >= 20)
        return client.rows

    with served(tape, hold_streams=1) as handle:
        rows = run(handle, venue, script)
        sent = handle.status()["bars_sent"]
        assert set(truth(tape, AT, 24)) <= rest_rows(handle, venue)
    expected = truth(tape, AT, len(rows) + 4)
    missing = [row for row in expected if row not in rows]
    assert len(missing) == 4
    assert set(rows) <= set(expected)
    assert sent >= len(rows)


def test_faults_hit_the_venue_that_was_asked_for(okx_tape, binance_tape):
    async def main(handle):
        async with Client(handle, Venue.OKX) as okx, Client(handle, Venue.BINANCE) as binance:
            await okx.read(lambda: okx.rows)
            await asyncio.to_thread(handle.fault, "half_open", venue="okx")
            await asyncio.to_thread(handle.fault, "lose", venue="okx", count=9)
            await binance.read(lambda: len(binance.rows) >= 20)
            times = [row[1] for row in binance.rows]
            return times == list(range(times[0], times[0] + len(times) * MINUTE_MS, MINUTE_MS))

    with running([okx_tape, binance_tape], speed=3000, at=AT, rate_scale=float("inf")) as handle:
        assert asyncio.run(main(handle))
        assert get(handle.url + "/sandbox/faults").body["armed"] == {"okx": {"lose": {"count": 9}}, "binance": {}}


def test_maintenance_closes_sockets_refuses_and_passes(tape, venue):
    async def script(client):
        await client.read(lambda: client.rows)
        await client.fault("maintenance", seconds=4800)
        code = await close_code(client.ws)
        path = "/api/v5/market/tickers?instType=SWAP" if venue is Venue.OKX else "/fapi/v1/premiumIndex"
        down = await asyncio.to_thread(get, client.handle.url + path)
        with pytest.raises(aiohttp.WSServerHandshakeError):
            async with Client(client.handle, venue):
                pass
        await asyncio.sleep(1.0)
        well = await asyncio.to_thread(get, client.handle.url + path)
        async with Client(client.handle, venue) as second:
            await second.read(lambda: second.rows)
        return code, down, well.status

    with served(tape) as handle:
        code, down, well = run(handle, venue, script)
    assert (code, down.status, well) == (1001, 503, 200)
    assert down.body == "Service Unavailable" if venue is Venue.BINANCE else down.body["code"] == "50001"
