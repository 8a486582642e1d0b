"""What doctor looks at in the lake's folder: whether it can be written, is whole, has room, and who works on it."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from qlib_crypto.collect.status import LOCK_FILE, STATUS_FILE
from qlib_crypto.daemon import lock
from qlib_crypto.lake.paths import venue_folder
from qlib_crypto.settings import Settings
from qlib_crypto.symbols import Venue
from qlib_crypto.watch.findings import Finding, Level
from qlib_crypto.watch.holders import holder
from qlib_crypto.watch.observe import disk, disks_of, existing

_GB = 1e9
_FREE_NODES = 0.01
_LEAST_FILES = 1_024
#: Databases above this are opened only: a full check would take minutes.
_CHECKED_BYTES = 2**30
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p")


def folders(settings: Settings, venues: Sequence[Venue]) -> Iterator[Finding]:
    """The lake's folder and its databases."""
    root = settings.lake_dir.absolute()
    if not root.is_dir():
        yield Finding("lake", Level.FAIL, f"{root} does not exist", "run in the repository's folder, or give --lake")
        return
    closed = [p for p in [root, *(venue_folder(root, v) for v in venues)] if p.is_dir() and not os.access(p, os.W_OK)]
    if closed:
        yield Finding("lake", Level.FAIL, f"{closed[0]} cannot be written", f"chown or chmod it for user {os.getuid()}")
    kind = _file_system(root)
    if kind in _REMOTE:
        yield Finding("lake", Level.FAIL, f"{root} lies on {kind}, where SQLite's locks do not hold",
                      "keep the lake on a local disk")  # fmt: skip
    elif not closed:
        yield Finding("lake", Level.OK, f"{root} can be written, {kind or 'unknown file system'}")
    for venue in venues:
        hot = venue_folder(root, venue) / "hot.sqlite"
        if hot.is_file():
            yield _sqlite(f"{venue} hot store", hot)
    if (root / "jobs.sqlite").is_file():
        yield _sqlite("job table", root / "jobs.sqlite")


def _sqlite(key: str, path: Path) -> Finding:
    """Whether a database is whole; a big one is only opened, a full check would take minutes."""
    size = path.stat().st_size
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
    try:
        said = "ok" if size > _CHECKED_BYTES else connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        said = str(error)
    finally:
        connection.close()
    seen = f"{path}, {size / 1e6:,.1f} MB"
    if said == "ok":
        return Finding(key, Level.OK, seen)
    return Finding(key, Level.FAIL, f"{seen}: {said}", "stop what uses it, copy it away with its -wal file, then: "
                   "sqlite3 COPY .recover | sqlite3 hot.sqlite")  # fmt: skip


def _file_system(path: Path) -> str:
    """The type of the file system a path lies on, empty where it cannot be known."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounts = [(Path(parts[1].replace("\\040", " ")), parts[2]) for line in lines if len(parts := line.split()) > 2]  # noqa: PLR2004 - device, place, type
    held = [(len(place.parts), kind) for place, kind in mounts if path.resolve().is_relative_to(place)]
    return max(held)[1] if held else ""


def disks(settings: Settings) -> Iterator[Finding]:
    """Room for the lake and for the provider."""
    least = settings.watch.disk_free_gb
    for name, folder in disks_of(settings):
        free, total = disk(folder)
        nodes = os.statvfs(existing(folder))
        seen = f"{free / _GB:,.1f} of {total / _GB:,.0f} GB free"
        if free < least * _GB:
            yield Finding(f"disk {name}", Level.FAIL, f"{seen}, {least:g} are wanted", "free disk space")
        elif nodes.f_files and nodes.f_favail < _FREE_NODES * nodes.f_files:
            yield Finding(f"disk {name}", Level.FAIL, f"{seen}, but no inodes", "delete small files")
        else:
            yield Finding(f"disk {name}", Level.OK, seen)


def open_files() -> Iterator[Finding]:
    """How many files a process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft:,}"
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        yield Finding("open files", Level.WARN, f"{limit} at most", f"ulimit -n {min(hard, 65_536)}")
    else:
        yield Finding("open files", Level.OK, f"{limit} at most")


def locks(settings: Settings, venues: Sequence[Venue]) -> Iterator[Finding]:
    """Which daemon and which collectors run."""
    running = holder(settings.lake_dir / lock.FILE)
    yield Finding("daemon", Level.OK, "does not run" if running is None else f"runs as process {running}")
    for venue in venues:
        folder = venue_folder(settings.lake_dir, venue)
        running = holder(folder / LOCK_FILE)
        status = folder / STATUS_FILE
        key = f"{venue} collector"
        if running is not None:
            yield Finding(key, Level.OK, f"runs as process {running}")
        elif status.is_file() and json.loads(status.read_bytes()).get("running"):
            yield Finding(key, Level.WARN, "its last status says that it runs, but nobody holds its lock",
                          "it was killed, or runs in another container; start it, or the daemon")  # fmt: skip
        else:
            yield Finding(key, Level.OK, "does not run")
