"""Every fault of REST requests by a plain HTTP client, and that no body of a request is ever answered with 500."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sandbox_support import HOURS, START, get

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.sandbox.faults import KINDS
from qlib_crypto.sandbox.serve import running

END = START + HOURS * HOUR_MS
OKX_PAGE = "/api/v5/market/history-candles?instId=BTC-USDT-SWAP&limit=100"
BINANCE_PAGE = "/fapi/v1/klines?symbol=BTCUSDT&interval=1m&limit=99"


@pytest.fixture(scope="module")
def handle(okx_tape, binance_tape):
    with running([okx_tape, binance_tape], speed=0, at=END, rate_scale=float("inf")) as running_one:
        yield running_one


def statuses(handle, path, n):
    return [get(handle.url + path).status for _ in range(n)]


@pytest.fixture(scope="module")
def calm(okx_tape, binance_tape):
    """One that nobody arms."""
    with running([okx_tape, binance_tape], speed=0, at=END, rate_scale=float("inf")) as running_one:
        yield running_one


@pytest.fixture(scope="module")
def spare(okx_tape, binance_tape):
    """One that may be left with any fault."""
    with running([okx_tape, binance_tape], speed=0, at=END, rate_scale=float("inf")) as running_one:
        yield running_one


@pytest.fixture(params=["okx", "binance"])
def page(request):
    """A page of a venue: its name, its path, and the rows of an answer."""
    if request.param == "okx":
        return "okx", OKX_PAGE, lambda answer: answer.body["data"]
    return "binance", BINANCE_PAGE, lambda answer: answer.body


@pytest.mark.parametrize(("given_s", "header"), [(7, "7"), (None, None)])
def test_rate_limit_with_and_without_retry_after(handle, page, given_s, header):
    venue, path, _ = page
    handle.fault("rate_limit", venue=venue, count=2, retry_after=given_s)
    answers = [get(handle.url + path) for _ in range(3)]
    limited = [a for a in answers if a.status == 429]
    assert [a.headers.get("Retry-After") for a in limited] == [header] * len(limited)
    assert len(limited) == (1 if venue == "okx" else 2)
    code = {"okx": "50011", "binance": -1003}[venue]
    assert [a.body["code"] for a in answers[:2]] == [code] * 2
    assert answers[2].status == 200


def test_a_ban_lasts_and_ends_but_the_time_is_told(handle, page):
    venue, path, _ = page
    handle.fault("ban", venue=venue, seconds=0.6)
    banned = get(handle.url + path)
    assert banned.status == {"okx": 429, "binance": 418}[venue]
    assert banned.headers["Retry-After"] == "1"
    assert get(handle.url + {"okx": "/api/v5/public/time", "binance": "/fapi/v1/time"}[venue]).status == 200
    other = {"okx": BINANCE_PAGE, "binance": OKX_PAGE}[venue]
    assert get(handle.url + other).status == 200
    time.sleep(0.7)
    assert get(handle.url + path).status == 200


def test_errors_take_turns_some_as_html(okx_tape, binance_tape):
    with running([okx_tape, binance_tape], speed=0, at=END, rate_scale=float("inf")) as fresh:
        fresh.fault("error", count=4)
        assert statuses(fresh, OKX_PAGE, 5) == [500, 502, 503, 504, 200]
        assert statuses(fresh, BINANCE_PAGE, 5) == [503, 502, 500, 504, 200]
        fresh.fault("error", count=2)
        answers = [get(fresh.url + OKX_PAGE) for _ in range(2)]
        assert answers[0].body["code"] == "50026"
        assert answers[1].body.startswith("<html>")


def test_okx_says_errors_under_200(handle):
    handle.fault("okx_200", count=5)
    answers = [get(handle.url + OKX_PAGE) for _ in range(6)]
    assert {answer.status for answer in answers} == {200}
    codes = [answer.body["code"] for answer in answers]
    assert sorted(codes) == ["0", "50001", "50011", "50013", "50026", "50040"]
    assert codes[-1] == "0"
    assert all(answer.body["data"] == [] for answer in answers[:-1])
    assert get(handle.url + BINANCE_PAGE).status == 200


def test_an_empty_page_and_a_short_page(handle, page):
    venue, path, rows = page
    whole = rows(get(handle.url + path))
    handle.fault("empty_page", venue=venue, count=2)
    handle.fault("short_page", venue=venue)
    # a request without rows uses nothing up
    assert rows(get(handle.url + path + {"okx": "&after=1", "binance": "&endTime=1"}[venue])) == []
    assert [len(rows(get(handle.url + path))) for _ in range(2)] == [0, 0]
    assert rows(get(handle.url + path)) == whole[: len(whole) // 2]
    assert rows(get(handle.url + path)) == whole


def test_a_slow_page_drips_and_is_whole(handle, page):
    venue, path, rows = page
    whole = rows(get(handle.url + path))
    handle.fault("slow_page", venue=venue, seconds=0.5)
    began = time.monotonic()
    assert rows(get(handle.url + path)) == whole
    assert time.monotonic() - began >= 0.4
    assert get(handle.url + "/sandbox/faults").body["armed"][venue] == {}


def test_faults_are_listed_with_their_parameters(handle):
    listed = get(handle.url + "/sandbox/faults").body
    assert set(listed["kinds"]) == set(KINDS)
    assert listed["kinds"]["slow_page"]["parameters"] == {"count": 1, "seconds": 5}
    handle.fault("revise", venue="okx", count=3)
    handle.fault("silence", venue="binance", seconds=60)
    armed = get(handle.url + "/sandbox/faults").body["armed"]
    assert armed["okx"]["revise"] == {"count": 3}
    assert armed["binance"]["silence"] == {"market_seconds": 60.0}


def post(url, raw):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data=raw), timeout=20) as reply:  # noqa: S310 - our own address
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "error", "count": "nan"},
        {"kind": "error", "count": "1e999"},
        {"kind": "error", "count": 1.5},
        {"kind": "error", "count": 0},
        {"kind": "error", "count": True},
        {"kind": "error", "count": [1]},
        {"kind": "error", "count": 10**400},
        {"kind": "drop", "code": 999},
        {"kind": "drop", "code": 1005},
        {"kind": "drop", "code": 70000},
        {"kind": "silence", "seconds": -1},
        {"kind": "silence", "count": 1},
        {"kind": "okx_200", "venue": "binance"},
        {"kind": "error", "venue": "kraken"},
        {"kind": "error", "venue": 7},
        {"kind": ["error"]},
        {"kind": "explode"},
        {},
        [],
        None,
        "text",
    ],
)
def test_a_wrong_fault_is_a_400_with_one_line(handle, body):
    status, answer = post(handle.url + "/sandbox/fault", json.dumps(body).encode())
    assert status == 400
    assert len(answer["error"].splitlines()) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"speed": "fast"}, {"speed": [1]}, {"speed": -1}, {"speed": True}, {"speed": "nan"}, {"at": True},
        {"at": 1.5}, {"at": 10**30}, {"at": -1}, {"at": "soon"}, {"at": {}}, {"until": "x"}, {"until": 10**18},
        {"pace": 1},
    ],
)  # fmt: skip
def test_a_wrong_clock_is_a_400_and_changes_nothing(handle, body):
    before = handle.status()["market_ms"]
    status, answer = post(handle.url + "/sandbox/clock", json.dumps(body).encode())
    assert status == 400
    assert len(answer["error"].splitlines()) == 1
    assert handle.status()["market_ms"] == before


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"kind": NaN}', b'{"kind":"\\ud800"}'])
def test_a_body_that_is_no_json_is_a_400(handle, raw):
    for path in ("/sandbox/fault", "/sandbox/clock"):
        assert post(handle.url + path, raw)[0] == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from([*KINDS, "?"]), key=st.sampled_from(["count", "seconds", "code", "venue", "x"]), value=JSON)
def test_no_body_is_ever_a_500(spare, kind, key, value):
    status, _ = post(spare.url + "/sandbox/fault", json.dumps({"kind": kind, key: value}).encode())
    assert status in (200, 400)


@pytest.mark.parametrize(
    "path",
    [
        OKX_PAGE + "&after=" + "9" * 30,
        OKX_PAGE + "&before=-" + "9" * 30,
        "/api/v5/public/funding-rate-history?instId=BTC-USDT-SWAP&before=" + "9" * 19,
        "/api/v5/market/candles?instId=BTC-USDT-SWAP&limit=" + "9" * 30,
        "/api/v5/market/candles?instId=%FF%FE&after=%E0",
        "/api/v5/market/candles?instId=BTC-USDT-SWAP&after=%D9%A1",
        BINANCE_PAGE + "&startTime=" + "9" * 20,
        BINANCE_PAGE + "&endTime=" + "9" * 30,
        "/fapi/v1/klines?symbol=%FF&interval=1m",
        "/fapi/v1/fundingRate?symbol=BTCUSDT&startTime=" + "9" * 19,
    ],
)
def test_numbers_beyond_all_times_are_no_500(calm, path):
    assert get(calm.url + path).status in (200, 400)
