"""A venue played by the sandbox, with collector processes of the command line on it, and the lake they fill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from _truth import Difference, bars_differ, settlements_differ

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.lake import Lake
from qlib_crypto.sandbox.generator import GeneratorTape
from qlib_crypto.sandbox.generator_config import GeneratorConfig
from qlib_crypto.sandbox.serve import SandboxHandle, running
from qlib_crypto.sandbox.tape import Tape
from qlib_crypto.sandbox.tape_files import FileTape
from qlib_crypto.symbols import Instrument, Interval, Venue

M1 = Interval.parse("1m")
#: Multiplies the request limits of both sides; high enough never to be met.
UNLIMITED = 10_000.0
#: The protocol's waits of a client of a market at this speed: silence is noticed after 3 s instead of 65 s.
TIMER_SCALE = 0.05
PROGRAM = (sys.executable, "-m", "qlib_crypto.cli")
#: A row may be under way for so long: it closed, was sent, and is about to be durable.
LAG_MS = 3 * MINUTE_MS
_LOOK_S = 0.2
#: So many times as long as a look takes is waited before the next: looking is not the load.
_SHARE = 4.0
_STOP_S = 120.0


def market(venue: Venue, data: Path | None, symbols: int) -> tuple[Tape, list[Instrument]]:
    """Some minutes' worth of a market: the real one of the folder, or a generated one."""
    if data is not None:
        tape: Tape = FileTape(data, venue)
        return tape, [i for i in sorted(tape.specs) if M1 in tape.intervals(i)][:symbols]
    config = GeneratorConfig(venue=venue, n_symbols=30, minute_days=6)
    tape = GeneratorTape(config)
    start = config.end_ms - 6 * DAY_MS
    whole = [
        i for i in sorted(tape.specs) if tape.specs[i].delisted_ms is None and (tape.specs[i].listed_ms or 0) < start
    ]
    return tape, whole[:symbols]


@dataclass
class Site:
    """One venue under test: its sandbox, its lake, and the span that is to be complete."""

    venue: Venue
    tape: Tape
    instruments: list[Instrument]
    sandbox: SandboxHandle
    root: Path
    start_ms: int
    log: IO[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    complete_ms: int = 0

    def now_ms(self) -> int:
        """Market time."""
        now: int = self.sandbox.status()["market_ms"]
        return now

    def start(self, command: str, *options: str, program: Sequence[str] = PROGRAM) -> subprocess.Popen[bytes]:
        """A process of the command line on this venue and lake."""
        environment = os.environ | {
            f"QLIB_CRYPTO_{self.venue.upper()}__TIMER_SCALE": str(TIMER_SCALE),
            "OMP_NUM_THREADS": "1",
            **self.environment,
        }
        arguments = [command, "--venue", self.venue, "--lake", str(self.root), *options]
        if command != "seal":
            arguments += ["--endpoint", self.sandbox.url, "--rate-scale", str(UNLIMITED)]
        return subprocess.Popen(
            [*program, *arguments], env=environment, cwd=self.root, stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log,
        )  # fmt: skip

    def collector(self, *, clock: str = "venue", program: Sequence[str] = PROGRAM) -> subprocess.Popen[bytes]:
        """The collector, following this site's instruments."""
        symbols = ",".join(instrument.symbol for instrument in self.instruments)
        return self.start("collect", "--symbols", symbols, "--clock", clock, program=program)

    def spans(self, start_ms: int, end_ms: int) -> dict[Instrument, tuple[int, int]]:
        """Of each instrument what can be there of a span: from its listing to its delisting."""
        out = {}
        for instrument in self.instruments:
            spec = self.tape.specs[instrument]
            first = max(start_ms, spec.listed_ms or 0)
            out[instrument] = first, max(first, min(end_ms, spec.delisted_ms or end_ms))
        return out

    def differ(self, end_ms: int, *, whole: bool = False) -> Difference:
        """Lake against tape: bars closed and settlements due by `end_ms`, from an hour before what was complete on."""
        lake = Lake(self.root)
        try:
            since = self.start_ms if whole else max(self.start_ms, self.complete_ms - HOUR_MS)
            found = bars_differ(lake, self.tape, self.spans(since, M1.floor(end_ms)), M1)
            found += settlements_differ(lake, self.tape, self.spans(since, end_ms - 2 * MINUTE_MS))
            return found
        finally:
            lake.close()

    def begin(self, timeout_s: float) -> None:
        """Return once every instrument has a bar; a first collector begins with the stream, so the span begins there.

        Raises
        ------
        RuntimeError
            It did not get complete.

        """
        until = time.monotonic() + timeout_s
        firsts: list[int] = []
        pause_s = _LOOK_S
        while len(firsts) < len(self.instruments) and time.monotonic() < until:
            time.sleep(pause_s)
            began = time.monotonic()
            lake = Lake(self.root)
            try:
                times = (lake.bar_times(instrument, M1) for instrument in self.instruments)
                firsts = [int(opens[0]) for opens in times if len(opens)]
            finally:
                lake.close()
            pause_s = max(_LOOK_S, _SHARE * (time.monotonic() - began))
        self.start_ms = max(firsts, default=self.start_ms)
        _, found = self.wait(timeout_s)
        if not found.equal or not firsts:
            raise RuntimeError(f"{self.venue}: the collector did not get complete before the first fault: {found}")

    def streams(self, since_ms: int) -> bool:
        """True when every instrument has had a bar by websocket since: REST alone is not being well again."""
        lake = Lake(self.root)
        try:
            tables = (lake.bars(i, M1, since_ms - M1.ms) for i in self.instruments if self.trades(i, since_ms))
            return all("ws" in table.column("source").to_pylist() for table in tables)
        finally:
            lake.close()

    def trades(self, instrument: Instrument, at_ms: int) -> bool:
        """True when the tape has minutes of the instrument at that time."""
        opens = self.tape.bars(instrument, M1).open_ms
        return bool(len(opens) and opens[0] <= at_ms < opens[-1])

    def wait(self, timeout_s: float) -> tuple[float, Difference]:
        """Wall seconds until the lake is complete and streaming again, from now on; and what still differs.

        Complete is up to `LAG_MS` ago, and beyond the present.
        """
        began, well_ms = time.monotonic(), self.now_ms()
        while True:
            looked = time.monotonic()
            end_ms = self.now_ms() - LAG_MS
            found = self.differ(end_ms)
            spent = time.monotonic() - began
            if found.equal and end_ms >= well_ms and self.streams(well_ms):
                self.complete_ms = max(self.complete_ms, M1.floor(end_ms))
                return spent, found
            if spent > timeout_s:
                if found.equal:
                    found.lost, found.examples = 1, [f"{self.venue}: complete by REST only, no bar by websocket"]
                return spent, found
            time.sleep(max(_LOOK_S, _SHARE * (time.monotonic() - looked)))


@contextlib.contextmanager
def site(
    venue: Venue,
    tape: Tape,
    instruments: Sequence[Instrument],
    root: Path,
    *,
    at_ms: int,
    speed: float,
    **options: object,
) -> Iterator[Site]:
    """A venue that plays the tape from `at_ms` on in a process of its own."""
    root.mkdir(parents=True, exist_ok=True)
    with (
        running([tape], process=True, speed=speed, at=at_ms, rate_scale=UNLIMITED, **options) as sandbox,
        (root / "log.txt").open("a") as log,
    ):
        yield Site(venue, tape, list(instruments), sandbox, root, M1.floor(at_ms) + M1.ms, log)


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """The exit code of a process that is told to end; killed when it does not."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
