"""Faults on request: what can be asked for by `POST /sandbox/fault`, and what of it is still to come at one venue."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from qlib_crypto.clock import DAY_MS, SECOND_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Venue

GOING_AWAY = 1001
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})
_MOST = 10_000_000.0
#: So far back a window of market time that is over is remembered: a stall sends that late.
_MEMORY_MS = DAY_MS


class Parameter(NamedTuple):
    """A number a fault takes: its default (None when it may be left out), its least value, whether it is whole."""

    default: float | None
    least: float = 0.0
    whole: bool = False


class Kind(NamedTuple):
    """A kind of fault: what it does, and the parameters that it takes."""

    says: str
    parameters: Mapping[str, Parameter]
    only: Venue | None = None


def _count(says: str, only: Venue | None = None, **more: Parameter) -> Kind:
    return Kind(says, {"count": Parameter(1, 1, whole=True), **more}, only)


def _seconds(says: str, seconds: float) -> Kind:
    return Kind(says, {"seconds": Parameter(seconds)})


_CODE = Parameter(GOING_AWAY, whole=True)
#: Faults of websocket connections: those there are, or the next one that subscribes when there is none.
SOCKET = {
    "drop": Kind("connections are closed cleanly with `code`", {"code": _CODE}),
    "abort": Kind("their TCP connections are reset", {}),
    "half_open": _seconds("they stay open and say nothing more, not even pong; reset after so many wall seconds", 600),
    "lifetime": Kind("they are closed as after 24 hours", {"code": _CODE}),
    "notice": _seconds("OKX: notice 64008; closed that many wall seconds later, on Binance without a word", 60),
}
#: Faults of the next so many frames.
FRAMES = {
    "malformed": _count("a broken frame goes before each of the next `count` pushes"),
    "unknown_instrument": _count("a good frame of an id nobody subscribed follows the next `count` pushes"),
    "revise": _count("the next `count` confirmed bars by websocket differ from what REST says"),
    "lose": _count("the next `count` confirmed bars never come by websocket"),
}
#: Faults of market time that lies within `seconds` of the request.
MARKET = {
    "silence": _seconds("sockets answer pings, but market data of so many market seconds is lost", 600),
    "maintenance": _seconds("so many market seconds of 50001 or 503, sockets are closed", 300),
}
#: Faults that last wall seconds.
WALL = {
    "mute": _seconds("connections opened within so many wall seconds are accepted and never say a word", 10),
    "stall": _seconds("nothing is pushed for so many wall seconds, then what was due comes late", 5),
    "duplicate": _seconds("every frame of so many wall seconds comes twice", 5),
    "reorder": _seconds("for so many wall seconds every other closing bar comes after the next one", 5),
    "ban": _seconds("REST answers 418 (OKX 429) for so many wall seconds; the server's time is still told", 120),
}
#: Faults of the next so many REST requests, subscriptions, pages or files.
REST = {
    "rate_limit": _count("429, on OKX every other one 50011 under HTTP 200", retry_after=Parameter(None)),
    "error": _count("500 502 503 504 in turn, some as HTML"),
    "okx_200": _count("OKX error codes under HTTP 200", Venue.OKX),
}
OTHER = {
    "unknown_channel": _count("the next subscription is answered with an error and stays silent"),
    "empty_page": _count("pages that have rows are answered without any"),
    "short_page": _count("pages are answered with the first half of their rows"),
    "slow_page": _count("pages and files drip over `seconds` wall seconds", seconds=Parameter(5)),
    "checksum": _count("bulk files come damaged"),
}
KINDS: dict[str, Kind] = {**SOCKET, **FRAMES, **MARKET, **WALL, **REST, **OTHER}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault as it was asked for: its kind, the venues it hits, and its parameters (None where left out)."""

    kind: str
    venues: tuple[Venue, ...]
    values: Mapping[str, float | None]

    @property
    def count(self) -> int:
        return int(self.values.get("count") or 0)

    @property
    def code(self) -> int:
        return int(self.values.get("code") or GOING_AWAY)

    @property
    def seconds(self) -> float:
        return float(self.values.get("seconds") or 0.0)


def kinds() -> dict[str, Any]:
    """What `GET /sandbox/faults` says of every kind: what it does, its parameters with their defaults."""
    return {
        name: {"does": kind.says, "parameters": {key: value.default for key, value in kind.parameters.items()}}
        | ({"venue": kind.only} if kind.only else {})
        for name, kind in KINDS.items()
    }


