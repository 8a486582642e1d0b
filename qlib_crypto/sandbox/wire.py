"""What becomes of pushes on their way to the sockets of one venue: nothing, or what its faults make of them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter, itemgetter
from typing import NamedTuple

from qlib_crypto.sandbox import broken
from qlib_crypto.sandbox.faults import Faults
from qlib_crypto.sandbox.text import frame, payload
from qlib_crypto.symbols import Venue


class Event(NamedTuple):
    """One push: the market time it belongs to, its one websocket frame, and the length of the bar it confirms or 0."""

    at_ms: int
    data: bytes
    closes_ms: int = 0


by_time = attrgetter("at_ms")


class Wire:
    """The way of pushes to one venue's sockets; counts what passes.

    Attributes
    ----------
    frames
        Frames that went out, with what faults added.
    bars
        Confirmed bars that went out, once for each subscriber; a duplicate is not counted again.

    """

    def __init__(self, venue: Venue, faults: Faults) -> None:
        self._venue = venue
        self._faults = faults
        self._broken = 0
        self.frames = self.bars = 0

    @property
    def stalled(self) -> bool:
        """True while nothing may go out."""
        return self._faults.lasts_s("stall") > 0

    def carry(self, events: Sequence[Event], late: list[tuple[int, Event]], now_ms: int) -> list[bytes]:
        """The frames that go out at market time `now_ms` for pushes that are due, in this order.

        `late` is what one connection still has to get: the time when, and the push; it is changed.
        """
        if late or (events and self._faults.on_wire(events[0].at_ms)):
            return self._faulty(events, late, now_ms)
        self.bars += sum(event.closes_ms > 0 for event in events)
        self.frames += len(events)
        return [event.data for event in events]

    def _faulty(self, events: Sequence[Event], late: list[tuple[int, Event]], now_ms: int) -> list[bytes]:
        waiting = [*late, *((self._goes_ms(event), event) for event in self._left(events))]
        late[:] = [held for held in waiting if held[0] > now_ms]
        out: list[bytes] = []
        for _, event in sorted((held for held in waiting if held[0] <= now_ms), key=itemgetter(0)):
            out.extend(self._sent(event))
        self.frames += len(out)
        return out

    def _goes_ms(self, event: Event) -> int:
        """When a push goes out: at its time, or after the next bar has closed."""
        odd = event.closes_ms and event.at_ms // event.closes_ms % 2
        return event.at_ms + event.closes_ms + 1 if odd and self._faults.lasts_s("reorder") else event.at_ms

    def _left(self, events: Sequence[Event]) -> list[Event]:
        """The pushes that are not lost, confirmed bars as they go out."""
        heard = (event for event in events if not self._faults.during("silence", event.at_ms))
        changed = (self._changed(event) if event.closes_ms else event for event in heard)
        return [event for event in changed if event is not None]

    def _changed(self, event: Event) -> Event | None:
        """A confirmed bar as it goes out: lost, revised, or as it is."""
        if self._faults.take("lose"):
            rest = broken.without_closed(self._venue, payload(event.data))
            return None if rest is None else Event(event.at_ms, frame(rest))
        if self._faults.take("revise"):
            return event._replace(data=frame(broken.revised(self._venue, payload(event.data))))
        return event

    def _sent(self, event: Event) -> list[bytes]:
        """The frames of one push: with a broken one before it, itself, again, and as of somebody unknown."""
        out = [event.data]
        self.bars += event.closes_ms > 0
        if self._faults.lasts_s("duplicate"):
            out.append(event.data)
        if self._faults.take("malformed"):
            out.insert(0, frame(broken.malformed(self._venue, payload(event.data), self._broken)))
            self._broken += 1
        if self._faults.due("unknown_instrument"):
            other = broken.renamed(self._venue, payload(event.data))
            if other is not None and self._faults.take("unknown_instrument"):
                out.append(frame(other))
        return out
