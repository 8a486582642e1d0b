"""The HTTP core against a scripted venue: what is tried again, what is not, and what the message says."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import orjson
import pytest
import requests
import urllib3
from aiohttp import web
from support_feeds import loopback, settings_at

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.binance_rest import BinanceRest
from qlib_crypto.feeds.okx_rest import OkxRest
from qlib_crypto.feeds.transport import Patience, cause_of
from qlib_crypto.settings import OkxSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

QUICK = Patience(attempts=4, first_wait_s=0.01, longest_wait_s=0.02, jitter_s=0.01, longest_pause_s=5.0, read_s=0.5)
OKX_TIME = {"code": "0", "msg": "", "data": [{"ts": "1597026383085"}]}
BINANCE_TIME = {"serverTime": 1499827319559}
M1 = Interval.parse("1m")
HTTPS = urllib3.connection.HTTPSConnection("www.okx.com")


def okx_error(code, msg="trouble"):
    return {"code": str(code), "msg": msg, "data": []}


class Script:
    """Answers in order, the last one for ever; a bytes answer is sent as it is."""

    def __init__(self, *answers):
        self.answers, self.requests, self.at = answers, [], []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        self.at.append(time.monotonic())
        status, body, headers = answer if isinstance(answer, tuple) else (200, answer, {})
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return web.Response(status=status, body=data, headers=headers, content_type="application/json")


def clients(url, patience=QUICK):
    return {
        Venue.OKX: OkxRest(settings_at(Venue.OKX, url), patience),
        Venue.BINANCE: BinanceRest(settings_at(Venue.BINANCE, url), patience),
    }


def failure(script, venue=Venue.OKX, call=lambda client: client.server_time_ms(), patience=QUICK):
    """The error of a call, one line, against a script."""
    with loopback(script) as url:
        client = clients(url, patience)[venue]
        with pytest.raises(VenueError) as caught:
            call(client)
        client.close()
    assert "\n" not in str(caught.value)
    return caught.value


def success(script, venue=Venue.OKX, patience=QUICK):
    with loopback(script) as url:
        client = clients(url, patience)[venue]
        answer = client.server_time_ms()
        client.close()
    return answer


@pytest.mark.parametrize(
    "first",
    [
        (500, b"<html>oops</html>", {}),
        (502, b"", {}),
        (503, b"Service Unavailable", {}),
        (504, {"code": "1", "msg": "x"}, {}),
        (503, okx_error(50001), {}),
        (400, okx_error(50004), {}),
        (429, okx_error(50013), {"Retry-After": "0"}),
        (500, okx_error(50026), {}),
        (200, b'{"code":"0","msg":"","data":[{"ts":"15970', {}),
        (200, b"", {}),
    ],
    ids=str,
)
def test_trouble_that_passes_is_tried_again(first):
    script = Script(first, first, OKX_TIME)
    assert success(script) == 1597026383085
    assert len(script.requests) == 3


@pytest.mark.parametrize("status", [200, 429])
def test_okx_rate_limit_is_waited_for_also_under_http_200(status):
    script = Script((status, okx_error(50011, "Too Many Requests"), {}), OKX_TIME)
    assert success(script) == 1597026383085
    assert script.at[1] - script.at[0] >= 2.0  # OKX's window; it sends no Retry-After


def test_retry_after_is_obeyed():
    script = Script((429, {"code": -1003, "msg": "Too many requests."}, {"Retry-After": "1"}), BINANCE_TIME)
    assert success(script, Venue.BINANCE) == 1499827319559
    assert script.at[1] - script.at[0] >= 1.0


def test_a_ban_is_an_error_at_once_and_the_venue_is_left_alone():
    script = Script((418, {"code": -1003, "msg": "Way too many requests; IP banned"}, {"Retry-After": "3600"}))
    with loopback(script) as url:
        client = clients(url)[Venue.BINANCE]
        with pytest.raises(VenueError, match=r"binance GET /fapi/v1/time: HTTP 418.*IP banned.*3600 s") as caught:
            client.server_time_ms()
        assert caught.value.retryable
        assert caught.value.retry_after_s == 3600
        with pytest.raises(VenueError, match="pause") as again:
            client.tickers()
        assert again.value.retry_after_s > 3590
        client.close()
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("venue", "answer", "words"),
    [
        (Venue.OKX, (200, okx_error(51001, "Instrument ID doesn't exist"), {}), "51001 Instrument ID doesn't exist"),
        (Venue.OKX, (400, okx_error(51000, "Parameter bar error"), {}), "51000"),
        (Venue.OKX, (410, okx_error(50005, "API is offline"), {}), "50005"),
        (Venue.OKX, (403, b"<html>forbidden</html>", {}), "geo-block"),
        (Venue.OKX, (451, b"", {}), "geo-block"),
        (Venue.OKX, (404, b"not found", {}), "HTTP 404"),
        (Venue.OKX, (200, {"hello": "portal"}, {}), "without a code"),
        (Venue.OKX, (302, b"", {"Location": "https://example.com/login"}), "HTTP 302"),
        (Venue.BINANCE, (400, {"code": -1121, "msg": "Invalid symbol."}, {}), "-1121 Invalid symbol"),
        (Venue.BINANCE, (404, {"a": 1}, {}), "HTTP 404"),
        (Venue.BINANCE, (451, {"code": 0, "msg": "Service unavailable from a restricted location"}, {}), "geo-block"),
    ],
    ids=str,
)
def test_a_refusal_that_stays_is_not_tried_again(venue, answer, words):
    script = Script(answer)
    error = failure(script, venue)
    assert words in str(error)
    assert str(error).startswith(f"{venue} GET /")
    assert not error.retryable
    assert len(script.requests) == 1


def test_a_message_names_the_path_and_the_values():
    eth = Instrument("ETH", "USDT", Venue.OKX)
    error = failure(
        Script(OKX_TIME, (200, okx_error(51001), {})), call=lambda client: list(client.bars(eth, M1, 0, 6_000_000))
    )
    assert "GET /api/v5/market/history-candles instId=ETH-USDT-SWAP bar=1m after=6000000 limit=100" in str(error)


def test_attempts_are_bounded_and_the_last_error_says_that_waiting_helps():
    script = Script((503, b"down for maintenance", {}))
    error = failure(script)
    assert len(script.requests) == QUICK.attempts
    assert error.retryable
    assert "down for maintenance" in str(error)
    assert "try again later" in str(error)


def test_a_long_body_is_not_quoted_whole():
    assert len(str(failure(Script((404, b"<p>\n" * 10_000, {}))))) < 400


def test_an_answer_cut_in_the_middle_is_tried_again():
    raw = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"code":"0"'
    with socket.create_server(("127.0.0.1", 0)) as server:
        served = serve_raw(server, [raw] * QUICK.attempts)
        client = OkxRest(settings_at(Venue.OKX, f"http://127.0.0.1:{server.getsockname()[1]}"), QUICK)
        with pytest.raises(VenueError, match="no answer") as caught:
            client.server_time_ms()
        client.close()
        served.join(10)
    assert caught.value.retryable


def test_an_answer_that_drips_for_ever_is_given_up():
    async def drip(request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.02)
        except ConnectionError:
            return response

    patience = Patience(attempts=2, first_wait_s=0.01, longest_wait_s=0.01, jitter_s=0.0, answer_s=0.3)
    error = failure(drip, patience=patience)
    assert "not complete after 0.3 s" in str(error)
    assert error.retryable


def test_a_venue_that_accepts_and_is_silent_times_out():
    with socket.create_server(("127.0.0.1", 0)) as server:
        patience = Patience(attempts=2, first_wait_s=0.01, longest_wait_s=0.01, jitter_s=0.0, read_s=0.1)
        client = OkxRest(settings_at(Venue.OKX, f"http://127.0.0.1:{server.getsockname()[1]}"), patience)
        with pytest.raises(VenueError, match=r"no answer from .*Read timed out") as caught:
            client.server_time_ms()
        client.close()
    assert caught.value.retryable


def test_a_sandbox_that_is_gone_is_said_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    client = OkxRest(settings_at(Venue.OKX, f"http://127.0.0.1:{port}"))  # with a user's patience
    with pytest.raises(VenueError, match=rf"127.0.0.1:{port} refused; is the sandbox running") as caught:
        client.server_time_ms()
    client.close()
    assert "\n" not in str(caught.value)


def test_an_unknown_host_names_the_network(monkeypatch):
    def nowhere(*_args, **_kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    client = OkxRest(OkxSettings(rest_url="http://okx.invalid"), QUICK)
    with pytest.raises(VenueError, match="check the network") as caught:
        client.server_time_ms()
    client.close()
    assert caught.value.retryable


def test_proxies_of_the_environment_do_not_come_between_us_and_loopback(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert success(Script(OKX_TIME)) == 1597026383085


def test_nobody_is_named(monkeypatch, tmp_path):
    """No cookie is kept, no .netrc is read."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    script = Script((200, OKX_TIME, {"Set-Cookie": "id=1; Path=/"}))
    with loopback(script) as url:
        client = clients(url)[Venue.OKX]
        client.server_time_ms()
        client.server_time_ms()
        client.close()
    sent = {name.lower() for request in script.requests for name in request.headers}
    assert len(script.requests) == 2
    assert sent <= {"host", "user-agent", "accept", "accept-encoding", "connection"}


