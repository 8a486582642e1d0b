"""Nothing but public market data can be asked for: not over REST, not over a websocket, not through cryptofeed."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
import signal
import socket
from urllib.parse import urlsplit

import orjson
import pytest
from aiohttp import web
from cryptofeed.connection import WebsocketEndpoint
from cryptofeed.defines import BALANCES, CANDLES, FILLS, FUNDING, GOOD_TIL_CANCELED, ORDER_INFO, POSITIONS, TRANSACTIONS
from cryptofeed.exceptions import UnsupportedDataFeed
from cryptofeed.exchange import RestExchange
from hypothesis import given
from hypothesis import strategies as st
from support_feeds import loopback, settings_at

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds import Archive, binance_archive, binance_rest, okx_archive, okx_rest
from qlib_crypto.feeds.links import PublicSocket
from qlib_crypto.feeds.public_feed import STREAMED
from qlib_crypto.feeds.session import PublicSession
from qlib_crypto.feeds.transport import Patience
from qlib_crypto.feeds.venues import VENUES
from qlib_crypto.symbols import Instrument, Interval, Venue

ROUTES = {Venue.OKX: okx_rest.ROUTES, Venue.BINANCE: binance_rest.ROUTES}
FEEDS = {venue: parts.feed for venue, parts in VENUES.items()}
#: Written out again: a path can only be added to the code together with this list.
PUBLIC = {
    "/api/v5/public/time",
    "/api/v5/public/instruments",
    "/api/v5/public/position-tiers",
    "/api/v5/public/funding-rate",
    "/api/v5/public/funding-rate-history",
    "/api/v5/market/tickers",
    "/api/v5/market/candles",
    "/api/v5/market/history-candles",
    "/api/v5/market/mark-price-candles",
    "/api/v5/market/history-mark-price-candles",
    "/api/v5/market/index-candles",
    "/api/v5/market/history-index-candles",
    "/api/v5/public/market-data-history",
    "/api/v5/rubik/stat/contracts/open-interest-history",
    "/api/v5/rubik/stat/contracts/long-short-account-ratio-contract",
    "/fapi/v1/time",
    "/fapi/v1/exchangeInfo",
    "/fapi/v1/klines",
    "/fapi/v1/markPriceKlines",
    "/fapi/v1/indexPriceKlines",
    "/futures/data/openInterestHist",
    "/futures/data/globalLongShortAccountRatio",
    "/fapi/v1/premiumIndex",
    "/fapi/v1/ticker/24hr",
    "/fapi/v1/fundingRate",
    "/fapi/v1/fundingInfo",
}
PUBLIC_SOCKETS = {"/ws/v5/public", "/ws/v5/business", "/market/stream", "/public/stream"}
#: The only packages that may make or take connections, and the one module that steers the sandbox it started itself.
NETWORKED = {"feeds", "sandbox"}
NETWORK_LIBRARIES = {"requests", "aiohttp", "websockets", "urllib3", "http", "socket", "cryptofeed", "httpx", "urllib"}


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to connect fails the test, and is counted."""
    attempts = []

    def refuse(*args, **_kwargs):
        attempts.append(args)
        raise AssertionError(f"a connection was attempted: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield attempts
    assert attempts == []


def http(venue):
    client = {Venue.OKX: okx_rest.OkxRest, Venue.BINANCE: binance_rest.BinanceRest}[venue]
    return client(settings_at(venue, "http://127.0.0.1:9"))._http


def feed(venue, problems=None):
    """A feed, made inside a running loop as the stream does."""

    async def make():
        return FEEDS[venue](
            settings_at(venue, "http://127.0.0.1:9"),
            [Instrument("BTC", "USDT", venue)],
            Interval.parse("1m"),
            callbacks={},
            on_problem=(problems if problems is not None else []).append,
            datasets=STREAMED,
        )

    return asyncio.run(make())


def documented_private_calls(real_data):
    """Method and path of every documented endpoint of both venues that is none of ours."""
    calls = set()
    for path in real_data.glob("wire/*/api_examples_*/Endpoints/**/*.txt"):
        method, url, _signed, *_ = path.read_text(encoding="utf-8-sig").splitlines()
        if method.strip() != "GET" or urlsplit(url.strip()).path not in PUBLIC:
            calls.add((method.strip(), urlsplit(url.strip()).path))
    return sorted(calls)


def test_the_paths_are_those_of_the_list():
    assert {path for routes in ROUTES.values() for path in routes} == PUBLIC
    assert {path for kind in FEEDS.values() for path in kind.paths} == PUBLIC_SOCKETS


@pytest.mark.parametrize("venue", list(Venue))
def test_no_documented_private_endpoint_can_be_called(real_data, venue, no_network):
    calls = documented_private_calls(real_data)
    assert len(calls) > 200
    assert ("POST", "/api/v5/trade/order") in calls
    client = http(venue)
    for method, path in calls:
        if method == "GET":
            with pytest.raises(VenueError, match="nothing was sent"):
                client.get(path)
        with pytest.raises(VenueError, match="sends no other"):
            client._transport.session.request(method, client._transport.base + path)
    client.close()


@pytest.mark.parametrize("venue", list(Venue))
@given(path=st.text().map(lambda text: "/" + text) | st.sampled_from(sorted(PUBLIC)).map(lambda p: p + "/../x"))
def test_no_other_path_can_be_called(venue, path):
    client = http(venue)
    with pytest.raises(VenueError, match="nothing was sent"):
        client.get(path)
    client.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_an_allowed_path_can_only_be_read(method, no_network):
    for venue, routes in ROUTES.items():
        client = http(venue)
        for path in routes:
            with pytest.raises(VenueError, match="sends no other"):
                client._transport.session.request(method, client._transport.base + path)
        client.close()


@pytest.mark.parametrize(
    "extra",
    [
        {"headers": {"X-MBX-APIKEY": "k"}},
        {"headers": {"OK-ACCESS-KEY": "k"}},
        {"headers": {"Authorization": "Bearer k"}},
        {"auth": ("user", "password")},
        {"cookies": {"session": "1"}},
        {"data": b"body"},
    ],
    ids=str,
)
def test_a_request_may_name_no_account(extra, no_network):
    client = http(Venue.OKX)
    with pytest.raises(VenueError, match="sends no other"):
        client._transport.session.get(f"{client._transport.base}/api/v5/public/time", **extra)
    client.close()


def test_another_host_is_not_asked(no_network):
    session = PublicSession("http://127.0.0.1:9", okx_rest.ROUTES)
    with pytest.raises(VenueError, match="sends no other"):
        session.get("http://127.0.0.1:10/api/v5/public/time")
    session.close()


FILES = {
    Venue.BINANCE: [
        "/data/futures/um/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-05.zip",
        "/data/futures/um/daily/klines/1000PEPEUSDT/1h/1000PEPEUSDT-1h-2024-05-01.zip.CHECKSUM",
        "/data/futures/um/daily/markPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2024-05-01.zip",
        "/data/futures/um/monthly/indexPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2024-05.zip",
        "/data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2024-05.zip",
        "/data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2024-05-01.zip",
    ],
    Venue.OKX: [
        "/cdn/okex/traderecords/swaprates/daily/20250105/allswap-fundingrates-2025-01-05.zip",
        "/cdn/okex/traderecords/candlesticks/monthly/202408/ETH-USDT-SWAP-candlesticks-2024-08.zip",
    ],
}
ARCHIVED = {Venue.OKX: okx_archive.PATHS, Venue.BINANCE: binance_archive.PATHS}


@pytest.mark.parametrize("venue", list(Venue))
def test_an_archive_asks_for_files_and_nothing_else(venue, real_data, no_network):
    for path in FILES[venue]:
        assert path in ARCHIVED[venue]
        around = (f"{path}/..", f"{path}/../x.zip", f"/..{path}", f"{path}x", f"x{path}", f"/{path}", path[:-4])
        assert [p for p in around if p in ARCHIVED[venue]] == []
    archive = Archive(venue, settings_at(venue, "http://127.0.0.1:9"))
    session = archive._files._files._transport.session
    for method, path in documented_private_calls(real_data):
        assert path not in ARCHIVED[venue]
        with pytest.raises(VenueError, match="sends no other"):
            session.request(method, f"http://127.0.0.1:9{path}")
    for method in ("POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
        with pytest.raises(VenueError, match="sends no other"):
            session.request(method, f"http://127.0.0.1:9{FILES[venue][0]}")
    with pytest.raises(VenueError, match="sends no other"):
        session.get(f"http://127.0.0.1:10{FILES[venue][0]}")
    archive.close()


def test_a_redirect_is_not_followed():
    """Not even to an allowed path."""
    asked = []

    async def handler(request):
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": "/api/v5/market/tickers"})

    with loopback(handler) as url:
        client = okx_rest.OkxRest(settings_at(Venue.OKX, url), Patience(attempts=1))
        with pytest.raises(VenueError, match="HTTP 302"):
            client.server_time_ms()
        client.close()
    assert asked == ["/api/v5/public/time"]


@pytest.mark.parametrize("venue", list(Venue))
@pytest.mark.parametrize("channel", [ORDER_INFO, FILLS, TRANSACTIONS, BALANCES, POSITIONS, "orders", "account"])
def test_no_account_channel_can_be_subscribed(venue, channel):
    with pytest.raises(UnsupportedDataFeed):
        FEEDS[venue].std_channel_to_exchange(channel)
    assert set(FEEDS[venue].websocket_channels) == {CANDLES, FUNDING, *STREAMED}
    assert not feed(venue).requires_authentication


def account_methods(kind):
    """The names of what cryptofeed lets one do over REST or with a key, ours left out."""
    names = {n for n, f in inspect.getmembers(RestExchange, inspect.isfunction) if not n.startswith("__")}
    names |= {n for base in kind.__mro__ if "mixins" in base.__module__ for n in vars(base) if not n.startswith("__")}
    names |= {"_generate_token", "_refresh_token", "_auth", "_get_server_time", "_ws_authentication", "_snapshot"}
    return sorted(n for n in names if callable(getattr(kind, n, None)))


#: Arithmetic and loop helpers of cryptofeed, and `…_sync`, which run their namesakes.
HARMLESS = re.compile(
    r"_(datetime|interval)_normalize|_trade_normalization|_nonce|_generate_signature|_sync_run_.*|.*_sync"
)
PLAUSIBLE = {
    "side": "buy", "order_type": "limit", "amount": 1, "price": 1, "order_id": "1", "method": "POST",
    "endpoint": "/fapi/v1/order", "query_string": "a=1", "start": 1.0, "end": 2.0, "pair": "BTCUSDT",
    "time_in_force": GOOD_TIL_CANCELED,
}  # fmt: skip


@pytest.mark.parametrize("venue", list(Venue))
def test_nothing_that_cryptofeed_can_do_with_an_account_reaches_the_network(venue, no_network):
    """Not even when somebody puts keys into the feed."""
    one = feed(venue)
    one.key_id = one.key_secret = one.key_passphrase = "key"  # noqa: S105 - what must not help
    names = account_methods(type(one))
    assert {"place_order", "cancel_order", "balances", "positions", "_generate_token"} <= set(names)

    async def use(name):
        method = getattr(one, name)
        asked = [
            p
            for p in inspect.signature(method).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD and (p.default is p.empty or p.name in PLAUSIBLE)
        ]
        result = method(**{p.name: PLAUSIBLE.get(p.name, "BTC-USDT-PERP") for p in asked})
        if inspect.isasyncgen(result):
            await anext(result)
        elif inspect.isawaitable(result):
            await result

    for name in names:
        if not HARMLESS.fullmatch(name):
            with pytest.raises((VenueError, NotImplementedError)):
                asyncio.run(use(name))


def test_keys_of_a_cryptofeed_configuration_are_not_read(monkeypatch, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("okx: {key_id: k, key_secret: s}\nbinance_futures: {key_id: k, key_secret: s}\n")
    monkeypatch.setenv("CRYPTOFEED_CONFIG", str(config))
    for venue in Venue:
        assert not feed(venue).key_id
        assert not feed(venue).key_secret


@pytest.mark.parametrize(
    "address",
    [
        "wss://ws.okx.com:8443/ws/v5/private",
        "wss://fstream.binance.com/private/ws/listenkey",
        "wss://fstream.binance.com/ws/listenkey",
        "wss://user:password@ws.okx.com:8443/ws/v5/public",
        "https://ws.okx.com:8443/ws/v5/public",
    ],
)
def test_no_private_socket_can_be_opened(address):
    with pytest.raises(VenueError, match="no public market-data address"):
        PublicSocket("x", address, PUBLIC_SOCKETS, WebsocketEndpoint("/"), {})


@pytest.mark.parametrize(
    "said",
    [
        {"op": "login", "args": []},
        {"op": "order", "args": []},
        {"op": "batch-orders", "args": []},
        {"method": "order.place", "params": {}},
        {"method": "session.logon"},
        {},
    ],
    ids=str,
)
def test_a_socket_says_nothing_but_subscriptions(said):
    socket_ = PublicSocket("x", "ws://127.0.0.1:9/ws/v5/public", PUBLIC_SOCKETS, WebsocketEndpoint("/"), {})
    with pytest.raises(VenueError, match="sends no other"):
        asyncio.run(socket_.write(orjson.dumps(said).decode()))


def test_cryptofeed_leaves_the_process_as_it_was(tmp_path, monkeypatch):
    """No log file, no event-loop policy, no signal handler, no log handler, no connection kept until exit."""
    monkeypatch.chdir(tmp_path)
    before = (
        asyncio.DefaultEventLoopPolicy,
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        list(logging.getLogger("feedhandler").handlers),
    )
    for venue in Venue:
        feed(venue)
    after = (
        type(asyncio.get_event_loop_policy()),
        signal.getsignal(signal.SIGINT),
        signal.getsignal(signal.SIGTERM),
        list(logging.getLogger("feedhandler").handlers),
    )
    assert after == before
    assert list(tmp_path.iterdir()) == []


def sources(root):
    return [(path, ast.parse(path.read_text())) for path in sorted((root / "qlib_crypto").rglob("*.py"))]


def docstrings(tree):
    nodes = [
        n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return {id(n.body[0].value) for n in nodes if n.body and isinstance(n.body[0], ast.Expr)}


def spoken(tree):
    """Every string and every name of the code, without docstrings."""
    told = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def test_the_feeds_never_speak_of_orders_accounts_or_keys(root):
    words = re.compile(
        r"order|account|balance|position|withdraw|transfer|secret|passphrase|api_?key|listen_?key|signature|hmac|"
        r"/private|/trade|leverageBracket",
        re.IGNORECASE,
    )
    #: The headers that are refused, and public statistics and channels that the venues call so.
    allowed = {
        "ok-access-key",
        "x-mbx-apikey",
        "/rubik/stat/contracts/long-short-account-ratio-contract",
        "/globalLongShortAccountRatio",
        "/public/position-tiers",
        "public/position-tiers",
        "liquidation-orders",
        "forceOrder",
    }
    found = [
        (path.name, text)
        for path, tree in sources(root)
        if "feeds" in path.parts
        for text in spoken(tree)
        if words.search(text) and text not in allowed
    ]
    assert found == []


def test_only_get_is_ever_called(root):
    verbs = {"post", "put", "delete", "patch", "request"}
    calls = [
        (path.name, node.func.attr)
        for path, tree in sources(root)
        if "feeds" in path.parts
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in verbs
    ]
    assert calls == []


def test_no_other_package_makes_connections(root):
    """Only feeds talks to venues; the sandbox listens, and its handle asks it on loopback."""
    guilty = set()
    for path, tree in sources(root):
        inside = path.relative_to(root / "qlib_crypto")
        exempt = {inside.parts[0], inside.as_posix()} & NETWORKED
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names = [n for n in names if n != "urllib.parse"]  # it cuts text and makes no connection
            if not exempt and any(n.split(".")[0] in NETWORK_LIBRARIES for n in names):
                guilty.add((inside.as_posix(), *names))
    assert guilty == set()


def test_the_checks_can_fail():
    """The scanners see what they look for."""
    tree = ast.parse('"""order"""\nclass A:\n    """account"""\n    x = "/api/v5/trade/order"\n    y = a.place_order\n')
    assert list(spoken(tree)).count("/api/v5/trade/order") == 1
    assert "place_order" in set(spoken(tree))
    assert not {"order", "account"} & set(spoken(tree))
