"""Binance's streams of what happens: aggregate trades, forced orders, partial books; and which route serves what."""

from __future__ import annotations

import re
from collections.abc import Callable
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

#: Streams that only `/public` (and addresses without a route) delivers; all others only `/market` does.
_PUBLIC = re.compile(r"(.+@)?(depth.*|rpiDepth.*|bookTicker|trade)$|!bookTicker$")
_DEPTH = re.compile(r"depth(5|10|20)(@(100|250|500)ms)?$")
#: A partial book comes every 100, 250 or 500 ms; here once a market second.
_BOOK_EVERY_MS = 1_000

Wrap = tuple[str, str]


def on_public(name: str) -> bool:
    """True for a stream of books, which the route `/public` serves."""
    return _PUBLIC.match(name) is not None


def flow_stream(market: Market, spec: InstrumentSpec, kind: str, wrap: Wrap) -> Stream | None:
    """The stream `<symbol>@<kind>`; None for an unknown one, and where the tape has none of it."""
    tape = market.tape
    if not isinstance(tape, HasFlow):
        return None
    if kind == "aggTrade":
        return FlowStream(_pusher(_trade, spec, tape.trades(spec.instrument), wrap))
    if kind == "forceOrder":
        return FlowStream(_pusher(_forced, spec, tape.liquidations(spec.instrument), wrap))
    match = _DEPTH.match(kind)
    return _book(tape, spec, int(match[1]), wrap) if match else None


def all_forced(market: Market, wrap: Wrap) -> Stream | None:
    """`!forceOrder@arr`: the forced orders of every symbol, one event each."""
    tape = market.tape
    if not isinstance(tape, HasFlow):
        return None
    pushers = [_pusher(_forced, spec, tape.liquidations(i), wrap) for i, spec in sorted(tape.specs.items())]
    return FlowStream(lambda since_ms, to_ms: [event for push in pushers for event in push(since_ms, to_ms)])


def _pusher(
    make: Callable[[InstrumentSpec, Prints, int], dict[str, Any]], spec: InstrumentSpec, prints: Prints, wrap: Wrap
) -> Callable[[int, int], list[Event]]:
    head, tail = wrap

    def push(since_ms: int, to_ms: int) -> list[Event]:
        lo, hi = np.searchsorted(prints.time_ms, [since_ms, to_ms], side="right").tolist()
        return [
            Event(int(prints.time_ms[i]), frame(f"{head}{orjson.dumps(make(spec, prints, i)).decode()}{tail}"))
            for i in range(lo, hi)
        ]

    return push


def _trade(spec: InstrumentSpec, prints: Prints, i: int) -> dict[str, Any]:
    number, at, quantity = int(prints.trade_id[i]), int(prints.time_ms[i]), plain(prints.quantity_base[i])
    return {
        "e": "aggTrade", "E": at, "a": number, "s": spec.instrument.venue_id, "p": plain(prints.price[i]),
        "q": quantity, "nq": quantity, "f": number, "l": number, "T": at, "m": not prints.buys[i], "st": 1,
    }  # fmt: skip


def _forced(spec: InstrumentSpec, prints: Prints, i: int) -> dict[str, Any]:
    at, price, quantity = int(prints.time_ms[i]), plain(prints.price[i]), plain(prints.quantity_base[i])
    order = {
        "s": spec.instrument.venue_id, "S": "BUY" if prints.buys[i] else "SELL", "o": "LIMIT", "f": "IOC",
        "q": quantity, "p": price, "ap": price, "X": "FILLED", "l": quantity, "z": quantity, "T": at,
    }  # fmt: skip
    return {"e": "forceOrder", "E": at, "o": order, "st": 1}


def _book(tape: HasFlow, spec: InstrumentSpec, depth: int, wrap: Wrap) -> Stream:
    head, tail = wrap

    def push(at_ms: int) -> bytes | None:
        book = tape.book(spec.instrument, at_ms, depth)
        if book is None:
            return None
        bids, asks = ([[plain(price), plain(base)] for price, base in side] for side in book)
        event = {
            "e": "depthUpdate", "E": at_ms, "T": at_ms, "s": spec.instrument.venue_id, "U": at_ms, "u": at_ms,
            "pu": at_ms - _BOOK_EVERY_MS, "b": bids, "a": asks, "st": 1,
        }  # fmt: skip
        return frame(f"{head}{orjson.dumps(event).decode()}{tail}")

    return RowStream(push, lambda _: _BOOK_EVERY_MS)
