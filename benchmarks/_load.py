"""The load: 400 symbols on both venues at 60 times real time, two collectors, ten minutes; what is lost, and memory."""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _measures import measure
from _site import M1, UNLIMITED, Site, end
from _truth import Difference

from qlib_crypto.clock import DAY_MS, HOUR_MS, day_start
from qlib_crypto.sandbox.events import EventConfig, EventTape
from qlib_crypto.sandbox.serve import running
from qlib_crypto.symbols import Venue

#: One more open frame a bar than the four that the load is stated with: above 4,000 frames a second, not at it.
SYMBOLS, SPEED, OPEN_FRAMES = 400, 60.0, 5
_LOOK_S = 1.0
#: Three market hours fill what a collector remembers, the seal of a day and two settlements of all at once its largest
#: buffers. What memory does after that is the slope; a third settlement is in it.
_WARM_S, _BEFORE_MIDNIGHT_MS = 660.0, 2 * HOUR_MS
#: One comparison of everything takes minutes beside the load.
_PATIENCE_S = 600.0


def load(root: Path, minutes: float) -> dict[str, dict[str, Any]]:
    """Frames a second, rows lost and doubled, and the memory slope of the worse collector."""
    root.mkdir(parents=True, exist_ok=True)
    hours = 36 + math.ceil((minutes + _WARM_S / 60) * SPEED / 60)  # the comparison at the end takes some, too
    tapes = [EventTape(EventConfig(venue, hours=hours, n_symbols=SYMBOLS, events=False)) for venue in Venue]
    start = day_start(tapes[0].span_ms[0] + HOUR_MS + DAY_MS) - _BEFORE_MIDNIGHT_MS
    with (
        running(tapes, process=True, speed=SPEED, at=start, rate_scale=UNLIMITED, open_frames=OPEN_FRAMES) as sandbox,
        (root / "log.txt").open("a") as log,
    ):
        sites = [
            Site(tape.venue, tape, list(tape.specs), sandbox, root, start + M1.ms, log,
                 _environment(tape.venue))
            for tape in tapes
        ]  # fmt: skip
        processes = [on.collector() for on in sites]
        try:
            for on in sites:
                on.begin(_PATIENCE_S)
            before, began = sandbox.status(), time.monotonic()
            seen = _watch(processes, _WARM_S + minutes * 60)
            _keep(root, seen)
            after, spent = sandbox.status(), time.monotonic() - began
            done = _until_complete(sites)
        finally:
            for process in processes:
                end(process)
        late = any(process.returncode for process in processes)
    frames = (after["frames_sent"] - before["frames_sent"]) / spent
    slope = max(_slope(samples) for samples in seen)
    good = done.equal and not late
    return {
        "load_rows": measure(done.rows, "rows", equal=good),
        "load_rows_lost": measure(done.lost + done.named, "rows", equal=good),
        "load_frames_per_s": measure(frames, "frames/s", equal=good),
        "memory_slope_mb_per_h": measure(slope, "MB/h", equal=good),
    }


def _environment(venue: Venue) -> dict[str, str]:
    """The protocol's own waits; candles and funding only, as the load is stated."""
    prefix = f"QLIB_CRYPTO_{venue.upper()}__"
    return {f"{prefix}TIMER_SCALE": "1", f"{prefix}DATASETS": "[]"}


def _until_complete(sites: Sequence[Site]) -> Difference:
    total = Difference()
    for on in sites:
        on.complete_ms = 0
        total += on.wait(_PATIENCE_S)[1]
    return total


def _watch(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> list[list[tuple[float, float]]]:
    """Resident memory in MB of each process, with the time of seeing."""
    seen: list[list[tuple[float, float]]] = [[] for _ in processes]
    page = os.sysconf("SC_PAGE_SIZE")
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        for samples, process in zip(seen, processes, strict=True):
            resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            samples.append((now, resident * page / 1e6))
        time.sleep(_LOOK_S)
    return seen


def _keep(root: Path, seen: Sequence[Sequence[tuple[float, float]]]) -> None:
    """The samples beside the logs: a slope that is too steep is looked at as a curve."""
    rows = [f"{which},{at:.1f},{size:.1f}\n" for which, samples in enumerate(seen) for at, size in samples]
    (root / "memory.csv").write_text("collector,s,mb\n" + "".join(rows))


def _slope(samples: Sequence[tuple[float, float]]) -> float:
    """MB an hour: the median slope of all pairs (Theil-Sen) after the warm-up, so that one jump is not a leak."""
    at, size = np.array([sample for sample in samples if sample[0] >= _WARM_S]).T
    i, j = np.triu_indices(len(at), k=max(1, len(at) // 4))
    return float(np.median((size[j] - size[i]) / (at[j] - at[i]))) * 3_600
