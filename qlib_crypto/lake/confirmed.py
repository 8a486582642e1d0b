"""Rows of the hot store that a better source said again: the time since when they are known.

A row that is replaced in the hot store stays beside, also by one that says the same, because whether it was ever the
lake's answer depends on what is sealed. Where it was, the one that confirmed it takes over its time of receipt.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from qlib_crypto.lake.tables import Table


def confirmed(table: Table, rows: pa.Table, replaced: pa.Table, sealed: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows with the time since when they are known, and those of the replaced that said something else.

    Parameters
    ----------
    table, rows, replaced
        What the hot store has of a period, each key's replaced rows by their time of receipt.
    sealed
        What the files have of the period. A key whose file says something else, or says it only later, is left as it
        is: its replaced rows may have been outranked.

    """
    if not len(replaced):
        return rows, replaced
    key = ["symbol", "_slot", *table.more]
    old, now, files = (_keyed(table, of) for of in (replaced, rows, sealed))
    now = now.join(old, on=key, how="semi")
    first = old.group_by(key).agg(first=pl.col("received_at").min())
    files = files.join(now, on=key, suffix="_now").join(first, on=key)
    differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_now")) for name in table.said)
    sure = now.join(files.filter(differs | (pl.col("received_at") > pl.col("first"))), on=key, how="anti")
    told, left = (
        old.join(sure, on=key, how=how, maintain_order="left").select(table.schema.names).to_arrow().cast(table.schema)
        for how in ("semi", "anti")
    )
    best = table.merge(table.schema.empty_table(), told)
    merged = table.merge(best.rows, rows)
    return merged.rows, pa.concat_tables([left, best.replaced, merged.replaced])


def _keyed(table: Table, rows: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(rows)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    return frame.with_columns(table.slot().alias("_slot"))
