"""The collector's parts: its pace and summary, the stream's thread, signals."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qlib_crypto.errors import VenueError
from qlib_crypto.symbols import Instrument

_STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class CollectSummary:
    """What one run of the collector stored: rows, and files written.

    `stream_bars` came by websocket, `rest_bars` filled what it missed, `refused` rows are in the quarantine.
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
    revive_s
        A feed that gave nothing for so long while REST had several bars is opened anew.

    """

    look_s: float = 0.5
    grace_s: float = 5.0
    status_s: float = 10.0
    retry_s: float = 1.0
    revive_s: float = 100.0

    def scaled(self, by: float) -> Pace:
        """The waits for a venue times `by`; how often to look and to tell stays, unless it would be less often."""
        return Pace(
            min(self.look_s, self.grace_s * by), self.grace_s * by, self.status_s, self.retry_s * by,
            self.revive_s * by,
        )  # fmt: skip


class Stream(Protocol):
    """What the collector needs of `feeds.VenueStream`."""

    @property
    def counters(self) -> Any:
        """Plain counts, `reconnects` among them; a dataclass."""
        ...

    async def run(self) -> None: ...
    def stop(self) -> None: ...
    def replace(self, instruments: Sequence[Instrument]) -> None: ...
    def revive(self, instruments: Sequence[Instrument]) -> None: ...


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
