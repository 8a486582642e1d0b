"""A proxy of the settings: REST, websocket and bulk files go through it, and loopback never does.

The venue is asked for by a name that nobody can resolve but the proxy, which knows it to be this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import threading
import zipfile
from urllib.parse import urlsplit

import pytest
from aiohttp import WSMsgType, web
from support_feeds import loopback, settings_at, streaming

from qlib_crypto.clock import DAY_MS, parse_utc
from qlib_crypto.errors import VenueError
from qlib_crypto.feeds import Archive, rest_client
from qlib_crypto.feeds.proxies import is_loopback, proxy_for
from qlib_crypto.feeds.transport import Patience
from qlib_crypto.feeds.venues import VENUES
from qlib_crypto.settings import BinanceSettings, OkxSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

M1 = Interval.parse("1m")
MAY = parse_utc("2024-05-01")
NAME = "venue.test"
ONCE = Patience(attempts=1)


class Proxy:
    """An HTTP proxy of two verbs: CONNECT, and GET of a whole address; it knows one name."""

    def __init__(self):
        self.asked = []
        self._open = {}

    async def __call__(self, reader, writer):
        writers = self._open[asyncio.current_task()] = [writer]
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            verb, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            url = urlsplit(f"//{target}" if verb == "CONNECT" else target)
            self.asked.append((verb, url.hostname, url.path))
            if url.hostname != NAME:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
                writer.close()
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", url.port)
            writers.append(far_writer)
            if verb == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                head = head.replace(target.encode(), f"{url.path}?{url.query}".encode(), 1)
                far_writer.write(head.replace(b"Connection: keep-alive", b"Connection: close"))
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    async def close(self):
        """End every connection, and wait until its sockets are closed."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        writers = [writer for of in self._open.values() for writer in of]
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def pump(reader, writer):
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def proxying():
    """The address of a proxy in a thread, and the proxy."""
    proxy, started, shared = Proxy(), threading.Event(), {}

    async def main():
        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        shared["port"] = server.sockets[0].getsockname()[1]
        shared["loop"], shared["stop"] = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await shared["stop"].wait()
        server.close()
        await proxy.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{shared['port']}", proxy
    finally:
        shared["loop"].call_soon_threadsafe(shared["stop"].set)
        thread.join(10)


def settings_of(venue, url, proxy):
    """The venue at its name, which only the proxy knows."""
    at = f"http://{NAME}:{urlsplit(url).port}"
    kind = OkxSettings if venue is Venue.OKX else BinanceSettings
    return kind(rest_url=at, ws_url=at.replace("http", "ws", 1), archive_url=at, proxy=proxy)


