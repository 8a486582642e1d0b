"""Files of others as tables under our names: Parquet, CSV, freqtrade's Feather, and zips of Binance's archive."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.feather as pa_feather
import pyarrow.parquet as pq

from qlib_crypto.errors import ConfigError, QlibCryptoError, SchemaError
from qlib_crypto.symbols import Interval

#: What is read, told by the name.
SUFFIXES = (".parquet", ".feather", ".csv", ".csv.gz", ".zip")
_TIMES = ("timestamp", "funding_time")
#: Whole numbers of this many digits are Unix time in these units, from 2001 to 2286.
_UNITS = {10: "s", 13: "ms", 16: "us", 19: "ns"}
_UTC_MS = pa.timestamp("ms", tz="UTC")

#: `BTCUSDT-1m-2025-01.zip`, `BTCUSDT-fundingRate-2025-01.zip`, as the archive names them.
_BINANCE = re.compile(r"([A-Z0-9]+)-(\w+)-\d{4}-\d{2}(-\d{2})?")
#: `BTC_USDT_USDT-1m-futures.feather`, as freqtrade names it: pair, settlement coin, interval, kind of candle.
_FREQTRADE = re.compile(r"(\w+_(\w+))_\2-(\w+)-(futures|mark|funding_rate)")
#: The archive's columns, which its older files do not name.
_KLINE_COLUMNS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileName:
    """What a file's name says.

    Attributes
    ----------
    symbol
        As the venue or we spell it.
    dataset, interval
        `kline` or `funding` and the bars' length, None where the name does not say.
    columns
        Their names for ours.

    """

    symbol: str
    dataset: str | None
    interval: Interval | None
    columns: Mapping[str, str]


def said_by(path: Path) -> FileName:
    """What a file's name says."""
    stem = path.name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    if path.suffix == ".zip" and (match := _BINANCE.fullmatch(stem)):
        if match[2] == "fundingRate":
            columns = {"funding_time": "calc_time", "funding_rate": "last_funding_rate"}
            return FileName(match[1], "funding", None, columns)
        columns = {"timestamp": "open_time", "trades": "count"}
        return FileName(match[1], "kline", _interval(match[2]), columns)
    if match := _FREQTRADE.fullmatch(stem):
        if match[4] == "funding_rate":
            return FileName(match[1], "funding", None, {"funding_time": "date", "funding_rate": "open"})
        dataset = "kline" if match[4] == "futures" else "mark"
        return FileName(match[1], dataset, _interval(match[3]), {"timestamp": "date"})
    return FileName(stem, None, None, {})


def _interval(text: str) -> Interval | None:
    try:
        return Interval.parse_candle(text)
    except QlibCryptoError:
        return None


def parse_map(pairs: Iterable[str]) -> dict[str, str]:
    """`ours=theirs` of each column that a file calls otherwise.

    Raises
    ------
    ConfigError
        One is written otherwise, or comes twice.

    """
    out: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours or not theirs or ours in out:
            raise ConfigError(f"--map {pair!r}: write each of our columns once, OURS=THEIRS, as timestamp=open_time")
        out[ours] = theirs
    return out


def read_table(path: Path, dataset: str, interval: Interval | None, columns: Mapping[str, str]) -> pa.Table:
    """The file's rows, its columns under our names.

    `columns` are those that the user says, before those that the name of a known format says. Whole numbers as times
    of a CSV are Unix time, of the unit that makes them a date between 2001 and 2286.

    Raises
    ------
    SchemaError
        The file is torn or of another kind, its name says that it holds something else, or a column is missing.

    """
    said = said_by(path)
    if said.dataset not in {None, dataset}:
        raise SchemaError(f"{path}: its name says {said.dataset}, not {dataset}; leave it out, or give --dataset")
    if interval is not None and said.interval not in {None, interval}:
        raise SchemaError(
            f"{path}: its name says {said.interval} bars, not {interval}; give --interval {said.interval}"
        )
    table = _renamed(path, _raw(path), said.columns, columns)
    if said.dataset is not None and "close_time" in table.column_names:
        table = table.drop_columns(["close_time"])  # a finished file: its last bar was closed
    if said.dataset == "funding" and "symbol" not in table.column_names:
        table = table.append_column("symbol", pa.array([said.symbol] * len(table), pa.string()))
    if path.suffix != ".parquet":
        for name in _TIMES:
            table = _timed(path, table, name)
    return table


