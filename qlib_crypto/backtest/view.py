"""What a strategy may look at, made of loaded bars and a signal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from qlib_crypto.backtest.account import Floats
from qlib_crypto.backtest.known import Known
from qlib_crypto.backtest.layout import UNTRADABLE
from qlib_crypto.backtest.load import Loaded
from qlib_crypto.backtest.market import CLOSE, OPEN, UNKNOWN_AT_OPEN, UNKNOWN_LATER, VOLUME
from qlib_crypto.backtest.terms import POLICIES
from qlib_crypto.backtest.values import one_of
from qlib_crypto.clock import iso
from qlib_crypto.errors import DataError
from qlib_crypto.market.funding import LONGEST_INTERVAL_MS


def known_of(loaded: Loaded, signal: Any, missing_funding: str) -> Known:
    """The market as known at the open of each loaded bar.

    Parameters
    ----------
    loaded
        Bars and settlements.
    signal
        Scores by (datetime, instrument), first column, as Qlib's predictions; or a matrix of shape (bars, n) whose row
        is stamped at the open of its bar. Either way a score is known at that bar's close; that of the bar before the
        first one counts too. None is no score at all.
    missing_funding
        Under `untradable` a name whose funding is unknown in a bar cannot be opened in it.

    """
    one_of("missing_funding", missing_funding, tuple(POLICIES))
    prices, market = loaded.market.prices, loaded.market
    tradable = prices[OPEN] > 0
    if POLICIES[missing_funding] == UNTRADABLE:
        tradable &= market.unknown[:, :-1] == 0
    rate, interval = _funding(loaded)
    close, volume = loaded.before[:, -1]
    return Known(
        opens_ms=loaded.opens_ms,
        step_ms=loaded.interval.ms,
        names=loaded.names,
        signal=scores_known(loaded, signal),
        close=_before(prices[CLOSE], close),
        dollar_volume=_before(prices[CLOSE] * prices[VOLUME], close * volume),
        funding_rate=rate,
        funding_interval=interval,
        tradable=tradable,
    )


def scores_known(loaded: Loaded, signal: Any) -> Floats:
    """A signal as `known_of` takes it, known at the open of each loaded bar: shape (bars, n), NaN without a score.

    What lies outside of the bars is left out.

    Raises
    ------
    DataError
        When the signal has no levels datetime and instrument, or another shape, a score is infinite or no number, a bar
        has two scores of one instrument, or none of the signal falls on a bar.

    """
    if signal is None:
        return np.full(loaded.has_bar.shape, np.nan)
    if isinstance(signal, np.ndarray):
        if signal.shape != loaded.has_bar.shape:
            raise DataError(
                f"the signal has shape {signal.shape}; a matrix must have {loaded.has_bar.shape}, (bars, n)"
            )
        return _before(signal, np.full(len(loaded.names), np.nan))
    names = list(getattr(getattr(signal, "index", None), "names", []))
    if not {"datetime", "instrument"} <= set(names):
        raise DataError(
            f"the signal has index levels {names}, not datetime and instrument; of a frame with a column each "
            "instrument: signal.stack().rename_axis(['datetime', 'instrument'])"
        )
    column = signal.iloc[:, 0] if isinstance(signal, pd.DataFrame) else signal
    column = column.dropna()
    if not len(column):
        raise DataError("the signal has no score; check the model's test segment and its features")
    if not pd.api.types.is_numeric_dtype(column):
        raise DataError(f"the signal's scores are {column.dtype}, such as {column.iloc[0]!r}; give numbers")
    infinite = np.isinf(column.to_numpy(np.float64))
    if infinite.any():
        raise DataError(
            f"{infinite.sum():,} scores of the signal are infinite, such as that of {column.index[infinite.argmax()]}; "
            "give numbers, or NaN for none"
        )
    times = column.index.get_level_values("datetime").to_numpy().astype("datetime64[ms]").astype(np.int64)
    row, off = np.divmod(times + loaded.interval.ms - loaded.opens_ms[0], loaded.interval.ms)
    place = pd.Index(loaded.names).get_indexer(column.index.get_level_values("instrument"))
    inside = (off == 0) & (row >= 0) & (row <= len(loaded.opens_ms)) & (place >= 0)
    if not inside.any():
        first, last = (iso(int(open_ms)) for open_ms in loaded.opens_ms[[0, -1]])
        raise DataError(
            f"none of {len(column)} scores falls on a {loaded.interval.qlib} bar of the exchange, such as that of "
            f"{column.index[0]}; it has {loaded.names[0]} … from {first} to {last}"
        )
    out = np.full((len(loaded.opens_ms), len(loaded.names)), np.nan)
    inside &= row < len(loaded.opens_ms)
    row, place = row[inside], place[inside]
    if len(np.unique(row * len(loaded.names) + place)) < len(row):
        raise DataError("the signal has two scores of one instrument at one time; give one")
    out[row, place] = column.to_numpy(dtype=np.float64)[inside]
    return out


def _before(values: Floats, first: Floats) -> Floats:
    """What the bar before had."""
    return np.concatenate([first[None], values[:-1]])


def _funding(loaded: Loaded) -> tuple[Floats, Floats]:
    """The last rate settled at or before each open, no older than the longest interval, and its interval's hours.

    NaN where it is unknown what settled at the open, or since the last rate in the bar before.
    """
    shape, unknown = (len(loaded.opens_ms), len(loaded.names)), loaded.market.unknown[:, :-1]
    at_open, since = unknown & UNKNOWN_AT_OPEN != 0, np.zeros(shape, np.bool_)
    since[1:] = unknown[:-1] & UNKNOWN_LATER != 0
    rate, interval = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, of in enumerate(loaded.settled):
        if not len(of.series):
            continue
        at = np.searchsorted(of.time_ms, loaded.opens_ms, side="right") - 1
        age = loaded.opens_ms - of.time_ms[at]
        fresh = (at >= 0) & (age <= LONGEST_INTERVAL_MS) & ~at_open[:, i] & ~(since[:, i] & (age > 0))
        rate[fresh, i] = of.series["rate"][at[fresh]]
        interval[fresh, i] = of.interval_hours[at[fresh]]
    return rate, interval
