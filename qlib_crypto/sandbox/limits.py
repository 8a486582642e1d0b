"""Request limits as the venues enforce them, in wall time: windows of 2 s on OKX, weight per minute on Binance."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

OKX_WINDOW_S = 2.0
#: The window ends this much early, so that network jitter does not punish a client that obeys.
JITTER_S = 0.1
WEIGHT_PER_MINUTE = 2_400
FUNDING_PER_5_MINUTES = 500
#: Requests after the first 429 of a minute that earn a ban.
PATIENCE = 5
_MINUTE_S = 60
_FIVE_MINUTES_S = 300
_LONGEST_BAN_S = 3 * 86_400


class Windows:
    """At most `limit * scale` events of one key within any `seconds`; the strictest reading of "20 per 2 s"."""

    def __init__(self, scale: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._scale = scale
        self._monotonic = monotonic
        self._seen: defaultdict[tuple[str, ...], deque[float]] = defaultdict(deque)

    def take(self, key: tuple[str, ...], limit: int, seconds: float = OKX_WINDOW_S) -> bool:
        """True when one more event is allowed, which is then counted."""
        allowed = limit * self._scale
        if math.isinf(allowed):
            return True
        now, seen = self._monotonic(), self._seen[key]
        while seen and seen[0] <= now - (seconds - JITTER_S):
            seen.popleft()
        if len(seen) + 1 > max(1.0, allowed):
            return False
        seen.append(now)
        return True


class Verdict(NamedTuple):
    """What to answer: 200, 429 or 418; the weight used this minute; seconds to wait when refused."""

    status: HTTPStatus
    used: int
    retry_after_s: int


class Weights:
    """Binance's budget of one address: 2,400 weight a wall minute, 429 beyond it, 418 for who goes on after that.

    The window is aligned to the minute. More than `PATIENCE` further requests in a minute that already saw a 429
    ban the address for `ban_s`, twice as long each time.
    """

    def __init__(self, scale: float, *, ban_s: float = 120.0, now: Callable[[], float] = time.time) -> None:
        self._limit = WEIGHT_PER_MINUTE * scale
        self._funding_limit = FUNDING_PER_5_MINUTES * scale
        self._now = now
        self._next_ban_s = ban_s
        self._banned_until = 0.0
        self._minute = self._five = 0
        self._used = self._refused = self._funding = 0

    def take(self, weight: int, *, funding: bool = False) -> Verdict:
        """The verdict on a request of `weight`; `funding` also counts on the limit of the funding endpoints."""
        now = self._now()
        self._roll(now)
        if now < self._banned_until:
            return Verdict(HTTPStatus.IM_A_TEAPOT, self._used, math.ceil(self._banned_until - now))
        if funding and self._funding + 1 > self._funding_limit:
            return self._refuse(now, _FIVE_MINUTES_S)
        if self._used + weight > self._limit:
            return self._refuse(now, _MINUTE_S)
        self._used += weight
        self._funding += funding
        return Verdict(HTTPStatus.OK, self._used, 0)

    def _roll(self, now: float) -> None:
        if self._minute != now // _MINUTE_S:
            self._minute, self._used, self._refused = int(now // _MINUTE_S), 0, 0
        if self._five != now // _FIVE_MINUTES_S:
            self._five, self._funding = int(now // _FIVE_MINUTES_S), 0

    def _refuse(self, now: float, window_s: int) -> Verdict:
        self._refused += 1
        if self._refused > PATIENCE:
            self._banned_until = now + self._next_ban_s
            ban = math.ceil(self._next_ban_s)
            self._next_ban_s = min(_LONGEST_BAN_S, 2 * self._next_ban_s)
            return Verdict(HTTPStatus.IM_A_TEAPOT, self._used, ban)
        return Verdict(HTTPStatus.TOO_MANY_REQUESTS, self._used, max(1, math.ceil(window_s - now % window_s)))