def parse_fault(body: Mapping[str, Any], served: tuple[Venue, ...]) -> Fault:
    """The fault of a request body such as `{"kind": "drop", "venue": "okx"}`; without `venue` it hits all served.

    Raises
    ------
    ConfigError
        The kind, the venue, a key or a value is unknown.

    """
    name = body.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(name, str):
        raise ConfigError(f"fault kind {name!r} is unknown; choose one of: {' '.join(KINDS)}")
    unknown = set(body) - {"kind", "venue"} - set(kind.parameters)
    if unknown:
        takes = ", ".join(kind.parameters) or "none"
        raise ConfigError(f"fault {name} has no parameter {min(unknown)!r}; it has: {takes}")
    asked = served if body.get("venue") is None else (Venue.parse(str(body["venue"])),)
    venues = tuple(venue for venue in asked if venue in served and kind.only in (None, venue))
    if not venues:
        raise ConfigError(f"fault {name} cannot hit {' '.join(asked)} here; served: {' '.join(served)}")
    values = {key: _value(name, key, body.get(key), parameter) for key, parameter in kind.parameters.items()}
    return Fault(name, venues, values)


def _value(fault: str, key: str, given: Any, parameter: Parameter) -> float | None:
    if given is None:
        return parameter.default
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not parameter.least <= value <= _MOST or (parameter.whole and value != int(value)):
        wanted = f"a {'whole ' if parameter.whole else ''}number from {parameter.least:g} to {_MOST:g}"
        raise ConfigError(f"fault {fault}: {key} {given!r} is not possible; write {wanted}")
    if key == "code" and value not in _CLOSE_CODES:
        raise ConfigError(f"fault {fault}: code {given!r} closes no websocket; write 1000 to 1014 or 3000 to 4999")
    return value


class Faults:
    """The faults that are armed at one venue; every one ends by itself."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._counts: dict[str, int] = {}
        self._values: dict[str, Mapping[str, float | None]] = {}
        self._market: dict[str, list[tuple[int, int]]] = {}
        self._wall: dict[str, float] = {}
        #: Faults of connections that wait for one.
        self.waiting: deque[Fault] = deque()
        #: How often each kind has acted.
        self.acted: dict[str, int] = {}

    def arm(self, fault: Fault, now_ms: int) -> None:
        """Switch on whatever counts requests or frames, or lasts a while from market time `now_ms` or now."""
        kind = fault.kind
        self._values[kind] = fault.values
        if "count" in fault.values:
            self._counts[kind] = self._counts.get(kind, 0) + fault.count
        elif kind in MARKET:
            until = now_ms + int(fault.seconds * SECOND_MS)
            known = [span for span in self._market.get(kind, ()) if span[1] > now_ms - _MEMORY_MS]
            self._market[kind] = [*known, (now_ms, until)]
        elif kind in WALL:
            self._wall[kind] = max(self._wall.get(kind, 0.0), self._monotonic() + fault.seconds)

    def take(self, kind: str) -> bool:
        """True when the fault is armed, which uses one of its count up."""
        if not self._counts.get(kind):
            return False
        self._counts[kind] -= 1
        self._note(kind)
        return True

    def due(self, kind: str) -> bool:
        """True when `take` would be; uses nothing up."""
        return bool(self._counts.get(kind))

    def value(self, kind: str, name: str) -> float | None:
        """A parameter of the fault as last asked for."""
        return self._values.get(kind, {}).get(name)

    def during(self, kind: str, at_ms: int) -> bool:
        """True when market time `at_ms` lies in a fault of market time."""
        return any(start <= at_ms < end for start, end in self._market.get(kind, ()))

    def lasts_s(self, kind: str) -> float:
        """Wall seconds that a fault still lasts, 0 when it does not."""
        return max(0.0, self._wall.get(kind, 0.0) - self._monotonic())

    def next_rest(self) -> str | None:
        """The fault that the present REST request meets, used up by asking; None when all is well."""
        if self.lasts_s("ban"):
            self._note("ban")
            return "ban"
        return next((kind for kind in REST if self.take(kind)), None)

    def on_wire(self, at_ms: int) -> bool:
        """True when frames of market time `at_ms` may be touched."""
        if any(self._counts.get(kind) for kind in FRAMES) or any(
            self.lasts_s(kind) for kind in ("duplicate", "reorder")
        ):
            return True
        return any(end > at_ms for spans in self._market.values() for _, end in spans)

    def armed(self, now_ms: int) -> dict[str, Any]:
        """What is still to come: uses left, wall or market seconds left, faults that wait for a connection."""
        spans = ((kind, max(end for _, end in known)) for kind, known in self._market.items() if known)
        lasting = {kind: self.lasts_s(kind) for kind in self._wall if self.lasts_s(kind)}
        return {
            **{kind: {"count": count} for kind, count in self._counts.items() if count},
            **{kind: {"seconds": round(left, 3)} for kind, left in lasting.items()},
            **{kind: {"market_seconds": (end - now_ms) / SECOND_MS} for kind, end in spans if end > now_ms},
            **{fault.kind: {"waiting": 1} for fault in self.waiting},
        }

    def _note(self, kind: str) -> None:
        self.acted[kind] = self.acted.get(kind, 0) + 1
