"""`kill -9` at random instants: the collector, and seal, repair and rank processes beside it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

from _site import Site, end
from _truth import Difference

from qlib_crypto.symbols import Venue

#: A process of each kind lives so long at most before it is killed: its start is about one second of it.
_LIVES_S = {"collect": (0.3, 6.0), "seal": (0.6, 2.0), "repair": (0.6, 3.0), "rank": (0.6, 2.5)}
_ORDER = ("collect", "seal", "collect", "repair", "collect", "rank")


def kills(
    on: Site, count: int, draw: random.Random, patience_s: float
) -> Iterator[tuple[str, Venue, int, Difference, list[float]]]:
    """So many kills; after each, a collector is started again and the lake must become equal to the tape.

    While seal, repair and rank are killed, a collector lives beside them.
    """
    found = {kind: Difference() for kind in _LIVES_S}
    seconds: dict[str, list[float]] = {kind: [] for kind in _LIVES_S}
    process = on.collector()
    on.begin(patience_s)
    try:
        for number in range(count):
            kind = _ORDER[number % len(_ORDER)]
            life = draw.uniform(*_LIVES_S[kind])
            if kind == "collect":
                time.sleep(life)
                end(process, signal.SIGKILL)
                process = on.collector()
            else:
                victim = on.start(kind)
                time.sleep(life)
                end(victim, signal.SIGKILL)
            spent, differs = on.wait(patience_s)
            found[kind] += differs
            seconds[kind].append(spent)
        on.complete_ms = 0
        _, differs = on.wait(patience_s)  # all of it once more
        found["collect"] += differs
    finally:
        end(process)
    for kind, differs in found.items():
        yield f"kill -9 in {kind}", on.venue, len(seconds[kind]), differs, seconds[kind]
