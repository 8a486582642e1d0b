"""A look at a venue can say no more and go nowhere else than the collector."""

import asyncio
import contextlib
import socket
import threading

import pytest
from aiohttp import WSMsgType, web
from support_feeds import loopback, settings_at

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.probe import PATHS, looking, okx_instrument_ids, venue_time_ms
from qlib_crypto.feeds.venues import VENUES
from qlib_crypto.settings import OkxSettings
from qlib_crypto.symbols import Venue


def look(settings, path, what):
    heard = []

    async def main():
        async with looking(settings, path, lambda *event: heard.append(event)) as one:
            await what(one)

    asyncio.run(main())
    return heard


async def echo(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
    return ws


def test_it_goes_where_the_collector_goes_only():
    assert set(PATHS) <= {path for parts in VENUES.values() for path in parts.feed.paths}


@pytest.mark.parametrize("path", ["/ws/v5/private", "/private/ws/key", "/market/ws/x", "/ws/v5/public/../private"])
def test_no_other_address_is_opened(path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was attempted"))
    with pytest.raises(VenueError, match="no public market-data address"):
        look(settings_at(Venue.OKX, "http://127.0.0.1:9"), path, None)


@pytest.mark.parametrize(
    "request_", [{"op": "login", "args": []}, {"method": "order.place"}, {}, "hello", '{"op":"login"}'], ids=str
)
def test_nothing_but_subscriptions_is_said(request_):
    with loopback(echo) as url, pytest.raises(VenueError, match="sends no other"):
        look(settings_at(Venue.OKX, url), "/ws/v5/public", lambda one: one.say(request_))


def test_what_is_said_and_heard_is_taped_and_a_close_has_its_code():
    async def handler(request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_str(await ws.receive_str())
        await ws.send_str("pong")
        await ws.close(code=4004)
        return ws

    async def what(one):
        await one.say({"op": "subscribe", "args": []})
        assert [frame async for frame in one.hear(10)] == [{"op": "subscribe", "args": []}, "pong"]
        assert one.ended is not None
        assert one.ended[0] == 4004
        await one.say("ping")
        assert [frame async for frame in one.hear(10)] == []

    with loopback(handler) as url:
        events = look(settings_at(Venue.OKX, url), "/ws/v5/public", what)
    assert [what for what, _ in events] == ["opened", "sent", "heard", "heard", "closed", "sent"]


def test_an_address_that_does_not_open_says_why():
    async def blocked(_request):
        return web.Response(status=403)

    with loopback(blocked) as url, pytest.raises(VenueError, match=r"geo-block.*check the network"):
        look(settings_at(Venue.OKX, url), "/ws/v5/public", None)


def test_it_goes_through_the_proxy_of_the_settings_but_never_to_loopback():
    asked = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            asked.append(connection.recv(4096).split(b"\r\n")[0])
            connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(VenueError):
        look(OkxSettings(ws_url="ws://venue.invalid:8443", proxy=proxy), "/ws/v5/public", None)
    thread.join(10)
    server.close()
    assert asked == [b"CONNECT venue.invalid:8443 HTTP/1.1"]
    with loopback(echo) as url:
        settings = settings_at(Venue.OKX, url).model_copy(update={"proxy": "http://127.0.0.1:9"})
        assert look(settings, "/ws/v5/public", lambda one: one.say("ping"))[0][0] == "opened"


@pytest.mark.parametrize(
    ("venue", "answer"),
    [(Venue.OKX, {"code": "0", "data": [{"ts": "1750000000000"}]}), (Venue.BINANCE, {"serverTime": 1750000000000})],
)
def test_the_time_is_read_as_each_venue_writes_it(venue, answer):
    async def handler(_request):
        return web.json_response(answer)

    async def empty(_request):
        return web.json_response({})

    with loopback(handler) as url:
        assert venue_time_ms(venue, settings_at(venue, url)) == 1750000000000
    with loopback(empty) as url, pytest.raises(VenueError, match="no time"):
        venue_time_ms(venue, settings_at(venue, url))


def test_every_instrument_is_read_those_of_no_use_included():
    async def handler(_request):
        return web.json_response({"code": "0", "data": [{"instId": "BTC-USDT-SWAP"}, {"instId": ""}, {}]})

    with loopback(handler) as url:
        ids = okx_instrument_ids(settings_at(Venue.OKX, url), lambda *_: None)
    assert ids == ["BTC-USDT-SWAP", "", ""]
