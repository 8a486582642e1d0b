"""Whole states of a venue at a time, a file each: the instruments table, margin tiers, the universe's rankings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from qlib_crypto.clock import day_start, utc
from qlib_crypto.errors import DataError
from qlib_crypto.lake.files import content_digest, read_table, read_tables, write_table
from qlib_crypto.lake.paths import INSTRUMENTS, MARGIN_TIERS, UNIVERSE, dated_files, snapshot_file
from qlib_crypto.lake.seal import exclusive
from qlib_crypto.market.margin import MarginTable, MarginTier
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.schemas import INSTRUMENTS as INSTRUMENTS_SCHEMA
from qlib_crypto.schemas import MARGIN_TIERS as TIERS_SCHEMA
from qlib_crypto.schemas import MEMBERSHIP
from qlib_crypto.symbols import Instrument, Venue

#: What lies in the files of each dataset of snapshots.
SCHEMAS: Mapping[str, pa.Schema] = {
    INSTRUMENTS: INSTRUMENTS_SCHEMA, MARGIN_TIERS: TIERS_SCHEMA, UNIVERSE: MEMBERSHIP,
}  # fmt: skip
#: Margin tiers since when they were seen, oldest first.
type TierStates = tuple[tuple[int, MarginTable], ...]
_TIER = ("floor", "cap", "maintenance_rate", "max_leverage", "deduction")
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
    rows = _rows(folder, INSTRUMENTS, at_ms)
    last = rows.sort("timestamp", maintain_order=True).unique("symbol", keep="last").sort("symbol")
    return {spec.instrument: spec for spec in (_spec(row, venue) for row in last.to_dicts())}


def spec_states(folder: Path, venue: Venue) -> dict[Instrument, tuple[InstrumentSpec, ...]]:
    """Of every instrument each spec that said something else than the one seen before, oldest first."""
    rows = _rows(folder, INSTRUMENTS, None).sort("symbol", "timestamp", maintain_order=True)
    said = [name for name in INSTRUMENTS_SCHEMA.names if name != "timestamp"]
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(name).shift(1)) for name in said)
    specs = [_spec(row, venue) for row in rows.filter(~same).to_dicts()]
    return {of: tuple(states) for of, states in groupby(specs, lambda spec: spec.instrument)}


def store_tiers(folder: Path, venue: Venue, tables: Mapping[Instrument, MarginTable], at_ms: int) -> Path | None:
    """The file of those tables that differ from what was seen last; None when none does."""
    with exclusive(folder):  # a collector and the daemon may see the same
        known = tiers(folder, venue, at_ms)
        news = {of: table for of, table in tables.items() if of not in known or known[of][-1][1] != table}
        if not news:
            return None
        path = snapshot_file(folder, MARGIN_TIERS, at_ms)
        table = _tier_table(news, at_ms)
        if path.exists():  # of the same second
            old = read_table(path, TIERS_SCHEMA)
            said = pc.and_(pc.is_in(old["symbol"], table["symbol"]), pc.equal(old["timestamp"], table["timestamp"][0]))
            table = pa.concat_tables([old.filter(pc.invert(said)), table])
        write_table(path, table)
    return path


def tiers(folder: Path, venue: Venue, at_ms: int | None) -> dict[Instrument, TierStates]:
    """The margin tiers of every instrument, those seen by `at_ms`; no two tables in a row are alike."""
    rows = _rows(folder, MARGIN_TIERS, at_ms).sort("symbol", "timestamp", "tier", maintain_order=True)
    found: dict[Instrument, TierStates] = {}
    for (symbol, at), group in groupby(rows.to_dicts(), itemgetter("symbol", "timestamp")):
        of, own = Instrument.parse(symbol, venue), list(group)
        tier_rows = tuple(MarginTier(*(row[name] for name in _TIER)) for row in own)
        table = MarginTable(tier_rows, own[0]["by_quantity"], own[0]["tier_source"])
        before = found.get(of, ())
        if not before or before[-1][1] != table:
            found[of] = (*before, (round(at.timestamp() * 1000), table))
    return found


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


def _rows(folder: Path, dataset: str, at_ms: int | None) -> pl.DataFrame:
    """What the dataset's snapshots say, those not after `at_ms`, in the order of the files."""
    files = [file.path for file in dated_files(folder, dataset, end_ms=None if at_ms is None else at_ms + 1)]
    rows = pl.from_arrow(read_tables(files, SCHEMAS[dataset]))
    assert isinstance(rows, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    return rows if at_ms is None else rows.filter(pl.col("timestamp").dt.epoch("ms") <= at_ms)


def _tier_table(tables: Mapping[Instrument, MarginTable], at_ms: int) -> pa.Table:
    rows = [
        (of.symbol, at_ms, number, *(getattr(tier, name) for name in _TIER), table.by_quantity, table.source)
        for of, table in sorted(tables.items())
        for number, tier in enumerate(table.tiers, start=1)
    ]
    columns = zip(TIERS_SCHEMA, zip(*rows, strict=True), strict=True)
    return pa.table({field.name: pa.array(values, type=field.type) for field, values in columns}, schema=TIERS_SCHEMA)


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
