"""What the market did meanwhile: step returns of BTC and of the equally weighted market, from the same quotes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qlib_crypto.backtest.market import CLOSE, OPEN
from qlib_crypto.backtest.qlib_exchange import PerpExchange
from qlib_crypto.errors import QlibCryptoError
from qlib_crypto.symbols import Instrument

Floats = NDArray[np.float64]


def hold_returns(opens: Floats, closes: Floats) -> Floats:
    """The step returns of holding each instrument, shape (steps, instruments), a fraction.

    A step's return is its close over the last close before it; an instrument's first bar returns close over open,
    as for one bought then. NaN where there is no bar: a gap's change falls into the bar that ends it.
    """
    last = pd.DataFrame(closes).ffill().shift(1).to_numpy(dtype=np.float64)
    return closes / np.where(np.isfinite(last), last, opens) - 1.0


def equal_weight(exchange: PerpExchange) -> pd.Series[float]:
    """The mean return of the exchange's instruments with a bar, members of the market only; NaN where there is none."""
    quote, market = exchange.quote, exchange.loaded.market
    returns = hold_returns(market.prices[OPEN], market.prices[CLOSE])
    returns[~_members(exchange.loaded.names, quote.times, exchange.spans)] = np.nan
    known = np.isfinite(returns)
    count = known.sum(axis=1)
    total = np.where(known, returns, 0.0).sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return pd.Series(mean, index=quote.times, name="bench_equal")


def bitcoin(exchange: PerpExchange) -> pd.Series[float]:
    """The return of BTC on the venue of the exchange's instruments; all NaN when the provider has none."""
    loaded = exchange.loaded
    for name in _bitcoins(loaded.names):
        own = loaded if name in loaded.column else exchange.source.another(name)
        if own is not None and own.has_bar[:, own.column[name]].any():
            column = [own.column[name]]
            opens, closes = own.market.prices[OPEN][:, column], own.market.prices[CLOSE][:, column]
            return pd.Series(hold_returns(opens, closes)[:, 0], index=exchange.quote.times, name="bench_btc")
    return pd.Series(np.nan, index=exchange.quote.times, name="bench_btc")


def _bitcoins(names: Sequence[str]) -> list[str]:
    """Where BTC may be found, the commonest venue and quote coin first."""
    places: dict[str, int] = {}
    for name in names:
        try:
            instrument = Instrument.parse(name)
        except QlibCryptoError:
            continue
        btc = Instrument("BTC", instrument.quote, instrument.venue).qlib
        places[btc] = places.get(btc, 0) + 1
    return sorted(places, key=lambda btc: (-places[btc], btc))


def _members(
    names: Sequence[str], times: pd.DatetimeIndex, spans: Mapping[str, Sequence[tuple[pd.Timestamp, pd.Timestamp]]]
) -> NDArray[np.bool_]:
    """Who was a member when, shape (steps, instruments); everybody always when a list was given instead of a market."""
    if not spans:
        return np.ones((len(times), len(names)), dtype=np.bool_)
    member = np.zeros((len(times), len(names)), dtype=np.bool_)
    for i, name in enumerate(names):
        for first, last in spans.get(name, ()):
            member[:, i] |= (times >= first) & (times <= last)
    return member
