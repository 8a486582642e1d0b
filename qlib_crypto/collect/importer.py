"""Candle and funding files of others into the lake, each file checked whole before its first row is stored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qlib_crypto.clock import DAY_MS, iso, utc
from qlib_crypto.collect.import_again import beside, left_over
from qlib_crypto.collect.import_files import NaiveTimesError, bars_of, instrument_of, settlements_of
from qlib_crypto.collect.import_holes import FileHole, bar_holes, funding_holes, write_holes
from qlib_crypto.collect.import_rates import check_rates
from qlib_crypto.collect.import_tables import said_by, table_files
from qlib_crypto.collect.import_times import (
    Hours,
    Prices,
    check_level,
    check_zone,
    file_prices,
    hours_of,
    lake_prices,
    tell_hours,
)
from qlib_crypto.errors import ConfigError, DataError, QlibCryptoError, SchemaError, counted
from qlib_crypto.lake import Lake
from qlib_crypto.lake.checks import first_fault, sift
from qlib_crypto.lake.quality import Flag, gap_flags
from qlib_crypto.lake.withdraw import withdraw_bars
from qlib_crypto.schemas import Bar, Settlement
from qlib_crypto.symbols import Instrument, Interval, Venue

#: How far a hole to what the lake has already is told.
_NEAR_MS = 31 * DAY_MS


class ImportResult(NamedTuple):
    """What an import did.

    Attributes
    ----------
    rows
        Read and kept.
    messages
        What the user must know: dropped open bars, rows of symbols that are no perpetuals, how the hour was checked.
    holes, holes_file
        Every hole of every file, and where they are listed; None when there are none.
    refused
        Why each row that went to the quarantine may not be stored.

    """

    rows: int
    messages: list[str]
    holes: list[FileHole]
    holes_file: Path | None
    refused: list[str]


@dataclass(slots=True)
class _Import:
    """One import: what was asked for, and what came of it so far."""

    lake: Lake
    venue: Venue
    zone: str | None
    against: list[Path]
    columns: Mapping[str, str]
    quarantine: bool
    replace: bool
    keep_last: bool
    received_ms: int
    rows: int = 0
    messages: list[str] = field(default_factory=list)
    holes: list[FileHole] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def result(self) -> ImportResult:
        """The result, the holes listed in a file."""
        path = None
        if self.holes:
            path = self.lake.folder(self.venue) / "imports" / f"holes_{utc(self.received_ms):%Y%m%dT%H%M%S}.csv"
            write_holes(path, self.holes)
        return ImportResult(self.rows, self.messages, self.holes, path, self.refused)

    def candles(self, path: Path, interval: Interval) -> None:
        """Store one file of bars."""
        try:
            bars, told = self._bars(path, interval, self.zone, lenient=self.quarantine)
        except NaiveTimesError as error:
            raise SchemaError(f"{error}{self._hint(path, interval)}") from None
        good = self._good(path, bars)
        checked = self._check_hours(path, good)
        if self.zone is not None and bars:
            sure = "" if checked else "; no prices in the lake show whether that is right, --against gives some"
            opens_at = iso(bars[0].open_ms)
            told.append(f"{path.name}: its times were read as {self.zone}: its first bar opens {opens_at} UTC{sure}")
        told += [*checked, *self._check_level(path, good), *beside(self.lake, path, good)]
        if self.replace and good:  # before the rows that show which import it was are replaced
            why = f"not in {path}, which replaces its import"
            if gone := withdraw_bars(self.lake, good[0].instrument, interval, left_over(self.lake, good), why):
                told.append(
                    f"{path.name}: {counted(gone, 'bar')} of an earlier import that it does not have went to the "
                    "quarantine; backfill fetches what the venue has there"
                )
        self._store(bars, told)
        if good:
            first, last = good[0], good[-1]
            self.lake.seal(self.venue, instrument=first.instrument)
            opens = self.lake.bar_times(first.instrument, interval, first.open_ms, last.open_ms + 1)
            gaps = np.flatnonzero(gap_flags(opens, interval.ms))
            self.lake.flag(first.instrument, interval, dict.fromkeys(opens[gaps].tolist(), int(Flag.GAP_BEFORE)))
            before = self.lake.bar_times(first.instrument, interval, first.open_ms - _NEAR_MS, first.open_ms)
            after = self.lake.bar_times(first.instrument, interval, last.open_ms + 1, last.open_ms + _NEAR_MS)
            self.holes += bar_holes(path, good, before[-1:].tolist(), after[:1].tolist())

    def funding(self, path: Path) -> None:
        """Store one file of settlements; they are sealed by the caller."""
        rows, told = settlements_of(
            path, self.venue, self.received_ms, zone=self.zone, lenient=self.quarantine, columns=self.columns
        )
        good = self._good(path, rows)
        check_rates(path, good, None if self.replace else self.lake)
        self._store(rows, told)
        self.holes += funding_holes(path, good)

    def _bars(self, path: Path, interval: Interval, zone: str | None, *, lenient: bool) -> tuple[list[Bar], list[str]]:
        asked = path, self.venue, interval, self.received_ms
        return bars_of(*asked, zone=zone, lenient=lenient, columns=self.columns, keep_last=self.keep_last)

    def _good[R: (Bar, Settlement)](self, path: Path, rows: list[R]) -> list[R]:
        """The rows without a fault; when there is no quarantine, a fault refuses the file."""
        if self.quarantine:
            return sift(rows)[0]
        error = first_fault(rows) or next(filter(None, map(_upside_down, rows)), None)
        if error is not None:
            raise SchemaError(f"{path}: {error}; --quarantine imports the rows that are good")
        return rows

    def _store(self, rows: Sequence[Bar] | Sequence[Settlement], told: list[str]) -> None:
        admitted = self.lake.admit(rows)
        self.refused += admitted.refused
        self.rows += len(rows) - len(admitted.refused)
        self.messages += told

    def _check_hours(self, path: Path, bars: Sequence[Bar]) -> list[str]:
        found = self._hours(path, bars)
        if found is not None:
            return [tell_hours(path, *found, self.zone)]
        if self.against:
            raise SchemaError(
                f"{path}: its hour cannot be checked against what --against gives; give candles of the same coin that "
                "overlap it by some hours"
            )
        return []

    def _check_level(self, path: Path, bars: Sequence[Bar]) -> list[str]:
        """Prices beside those that the lake has of the very contract."""
        if not bars or self.replace:
            return []
        instrument, step = bars[0].instrument, bars[0].interval.ms
        closes = np.array([bar.open_ms + step for bar in bars]), np.array([bar.close for bar in bars])
        own = lake_prices(self.lake, instrument, bars[0].open_ms, bars[-1].open_ms + step, others=False)
        return [line for known in own if (line := check_level(path, known, *closes)) is not None][:1]

    def _hours(self, path: Path, bars: Sequence[Bar]) -> tuple[Prices, Hours] | None:
        """The first known prices that tell the hour of the bars."""
        if not bars:
            return None
        instrument, step = bars[0].instrument, bars[0].interval.ms
        closes = np.array([bar.open_ms + step for bar in bars]), np.array([bar.close for bar in bars])
        given = (file_prices(other) for other in self.against if _same_coin(other, instrument) and other != path)
        in_lake = lake_prices(self.lake, instrument, bars[0].open_ms, bars[-1].open_ms + step)
        for known in given if self.against else () if self.replace else in_lake:
            hours = hours_of(known, *closes)
            if hours is not None:
                return known, hours
        return None

    def _hint(self, path: Path, interval: Interval) -> str:
        """The zone that known prices tell, as words that follow the refusal of naive stamps."""
        bars, _ = self._bars(path, interval, "UTC", lenient=True)
        found = self._hours(path, sift(bars)[0])
        return f"; by {found[0].name} it is {found[1].zone}" if found else ""


def import_data(
    lake: Lake,
    files: Sequence[Path],
    venue: Venue,
    dataset: str,
    interval: Interval | None = None,
    *,
    time_zone: str | None = None,
    against: Sequence[Path] = (),
    quarantine: bool = False,
    replace: bool = False,
    keep_last: bool = False,
    columns: Mapping[str, str] | None = None,
) -> ImportResult:
    """What was imported, as source `import`, which replaces any other; durable and sealed on return.

    Parquet, CSV (its times as dates or as Unix time), freqtrade's Feather and the zips of Binance's archive are read.
    `kline` files hold one symbol each, named by the venue's id (`BTC-USDT-SWAP.parquet`) or ours: `timestamp` (bar
    open) `open high low close volume` and, where known, `quote_volume` `trades`. One with `close_time` is a raw kline
    download, whose last row may have been open: that row is left out. `funding` files hold any number of symbols:
    `symbol` `funding_time` `funding_rate` and, where known, `mark_price`. Importing again changes nothing.

    The hour of candles is checked against prices of the same coin, in the lake or in `against`, where there are any at
    the same time: stamps that are off by whole quarters of an hour are refused. Funding is compared with settlements
    in the lake: rates in another unit, with another sign or of another time are refused.

    Parameters
    ----------
    lake, files, venue, dataset, interval
        What, and where to; `interval` is for `kline`.
    time_zone
        The zone of stamps that have none, `+08:00` or `Asia/Shanghai`; without it they are refused.
    against
        Candle files, or folders of them, with times that are known to be right; then every file must be checked.
    quarantine
        Rows that are impossible by themselves go to the quarantine instead of refusing their file.
    replace
        What the lake has is wrong: files are not compared with it. Bars of an earlier import that a file replaces as a
        whole, read in another time zone perhaps, go to the quarantine where the file has none.
    keep_last
        Take the last bar of a file with `close_time`, too: it was closed.
    columns
        The files' names for ours, `{"timestamp": "open_time"}`; those of freqtrade and of Binance are known.

    Raises
    ------
    ConfigError
        The dataset or zone is unknown, or `kline` comes without its interval.
    SchemaError
        A file is torn, lacks a column, has naive or wrong times, wrong rates or impossible rows; nothing of it is
        stored, files before it are.
    StorageError
        The disk refused.

    """
    if dataset not in {"kline", "funding"}:
        raise ConfigError(f"dataset {dataset!r} is unknown; write kline or funding")
    if dataset == "kline" and interval is None:
        raise ConfigError("candles need their interval: give --interval, such as 1h")
    if time_zone is not None:
        check_zone(time_zone)
    now_ms = time.time_ns() // 1_000_000
    run = _Import(lake, venue, time_zone, table_files(against), columns or {}, quarantine, replace, keep_last, now_ms)
    for done, path in enumerate(files):
        try:
            if interval is not None and dataset == "kline":
                run.candles(path, interval)
            else:
                run.funding(path)
        except QlibCryptoError as error:
            if done:
                listed = run.result().holes_file
                error.args = (f"{error}; {_before(done, listed)}",)
            raise
    if dataset == "funding":
        lake.seal(venue)
    return run.result()


def _before(done: int, listed: Path | None) -> str:
    kept = f"{counted(done, 'file')} before it {'was' if done == 1 else 'were'} imported"
    return kept if listed is None else f"{kept}, the holes are in {listed}"


def _upside_down(row: Bar | Settlement) -> DataError | None:
    """What a file of others may not have, though a venue's own bar may."""
    if isinstance(row, Settlement) or row.low <= row.high:
        return None
    return DataError(f"bar {row.instrument} {iso(row.open_ms)} refused: high {row.high} is below low {row.low}")


def _same_coin(path: Path, instrument: Instrument) -> bool:
    found = (instrument_of(said_by(path).symbol, venue) for venue in Venue)
    return any(
        other is not None and (other.base, other.quote) == (instrument.base, instrument.quote) for other in found
    )
