"""Who was in the universe when: rankings as they were made, and rebuilt ones where none was made."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, MINUTE_MS, iso
from qlib_crypto.errors import DataError
from qlib_crypto.lake import Lake
from qlib_crypto.lake.snapshots import rebuilt
from qlib_crypto.symbols import Venue

#: A ranking so near to a due time is the ranking of that time; the later ones of a day are an hour apart or more.
SAME_RANKING_MS = 30 * MINUTE_MS
#: Rankings are a day apart at most, so a rebuilt one that none follows says nothing of the days after.
_REBUILT_HOLDS_MS = DAY_MS


class Ranking(NamedTuple):
    """The members, the best first, in `[start_ms, end_ms)`; `end_ms` None: they still are."""

    start_ms: int
    end_ms: int | None
    symbols: tuple[str, ...]


def rankings(lake: Lake, venue: Venue) -> list[Ranking]:
    """Every ranking that holds at some time, ascending and disjoint.

    One that was made holds until the next one, a rebuilt one for a day at most. Where one was made within half an hour
    of a rebuilt one, that is left out.
    """
    made, later = _members(lake.memberships(venue)), _members(rebuilt(lake.folder(venue)))
    near = made_in(list(made), list(later), SAME_RANKING_MS)
    later = {at: later[at] for at, replaced in zip(later, near, strict=True) if not replaced}
    starts = sorted({*made, *later})
    out = []
    for start, following in pairwise([*starts, None]):
        assert start is not None  # noqa: S101 - only the last is; for the type checker
        end = following
        if start in later:
            end = start + _REBUILT_HOLDS_MS if following is None else min(following, start + _REBUILT_HOLDS_MS)
        out.append(Ranking(start, end, made[start] if start in made else later[start]))
    return out


def ranking_at(lake: Lake, venue: Venue, at_ms: int) -> Ranking:
    """The ranking that holds at `at_ms`; after the last one that was made that one, however long ago it was.

    Raises
    ------
    DataError
        No ranking holds at that time, neither made nor rebuilt.

    """
    known = rankings(lake, venue)
    for ranking in known:
        if ranking.start_ms <= at_ms and (ranking.end_ms is None or at_ms < ranking.end_ms):
            return ranking
    first = f"the first one holds from {iso(known[0].start_ms)}" if known else "there is none yet"
    raise DataError(
        f"no ranking of {venue} holds at {iso(at_ms)}, {first}; rebuild that time from settled funding: "
        f"qlib-crypto members --venue {venue} --rebuild --start … --end …"
    )


def members(lake: Lake, venue: Venue, at_ms: int) -> list[str]:
    """The symbols that were members at `at_ms`, the best first, by `ranking_at`; raises what that raises."""
    return list(ranking_at(lake, venue, at_ms).symbols)


def membership_spans(lake: Lake, venue: Venue) -> dict[str, list[tuple[int, int | None]]]:
    """When each symbol was a member: ascending disjoint `[start_ms, end_ms)`; end None is still a member.

    By the rankings that were made, and by rebuilt ones where none was; symbols that never were members are left out.
    """
    spans: dict[str, list[tuple[int, int | None]]] = {}
    for start, end, symbols in rankings(lake, venue):
        for symbol in symbols:
            own = spans.setdefault(symbol, [])
            if own and own[-1][1] == start:
                own[-1] = own[-1][0], end
            else:
                own.append((start, end))
    return {symbol: spans[symbol] for symbol in sorted(spans)}


def made_in(made_ms: Sequence[int], times_ms: Sequence[int], before_ms: int) -> NDArray[np.bool_]:
    """Of each time, whether a ranking was made from `before_ms` before it to half an hour after it."""
    made, times = np.sort(np.array(made_ms, np.int64)), np.array(times_ms, np.int64)
    first = np.searchsorted(made, times - before_ms, side="left")
    return np.asarray(first < np.searchsorted(made, times + SAME_RANKING_MS, side="right"))


def _members(table: pa.Table) -> dict[int, tuple[str, ...]]:
    """By the time of each ranking its members, the best first."""
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    grouped = frame.group_by(pl.col("timestamp").dt.epoch("ms")).agg(
        pl.col("symbol").sort_by("rank").filter(pl.col("member").sort_by("rank"))
    )
    return {at: tuple(symbols) for at, symbols in grouped.iter_rows()}
