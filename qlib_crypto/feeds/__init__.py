"""The only client network code: public market data of the venues, live, on request and in bulk. Knows no storage."""

from __future__ import annotations

from qlib_crypto.feeds.archive import Archive
from qlib_crypto.feeds.client import History, RestClient
from qlib_crypto.feeds.stream import VenueStream
from qlib_crypto.feeds.telling import StreamCounters
from qlib_crypto.feeds.venues import rest_client

__all__ = ["Archive", "History", "RestClient", "StreamCounters", "VenueStream", "rest_client"]
