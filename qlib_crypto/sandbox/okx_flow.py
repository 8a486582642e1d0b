"""OKX's channels of what happens: trades, forced orders, books of five levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson

from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.hub import Stream
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.streams import FlowStream, RowStream
from qlib_crypto.sandbox.tape import HasFlow, Prints
from qlib_crypto.sandbox.text import frame, plain
from qlib_crypto.sandbox.wire import Event

BOOK_LEVELS = 5
#: `books5` is pushed every 100 ms on change; here once a market second.
BOOK_EVERY_MS = 1_000
_DECIMALS = 8

Arg = Mapping[str, Any]


def trades(market: Market, arg: Arg, spec: InstrumentSpec) -> Stream | None:
    """`trades`, aggregated by match, sizes in contracts; None where the tape has none."""
    tape, inst_id = market.tape, spec.instrument.venue_id
    if not isinstance(tape, HasFlow):
        return None
    known, head = tape.trades(spec.instrument), _head(arg["channel"], inst_id)
    sizes = _contracts(market, spec, known)

    def push(since_ms: int, to_ms: int) -> list[Event]:
        out = []
        for i in _between(known, since_ms, to_ms):
            row = {
                "instId": inst_id,
                "tradeId": str(known.trade_id[i]),
                "px": plain(known.price[i]),
                "sz": plain(sizes[i]),
                "side": "buy" if known.buys[i] else "sell",
                "ts": str(known.time_ms[i]),
                "count": "1",
            }
            out.append(Event(int(known.time_ms[i]), frame(head + orjson.dumps(row) + b"]}")))
        return out

    return FlowStream(push)


def liquidations(market: Market, arg: Arg) -> Stream | None:
    """`liquidation-orders` of every swap at once, not in time order, sizes in contracts; None where there are none."""
    tape = market.tape
    if not isinstance(tape, HasFlow):
        return None
    head = b'{"arg":' + orjson.dumps(arg) + b',"data":'
    known = {i: tape.liquidations(i) for i in sorted(tape.specs)}
    sizes = {i: _contracts(market, tape.specs[i], prints) for i, prints in known.items()}

    def push(since_ms: int, to_ms: int) -> list[Event]:
        rows = []
        for instrument, prints in known.items():
            details = [
                {
                    "side": "buy" if prints.buys[i] else "sell",
                    "posSide": "short" if prints.buys[i] else "long",
                    "bkPx": plain(prints.price[i]),
                    "sz": plain(sizes[instrument][i]),
                    "bkLoss": "0",
                    "ccy": "",
                    "ts": str(prints.time_ms[i]),
                }
                for i in _between(prints, since_ms, to_ms)
            ]
            family = f"{instrument.base}-{instrument.quote}"
            names = {"instId": instrument.venue_id, "instFamily": family, "instType": "SWAP", "uly": family}
            rows += [{**names, "details": details}] if details else []
        return [Event(to_ms, frame(head + orjson.dumps(rows) + b"}"))] if rows else []

    return FlowStream(push)


def books5(market: Market, arg: Arg, spec: InstrumentSpec) -> Stream | None:
    """`books5`: the five best levels as `[price, contracts, "0", orders]`; None where the tape has no book."""
    tape, inst_id = market.tape, spec.instrument.venue_id
    if not isinstance(tape, HasFlow):
        return None
    flow: HasFlow = tape
    head = _head(arg["channel"], inst_id)

    def push(at_ms: int) -> bytes | None:
        book = flow.book(spec.instrument, at_ms, BOOK_LEVELS)
        if book is None:
            return None
        size = float(market.contracts(spec.instrument, np.array([at_ms]))[0])
        bids, asks = (
            [[plain(price), plain(round(base / size, _DECIMALS)), "0", "1"] for price, base in side] for side in book
        )
        row = {"asks": asks, "bids": bids, "instId": inst_id, "ts": str(at_ms), "seqId": at_ms}
        return frame(head + orjson.dumps(row) + b"]}")

    return RowStream(push, lambda _: BOOK_EVERY_MS)


#: Channels of `/public` that are of one instrument.
CHANNELS: dict[str, Callable[[Market, Arg, InstrumentSpec], Stream | None]] = {"trades": trades, "books5": books5}


def _head(channel: str, inst_id: str) -> bytes:
    return b'{"arg":' + orjson.dumps({"channel": channel, "instId": inst_id}) + b',"data":['


def _contracts(market: Market, spec: InstrumentSpec, prints: Prints) -> Any:
    return np.round(prints.quantity_base / market.contracts(spec.instrument, prints.time_ms), _DECIMALS)


def _between(prints: Prints, since_ms: int, to_ms: int) -> range:
    """Indices of what happened in (`since_ms`, `to_ms`]."""
    return range(*(int(i) for i in np.searchsorted(prints.time_ms, [since_ms, to_ms], side="right")))
