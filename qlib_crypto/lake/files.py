"""Parquet files of the lake: written whole and atomically, read with their schema checked.

A file carries the SHA-256 of its content in its footer, so that a lake's identity costs only footers and travels with
the files. The content is every column but `source` and `received_at`: how a row came does not change what it says. A
month's file that took the place of its days carries that of each day, so that compaction changes no identity.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, utc
from qlib_crypto.errors import SchemaError, StorageError
from qlib_crypto.lake.paths import RESTATED, month_of_days, parse_name
from qlib_crypto.lake.tables import find_table

_HASH_KEY = b"qlib_crypto.content_sha256"
_DAYS_KEY = b"qlib_crypto.day_content_sha256"
_HASH_LETTERS = 64
_HASH = re.compile(rb"[0-9a-f]{64}")
_HASH_MARK = b"\x18" + bytes([len(_HASH_KEY)]) + _HASH_KEY + b"\x18" + bytes([_HASH_LETTERS])
#: A month of minutes is a few groups of rows, so that a reader of some days need not decode all.
_GROUP_ROWS = 8 * 1440
#: Bytes at the end of a file that hold any footer of ours.
_TAIL = 1 << 14
_PROVENANCE = {"source", "received_at"}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp")
_REPAIR = "move it away, then back-fill or import its span again"


def write_table(path: Path, table: pa.Table) -> str:
    """The content hash of the table, now the whole of the file at `path`; readers see the old file or the new one.

    Raises
    ------
    StorageError
        The disk refused; the file at `path` is as it was.

    """
    digest = content_digest(table)
    marks = {_HASH_KEY: digest.encode()}
    if month_of_days(path):
        marks[_DAYS_KEY] = json.dumps(_day_digests(path, table)).encode()
    marked = table.replace_schema_metadata(marks)
    sink = pa.BufferOutputStream()
    texts = [field.name for field in table.schema if field.type == pa.string()]
    pq.write_table(marked, sink, compression="snappy", use_dictionary=texts, row_group_size=_GROUP_ROWS)
    write_bytes(path, sink.getvalue())
    return digest


def write_bytes(path: Path, data: bytes | pa.Buffer) -> None:
    """Write a whole file atomically and durably: temporary file, sync, rename, sync of the folder.

    Raises
    ------
    StorageError
        The disk refused; the file at `path` is as it was.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as (temporary, file):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot write ({error.strerror or error}); nothing stored before is lost; "
            "check disk space and permissions, then run again"
        ) from error


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`, locked while it is written: so `remove_leftovers` knows that its writer lives.

    A process id would not do: another container has its own, and most often the same one.
    """
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        with temporary.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not os.fstat(file.fileno()).st_nlink:  # taken for a leftover between the two lines above
                continue
            try:
                yield temporary, file
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            return


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files below a folder whose writer is gone: it was killed between write and rename."""
    for path in folder.rglob(".*.tmp"):
        if not _TEMPORARY.fullmatch(path.name):
            continue
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except OSError:  # its writer lives, or has just renamed it, or it is another user's
            continue


def content_digest(table: pa.Table) -> str:
    """SHA-256 of the values, nulls and column names, whatever the chunks or the file's encoding."""
    digest = hashlib.sha256()
    for name in table.column_names:
        if name in _PROVENANCE:
            continue
        column = table.column(name).combine_chunks()
        digest.update(f"{name}:{column.type}:{len(column)};".encode())
        digest.update(np.packbits(column.is_null().to_numpy(zero_copy_only=False)).tobytes())
        if column.type == pa.string():
            digest.update("\n".join(value or "" for value in column.to_pylist()).encode())
        elif pa.types.is_list(column.type):
            levels = column.flatten()
            digest.update(np.ascontiguousarray(pc.list_value_length(column).fill_null(0).to_numpy()).tobytes())
            digest.update(np.ascontiguousarray(levels.to_numpy(zero_copy_only=False)).tobytes())
        else:
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.int64())
            filled = column.fill_null(pa.scalar(0, column.type) if column.type != pa.bool_() else False)
            digest.update(filled.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def recorded_digest(path: Path, schema: pa.Schema) -> str:
    """The content hash from the file's footer; computed when the file was written by somebody else."""
    quick = _digest_in_footer(path)
    if quick is not None:
        return quick
    recorded = _footer(path).get(_HASH_KEY)
    return recorded.decode() if recorded else content_digest(read_table(path, schema))


def _digest_in_footer(path: Path) -> str | None:
    """The content hash, found by its key in the footer's bytes; None when the footer must be parsed.

    Parsing takes thirty times as long, and a lake has thousands of files. Keys and values are strings of Thrift's
    compact protocol: a field header, a length, the text.
    """
    try:
        with path.open("rb", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            start = max(end - _TAIL, 0)
            tail = os.pread(file.fileno(), end - start, start)
    except OSError as error:
        raise _torn(path, error) from error
    length = int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] != b"PAR1" or length + 8 > len(tail):
        return None
    at = tail.find(_HASH_MARK, len(tail) - 8 - length)
    value = tail[at + len(_HASH_MARK) :][:_HASH_LETTERS] if at >= 0 else b""
    return value.decode() if _HASH.fullmatch(value) else None


def recorded_days(path: Path, schema: pa.Schema) -> dict[str, str]:
    """Content hashes by file name: the file's own; for a month's file of days those that the days' files have."""
    if not month_of_days(path):
        return {path.name: recorded_digest(path, schema)}
    recorded = _footer(path).get(_DAYS_KEY)
    days: dict[str, str] = json.loads(recorded) if recorded else _day_digests(path, read_table(path, schema))
    return days


def _day_digests(path: Path, table: pa.Table) -> dict[str, str]:
    """The content hash of each day's rows, by the name of the file that they would have."""
    stem = parse_name(path).stem
    of = find_table(stem if path.parent.name == RESTATED else path.parent.name)
    if of is None:
        raise SchemaError(f"{path} belongs to no dataset of the lake; move it out of the lake")
    days = day_of(of[0].slots(table))
    return {
        f"{stem}_{utc(int(day)):%Y%m%d}.parquet": content_digest(table.filter(pa.array(days == day)))
        for day in np.unique(days)
    }


def damage(path: Path, schema: pa.Schema) -> str | None:
    """What is wrong with a file: it cannot be read, or says something else than when it was written.

    None for a good one, and for one that somebody else wrote, which has no hash to compare with.
    """
    try:
        recorded = _footer(path).get(_HASH_KEY)
        found = content_digest(read_table(path, schema)).encode()
    except SchemaError as error:
        return str(error)
    if recorded in {None, found}:
        return None
    return f"{path} does not say what was sealed (its content hash differs); {_REPAIR}"


def day_of(ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """00:00 UTC of the day of each time."""
    return ms - ms % DAY_MS


def _footer(path: Path) -> dict[bytes, bytes]:
    try:
        return pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise _torn(path, error) from error


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """The file's rows in the agreed schema, of all columns or of some, in the order of the schema.

    Raises
    ------
    SchemaError
        The file is torn, no Parquet, or has other columns; the message names it.

    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            table = file.read(columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _torn(path, error) from error
    if names != schema.names:
        raise SchemaError(f"{path} has columns {names}, expected {schema.names}; {_REPAIR}")
    try:
        return table.cast(_part(schema, columns))
    except (pa.ArrowException, ValueError) as error:
        raise SchemaError(f"{path} does not fit the schema ({_line(error)}); {_REPAIR}") from error


def read_tables(paths: Sequence[Path], schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of all files, in the order of the files; of all columns or of some, in the order of the schema.

    Raises
    ------
    SchemaError
        As `read_table`, for the first file at fault.

    """
    if len(paths) == 1:
        return read_table(paths[0], schema, columns)
    part = _part(schema, columns)
    if not paths:
        return part.empty_table()
    try:
        lazy = pl.scan_parquet(list(paths), hive_partitioning=False, glob=False)
        frame = (lazy if columns is None else lazy.select(part.names)).collect()
        if frame.columns == part.names:
            return frame.to_arrow().cast(part)
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, ValueError):
        pass  # one file is at fault: read one by one to name it
    return pa.concat_tables([read_table(path, schema, columns) for path in paths])


def _part(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    return schema if columns is None else pa.schema([field for field in schema if field.name in columns])


def _torn(path: Path, error: Exception) -> SchemaError:
    if isinstance(error, FileNotFoundError):
        return SchemaError(f"{path} vanished while it was read; run again")
    return SchemaError(f"{path} is torn or no Parquet ({_line(error)}); {_REPAIR}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
