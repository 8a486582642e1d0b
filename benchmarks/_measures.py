"""The shape in which every benchmark prints a figure, and what a part of a process took."""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Took = dict[str, Any]


def measure(value: float | None, unit: str, *, equal: bool | None = None) -> dict[str, Any]:
    """A figure seen once; `equal`: whether the results beside it were right, None where nothing is compared."""
    return {"value": value, "min": value, "max": value, "unit": unit, "equal": equal}


def several(values: Sequence[float], unit: str, *, equal: bool | None = None) -> dict[str, Any]:
    """As `measure`, of a figure seen more than once: median, lowest, highest."""
    value = statistics.median(values)
    return {"value": value, "min": min(values), "max": max(values), "unit": unit, "equal": equal}


@contextlib.contextmanager
def timed(took: Took) -> Iterator[None]:
    """Wall and CPU seconds of a part and of the processes that it started and waited for; not of imports."""

    def cpu() -> float:
        return sum(
            u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    before, began = cpu(), time.perf_counter()
    yield
    took["wall"], took["cpu"] = time.perf_counter() - began, cpu() - before
    took["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_part(parts: Mapping[str, Callable[..., Took]]) -> None:
    """The part that the command line names, with its arguments as JSON; what it took is printed as JSON."""
    print(json.dumps(parts[sys.argv[1]](**json.loads(sys.argv[2]))))
