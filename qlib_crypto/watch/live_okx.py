"""What to ask OKX: idle sockets, ports, wrong channels, placeholder contracts, bars without a trade, clocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from qlib_crypto.errors import QlibCryptoError, counted
from qlib_crypto.feeds.probe import Look, looking, okx_instrument_ids
from qlib_crypto.symbols import Instrument
from qlib_crypto.watch.live import (
    Answer,
    Outcome,
    Subject,
    answered,
    clock_offset,
    closing_delay,
    watch,
    without_trade,
)

_PUBLIC, _BUSINESS = "/ws/v5/public", "/ws/v5/business"
_TOLD_IDLE = 4004
_PORTS = (8443, 443)
_NAMED = 3


def questions(subject: Subject) -> list[Coroutine[Any, Any, list[Answer]]]:
    """Every question, to be asked at the same time."""
    return [_idle(subject), _ports(subject), _wrong_route(subject), _placeholders(subject), _bars(subject)]


async def _idle(subject: Subject) -> list[Answer]:
    return [
        await answered(
            "1a",
            "does a websocket ping frame keep an idle socket open, or only the text `ping`?",
            "ping frames count; the collector sends the text all the same",
            _pings(subject),
        )
    ]


async def _pings(subject: Subject) -> tuple[Outcome, str]:
    """One socket that says nothing beside one that sends ping frames: the first must be closed to prove anything."""
    idle_s = subject.waits.idle_s

    async def live(*, pinged: bool) -> tuple[int | None, float] | None:
        async with looking(subject.settings, _PUBLIC, subject.tape) as look:
            until = time.monotonic() + idle_s * 1.5
            while look.ended is None and time.monotonic() < until:
                if pinged:
                    await look.ping()
                async for _ in look.hear(idle_s / 3):
                    pass
            return look.ended

    silent, pinged = await asyncio.gather(live(pinged=False), live(pinged=True))
    if silent is None:
        return Outcome.DIFFERS, f"an idle socket without any ping was still open after {idle_s * 1.5:.0f} s"
    closed = f"the silent socket was closed after {silent[1]:.0f} s with code {silent[0]}"
    if pinged is None:
        same = silent[0] == _TOLD_IDLE
        return (Outcome.PASS if same else Outcome.DIFFERS), f"{closed}, the one with ping frames stayed open"
    return Outcome.DIFFERS, f"{closed}, the one with ping frames after {pinged[1]:.0f} s: they do not count"


async def _ports(subject: Subject) -> list[Answer]:
    own = urlsplit(subject.settings.ws_url).port
    ports = dict.fromkeys(_PORTS if own in _PORTS else [own])

    async def ask() -> tuple[Outcome, str]:
        said, good = [], set()
        for port in ports:
            begin = time.monotonic()
            try:
                async with looking(subject.settings, _PUBLIC, subject.tape, port=port) as look:
                    await look.say(_subscribe("tickers", ["BTC-USDT-SWAP"]))
                    async for frame in look.hear(subject.waits.answer_s):
                        if isinstance(frame, dict) and frame.get("event") == "subscribe":
                            good.add(port)
                            break
                said.append(f"{port} {'acknowledges' if port in good else 'does not acknowledge'}")
            except QlibCryptoError as error:
                said.append(f"{port} fails ({error})")
            said[-1] += f" in {(time.monotonic() - begin) * 1000:.0f} ms"
        first = next(iter(ports))
        return (Outcome.PASS if first in good else Outcome.DIFFERS), ", ".join(said)

    return [await answered("1b", "is 8443 still the port, or 443?", "8443 opens and acknowledges", ask())]


async def _wrong_route(subject: Subject) -> list[Answer]:
    async def ask() -> tuple[Outcome, str]:
        async with looking(subject.settings, _PUBLIC, subject.tape) as look:
            await look.say(_subscribe("candle1m", ["BTC-USDT-SWAP"]))
            async for frame in look.hear(subject.waits.answer_s):
                if isinstance(frame, dict) and frame.get("event") == "error":
                    code = str(frame.get("code"))
                    seen = f"error {code}, {frame.get('msg')}; {'with' if 'arg' in frame else 'without'} `arg`"
                    return (Outcome.PASS if code == "60018" else Outcome.DIFFERS), seen
                if isinstance(frame, dict) and frame.get("event") == "subscribe":
                    return Outcome.DIFFERS, "it was accepted"
            return Outcome.DIFFERS, f"no answer within {subject.waits.answer_s:.0f} s"

    asks = "which error do candles on /public give, 60018 or 64001?"
    return [await answered("2a", asks, "60018, and the socket stays open", ask())]


async def _placeholders(subject: Subject) -> list[Answer]:
    async def ask() -> tuple[Outcome, str]:
        ids = await asyncio.to_thread(okx_instrument_ids, subject.settings, subject.tape)
        odd = [i for i in ids if i.startswith("LISTING") or i.count("-") != 2]  # noqa: PLR2004 - BTC-USDT-SWAP
        among = f"among {counted(len(ids), 'row')}"
        if not ids:
            return Outcome.DIFFERS, "no row at all"
        if odd:
            return Outcome.PASS, f"{len(odd)} {among}: {', '.join(repr(i) for i in odd[:_NAMED])}"
        return Outcome.UNKNOWN, f"none {among} now; they appear before a listing, look again then"

    asks = "does instType=SWAP list placeholders such as LISTING-…?"
    return [await answered("2b", asks, "now and then; the collector passes over them", ask())]


async def _bars(subject: Subject) -> list[Answer]:
    @asynccontextmanager
    async def opening(instruments: Sequence[Instrument]) -> AsyncIterator[Look]:
        async with looking(subject.settings, _BUSINESS, subject.tape) as look:
            await look.say(_subscribe("candle1m", [i.venue_id for i in instruments]))
            yield look

    closings = await watch(subject, opening, _closed)

    return [
        await answered(
            "3",
            'does candle1m send confirm="1" for a minute without a trade?',
            "yes, for each",
            without_trade(subject, closings),
        ),
        await answered("6a", "how far apart are the clocks?", "within 1 s", clock_offset(subject)),
        await answered("6b", "how long after its end is a bar closed?", "within 2 s", closing_delay(subject, closings)),
    ]


def _subscribe(channel: str, ids: Sequence[str]) -> dict[str, Any]:
    return {"op": "subscribe", "args": [{"channel": channel, "instId": i} for i in ids]}


def _closed(frame: Any) -> list[tuple[str, int]]:
    """Venue id and open of each confirmed row of a candle push."""
    if not isinstance(frame, dict) or not isinstance(frame.get("arg"), dict):
        return []
    rows = frame.get("data") or []
    return [(str(frame["arg"].get("instId")), int(row[0])) for row in rows if row[-1] == "1"]
