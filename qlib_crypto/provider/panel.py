"""Bars of several instruments on one regular grid, and bars of one frequency made of finer ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.clock import iso
from qlib_crypto.errors import SchemaError
from qlib_crypto.lake.columns import Columns
from qlib_crypto.symbols import Instrument, Interval

Floats = NDArray[np.float64]

#: Columns of a lake bar that the provider reads.
COLUMNS = ("open", "high", "low", "close", "volume", "quote_volume")
#: Fields that are made of bars alone.
BAR_FIELDS = ("open", "high", "low", "close", "volume", "amount", "vwap", "factor", "change", "quality")
#: Column of the flags of doubtful bars (`lake.quality.Flag`), in panels that have any.
FLAGS = "flags"

#: Up to so many parts are added one after another: whole columns at once are faster than many short sums.
_FEW = 16


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of k instruments, a column for each of n slots.

    Attributes
    ----------
    interval
        Their length.
    start_ms
        Open of slot 0, which is 00:00 UTC of a day.
    present
        Shape (k, n); False where there is no bar.
    begun
        Same shape; True where there is one or a part of one.
    data
        By column of the lake, each of shape (k, n): prices (quote per base), volume (base), amount (quote); NaN where
        there is no bar, and where the source has none. `FLAGS` are 0 for good bars.

    """

    interval: Interval
    start_ms: int
    present: NDArray[np.bool_]
    begun: NDArray[np.bool_]
    data: Mapping[str, Floats]

    def slots(self, first: int, last: int) -> Panel:
        """The slots [first, last)."""
        part = slice(first, last)
        data = {name: values[:, part] for name, values in self.data.items()}
        start_ms = self.start_ms + first * self.interval.ms
        return Panel(self.interval, start_ms, self.present[:, part], self.begun[:, part], data)


def no_bars(interval: Interval, window: tuple[int, int], count: int) -> Panel:
    """A grid without a bar, for so many instruments."""
    shape = count, (window[1] - window[0]) // interval.ms
    none, absent = np.zeros(shape, dtype=np.bool_), np.full(shape, np.nan)
    return Panel(interval, window[0], none, none, dict.fromkeys(COLUMNS, absent))


def spread(rows: Columns, instruments: Sequence[Instrument], interval: Interval, window: tuple[int, int]) -> Panel:
    """Lake bars on the grid of whole days that holds them.

    Raises
    ------
    SchemaError
        When a bar does not open on the grid of its interval.

    """
    slot, off = np.divmod(rows.time_ms - window[0], interval.ms)
    count, n = len(instruments), (window[1] - window[0]) // interval.ms
    if off.any():
        at = int(np.argmax(off != 0))
        of = instruments[int(np.searchsorted(np.cumsum(rows.counts), at, side="right"))]
        raise SchemaError(
            f"a {interval} bar of {of.symbol} opens at {iso(int(rows.time_ms[at]))}, which no {interval} bar does; "
            "remove or re-fetch it"
        )
    place = slot + np.repeat(np.arange(count) * n, rows.counts)
    flat = np.zeros(count * n, dtype=np.bool_)
    flat[place] = True
    present = flat.reshape(count, n)
    data = {}
    for name, values in rows.values.items():
        spaced = np.full(count * n, np.nan)
        spaced[place] = values
        data[name] = spaced.reshape(count, n)
    return Panel(interval, window[0], present, present, data)


def resample(sources: Sequence[Panel], targets: Sequence[Interval]) -> dict[Interval, Panel]:
    """The complete bars of each target that a source divides; all sources are on grids of the same days.

    Each bar comes from the finest single source that covers all of it: first open, highest high, lowest low, last
    close, summed volume and amount. A source of the target's own interval is the venue's own bar and comes last.
    """
    out: dict[Interval, Panel] = {}
    for source in sorted(sources, key=lambda panel: panel.interval):
        made = {source.interval: source}
        for target in sorted(targets):
            if target.ms % source.interval.ms:
                continue
            if target not in made:
                coarsest = max(interval for interval in made if target.ms % interval.ms == 0)
                made[target] = _joined(made[coarsest], target)
            out[target] = _filled(out[target], made[target]) if target in out else made[target]
    return out


def _filled(finer: Panel, other: Panel) -> Panel:
    """`other` where `finer` has no bar."""
    take, begun = other.present & ~finer.present, finer.begun | other.begun
    if not take.any():
        return replace(finer, begun=begun)
    data = {name: np.where(take, other.data[name], values) for name, values in finer.data.items()}
    return Panel(finer.interval, finer.start_ms, finer.present | take, begun, data)


def _joined(source: Panel, target: Interval) -> Panel:
    """The bars of `target` of which `source` has every part."""
    ratio = target.ms // source.interval.ms
    count, n = source.present.shape
    complete = _over(np.logical_and, source.present.reshape(count, n // ratio, ratio))
    begun = _over(np.logical_or, source.begun.reshape(count, n // ratio, ratio))
    data = {}
    for name, values in source.data.items():
        joined = _JOIN[name](values.reshape(count, n // ratio, ratio))
        joined[~complete] = np.nan
        data[name] = joined
    return Panel(target, source.start_ms, complete, begun, data)


def _over[T: np.generic](join: np.ufunc, parts: NDArray[T]) -> NDArray[T]:
    """`join.reduce` along the last axis, always in the same order."""
    if parts.shape[-1] > _FEW:
        return np.asarray(join.reduce(parts, axis=-1))
    joined = parts[..., 0].copy()
    for part in range(1, parts.shape[-1]):
        join(joined, parts[..., part], out=joined)
    return joined


def _sum(parts: Floats) -> Floats:
    return _over(np.add, parts)


#: What a bar says, of what its parts say.
_JOIN: Mapping[str, Callable[[Floats], Floats]] = {
    "open": lambda parts: parts[..., 0].copy(),
    "high": lambda parts: _over(np.maximum, parts),
    "low": lambda parts: _over(np.minimum, parts),
    "close": lambda parts: parts[..., -1].copy(),
    "volume": _sum,
    "quote_volume": _sum,
    FLAGS: lambda parts: _over(np.bitwise_or, np.nan_to_num(parts).astype(np.uint8)).astype(np.float64),
}


def bar_fields(bars: Panel) -> NDArray[np.float32]:
    """`BAR_FIELDS` of all slots but the first, shape (10, k, n - 1), NaN where there is no bar.

    `vwap` is amount / volume, NaN at zero volume or without an amount; `factor` is 1 at every bar; `change` is
    close / close of the bar just before - 1, NaN when that bar is missing. `quality` is 0 or the flags of the bar,
    and of the bars that it was made of, added up.
    """
    count, n = bars.present.shape
    out = np.empty((len(BAR_FIELDS), count, n - 1), dtype=np.float32)
    for at, name in enumerate(COLUMNS):
        out[at] = bars.data[name][:, 1:]
    amount, volume, close = (bars.data[name] for name in ("quote_volume", "volume", "close"))
    vwap, factor, change, quality = out[len(COLUMNS) :]
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(amount[:, 1:], volume[:, 1:], out=vwap, casting="same_kind")
        vwap[~(volume[:, 1:] > 0)] = np.nan
        factor.fill(1)
        factor[~bars.present[:, 1:]] = np.nan
        change[:] = close[:, 1:] / close[:, :-1] - 1
        change[~(close[:, :-1] > 0)] = np.nan
    quality[:] = bars.data[FLAGS][:, 1:] if FLAGS in bars.data else 0
    quality[~bars.present[:, 1:]] = np.nan
    return out
