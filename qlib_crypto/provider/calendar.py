"""The 24/7 grid of one frequency, and the calendar files that Qlib reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, iso
from qlib_crypto.errors import DataError
from qlib_crypto.symbols import Interval

#: A feature file holds its first slot as float32, which counts exactly up to here (31.9 years of minutes).
MAX_SLOTS = 1 << 24

_DATE_CHARS = len("YYYY-MM-DD")


@dataclass(frozen=True, slots=True)
class Grid:
    """Every bar of one frequency from its origin on: slot k opens at `origin_ms + k · interval.ms`.

    Attributes
    ----------
    interval
        The frequency.
    origin_ms
        Open of slot 0, 00:00 UTC of a day, of a Monday where the interval is a week.
    length
        Number of slots; slots are [0, length).

    """

    interval: Interval
    origin_ms: int
    length: int

    def __post_init__(self) -> None:
        if self.origin_ms % DAY_MS or self.origin_ms != self.interval.floor(self.origin_ms):
            raise DataError(f"calendar origin {iso(self.origin_ms)} of {self.interval} is not 00:00 UTC; rebuild it")
        if self.length > MAX_SLOTS:
            raise DataError(
                f"{self.interval} from {iso(self.origin_ms)} has {self.length} bars, Qlib's files count to "
                f"{MAX_SLOTS}; drop {self.interval} from provider.intervals or start the history later"
            )

    @property
    def end_ms(self) -> int:
        """Close of the last bar, which is the open of the first slot after the grid."""
        return self.origin_ms + self.length * self.interval.ms

    def slot(self, open_ms: int) -> int:
        """The slot of a bar that opens at `open_ms`, which lies on the grid."""
        return (open_ms - self.origin_ms) // self.interval.ms

    def open_ms(self, slot: int) -> int:
        """The open of a slot, Unix milliseconds UTC."""
        return self.origin_ms + slot * self.interval.ms

    def opens(self) -> NDArray[np.int64]:
        """The open of every slot, shape (length,)."""
        return self.origin_ms + np.arange(self.length, dtype=np.int64) * self.interval.ms

    def extended(self, days: int) -> Grid:
        """The same grid with the future: whole days, `days` after its last bar at most and at least one; or a week.

        The end stays for `days - 1` days, so that the file with the future changes as seldom.
        """
        ahead = days - 1
        covered = self.length * self.interval.ms // DAY_MS
        end = (covered // ahead + 1) * ahead + 1
        return Grid(self.interval, self.origin_ms, max(end * DAY_MS // self.interval.ms, self.length + 1))

    def text(self, since: int = 0) -> bytes:
        """The calendar file from a slot on: one open a line, `YYYY-MM-DD HH:MM:SS`, for days and weeks `YYYY-MM-DD`.

        The times of a day repeat, so only dates are formatted: a year of minutes takes milliseconds.
        """
        if self.interval.ms > DAY_MS:
            opens = self.opens()[since:].astype("datetime64[ms]").astype("datetime64[D]")
            return "".join(f"{day}\n" for day in opens).encode()
        per_day = DAY_MS // self.interval.ms
        before = since // per_day
        days = -(-self.length // per_day) - before
        first = np.datetime64(self.origin_ms, "ms").astype("datetime64[D]") + before
        dates = np.datetime_as_string(first + np.arange(days), unit="D").astype(f"S{_DATE_CHARS}")
        lines = [b"\n"] if per_day == 1 else _clock_lines(self.interval.ms)
        times = np.frombuffer(b"".join(lines), dtype=np.uint8).reshape(per_day, -1)
        out = np.empty((days, per_day, _DATE_CHARS + times.shape[1]), dtype=np.uint8)
        out[:, :, :_DATE_CHARS] = dates.view(np.uint8).reshape(days, 1, _DATE_CHARS)
        out[:, :, _DATE_CHARS:] = times
        return out.reshape(days * per_day, out.shape[2])[
            since - before * per_day : self.length - before * per_day
        ].tobytes()


@lru_cache
def _clock_lines(step_ms: int) -> list[bytes]:
    """What follows the date in each line of a day."""
    return [f" {iso(at)[-8:]}\n".encode() for at in range(0, DAY_MS, step_ms)]


def calendar_files(grid: Grid, future_days: int) -> dict[str, Grid]:
    """The grids of `<freq>.txt` and `<freq>_future.txt`, by name; the latter is the whole grid and the days after it.

    Qlib's backtester fails on the last stored bar without a later one in the second file.
    """
    name = grid.interval.qlib
    return {f"{name}.txt": grid, f"{name}_future.txt": grid.extended(future_days)}