def test_binance_is_left_alone_for_the_minute_when_others_used_the_limit(monkeypatch):
    """The header counts everybody at our address; ours is the first request."""
    monkeypatch.setattr("qlib_crypto.feeds.rest._to_next_minute_s", lambda: 0.7)
    script = Script((200, BINANCE_TIME, {"X-MBX-USED-WEIGHT-1M": "2399"}))
    with loopback(script) as url:
        client = clients(url)[Venue.BINANCE]
        client.server_time_ms()
        client.server_time_ms()
        client.close()
    assert script.at[1] - script.at[0] >= 0.7


def test_a_closed_client_says_so():
    with loopback(Script(OKX_TIME)) as url:
        client = clients(url)[Venue.OKX]
        client.close()
        with pytest.raises(VenueError, match="closed"):
            client.server_time_ms()


def serve_raw(server, answers):
    """A thread that answers each connection with raw bytes and closes it."""

    def work():
        for answer in answers:
            conn, _ = server.accept()
            with conn:
                conn.recv(65_536)
                conn.sendall(answer)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_each_retry_is_one_line_that_counts(caplog):
    with caplog.at_level("WARNING"):
        success(Script((500, b"oops", {}), (500, b"oops", {}), OKX_TIME))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2, lines
    for number, line in enumerate(lines, start=1):
        assert line.startswith("okx GET /api/v5/public/time: HTTP 500, ")
        assert f"(attempt {number} of 4, next in about " in line
        assert "\n" not in line


def test_the_last_attempt_is_not_called_a_retry(caplog):
    with caplog.at_level("WARNING"):
        failure(Script((500, b"oops", {})))
    counts = [record.getMessage().rsplit("(attempt ", 1)[1][:6] for record in caplog.records]
    assert counts == ["1 of 4", "2 of 4", "3 of 4"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            requests.ConnectionError(
                urllib3.exceptions.MaxRetryError(
                    None, "/api/v5/public/time",
                    urllib3.exceptions.NameResolutionError("www.okx.com", HTTPS, OSError(-2, "Not known")),
                )
            ),
            "Failed to resolve 'www.okx.com' ([Errno -2] Not known)",
        ),
        (
            requests.ConnectionError(
                urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionResetError(104, "Connection reset"))
            ),
            "[Errno 104] Connection reset",
        ),
        (requests.Timeout("the answer was not complete after 60 s"), "the answer was not complete after 60 s"),
        (requests.ConnectionError(), "ConnectionError"),
    ],
)  # fmt: skip
def test_a_network_failure_names_its_cause_and_not_the_wrapping(error, text):
    assert cause_of(error) == text
