"""The store at an fsspec address: the sealed files of a lake there, and what it says when it refuses.

fsspec is an extra, imported when an address is used.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qlib_crypto.errors import ConfigError, QlibCryptoError, SchemaError, StorageError
from qlib_crypto.lake.paths import RESTATED, SNAPSHOTS, parse_name, venue_folder
from qlib_crypto.lake.tables import find_table
from qlib_crypto.symbols import Venue

#: Stores whose objects appear whole; elsewhere a file is written aside and renamed.
_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"}
#: What tells that a file is another one: its hash, or else whatever says when it was made.
_HASHES = ("ETag", "etag", "md5Hash", "content_md5")
_TIMES = ("mtime", "ino", "LastModified", "last_modified", "updated", "created")
_KEY_LETTERS = 16


def cache_folder(address: str) -> Path:
    """Where commands keep what they pulled from an address: `$XDG_CACHE_HOME/qlib-crypto/lakes/…`, else `~/.cache`."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "qlib-crypto" / "lakes" / key(address)


def key(address: str) -> str:
    """A name for files about an address."""
    return hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:_KEY_LETTERS]


@contextmanager
def told(address: str) -> Iterator[None]:
    """What a store or the disk says, as an error of ours."""
    name = shown(address)
    try:
        yield
    except QlibCryptoError:
        raise
    except ImportError as error:
        raise ConfigError(
            f"{name} needs a package that is not installed ({_words(error)}); for s3:// run: pip install "
            "'qlib-crypto[s3]', for others also the package that fsspec names"
        ) from error
    except FileNotFoundError as error:
        raise StorageError(
            f"{name} cannot be written or read ({_words(error)}); make the bucket, or correct the address"
        ) from error
    except PermissionError as error:
        raise StorageError(
            f"{name}: no permission ({_words(error)}); check credentials and rights, for S3 AWS_PROFILE or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__ == "builtins":
            raise  # a fault of ours; each store's library has errors of its own
        raise StorageError(
            f"{name} cannot be read or written ({_words(error)}); check address, network, credentials and disk space, "
            "then run again"
        ) from error


def is_dataset(name: str) -> bool:
    """Whether a folder of this name holds files of the lake."""
    return name in {*SNAPSHOTS, RESTATED} or find_table(name) is not None


def is_sealed(name: str) -> bool:
    """Whether a file of this name is one of the lake, and not one on its way."""
    try:
        parse_name(Path(name))
    except SchemaError:
        return False
    return not name.startswith(".")


class Store:
    """The sealed files below an address, by their path below it."""

    def __init__(self, address: str) -> None:
        import fsspec  # noqa: PLC0415 - an extra; `told` says so

        try:
            self._fs, root = fsspec.url_to_fs(address)
        except ValueError as error:  # no such protocol
            raise ConfigError(f"{shown(address)}: {error}; write such as s3://bucket/path") from error
        self.shown = shown(address)
        self._root = str(root).rstrip("/")
        protocol = self._fs.protocol
        self._whole = bool(_WHOLE & {protocol, *(() if isinstance(protocol, str) else protocol)})

    def files(self) -> dict[str, list[Any]]:
        """What tells each file's state: its size, and its hash or times."""
        self._fs.invalidate_cache()
        found = {}
        for folder in (venue_folder(Path(), venue).name for venue in Venue):
            for entry in self._list(folder):
                within = f"{folder}/{_name(entry)}"
                for info in self._list(within) if is_dataset(_name(entry)) else ():
                    if info["type"] == "file" and is_sealed(_name(info)):
                        digest = next((str(info[name]) for name in _HASHES if info.get(name)), "")
                        times = str([info.get(name) for name in _TIMES])
                        found[f"{within}/{_name(info)}"] = [info["size"], digest or times]
        return found

    def get(self, wanted: Mapping[str, Path]) -> None:
        """Write each file to its path, several at once."""
        self._fs.get([self._at(rel) for rel in wanted], [str(path) for path in wanted.values()])

    def contents(self, wanted: Iterable[str]) -> dict[str, bytes]:
        """What each file holds."""
        found = self._fs.cat([self._at(rel) for rel in wanted])
        return {rel: found[self._at(rel)] for rel in wanted}

    def put(self, contents: Mapping[str, bytes]) -> None:
        """Each file is there whole, or as it was."""
        if self._whole:
            self._fs.pipe({self._at(rel): content for rel, content in contents.items()})
            return
        for rel, content in contents.items():
            folder, _, name = self._at(rel).rpartition("/")
            self._fs.makedirs(folder, exist_ok=True)
            self._fs.pipe_file(f"{folder}/.{name}.push", content)
            self._fs.mv(f"{folder}/.{name}.push", f"{folder}/{name}")

    def remove(self, gone: Sequence[str]) -> None:
        """Remove files."""
        if gone:
            self._fs.rm([self._at(rel) for rel in gone])

    def _list(self, within: str) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = self._fs.ls(self._at(within), detail=True)
        except FileNotFoundError:
            return []
        return found

    def _at(self, rel: str) -> str:
        return f"{self._root}/{rel}"


def _name(info: Mapping[str, Any]) -> str:
    return str(info["name"]).rstrip("/").rpartition("/")[2]


def shown(address: str) -> str:
    """The address without a name and password in it."""
    return re.sub(r"//[^/@]*@", "//", address)


def _words(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
