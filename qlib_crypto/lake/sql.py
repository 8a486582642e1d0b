"""SQL over the lake: DuckDB views of sealed and hot rows of both venues, read-only.

Views: `kline_1m`, `kline_1h`, … (one for every interval there is, and for the usual ones), `mark_1m`, `index_1m`,
`funding`, `funding_estimate`, `open_interest`, `long_short_ratio`, `liquidations`, `trades`, `books`, `instruments`,
`margin_tiers`, `membership`; `restated_…` of those that are restated; `holes`, `repairs`, `quarantine`, `flags`. Each
has the columns of its Parquet schema, or of the ledger, and `venue` in front.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pandas as pd
import pyarrow as pa

from qlib_crypto import schemas
from qlib_crypto.errors import ConfigError, DataError
from qlib_crypto.lake.confirmed import confirmed
from qlib_crypto.lake.ledger import TOLD
from qlib_crypto.lake.paths import INSTRUMENTS, MARGIN_TIERS, RESTATED, UNIVERSE
from qlib_crypto.lake.read import listed
from qlib_crypto.lake.store import Lake
from qlib_crypto.lake.tables import BARS, TABLES, Table
from qlib_crypto.lake.tables import RESTATED as TWINS
from qlib_crypto.symbols import Interval, Venue

_USUAL = ("1m", "5m", "15m", "1h", "4h", "1d")
_HIDDEN = "stored"
_REPLACED_BY = {twin: table for table, twin in TWINS.items()}
#: DuckDB of a file that was listed and is not there.
_GONE = "No files found"
_READS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}


def query(lake: Lake, sql: str) -> pd.DataFrame:
    """The answer to one SELECT, WITH, FROM, DESCRIBE, SHOW or EXPLAIN; times are UTC.

    Raises
    ------
    ConfigError
        The SQL is wrong, or would do more than read the views.
    DataError
        A file of the lake cannot be read.

    """
    try:
        return _answer(lake, sql)
    except DataError as error:
        if _GONE not in str(error):
            raise
        return _answer(lake, sql)  # days became a month meanwhile


def _answer(lake: Lake, sql: str) -> pd.DataFrame:
    with duckdb.connect() as connection:
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type not in _READS:
                raise ConfigError("sql: write one SELECT; the lake is read-only here")
            connection.execute("SET TimeZone = 'UTC'")
            _create_views(connection, lake, statements[0].query.lower())
            folders = [str(lake.folder(venue).resolve()) + "/" for venue in Venue]
            connection.execute("SET allowed_directories = ?", [folders])
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            frame: pd.DataFrame = connection.sql(statements[0].query).to_arrow_table().to_pandas()
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            raise DataError(
                f"sql: the lake cannot be read: {_line(error)}; move a torn file away, then back-fill its span"
            ) from error
        except duckdb.Error as error:
            raise ConfigError(f"sql: {_line(error)}") from error
    return frame


def _create_views(connection: duckdb.DuckDBPyConnection, lake: Lake, asked: str) -> None:
    """Every view; hot rows are copied only into those whose name is in the query."""
    connection.execute(f"CREATE SCHEMA {_HIDDEN}")
    for table in TABLES:
        for interval_ms in _intervals(lake, table):
            dataset = table.dataset(interval_ms)
            _create_view(connection, lake, asked, dataset, (dataset, None, table.schema), table, interval_ms)
            if table.restated:
                old = RESTATED, dataset, table.schema
                _create_view(connection, lake, asked, f"restated_{dataset}", old, table.restated, interval_ms)
    _create_view(connection, lake, asked, "instruments", (INSTRUMENTS, None, schemas.INSTRUMENTS))
    _create_view(connection, lake, asked, "margin_tiers", (MARGIN_TIERS, None, schemas.MARGIN_TIERS))
    _create_view(connection, lake, asked, "membership", (UNIVERSE, None, schemas.MEMBERSHIP))
    for name in TOLD:
        tables = {venue: lake.told(venue, name) for venue in Venue}
        selects = [
            f"SELECT '{venue}' AS venue, * FROM {_keep(connection, f'{name}_{venue}', told)}"  # noqa: S608 - from constants
            for venue, told in tables.items()
        ]
        connection.execute(f"CREATE VIEW {name} AS {' UNION ALL BY NAME '.join(selects)}")


def _intervals(lake: Lake, table: Table) -> list[int]:
    """Lengths that a view is made for: the usual ones and those that there are; 0 where rows have none."""
    if not table.by_interval:
        return [0]
    usual = {Interval.parse(name) for name in (_USUAL if table is BARS else _USUAL[:1])}
    return sorted(interval.ms for interval in usual.union(*(lake.intervals(venue, table) for venue in Venue)))


def _create_view(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    asked: str,
    view: str,
    files_of: tuple[str, str | None, pa.Schema],
    table: Table | None = None,
    interval_ms: int = 0,
) -> None:
    dataset, stem, schema = files_of
    empty = _keep(connection, f"{view}_empty", schema.empty_table())
    selects = [f"SELECT CAST(NULL AS VARCHAR) AS venue, * FROM {empty}"]  # noqa: S608 - from constants
    for venue in Venue:
        hot = _hot(lake, venue, table, interval_ms) if table and view in asked else schema.empty_table()
        files = [str(file.path) for file in listed(lake.folder(venue), dataset, stem)]
        selects += _selects(connection, f"{view}_{venue}", venue, files, hot, table)
    connection.execute(f"CREATE VIEW {view} AS {' UNION ALL BY NAME '.join(selects)}")


def _hot(lake: Lake, venue: Venue, table: Table, interval_ms: int) -> pa.Table:
    """Hot rows; of replaced ones those that said something else than what replaced them."""
    of = _REPLACED_BY.get(table)
    if of is None:
        return lake.hot_rows(venue, table, interval_ms)
    rows = lake.hot_rows(venue, of, interval_ms)
    return confirmed(of, rows, lake.hot_rows(venue, table, interval_ms), of.schema.empty_table())[1]


def _selects(
    connection: duckdb.DuckDBPyConnection, name: str, venue: Venue, files: list[str], hot: pa.Table, table: Table | None
) -> Iterator[str]:
    """The venue's rows: sealed ones, but where the hot store has the same key what `Lake` would answer there."""
    sealed = f"read_parquet([{', '.join(_quoted(file) for file in files)}])"
    if not len(hot):
        if files:
            yield f"SELECT '{venue}' AS venue, * FROM {sealed}"  # noqa: S608 - paths are quoted
        return
    assert table is not None  # noqa: S101 - snapshots are never hot
    if files:
        slot = f"(epoch_ms(timestamp) + {table.shift_ms}) // {table.slot_ms}"
        key = ", ".join(["symbol", slot, *table.more])
        keys = f"SELECT {key} FROM {_keep(connection, f'{name}_hot', hot)}"  # noqa: S608 - from constants
        same = connection.sql(f"SELECT * FROM {sealed} WHERE ({key}) IN ({keys})").to_arrow_table()  # noqa: S608 - paths are quoted
        hot = table.merge(same.cast(table.schema), hot).rows
        yield f"SELECT '{venue}' AS venue, * FROM {sealed} WHERE ({key}) NOT IN ({keys})"  # noqa: S608 - paths are quoted
    yield f"SELECT '{venue}' AS venue, * FROM {_keep(connection, f'{name}_now', hot)}"  # noqa: S608 - from constants


def _keep(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> str:
    """The name of a table with these rows, in a schema of its own so that it is not listed among the views."""
    connection.register("arriving", table)
    connection.execute(f"CREATE TABLE {_HIDDEN}.{name} AS SELECT * FROM arriving")  # noqa: S608 - from constants
    connection.unregister("arriving")
    return f"{_HIDDEN}.{name}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _line(error: Exception) -> str:
    return " ".join(str(error).split("\nLINE ")[0].split())[:300]  # LINE is the query with marks under it
