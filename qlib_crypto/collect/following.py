"""Whom a collector follows now: the members of the universe, those that left it a while ago, and what is listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.collect.coverage import NEWCOMER_MS
from qlib_crypto.collect.listed import Listings
from qlib_crypto.errors import QlibCryptoError, counted
from qlib_crypto.lake import Lake
from qlib_crypto.lake.universe_file import read_universe
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue


def recent_leavers(
    lake: Lake, venue: Venue, settings: VenueSettings, now_ms: int, since_ms: int | None = None
) -> dict[Instrument, int]:
    """Members of rankings that ended, and until when each is followed: those followed after `since_ms`, else now.

    Empty where the settings name the instruments themselves.
    """
    if not isinstance(settings.symbols, str):
        return {}
    grace_ms, earliest = round(settings.grace_hours * HOUR_MS), now_ms if since_ms is None else since_ms
    table = lake.memberships(venue)
    times = table.column("timestamp").cast(pa.int64()).to_pylist()
    ends = dict(pairwise(sorted(set(times))))
    left: dict[Instrument, int] = {}
    for at, symbol, member in zip(
        times, table.column("symbol").to_pylist(), table.column("member").to_pylist(), strict=True
    ):
        ended = ends.get(at)
        if member and ended is not None and ended <= now_ms and earliest < ended + grace_ms:
            instrument = Instrument.parse(symbol, venue)
            left[instrument] = max(ended + grace_ms, left.get(instrument, 0))
    return left


def followed_from(lake: Lake, venue: Venue, interval: Interval, membership: Path | None, now_ms: int) -> int:
    """From when on a collector fetches what was never followed: the last days; without a bar the first ranking, or now.

    Rankings may have come one after another before a collector could begin.
    """
    if lake.instruments(venue, interval):
        return now_ms - NEWCOMER_MS
    times: list[int] = lake.memberships(venue).column("timestamp").cast(pa.int64()).to_pylist() if membership else []
    return max(now_ms - NEWCOMER_MS, min([now_ms, *times]))


class Following:
    """What is wanted, with leavers and successors, as far as it is listed.

    Parameters
    ----------
    wanted
        The members.
    listings
        Knows what trades.
    grace_ms
        How long who is wanted no more is still followed, market time.
    leavers
        Who left before the start, and until when each is followed.

    """

    def __init__(
        self, wanted: Iterable[Instrument], listings: Listings, grace_ms: int, leavers: Mapping[Instrument, int]
    ) -> None:
        self._wanted = list(wanted)
        self._listings, self._grace_ms, self._leavers = listings, grace_ms, dict(leavers)

    def change(self, wanted: Iterable[Instrument], now_ms: int) -> None:
        """Want these from now on."""
        before, self._wanted = self._wanted, list(wanted)
        self._leavers |= dict.fromkeys(set(before) - set(self._wanted), now_ms + self._grace_ms)

    def now(self, now_ms: int) -> list[Instrument]:
        """Whom to follow at this time: the wanted in their order, then the others."""
        self._leavers = {i: until for i, until in self._leavers.items() if until > now_ms}
        wanted = self._listings.with_successors([*self._wanted, *sorted(self._leavers)])
        return [instrument for instrument in wanted if self._listings.trades(instrument, now_ms)]


class Membership:
    """The universe's file, watched; ranking replaces it whole, so its inode and time tell a change."""

    def __init__(self, path: Path, venue: Venue, say: Callable[[str], None]) -> None:
        self._path = path
        self._venue = venue
        self._say = say
        self._seen = self._stamp()

    def changed(self) -> list[Instrument] | None:
        """The instruments when the file is another than last time, else None; what cannot be read is told once."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            found = read_universe(self._path, self._venue)
        except QlibCryptoError as error:
            self._say(f"universe unchanged: {error}")
            return None
        self._say(f"universe: {counted(len(found), 'instrument')} from {self._path}")
        return found

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino, stat.st_size
