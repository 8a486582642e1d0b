"""A contract that lists while the sandbox runs and is delisted later, as each venue shows it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sandbox_support import HOURS, START, Renamed, Socket, get, read

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Instrument

END = START + HOURS * HOUR_MS
LISTED, LEAVES = END - 30 * HOUR_MS, END - 10 * HOUR_MS


def changing(tape, name):
    """The tape with one contract that lists and leaves within its last two days."""
    instrument = Instrument.parse(name)
    specs = dict(tape.specs)
    specs[instrument] = replace(specs[instrument], listed_ms=LISTED, delisted_ms=LEAVES)
    return Renamed(tape, specs)


@pytest.fixture
def okx(okx_tape):
    with running([changing(okx_tape, "ETH_USDT.OKX")], speed=0, rate_scale=float("inf"), awkward=False) as handle:
        yield handle


@pytest.fixture
def binance(binance_tape):
    tape = changing(binance_tape, "SOL_USDT.BINANCE")
    with running([tape], speed=0, rate_scale=float("inf"), awkward=False) as handle:
        yield handle


def okx_row(handle, at_ms):
    handle.set_clock(at=at_ms)
    rows = get(f"{handle.url}/api/v5/public/instruments?instType=SWAP").body["data"]
    return next((row for row in rows if row["instId"] == "ETH-USDT-SWAP"), None)


def test_okx_lists_announces_and_drops(okx):
    assert okx_row(okx, LISTED - DAY_MS - 1) is None
    coming = okx_row(okx, LISTED - DAY_MS)
    assert {key for key, value in coming.items() if value} == {"instId", "instType", "state", "instIdCode"}
    assert coming["state"] == "preopen"
    listed = okx_row(okx, LISTED)
    assert (listed["state"], listed["listTime"]) == ("live", str(LISTED))
    assert listed["expTime"] == str(LEAVES)  # less than a week ahead
    assert okx_row(okx, LEAVES - 1) is not None
    assert okx_row(okx, LEAVES) is None


def test_okx_knows_no_bars_before_the_listing_and_after_the_delisting(okx):
    url = f"{okx.url}/api/v5/market/candles?instId=ETH-USDT-SWAP"
    codes = []
    for at_ms in (LISTED - 1, LISTED, LEAVES - 1, LEAVES):
        okx.set_clock(at=at_ms)
        codes.append(get(url).body["code"])
    assert codes == ["51001", "0", "0", "51001"]


def test_okx_pushes_changes_of_the_list(okx):
    """The list at once; then what is new, announced or gone."""

    async def client():
        async with Socket(okx.url + "/ws/v5/public") as ws:
            await ws.send_json({"op": "subscribe", "args": [{"channel": "instruments", "instType": "SWAP"}]})
            _, everything = await read(ws, 2)
            await asyncio.to_thread(okx.set_clock, speed=36_000, until=LEAVES + HOUR_MS)
            return everything, await read(ws, 2)

    okx.set_clock(at=LISTED - HOUR_MS)
    everything, changes = asyncio.run(client())
    assert {row["instId"] for row in everything["data"]} == {"BTC-USDT-SWAP", "PEPE-USDT-SWAP"}
    assert [(row["instId"], row["state"]) for change in changes for row in change["data"]] == [
        ("ETH-USDT-SWAP", "live"),
        ("ETH-USDT-SWAP", "expired"),
    ]


def symbol_row(handle, at_ms):
    handle.set_clock(at=at_ms)
    rows = get(f"{handle.url}/fapi/v1/exchangeInfo").body["symbols"]
    return next((row for row in rows if row["symbol"] == "SOLUSDT"), None)


def test_binance_lists_announces_settles_and_drops(binance):
    assert symbol_row(binance, LISTED - DAY_MS - 1) is None
    assert symbol_row(binance, LISTED - 1)["status"] == "PENDING_TRADING"
    listed = symbol_row(binance, LISTED)
    assert (listed["status"], listed["onboardDate"], listed["deliveryDate"]) == ("TRADING", LISTED, LEAVES)
    assert symbol_row(binance, LEAVES)["status"] == "SETTLING"
    binance.set_clock(until=LEAVES + 2 * DAY_MS)
    assert symbol_row(binance, LEAVES + DAY_MS) is None


def test_binance_keeps_the_klines_of_a_delisted_symbol(binance):
    binance.set_clock(at=LEAVES)
    assert len(get(f"{binance.url}/fapi/v1/klines?symbol=SOLUSDT&interval=1m").body) == 500
    assert get(f"{binance.url}/fapi/v1/premiumIndex?symbol=SOLUSDT").body["code"] == -1122
