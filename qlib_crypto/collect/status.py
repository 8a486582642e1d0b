"""What a collector says about itself in `{venue}_data/collector.json`, for the daemon, metrics and health."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from qlib_crypto.errors import StorageError
from qlib_crypto.lake import Lake
from qlib_crypto.symbols import Instrument, Venue

STATUS_FILE, LOCK_FILE = "collector.json", "collect.lock"


@dataclass(frozen=True, slots=True)
class CollectorStatus:
    """The state of one collector; counts are since its start.

    Attributes
    ----------
    pid, running
        Its process, and False once it has stopped cleanly.
    started_ms, wall_ms, market_ms
        Wall time of its start and of this status, and market time then.
    streamed_s
        Wall seconds since the stream gave the last row of any kind; None before the first.
    newest
        Open of each followed instrument's newest bar, None when it has none.
    rows
        New or replaced rows by source: `ws`, `rest`.
    datasets
        New or replaced rows by dataset.
    gaps, repaired
        Rows found missing, and those of them that REST gave, by cause.
    holes
        Rows that the venue itself does not have, by cause.
    stream
        Counters of the stream (`feeds.StreamCounters`).
    queue, inbox
        REST requests and stream rows that wait.
    refused, dropped, revived
        Rows that cannot be right; rows let go because the disk was full; feeds opened anew because they were dead.
    last_settlement_ms
        Time of the newest settlement that was stored.
    commit_ms
        What the last commit of streamed rows took, wall.
    trouble
        Why nothing can be stored now; None when all is well.
    namespace
        `pid_namespace` of the process: who is in the same one sees whether it holds its lock.

    """

    venue: str
    pid: int
    running: bool
    started_ms: int
    wall_ms: int
    market_ms: int
    interval: str
    streamed_s: float | None = None
    newest: dict[str, int | None] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    datasets: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    holes: dict[str, int] = field(default_factory=dict)
    stream: dict[str, int] = field(default_factory=dict)
    queue: int = 0
    inbox: int = 0
    refused: int = 0
    dropped: int = 0
    revived: int = 0
    last_settlement_ms: int | None = None
    commit_ms: float = 0.0
    trouble: str | None = None
    namespace: str = ""


def pid_namespace() -> str:
    """What process numbers of this process count in, another in each container; empty where nobody tells."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def write_status(lake: Lake, status: CollectorStatus) -> None:
    """Replace the venue's status file; readers see the old or the new one whole. Raises `OSError`."""
    path = lake.folder(Venue.parse(status.venue)) / STATUS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(orjson.dumps(dataclasses.asdict(status), option=orjson.OPT_APPEND_NEWLINE))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_status(lake: Lake, venue: Venue) -> CollectorStatus | None:
    """The status that the venue's collector wrote last; None when there is none, or it is of another version."""
    try:
        found = orjson.loads((lake.folder(venue) / STATUS_FILE).read_bytes())
        return CollectorStatus(**found)
    except (OSError, orjson.JSONDecodeError, TypeError):
        return None


def followed(lake: Lake, venue: Venue) -> list[Instrument]:
    """The instruments that the venue's collector follows, or followed last; empty when none ever ran."""
    status = read_status(lake, venue)
    return [Instrument.parse(symbol, venue) for symbol in status.newest] if status else []


@contextmanager
def only_collector(lake: Lake, venue: Venue) -> Iterator[None]:
    """While the block runs no other process collects this venue into this lake; the lock ends with the process.

    Raises
    ------
    StorageError
        Another one does; the message names its process.

    """
    path: Path = lake.folder(venue) / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}; check the lake's folder and its permissions") from None
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(held, 32).decode(errors="replace").strip()
            raise StorageError(
                f"{path}: process {owner or 'unknown'} already collects {venue} into this lake; stop it first"
            ) from None
        with contextlib.suppress(OSError):  # on a full disk the lock holds, and names nobody
            os.ftruncate(held, 0)
            os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(held)
