"""Rows of many instruments column by column: what a bulk reader needs, without a table for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.lake.hot import HotStore
from qlib_crypto.lake.paths import Dated, dated_files
from qlib_crypto.lake.read import Asked, unchanging
from qlib_crypto.lake.tables import Table
from qlib_crypto.symbols import Instrument

_TIME = pl.Datetime("ms", "UTC")


class Columns(NamedTuple):
    """Rows in the order of the instruments asked for, those of each by time, unique by the table's key.

    Attributes
    ----------
    counts
        Rows of each instrument, shape (k,).
    time_ms
        Unix milliseconds, shape (n,).
    values
        By column, each of shape (n,); NaN where there is none.

    """

    counts: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]


def read_columns(
    hot: HotStore,
    folder: Path,
    table: Table,
    instruments: Sequence[Instrument],
    interval_ms: int,
    window: tuple[int, int],
    names: Sequence[str],
) -> Columns:
    """See `Lake.columns`."""
    start_ms, end_ms = window
    waiting = {
        of.symbol
        for of in hot.held(table)  # before the files: what is sealed meanwhile is then in both
        if of.interval_ms == interval_ms and of.first_ms < end_ms and of.last_ms >= start_ms
    }
    dataset = table.dataset(interval_ms)
    if not table.by_symbol:
        return _of_all(hot, folder, table, [of.symbol for of in instruments], window, names, sealed=not waiting)
    parts: list[Columns | None] = [None] * len(instruments)
    quick: list[tuple[int, list[Dated]]] = []
    look = partial(_listed, folder, dataset, instruments, window)
    for at, files in enumerate(unchanging(folder / dataset, look)):
        if instruments[at].symbol not in waiting and not any(a.end_ms > b.start_ms for a, b in pairwise(files)):
            quick.append((at, files))
    found = _scan(table, quick, instruments, window, names)
    if found is not None and len(quick) == len(instruments):
        return found
    if found is not None:
        ends = np.cumsum(found.counts).tolist()
        for (at, _), start, end in zip(quick, [0, *ends], ends, strict=False):
            own = {name: of[start:end] for name, of in found.values.items()}
            parts[at] = Columns(np.array([end - start]), found.time_ms[start:end], own)
    whole = [
        _of_table(Asked(table, instrument.symbol, interval_ms, *window).rows(hot, folder), names)
        if part is None
        else part
        for instrument, part in zip(instruments, parts, strict=True)
    ]
    return Columns(
        np.concatenate([part.counts for part in whole]),
        np.concatenate([part.time_ms for part in whole]),
        {name: np.concatenate([part.values[name] for part in whole]) for name in names},
    )


def _of_all(
    hot: HotStore,
    folder: Path,
    table: Table,
    symbols: Sequence[str],
    window: tuple[int, int],
    names: Sequence[str],
    *,
    sealed: bool,
) -> Columns:
    """The rows of some symbols, of a table whose files hold those of all."""
    frame = None
    if sealed:
        files = unchanging(folder / table.folder, lambda: dated_files(folder, table.folder, table.stem(None), *window))
        if not any(a.end_ms > b.start_ms for a, b in pairwise(files)):
            frame = _some(files, table, symbols, window)
    if frame is None:
        found = pl.from_arrow(Asked(table, None, 0, *window).rows(hot, folder))
        assert isinstance(found, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
        frame = found.filter(pl.col("symbol").is_in(symbols))
    at = pl.col("symbol").replace_strict(symbols, range(len(symbols)), return_dtype=pl.Int64)
    frame = frame.with_columns(at.alias("_at")).sort("_at", "timestamp", maintain_order=True)
    return Columns(
        np.bincount(frame["_at"].to_numpy(), minlength=len(symbols)),
        frame["timestamp"].to_physical().to_numpy(),
        {name: _floats(frame[name]) for name in names},
    )


def _some(files: Sequence[Dated], table: Table, symbols: Sequence[str], window: tuple[int, int]) -> pl.DataFrame | None:
    """The rows of these symbols; None where a file is not as it should be, or just went."""
    if not files:
        empty = pl.from_arrow(table.schema.empty_table())
        assert isinstance(empty, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
        return empty
    first, end = (pl.lit(edge).cast(_TIME) for edge in window)
    wanted = pl.col("symbol").is_in(symbols) & pl.col("timestamp").is_between(first, end, closed="left")
    try:
        frame = pl.scan_parquet([str(file.path) for file in files], hive_partitioning=False, glob=False)
        found = frame.filter(wanted).collect()
    except (pl.exceptions.PolarsError, OSError):
        return None
    return found if found.columns == table.schema.names else None


def _listed(
    folder: Path, dataset: str, instruments: Sequence[Instrument], window: tuple[int, int]
) -> list[list[Dated]]:
    return [dated_files(folder, dataset, instrument.symbol, *window) for instrument in instruments]


def _scan(
    table: Table,
    asked: Sequence[tuple[int, Sequence[Dated]]],
    instruments: Sequence[Instrument],
    window: tuple[int, int],
    names: Sequence[str],
) -> Columns | None:
    """The rows of files that lie one after another; None where one is not as it should be, or just went."""
    paths = [str(file.path) for _, files in asked for file in files]
    if not paths:
        none = np.zeros(0)
        return Columns(np.zeros(len(asked), np.int64), np.zeros(0, np.int64), dict.fromkeys(names, none))
    several = sum(bool(files) for _, files in asked) > 1
    try:
        lazy = pl.scan_parquet(paths, hive_partitioning=False, glob=False, schema=_schema(table))
        if any(file.start_ms < window[0] or file.end_ms > window[1] for _, files in asked for file in files):
            first, end = (pl.lit(edge).cast(_TIME) for edge in window)
            lazy = lazy.filter(pl.col("timestamp").is_between(first, end, closed="left"))  # skips groups of rows
        frame = lazy.select("timestamp", *names, *["symbol"] * several).collect()
    except (pl.exceptions.PolarsError, OSError):
        return None
    time_ms = frame["timestamp"].to_physical().to_numpy()
    values = {name: _floats(frame[name]) for name in names}
    if several:
        runs = frame["symbol"].rle().struct.unnest()
        if runs["value"].to_list() != [instruments[at].symbol for at, files in asked if files]:
            return None
        counts = np.zeros(len(asked), dtype=np.int64)
        counts[[bool(files) for _, files in asked]] = runs["len"]
    else:
        counts = np.array([len(frame) if files else 0 for _, files in asked], dtype=np.int64)
    return Columns(counts, time_ms, values)


@cache
def _schema(table: Table) -> pl.Schema:
    """Told, so that no file is opened to find it; one that has another is refused."""
    frame = pl.from_arrow(table.schema.empty_table())
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    return frame.schema


def _of_table(rows: pa.Table, names: Sequence[str]) -> Columns:
    frame = pl.from_arrow(rows.select(["timestamp", *names]))
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    return Columns(
        np.array([len(frame)]),
        frame["timestamp"].to_physical().to_numpy(),
        {name: _floats(frame[name]) for name in names},
    )


def _floats(column: pl.Series) -> NDArray[np.float64]:
    """The numbers; nulls become NaN, times Unix milliseconds, `buy` 1 and any other word 0."""
    if column.dtype == pl.String:
        column = (column == "buy").cast(pl.Float64)
    elif column.dtype == _TIME:
        column = column.to_physical().cast(pl.Float64)
    return np.asarray((column.fill_null(np.nan) if column.null_count() else column).to_numpy())
