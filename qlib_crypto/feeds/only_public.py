"""What cryptofeed could do with an account or by its own HTTP, switched off."""

from __future__ import annotations

from typing import Any, ClassVar

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.links import PublicSocket


class _NoHttp:
    """Stands where cryptofeed keeps its HTTP connections, and refuses everything."""

    def __getattr__(self, name: str) -> Any:
        raise VenueError(f"cryptofeed's own HTTP ({name}) is switched off; REST goes through rest_client()")


class OnlyPublic:
    """First in the bases of a feed: no key, no request of its own."""

    http_sync: ClassVar[Any] = _NoHttp()
    http_conn: Any

    async def authenticate(self, conn: PublicSocket) -> None:
        """Nothing: there is no account."""

    def _refused(self, *_args: Any, **_kwargs: Any) -> Any:
        raise VenueError("cryptofeed's own requests are switched off; qlib-crypto reads public market data only")

    _auth = _generate_token = _refresh_token = _get_server_time = _ws_authentication = _refused
