"""What one subscription of either venue pushes: candles, or single rows such as funding and mark price."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import SECOND_MS
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.series import Grid, first_prints, take
from qlib_crypto.sandbox.tape import BarSeries, Price
from qlib_crypto.sandbox.wire import Event
from qlib_crypto.symbols import Instrument

#: A confirmed bar whose number divides by this shares its push with the first row of the next bar, where the venue
#: sends several rows in one push.
SHARED = 8
#: Bars whose rows are written at once: some twenty times faster than one by one.
CHUNK = 64
_NEVER = 2**62


class CandleWire(Protocol):
    """How a venue writes candles."""

    several: bool

    def rows(self, series: BarSeries, *, closed: bool) -> list[str]:
        """The row of each bar, as confirmed or as still open."""
        ...

    def push(self, rows: Sequence[str], at_ms: int) -> bytes:
        """The complete frame of a push of some rows at market time `at_ms`."""
        ...


class CandleStream:
    """One candle subscription: every bar gets at least one open frame before its one confirmed frame.

    Parameters
    ----------
    price
        Whose bars.
    open_frames
        Exactly so many open frames a bar, evenly spread, each instrument with another delay; None for as many as
        `quiet_ms` allows.

    """

    def __init__(
        self,
        market: Market,
        instrument: Instrument,
        grid: Grid,
        wire: CandleWire,
        *,
        price: Price = Price.TRADED,
        open_frames: int | None = None,
    ) -> None:
        self._market = market
        self._instrument = instrument
        self._grid = grid
        self._wire = wire
        self._price = price
        self._series = market.series(instrument, grid, price)
        self._lot = market.tape.specs[instrument].lot_base
        self._open_frames = open_frames or 0
        self._every_ms = grid.ms // (open_frames or 1)
        self._delay_ms = 1 + crc32(instrument.qlib.encode()) % self._every_ms
        self._sent = 0
        self._finer = any(interval.ms < grid.ms for interval in market.tape.intervals(instrument))
        self._chunk = -1
        self._closed_rows: list[str] = []
        self._first_rows: list[str] = []
        self._chunk_opens: list[int] = []
        self._next = 0
        self._shown = -1
        self._shown_at = 0
        self.due_ms = 0

    @property
    def bar_ms(self) -> int | None:
        return self._grid.ms

    def start(self, at_ms: int) -> list[Event]:
        self._next = int(np.searchsorted(self._series.open_ms, at_ms - self._grid.ms, side="right"))
        self._shown, self._shown_at = -1, 0
        out = self._still_open(at_ms, 0)
        if self._open_frames:
            since = at_ms - self._grid.floor(at_ms) - self._delay_ms
            self._sent = min(self._open_frames, max(0, since // self._every_ms + 1))
            self.due_ms = at_ms
        return out

    def events(self, to_ms: int, quiet_ms: int) -> list[Event]:
        if self._open_frames:
            return self._steady(to_ms)
        out: list[Event] = []
        while self._next < len(self._series.open_ms) and self._open_of(self._next) + self._grid.ms <= to_ms:
            self._confirm(self._next, to_ms, out)
            self._next += 1
        out.extend(self._still_open(to_ms, quiet_ms))
        return out

    def _steady(self, to_ms: int) -> list[Event]:
        """Every open frame at its own time, however late this is asked for, and every closing one."""
        out: list[Event] = []
        self.due_ms = _NEVER
        while self._next < len(self._series.open_ms):
            opened, push = self._open_of(self._next), self._wire.push
            closed = opened + self._grid.ms
            while self._sent < self._open_frames and (at := self._slot(opened)) <= to_ms:
                row = self._open_row(opened, at)
                self._sent += 1
                if row is not None:
                    out.append(Event(at, push([row], at)))
            if closed > to_ms:
                self.due_ms = self._slot(opened) if self._sent < self._open_frames else closed
                break
            out.append(Event(closed, push([self._closed_rows[self._next % CHUNK]], closed), self._grid.ms))
            self._next, self._sent = self._next + 1, 0
        return out

    def _slot(self, opened: int) -> int:
        """When the next open frame of a bar is due."""
        return opened + self._delay_ms + self._sent * self._every_ms

    def _confirm(self, i: int, to_ms: int, out: list[Event]) -> None:
        opened, length, push = self._open_of(i), self._grid.ms, self._wire.push
        text, first = self._closed_rows[i % CHUNK], self._first_rows[i % CHUNK]
        if self._shown < opened:
            out.append(Event(opened + 1, push([first], opened + 1)))
        closed = opened + length
        self._shown = max(self._shown, opened)
        if self._wire.several and opened // length % SHARED == 0 and self._follows(i, closed, to_ms):
            out.append(Event(closed, push([text, self._first_rows[(i + 1) % CHUNK]], closed), length))
            self._shown = closed
        else:
            out.append(Event(closed, push([text], closed), length))

    def _follows(self, i: int, closed: int, to_ms: int) -> bool:
        """True when the next bar begins where this one ends, closes by `to_ms`, and is written already."""
        if closed + self._grid.ms > to_ms or (i + 1) % CHUNK == 0 or i + 1 >= len(self._series.open_ms):
            return False
        return self._open_of(i + 1) == closed

    def _open_of(self, i: int) -> int:
        """The open time of a bar; writes its chunk of rows when it is the first of it."""
        if i // CHUNK != self._chunk:
            self._chunk = i // CHUNK
            bars = take(self._series, slice(self._chunk * CHUNK, (self._chunk + 1) * CHUNK))
            self._chunk_opens = bars.open_ms.tolist()
            self._closed_rows = self._wire.rows(bars, closed=True)
            self._first_rows = self._wire.rows(first_prints(bars, self._lot), closed=False)
        return self._chunk_opens[i % CHUNK]

    def _still_open(self, at_ms: int, quiet_ms: int) -> list[Event]:
        opened, length = self._grid.floor(at_ms), self._grid.ms
        out: list[Event] = []
        if opened != at_ms and not (self._shown == opened and at_ms - self._shown_at < quiet_ms):
            row = self._open_row(opened, at_ms)
            if row is not None:
                self._shown, self._shown_at = opened, at_ms
                out.append(Event(at_ms, self._wire.push([row], at_ms)))
        again = self._shown_at + quiet_ms if self._shown == opened else at_ms + SECOND_MS
        coming = self._open_of(self._next) + length if self._next < len(self._series.open_ms) else _NEVER
        self.due_ms = min(max(again, at_ms + 1), opened + length + 1, coming)
        return out

    def _open_row(self, opened: int, at_ms: int) -> str | None:
        """The row of the bar that is open at `at_ms`; None when the tape has nothing of it."""
        if not self._finer:
            there = self._next < len(self._series.open_ms) and self._open_of(self._next) == opened
            return self._first_rows[self._next % CHUNK] if there else None
        bar = self._market.open_bar(self._instrument, self._grid, at_ms, self._price)
        return self._wire.rows(bar, closed=False)[0] if len(bar.open_ms) else None


#: Rows repeat themselves: at high speed they come so much rarer than open bars, up to a third of a minute apart.
_ROW_QUIET, _MOST_QUIET_MS = 4, 20_000


class RowStream:
    """A subscription to single rows: one at once, then one after each pause of market time, and at given moments.

    Parameters
    ----------
    push
        The complete frame of the row as of a market time, None while there is none.
    pause_ms
        Market time from a push to the next.
    moments
        Market times, ascending, shape (n,), of which a row is pushed in any case: settlements.

    """

    bar_ms = None

    def __init__(
        self,
        push: Callable[[int], bytes | None],
        pause_ms: Callable[[int], int],
        moments: NDArray[np.int64] | None = None,
    ) -> None:
        self._push = push
        self._pause_ms = pause_ms
        self._moments = np.empty(0, np.int64) if moments is None else moments
        self._at = self._next = 0
        self.due_ms = 0

    def start(self, at_ms: int) -> list[Event]:
        self._at, self._next = at_ms, at_ms + self._pause_ms(at_ms)
        self._plan()
        return self._events([at_ms])

    def events(self, to_ms: int, quiet_ms: int) -> list[Event]:
        lo, hi = np.searchsorted(self._moments, [self._at, to_ms], side="right")
        times = self._moments[lo:hi].tolist()
        while self._next <= to_ms:
            times.append(self._next)
            self._next += max(self._pause_ms(self._next), quiet_ms, min(_ROW_QUIET * quiet_ms, _MOST_QUIET_MS))
        self._at = max(self._at, to_ms)
        self._plan()
        return self._events(sorted(set(times)))

    def _plan(self) -> None:
        i = int(self._moments.searchsorted(self._at, side="right"))
        self.due_ms = min(self._next, int(self._moments[i]) if i < len(self._moments) else _NEVER)

    def _events(self, times: list[int]) -> list[Event]:
        return [Event(at_ms, data) for at_ms in times if (data := self._push(at_ms))]


class FlowStream:
    """A subscription to what happens: one push a market second of all that did.

    Parameters
    ----------
    push
        The pushes of what happened in (first time, second time].

    """

    bar_ms = None

    def __init__(self, push: Callable[[int, int], list[Event]], pause_ms: int = SECOND_MS) -> None:
        self._push = push
        self._pause_ms = pause_ms
        self._at = 0
        self.due_ms = 0

    def start(self, at_ms: int) -> list[Event]:
        self._at, self.due_ms = at_ms, at_ms + self._pause_ms
        return []

    def events(self, to_ms: int, quiet_ms: int) -> list[Event]:  # noqa: ARG002 - no event may be left out
        out = self._push(self._at, to_ms)
        self._at, self.due_ms = max(self._at, to_ms), to_ms + self._pause_ms
        return out
