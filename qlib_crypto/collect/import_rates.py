"""Whether the funding rates of somebody's file can be right: by their size, their hours, and those the lake has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qlib_crypto.clock import HOUR_MS
from qlib_crypto.collect.import_times import offset_text
from qlib_crypto.errors import SchemaError, counted
from qlib_crypto.lake import Lake
from qlib_crypto.market.funding import snap_to_minute
from qlib_crypto.schemas import Settlement
from qlib_crypto.symbols import Instrument

#: Of 584 real coins on both venues none had a larger median rate than 0.0011 in any 150 settlements that follow each
#: other; in per cent all but the one that mostly pays nothing have a median above 0.002.
_MANY, _LARGEST_MEDIAN = 150, 0.002
#: Whatever its interval, a contract settles at 00:00, 08:00 and 16:00 UTC: at most 7 settlements are in between.
_ALWAYS_MS, _BETWEEN = 8 * HOUR_MS, 16
#: Fewer common settlements say nothing.
_FEWEST = 5
#: Two statements of one settlement differ by rounding, or by what OKX predicted and then paid.
_CLOSE, _EQUAL = 0.02, 1e-6
#: Rates of which half differ are wrong whatever the reason; fewer where another unit or hour leaves a fifth of that.
_MOST, _EXPLAINED = 0.5, 0.2
_FURTHEST_HOURS = 14

type Series = tuple[NDArray[np.int64], NDArray[np.float64]]


def check_rates(path: Path, rows: Sequence[Settlement], lake: Lake | None) -> None:
    """Refuse a file whose rates are no fractions of notional, or not of the times beside them.

    The rows are those that may be stored, ascending by instrument. Without a lake they are not compared with it.

    Raises
    ------
    SchemaError
        Of some coin the median is larger than any coin's, no settlement is at an hour at which all settle, or most
        rates differ from those that the lake has of the same minutes.

    """
    for instrument, group in groupby(sorted(rows, key=attrgetter("instrument")), attrgetter("instrument")):
        own = list(group)
        minutes = snap_to_minute(np.array([row.time_ms for row in own], np.int64))
        rates = np.array([row.rate for row in own])
        _check_size(path, instrument, rates)
        _check_hours(path, instrument, minutes)
        if lake is not None:
            reach = _FURTHEST_HOURS * HOUR_MS
            known = lake.settlements(instrument.venue, instrument, int(minutes[0]) - reach, int(minutes[-1]) + reach)
            _check_known(path, instrument, (minutes, rates), _series(known))


def _check_size(path: Path, instrument: Instrument, rates: NDArray[np.float64]) -> None:
    typical = float(np.median(np.abs(rates)))
    if len(rates) >= _MANY and typical > _LARGEST_MEDIAN:
        raise SchemaError(
            f"{path}: half the funding rates of {instrument} are above {typical:.6g}, which no coin has paid for so "
            "long; write fractions of notional, 0.0001 for 0.01 %"
        )


def _check_hours(path: Path, instrument: Instrument, minutes: NDArray[np.int64]) -> None:
    if len(minutes) >= _BETWEEN and (minutes % _ALWAYS_MS).all():
        raise SchemaError(
            f"{path}: none of {counted(len(minutes), 'settlement')} of {instrument} is at 00:00, 08:00 or 16:00 UTC, "
            "at which every contract settles; correct its times"
        )


def _check_known(path: Path, instrument: Instrument, ours: Series, known: Series) -> None:
    common = _common(ours, known, 0)
    number, differ = len(common[0]), _differ(*common, 1.0)
    if number < _FEWEST or not differ:
        return
    fits = []
    for hours in range(-_FURTHEST_HOURS, _FURTHEST_HOURS + 1):
        pairs = _common(ours, known, hours * HOUR_MS)
        if len(pairs[0]) >= max(_FEWEST, number / 2):
            fits += [(_differ(*pairs, factor), abs(hours), hours, factor) for factor in {1.0, _factor(*pairs)}]
    least, _, hours, factor = min(fits)
    explained = differ * number >= _FEWEST and least <= differ * _EXPLAINED
    if not explained and differ < _MOST:
        return
    why = _difference(hours, factor) if explained else "is this another coin's or venue's funding?"
    raise SchemaError(
        f"{path}: of {counted(number, 'settlement')} of {instrument} that the lake has too, {round(differ * number)} "
        f"have another rate there: {why}; correct the file, or give --replace if the lake is wrong"
    )


def _difference(hours: int, factor: float) -> str:
    moved = f"they agree when moved by {offset_text(hours * HOUR_MS)} h" if hours else ""
    scaled = "" if factor == 1 else "their sign is the other" if factor == -1 else f"they are {factor:g} times as large"
    return " and ".join(filter(None, (moved, scaled)))


def _common(ours: Series, known: Series, shift_ms: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Our rates and the known ones at the minutes of both, ours moved."""
    _, mine, theirs = np.intersect1d(ours[0] + shift_ms, known[0], return_indices=True)
    return ours[1][mine], known[1][theirs]


def _differ(ours: NDArray[np.float64], theirs: NDArray[np.float64], factor: float) -> float:
    """The share of rates that are not the same after division by the factor; 0 of none."""
    unlike = np.abs(ours / factor - theirs) > np.maximum(_EQUAL, _CLOSE * np.abs(theirs))
    return float(unlike.mean()) if len(unlike) else 0.0


def _factor(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """The power of ten, and the sign, by which ours are typically larger; 1 when that cannot be told."""
    paid = (ours != 0) & (theirs != 0)
    typical = float(np.median(ours[paid] / theirs[paid])) if paid.any() else 1.0
    return math.copysign(10.0 ** round(math.log10(abs(typical))), typical) if typical else 1.0


def _series(table: pa.Table) -> Series:
    at = table.column("timestamp").cast(pa.int64()).to_numpy()
    return snap_to_minute(at), np.asarray(table.column("funding_rate").to_numpy(), dtype=np.float64)
