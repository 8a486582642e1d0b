"""What to ask Binance USD-M: bars without a trade, long addresses, long lives, many streams, wrong routes, clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import batched
from typing import Any

from qlib_crypto.errors import VenueError, counted
from qlib_crypto.feeds.probe import Look, looking
from qlib_crypto.symbols import BINANCE_BAR, Instrument
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

_MARKET = "/market/stream"
_MOST_STREAMS, _A_REQUEST = 1_024, 200
#: Characters of the addresses that are tried, and how long one of the collector's gets at most.
_LENGTHS, _OURS = (2_000, 4_000, 6_000, 8_000, 12_000, 16_000), 6_000
_DAY_MINUTES = 24 * 60
#: A book stream, which belongs to /public.
_ELSEWHERE = "btcusdt@bookTicker"


def questions(subject: Subject) -> list[Coroutine[Any, Any, list[Answer]]]:
    """Every question, to be asked at the same time."""
    return [_addresses(subject), _streams(subject), _wrong_route(subject), _bars(subject)]


async def _names(subject: Subject) -> list[str]:
    """As many candle streams as one connection may have."""
    tickers = await asyncio.to_thread(subject.client.tickers)
    ids = [t.instrument.venue_id.lower() for t in tickers if t.instrument.venue_id.isascii()]
    return [f"{i}@kline_{bar}" for bar in BINANCE_BAR.values() for i in ids][:_MOST_STREAMS]


async def _addresses(subject: Subject) -> list[Answer]:
    async def ask() -> tuple[Outcome, str]:
        names = await _names(subject)
        longest, refused = 0, ""
        for length in _LENGTHS:
            path = f"{_MARKET}?streams="
            for name in names:
                if len(path) + len(name) >= length:
                    break
                path += f"{name}/"
            if len(path) <= longest:
                break
            try:
                async with looking(subject.settings, path.rstrip("/"), subject.tape):
                    longest = len(path) - 1
            except VenueError as error:
                refused = f"; {len(path) - 1:,} were refused ({str(error).rpartition(' did not open')[2].strip(': ')})"
                break
        seen = f"an address of {longest:,} characters opened{refused}"
        return (Outcome.PASS if longest >= _OURS * 0.95 else Outcome.DIFFERS), seen

    asks = "how long may an address be?"
    return [await answered("4b", asks, f"about 8,000 characters; the collector stays below {_OURS:,}", ask())]


async def _streams(subject: Subject) -> list[Answer]:
    async def ask() -> tuple[Outcome, str]:
        names = await _names(subject)
        taken = 0
        async with looking(subject.settings, f"{_MARKET}?streams={names[0]}", subject.tape) as look:
            for number, some in enumerate(batched(names[1:], _A_REQUEST), 1):
                answer = await _subscribe(look, number, list(some), subject.waits.answer_s)
                if answer is None or "error" in answer:
                    said = "no answer" if answer is None else answer["error"]
                    return Outcome.DIFFERS, f"{taken + 1:,} were accepted, then: {said}"
                taken += len(some)
            async for _ in look.hear(subject.waits.listen_s / 2):
                pass
            if look.ended is not None:
                code, age = look.ended
                return Outcome.DIFFERS, f"closed with code {code} {age:.0f} s after opening, {taken + 1:,} subscribed"
        seen = f"{counted(taken + 1, 'stream')} were accepted on one connection, which stayed open"
        return (Outcome.PASS if taken + 1 == _MOST_STREAMS else Outcome.UNKNOWN), seen

    return [await answered("5a", "does /market accept 1,024 streams?", "yes", ask())]


async def _wrong_route(subject: Subject) -> list[Answer]:
    async def ask() -> tuple[Outcome, str]:
        async with looking(subject.settings, f"{_MARKET}?streams=btcusdt@kline_1d", subject.tape) as look:
            answer = await _subscribe(look, 1, [_ELSEWHERE], subject.waits.answer_s)
            if answer is None or "error" in answer:
                return Outcome.DIFFERS, "no answer" if answer is None else f"an error: {answer['error']}"
            heard = 0
            async for frame in look.hear(subject.waits.listen_s):
                heard += isinstance(frame, dict) and frame.get("stream") == _ELSEWHERE
        if heard:
            return Outcome.DIFFERS, f"{counted(heard, 'frame')} of {_ELSEWHERE} came on /market"
        return Outcome.PASS, f"{_ELSEWHERE} was acknowledged and silent for {subject.waits.listen_s:.0f} s"

    return [await answered("5b", "does a stream of the other route stay silent?", "acknowledged, then no frame", ask())]


async def _bars(subject: Subject) -> list[Answer]:
    @asynccontextmanager
    async def opening(instruments: Sequence[Instrument]) -> AsyncIterator[Look]:
        names = "/".join(f"{i.venue_id.lower()}@kline_1m" for i in instruments)
        async with looking(subject.settings, f"{_MARKET}?streams={names}", subject.tape) as look:
            yield look

    closings = await watch(subject, opening, _closed)

    async def end() -> tuple[Outcome, str]:
        if closings.ended is None:
            return Outcome.UNKNOWN, f"still open after {subject.waits.minutes} min; look with --minutes {_DAY_MINUTES}"
        code, age = closings.ended
        return Outcome.UNKNOWN if age < _DAY_MINUTES * 59 else Outcome.PASS, f"code {code} after {age / 3600:.1f} h"

    return [
        await answered(
            "4a", "is a minute without a trade closed by a kline event?", "yes, each", without_trade(subject, closings)
        ),
        await answered("4c", "with which code does a connection end after 24 h?", "any; it reconnects", end()),
        await answered("6a", "how far apart are the clocks?", "within 1 s", clock_offset(subject)),
        await answered("6b", "how long after its end is a bar closed?", "within 2 s", closing_delay(subject, closings)),
    ]


async def _subscribe(look: Look, number: int, names: Sequence[str], seconds: float) -> dict[str, Any] | None:
    """The venue's answer to a live subscription, None when none came."""
    await look.say({"method": "SUBSCRIBE", "params": list(names), "id": number})
    async for frame in look.hear(seconds):
        if isinstance(frame, dict) and frame.get("id") == number:
            return frame
    return None


def _closed(frame: Any) -> list[tuple[str, int]]:
    """Venue id and open of the bar that a kline event closes."""
    event = frame.get("data") if isinstance(frame, dict) else None
    bar = event.get("k") if isinstance(event, dict) else None
    return [(str(bar["s"]), int(bar["t"]))] if isinstance(bar, dict) and bar.get("x") else []
