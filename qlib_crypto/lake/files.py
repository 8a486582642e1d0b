"""Parquet files of the lake: written whole and atomically, read with their schema checked.

A file carries the SHA-256 of its content in its footer, so that a lake's identity costs only footers and travels with
the files. The content is every column but `source` and `received_at`: how a row came does not change what it says.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from qlib_crypto.errors import SchemaError, StorageError

_HASH_KEY = b"qlib_crypto.content_sha256"
_PROVENANCE = {"source", "received_at"}
_REPAIR = "move it away, then back-fill or import its span again"


def write_table(path: Path, table: pa.Table) -> str:
    """The content hash of the table, now the whole of the file at `path`; readers see the old file or the new one.

    Raises
    ------
    StorageError
        The disk refused; the file at `path` is as it was.

    """
    digest = content_digest(table)
    marked = table.replace_schema_metadata({_HASH_KEY: digest.encode()})
    sink = pa.BufferOutputStream()
    texts = [field.name for field in table.schema if field.type == pa.string()]
    pq.write_table(marked, sink, compression="snappy", use_dictionary=texts)
    write_bytes(path, sink.getvalue())
    return digest


def write_bytes(path: Path, data: bytes | pa.Buffer) -> None:
    """Write a whole file atomically and durably: temporary file, sync, rename, sync of the folder.

    Raises
    ------
    StorageError
        The disk refused; the file at `path` is as it was.

    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot write ({error.strerror or error}); nothing stored before is lost; "
            "check disk space and permissions, then run again"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files below a folder whose writer is gone: it was killed between write and rename."""
    for path in folder.rglob(".*.tmp"):
        process = path.suffixes[-2:-1]
        if process and process[0][1:].isdigit() and not _lives(int(process[0][1:])):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    return True


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
        else:
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.int64())
            filled = column.fill_null(pa.scalar(0, column.type) if column.type != pa.bool_() else False)
            digest.update(filled.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def recorded_digest(path: Path, schema: pa.Schema) -> str:
    """The content hash from the file's footer; computed when the file was written by somebody else."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise _torn(path, error) from error
    recorded = metadata.get(_HASH_KEY)
    return recorded.decode() if recorded else content_digest(read_table(path, schema))


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """The file's rows in the agreed schema.

    Raises
    ------
    SchemaError
        The file is torn, no Parquet, or has other columns; the message names it.

    """
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _torn(path, error) from error
    if table.column_names != schema.names:
        raise SchemaError(f"{path} has columns {table.column_names}, expected {schema.names}; {_REPAIR}")
    try:
        return table.cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise SchemaError(f"{path} does not fit the schema ({_line(error)}); {_REPAIR}") from error


def read_tables(paths: Sequence[Path], schema: pa.Schema) -> pa.Table:
    """The rows of all files, in the order of the files.

    Raises
    ------
    SchemaError
        As `read_table`, for the first file at fault.

    """
    if len(paths) == 1:
        return read_table(paths[0], schema)
    if not paths:
        return schema.empty_table()
    try:
        frame = pl.scan_parquet(list(paths), hive_partitioning=False, glob=False).collect()
        if frame.columns == schema.names:
            return frame.to_arrow().cast(schema)
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, ValueError):
        pass  # one file is at fault: read one by one to name it
    return pa.concat_tables([read_table(path, schema) for path in paths])


def _torn(path: Path, error: Exception) -> SchemaError:
    if isinstance(error, FileNotFoundError):
        return SchemaError(f"{path} vanished while it was read; run again")
    return SchemaError(f"{path} is torn or no Parquet ({_line(error)}); {_REPAIR}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
