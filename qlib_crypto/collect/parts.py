"""The collector's parts: its pace and summary, market time, the stream's thread, the watched universe, signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qlib_crypto.clock import Clock, iso
from qlib_crypto.errors import QlibCryptoError, VenueError, counted
from qlib_crypto.lake.universe_file import read_universe
from qlib_crypto.symbols import Instrument, Venue

_READ_S = 0.1
_STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class CollectSummary:
    """What one run of the collector stored: new or replaced rows, and files written.

    `stream_bars` came by websocket, `rest_bars` filled what it missed, `refused` rows were told one by one.
    """

    stream_bars: int
    rest_bars: int
    settlements: int
    estimates: int
    refused: int
    files: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the collector looks around, wall seconds.

    Attributes
    ----------
    look_s
        Between two looks for missing bars, a new membership, a new day.
    grace_s
        A bar that is due and has not come for so long is asked over REST.
    status_s
        Between two status lines.
    retry_s
        Before REST is asked again for what it did not have, doubled each time.

    """

    look_s: float = 0.5
    grace_s: float = 5.0
    status_s: float = 10.0
    retry_s: float = 1.0


class Stream(Protocol):
    """What the collector needs of `feeds.VenueStream`."""

    async def run(self) -> None: ...
    def stop(self) -> None: ...
    def replace(self, instruments: Sequence[Instrument]) -> None: ...


class MarketTime:
    """Market time, read in a thread of its own: asking the venue's time endpoint may take long and may fail."""

    def __init__(self, clock: Clock, say: Callable[[str], None]) -> None:
        self._clock = clock
        self._say = say
        self._ended = threading.Event()
        self.now_ms = clock.now_ms()
        self._thread = threading.Thread(target=self._run, name="collect-clock", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()

    def _run(self) -> None:
        told = False
        while not self._ended.wait(_READ_S):
            try:
                self.now_ms = self._clock.now_ms()
                told = False
            except VenueError as error:
                if not told:
                    self._say(f"market time stands at {iso(self.now_ms)}: {error}")
                told = True


class StreamThread:
    """The thread with the stream's event loop; its error is raised by `check`."""

    def __init__(self, stream: Stream) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(stream,), name="collect-stream", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        if self._error is not None:
            raise self._error
        if not self._thread.is_alive():
            raise VenueError("the stream ended by itself; start the collector again", retryable=True)

    def end(self, stream: Stream) -> None:
        stream.stop()
        self._thread.join(_STOP_S)

    def _run(self, stream: Stream) -> None:
        try:
            asyncio.run(stream.run())
        except BaseException as error:  # noqa: BLE001 - handed over to the collector's thread by `check`
            self._error = error


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


@contextlib.contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set the event while the block runs; only the main thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
