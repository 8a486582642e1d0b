"""The only client network code: public market data of the venues, over REST and websocket. Knows no storage."""

from __future__ import annotations

from collections.abc import Callable

from qlib_crypto.feeds.binance import BinanceRest
from qlib_crypto.feeds.okx import OkxRest
from qlib_crypto.feeds.rest import RestClient
from qlib_crypto.feeds.stream import VenueStream
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Venue

__all__ = ["RestClient", "VenueStream", "rest_client"]

_CLIENTS: dict[Venue, Callable[[VenueSettings], RestClient]] = {Venue.OKX: OkxRest, Venue.BINANCE: BinanceRest}


def rest_client(venue: Venue, settings: VenueSettings) -> RestClient:
    """The REST client of a venue, at the address and the share of its limits that the settings say."""
    return _CLIENTS[venue](settings)
