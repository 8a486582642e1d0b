"""What a researcher makes of a generated tape, from the wire alone: nothing here looks inside the generator."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd

from qlib_crypto.sandbox.generator import GeneratorConfig, GeneratorTape
from qlib_crypto.symbols import Interval, Venue

MINUTE, HOUR = Interval.parse("1m"), Interval.parse("1h")
START = GeneratorConfig(Venue.OKX).start_ms
DAY = 86_400_000


def tape(venue=Venue.OKX, days=20, **settings) -> GeneratorTape:
    return GeneratorTape(GeneratorConfig(venue, end_ms=START + round(days * 24) * HOUR.ms, **settings))


def wide(source: GeneratorTape, field: str) -> pd.DataFrame:
    """One field of the 1h bars, hours by symbols."""
    columns = {}
    for instrument in source.specs:
        bars = source.bars(instrument, HOUR)
        columns[instrument.symbol] = pd.Series(getattr(bars, field), index=bars.open_ms)
    start, end = source.span_ms
    return pd.DataFrame(columns).reindex(range(start, end, HOUR.ms))


def funding(source: GeneratorTape) -> pd.DataFrame:
    """Last settled rate as of each bar's open, hours by symbols; times snapped to the minute."""
    columns = {}
    for instrument in source.specs:
        settled = source.settlements(instrument)
        minute = np.rint(settled.time_ms / 60_000).astype(np.int64) * 60_000
        columns[instrument.symbol] = pd.Series(settled.rate, index=minute)
    start, end = source.span_ms
    return pd.DataFrame(columns).reindex(range(start, end, HOUR.ms)).ffill()


def z(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sub(frame.mean(axis=1), axis=0).div(frame.std(axis=1, ddof=0), axis=0)


def parts(source: GeneratorTape) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The reversal and the funding part of the signal, by pandas."""
    move = wide(source, "close") / wide(source, "open").shift(5) - 1
    rate = funding(source)
    both = move.notna() & rate.notna()
    both &= (both.sum(axis=1) >= 8).to_numpy()[:, None]
    return -0.8 * z(move.where(both)), -0.6 * z(rate.where(both))


def label(source: GeneratorTape) -> pd.DataFrame:
    """`Ref($open,-2)/Ref($open,-1)-1`."""
    open_ = wide(source, "open")
    return open_.shift(-2) / open_.shift(-1) - 1


def hourly_ic(signal: pd.DataFrame, returns: pd.DataFrame) -> pd.Series:
    """Pearson correlation across symbols, hour by hour; NaN where one side does not vary."""
    both = signal.notna() & returns.notna()
    x, y = signal.where(both), returns.where(both)
    x, y = x.sub(x.mean(axis=1), axis=0), y.sub(y.mean(axis=1), axis=0)
    spread = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return (x * y).sum(axis=1) / spread.where(spread > 0)


def exact(values) -> list[Decimal]:
    """The decimals that the wire prints for doubles."""
    return [Decimal(repr(float(value))) for value in values]
