"""Whether a venue has bars that its collector lacks: what tells a dead feed from a quiet market."""

from __future__ import annotations

from qlib_crypto.collect.status import CollectorStatus
from qlib_crypto.feeds import RestClient
from qlib_crypto.symbols import Instrument, Interval, Venue

#: Bars by stream are published a moment after their close, and repaired by REST soon after; newer ones are no loss yet.
_BARS_BEHIND = 3
#: So many instruments are asked for, those with the newest bars first.
_ASKED = 3


def has_newer(client: RestClient, status: CollectorStatus) -> bool:
    """True when the venue has closed bars well after the newest that the collector has.

    Raises
    ------
    VenueError
        The venue does not answer.

    """
    interval = Interval.parse(status.interval)
    now = client.server_time_ms()
    have = {symbol: at for symbol, at in status.newest.items() if at is not None}
    if not have:
        return False
    start, end = max(have.values()) + interval.ms, interval.floor(now) - _BARS_BEHIND * interval.ms
    venue = Venue.parse(status.venue)
    return start < end and any(
        any(client.bars(Instrument.parse(symbol, venue), interval, start, end))
        for symbol in sorted(have, key=lambda symbol: -have[symbol])[:_ASKED]
    )
