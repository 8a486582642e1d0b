"""The faults of the suite: what is done to a venue, and for how long it is unwell afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from qlib_crypto.sandbox.serve import SandboxHandle
from qlib_crypto.symbols import Venue

#: Market time that a stream loses, so that REST has something to do.
_HOLE_S = 600.0


class Fault(NamedTuple):
    """A fault: `arm(sandbox, venue)` does it, `unwell_s` wall seconds later the venue is well again."""

    name: str
    arm: Callable[[SandboxHandle, Venue], None]
    unwell_s: float = 0.0
    venues: tuple[Venue, ...] = tuple(Venue)


def _one(kind: str, **parameters: object) -> Callable[[SandboxHandle, Venue], None]:
    return lambda sandbox, venue: _arm(sandbox, venue, kind, **parameters)


def _then_dropped(kind: str, **parameters: object) -> Callable[[SandboxHandle, Venue], None]:
    """A fault that meets new connections."""

    def arm(sandbox: SandboxHandle, venue: Venue) -> None:
        _arm(sandbox, venue, kind, **parameters)
        _arm(sandbox, venue, "abort")

    return arm


def _with_hole(kind: str, **parameters: object) -> Callable[[SandboxHandle, Venue], None]:
    """A fault that meets REST requests, which a hole in the stream makes necessary."""

    def arm(sandbox: SandboxHandle, venue: Venue) -> None:
        _arm(sandbox, venue, kind, **parameters)
        _arm(sandbox, venue, "silence", seconds=_HOLE_S)

    return arm


def _arm(sandbox: SandboxHandle, venue: Venue, kind: str, **parameters: object) -> None:
    sandbox.fault(kind, venue=venue.value, **parameters)


FAULTS = (
    Fault("clean close", _one("drop", code=1000)),
    Fault("abrupt close", _one("abort")),
    Fault("half-open socket", _one("half_open")),
    Fault("silent from the first second", _then_dropped("mute", seconds=3), 3.0),
    Fault("stall", _one("stall", seconds=3), 3.0),
    Fault("data lost on a living socket", _one("silence", seconds=_HOLE_S), 3.0),
    Fault("closing bar never sent", _one("lose", count=5), 1.0),
    Fault("duplicate", _one("duplicate", seconds=2), 2.0),
    Fault("reordering", _one("reorder", seconds=2), 2.0),
    Fault("malformed frame", _one("malformed", count=50), 1.0),
    Fault("unknown instrument", _one("unknown_instrument", count=50), 1.0),
    Fault("unknown channel error", _then_dropped("unknown_channel"), 1.0),
    Fault("notice 64008", _one("notice", seconds=1), 1.0, (Venue.OKX,)),
    Fault("24 h disconnect", _one("lifetime")),
    Fault("429 with Retry-After", _with_hole("rate_limit", count=4, retry_after=1), 3.0),
    Fault("429 without Retry-After", _with_hole("rate_limit", count=4), 3.0),
    Fault("418, banned", _with_hole("ban", seconds=2), 3.0),
    Fault("5xx", _with_hole("error", count=5), 3.0),
    Fault("errors under HTTP 200", _with_hole("okx_200", count=5), 3.0, (Venue.OKX,)),
    Fault("empty page", _with_hole("empty_page", count=4), 3.0),
    Fault("short page", _with_hole("short_page", count=4), 3.0),
    Fault("slow page", _with_hole("slow_page", count=3, seconds=2), 6.0),
    Fault("maintenance", _one("maintenance", seconds=_HOLE_S), 3.0),
)
