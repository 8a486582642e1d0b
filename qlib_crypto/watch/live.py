"""`doctor --live`: the questions that only the real venue can answer, asked, judged and recorded.

What the project assumes of a venue, without having seen it, is six questions. Each is asked so that the answer is
seen, not believed: `pass` when the venue does what we assume, `differs` when it does not, `unknown` when it could not
be seen.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import orjson

from qlib_crypto.clock import MINUTE_MS, SECOND_MS, iso
from qlib_crypto.errors import QlibCryptoError, counted
from qlib_crypto.feeds import RestClient
from qlib_crypto.feeds.probe import Look, Tape
from qlib_crypto.schemas import Bar
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

#: The collector's budget from a bar's end to its closing event, and for the venue's clock beside ours.
DELAY_MS, OFFSET_MS = 2_000, 1_000
_MINUTE = Interval.parse("1m")
#: Contracts that are watched: those with the least turnover, in which minutes without a trade are likely, and the most.
_QUIET, _BUSY = 40, 2
_TIMES_ASKED = 5
_NAMED = 3


class Outcome(StrEnum):
    """How an answer compares with what the project assumes."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    DIFFERS = "differs"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """One question: its number in the list of open ones, what is asked and assumed, and what was seen."""

    question: str
    asks: str
    assumed: str
    outcome: Outcome
    seen: str

    def as_json(self) -> dict[str, str]:
        """For machines."""
        return {key: str(value) for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Waits:
    """How long to look: market minutes for bars, otherwise wall seconds.

    Attributes
    ----------
    listen_s
        For silence to be silence.
    answer_s
        For an answer to a subscription.
    idle_s
        What an idle socket may live.
    grace_s
        What the last closing event may be late.

    """

    minutes: int = 5
    listen_s: float = 10.0
    answer_s: float = 15.0
    idle_s: float = 30.0
    grace_s: float = 5.0


@dataclass(frozen=True, slots=True)
class VenueTime:
    """The venue's clock, by the fastest of some answers; it is not asked again, so nothing waits for it.

    Attributes
    ----------
    offset_ms, took_ms
        The venue's clock minus this machine's, and how long that answer took.
    rate
        Venue seconds in a wall second, whole: 1, or the speed of a sandbox.

    """

    offset_ms: float
    took_ms: float
    rate: int
    market_ms: float
    read_s: float

    @classmethod
    def read(cls, client: RestClient) -> VenueTime:
        """Ask some times, the last one a second after the first."""

        def once() -> tuple[float, float, float, float]:
            begin, wall = time.monotonic(), time.time()
            theirs = client.server_time_ms()
            took = time.monotonic() - begin
            return took, theirs - (wall + took / 2) * SECOND_MS, float(theirs), begin + took / 2

        trips = [once() for _ in range(_TIMES_ASKED)]
        time.sleep(1.0)
        last = once()
        took, offset, market, at = min(trips)
        rate = max(1, round((last[2] - market) / ((last[3] - at) * SECOND_MS)))
        return cls(offset, took * SECOND_MS, rate, market, at)

    def now_ms(self) -> int:
        """The venue's time now."""
        return int(self.market_ms + (time.monotonic() - self.read_s) * SECOND_MS * self.rate)


@dataclass(frozen=True, slots=True)
class Subject:
    """The venue that is asked."""

    venue: Venue
    settings: VenueSettings
    client: RestClient
    clock: VenueTime
    waits: Waits
    tape: Tape


@dataclass
class Closings:
    """Closing events of bars: when each came, market time, how the connection ended, and why nothing was seen."""

    quiet: list[Instrument] = field(default_factory=list)
    from_ms: int = 0
    until_ms: int = 0
    came_ms: dict[tuple[str, int], int] = field(default_factory=dict)
    ended: tuple[int | None, float] | None = None
    why: str = ""


#: What may go wrong while asking: the venue, the network, or an answer of another shape.
_UNSEEN = (QlibCryptoError, OSError, LookupError, TypeError, ValueError, AttributeError)


async def answered(question: str, asks: str, assumed: str, asking: Awaitable[tuple[Outcome, str]]) -> Answer:
    """The answer; `unknown` with the reason when the venue cannot be asked."""
    try:
        outcome, seen = await asking
    except _UNSEEN as error:
        outcome, seen = Outcome.UNKNOWN, f"could not be asked: {_words(error)}"
    return Answer(question, asks, assumed, outcome, seen)


async def watch(
    subject: Subject,
    opening: Callable[[Sequence[Instrument]], AbstractAsyncContextManager[Look]],
    closed: Callable[[Any], Sequence[tuple[str, int]]],
) -> Closings:
    """The closing events of the quietest and the busiest contracts, for some market minutes.

    `opening` opens the subscribed connection; `closed` reads a frame: venue ids and opens of the bars it closes.
    """
    out = Closings()
    try:
        tickers = await asyncio.to_thread(subject.client.tickers)
        by_turnover = [t.instrument for t in sorted(tickers, key=lambda t: t.turnover_quote)]
        out.quiet = by_turnover[:_QUIET]
        async with opening(list(dict.fromkeys([*out.quiet, *by_turnover[-_BUSY:]]))) as look:
            await _listen(subject, look, closed, out)
    except _UNSEEN as error:
        out.why = _words(error)
    return out


