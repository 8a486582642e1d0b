"""The lake for people: bars as a pandas frame."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa

from qlib_crypto.clock import parse_utc
from qlib_crypto.errors import DataError
from qlib_crypto.lake.store import Lake
from qlib_crypto.symbols import Instrument, Interval


def load_bars(
    symbol: str,
    interval: str,
    start: str | date | datetime | None = None,
    end: str | date | datetime | None = None,
    *,
    lake_dir: str | Path = ".",
) -> pd.DataFrame:
    """Bars as a frame: index `timestamp` (open, UTC, ascending); `open high low close volume quote_volume trades …`.

    Missing bars are missing rows; a value that the source lacks is NaN or NA.

    Parameters
    ----------
    symbol
        With its venue: `BTC_USDT.OKX`.
    interval
        `1m`, `1h`, …; Qlib's spellings work too.
    start, end
        UTC, `[start, end)` by open; None means all there is.
    lake_dir
        The folder that holds `okx_data/` and `binance_data/`.

    Raises
    ------
    ConfigError
        Symbol, interval or time cannot be right.
    DataError
        The lake has no bar of this symbol and interval at all.

    """
    instrument, step = Instrument.parse(symbol), Interval.parse(interval)
    bounds = [None if at is None else parse_utc(at) for at in (start, end)]
    lake = Lake(Path(lake_dir))
    try:
        table = lake.bars(instrument, step, *bounds)
        if not len(table) and instrument not in lake.instruments(instrument.venue, step):
            raise DataError(f"lake {lake_dir} has no {step} bars of {instrument}; {_advice(lake, instrument, step)}")
    finally:
        lake.close()
    frame = table.drop_columns(["symbol"]).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return pd.DataFrame(frame.set_index("timestamp"))


def _advice(lake: Lake, instrument: Instrument, step: Interval) -> str:
    venue = instrument.venue
    finer = [i for i in lake.intervals(venue) if not step.ms % i.ms and instrument in lake.instruments(venue, i)]
    if finer:
        return (
            f"it has {' '.join(map(str, finer))}: name {step} in config.yaml under provider.intervals, then "
            "qlib-crypto convert makes them and D.features reads them"
        )
    return f"run: qlib-crypto backfill --venue {venue} --symbols {instrument.symbol} --interval {step} --start …"
