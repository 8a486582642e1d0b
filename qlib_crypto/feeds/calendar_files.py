"""Rows of a span out of files by month and by day: the fewest files, and the days that a month lacks from their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from qlib_crypto.clock import DAY_MS, day_start, month_start, next_month

#: From so many days on, the file of the month is asked for first.
_WORTH_A_MONTH_MS = 4 * DAY_MS


def months(start_ms: int, end_ms: int) -> Iterator[tuple[int, int, int]]:
    """Start and end of the part of [start, end) in each month, and the month."""
    month = month_start(start_ms)
    while month < end_ms:
        following = next_month(month)
        yield max(month, start_ms), min(following, end_ms), month
        month = following


def by_grid[T](
    read_month: Callable[[int], Iterator[tuple[int, T]]],
    read_day: Callable[[int], Iterator[tuple[int, T]]],
    step_ms: int,
    start_ms: int,
    end_ms: int,
) -> Iterator[list[T]]:
    """Pages of a UTC day, oldest first, of rows whose time is in [start, end), each once; never more than a month held.

    A month of which enough is wanted comes from its own file. Of a day that lacks rows of the grid then, the day's
    file is read too: monthly files have been published without days that the daily ones have. A file that is not there
    has no rows. Where a time comes twice, the first row counts.
    """
    for first, end, month in months(start_ms, end_ms):
        rows: dict[int, T] = {}
        if end - first >= _WORTH_A_MONTH_MS:
            for at, row in read_month(month):
                if first <= at < end:
                    rows.setdefault(at, row)
        have = Counter(day_start(at) for at in rows)
        for day in range(day_start(first), end, DAY_MS):
            since, until = max(day, first), min(day + DAY_MS, end)
            page = {at: rows.pop(at) for at in range(since + -since % step_ms, until, step_ms) if at in rows}
            if have[day] < len(range(since + -since % step_ms, until, step_ms)):
                for at, row in read_day(day):
                    if since <= at < until:
                        page.setdefault(at, row)
            if page:
                yield [page[at] for at in sorted(page)]
