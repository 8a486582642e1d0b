"""The fault suite: real collector processes against the sandbox at high speed, and every row compared with the tape.

Every fault is done to each venue several times while its collector runs; afterwards, once the venue is well again, the
lake must equal the tape row for row, or name what is missing. Then `kill -9` at random instants in collecting, sealing,
repairing and ranking; a machine clock that jumps; a full disk; contracts that are listed, delisted, changed and reused
while they are followed; and the load of 400 symbols on both venues. Prints a table, and one JSON object with --json.

    qlib-crypto bench collect [--data ../shared/data/real] [--part "half-open socket"] [--part kill] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _cases import CASES
from _faults import FAULTS, Fault
from _kills import kills
from _load import load
from _measures import measure
from _site import M1, Site, end, market, site
from _truth import Difference

from qlib_crypto.symbols import Venue

SPEED = 200.0
#: A fault that is not mended after so long counts what is missing as lost.
PATIENCE_S = 90.0
SYMBOLS = 8


@dataclass
class Line:
    """What came of one fault at one venue."""

    fault: str
    venue: Venue
    tried: int = 0
    found: Difference = field(default_factory=Difference)
    seconds: list[float] = field(default_factory=list)

    def cells(self) -> list[str]:
        """The table's cells."""
        seconds = f"{statistics.median(self.seconds):.1f} ({max(self.seconds):.1f})" if self.seconds else "-"
        found = self.found
        counts = (self.tried, found.lost, found.doubled, found.wrong + found.foreign, found.named)
        return [self.fault, self.venue, *map(str, counts), seconds]


def faults(on: Site, chosen: Sequence[Fault], tries: int, report: Callable[[Line], None]) -> None:
    """Each fault so often at one venue, one after the other under one living collector."""
    process = on.collector()
    try:
        on.begin(PATIENCE_S)
        for fault in chosen:
            line = Line(fault.name, on.venue)
            for _ in range(tries):
                fault.arm(on.sandbox, on.venue)
                time.sleep(fault.unwell_s)
                seconds, found = on.wait(PATIENCE_S)
                line.tried += 1
                line.found += found
                line.seconds.append(seconds)
                if process.poll() is not None:
                    raise RuntimeError(f"{on.venue}: the collector ended with {process.returncode} in {fault.name}")
            report(line)
    finally:
        end(process)


def _venue(venue: Venue, arguments: argparse.Namespace, report: Callable[[Line], None], root: Path) -> None:
    """Everything that is done to one venue with a market of its own."""
    parts = arguments.part
    chosen = [f for f in FAULTS if venue in f.venues and (not parts or {"faults", f.name} & set(parts))]
    tape, of = market(venue, arguments.data, SYMBOLS)
    opens = tape.bars(of[0], M1).open_ms
    at = int(opens[len(opens) // 20])
    if chosen:
        with site(venue, tape, of, root / "faults", at_ms=at, speed=SPEED) as on:
            faults(on, chosen, arguments.tries, report)
            whole = on.differ(on.complete_ms, whole=True)
            report(Line("all of them, looked at again", venue, 1, whole))
    if not parts or "kill" in parts:
        with site(venue, tape, of, root / "kill", at_ms=at, speed=SPEED) as on:
            for line in kills(on, -(-arguments.kills // len(Venue)), random.Random(arguments.seed), PATIENCE_S):
                report(Line(*line))
    for name, case in CASES.items():
        if not parts or name in parts:
            for line in case(venue, arguments, root / name.replace(" ", "_")):
                report(Line(*line))


def main(argv: Sequence[str] | None = None) -> int:
    """Run and print; the exit status is 0 when nothing was lost, doubled or wrong, else 3."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with real candles/ and funding/; generated without it")
    parser.add_argument("--part", action="append", help="a fault's name, kill, load, or another part; may be repeated")
    parser.add_argument("--venue", type=Venue, action="append", help="only this venue")
    parser.add_argument("--tries", type=int, default=5, help="times each fault is done to each venue")
    parser.add_argument("--kills", type=int, default=200, help="kill -9 in all")
    parser.add_argument("--load-minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=20250501)
    parser.add_argument("--keep", type=Path, help="folder for lakes and logs, kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    _check_parts(arguments.part, parser)
    arguments.data = arguments.data.resolve() if arguments.data else None
    lines: list[Line] = []
    lock = threading.Lock()

    def report(line: Line) -> None:
        with lock:
            lines.append(line)
            print(
                "  ".join(line.cells()) + ("" if line.found.equal else f"  {line.found}"), file=sys.stderr, flush=True
            )

    folder: AbstractContextManager[Any] = tempfile.TemporaryDirectory(prefix="collect-")
    if arguments.keep:
        folder = nullcontext(arguments.keep.resolve())
    with folder as name:
        root = Path(name)
        errors = _both(arguments.venue or list(Venue), arguments, report, root)
        loaded = load(root / "load", arguments.load_minutes) if not arguments.part or "load" in arguments.part else {}
    _print(lines, loaded, as_json=arguments.json)
    for error in errors:
        print(f"failed: {error}", file=sys.stderr)
    good = all(line.found.equal for line in lines) and all(m["equal"] is not False for m in loaded.values())
    return 3 if errors or not good else 0


def _both(
    venues: Sequence[Venue], arguments: argparse.Namespace, report: Callable[[Line], None], root: Path
) -> list[str]:
    """The venues beside each other; what went wrong with one of them as a whole."""
    errors: list[str] = []

    def work(venue: Venue) -> None:
        try:
            _venue(venue, arguments, report, root / venue)
        except Exception as error:  # noqa: BLE001 - told at the end; the other venue goes on
            errors.append(f"{venue}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(venue,)) for venue in venues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def _check_parts(parts: Sequence[str] | None, parser: argparse.ArgumentParser) -> None:
    known = ["faults", "kill", "load", *CASES, *(fault.name for fault in FAULTS)]
    for part in parts or ():
        if part not in known:
            parser.error(f"part {part!r} is unknown; choose of: {', '.join(known)}")


def _print(lines: Sequence[Line], loaded: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    total = Difference()
    for line in lines:
        total += line.found
    tried = sum(line.tried for line in lines if "kill -9" in line.fault)
    measures = {
        "rows_lost": measure(total.lost, "rows", equal=not total.lost),
        "rows_doubled": measure(total.doubled, "rows", equal=not total.doubled),
        "rows_wrong": measure(total.wrong + total.foreign, "rows", equal=not total.wrong + total.foreign),
        "kills": measure(tried, "kills", equal=total.equal),
        **loaded,
    }
    if as_json:
        print(
            json.dumps({"bench": "collect", "runs": 1, "measures": measures, "table": [line.cells() for line in lines]})
        )
        return
    head = ["fault", "venue", "tried", "lost", "doubled", "wrong", "named", "seconds to be complete (worst)"]
    rows = [head, *(line.cells() for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for name, found in loaded.items():
        print(f"{name}: {found['value']} {found['unit']}")


if __name__ == "__main__":
    sys.exit(main())
