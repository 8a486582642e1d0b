"""The current universe as a file: a JSON array such as `["BTC_USDT", …]`, written by ranking, read by collecting."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import orjson

from qlib_crypto.errors import ConfigError, QlibCryptoError
from qlib_crypto.lake.files import write_bytes
from qlib_crypto.symbols import Instrument, Venue


def universe_path(folder: Path, venue: Venue) -> Path:
    """`top50_symbols.json` for OKX, `top50_symbols.binance.json` for Binance."""
    return Path(folder) / ("top50_symbols.json" if venue is Venue.OKX else f"top50_symbols.{venue}.json")


def write_universe(path: Path, instruments: Iterable[Instrument]) -> None:
    """Write the array atomically, in the order given."""
    symbols = [instrument.symbol for instrument in instruments]
    write_bytes(path, orjson.dumps(symbols, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_universe(path: Path, venue: Venue) -> list[Instrument]:
    """The instruments of the array, in its order, each once.

    Raises
    ------
    ConfigError
        The file is missing, no JSON array of symbols, empty, or names another venue.

    """
    try:
        symbols = orjson.loads(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; run: qlib-crypto rank --venue {venue}") from None
    except orjson.JSONDecodeError as error:
        raise ConfigError(f'{path} is no JSON ({error}); write an array such as ["BTC_USDT"], or rank again') from None
    if not isinstance(symbols, list) or not symbols or not all(isinstance(symbol, str) for symbol in symbols):
        raise ConfigError(f'{path} is no array of symbols; write one such as ["BTC_USDT", "ETH_USDT"], or rank again')
    try:
        found = dict.fromkeys(Instrument.parse(symbol, venue) for symbol in symbols)
    except QlibCryptoError as error:
        raise ConfigError(f"{path}: {error}") from None
    other = [instrument for instrument in found if instrument.venue is not venue]
    if other:
        raise ConfigError(f"{path}: {other[0]} is not on {venue}; give that venue's file")
    return list(found)
