"""Every file name of the lake, written and parsed in one place.

.. code-block:: text

    {venue}_data/kline_1m/{SYMBOL}_{YYYYMMDD}.parquet           bars that open in that UTC day
    {venue}_data/kline_1h/{SYMBOL}_{YYYYMM}.parquet             an hour and more: a month
    {venue}_data/funding/funding_rates_{YYYYMMDD}.parquet       all symbols
    {venue}_data/funding_estimate/funding_estimate_{YYYYMMDD}.parquet
    {venue}_data/mark_1m/{SYMBOL}_{YYYYMMDD}.parquet            as kline; likewise index_1m
    {venue}_data/open_interest/open_interest_{YYYYMMDD}.parquet all symbols; likewise long_short_ratio, liquidations
    {venue}_data/trades/{SYMBOL}_{YYYYMMDD}.parquet             likewise books
    {venue}_data/restated/{DATASET}_{YYYYMMDD}.parquet          rows that the venue, or a better source, replaced
    {venue}_data/instruments/instruments_{YYYYMMDDTHHMMSS}.parquet
    {venue}_data/margin_tiers/margin_tiers_{YYYYMMDDTHHMMSS}.parquet
    {venue}_data/universe/membership_{YYYYMMDDTHHMMSS}.parquet
    {venue}_data/hot.sqlite                                     rows not yet sealed, and the ledgers

Day files may be compacted into `…_{YYYYMM}.parquet`, which the same reader reads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from qlib_crypto.clock import DAY_MS, day_start, month_start, next_month, parse_utc, utc
from qlib_crypto.errors import QlibCryptoError, SchemaError
from qlib_crypto.symbols import Instrument, Interval, Venue

KLINE = "kline_"
MARK = "mark_"
INDEX = "index_"
FUNDING = "funding"
ESTIMATE = "funding_estimate"
OPEN_INTEREST = "open_interest"
LONG_SHORT_RATIO = "long_short_ratio"
LIQUIDATIONS = "liquidations"
TRADES = "trades"
BOOKS = "books"
RESTATED = "restated"
INSTRUMENTS = "instruments"
MARGIN_TIERS = "margin_tiers"
UNIVERSE = "universe"
#: Datasets of whole states, a file each.
SNAPSHOTS = frozenset({INSTRUMENTS, MARGIN_TIERS, UNIVERSE})

#: First part of the file names of datasets that keep all symbols together.
STEM = {
    FUNDING: "funding_rates", UNIVERSE: "membership",
    **{same: same for same in (ESTIMATE, OPEN_INTEREST, LONG_SHORT_RATIO, LIQUIDATIONS, INSTRUMENTS, MARGIN_TIERS)},
}  # fmt: skip


#: In so long a range files are asked for by name instead of listed.
_NEAR_MS = 200 * DAY_MS


class Dated(NamedTuple):
    """A lake file: what its name says. It holds times in `[start_ms, end_ms)`; a snapshot has `end_ms == start_ms`."""

    path: Path
    stem: str
    start_ms: int
    end_ms: int


def venue_folder(root: Path, venue: Venue) -> Path:
    """`{venue}_data`."""
    return root / f"{venue}_data"


def kline_dataset(interval: Interval) -> str:
    """`kline_1m`, the folder of an interval."""
    return f"{KLINE}{interval}"


def period_file(folder: Path, dataset: str, stem: str, start_ms: int, *, by_month: bool) -> Path:
    """The file of the day or month that starts at `start_ms`; `folder` is the venue's.

    A day that was compacted lies in its month's file, and what arrives late goes there.
    """
    month = folder / dataset / f"{stem}_{utc(start_ms):%Y%m}.parquet"
    if by_month or month.exists():
        return month
    return folder / dataset / f"{stem}_{utc(start_ms):%Y%m%d}.parquet"


def month_of_days(path: Path) -> bool:
    """True for a month's file of a dataset whose files are days': its days were compacted."""
    return bool(re.search(r"_\d{6}\.parquet$", path.name)) and _by_day(path.parent.name)


def _by_day(dataset: str) -> bool:
    """Whether the dataset's files hold days, before any compaction."""
    for prefix in (KLINE, MARK, INDEX):
        if dataset.startswith(prefix):
            try:
                return not Interval.parse_candle(dataset.removeprefix(prefix)).by_month
            except QlibCryptoError:
                return False
    return dataset not in SNAPSHOTS


def period(ms: int, *, by_month: bool) -> tuple[int, int]:
    """The UTC day or month `[start, end)` that holds `ms`: what one file covers."""
    return (month_start(ms), next_month(ms)) if by_month else (day_start(ms), day_start(ms) + DAY_MS)


def kline_file(folder: Path, instrument: Instrument, interval: Interval, start_ms: int) -> Path:
    """The file of the day or month that starts at `start_ms`; `folder` is the venue's."""
    return period_file(folder, kline_dataset(interval), instrument.symbol, start_ms, by_month=interval.by_month)