async def _listen(
    subject: Subject, look: Look, closed: Callable[[Any], Sequence[tuple[str, int]]], out: Closings
) -> None:
    out.from_ms = _MINUTE.floor(subject.clock.now_ms()) + MINUTE_MS  # the first minute that we hear whole
    out.until_ms = out.from_ms + subject.waits.minutes * MINUTE_MS
    end_ms = out.until_ms + round(subject.waits.grace_s * SECOND_MS) * subject.clock.rate
    while look.ended is None and subject.clock.now_ms() < end_ms:
        async for frame in look.hear(min(1.0, subject.waits.grace_s)):
            now = subject.clock.now_ms()
            for key in closed(frame):
                out.came_ms.setdefault(key, now)
        if subject.venue is Venue.OKX:
            await look.say("ping")
    out.ended = look.ended


async def without_trade(subject: Subject, closings: Closings) -> tuple[Outcome, str]:
    """Whether a closing event came for minutes in which, says REST, nobody traded."""
    if closings.why or closings.until_ms > subject.clock.now_ms():
        return Outcome.UNKNOWN, f"could not be watched: {closings.why or f'it ended early, {closings.ended}'}"
    found, came = 0, 0
    lost: list[str] = []
    for instrument in closings.quiet:
        bars = await asyncio.to_thread(_bars, subject, instrument, closings.from_ms, closings.until_ms)
        for bar in (bar for bar in bars if bar.volume_base == 0):
            found += 1
            if (instrument.venue_id, bar.open_ms) in closings.came_ms:
                came += 1
            else:
                lost.append(f"{instrument.symbol} {iso(bar.open_ms)}")
    minutes = counted(subject.waits.minutes, "minute")
    if not found:
        return Outcome.UNKNOWN, (
            f"in {minutes} each of the {len(closings.quiet)} quietest contracts traded; watch longer with --minutes"
        )
    if lost:
        return Outcome.DIFFERS, (
            f"{came} of {counted(found, 'minute')} without a trade were closed by an event; not "
            f"{', '.join(lost[:_NAMED])}"
        )
    return Outcome.PASS, f"all {counted(found, 'minute')} without a trade were closed by an event"


def _bars(subject: Subject, instrument: Instrument, start_ms: int, end_ms: int) -> list[Bar]:
    return [bar for page in subject.client.bars(instrument, _MINUTE, start_ms, end_ms) for bar in page]


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, QlibCryptoError) else f"{type(error).__name__}: {text}"


async def clock_offset(subject: Subject) -> tuple[Outcome, str]:
    """How far the venue's clock is from ours."""
    clock = subject.clock
    seen = f"the venue's clock is {clock.offset_ms:+,.0f} ms from this machine's (answered in {clock.took_ms:,.0f} ms)"
    return (Outcome.PASS if abs(clock.offset_ms) <= OFFSET_MS else Outcome.DIFFERS), seen


async def closing_delay(subject: Subject, closings: Closings) -> tuple[Outcome, str]:
    """How long after a bar's end, by the venue's clock, its closing event comes; wall milliseconds."""
    delays = sorted(
        (came - opened - MINUTE_MS) / subject.clock.rate
        for (_, opened), came in closings.came_ms.items()
        if opened >= closings.from_ms
    )
    if not delays:
        return Outcome.UNKNOWN, f"no closing event came{f': {closings.why}' if closings.why else ''}"
    middle, late = statistics.median(delays), delays[int(0.95 * (len(delays) - 1))]
    seen = f"{middle:,.0f} ms at the median, {late:,.0f} ms at the 95th percentile of {counted(len(delays), 'bar')}"
    return (Outcome.PASS if late <= DELAY_MS else Outcome.DIFFERS), seen


@contextmanager
def recording(path: Path) -> Iterator[Tape]:
    """A tape that writes each event as a JSON line: wall time in milliseconds, what, text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        yield _writer(file)


def _writer(file: IO[bytes]) -> Tape:
    def write(what: str, text: str) -> None:
        file.write(orjson.dumps({"at_ms": time.time_ns() // 1_000_000, "what": what, "text": text}) + b"\n")

    return write


async def ask_venue(subject: Subject) -> list[Answer]:
    """Every question of the venue, answered at the same time, by number."""
    from qlib_crypto.watch import live_binance, live_okx  # noqa: PLC0415 - they stand on this module

    asking = live_okx.questions if subject.venue is Venue.OKX else live_binance.questions
    found = await asyncio.gather(*asking(subject))
    return sorted((answer for answers in found for answer in answers), key=lambda answer: answer.question)
