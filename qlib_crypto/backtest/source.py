"""Where the bars of a backtest are from, and whatever else of the provider it asks for besides them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qlib_crypto.backtest.account import Floats
from qlib_crypto.backtest.checks import frequencies, stored
from qlib_crypto.backtest.load import Loaded, Tables, load
from qlib_crypto.backtest.market import VOLUME
from qlib_crypto.backtest.orders import Rules
from qlib_crypto.errors import ConfigError, DataError, QlibCryptoError
from qlib_crypto.market.margin import ccxt_tables, dated_tables
from qlib_crypto.symbols import Instrument, Interval


@dataclass(frozen=True)
class Source:
    """A provider's folder, and what of it is traded.

    Attributes
    ----------
    folder
        Of the provider.
    interval, names, span_ms, rules, tables, margined
        See `load`.
    window
        The bars that slippage is known from.

    """

    folder: Path
    interval: Interval
    names: tuple[str, ...]
    span_ms: tuple[int, int]
    rules: Mapping[str, Rules]
    tables: Mapping[str, Tables]
    margined: bool
    window: int

    def bars(self, inner: Interval | None) -> Loaded:
        """What is traded, with finer bars inside; None for none."""
        return load(
            self.folder, self.interval, self.names, self.span_ms, rules=self.rules, tables=self.tables,
            margined=self.margined, inner=inner, before=self.window + 1,
        )  # fmt: skip

    @property
    def inner(self) -> Interval | None:
        """The longest bars of the provider that fill one of these, None without."""
        own, found = self.interval.ms, map(Interval.parse, frequencies(self.folder))
        return max((one for one in found if one.ms < own and own % one.ms == 0), key=lambda one: one.ms, default=None)

    def before(self, open_ms: int, bars: int) -> Floats:
        """Open, high, low, close and volume of so many bars before the one of an open, NaN where there are none.

        Shape (5, bars, n). What is known when the span begins needs no bars of the span.
        """
        out, step = np.full((VOLUME + 1, bars, len(self.names)), np.nan), self.interval.ms
        span = open_ms - bars * step, open_ms - step
        try:
            earlier = load(self.folder, self.interval, self.names, span, rules=self.rules, margined=False)
        except DataError:
            return out
        out[:, (earlier.opens_ms - open_ms) // step + bars] = earlier.market.prices[: VOLUME + 1]
        return out

    def longer(self, interval: Interval) -> Loaded:
        """The same on longer bars, for who decides on these and trades on those."""
        stored(interval.qlib)
        return load(self.folder, interval, self.names, self.span_ms, rules={}, margined=False)

    def another(self, name: str) -> Loaded | None:
        """The bars of another instrument, None when the provider has not one of them."""
        try:
            return load(self.folder, self.interval, [name], self.span_ms, rules=self.rules, margined=False)
        except QlibCryptoError:
            return None


def tables_of(path: str | None, folder: Path, names: Sequence[str]) -> Mapping[str, Tables]:
    """The margin tiers of a file in ccxt's shape by Qlib's name, without one those that the provider knows.

    Raises
    ------
    ConfigError
        When the file has not one of the instruments.

    """
    if path is None:
        known = folder / "margin_tiers.json"
        return dated_tables(known) if known.is_file() else {}
    venues = {Instrument.parse(name).venue for name in names}
    tables = {of.qlib: table for venue in sorted(venues) for of, table in ccxt_tables(Path(path), venue).items()}
    if not set(tables) & set(names):
        raise ConfigError(
            f"exchange.margin_tiers {path} has none of the {len(names)} instruments ({names[0]} …); give a file of "
            "their venue with sizes in quote coins, or leave it out"
        )
    return {name: ((0, table),) for name, table in tables.items()}
