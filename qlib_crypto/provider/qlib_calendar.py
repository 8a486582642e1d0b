"""Qlib's calendars without reading them: the first lines of a file tell all the others.

Qlib makes a `Timestamp` of every line, and a dictionary of those, in every process: seconds for a year of minutes. A
storage class of one's own cannot spare it that, so this is a provider class, named in a workflow or for `qlib.init`:

.. code-block:: yaml

    qlib_init:
      calendar_provider: {class: GridCalendarProvider, module_path: qlib_crypto.provider.qlib_calendar}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from qlib.data.cache import H
from qlib.data.data import LocalCalendarProvider
from qlib.data.storage.file_storage import FileCalendarStorage
from qlib.utils.time import Freq

_FORMATS = {len("YYYY-MM-DD\n"): "%Y-%m-%d", len("YYYY-MM-DD HH:MM:SS\n"): "%Y-%m-%d %H:%M:%S"}


class GridCalendarProvider(LocalCalendarProvider):
    """Qlib's own calendars, computed where the file is an unbroken grid, otherwise read as ever.

    What Qlib's functions return is the same but for the type of an array: `GridTimes`.
    """

    def _get_calendar(self, freq: str, future: bool) -> tuple[NDArray[Any], Mapping[pd.Timestamp, int]]:
        flag = f"{freq}_future_{future}"
        if flag not in H["c"]:
            times = self._times(freq, future=future)
            if times is None:
                calendar: tuple[NDArray[Any], Mapping[pd.Timestamp, int]] = super()._get_calendar(freq, future)
                return calendar
            H["c"][flag] = times, GridSlots(times)
        found: tuple[NDArray[Any], Mapping[pd.Timestamp, int]] = H["c"][flag]
        return found

    def _times(self, freq: str, *, future: bool) -> GridTimes | None:
        storage = self.backend_obj(freq=freq, future=future)
        try:
            if type(storage) is FileCalendarStorage and Freq(storage._freq_file) == Freq(freq):  # noqa: SLF001 - it reads another frequency's file where there is none
                return grid_times(storage.uri)
        except (OSError, ValueError):
            pass  # the stock provider says what is wrong
        return None


class GridTimes(np.ndarray):
    """A regular grid of times as `datetime64[ns]`; like the stock array, its elements are `pandas.Timestamp`."""

    def __getitem__(self, at: Any) -> Any:
        return _stamped(super().__getitem__(at))

    def __iter__(self) -> Iterator[Any]:
        return iter(pd.DatetimeIndex(self)) if self.dtype.kind == "M" else super().__iter__()

    def __repr__(self) -> str:
        return repr(np.asarray(self))  # numpy's own asks its elements what only its own types answer

    def __str__(self) -> str:
        return str(np.asarray(self))

    def tolist(self) -> Any:
        """Timestamps, as the stock array's are."""
        return list(self)

    def max(self, *args: Any, **kwargs: Any) -> Any:
        """The last time, a Timestamp."""
        return _stamped(np.asarray(self).max(*args, **kwargs))

    def min(self, *args: Any, **kwargs: Any) -> Any:
        """The first time, a Timestamp."""
        return _stamped(np.asarray(self).min(*args, **kwargs))


def _stamped(found: Any) -> Any:
    return pd.Timestamp(found) if isinstance(found, np.datetime64) else found


class GridSlots(Mapping[pd.Timestamp, int]):
    """The place of each time in a grid: the dictionary that Qlib makes, by arithmetic."""

    def __init__(self, times: NDArray[Any]) -> None:
        self._times = times
        self._first, following = (pd.Timestamp(at).value for at in times[:2])
        self._step = following - self._first

    def __getitem__(self, time: pd.Timestamp) -> int:
        if pd.Timestamp(time).tzinfo is not None:  # the calendar's times have none
            raise KeyError(time)
        at, off = divmod(pd.Timestamp(time).value - self._first, self._step)
        if off or not 0 <= at < len(self._times):
            raise KeyError(time)
        return at

    def __len__(self) -> int:
        return len(self._times)

    def __iter__(self) -> Iterator[pd.Timestamp]:
        return iter(self._times)


def grid_times(path: Path) -> GridTimes | None:
    """The times of a calendar file; None when it is no unbroken grid, or has fewer than two lines.

    Its first two lines and its size give a grid. The lines at powers of two and the last are compared with it: times
    ascend and lines are of one length, so a missing or repeated line would show in the last.
    """
    with path.open("rb") as file:
        width = len(file.readline())
        style = _FORMATS.get(width)
        size = file.seek(0, 2)
        if style is None or size % width or size < 2 * width:
            return None
        count = size // width
        places = {0, 1, count - 1, *(1 << power for power in range(count.bit_length()) if 1 << power < count)}
        lines = {}
        for at in sorted(places):
            file.seek(at * width)
            lines[at] = file.readline().decode("ascii", "replace").rstrip("\n")
    at_ns = pd.to_datetime(pd.Series(lines), format=style).astype("datetime64[ns]").astype("int64")
    first, step = int(at_ns[0]), int(at_ns[1] - at_ns[0])
    if step <= 0 or any(at_ns[at] != first + at * step for at in lines):
        return None
    return (first + np.arange(count, dtype=np.int64) * step).view("datetime64[ns]").view(GridTimes)
