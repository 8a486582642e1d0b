"""Contract specs of a tape: from its `instruments.json`, otherwise derived from its prices by a stated rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qlib_crypto.clock import parse_utc
from qlib_crypto.errors import ConfigError, SchemaError
from qlib_crypto.market.specs import InstrumentSpec
from qlib_crypto.sandbox.tape import BarSeries
from qlib_crypto.symbols import Instrument, Venue

CONTRACT_QUOTE = 10.0
_FINEST_DECIMALS = 15
_NUMBERS = ("tick_size", "contract_value_base", "lot_contracts", "min_contracts")
_MAYBE_NUMBERS = ("min_notional_quote", "max_leverage")
_TEXTS = {"state": "live", "category": "crypto", "rule_type": "normal"}
_TIMES = ("listed", "delisted")


def finest_step(series: Sequence[BarSeries]) -> float:
    """The finest decimal step in the open, high, low and close of all bars: 0.1, 0.01, …; 1 for whole prices.

    Exact: a float64 that is the nearest one to a decimal of d places survives rounding to d places unchanged.
    """
    prices = np.concatenate([values for bars in series for values in (bars.open, bars.high, bars.low, bars.close)])
    for decimals in range(_FINEST_DECIMALS):
        if np.array_equal(np.round(prices, decimals), prices):
            return float(f"1e-{decimals}")
    return float(f"1e-{_FINEST_DECIMALS}")


def contract_size(price: float) -> float:
    """The power of ten of the base coin whose value at `price` is nearest 10 USDT, in plain distance."""
    exponent = int(np.floor(np.log10(CONTRACT_QUOTE / price)))
    sizes = [float(f"1e{exponent + step}") for step in (-1, 0, 1, 2)]
    return min(sizes, key=lambda size: abs(size * price - CONTRACT_QUOTE))


def derive(instrument: Instrument, series: Sequence[BarSeries]) -> InstrumentSpec:
    """The spec of an instrument that comes without one, `spec_source` `derived`.

    Tick = finest decimal step in its prices. Contract = the power of ten of the base coin whose value is nearest
    10 USDT at the open of the first bar; lot = minimum = 1 contract. Binance counts in coins, so there the contract
    is 1 and the lot is that power of ten. Listed at the first bar. What a price cannot tell (minimum notional,
    leverage, delisting) is None.
    """
    first = min(series, key=lambda bars: int(bars.open_ms[0]))
    listed = int(first.open_ms[0])
    size = contract_size(float(first.open[0]))
    contract, lot = (size, 1.0) if instrument.venue is Venue.OKX else (1.0, size)
    return InstrumentSpec(
        instrument=instrument,
        seen_ms=listed,
        state="live",
        category="crypto",
        rule_type="normal",
        tick_size=finest_step(series),
        contract_value_base=contract,
        lot_contracts=lot,
        min_contracts=lot,
        min_notional_quote=None,
        max_leverage=None,
        listed_ms=listed,
        delisted_ms=None,
        spec_source="derived",
    )


def read_specs(path: Path, venue: Venue) -> dict[Instrument, InstrumentSpec]:
    """The specs of one venue in an `instruments.json`; empty when there is no such file.

    The file is one object, keyed by instrument::

        {"BTC_USDT.OKX": {"tick_size": 0.1, "contract_value_base": 0.01, "lot_contracts": 0.01,
                          "min_contracts": 0.01, "min_notional_quote": null, "max_leverage": 100,
                          "state": "live", "category": "crypto", "rule_type": "normal",
                          "listed": "2019-11-12T11:16:48", "delisted": null}}

    The first four are needed; the others default to None, `live`, `crypto`, `normal`.

    Raises
    ------
    SchemaError
        The file is no such object.

    """
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text("utf-8"))
        named = {Instrument.parse(name): entry for name, entry in entries.items()}
        return {i: _spec(i, entry) for i, entry in named.items() if i.venue is venue}
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
        raise SchemaError(f"{path}: {error!r} is wrong there; write it as read_specs documents it") from None


def _spec(instrument: Instrument, entry: Mapping[str, Any]) -> InstrumentSpec:
    unknown = set(entry) - {*_NUMBERS, *_MAYBE_NUMBERS, *_TEXTS, *_TIMES}
    if unknown:
        raise ValueError(f"{instrument}: unknown key {min(unknown)}")
    tick, contract, lot, least = (float(entry[key]) for key in _NUMBERS)
    if min(tick, contract, lot, least) <= 0:
        raise ValueError(f"{instrument}: {', '.join(_NUMBERS)} must be positive")
    notional, leverage = (None if entry.get(key) is None else float(entry[key]) for key in _MAYBE_NUMBERS)
    listed, delisted = (None if entry.get(key) is None else parse_utc(entry[key]) for key in _TIMES)
    state, category, rule_type = (str(entry.get(key, default)) for key, default in _TEXTS.items())
    return InstrumentSpec(
        instrument=instrument,
        seen_ms=listed or 0,
        state=state,
        category=category,
        rule_type=rule_type,
        tick_size=tick,
        contract_value_base=contract,
        lot_contracts=lot,
        min_contracts=least,
        min_notional_quote=notional,
        max_leverage=leverage,
        listed_ms=listed,
        delisted_ms=delisted,
        spec_source="file",
    )
