"""Whole states of a venue at a time: the instruments table and the universe's rankings, a file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa

from qlib_crypto.clock import day_start, utc
from qlib_crypto.errors import DataError
from qlib_crypto.lake.files import content_digest, read_table, read_tables, write_table
from qlib_crypto.lake.paths import INSTRUMENTS, UNIVERSE, dated_files, snapshot_file
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import INSTRUMENTS as INSTRUMENTS_SCHEMA
from qlib_crypto.schemas import MEMBERSHIP
from qlib_crypto.symbols import Instrument, Venue

_FIELDS = {"timestamp": "seen_ms", "listed_at": "listed_ms", "delisted_at": "delisted_ms"}
_REBUILT = "rebuilt"


def store_specs(folder: Path, specs: Sequence[InstrumentSpec]) -> Path:
    """The file that says these specs: a new one each UTC day, and when something but the time of seeing changed."""
    if not specs:
        raise DataError("no instrument specs to store; the venue's instruments answer was empty, ask it again")
    table = _table(specs)
    seen_ms = max(spec.seen_ms for spec in specs)
    newest = dated_files(folder, INSTRUMENTS)[-1:]
    today = newest and day_start(newest[0].start_ms) == day_start(seen_ms)
    if today and _unchanged(read_table(newest[0].path, INSTRUMENTS_SCHEMA), table):
        return newest[0].path
    path = snapshot_file(folder, INSTRUMENTS, seen_ms)
    write_table(path, table)
    return path


def specs(folder: Path, venue: Venue, at_ms: int | None) -> dict[Instrument, InstrumentSpec]:
    """The last seen spec of every instrument, from snapshots not after `at_ms`."""
    end_ms = None if at_ms is None else at_ms + 1
    files = [file.path for file in dated_files(folder, INSTRUMENTS, end_ms=end_ms)]
    rows = pl.from_arrow(read_tables(files, INSTRUMENTS_SCHEMA))
    assert isinstance(rows, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    if at_ms is not None:
        rows = rows.filter(pl.col("timestamp").dt.epoch("ms") <= at_ms)
    last = rows.sort("timestamp", maintain_order=True).unique("symbol", keep="last").sort("symbol")
    return {spec.instrument: spec for spec in (_spec(row, venue) for row in last.to_dicts())}


def store_membership(folder: Path, table: pa.Table, at_ms: int) -> Path:
    """The file of one ranking."""
    path = snapshot_file(folder, UNIVERSE, at_ms)
    write_table(path, table.cast(MEMBERSHIP))
    return path


def store_rebuilt(folder: Path, table: pa.Table, at_ms: int) -> Path:
    """The file of one ranking that was rebuilt later from settled funding, beside those made at their time."""
    path = folder / UNIVERSE / f"{_REBUILT}_{utc(at_ms):%Y%m%dT%H%M%S}.parquet"
    write_table(path, table.cast(MEMBERSHIP))
    return path


def rebuilt(folder: Path) -> pa.Table:
    """Every ranking of `store_rebuilt`, oldest first: schema MEMBERSHIP."""
    return read_tables([file.path for file in dated_files(folder, UNIVERSE, _REBUILT)], MEMBERSHIP)


def _unchanged(old: pa.Table, new: pa.Table) -> bool:
    return content_digest(old.drop_columns(["timestamp"])) == content_digest(new.drop_columns(["timestamp"]))


def _table(specs: Sequence[InstrumentSpec]) -> pa.Table:
    ordered = sorted(specs, key=lambda spec: spec.instrument)
    columns = {
        name: [getattr(spec, _FIELDS.get(name, name)) for spec in ordered]
        for name in INSTRUMENTS_SCHEMA.names
        if name not in {"symbol", "venue_id"}
    }
    columns["symbol"] = [spec.instrument.symbol for spec in ordered]
    columns["venue_id"] = [spec.instrument.venue_id for spec in ordered]
    return pa.table(
        {field.name: pa.array(columns[field.name], type=field.type) for field in INSTRUMENTS_SCHEMA},
        schema=INSTRUMENTS_SCHEMA,
    )


def _spec(row: dict[str, object], venue: Venue) -> InstrumentSpec:
    values = {
        _FIELDS.get(name, name): round(value.timestamp() * 1000) if hasattr(value, "timestamp") else value
        for name, value in row.items()
        if name not in {"symbol", "venue_id"}
    }
    return InstrumentSpec(instrument=Instrument.parse(str(row["symbol"]), venue), **values)  # type: ignore[arg-type] # the schema holds the types