def a_file(path):
    """One candle, zipped, and its checksum."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("x.csv", f"{MAY},1,3,0.5,2,9,{MAY + 59_999},5,4,0,0,0\n")
    said = f"{hashlib.sha256(out.getvalue()).hexdigest()}  {path.rsplit('/', 1)[-1]}\n".encode()
    return {path: out.getvalue(), f"{path}.CHECKSUM": said}


FILES = a_file("/data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-05-01.zip")
ROW = ["1747093980000", "102806", "102820.5", "102783.1", "102806.1", "7164.04", "71.6404", "7364701.5", "1"]
KLINE = {"t": 1747093980000, "T": 1747094039999, "i": "1m", "o": "1", "c": "2", "h": "3", "l": "1", "v": "9", "q": "7",
         "n": 4, "x": True}  # fmt: skip


async def venue_server(request):
    if request.headers.get("Upgrade", "").lower() == "websocket":
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        if "stream" in request.path:
            event = {"e": "kline", "E": 1747094040000, "s": "BTCUSDT", "k": KLINE}
            await ws.send_json({"stream": "x", "data": event})
        else:
            await ws.send_json({"arg": {"channel": "candle1m", "instId": "BTC-USDT-SWAP"}, "data": [ROW]})
        async for message in ws:
            if message.type is WSMsgType.TEXT and message.data == "ping":
                await ws.send_str("pong")
        return ws
    if request.path in FILES:
        return web.Response(body=FILES[request.path])
    if request.path.endswith("/time"):
        return web.json_response({"code": "0", "data": [{"ts": "5"}], "serverTime": 5})
    return web.Response(status=404)


@pytest.mark.parametrize("venue", list(Venue))
def test_rest_goes_through_the_proxy(venue):
    with proxying() as (address, proxy), loopback(venue_server) as url:
        client = rest_client(venue, settings_of(venue, url, address))
        assert client.server_time_ms() == 5
        client.close()
    assert proxy.asked == [("GET", NAME, "/api/v5/public/time" if venue is Venue.OKX else "/fapi/v1/time")]


@pytest.mark.parametrize("venue", list(Venue))
def test_the_websocket_goes_through_the_proxy(venue):
    name = Instrument("BTC", "USDT", venue)
    with (
        proxying() as (address, proxy),
        loopback(venue_server) as url,
        streaming(venue, settings_of(venue, url, address), [name], M1) as got,
    ):
        got.wait(lambda: got.bars)
    assert {asked[:2] for asked in proxy.asked} == {("CONNECT", NAME)}
    assert got.bars[0].instrument == name


def test_bulk_files_go_through_the_proxy():
    with proxying() as (address, proxy), loopback(venue_server) as url:
        archive = Archive(Venue.BINANCE, settings_of(Venue.BINANCE, url, address))
        name = Instrument("BTC", "USDT", Venue.BINANCE)
        rows = [row for page in archive.bars(name, M1, MAY, MAY + DAY_MS) for row in page]
        archive.close()
    assert [row.open_ms for row in rows] == [MAY]
    assert {asked[:2] for asked in proxy.asked} == {("GET", NAME)}
    assert {path for *_, path in proxy.asked} == set(FILES)


@pytest.mark.parametrize("venue", list(Venue))
def test_loopback_never_goes_through_a_proxy(venue, monkeypatch):
    """Neither that of the settings nor that of the environment."""
    name = Instrument("BTC", "USDT", venue)
    with proxying() as (address, proxy), loopback(venue_server) as url:
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ws_proxy"):
            monkeypatch.setenv(variable, address)
        settings = settings_at(venue, url).model_copy(update={"proxy": address})
        client = rest_client(venue, settings)
        assert client.server_time_ms() == 5
        client.close()
        archive = Archive(Venue.BINANCE, settings)
        bars = archive.bars(Instrument("BTC", "USDT", Venue.BINANCE), M1, MAY, MAY + DAY_MS)
        assert [row.open_ms for page in bars for row in page] == [MAY]
        archive.close()
        with streaming(venue, settings, [name], M1) as got:
            got.wait(lambda: got.bars)
    assert proxy.asked == []


def test_the_proxy_of_the_settings_comes_before_that_of_the_environment(monkeypatch):
    with proxying() as (address, proxy), proxying() as (other, unasked), loopback(venue_server) as url:
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, other)
        client = rest_client(Venue.OKX, settings_of(Venue.OKX, url, address))
        client.server_time_ms()
        client.close()
        without = rest_client(Venue.OKX, settings_of(Venue.OKX, url, None))
        without.server_time_ms()
        without.close()
    assert len(proxy.asked) == 1
    assert len(unasked.asked) == 1, "and where the settings name none, the environment's is used"


def test_a_proxy_that_is_not_there_is_named_as_the_trouble():
    client = VENUES[Venue.OKX].rest(settings_of(Venue.OKX, "http://127.0.0.1:1", "http://127.0.0.1:9"), ONCE)
    with pytest.raises(VenueError, match=r"the proxy gave no way to http://venue.test:1 .*; check the setting proxy"):
        client.server_time_ms()
    client.close()
    with streaming(
        Venue.OKX,
        settings_of(Venue.OKX, "http://127.0.0.1:1", "http://127.0.0.1:9"),
        [Instrument("BTC", "USDT", Venue.OKX)],
        M1,
    ) as got:
        got.wait(lambda: got.problems)


def test_what_loopback_is():
    for url in ("http://127.0.0.1:8", "ws://127.3.2.1", "https://localhost:1/x", "http://[::1]:5"):
        assert is_loopback(url)
        assert proxy_for(url, "http://p:1") is None
    for url in (
        "http://venue.test",
        "https://www.okx.com",
        "http://10.0.0.1",
        "http://localhost.example.com",
        "http://",
    ):
        assert not is_loopback(url)
        assert proxy_for(url, "http://p:1") == "http://p:1"
    assert proxy_for("http://venue.test", None) is None
