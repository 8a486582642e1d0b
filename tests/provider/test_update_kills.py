"""A conversion that is killed at any of its writes: what readers find, and what the next conversion makes of it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from provider_lakes import T0, MemoryLake, make_bars, make_settlements
from test_incremental import assert_equal, content

from qlib_crypto.clock import DAY_MS, HOUR_MS
from qlib_crypto.provider import convert, verify
from qlib_crypto.provider.swap import unfinished
from qlib_crypto.settings import ProviderSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

PROVIDER = ProviderSettings(intervals=("5m", "1h", "1d"), future_days=3)
FIVE = Interval.parse("5m")
BTC, ETH, NEW = (Instrument(base, "USDT", Venue.OKX) for base in ("BTC", "ETH", "NEW"))
KILLED = 9


def lake_of(days, *, changed=False, more=()):
    """Five-minute bars of two coins for so many days; changed: a restated bar, a hole filled, an earlier listing."""
    frames, funding = {}, {}
    for number, instrument in enumerate((BTC, ETH, *more)):
        rng = np.random.default_rng(number)
        frame = make_bars(rng, FIVE, T0, 4 * 288).iloc[: int(days * 288)]
        keep = np.ones(len(frame), dtype=bool)
        if not changed:
            keep[400:410] = False  # a hole that is filled later
            if instrument == ETH:
                keep[:40] = False  # older bars that come later
        else:
            frame = frame.copy()
            frame.iloc[50, 3] *= 1.001
            frame.iloc[50, 1] *= 1.001
        frames[instrument] = {FIVE: frame[keep]}
        gaps = [8] * int(days * 3 + 1)
        funding[instrument] = make_settlements(rng, T0 - 8 * HOUR_MS, gaps, jitter_ms=0, marked=0.5)
    return MemoryLake(frames, funding)


def killed_at(number, lake, provider, *, torn):
    """Convert in a process of its own that ends at a write, before or in the middle of it; True when it was reached."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            die_at(number, torn=torn)
            convert(lake, provider, PROVIDER, durable=False)
        except BaseException:  # noqa: BLE001 - the parent is told
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in {0, KILLED}
    return status == KILLED


def die_at(number, *, torn):
    """End this process at the n-th change of the disk."""
    left = [number]

    def dying(function):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                if torn and function is pwrite:
                    function(args[0], args[1][: len(args[1]) // 8 * 4], args[2])
                os._exit(KILLED)
            return function(*args, **kwargs)

        return call

    pwrite = os.pwrite
    for name in ("pwrite", "rename", "replace", "unlink", "rmdir", "mkdir"):
        setattr(os, name, dying(getattr(os, name)))
    Path.write_bytes = dying(Path.write_bytes)


def view(provider):
    """What Qlib can see: of each instrument that a market lists, the values up to the end of the calendar."""
    seen = {}
    for calendar in (provider / "calendars").glob("*.txt"):
        if calendar.stem.endswith("_future"):
            continue
        lines = calendar.read_text().splitlines()
        assert len(set(lines)) == len(lines) == sorted(lines).index(lines[-1]) + 1
        for line in (provider / "instruments" / f"all_{calendar.stem}.txt").read_text().splitlines():
            name = line.split("\t")[0]
            for path in (provider / "features" / name.lower()).glob(f"*.{calendar.stem}.bin"):
                data = np.fromfile(path, "<f4")
                for slot, value in enumerate(data[1:].tolist(), start=int(data[0])):
                    if slot < len(lines):
                        seen[name, path.name, lines[slot]] = value
    return seen


def same(one, other):
    return one == other or (one != one and other != other)  # noqa: PLR0124 - NaN


def kills(tmp_path, start, end, numbers, *, torn):
    """Kill an update at each of these writes; how many it has when all are tried."""
    provider, full = tmp_path / "qlib_data", tmp_path / "full"
    convert(start, provider, PROVIDER, durable=False)
    convert(end, full, PROVIDER, durable=False)
    before, after, right = view(provider), view(full), content(full)
    reached = 0
    for number in numbers:
        trial = tmp_path / "trial" / "qlib_data"
        shutil.copytree(provider, trial)
        died = killed_at(number, end, trial, torn=torn)
        reached += died
        found = view(trial)
        for key, value in found.items():
            old, new = before.get(key, np.nan), after.get(key, np.nan)
            assert same(value, old) or same(value, new), f"{key} is {value}, neither {old} nor {new}"
        lost = [key for key, value in before.items() if value == value and key not in found]  # noqa: PLR0124 - NaN
        assert not lost, f"killed at write {number}: {lost[0]} is gone"
        convert(end, trial, PROVIDER, durable=False)
        assert not unfinished(trial)
        assert_equal(content(trial), right)
        shutil.rmtree(tmp_path / "trial")
        if not died:
            break
    assert verify(end, full) == []
    return reached


@pytest.mark.parametrize("torn", [False, True])
def test_killed_at_some_writes(tmp_path, torn):
    draw = np.random.default_rng(int(torn))
    numbers = sorted(draw.choice(np.arange(1, 330), 12, replace=False).tolist())
    assert kills(tmp_path, lake_of(2.4), lake_of(3.2, changed=True, more=[NEW]), numbers, torn=torn) >= 10


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("changed", [False, True])
def test_killed_at_every_write(tmp_path, changed, torn):
    end = lake_of(3.2, changed=changed, more=[NEW] if changed else [])
    numbers = range(1, 10_000, 3 if torn else 1)  # a third of the torn ones: a minute each hundred
    assert kills(tmp_path, lake_of(2.4), end, numbers, torn=torn) > 100 / numbers.step


def test_an_append_is_a_prefix_at_each_frequency_wherever_it_is_killed(tmp_path):
    """Without late bars every value up to the end of a calendar is there, old or new calendar, at any kill."""
    provider, full = tmp_path / "qlib_data", tmp_path / "full"
    start, end = lake_of(2.4), lake_of(3.2)
    convert(start, provider, PROVIDER, durable=False)
    convert(end, full, PROVIDER, durable=False)
    lengths = {path.name: path.read_text().count("\n") for path in (full / "calendars").iterdir()}
    after = view(full)
    seen = set()
    for number in range(1, 260, 17):
        trial = tmp_path / "trial" / "qlib_data"
        shutil.copytree(provider, trial)
        killed_at(number, end, trial, torn=number % 2 == 0)
        bars = {key: value for key, value in view(trial).items() if key[1].split(".")[0] in {"open", "close", "change"}}
        assert all(same(value, after[key]) for key, value in bars.items())
        for freq in ("5min", "60min", "day"):
            count = (trial / "calendars" / f"{freq}.txt").read_text().count("\n")
            seen.add((freq, count == lengths[f"{freq}.txt"]))
            assert sum(key[1] == f"open.{freq}.bin" and key[0] == BTC.qlib for key in bars) == count
        shutil.rmtree(tmp_path / "trial")
    assert len(seen) > 3, "killed before and after a calendar"
    assert DAY_MS