def day_file(folder: Path, dataset: str, start_ms: int) -> Path:
    """The file of a dataset that keeps all symbols of a day together."""
    return period_file(folder, dataset, STEM[dataset], start_ms, by_month=False)


def snapshot_file(folder: Path, dataset: str, at_ms: int) -> Path:
    """The file of a dataset that keeps whole states, each at a second."""
    return folder / dataset / f"{STEM[dataset]}_{utc(at_ms):%Y%m%dT%H%M%S}.parquet"


def parse_name(path: Path) -> Dated:
    """What the file name says; the date is read from the right, because symbols contain `_`.

    Raises
    ------
    SchemaError
        When the name does not end in a date.

    """
    match = re.fullmatch(r"(.+)_(\d{6}|\d{8}|\d{8}T\d{6})\.parquet", path.name)
    covered = _covered(match[2]) if match else None
    if match is None or covered is None:
        raise SchemaError(
            f"{path} is not named as a lake file (NAME_YYYYMMDD.parquet); move it out of the lake or rename it"
        )
    return Dated(path, match[1], *covered)


@lru_cache(maxsize=8192)
def _covered(stamp: str) -> tuple[int, int] | None:
    try:
        if "T" in stamp:
            at = parse_utc(stamp)
            return at, at
        by_month = len(stamp) == len("YYYYMM")
        return period(parse_utc(f"{stamp}01" if by_month else stamp), by_month=by_month)
    except QlibCryptoError:
        return None


def dated_files(
    folder: Path, dataset: str, stem: str | None = None, start_ms: int | None = None, end_ms: int | None = None
) -> list[Dated]:
    """The dataset's files, by start; with a stem only its own, with a range only those that touch `[start, end)`.

    A day's file beside its month's is not listed: a compaction is about to remove it, or was stopped before it could.
    """
    if stem is None:
        stem = STEM.get(dataset)
    near = start_ms is not None and end_ms is not None and end_ms - start_ms <= _NEAR_MS
    if stem is not None and near and dataset not in SNAPSHOTS:
        found = _of_periods(folder / dataset, stem, start_ms or 0, end_ms or 0)
    else:
        found = [file for file in all_files(folder, dataset, stem) if stem is None or file.stem == stem]
    months = {(f.stem, f.start_ms) for f in found if f.end_ms - f.start_ms > DAY_MS} if _by_day(dataset) else set()
    return sorted(
        (
            file
            for file in found
            if (end_ms is None or file.start_ms < end_ms)
            and (start_ms is None or max(file.end_ms, file.start_ms + 1) > start_ms)
            and (
                not months or file.end_ms - file.start_ms > DAY_MS
                or (file.stem, month_start(file.start_ms)) not in months
            )
        ),
        key=lambda file: (file.start_ms, file.end_ms, file.stem),
    )  # fmt: skip


def _of_periods(folder: Path, stem: str, start_ms: int, end_ms: int) -> list[Dated]:
    """The files of the days and months that touch the range, asked for by name: a folder may hold very many.

    Days before months: where days went meanwhile, the month that took their place is there.
    """
    prefix, found = f"{folder}{os.sep}{stem}_", []
    for stamp, start, end in _periods(start_ms, end_ms):
        name = f"{prefix}{stamp}.parquet"
        if os.path.exists(name):  # noqa: PTH110 - a `Path` for each name asked takes longer than the question
            found.append(Dated(Path(name), stem, start, end))
    return found


@lru_cache(maxsize=64)
def _periods(start_ms: int, end_ms: int) -> list[tuple[str, int, int]]:
    """Stamp, start and end of the days, then of the months, that touch a range."""
    days = range(day_start(start_ms), end_ms, DAY_MS)
    months = sorted({month_start(at) for at in days})
    return [(f"{utc(at):%Y%m%d}", at, at + DAY_MS) for at in days] + [
        (f"{utc(at):%Y%m}", at, next_month(at)) for at in months
    ]


def all_files(folder: Path, dataset: str, stem: str | None = None) -> list[Dated]:
    """Every file of a dataset, of the stems that start with this one, in no order; those that are replaced too."""
    prefix = "" if stem is None else f"{stem}_"
    return [parse_name(path) for path in file_names(folder, dataset) if path.name.startswith(prefix)]


def file_names(folder: Path, dataset: str) -> list[Path]:
    """Every Parquet file in a dataset's folder, whatever its name, in no order."""
    return [folder / dataset / name for name in _names(folder / dataset)]


def datasets(folder: Path) -> list[str]:
    """Names of the venue's dataset folders that hold files."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []
    return [name for name in names if next(_names(folder / name), None)]


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # a name with a leading dot is a file being written
            yield from (e.name for e in entries if e.name.endswith(".parquet") and not e.name.startswith("."))
    except FileNotFoundError:
        return
