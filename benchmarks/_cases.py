"""Cases that need a machine or a market of their own: a jumping clock, a full disk, contracts that change."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from _site import M1, end, market, site
from _truth import Difference

from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.sandbox.events import EventConfig, EventTape
from qlib_crypto.symbols import Venue

#: Fault, venue, times tried, how lake and tape differ, seconds to be complete again.
type Result = tuple[str, Venue, int, Difference, list[float]]
type Case = Callable[[Venue, argparse.Namespace, Path], Iterator[Result]]

SPEED = 200.0
_PATIENCE_S = 90.0
_SYMBOLS = 4
_WRONG_S = 4.0
_JUMP_S = 7_200
_EVENT_HOURS, _EVENT_SPEED = 5, 300.0
_TMPFS = 'mount -t tmpfs -o size=48m tmpfs "$0" && exec "$@"'


def clock_jump(venue: Venue, arguments: argparse.Namespace, root: Path) -> Iterator[Result]:
    """The machine's clock jumps by two hours, forwards and backwards, and back a little later."""
    tape, of = market(venue, arguments.data, _SYMBOLS)
    opens = tape.bars(of[0], M1).open_ms
    with site(venue, tape, of, root, at_ms=int(opens[len(opens) // 20]), speed=SPEED) as on:
        offset = root / "offset"
        offset.write_text("0")
        here = str(Path(__file__).with_name("_warp.py"))
        warped = (sys.executable, here, str(offset), str(on.now_ms()), repr(time.monotonic()), str(SPEED))
        process = on.collector(program=warped, clock="wall")
        try:
            on.begin(_PATIENCE_S)
            for name, jump in (("clock 2 h ahead", _JUMP_S), ("clock 2 h behind", -_JUMP_S)):
                found, seconds = Difference(), []
                for _ in range(arguments.tries):
                    offset.write_text(str(jump))
                    time.sleep(_WRONG_S)
                    offset.write_text("0")
                    spent, differs = on.wait(_PATIENCE_S)
                    found += differs
                    seconds.append(spent)
                yield name, venue, arguments.tries, found, seconds
        finally:
            end(process)


def disk_full(venue: Venue, arguments: argparse.Namespace, root: Path) -> Iterator[Result]:
    """The file system of the lake, a small one in memory in a mount namespace of its own, is full for some seconds."""
    lake = root / "lake"
    lake.mkdir(parents=True)
    alone = ("unshare", "-Urm", "sh", "-c", _TMPFS, str(lake))
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        yield "disk full: not possible here, no mount namespaces", venue, 0, Difference(), []
        return
    given = [venue, str(root), str(arguments.tries), *([str(arguments.data)] if arguments.data else [])]
    run = subprocess.run([*alone, sys.executable, __file__, *given], check=True, stdout=subprocess.PIPE)
    found, seconds = json.loads(run.stdout.splitlines()[-1])
    yield "disk full", venue, arguments.tries, Difference(**found), seconds


def _full(venue: Venue, root: Path, tries: int, data: Path | None) -> tuple[Difference, list[float]]:
    """The case itself, where `root/lake` is a file system of its own."""
    tape, of = market(venue, data, _SYMBOLS)
    opens = tape.bars(of[0], M1).open_ms
    found, seconds = Difference(), []
    with site(venue, tape, of, root, at_ms=int(opens[len(opens) // 20]), speed=SPEED) as on:
        on.root = root / "lake"
        process = on.collector()
        try:
            on.begin(_PATIENCE_S)
            for _ in range(tries):
                filler = on.root / "filler"
                _fill(filler)
                time.sleep(_WRONG_S)
                filler.unlink()
                spent, differs = on.wait(_PATIENCE_S)
                found += differs
                seconds.append(spent)
                if process.poll() is not None:
                    raise RuntimeError(f"the collector ended with {process.returncode} on a full disk")
        finally:
            end(process)
    return found, seconds


def contracts_change(venue: Venue, arguments: argparse.Namespace, root: Path) -> Iterator[Result]:
    """Listing, delisting, new contract value, reused ticker, new funding interval, outage, a spell without trades."""
    found, seconds = Difference(), []
    for number in range(arguments.tries):
        tape = EventTape(EventConfig(venue, hours=_EVENT_HOURS, funding_hours=1, seed=arguments.seed + number))
        start, stop = tape.span_ms
        of = [instrument for instrument in tape.specs if instrument.listing == 1]
        with site(venue, tape, of, root / str(number), at_ms=start + 5 * MINUTE_MS, speed=_EVENT_SPEED) as on:
            process = on.collector()
            try:
                on.instruments = [i for i in of if (tape.specs[i].listed_ms or 0) < start]
                on.begin(_PATIENCE_S)
                on.instruments = list(tape.specs)
                while on.now_ms() < stop:
                    time.sleep(0.2)
                began, differs = time.monotonic(), Difference(lost=1)
                while not differs.equal and time.monotonic() - began < _PATIENCE_S:
                    time.sleep(0.5)
                    differs = on.differ(stop, whole=True)
                found += differs
                seconds.append(time.monotonic() - began)
            finally:
                end(process)
    yield "contracts and venue change", venue, arguments.tries, found, seconds


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size >>= 1


CASES: dict[str, Case] = {"clock jump": clock_jump, "disk full": disk_full, "contracts change": contracts_change}


if __name__ == "__main__":
    differs, spent = _full(
        Venue(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]) if sys.argv[4:] else None
    )
    print(json.dumps([asdict(differs), spent]))
