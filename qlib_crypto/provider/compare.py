"""The values in a provider against those that the lake gives, computed a second time."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, WEEK_MS, day_start, iso
from qlib_crypto.lake import Lake
from qlib_crypto.provider.dirty import Seen
from qlib_crypto.provider.flags import Flags
from qlib_crypto.provider.funding import SERIES
from qlib_crypto.provider.manifest import Manifest
from qlib_crypto.provider.recompute import expected_bars, expected_fields
from qlib_crypto.provider.recompute_extra import expected_extra
from qlib_crypto.provider.settlements import series_name
from qlib_crypto.provider.write import feature_file
from qlib_crypto.symbols import Instrument, Interval, Venue

#: How much is compared.
Cells = Literal["sample", "all"]
Window = tuple[int, int]

#: Two orders of adding the same numbers may round to neighbouring float32 values, and cancel to not quite zero.
_RELATIVE, _CANCELLED = 2.5e-7, 1e-12
#: Up to so many instruments a sample takes three days of each at every frequency.
_FEW = 9
_BAR = ("open", "high", "low", "close", "volume", "quote_volume")


def value_problems(lake: Lake, provider_dir: Path, manifest: Manifest, cells: Cells) -> list[str]:
    """Fields whose values differ, and bars and values that the provider lacks, one line each.

    When the lake changed since the conversion, what the provider lacks is no problem, other values are.
    """
    check = _Check(lake, provider_dir, manifest, cells)
    in_lake = set()
    for venue in Venue:
        stored: dict[Instrument, list[Interval]] = {}
        for interval in lake.intervals(venue):
            for instrument in lake.instruments(venue, interval):
                stored.setdefault(instrument, []).append(interval)
        in_lake |= {instrument.qlib for instrument in stored}
        if stored:
            settlements = _settlements(lake, venue)
            for number, instrument in enumerate(sorted(stored)):
                own = settlements.filter(pl.col("symbol") == instrument.symbol).drop("symbol")
                check.instrument(instrument, stored[instrument], own, number)
    return [f"{name} is not in the lake" for name in sorted(set(manifest.instruments) - in_lake)] + check.problems()


def glance(
    lake: Lake, provider_dir: Path, manifest: Manifest, stored: Mapping[Instrument, Collection[Interval]]
) -> list[str]:
    """The first differing values of three instruments, a day of each at every third frequency.

    Enough to see a computation that went wrong altogether, and cheap enough for every conversion. None is told when the
    lake went on since the conversion began: what differs may be right by now.
    """
    check = _Check(lake, provider_dir, manifest, "sample", turns=True)
    names = sorted(manifest.instruments)
    for number, name in enumerate(sorted({names[0], names[len(names) // 2], names[-1]})):
        instrument = Instrument.parse(name)
        settlements = _settlements(lake, instrument.venue, instrument)
        check.instrument(instrument, stored[instrument], settlements.drop("symbol"), number)
    problems = check.differing + check.lacking
    return problems if problems and check.as_converted() else []


def _settlements(lake: Lake, venue: Venue, instrument: Instrument | None = None) -> pl.DataFrame:
    columns = {"funding_rate": "rate", "mark_price": "mark", "symbol": "symbol"}
    return _frame(lake.settlements(venue, instrument), *columns).rename(columns)


@dataclass(frozen=True, slots=True)
class _Check:
    lake: Lake
    provider_dir: Path
    manifest: Manifest
    cells: Cells
    turns: bool = False
    differing: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        if not (self.differing or self.lacking):
            return []
        if self.as_converted():
            return self.differing + self.lacking
        return [f"{line} (the lake changed since; convert again)" for line in self.differing]

    def as_converted(self) -> bool:
        """Whether the lake says what it said when the provider was made of it."""
        seen = Seen.read(self.provider_dir) or Seen()
        now = Seen.of(self.lake, Flags.read(self.lake), seen)
        return now.flags == seen.flags and self.lake.content_hash(now.files) == self.manifest.lake_content

    @property
    def _few(self) -> bool:
        return not self.turns and len(self.manifest.instruments) <= _FEW

    def instrument(
        self, instrument: Instrument, stored: Collection[Interval], settlements: pl.DataFrame, number: int
    ) -> None:
        self._compare_settlements(instrument, settlements)
        for window in self._windows(instrument, stored, number):
            for unit, targets in groupby(self._targets(number), lambda target: max(target.ms, DAY_MS)):
                wide = _whole_weeks(window) if unit > DAY_MS else window
                bars = {interval: self._bars(instrument, interval, wide[0] - unit, wide[1]) for interval in stored}
                for target in targets:
                    self.lacking.extend(self._lacking(instrument, target, bars, wide))
                    if target.qlib in self.manifest.instruments.get(instrument.qlib, {}):
                        self._differ(instrument, target, bars, settlements, wide)

    def _compare_settlements(self, instrument: Instrument, settlements: pl.DataFrame) -> None:
        """The provider's own list: what the lake has and it lacks, and what it has otherwise."""
        path = self.provider_dir / series_name(instrument)
        if instrument.qlib not in self.manifest.instruments or not path.is_file():
            return
        found = np.fromfile(path, SERIES)
        held = {at: (rate, price if source == 0 else None) for at, rate, price, source in found.tolist()}
        right = {
            (at + 30_000) // 60_000 * 60_000: (rate, mark if mark is not None and mark > 0 else None)
            for at, rate, mark in settlements.select("t", "rate", "mark").iter_rows()
        }
        lacks = sorted(right.keys() - held.keys())
        other = sorted(at for at, values in held.items() if right.get(at) != values)
        for times, lines, what in ((lacks, self.lacking, "lacks"), (other, self.differing, "differs in")):
            if times:
                lines.append(f"{path} {what} {len(times)} settlements, the first at {iso(times[0])}")

    def _bars(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> pl.DataFrame:
        opens, masks = self.lake.flags(instrument, interval, start_ms, end_ms)
        flags = pl.DataFrame({"t": opens, "flags": masks}, schema={"t": pl.Int64, "flags": pl.Int64})
        bars = _frame(self.lake.bars(instrument, interval, start_ms, end_ms), *_BAR)
        return bars.join(flags, on="t", how="left", maintain_order="left").with_columns(pl.col("flags").fill_null(0))

    def _targets(self, number: int) -> list[Interval]:
        """The frequencies to compare: all, or of more instruments than a few every third, in turns."""
        targets = sorted(Interval.parse(name) for name in self.manifest.settings.intervals)
        return targets if self.cells == "all" or self._few else targets[number % 3 :: 3] or targets[:1]

    def _windows(self, instrument: Instrument, stored: Collection[Interval], number: int) -> list[Window]:
        """The times to compare, whole days and where they touch an end a day more: everything, or a sample.

        A sample is the first day, one between and the last day; more instruments than a few take turns.
        """
        held = self.manifest.instruments.get(instrument.qlib)
        if held and self.cells == "sample":
            ends = [self.manifest.span_ms(instrument.qlib, frequency) for frequency in held]
        else:
            times = [times for interval in stored if (times := self.lake.bar_times(instrument, interval)).size]
            ends = [(int(t[0]), int(t[-1])) for t in times]
        if not ends:
            return []
        first, last = day_start(min(start for start, _ in ends)), day_start(max(end for _, end in ends))
        if self.cells == "all" or last - first < 2 * DAY_MS:
            return [(first - DAY_MS, last + 2 * DAY_MS)]
        between = random.Random(instrument.qlib).randrange(first + DAY_MS, last, DAY_MS)
        windows = [(first - DAY_MS, first + DAY_MS), (between, between + DAY_MS), (last, last + 2 * DAY_MS)]
        return windows if self._few else [windows[number // 3 % 3]]

    def _lacking(
        self, instrument: Instrument, target: Interval, bars: Mapping[Interval, pl.DataFrame], window: Window
    ) -> Iterator[str]:
        held = self.manifest.instruments.get(instrument.qlib, {})
        first, last = self.manifest.span_ms(instrument.qlib, target.qlib) if target.qlib in held else (0, -1)
        opens = expected_bars(bars, target)["t"]
        absent = opens.filter((opens >= window[0]) & ((opens < first) | (opens > last)))
        if absent.len():
            yield f"{instrument} lacks {absent.len()} bars of {target.qlib}, the first at {iso(absent[0])}"

    def _differ(
        self,
        instrument: Instrument,
        target: Interval,
        bars: Mapping[Interval, pl.DataFrame],
        settlements: pl.DataFrame,
        window: Window,
    ) -> None:
        first, last = self.manifest.span_ms(instrument.qlib, target.qlib)
        start, end = max(window[0], first), min(window[1], last + target.ms)
        if start >= end:
            return
        expected = expected_fields(bars, settlements, target, (start, end))
        if instrument.qlib in self.manifest.extra_fields:
            closes = expected.select("t", "close")
            expected = expected.join(expected_extra(self.lake, instrument, target, (start, end), closes), on="t")
        for name in self.manifest.fields_of(instrument.qlib):
            path = feature_file(self.provider_dir, instrument, name, target)
            found = np.fromfile(path, dtype="<f4", count=expected.height, offset=4 * (1 + (start - first) // target.ms))
            right = expected[name].to_numpy().astype(np.float64)
            other = ~_same(found.astype(np.float64), right)
            for lines, wrong in ((self.lacking, other & np.isnan(found)), (self.differing, other & ~np.isnan(found))):
                if wrong.any():
                    at = int(np.argmax(wrong))
                    lines.append(
                        f"{instrument} {name} of {target.qlib} differs in {wrong.sum()} bars, the first at "
                        f"{iso(int(expected['t'][at]))}: provider {found[at]}, lake {np.float32(right[at])}"
                    )


def _whole_weeks(window: Window) -> Window:
    """The weeks that touch a window."""
    week = Interval.of_ms(WEEK_MS)
    return week.floor(window[0]), week.floor(window[1] - 1) + WEEK_MS


def _same(found: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.bool_]:
    scale = np.nanmax(np.abs(right), initial=0.0, where=np.isfinite(right))
    same: NDArray[np.bool_] = np.isclose(found, right, rtol=_RELATIVE, atol=_CANCELLED * scale, equal_nan=True)
    return same


def _frame(table: pa.Table, *columns: str) -> pl.DataFrame:
    """Columns of a lake table, and `t`, its time in ms."""
    frame = pl.from_arrow(table.select(["timestamp", *columns]))
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"a table became {type(frame)}")
    return frame.with_columns(t=pl.col("timestamp").dt.epoch("ms")).drop("timestamp")
