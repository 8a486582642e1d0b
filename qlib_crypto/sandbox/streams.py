"""What one subscription of either venue pushes: candles, or single rows such as funding and mark price."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.sandbox.hub import Event
from qlib_crypto.sandbox.market import Market
from qlib_crypto.sandbox.series import Grid, first_prints, take
from qlib_crypto.sandbox.tape import BarSeries
from qlib_crypto.symbols import Instrument

#: A confirmed bar whose number divides by this shares its push with the first row of the next bar, where the venue
#: sends several rows in one push.
SHARED = 8


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
    """One candle subscription: every bar gets at least one open frame before its one confirmed frame."""

    def __init__(self, market: Market, instrument: Instrument, grid: Grid, wire: CandleWire) -> None:
        self._market = market
        self._instrument = instrument
        self._grid = grid
        self._wire = wire
        self._series = market.series(instrument, grid)
        self._lot = market.tape.specs[instrument].lot_base
        self._at = 0
        self._shown = -1
        self._shown_at = 0
        self.bars = 0

    @property
    def bar_ms(self) -> int | None:
        return self._grid.ms

    def start(self, at_ms: int) -> list[Event]:
        self._at, self._shown, self._shown_at = at_ms, -1, 0
        return self._still_open(at_ms, 0)

    def events(self, to_ms: int, quiet_ms: int) -> list[Event]:
        opens, length = self._series.open_ms, self._grid.ms
        lo, hi = (int(i) for i in np.searchsorted(opens, [self._at - length, to_ms - length], side="right"))
        out: list[Event] = []
        if hi > lo:
            self._confirm(lo, hi, out)
        out.extend(self._still_open(to_ms, quiet_ms))
        self._at = max(self._at, to_ms)
        return out

    def _confirm(self, lo: int, hi: int, out: list[Event]) -> None:
        bars = take(self._series, slice(lo, hi))
        firsts = self._wire.rows(first_prints(bars, self._lot), closed=False)
        opens = bars.open_ms.tolist()
        push, length, several = self._wire.push, self._grid.ms, self._wire.several
        for i, (text, opened) in enumerate(zip(self._wire.rows(bars, closed=True), opens, strict=True)):
            if self._shown < opened:
                out.append(Event(opened + 1, push([firsts[i]], opened + 1)))
            closed = opened + length
            if several and i + 1 < len(opens) and opens[i + 1] == closed and opened // length % SHARED == 0:
                out.append(Event(closed, push([text, firsts[i + 1]], closed)))
                self._shown = closed
            else:
                out.append(Event(closed, push([text], closed)))
        self._shown = max(self._shown, opens[-1])
        self.bars += len(opens)

    def _still_open(self, at_ms: int, quiet_ms: int) -> list[Event]:
        opened = self._grid.floor(at_ms)
        if opened == at_ms or (self._shown == opened and at_ms - self._shown_at < quiet_ms):
            return []
        bar = self._market.open_bar(self._instrument, self._grid, at_ms)
        if not len(bar.open_ms):
            return []
        self._shown, self._shown_at = opened, at_ms
        return [Event(at_ms, self._wire.push(self._wire.rows(bar, closed=False), at_ms))]


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
    bars = 0

    def __init__(
        self,
        push: Callable[[int], bytes | None],
        pause_ms: Callable[[int], int],
        moments: NDArray[np.int64] | None = None,
    ) -> None:
        self._push = push
        self._pause_ms = pause_ms
        self._moments = np.empty(0, np.int64) if moments is None else moments
        self._at = self._due = 0

    def start(self, at_ms: int) -> list[Event]:
        self._at, self._due = at_ms, at_ms + self._pause_ms(at_ms)
        return self._events([at_ms])

    def events(self, to_ms: int, quiet_ms: int) -> list[Event]:
        lo, hi = np.searchsorted(self._moments, [self._at, to_ms], side="right")
        times = self._moments[lo:hi].tolist()
        while self._due <= to_ms:
            times.append(self._due)
            self._due += max(self._pause_ms(self._due), quiet_ms)
        self._at = max(self._at, to_ms)
        return self._events(sorted(set(times)))

    def _events(self, times: list[int]) -> list[Event]:
        return [Event(at_ms, data) for at_ms in times if (data := self._push(at_ms))]
