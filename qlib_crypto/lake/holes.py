"""Holes in the hot store: joined as they are found, cut as rows arrive."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from qlib_crypto.lake.tables import Columns, Table

if TYPE_CHECKING:
    from qlib_crypto.lake.ledger import Hole


def cut_holes(connection: sqlite3.Connection, table: Table, columns: Columns) -> None:
    """Take the slots of rows that are being stored out of the holes; rows by interval and slot, in a transaction."""
    if connection.execute("SELECT 1 FROM holes LIMIT 1").fetchone() is None:
        return
    for interval_ms, group in groupby(zip(*columns[:3], strict=True), itemgetter(0)):
        of_interval = list(group)
        span = (table.dataset(interval_ms), of_interval[-1][1], of_interval[0][1])
        found = connection.execute("SELECT symbol FROM holes WHERE dataset = ? AND start_ms <= ? AND end_ms > ?", span)
        slots: dict[str, list[int]] = {symbol: [] for (symbol,) in found}
        if slots:
            for _, slot, symbol in of_interval:
                if symbol in slots:
                    slots[symbol].append(slot)
            cut(connection, table, interval_ms, slots)


def cut(connection: sqlite3.Connection, table: Table, interval_ms: int, slots: Mapping[str, Sequence[int]]) -> None:
    """Take slots, by symbol, out of the holes, inside a transaction."""
    dataset, step_ms = table.dataset(interval_ms), table.step_ms or interval_ms
    for symbol, arrived in slots.items():
        if not arrived:
            continue
        touched = connection.execute(
            "SELECT start_ms, end_ms, cause, found_ms FROM holes "
            "WHERE dataset = ? AND symbol = ? AND start_ms <= ? AND end_ms > ?",
            (dataset, symbol, max(arrived), min(arrived)),
        ).fetchall()
        for start, end, cause, found in touched:
            inside = sorted({slot for slot in arrived if start <= slot < end})
            if inside:
                connection.execute(
                    "DELETE FROM holes WHERE dataset = ? AND symbol = ? AND start_ms = ?", (dataset, symbol, start)
                )
                connection.executemany(
                    "INSERT INTO holes VALUES (?, ?, ?, ?, ?, ?)",
                    [(dataset, symbol, a, b, cause, found) for a, b in free(start, end, inside, step_ms)],
                )


def free(start: int, end: int, slots: Sequence[int], step_ms: int) -> list[tuple[int, int]]:
    """The parts of `[start, end)` that no `[slot, slot + step_ms)` covers; slots ascending."""
    out, at = [], start
    for slot in slots:
        if slot > at:
            out.append((at, slot))
        at = max(at, slot + step_ms)
    return [*out, (at, end)] if at < end else out


def add_hole(connection: sqlite3.Connection, hole: Hole) -> None:
    """Add one hole: joined with those of its cause that it touches, in the place of others that it overlaps."""
    dataset, symbol, start, end, found = hole.dataset, hole.instrument.symbol, hole.start_ms, hole.end_ms, hole.found_ms
    touching = connection.execute(
        "SELECT start_ms, end_ms, cause, found_ms FROM holes "
        "WHERE dataset = ? AND symbol = ? AND start_ms <= ? AND end_ms >= ?",
        (dataset, symbol, end, start),
    ).fetchall()
    parts = []
    for old_start, old_end, cause, old_found in touching:
        if cause == hole.cause:
            start, end, found = min(start, old_start), max(end, old_end), min(found, old_found)
        else:
            sides = (old_start, min(old_end, hole.start_ms)), (max(old_start, hole.end_ms), old_end)
            parts += [(a, b, cause, old_found) for a, b in sides if a < b]
        connection.execute(
            "DELETE FROM holes WHERE dataset = ? AND symbol = ? AND start_ms = ?", (dataset, symbol, old_start)
        )
    connection.executemany(
        "INSERT INTO holes VALUES (?, ?, ?, ?, ?, ?)",
        [(dataset, symbol, *part) for part in (*parts, (start, end, hole.cause, found))],
    )
