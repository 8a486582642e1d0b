"""The kinds of rows that pass through the hot store: their SQLite table, files, Parquet schema and replacement rule.

A row's key is (symbol, interval, slot) and, for events, what tells two of one moment apart. The slot is the time that
makes a row unique: a bar's open, the minute that a settlement snaps to, the minute of an estimate. `rank` decides which
of two rows at one key stays: the higher, and of equals the later received. It is the place of the source in
`schemas.SOURCES`; for rows without a source the time they speak of.

A row that says the same as the one it replaces takes over that one's time of receipt: so long it has been known. A row
that says something else leaves the replaced one in the table's `RESTATED` twin. The hot store keeps both there until
they are sealed (`confirmed`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto import schemas
from qlib_crypto.clock import MINUTE_MS
from qlib_crypto.errors import ConfigError
from qlib_crypto.lake import paths
from qlib_crypto.schemas import PERIOD_MS, SOURCES, Row
from qlib_crypto.symbols import Interval

type Values = tuple[Any, ...]
#: Rows as columns, in the order of `Values`.
type Columns = Sequence[Sequence[Any]]

#: SQLite columns before the table's own, in the order of `Values`.
KEY = ("interval_ms", "slot_ms", "symbol")


class Merged(NamedTuple):
    """Rows that stay; rows that others replaced by saying something else; how many stay of the newer that changed one.

    Attributes
    ----------
    rows, replaced
        In the table's schema, sorted by symbol and slot.
    changed
        Rows of the older table whose place another row, or another source or time of receipt, took.

    """

    rows: pa.Table
    replaced: pa.Table
    changed: int


@dataclass(frozen=True, slots=True)
class Table:
    """One kind of rows.

    Attributes
    ----------
    name
        SQLite table.
    folder
        Dataset, which is the folder of its files; ending in `_` when the interval follows.
    schema
        Parquet schema.
    slot_ms, shift_ms
        A row's slot is its time, after adding the shift, cut to a multiple of `slot_ms`.
    step_ms
        How much time one row stands for; 0 for its interval.
    more
        Columns that belong to the key beside symbol, interval and slot.
    by_symbol
        One file a symbol and day (or month), otherwise one a day.
    bulky
        May be dropped after its retention.

    """

    name: str
    folder: str
    schema: pa.Schema
    slot_ms: int = 1
    shift_ms: int = 0
    step_ms: int = 1
    more: tuple[str, ...] = ()
    by_symbol: bool = False
    bulky: bool = False

    def __hash__(self) -> int:
        return hash(self.name)  # that of a schema takes 20 microseconds, and tables are keys

    @property
    def values(self) -> list[str]:
        """Names of the SQLite columns after `interval_ms slot_ms symbol rank`."""
        return [name for name in self.schema.names if name not in {"symbol", "source"}]

    @property
    def said(self) -> list[str]:
        """The columns that say something: what makes a restated row another one."""
        return [name for name in self.values if name != "received_at"]

    @property
    def ranked_by_source(self) -> bool:
        return "source" in self.schema.names

    @property
    def by_interval(self) -> bool:
        return self.folder.endswith("_")

    @property
    def symbol_first(self) -> bool:
        """Whether the hot store keeps it symbol by symbol, because one symbol may fill it, instead of by time."""
        return self.bulky and self.by_symbol

    @property
    def restated(self) -> Table | None:
        """The table of replaced rows, None for rows that nobody restates."""
        return RESTATED.get(self)

    def dataset(self, interval_ms: int = 0) -> str:
        """`kline_1m`, `funding`, …: the name of the rows of an interval."""
        return f"{self.folder}{Interval.of_ms(interval_ms)}" if self.by_interval else self.folder

    def stem(self, symbol: str | None) -> str | None:
        """What the names of the files of a symbol start with; None for those of every symbol."""
        return symbol if self.by_symbol else paths.STEM[self.folder]

    def by_month(self, interval_ms: int) -> bool:
        """Whether a file holds a month, before any compaction."""
        return self.by_interval and Interval.of_ms(interval_ms).by_month

    def arrow(self, rows: Sequence[Values]) -> pa.Table:
        """Rows `(symbol, rank, *values)` as a table of the schema."""
        names = ["symbol", "source" if self.ranked_by_source else "rank", *self.values]
        columns: dict[str, Sequence[Any]] = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}
        if rows and self.ranked_by_source:
            columns["source"] = [SOURCES[rank] for rank in columns["source"]]
        for name in self._lists() if rows else ():
            columns[name] = [np.frombuffer(packed) for packed in columns[name]]
        return pa.table(
            {f.name: pa.array(columns.get(f.name, ()), type=f.type) for f in self.schema}, schema=self.schema
        )

    def packed(self, table: pa.Table, interval_ms: int) -> Iterator[Values]:
        """The inverse of `arrow`, with the key: `(interval, slot, symbol, rank, *values)` of each row."""
        columns = {}
        for name in self.schema.names:
            column = table.column(name)
            columns[name] = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
        for name in self._lists():
            columns[name] = [np.asarray(levels, dtype=np.float64).tobytes() for levels in columns[name]]
        ranks = [SOURCES.index(s) for s in columns["source"]] if self.ranked_by_source else columns["timestamp"]
        key = ([interval_ms] * len(table), self.slots(table).tolist(), columns["symbol"], ranks)
        return zip(*key, *(columns[name] for name in self.values), strict=True)

    def slot_of(self, time_ms: int) -> int:
        """The slot of a time."""
        shifted = time_ms + self.shift_ms
        return shifted - shifted % self.slot_ms

    def slot(self) -> pl.Expr:
        """The slot of each row of a Parquet table, as int64."""
        shifted = pl.col("timestamp").dt.epoch("ms") + self.shift_ms
        return shifted - shifted % self.slot_ms

    def slots(self, table: pa.Table) -> NDArray[np.int64]:
        """The slot of each row of a Parquet table."""
        return np.asarray(_frame(table.select(["timestamp"])).select(self.slot()).to_series().to_numpy())

    def merge(self, older: pa.Table, newer: pa.Table, *, apart: pa.Table | None = None) -> Merged:
        """Both tables' rows, sorted by symbol and slot, unique by key under the replacement rule.

        Where `apart` has a key, something else was said between: a row keeps its own time of receipt and the older
        one is replaced even when both say the same.
        """
        key = ["symbol", "_slot", *self.more]
        frame = self._keyed(pl.concat([_frame(older), _frame(newer)], how="vertical_relaxed").with_row_index("_order"))
        frame = frame.sort(*key, "_rank", "_order")
        follows = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in key).fill_null(value=False)
        frame = frame.with_columns(follows.alias("_follows"))
        last = ~pl.col("_follows").shift(-1, fill_value=False)
        same = pl.col("_follows") & pl.all_horizontal(
            pl.col(name).eq_missing(pl.col(name).shift(1)) for name in self.said
        )
        if apart is not None and len(apart):
            keys = self._keyed(_frame(apart)).select(key).unique().with_columns(_apart=pl.lit(value=True))
            frame = frame.join(keys, on=key, how="left", maintain_order="left")
            same &= pl.col("_apart").is_null()
        received = pl.min_horizontal("received_at", pl.col("received_at").shift(1))
        frame = frame.with_columns(last.alias("_last"), same.alias("_same")).with_columns(
            pl.when("_same").then(received).otherwise("received_at").alias("received_at"),
            (pl.col("_last") & pl.col("_follows") & (pl.col("_order") >= len(older)) & ~self._equal()).alias(
                "_changed"
            ),
        )
        gone = frame.filter(~pl.col("_last") & ~pl.col("_same").shift(-1, fill_value=False))
        return Merged(self._arrow(frame.filter("_last")), self._arrow(gone), int(frame["_changed"].sum()))

    def without_repeats(self, replaced: pa.Table) -> pa.Table:
        """Replaced rows without those that say what the one before of the same source said; sorted as files are."""
        frame = self._keyed(_frame(replaced)).sort("symbol", "_slot", "_rank", "received_at")
        same = pl.all_horizontal(
            pl.col(name).eq_missing(pl.col(name).shift(1)) for name in ("symbol", "_slot", "_rank", *self.said)
        )
        return self._arrow(frame.filter(~same).sort("symbol", "_slot", "received_at"))

    def known(self, current: pa.Table, replaced: Sequence[pa.Table], known_ms: int) -> pa.Table:
        """What was known at a time: of each key the current row, else the best replaced one, received by then."""
        past = [_frame(table) for table in replaced]
        frame = pl.concat([*past, _frame(current)], how="vertical_relaxed").with_row_index("_order")
        frame = self._keyed(frame.filter(pl.col("received_at").dt.epoch("ms") <= known_ms))
        now = pl.col("_order") >= sum(len(table) for table in past)
        key = ["symbol", "_slot", *self.more]
        frame = frame.with_columns(now.alias("_now")).sort(*key, "_now", "_rank", "received_at", "_order")
        return self._arrow(frame.unique(key, keep="last", maintain_order=True))

    def _keyed(self, frame: pl.DataFrame) -> pl.DataFrame:
        rank = pl.col("source").replace_strict(list(SOURCES), range(len(SOURCES)), return_dtype=pl.Int64)
        rank = rank if self.ranked_by_source else pl.col("timestamp").dt.epoch("ms")
        return frame.with_columns(self.slot().alias("_slot"), rank.alias("_rank"))

    def _equal(self) -> pl.Expr:
        """Whether a row is the one before it, received again."""
        source = pl.col("_rank") == pl.col("_rank").shift(1)
        return pl.col("_same") & source & (pl.col("received_at") >= pl.col("received_at").shift(1))

    def _arrow(self, frame: pl.DataFrame) -> pa.Table:
        return frame.select(self.schema.names).to_arrow().cast(self.schema)

    def _lists(self) -> list[str]:
        return [field.name for field in self.schema if pa.types.is_list(field.type)]


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame; for the type checker
    return frame


BARS = Table("bars", paths.KLINE, schemas.KLINE, step_ms=0, by_symbol=True)
SETTLEMENTS = Table(
    "settlements", paths.FUNDING, schemas.FUNDING, slot_ms=MINUTE_MS, shift_ms=MINUTE_MS // 2, step_ms=MINUTE_MS
)
ESTIMATES = Table("estimates", paths.ESTIMATE, schemas.FUNDING_ESTIMATE, slot_ms=MINUTE_MS, step_ms=MINUTE_MS)
MARKS = Table("mark_bars", paths.MARK, schemas.MARK, step_ms=0, by_symbol=True)
INDEXES = Table("index_bars", paths.INDEX, schemas.INDEX, step_ms=0, by_symbol=True)
OPEN_INTEREST = Table("open_interest", paths.OPEN_INTEREST, schemas.OPEN_INTEREST, step_ms=PERIOD_MS)
LONG_SHORT_RATIO = Table("long_short_ratio", paths.LONG_SHORT_RATIO, schemas.LONG_SHORT_RATIO, step_ms=PERIOD_MS)
LIQUIDATIONS = Table("liquidations", paths.LIQUIDATIONS, schemas.LIQUIDATIONS, more=("side", "price", "quantity"))
TRADES = Table("trades", paths.TRADES, schemas.TRADES, more=("trade_id",), by_symbol=True, bulky=True)
BOOKS = Table("books", paths.BOOKS, schemas.BOOKS, by_symbol=True, bulky=True)
TABLES = (
    BARS, SETTLEMENTS, ESTIMATES, MARKS, INDEXES, OPEN_INTEREST, LONG_SHORT_RATIO, LIQUIDATIONS, TRADES, BOOKS,
)  # fmt: skip
#: Where the rows go that others replaced by saying something else.
RESTATED: Mapping[Table, Table] = {
    table: replace(table, name=f"restated_{table.name}", more=(*table.more, "received_at"), by_symbol=False)
    for table in TABLES
    if table.ranked_by_source
}

TABLE_OF: Mapping[type[Row], Table] = {
    schemas.Bar: BARS, schemas.Settlement: SETTLEMENTS, schemas.Estimate: ESTIMATES, schemas.MarkBar: MARKS,
    schemas.IndexBar: INDEXES, schemas.OpenInterest: OPEN_INTEREST, schemas.LongShortRatio: LONG_SHORT_RATIO,
    schemas.Liquidation: LIQUIDATIONS, schemas.Trade: TRADES, schemas.Book: BOOKS,
}  # fmt: skip


def find_table(dataset: str) -> tuple[Table, Interval | None] | None:
    """The table and interval of a dataset's name (`kline_1m`, `funding`); None when no such dataset is known."""
    for table in TABLES:
        if not table.by_interval and table.folder == dataset:
            return table, None
        if table.by_interval and dataset.startswith(table.folder):
            try:
                interval = Interval.parse_candle(dataset.removeprefix(table.folder))
            except ConfigError:
                return None
            return (table, interval) if table.dataset(interval.ms) == dataset else None
    return None


def dataset_table(dataset: str) -> tuple[Table, Interval | None]:
    """The table and interval of a dataset's name.

    Raises
    ------
    ConfigError
        No such dataset is known.

    """
    found = find_table(dataset)
    if found is None:
        known = " ".join(table.folder + ("1m" if table.by_interval else "") for table in TABLES)
        raise ConfigError(f"dataset {dataset!r} is unknown; choose one of: {known}")
    return found
