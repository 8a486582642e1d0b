"""A tape read from a folder of Parquet: real candles and settled funding of one venue."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS
from qlib_crypto.errors import ConfigError, SchemaError
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.series import empty_bars, empty_settlements
from qlib_crypto.sandbox.tape import BarSeries, FundingNow, OpenInterestSeries, SettlementSeries
from qlib_crypto.sandbox.tape_specs import derive, read_specs
from qlib_crypto.symbols import Instrument, Interval, Venue

_KIND = {Venue.OKX: "okx_swap", Venue.BINANCE: "binance_um"}
_PRICES = ("open", "high", "low", "close", "volume")
_TIME = pa.timestamp("ms", tz="UTC")

LONGEST_INTERVAL_MS = 8 * HOUR_MS + MINUTE_MS
STALE_MS = DAY_MS


class FileTape:
    """What a folder of Parquet holds of one venue, as a `Tape`; a file is read when first asked for, and kept.

    The folder::

        candles/okx_swap_1m/BTC-USDT-SWAP.parquet      any interval: okx_swap_5m, okx_swap_1h, …
        candles/binance_um_1h/BTCUSDT.parquet          other folders (binance_um_1m_gappy_utc8) are not read
        funding/okx_swap_funding.parquet               every funding/{okx_swap,binance_um}_*.parquet, merged
        open_interest/binance_um_oi_4h_all.parquet     optional
        instruments.json                               optional, see `tape_specs.read_specs`

    Candles have `timestamp` (bar open), `open high low close`, `volume` (base coin), and may have `quote_volume`,
    `trades` and `close_time`. Funding has `symbol` (the venue's id), `funding_time`, `funding_rate`; of two rows
    with one time the later file name wins.

    A candle file that carries `close_time` is a raw kline download whose last row is the bar that was open when it
    was downloaded, so that row is dropped.

    A file holds no running estimates, and the coming rate would be a look into the future, so `funding_now` serves
    the LAST settled rate as the running estimate; it settles one interval after the last settlement, and a rate
    whose next settlement is more than a day overdue (a hole in the file) is not served.

    Raises
    ------
    ConfigError
        The folder has no candles of the venue.
    SchemaError
        A file is torn, lacks a column, or is not a clean series; the message names it.

    """

    def __init__(self, directory: Path | str, venue: Venue) -> None:
        self.directory = Path(directory)
        self._venue = venue
        self._files = self._find()
        self._bars: dict[tuple[Instrument, Interval], BarSeries] = {}

    def __reduce__(self) -> tuple[type[FileTape], tuple[Path, Venue]]:
        """A tape travels to another process as its address."""
        return FileTape, (self.directory, self._venue)

    def __repr__(self) -> str:
        return f"FileTape({str(self.directory)!r}, {self._venue!r})"

    @property
    def venue(self) -> Venue:
        return self._venue

    @cached_property
    def span_ms(self) -> tuple[int, int]:
        """First bar open and last bar close over all instruments and intervals."""
        ends = [
            (int(bars.open_ms[0]), int(bars.open_ms[-1]) + interval.ms)
            for instrument, intervals in self._files.items()
            for interval in intervals
            for bars in [self.bars(instrument, interval)]
            if len(bars.open_ms)
        ]
        return min(first for first, _ in ends), max(last for _, last in ends)

    @cached_property
    def specs(self) -> Mapping[Instrument, InstrumentSpec]:
        """The spec of every instrument with bars, from `instruments.json`, otherwise derived."""
        written = read_specs(self.directory / "instruments.json", self._venue)
        specs = {}
        for instrument in sorted(self._files):
            series = [bars for i in self.intervals(instrument) if len((bars := self.bars(instrument, i)).open_ms)]
            if series:
                specs[instrument] = written.get(instrument) or derive(instrument, series)
        return specs

    def intervals(self, instrument: Instrument) -> tuple[Interval, ...]:
        return tuple(sorted(self._files.get(instrument, {})))

    def bars(self, instrument: Instrument, interval: Interval) -> BarSeries:
        key = (instrument, interval)
        if key not in self._bars:
            path = self._files.get(instrument, {}).get(interval)
            self._bars[key] = _read_bars(path, interval) if path else empty_bars()
        return self._bars[key]

    def settlements(self, instrument: Instrument) -> SettlementSeries:
        return self._funding.get(instrument) or empty_settlements()

    def funding_now(self, instrument: Instrument, at_ms: int) -> FundingNow | None:
        known = self._estimates.get(instrument)
        last = bisect_right(known, at_ms, key=_settled_at) - 1 if known else -1
        if known is None or last < 0:
            return None
        _, (rate, settles, interval) = known[last]
        if settles <= at_ms:
            if at_ms - settles > STALE_MS:
                return None
            settles += ((at_ms - settles) // interval + 1) * interval
        return FundingNow(rate, settles, interval)

    def open_interest_series(self, instrument: Instrument) -> OpenInterestSeries:
        """Open interest in base coins, as often as the folder has it; its value in the quote coin is not read."""
        times, coins = self._open_interest.get(instrument, (np.empty(0, np.int64), np.empty(0)))
        return OpenInterestSeries(times, coins, np.full(len(times), np.nan))

    def _find(self) -> dict[Instrument, dict[Interval, Path]]:
        found: dict[Instrument, dict[Interval, Path]] = {}
        for folder in sorted(self.directory.glob(f"candles/{_KIND[self._venue]}_*")):
            name = re.fullmatch(r"[a-z_]+_(\d+[mhd])", folder.name)
            for path in sorted(folder.glob("*.parquet")) if name else ():
                instrument = Instrument.from_venue_id(self._venue, path.stem)
                if instrument is None:
                    raise SchemaError(f"{path}: {path.stem!r} is no linear perpetual of {self._venue}; remove the file")
                found.setdefault(instrument, {})[Interval.parse(name[1] if name else "")] = path
        if not found:
            example = "BTC-USDT-SWAP" if self._venue is Venue.OKX else "BTCUSDT"
            raise ConfigError(
                f"{self.directory} has no {self._venue} candles; give a folder with "
                f"candles/{_KIND[self._venue]}_1m/{example}.parquet and the like"
            )
        return found

    @cached_property
    def _funding(self) -> dict[Instrument, SettlementSeries]:
        tables = [
            _read(path, ("symbol", "funding_time", "funding_rate"))
            for path in sorted(self.directory.glob(f"funding/{_KIND[self._venue]}_*.parquet"))
        ]
        merged: dict[Instrument, SettlementSeries] = {}
        for instrument, parts in _by_symbol(tables, self._venue, "funding_time", "funding_rate").items():
            latest = dict(zip(parts[0].tolist(), parts[1].tolist(), strict=True))
            times = np.array(sorted(latest), np.int64)
            rates = np.array([latest[time] for time in times.tolist()])
            merged[instrument] = SettlementSeries(times, rates, np.full(len(times), np.nan))
        return merged

    @cached_property
    def _estimates(self) -> dict[Instrument, list[tuple[int, FundingNow]]]:
        """Each settlement time and the estimate that is served after it."""
        return {
            instrument: list(zip(series.time_ms.tolist(), _estimates_after(series), strict=True))
            for instrument, series in self._funding.items()
        }

    @cached_property
    def _open_interest(self) -> dict[Instrument, tuple[NDArray[np.int64], NDArray[np.float64]]]:
        files = sorted(self.directory.glob(f"open_interest/{_KIND[self._venue]}_oi_4h*.parquet"))
        tables = [_read(path, ("symbol", "timestamp", "sum_open_interest")) for path in files]
        known = _by_symbol(tables, self._venue, "timestamp", "sum_open_interest")
        return {i: (times[order], values[order]) for i, (times, values) in known.items() for order in [times.argsort()]}


def _estimates_after(series: SettlementSeries) -> list[FundingNow]:
    """The estimate after each settlement: its rate, due one interval later.

    The interval is the latest step between settlements that is no hole, 8 h before there is one.
    """
    estimates, interval, before = [], 8 * HOUR_MS, None
    for time_ms, rate in zip(series.time_ms.tolist(), series.rate.tolist(), strict=True):
        step = _to_minute(time_ms - before) if before is not None else 0
        interval = step if 0 < step <= LONGEST_INTERVAL_MS else interval
        estimates.append(FundingNow(rate, _to_minute(time_ms) + interval, interval))
        before = time_ms
    return estimates


def _settled_at(known: tuple[int, FundingNow]) -> int:
    return known[0]


def _to_minute(ms: int) -> int:
    return (ms + MINUTE_MS // 2) // MINUTE_MS * MINUTE_MS


def _read(path: Path, needed: tuple[str, ...]) -> Any:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise SchemaError(f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); replace it") from None
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise SchemaError(f"{path} lacks the column {missing[0]!r}; it has {', '.join(table.column_names)}")
    return table


def _times(table: Any, column: str) -> NDArray[np.int64]:
    return np.asarray(pc.cast(table[column], _TIME).cast(pa.int64()).to_numpy(), np.int64)


def _floats(table: Any, column: str, length: int) -> NDArray[np.float64]:
    if column not in table.column_names:
        return np.full(length, np.nan)
    return np.asarray(pc.cast(table[column], pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _by_symbol(
    tables: list[Any], venue: Venue, time: str, value: str
) -> dict[Instrument, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Times and values of each instrument, in file order; ids that are no linear perpetual are left out."""
    parts: dict[Instrument, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
    for table in tables:
        coded = pc.dictionary_encode(table["symbol"].combine_chunks())
        codes = np.asarray(coded.indices)
        order = np.argsort(codes, kind="stable")
        names = coded.dictionary.to_pylist()
        ends = np.searchsorted(codes[order], np.arange(len(names) + 1))
        times, values = _times(table, time)[order], _floats(table, value, len(codes))[order]
        for name, lo, hi in zip(names, ends[:-1], ends[1:], strict=True):
            instrument = Instrument.from_venue_id(venue, name)
            if instrument is not None:
                parts.setdefault(instrument, []).append((times[lo:hi], values[lo:hi]))
    return {i: (np.concatenate([t for t, _ in p]), np.concatenate([v for _, v in p])) for i, p in parts.items()}


def _read_bars(path: Path, interval: Interval) -> BarSeries:
    table = _read(path, ("timestamp", *_PRICES))
    if "close_time" in table.column_names:
        table = table.slice(0, max(0, table.num_rows - 1))
    times, size = _times(table, "timestamp"), table.num_rows
    prices = [_floats(table, name, size) for name in _PRICES]
    trades = np.full(size, -1, np.int64)
    if "trades" in table.column_names:
        trades = np.asarray(pc.fill_null(pc.cast(table["trades"], pa.int64()), -1).to_numpy(), np.int64)
    _check(path, interval, times, prices)
    o, h, l, c, volume = prices
    return BarSeries(times, o, h, l, c, volume, _floats(table, "quote_volume", size), trades)


def _check(path: Path, interval: Interval, times: NDArray[np.int64], prices: list[NDArray[np.float64]]) -> None:
    if np.any(np.diff(times) <= 0):
        raise SchemaError(f"{path}: bars are not in strictly ascending order; sort them and remove duplicates")
    if np.any(times % interval.ms):
        raise SchemaError(f"{path}: a bar does not open on the {interval} grid; `timestamp` is the bar's open in UTC")
    if not all(np.isfinite(values).all() for values in prices):
        raise SchemaError(f"{path}: a price or volume is not a number; remove such rows, a missing bar is no row")
