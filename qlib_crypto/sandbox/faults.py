"""Faults on request: what `POST /sandbox/fault` has switched on and not yet used up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qlib_crypto.clock import SECOND_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.symbols import Venue

#: Faults that act on websocket connections at once, those that wait for REST requests, and silence.
SOCKET_FAULTS = ("drop", "abort")
REST_FAULTS = ("rate_limit", "error")
GOING_AWAY = 1001
SILENCE_S = 600.0
KINDS = (*SOCKET_FAULTS, *REST_FAULTS, "silence")
_PARAMETERS = {"drop": {"code"}, "abort": set(), "rate_limit": {"count"}, "error": {"count"}, "silence": {"seconds"}}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault as it was asked for.

    Attributes
    ----------
    kind
        `drop`: clean close of the websocket connections, with `code` (default 1001).
        `abort`: their TCP connections are reset.
        `rate_limit`: the next `count` (default 1) REST requests are refused as over the limit.
        `error`: the next `count` REST requests fail as the venue's own trouble.
        `silence`: sockets stay open and answer pings, but market data of the next `seconds` (default 600) of
        *market* time is lost.
    venues
        Which venues it hits.

    """

    kind: str
    venues: tuple[Venue, ...]
    count: int = 1
    code: int = GOING_AWAY
    seconds: float = SILENCE_S


def parse_fault(body: Mapping[str, Any], served: tuple[Venue, ...]) -> Fault:
    """The fault of a request body such as `{"kind": "drop", "venue": "okx"}`; without `venue` it hits all served.

    Raises
    ------
    ConfigError
        The kind, a key or a value is unknown.

    """
    kind = body.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"fault kind {kind!r} is unknown; choose one of: {' '.join(KINDS)}")
    unknown = set(body) - {"kind", "venue"} - _PARAMETERS[kind]
    if unknown:
        raise ConfigError(f"fault {kind} has no parameter {min(unknown)!r}")
    venues = served if body.get("venue") is None else (Venue.parse(str(body["venue"])),)
    try:
        numbers = {key: float(body[key]) for key in _PARAMETERS[kind] if key in body}
    except (TypeError, ValueError):
        raise ConfigError(f"fault {kind}: a parameter is no number in {dict(body)}") from None
    if any(value < 0 for value in numbers.values()):
        raise ConfigError(f"fault {kind}: a parameter is negative in {dict(body)}")
    return Fault(
        kind,
        venues,
        count=int(numbers.get("count", 1)),
        code=int(numbers.get("code", GOING_AWAY)),
        seconds=numbers.get("seconds", SILENCE_S),
    )


@dataclass(slots=True)
class Faults:
    """The faults that are armed for one venue."""

    _rest: dict[str, int] = field(default_factory=dict)
    _silent_until_ms: int = 0

    def arm(self, fault: Fault, now_ms: int) -> None:
        """Switch on a REST fault or a silence that starts at market time `now_ms`."""
        if fault.kind in REST_FAULTS:
            self._rest[fault.kind] = self._rest.get(fault.kind, 0) + fault.count
        elif fault.kind == "silence":
            self._silent_until_ms = now_ms + int(fault.seconds * SECOND_MS)

    def next_rest(self) -> str | None:
        """The fault that the present REST request meets, used up by asking; None when all is well."""
        for kind in REST_FAULTS:
            if self._rest.get(kind, 0) > 0:
                self._rest[kind] -= 1
                return kind
        return None

    def silent(self, at_ms: int) -> bool:
        """True while market data of market time `at_ms` is lost."""
        return at_ms < self._silent_until_ms
