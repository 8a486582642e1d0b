"""A provider's bars, marks, settlements and venue rules as a `Market`, read straight from its files.

Qlib stores float32. A price whose tick is known is put back on its tick where that is the same float32, which
restores the venue's exact decimal; settlements are float64 in their own files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qlib_crypto.backtest.account import Floats, Ints
from qlib_crypto.backtest.files import Files
from qlib_crypto.backtest.market import (
    CLOSE,
    INNER_ROWS,
    OPEN,
    UNKNOWN_AT_OPEN,
    UNKNOWN_LATER,
    VOLUME,
    Market,
    bounds_of,
    rules_of,
    tiers_of,
)
from qlib_crypto.backtest.orders import ASSUMED, Rules
from qlib_crypto.backtest.prices import inner_prices, moves_of, unpack, without_price
from qlib_crypto.clock import DAY_MS, iso
from qlib_crypto.errors import ConfigError, DataError, SchemaError
from qlib_crypto.market.margin import MarginTable, assumed_table
from qlib_crypto.provider.funding import SERIES, Settled
from qlib_crypto.provider.manifest import Manifest, read_manifest
from qlib_crypto.provider.settlements import read_series
from qlib_crypto.symbols import QUOTES, Instrument, Interval

BARS = ("open", "high", "low", "close", "volume")
MARKS = ("mark_open", "mark_high", "mark_low", "mark")
#: Margin tiers of one instrument and since when, Unix milliseconds, ascending.
Tables = Sequence[tuple[int, MarginTable]]
#: The days whose turnover tells which margin tiers are assumed.
_TURNOVER_DAYS = 30
#: The fewest bars that the usual volatility and volume of an instrument are means of.
FEWEST_BARS = 20


@dataclass(frozen=True)
class Loaded:
    """What a backtest trades on, and what it is called.

    Attributes
    ----------
    market
        See `Market`; columns are `names`, rows are `opens_ms`.
    names
        Qlib's names, ascending.
    interval, opens_ms
        Length and opens (Unix milliseconds, UTC) of the bars; every one of the grid, shape (bars,).
    series
        Shape (k,), of `funding.SERIES`: the settlements in the rows of `Market.settled`.
    settled
        All settlements of each instrument, those before and after the bars too.
    rule_sources, tier_sources
        Where each instrument's order rules and margin tiers are from.
    before
        Shape (2, k, n): closes and volumes of the k bars before the first one, NaN where there is none.

    """

    market: Market
    names: tuple[str, ...]
    interval: Interval
    opens_ms: Ints
    series: NDArray[np.void]
    settled: tuple[Settled, ...]
    rule_sources: tuple[str, ...]
    tier_sources: tuple[str, ...]
    before: Floats

    @cached_property
    def column(self) -> Mapping[str, int]:
        """The column of each name."""
        return {name: at for at, name in enumerate(self.names)}

    @cached_property
    def _first_ms(self) -> int:
        return int(self.opens_ms[0])

    def row(self, open_ms: int) -> int | None:
        """The row of the bar that opens then, None when it was not loaded."""
        at, off = divmod(open_ms - self._first_ms, self.interval.ms)
        return None if off or not 0 <= at < len(self.opens_ms) else at

    @property
    def has_bar(self) -> NDArray[np.bool_]:
        """Where there is a price, shape (bars, n)."""
        return np.isfinite(self.market.prices[CLOSE])

    @property
    def funding_known(self) -> NDArray[np.bool_]:
        """Where it is known what settled in the whole bar, shape (bars, n)."""
        return np.asarray(self.market.unknown[:, :-1] == 0)


def load(
    folder: Path,
    interval: Interval,
    names: Sequence[str],
    span_ms: tuple[int, int],
    *,
    rules: Mapping[str, Rules],
    tables: Mapping[str, Tables] | None = None,
    margined: bool = True,
    inner: Interval | None = None,
    before: int = 0,
) -> Loaded:
    """Bars that open in `span_ms` (first and last, both inclusive) of the named instruments.

    `rules` are those of `load_specs`; an instrument without has none. `tables` are margin tiers of the venue and since
    when (Unix milliseconds), the first also before; where there are none they are assumed by turnover, unless nothing
    is `margined`. `inner` is the length of finer bars inside, see `Market.inner`; None for none. `Loaded.before` has
    those of `usual_bars` and one more, and at least `before`, or as many as the provider has slots for.

    Raises
    ------
    ConfigError
        When an instrument is no linear contract, or the finer bars are not, or do not fill a bar.
    DataError
        When the provider has not one bar of them then.
    SchemaError
        When it has no manifest, or a file is missing or torn.

    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise SchemaError(f"{folder} has no manifest.json; convert into an empty folder")
    ordered = tuple(sorted(names))
    inverse = next((name for name in ordered if Instrument.parse(name).quote not in QUOTES), None)
    if inverse is not None:
        raise ConfigError(f"{inverse} is not quoted in {' or '.join(QUOTES)}: the account knows linear contracts only")
    grid = manifest.grid(interval.qlib)
    first = max(-((grid.origin_ms - span_ms[0]) // interval.ms), 0)
    stop = min((span_ms[1] - grid.origin_ms) // interval.ms + 1, grid.length)
    opens = grid.origin_ms + np.arange(first, max(stop, first), dtype=np.int64) * interval.ms
    ruled = [rules.get(name) or ASSUMED for name in ordered]
    # prices of all times lie on the finest of them
    ticks = np.array([min((own.tick_size for _, own in states if own.tick_size > 0), default=0.0) for states in ruled])
    files = Files(folder, manifest, interval, ordered, first, len(opens))
    marked = any(MARKS[0] in manifest.extra_fields.get(name, ()) for name in ordered)
    prices = np.empty((len(BARS) + len(MARKS) * marked, len(opens), len(ordered)))
    for at, field in enumerate(BARS + MARKS * marked):
        unpack(files.read(field), ticks if at != VOLUME else np.zeros(len(ordered)), prices[at])
    last = np.full(len(ordered), -1, np.int64)
    without_price(prices, last)
    if not (last >= 0).any():
        raise DataError(
            f"no {interval.qlib} bars of {len(ordered)} instruments between {iso(span_ms[0])} and {iso(span_ms[1])} in "
            f"{folder}; convert them, or change the span"
        )
    for i in np.flatnonzero((last >= 0) & (last < len(opens) - 1)).tolist():
        last[i] = max(last[i], files.last_after(i, BARS[CLOSE]))  # the span may end in an outage
    earlier = max(min(first, max(before, usual_bars(interval) + 1)), 1)
    known = _before(folder, manifest, interval, ordered, first, earlier, ticks)
    finer = np.empty((INNER_ROWS, 0, len(ordered)))
    if inner is not None:
        if inner.ms >= interval.ms or interval.ms % inner.ms:
            raise ConfigError(f"inner {inner.qlib} does not fill a bar of {interval.qlib}; write a finer one that does")
        fine, each = manifest.grid(inner.qlib), interval.ms // inner.ms
        files = Files(folder, manifest, inner, ordered, (int(opens[0]) - fine.origin_ms) // inner.ms, len(opens) * each)
        finer = np.empty((INNER_ROWS * (1 + marked), len(opens) * each, len(ordered)))
        for at, field in enumerate(BARS[:INNER_ROWS] + MARKS * marked):
            unpack(files.read(field), ticks, finer[at])
        inner_prices(finer, prices, each)
    histories = tuple(Settled.of_all([read_series(folder, Instrument.parse(name)) for name in ordered]))
    settled, series, unknown = _funding(histories, interval, opens)
    given = [(tables or {}).get(name, ()) for name in ordered]
    if not all(given):
        turnover = _turnover(prices, interval) if margined else np.full(len(ordered), np.nan)
        given = [own or ((0, assumed_table(each)),) for own, each in zip(given, turnover, strict=True)]
    tiers_since, tiers, by_quantity = _dated_tiers(given, opens)
    rules_since, states = _by_date(ruled, opens)
    marks, moves = len(BARS) if marked else OPEN, np.empty(len(opens))
    moves_of(prices, marks, moves)
    market = Market(
        prices, marks, settled, np.column_stack([series["rate"], series["price"]]), unknown,
        last, rules_since, np.stack([rules_of(own) for own in states]), tiers_since, tiers, by_quantity,
        bounds_of(tiers), np.empty((0, 2, len(ordered))), finer, opens // DAY_MS, moves,
    )  # fmt: skip
    sources = tuple(own[-1][1].spec_source for own in ruled)
    tier_sources = tuple(own[0][1].source for own in given)
    return Loaded(market, ordered, interval, opens, series, histories, sources, tier_sources, known)


def usual_bars(interval: Interval) -> int:
    """The bars that the usual volatility and volume of an instrument are means of: a day, at least 20."""
    return int(max(DAY_MS // interval.ms, FEWEST_BARS))


def _before(
    folder: Path, manifest: Manifest, interval: Interval, names: tuple[str, ...], first: int, bars: int, ticks: Floats
) -> Floats:
    """`Loaded.before`."""
    files = Files(folder, manifest, interval, names, first - bars, bars)
    out, opens = np.empty((2, bars, len(names))), np.empty((bars, len(names)))
    unpack(files.read(BARS[OPEN]), ticks, opens)
    unpack(files.read(BARS[CLOSE]), ticks, out[0])
    unpack(files.read(BARS[VOLUME]), np.zeros(len(names)), out[1])
    out[:, ~((opens > 0.0) & (out[0] > 0.0))] = np.nan
    return out


def _by_date[T](given: Sequence[Sequence[tuple[int, T]]], opens: Ints) -> tuple[Ints, list[list[T]]]:
    """The bars from which on another state of any instrument holds, the first one 0, and the states of all then."""
    first = {int(np.searchsorted(opens, at)) for own in given for at, _ in own[1:]}
    since = sorted({0, *(bar for bar in first if bar < len(opens))})
    return np.array(since, dtype=np.int64), [
        [own[max(sum(time <= opens[bar] for time, _ in own) - 1, 0)][1] for own in given] for bar in since
    ]


def _dated_tiers(given: Sequence[Tables], opens: Ints) -> tuple[Ints, Floats, NDArray[np.bool_]]:
    """`Market.tiers_since`, `Market.tiers` and `Market.by_quantity`: a state from each bar on in which one changed."""
    since, by_date = _by_date(given, opens)
    states = [tiers_of(tables) for tables in by_date]
    most = max(tiers.shape[2] for tiers, _ in states)
    even = [np.pad(tiers, ((0, 0), (0, 0), (0, most - tiers.shape[2])), mode="edge") for tiers, _ in states]
    return since, np.stack(even), np.stack([by_quantity for _, by_quantity in states])


def _funding(
    of_all: Sequence[Settled], interval: Interval, opens: Ints
) -> tuple[Ints, NDArray[np.void], NDArray[np.uint8]]:
    """`Market.settled`, the settlements in its order, and `Market.unknown`."""
    first, step, bars = int(opens[0]) if len(opens) else 0, interval.ms, len(opens)
    unknown = np.full((bars, len(of_all) + 1), UNKNOWN_AT_OPEN | UNKNOWN_LATER, dtype=np.uint8)
    parts, columns = [np.empty(0, SERIES)], [np.empty(0, np.int64)]
    for i, of in enumerate(of_all):
        for begin, end in of.known_ms.tolist():
            at = max(-((first - begin) // step), 0)
            unknown[at : max(-((first - end) // step), 0), i] &= ~np.uint8(UNKNOWN_AT_OPEN)
            unknown[at : max((end - first) // step, 0), i] &= ~np.uint8(UNKNOWN_LATER)
        own = of.series[slice(*np.searchsorted(of.time_ms, (first, first + bars * step)))]
        parts.append(own)
        columns.append(np.full(len(own), i))
    unknown[:, -1] = unknown[:, :-1].any(axis=1)
    series, column = np.concatenate(parts), np.concatenate(columns)
    order = np.argsort(series["time_ms"], kind="stable")  # of one time by column, as they come
    series, column = series[order], column[order]
    bar, off = np.divmod(series["time_ms"] - first, step)
    return np.column_stack([bar, column, off == 0]).astype(np.int64), series, unknown


def _turnover(prices: Floats, interval: Interval) -> Floats:
    """Quote coins a day, the median of an instrument's first 30 days with bars, shape (n,); NaN without a bar."""
    of_day = max(DAY_MS // interval.ms, 1)
    out = np.full(prices.shape[2], np.nan)
    for i in range(prices.shape[2]):
        start = int(np.argmax(prices[CLOSE, :, i] > 0))
        value = (
            prices[CLOSE, start : start + _TURNOVER_DAYS * of_day, i]
            * (prices[VOLUME, start : start + _TURNOVER_DAYS * of_day, i])
        )
        whole = value[: len(value) // of_day * of_day].reshape(-1, of_day)
        days = np.nansum(whole if len(whole) else value[None], axis=1) * (DAY_MS / (of_day * interval.ms))
        if np.isfinite(value).any():
            out[i] = float(np.median(days))
    return out
