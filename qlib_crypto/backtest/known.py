"""What a strategy may look at, and what it answers: arrays of one row a bar, known at the bar's open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS
from qlib_crypto.errors import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

YEAR_MS = 365 * DAY_MS


@dataclass(frozen=True)
class Known:
    """The market as known at the open of each bar; what only its own bar shows is never in a row.

    Every array but `opens_ms` has the shape (bars, n).

    Attributes
    ----------
    opens_ms
        Opens of the bars, shape (bars,), Unix milliseconds, ascending.
    step_ms
        From one open to the next.
    names
        The instruments, one a column, each once.
    signal
        Score stamped at the bar before, NaN without one. It is used in the bar right after it and never carried on.
    close
        Close of the bar before, NaN where there was none.
    dollar_volume
        Quote coins traded in the bar before, NaN where unknown.
    funding_rate
        Last rate settled at or before the open, fraction per interval; NaN where unknown.
    funding_interval
        Hours of the interval that it was for.
    tradable
        There is a bar, and a position may be opened in it now.

    Raises
    ------
    ValueError
        When an array has another shape, or a name comes twice.

    """

    opens_ms: Ints
    step_ms: int
    names: tuple[str, ...]
    signal: Floats
    close: Floats
    dollar_volume: Floats
    funding_rate: Floats
    funding_interval: Floats
    tradable: Bools

    def __post_init__(self) -> None:
        shape = len(self.opens_ms), len(self.names)
        for name in _matrices():
            if getattr(self, name).shape != shape:
                raise ValueError(f"Known.{name} has shape {getattr(self, name).shape}; it must be {shape}, (bars, n)")
        if len(set(self.names)) != len(self.names):
            raise ValueError("Known.names has a name twice; one column is one instrument")

    def since(self, first: int) -> Known:
        """What is known from a row on."""
        return _cut(self, slice(first, None))

    @property
    def bars(self) -> int:
        """The number of rows."""
        return len(self.opens_ms)

    @property
    def bars_a_year(self) -> float:
        """Bars in 365 days of 24 hours."""
        return YEAR_MS / self.step_ms


@dataclass(frozen=True)
class Targets:
    """The book that a strategy wants.

    Attributes
    ----------
    weights
        Shape (bars, n), columns as in `Known.names`: signed notional over equity wanted at the bar's open. 0 and NaN
        close. Rows without a rebalance do not count; they are 0.
    rebalance
        Shape (bars,): in which bars the book is traded to its row.
    notes
        What a reader should know, each with the number of bars that it holds for.

    """

    weights: Floats
    rebalance: Bools
    notes: dict[str, int]


def checked(targets: Any, known: Known, who: str) -> Targets:
    """What a strategy answered, when it is what `Targets` says.

    Raises
    ------
    ConfigError
        When it is something else, what it says is no array or has another shape, or a weight is infinite.

    """
    if not isinstance(targets, Targets):
        raise ConfigError(f"{who}.targets gave {type(targets).__name__}; return Targets(weights, rebalance, notes)")
    columns = "a row a bar, columns as in known.names; other names would not be looked at"
    for name, given, shape, kinds, what in (
        ("weights", targets.weights, known.signal.shape, "biuf", columns),
        ("rebalance", targets.rebalance, (known.bars,), "biu", "true or false a bar"),
    ):
        if not isinstance(given, np.ndarray):
            raise ConfigError(f"{who}.targets gave {name} as {type(given).__name__}; give a numpy array, {what}")
        if given.dtype.kind not in kinds:
            raise ConfigError(f"{who}.targets gave {name} of {given.dtype}; give a numpy array, {what}")
        if given.shape != shape:
            raise ConfigError(f"{who}.targets gave {name} of shape {given.shape}; give {shape}, a row a bar")
    weights = targets.weights.astype(np.float64)
    if np.isinf(weights).any():
        t, i = np.argwhere(np.isinf(weights))[0].tolist()
        raise ConfigError(f"{who}.targets gave {known.names[i]} the weight {weights[t, i]} in bar {t}; give a number")
    notes = targets.notes.items() if isinstance(targets.notes, Mapping) else [(None, None)]
    if not all(isinstance(note, str) and isinstance(count, Integral) for note, count in notes):
        raise ConfigError(f"{who}.targets gave notes {targets.notes!r}; give a number of bars by each note")
    return replace(targets, weights=weights, rebalance=targets.rebalance.astype(np.bool_))


@runtime_checkable
class Strategy(Protocol):
    """What makes target weights; a class whose `uses_signal` is False needs none."""

    def targets(self, known: Known) -> Targets:
        """The weights of every row, each from this row and those before it alone."""
        ...


def _cut(known: Known, rows: slice) -> Known:
    return replace(known, **{name: getattr(known, name)[rows].copy() for name in ("opens_ms", *_matrices())})


def truncated(known: Known, bars: int) -> Known:
    """The first `bars` rows, copied: what was known of the market then."""
    return _cut(known, slice(bars))


def name_order(known: Known) -> Ints:
    """The place of each column's name in alphabetical order, shape (n,): what decides between equal scores."""
    order = np.empty(len(known.names), dtype=np.int64)
    order[sorted(range(len(known.names)), key=known.names.__getitem__)] = np.arange(len(known.names))
    return order


def ranked(scores: Floats, among: Bools, order: Ints) -> list[int]:
    """The columns `among` that have a score, best first, ties by name."""
    columns = np.flatnonzero(among & ~np.isnan(scores))
    return [int(i) for i in columns[np.lexsort((order[columns], -scores[columns]))]]


def _matrices() -> list[str]:
    return [field.name for field in fields(Known) if field.name not in ("opens_ms", "step_ms", "names")]
