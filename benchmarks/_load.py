"""The load: 400 symbols on both venues at 60 times real time, two collectors, ten minutes; what is lost, and memory."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _site import M1, UNLIMITED, Site, end
from _truth import Difference

from qlib_crypto.clock import DAY_MS, HOUR_MS, parse_utc
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.series import empty_bars, empty_settlements
from qlib_crypto.sandbox.serve import running
from qlib_crypto.sandbox.tape import BarSeries, FundingNow, SettlementSeries
from qlib_crypto.symbols import Instrument, Interval, Venue

SYMBOLS, SPEED = 400, 60.0
_START = parse_utc("2025-03-01")
_LOOK_S = 1.0
#: The first part of the run fills caches; the slope is that of the rest.
_WARM = 0.3
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class LoadTape:
    """Random walks of many symbols: minutes of one day, funding every 8 hours, nothing else."""

    venue: Venue
    n_symbols: int = SYMBOLS
    minutes: int = 1_440

    @property
    def span_ms(self) -> tuple[int, int]:
        return _START, _START + self.minutes * M1.ms

    @property
    def specs(self) -> Mapping[Instrument, InstrumentSpec]:
        contract = 1.0
        return {
            instrument: InstrumentSpec(
                instrument=instrument, seen_ms=_START, state="live", category="crypto", rule_type="normal",
                tick_size=0.01, contract_value_base=contract, lot_contracts=1.0, min_contracts=1.0,
                min_notional_quote=5.0, max_leverage=50.0, listed_ms=_START - 30 * DAY_MS, delisted_ms=None,
                spec_source="generated",
            )
            for instrument in self.instruments
        }  # fmt: skip

    @property
    def instruments(self) -> list[Instrument]:
        """`C000_USDT` and so on."""
        return [Instrument(f"C{i:03}", "USDT", self.venue) for i in range(self.n_symbols)]

    def intervals(self, _instrument: Instrument) -> tuple[Interval, ...]:
        return (M1,)

    def bars(self, instrument: Instrument, interval: Interval) -> BarSeries:
        if interval != M1:
            return empty_bars()
        draw = np.random.default_rng([int(instrument.base[1:]), list(Venue).index(self.venue)])
        close = np.round(100 * np.exp(np.cumsum(draw.normal(0, 1e-3, self.minutes))), 2)
        opened = np.concatenate([[100.0], close[:-1]])
        volume = draw.integers(1, 1_000, self.minutes).astype(float)
        high, low = np.maximum(opened, close), np.minimum(opened, close)
        trades = np.full(self.minutes, -1) if self.venue is Venue.OKX else draw.integers(1, 100, self.minutes)
        times = _START + M1.ms * np.arange(self.minutes)
        return BarSeries(times, opened, high, low, close, volume, np.round(volume * close, 2), trades)

    def settlements(self, _instrument: Instrument) -> SettlementSeries:
        times = np.arange(_START, self.span_ms[1], 8 * HOUR_MS)
        return (
            SettlementSeries(times, np.full(len(times), 1e-4), np.full(len(times), np.nan))
            if len(times)
            else empty_settlements()
        )

    def funding_now(self, _instrument: Instrument, at_ms: int) -> FundingNow:
        every = 8 * HOUR_MS
        return FundingNow(1e-4, at_ms - at_ms % every + every, every)


def load(root: Path, minutes: float) -> dict[str, dict[str, Any]]:
    """Frames a second, rows lost and doubled, and the memory slope of the worse collector."""
    root.mkdir(parents=True, exist_ok=True)
    tapes = [LoadTape(venue) for venue in Venue]
    start = _START + 2 * HOUR_MS
    with (
        running(tapes, process=True, speed=SPEED, at=start, rate_scale=UNLIMITED, open_frames=4) as sandbox,
        (root / "log.txt").open("a") as log,
    ):
        sites = [
            Site(tape.venue, tape, tape.instruments, sandbox, root, start + M1.ms, log,
                 {f"QLIB_CRYPTO_{tape.venue.upper()}__TIMER_SCALE": "1"})
            for tape in tapes
        ]  # fmt: skip
        processes = [on.collector() for on in sites]
        try:
            for on in sites:
                on.begin(_PATIENCE_S)
            before, began = sandbox.status(), time.monotonic()
            seen = _watch(processes, minutes * 60)
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
        "load_rows": _measure(done.rows, "rows", equal=good),
        "load_rows_lost": _measure(done.lost + done.named, "rows", equal=good),
        "load_frames_per_s": _measure(frames, "frames/s", equal=good),
        "memory_slope_mb_per_h": _measure(slope, "MB/h", equal=good),
    }


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


def _slope(samples: Sequence[tuple[float, float]]) -> float:
    """MB an hour: the median slope of all pairs (Theil-Sen) after the warm-up, so that one jump is not a leak."""
    at, size = np.array(samples[int(len(samples) * _WARM) :]).T
    i, j = np.triu_indices(len(at), k=max(1, len(at) // 4))
    return float(np.median((size[j] - size[i]) / (at[j] - at[i]))) * 3_600


def _measure(value: float, unit: str, *, equal: bool) -> dict[str, Any]:
    return {"value": value, "min": value, "max": value, "unit": unit, "equal": equal}
