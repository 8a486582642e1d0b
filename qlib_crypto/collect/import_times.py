"""When the rows of somebody's file were: the zone of naive stamps, and a check of the hour against known prices."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS, MINUTE_MS
from qlib_crypto.collect.import_tables import read_table
from qlib_crypto.errors import ConfigError, SchemaError, counted
from qlib_crypto.lake import Lake
from qlib_crypto.symbols import Instrument, Venue

#: The clocks of the world are whole quarters of an hour apart, and at most so many hours from UTC.
_STEP_MS, FURTHEST_MS = 15 * MINUTE_MS, 14 * HOUR_MS
#: Fewer prices at the same instant say nothing.
_FEWEST = 20
#: The right hour fits so many times better than a typical wrong one. At this factor each of 88 days of real 1m candles,
#: alone and against other candles of the coin, showed its true hour as it was and moved by 8, -5 and 5.5 hours.
_CLEARLY = 3.0
#: Prices of one contract are never so many times apart in the median, and seldom by such a fraction; of so many prices.
_OTHER, _APART, _FEW = 1.5, 0.02, 5
#: The smallest price difference that counts: below it two venues are equal.
_EQUAL = 1e-6
_MS = pa.timestamp("ms")


@dataclass(frozen=True, slots=True)
class Prices:
    """Closing prices at instants, ascending, Unix milliseconds UTC; `name` says whose; those `imported` a user gave."""

    name: str
    at_ms: NDArray[np.int64]
    close: NDArray[np.float64]
    imported: bool = False


class Hours(NamedTuple):
    """How the stamps of a file compare with known prices.

    Attributes
    ----------
    shift_ms
        What must be added to the stamps, so that the prices fit; 0 when they are right.
    points
        Prices compared at that shift.
    there, here
        Median relative price difference at that shift, and as the file stands (NaN when nothing is comparable there).

    """

    shift_ms: int
    points: int
    there: float
    here: float

    @property
    def zone(self) -> str:
        """The offset of the clock that the stamps were read from, such as `+08:00`."""
        return offset_text(-self.shift_ms)


def offset_text(offset_ms: int) -> str:
    """`+08:00`."""
    hours, minutes = divmod(abs(offset_ms) // MINUTE_MS, 60)
    return f"{'-' if offset_ms < 0 else '+'}{hours:02}:{minutes:02}"


def check_zone(text: str) -> None:
    """Refuse what is neither an offset such as `+08:00` nor the name of a zone such as `Asia/Shanghai`.

    Raises
    ------
    ConfigError
        It is neither.

    """
    if _offset_ms(text) is None:
        try:
            ZoneInfo(text)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ConfigError(
                f"--time-zone {text!r} is unknown; write an offset such as +08:00, or a name such as Asia/Shanghai"
            ) from None


def to_utc(path: Path, column: pa.ChunkedArray, name: str, zone: str) -> NDArray[np.int64]:
    """Unix milliseconds of naive stamps that were read from a clock in `zone`.

    Raises
    ------
    SchemaError
        A stamp does not exist in that zone or happened twice there, as summer time does.

    """
    naive = np.asarray(column.cast(_MS).cast(pa.int64()).to_numpy(), dtype=np.int64)
    offset_ms = _offset_ms(zone)
    if offset_ms is not None:
        return naive - offset_ms
    stamps = pl.Series(naive).cast(pl.Datetime("ms"))
    try:
        aware = stamps.dt.replace_time_zone(zone, ambiguous="raise", non_existent="raise")
    except pl.exceptions.PolarsError as error:
        line = " ".join(str(error).split())[:120]
        raise SchemaError(f"{path}: {name} cannot be of {zone} ({line}); give its offset, such as +08:00") from None
    return np.asarray(aware.dt.epoch("ms").to_numpy(), dtype=np.int64)


def hours_of(known: Prices, at_ms: NDArray[np.int64], close: NDArray[np.float64]) -> Hours | None:
    """Whether prices fit known ones as they are stamped, or at another hour; None when that cannot be told.

    Compared are prices at whole quarters of an hour, at every shift of quarters up to 14 hours either way, by the
    median relative difference; a coin quoted by the thousand is brought to the same unit. A shift is the right one
    when it fits three times better than half of all shifts do.
    """
    quarter = at_ms % _STEP_MS == 0
    at_ms, close = at_ms[quarter], close[quarter]
    quarter = known.at_ms % _STEP_MS == 0
    known_ms, known_close = known.at_ms[quarter], known.close[quarter]
    fits: dict[int, tuple[float, int]] = {}
    for shift in range(-FURTHEST_MS, FURTHEST_MS + 1, _STEP_MS):
        _, ours, theirs = np.intersect1d(at_ms + shift, known_ms, assume_unique=True, return_indices=True)
        if len(ours) >= _FEWEST:
            ratio = np.log(close[ours] / known_close[theirs])
            scale = math.log(10) * round(float(np.median(ratio)) / math.log(10))
            fits[shift] = max(float(np.median(np.abs(ratio - scale))), _EQUAL), len(ours)
    if not fits:
        return None
    best = min(fits, key=lambda shift: (fits[shift][0], abs(shift)))
    there, points = fits[best]
    here = fits[0][0] if 0 in fits else math.nan
    typical = float(np.median([fit for fit, _ in fits.values()]))
    if there * _CLEARLY > typical or (best and here < there * _CLEARLY):
        return None
    return Hours(best, points, there, here)


def check_level(path: Path, known: Prices, at_ms: NDArray[np.int64], close: NDArray[np.float64]) -> str | None:
    """What the user must know of prices beside those of the same contract at the same instants; None when nothing.

    Raises
    ------
    SchemaError
        They are those of another coin, or in another unit.

    """
    _, ours, theirs = np.intersect1d(at_ms, known.at_ms, assume_unique=True, return_indices=True)
    if len(ours) < _FEW:  # one may be what is to be corrected
        return None
    ratio = close[ours] / known.close[theirs]
    level, apart = float(np.median(ratio)), float(np.median(np.abs(ratio - 1)))
    if not 1 / _OTHER < level < _OTHER:
        wrong = "those bars were imported: if they are what is wrong" if known.imported else "if those are wrong"
        raise SchemaError(
            f"{path}: its prices are {level:.4g} times those of {known.name} in the median of "
            f"{counted(len(ours), 'price')} at the same times: another coin, or another unit; correct the file or its "
            f"name, or {wrong}, give --replace"
        )
    if apart > _APART:
        return (
            f"{path.name}: its prices are {apart:.1%} apart from {known.name} in the median of "
            f"{counted(len(ours), 'price')}; is it the same coin?"
        )
    return None


def lake_prices(
    lake: Lake, instrument: Instrument, start_ms: int, end_ms: int, *, others: bool = True
) -> Iterator[Prices]:
    """What the lake has of the coin near `[start_ms, end_ms)`: of the contract itself, then of the other venues.

    Bars that were imported come last: their hour may be what is wrong.
    """
    given: list[Prices] = []
    venues = sorted(Venue, key=lambda venue: venue is not instrument.venue) if others else [instrument.venue]
    for venue in venues:
        own = replace(instrument, venue=venue)
        for interval in lake.intervals(venue):
            bars = lake.bars(own, interval, start_ms - FURTHEST_MS, end_ms + FURTHEST_MS)
            at_ms, close = (
                bars.column("timestamp").cast(pa.int64()).to_numpy() + interval.ms,
                _array(bars.column("close")),
            )
            imported = np.array(bars.column("source").to_pylist(), dtype=str) == "import"
            name = f"the lake's {interval} bars of {own}"
            if not imported.all():
                yield Prices(name, at_ms[~imported], close[~imported])
            if imported.any():
                given.append(Prices(name, at_ms[imported], close[imported], imported=True))
    yield from given


def file_prices(path: Path) -> Prices:
    """The closes of a candle file whose `timestamp` (bar open) has a time zone.

    Raises
    ------
    SchemaError
        It is no such file.

    """
    try:
        table = read_table(path, "kline", None, {})
        kind = table.column("timestamp").type
        if not pa.types.is_timestamp(kind) or kind.tz is None or len(table) <= 1:
            raise SchemaError(f"{path}: to compare with, it needs bars whose timestamp has a time zone; it has {kind}")
        opens = np.asarray(table.column("timestamp").cast(pa.timestamp("ms", tz="UTC")).cast(pa.int64()).to_numpy())
        close = _array(table.column("close"))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        line = " ".join(str(error).split())[:120]
        raise SchemaError(f"{path}: to compare with, it needs the columns timestamp and close ({line})") from None
    opens, first = np.unique(opens, return_index=True)
    good = close[first] > 0
    return Prices(f"{path.name}", (opens + np.diff(opens).min())[good], close[first][good])


def tell_hours(path: Path, known: Prices, hours: Hours, zone: str | None) -> str:
    """The check in words, when the stamps are right; `zone` is the one that they were read in, if they had none.

    Raises
    ------
    SchemaError
        They are not.

    """
    if hours.shift_ms == 0:
        return (
            f"{path.name}: its hours agree with {known.name}: {hours.there * 1e4:.1f} bp apart in the median "
            f"of {counted(hours.points, 'price')}"
        )
    here = "" if math.isnan(hours.here) else f" and {hours.here * 1e4:.1f} bp as they are"
    wrong = "; those bars were imported: if they are what is wrong, give --replace" if known.imported else ""
    given = 0 if zone is None else _offset_ms(zone)
    moved = f"when moved by {offset_text(hours.shift_ms)} h{here}"
    if given is None:  # a zone by its name, whose offset changes with the season
        raise SchemaError(
            f"{path}: its times are not of {zone}: against {known.name} its prices are "
            f"{hours.there * 1e4:.1f} bp apart {moved}; give another --time-zone{wrong}"
        )
    clock = offset_text(given - hours.shift_ms)
    advice = f"give naive times and --time-zone {clock}" if zone is None else f"give --time-zone {clock}"
    raise SchemaError(
        f"{path}: its times are those of a clock at UTC{clock}: against {known.name} its prices are "
        f"{hours.there * 1e4:.1f} bp apart {moved}; {advice}{wrong}"
    )


def _offset_ms(text: str) -> int | None:
    match = re.fullmatch(r"(?:UTC|GMT)?([+-])(\d{1,2}):?(\d{2})?", text.strip())
    if text.strip().upper() in {"UTC", "Z"}:
        return 0
    if match is None:
        return None
    ms = int(match[2]) * HOUR_MS + int(match[3] or 0) * MINUTE_MS
    return (-ms if match[1] == "-" else ms) if ms <= FURTHEST_MS else None


def _array(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
