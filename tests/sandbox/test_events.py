"""The event tape: what happens on it, as each venue shows it on the wire."""

from __future__ import annotations

import asyncio
import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sandbox_support import Socket, get

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.sandbox.events import FUNDING, QUIET, EventConfig, EventTape
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Instrument, Interval, Venue

M1 = Interval.parse("1m")
OKX, BINANCE = (EventTape(EventConfig(venue)) for venue in Venue)
HAPPENS = OKX.happens


def of(tape, base, listing=1):
    return Instrument(base, "USDT", tape.venue, listing)


@pytest.fixture(scope="module")
def handle():
    tapes = [OKX, BINANCE]
    with running(tapes, speed=0, at=OKX.span_ms[0], rate_scale=float("inf"), awkward=False) as running_one:
        yield running_one


@settings(max_examples=25, deadline=None)
@given(
    hours=st.integers(4, 80),
    venue=st.sampled_from(list(Venue)),
    seed=st.integers(0, 99),
    funding=st.sampled_from([1, 2, 4, 8]),
)
def test_every_bar_is_possible_and_every_missing_one_has_a_reason(hours, venue, seed, funding):
    config = EventConfig(venue, hours=hours, seed=seed, funding_hours=funding)
    tape, happens = EventTape(config), config.happens
    for i, (instrument, spec) in enumerate(tape.specs.items()):
        bars = tape.bars(instrument, M1)
        assert (bars.low <= np.minimum(bars.open, bars.close)).all()
        assert (bars.high >= np.maximum(bars.open, bars.close)).all()
        assert (bars.low > 0).all()
        minutes = np.arange(config.start_ms, config.end_ms, MINUTE_MS)
        live = (minutes >= spec.listed_ms) & (minutes + MINUTE_MS <= (spec.delisted_ms or config.end_ms))
        down = (minutes >= happens.outage[0]) & (minutes < happens.outage[1])
        quiet = (minutes >= happens.quiet[0]) & (minutes < happens.quiet[1]) & (i == QUIET)
        assert np.array_equal(bars.open_ms, minutes[live & ~down & ~quiet])
        settled = tape.settlements(instrument)
        late = settled.time_ms % HOUR_MS
        assert late.max(initial=0) <= (17 if venue is Venue.BINANCE else 0)
        steps = set((np.diff(settled.time_ms - late) // HOUR_MS).tolist())
        assert steps <= ({funding, config.later_hours} if i == FUNDING else {funding})


def test_it_is_small_and_travels_as_its_configuration():
    raw = pickle.dumps(OKX)
    again = pickle.loads(raw)  # noqa: S301 - our own bytes
    assert len(raw) < 1_000
    for instrument in OKX.specs:
        ours, theirs = OKX.bars(instrument, M1), again.bars(instrument, M1)
        assert np.array_equal(ours.close, theirs.close)
        assert np.array_equal(ours.volume_base, theirs.volume_base)


def test_without_events_everybody_only_trades():
    tape = EventTape(EventConfig(Venue.OKX, hours=1, n_symbols=40, events=False))
    assert {len(tape.bars(i, M1).open_ms) for i in tape.specs} == {60}
    assert len(tape.specs) == 40
    assert tape.outages == ()


@pytest.mark.parametrize(
    "wrong", [{"hours": 3}, {"n_symbols": 7}, {"n_symbols": 1_001}, {"start_ms": 1}, {"funding_hours": 3}]
)
def test_what_cannot_be_made_is_refused(wrong):
    with pytest.raises(ConfigError, match="event tape"):
        EventConfig(Venue.OKX, **wrong)


def okx_instruments(handle, at):
    handle.set_clock(at=at)
    rows = get(f"{handle.url}/api/v5/public/instruments?instType=SWAP").body["data"]
    return {row["instId"]: row for row in rows if row["state"] == "live"}


def binance_symbols(handle, at):
    handle.set_clock(at=at)
    rows = get(f"{handle.url}/fapi/v1/exchangeInfo").body["symbols"]
    return {row["symbol"]: row for row in rows if row["status"] == "TRADING"}


def test_a_listing_and_a_delisting(handle):
    for at, there in ((HAPPENS.lists - 1, False), (HAPPENS.lists, True)):
        assert ("NEWCO-USDT-SWAP" in okx_instruments(handle, at)) is there
        assert ("NEWCOUSDT" in binance_symbols(handle, at)) is there
    for at, there in ((HAPPENS.leaves - 1, True), (HAPPENS.leaves, False)):
        assert ("GONE-USDT-SWAP" in okx_instruments(handle, at)) is there
        assert ("GONEUSDT" in binance_symbols(handle, at)) is there


def test_a_reused_ticker_is_another_contract_with_another_list_time(handle):
    first = okx_instruments(handle, HAPPENS.reuse_leaves - 1)["LUNA-USDT-SWAP"]
    assert "LUNA-USDT-SWAP" not in okx_instruments(handle, HAPPENS.reuse_leaves)
    second = okx_instruments(handle, HAPPENS.reuse_lists)["LUNA-USDT-SWAP"]
    assert int(second["listTime"]) == HAPPENS.reuse_lists > int(first["listTime"])
    assert second["expTime"] == ""
    assert binance_symbols(handle, HAPPENS.reuse_lists)["LUNAUSDT"]["onboardDate"] == HAPPENS.reuse_lists
    handle.set_clock(at=HAPPENS.reuse_lists + 30 * MINUTE_MS)
    page = get(f"{handle.url}/api/v5/market/candles?instId=LUNA-USDT-SWAP&limit=300").body["data"]
    assert min(int(row[0]) for row in page) == HAPPENS.reuse_lists
    bars = BINANCE.bars(of(BINANCE, "LUNA", 2), M1)
    rows = get(f"{handle.url}/fapi/v1/klines?symbol=LUNAUSDT&interval=1m").body
    assert [float(row[4]) for row in rows] == bars.close[:30].tolist()


def test_a_changed_contract_value_counts_old_bars_in_old_contracts(handle):
    change = HAPPENS.contract_changes
    values = [okx_instruments(handle, at)["RESIZE-USDT-SWAP"]["ctVal"] for at in (change - 1, change)]
    assert values == ["0.1", "0.01"]
    handle.set_clock(at=change + 60 * MINUTE_MS)
    page = get(f"{handle.url}/api/v5/market/history-candles?instId=RESIZE-USDT-SWAP&limit=120").body["data"]
    sizes = {
        int(row[0]) >= change: round(float(row[6]) / float(row[5]), 9)
        for row in page
        if row[8] == "1" and float(row[5])
    }
    assert sizes == {False: 0.1, True: 0.01}
    filters = [
        {f["filterType"]: f for f in binance_symbols(handle, at)["RESIZEUSDT"]["filters"]}
        for at in (change - 1, change)
    ]
    assert [f["LOT_SIZE"]["stepSize"] for f in filters] == ["0.1", "0.01"]
    assert [f["PRICE_FILTER"]["tickSize"] for f in filters] == ["0.01", "0.001"]


def test_a_changed_funding_interval_is_told_before_it_is_paid(handle):
    change = HAPPENS.interval_changes
    seen = []
    for at in (change - 1, change):
        handle.set_clock(at=at)
        row = get(f"{handle.url}/api/v5/public/funding-rate?instId=SOON-USDT-SWAP").body["data"][0]
        info = {r["symbol"]: r["fundingIntervalHours"] for r in get(f"{handle.url}/fapi/v1/fundingInfo").body}
        seen.append((int(row["nextFundingTime"]) - int(row["fundingTime"]), info.get("SOONUSDT")))
    assert seen == [(8 * HOUR_MS, None), (4 * HOUR_MS, 4)]
    handle.set_clock(at=OKX.span_ms[1])
    rows = get(f"{handle.url}/api/v5/public/funding-rate-history?instId=SOON-USDT-SWAP").body["data"]
    times = [int(row["fundingTime"]) for row in rows]
    assert times == OKX.settlements(of(OKX, "SOON")).time_ms[::-1][: len(times)].tolist()
    assert {a - b for a, b in pairwise(times)} == {4 * HOUR_MS, 8 * HOUR_MS}


def test_the_change_of_a_contract_is_pushed(handle):
    """The channel `instruments` tells the contract value within a market minute."""

    async def main(box):
        async with Socket(box.url + "/ws/v5/public") as ws:
            await ws.send_json({"op": "subscribe", "args": [{"channel": "instruments", "instType": "SWAP"}]})
            values = []
            async with asyncio.timeout(20):
                while "0.01" not in values:
                    push = json.loads((await ws.receive()).data)
                    rows = [row for row in push.get("data", ()) if row["instId"] == "RESIZE-USDT-SWAP"]
                    values += [row["ctVal"] for row in rows]
            return values

    at = HAPPENS.contract_changes - 10 * MINUTE_MS
    with running([OKX], speed=600, at=at, awkward=False) as box:
        assert asyncio.run(main(box)) == ["0.1", "0.01"]
