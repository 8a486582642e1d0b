"""What each venue is made of here: the one table to which a third venue is added, beside its own modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from qlib_crypto.feeds.binance_archive import BinanceArchive
from qlib_crypto.feeds.binance_rest import BinanceRest
from qlib_crypto.feeds.binance_stream import BinanceUsdm
from qlib_crypto.feeds.client import BulkHistory, RestClient
from qlib_crypto.feeds.okx_archive import OkxArchive
from qlib_crypto.feeds.okx_rest import OkxRest
from qlib_crypto.feeds.okx_stream import OkxSwap
from qlib_crypto.feeds.public_feed import PublicFeed
from qlib_crypto.feeds.transport import Patience
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Venue


class Parts(NamedTuple):
    """REST client, websocket feed and bulk files of a venue."""

    rest: Callable[[VenueSettings, Patience | None], RestClient]
    feed: type[PublicFeed]
    bulk: Callable[[VenueSettings, Patience | None], BulkHistory]


VENUES: dict[Venue, Parts] = {
    Venue.OKX: Parts(OkxRest, OkxSwap, OkxArchive),
    Venue.BINANCE: Parts(BinanceRest, BinanceUsdm, BinanceArchive),
}


def rest_client(venue: Venue, settings: VenueSettings) -> RestClient:
    """The REST client of a venue, at the address and the share of its limits that the settings say."""
    return VENUES[venue].rest(settings, None)
