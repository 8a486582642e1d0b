"""Trades, forced orders and books by websocket: everything that the tape has, once, on the right route."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

import aiohttp
import numpy as np
import pytest
from sandbox_support import Socket, silent

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.sandbox.events import EventConfig, EventTape
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Instrument, Interval, Venue

TAPES = {venue: EventTape(EventConfig(venue, hours=8)) for venue in Venue}
START = TAPES[Venue.OKX].span_ms[0]
FROM, TO = START + HOUR_MS, START + HOUR_MS + 30 * MINUTE_MS


def replay(venue, url_path, requests):
    """Every data push of a replay of half an hour at maximum speed."""

    async def main(handle):
        async with Socket(handle.url + url_path) as ws:
            for request in requests:
                await ws.send_json(request)
            out, finished = [], False
            while True:
                try:
                    async with asyncio.timeout(0.3):
                        message = await ws.receive()
                except TimeoutError:
                    if finished:
                        return out
                    finished = (await asyncio.to_thread(handle.status))["finished"]
                    continue
                assert message.type is aiohttp.WSMsgType.TEXT
                out.append(json.loads(message.data))

    with running([TAPES[venue]], speed="max", at=FROM, until=TO, hold_streams=1) as handle:
        return asyncio.run(main(handle))


def okx(channel, **arg):
    arg = {"channel": channel, **(arg or {"instId": "RESIZE-USDT-SWAP"})}
    pushes = replay(Venue.OKX, "/ws/v5/public", [{"op": "subscribe", "args": [arg]}])
    return [push for push in pushes if "data" in push]


def happened(prints):
    mine = (prints.time_ms > FROM) & (prints.time_ms <= TO)
    columns = (prints.time_ms, prints.buys, prints.price, prints.quantity_base)
    return sorted(zip(*(column[mine].tolist() for column in columns), strict=True))


def test_okx_trades_are_the_tape_in_contracts():
    rows = [row for push in okx("trades") for row in push["data"]]
    got = sorted((int(r["ts"]), r["side"] == "buy", float(r["px"]), round(float(r["sz"]) * 0.1, 8)) for r in rows)
    assert got == happened(TAPES[Venue.OKX].trades(Instrument("RESIZE", "USDT", Venue.OKX)))
    assert len({row["tradeId"] for row in rows}) == len(rows) > 50


def test_trades_add_up_to_the_bars():
    for venue, tape in TAPES.items():
        instrument = Instrument("BTC", "USDT", venue)
        bars, trades = tape.bars(instrument, Interval.parse("1m")), tape.trades(instrument)
        minute = trades.time_ms // MINUTE_MS * MINUTE_MS
        for i in range(0, len(bars.open_ms), 17):
            mine = minute == bars.open_ms[i]
            if bars.volume_base[i] == 0:
                assert not mine.any()
                continue
            prices = trades.price[mine]
            assert (prices[0], prices.max(), prices.min(), prices[-1]) == (
                bars.open[i], bars.high[i], bars.low[i], bars.close[i]
            )  # fmt: skip
            assert trades.quantity_base[mine].sum() == pytest.approx(bars.volume_base[i], abs=1e-9)


def test_okx_forced_orders_cover_every_swap_at_once():
    rows = defaultdict(list)
    for push in okx("liquidation-orders", instType="SWAP"):
        assert push["arg"] == {"channel": "liquidation-orders", "instType": "SWAP"}
        for row in push["data"]:
            rows[row["instId"]] += row["details"]
    tape = TAPES[Venue.OKX]
    for instrument in tape.specs:
        if instrument.listing > 1:
            continue
        got = sorted(
            (int(d["ts"]), d["side"] == "buy", float(d["bkPx"]), round(float(d["sz"]) * 0.1, 8))
            for d in rows[instrument.venue_id]
        )
        assert got == happened(tape.liquidations(instrument))
    assert sum(len(details) for details in rows.values()) > 20


def test_a_book_of_five_levels_never_crosses():
    pushes = okx("books5")
    assert len(pushes) >= 25
    times = [int(push["data"][0]["ts"]) for push in pushes]
    assert times == sorted(times)
    check_books([(push["data"][0]["bids"], push["data"][0]["asks"]) for push in pushes], 5)


def check_books(books, depth):
    for bids, asks in books:
        bid, ask = ([float(level[0]) for level in side] for side in (bids, asks))
        assert len(bid) == len(ask) == depth
        assert bid == sorted(bid, reverse=True)
        assert ask == sorted(ask)
        assert bid[0] < ask[0]
        assert all(float(level[1]) > 0 for level in (*bids, *asks))


def binance(*names, route="/market"):
    path = f"{route}/stream?streams={'/'.join(names)}"
    return [push["data"] for push in replay(Venue.BINANCE, path, [])]


def test_binance_trades_and_forced_orders_are_the_tape():
    events = binance("btcusdt@aggTrade", "btcusdt@forceOrder")
    instrument = Instrument("BTC", "USDT", Venue.BINANCE)
    trades = [e for e in events if e["e"] == "aggTrade"]
    got = sorted((e["T"], not e["m"], float(e["p"]), float(e["q"])) for e in trades)
    assert got == happened(TAPES[Venue.BINANCE].trades(instrument))
    orders = [e["o"] for e in events if e["e"] == "forceOrder"]
    got = sorted((o["T"], o["S"] == "BUY", float(o["ap"]), float(o["z"])) for o in orders)
    assert got == happened(TAPES[Venue.BINANCE].liquidations(instrument))
    assert len(trades) > 50
    assert orders


def test_binance_forced_orders_of_all_symbols():
    tape = TAPES[Venue.BINANCE]
    got = {(e["o"]["s"], e["o"]["T"]) for e in binance("!forceOrder@arr")}
    expected = {(i.venue_id, row[0]) for i in tape.specs for row in happened(tape.liquidations(i))}
    assert got == expected


@pytest.mark.parametrize("depth", [5, 20])
def test_binance_books_come_on_the_public_route(depth):
    events = binance(f"btcusdt@depth{depth}@500ms", route="/public")
    assert len(events) >= 25
    assert {event["e"] for event in events} == {"depthUpdate"}
    check_books([(event["b"], event["a"]) for event in events], depth)


@pytest.mark.parametrize(
    ("route", "stream"),
    [("/market", "btcusdt@depth5@500ms"), ("/public", "btcusdt@aggTrade"), ("", "btcusdt@forceOrder")],
)
def test_a_stream_on_the_wrong_route_is_silent(route, stream):
    async def main(handle):
        async with Socket(f"{handle.url}{route}/stream?streams={stream}") as ws:
            return await silent(ws)

    with running([TAPES[Venue.BINANCE]], speed=600, at=FROM) as handle:
        assert asyncio.run(main(handle))


def test_open_frames_are_exactly_so_many_a_bar():
    """Four a bar beside the closing one, none after it, whatever the speed; counted as the server counts them."""
    ids = [i.venue_id for i in TAPES[Venue.OKX].specs if i.base in ("BTC", "ETH", "RESIZE")]
    args = [{"channel": "candle1m", "instId": inst_id} for inst_id in ids]

    async def main(handle):
        async with Socket(handle.url + "/ws/v5/business") as ws:
            await ws.send_json({"op": "subscribe", "args": args})
            rows = []
            async with asyncio.timeout(30):
                while sum(row[8] == "1" for _, row in rows) < 3 * 25:
                    push = json.loads((await ws.receive()).data)
                    rows += [(push["arg"]["instId"], row) for row in push.get("data", ())]
            return rows, await asyncio.to_thread(handle.status)

    with running([TAPES[Venue.OKX]], speed=1200, at=FROM, hold_streams=3, open_frames=4) as handle:
        rows, status = asyncio.run(main(handle))
    seen = defaultdict(list)
    for inst_id, row in rows:
        seen[inst_id, int(row[0])].append(row[8])
    whole = [flags for flags in seen.values() if flags[-1] == "1"]
    assert len(whole) >= 3 * 25
    assert whole == [["0"] * 4 + ["1"]] * len(whole)
    assert status["bars_sent"] >= len(whole)
    assert status["frames_sent"] >= 5 * len(whole)
    assert status["frames"]["okx"] == status["frames_sent"]
    assert np.diff(sorted(at for inst_id, at in seen if inst_id == ids[0])).max() == MINUTE_MS