def _renamed(path: Path, table: pa.Table, known: Mapping[str, str], asked: Mapping[str, str]) -> pa.Table:
    """The table with our names for its columns: those of a known format where it has them, those asked for always."""
    names = {**{ours: theirs for ours, theirs in known.items() if theirs in table.column_names}, **asked}
    if not names or len(set(table.column_names)) < table.num_columns:  # the latter is refused later
        return table
    if absent := [theirs for theirs in names.values() if theirs not in table.column_names]:
        raise SchemaError(f"{path} has no column {absent[0]}; it has {', '.join(table.column_names)}")
    columns = {name: table.column(name) for name in table.column_names if name not in names}
    return pa.table(columns | {ours: table.column(theirs) for ours, theirs in names.items()})


def _raw(path: Path) -> pa.Table:
    try:
        if path.name.endswith(".parquet"):
            with pq.ParquetFile(path) as file:
                return file.read()
        if path.name.endswith(".feather"):
            return pa_feather.read_table(path)
        if path.name.endswith((".csv", ".csv.gz")):
            return pa_csv.read_csv(path)
        if path.name.endswith(".zip"):
            return _unzipped(path)
    except (pa.ArrowException, OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        kind = "Parquet" if path.suffix == ".parquet" else path.suffix[1:]
        raise SchemaError(f"{path} is torn or no {kind} ({' '.join(str(error).split())[:120]})") from error
    raise SchemaError(f"{path} is none of {' '.join(SUFFIXES)}, which are all that is read")


def _unzipped(path: Path) -> pa.Table:
    data = path.read_bytes()
    checksum = path.with_name(f"{path.name}.CHECKSUM")
    if checksum.is_file():
        wanted = checksum.read_text(encoding="utf-8").split()[:1]
        if [hashlib.sha256(data).hexdigest()] != wanted:
            raise SchemaError(f"{path} is not what {checksum.name} beside it says; download it again")
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        members = [name for name in packed.namelist() if name.lower().endswith(".csv")]
        if len(members) != 1:
            raise SchemaError(f"{path} holds {len(members)} CSV files, not one; unpack it and give its files")
        text = packed.read(members[0])
    first = next(csv.reader(io.StringIO(text[:4096].decode("utf-8", "replace"))), [])
    named = not (first and first[0].strip().isdigit())
    if not named and len(first) != len(_KLINE_COLUMNS):
        raise SchemaError(f"{path}: its CSV names no columns and has {len(first)}, not {len(_KLINE_COLUMNS)}")
    options = pa_csv.ReadOptions(column_names=None if named else _KLINE_COLUMNS)
    return pa_csv.read_csv(io.BytesIO(text), read_options=options)


def _timed(path: Path, table: pa.Table, name: str) -> pa.Table:
    """The table with whole numbers in a column of times as Unix time."""
    if name not in table.column_names or not len(table) or not pa.types.is_integer(table.column(name).type):
        return table
    column = table.column(name)
    unit = _UNITS.get(len(str(pc.max(column).as_py())))
    if unit is None:
        raise SchemaError(f"{path}: {name} {pc.max(column)} is no Unix time in s, ms, us or ns; write dates")
    times = column.cast(pa.int64()).cast(pa.timestamp(unit, tz="UTC"))
    try:
        return table.set_column(table.column_names.index(name), name, times.cast(_UTC_MS))
    except pa.ArrowException:
        raise SchemaError(f"{path}: {name} is finer than a millisecond; round it on purpose first") from None


def table_files(paths: Iterable[Path], dataset: str | None = None, interval: Interval | None = None) -> list[Path]:
    """The files, and those of the folders, each folder's in order.

    Of a folder those are left out whose name says another dataset or interval than what is asked for.

    Raises
    ------
    ConfigError
        One is neither, or a folder holds none.

    """
    out = []
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(
                one for one in path.iterdir() if one.name.endswith(SUFFIXES) and _fits(one, dataset, interval)
            )
        if not found or not all(one.is_file() for one in found):
            raise ConfigError(f"no file at {path} that is read; give files or a folder of them: {' '.join(SUFFIXES)}")
        out += found
    return out


def _fits(path: Path, dataset: str | None, interval: Interval | None) -> bool:
    said = said_by(path)
    other = dataset is not None and said.dataset not in {None, dataset}
    return not other and (interval is None or said.interval in {None, interval})
