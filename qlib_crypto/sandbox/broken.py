"""Frames that a faulty venue sends: broken ones, of unknown instruments, revised or without their closing bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from qlib_crypto.sandbox.text import plain
from qlib_crypto.symbols import Venue

#: Ids of no instrument at all, in the shape of a linear perpetual.
NOBODY = {Venue.OKX: "NOBODY-USDT-SWAP", Venue.BINANCE: "NOBODYUSDT"}
#: A confirmed candle row: OKX's of nine columns (mark candles have six).
_OKX_COLUMNS = 9


def _odd(venue: Venue, data: Any) -> bytes:
    """The envelope of a push with data that nobody expects."""
    if venue is Venue.OKX:
        return orjson.dumps({"arg": {"channel": "candle1m", "instId": "BTC-USDT-SWAP"}, "data": data})
    return orjson.dumps({"stream": "btcusdt@kline_1m", "data": data})


def _no_numbers(venue: Venue, text: bytes) -> bytes:
    """The push with a price that is no number."""
    message = orjson.loads(text)
    if venue is Venue.OKX and isinstance(message["data"][0], list):
        message["data"][0][1] = "abc"
        return orjson.dumps(message)
    if venue is Venue.BINANCE and "k" in message.get("data", message):
        message.get("data", message)["k"]["o"] = "abc"
        return orjson.dumps(message)
    return _odd(venue, "abc")


_BROKEN: tuple[Callable[[Venue, bytes], bytes], ...] = (
    lambda _, text: text[: len(text) // 2],
    lambda *_: b"<html><body>502 Bad Gateway</body></html>",
    lambda *_: b"",
    lambda *_: b"null",
    lambda venue, _: _odd(venue, "no"),
    _no_numbers,
    lambda *_: b"[]",
    lambda venue, _: _odd(venue, [["1747094040000"]]),
    lambda _, text: text[:-1],
    lambda *_: b"42",
    lambda venue, _: _odd(venue, None),
    lambda *_: b"{}",
)


def malformed(venue: Venue, text: bytes, number: int) -> bytes:
    """The `number`-th broken version of a push: cut, no JSON, or JSON that is no push; the versions take turns."""
    return _BROKEN[number % len(_BROKEN)](venue, text)


def renamed(venue: Venue, text: bytes) -> bytes | None:
    """The push as of an instrument that nobody subscribed; None for one that is of no single instrument."""
    message = orjson.loads(text)
    if venue is Venue.OKX:
        inst_id = message["arg"].get("instId")
        return text.replace(f'"{inst_id}"'.encode(), f'"{NOBODY[venue]}"'.encode()) if inst_id else None
    event = message.get("data", message) if isinstance(message, dict) else None
    if not isinstance(event, dict) or not isinstance(event.get("s"), str):
        return None
    symbol, nobody = event["s"], NOBODY[venue]
    return text.replace(f'"{symbol}"'.encode(), f'"{nobody}"'.encode()).replace(
        f'"{symbol.lower()}@'.encode(), f'"{nobody.lower()}@'.encode()
    )


def without_closed(venue: Venue, text: bytes) -> bytes | None:
    """The push without its confirmed bar; None when nothing is left of it."""
    if venue is Venue.BINANCE:
        return None
    message = orjson.loads(text)
    rows = [row for row in message["data"] if row[-1] != "1"]
    return orjson.dumps({**message, "data": rows}) if rows else None


def revised(venue: Venue, text: bytes) -> bytes:
    """The push with another close and another volume in its confirmed bar: what a venue corrects later."""
    message = orjson.loads(text)
    if venue is Venue.BINANCE:
        bar = message.get("data", message)["k"]
        bar["c"], bar["v"], bar["q"] = _revise(bar["h"], bar["l"], bar["c"], bar["v"], bar["q"])
        return orjson.dumps(message)
    for row in message["data"]:
        if row[-1] != "1":
            continue
        _, _, high, low, close = row[:5]
        if len(row) == _OKX_COLUMNS:
            contract = float(row[5]) / float(row[6]) if float(row[6]) else 1.0
            row[4], row[6], row[7] = _revise(high, low, close, row[6], row[7])
            row[5] = plain(round(float(row[6]) * contract, 8))
        else:
            row[4] = _revise(high, low, close, "0", "")[0]
    return orjson.dumps(message)


def _revise(high: str, low: str, close: str, volume: str, quote: str) -> tuple[str, str, str]:
    """Another close within the bar where it has two prices; twice the volume, or one coin where there was none."""
    other = high if close != high else low
    before = float(volume)
    after = 2 * before if before else 1.0
    turnover = "" if not quote else plain(float(quote) * 2 if before else float(other))
    return other, plain(after), turnover
