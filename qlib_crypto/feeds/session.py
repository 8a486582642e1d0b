"""The one thing that sends HTTP: GET to listed public paths of one host, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Container
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests

from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.proxies import is_loopback, proxy_for

#: Headers that would say who we are; public market data needs none.
_PERSONAL = ("authorization", "cookie", "ok-access-key", "x-mbx-apikey")


class PathsLike:
    """The paths that a regular expression matches as a whole."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._pattern.fullmatch(path) is not None


class PublicSession(requests.Session):
    """A session that sends GET to the allowed paths, follows nothing, names nobody, and refuses everything else.

    Parameters
    ----------
    base_url
        The only host that is asked, with what stands before every path.
    paths
        What may be asked there.
    proxy
        `http://host:port` to go through; loopback is reached directly whatever it says. None: what the environment
        says, where the host is not loopback.

    """

    def __init__(self, base_url: str, paths: Container[str], proxy: str | None = None) -> None:
        super().__init__()
        url = urlsplit(base_url)
        self._host, self._before = url.netloc, url.path.rstrip("/")
        self._paths = paths
        through = proxy_for(base_url, proxy)
        self._proxies = {"http": through, "https": through} if through else None
        # a proxy of the environment may not stand between us and loopback; .netrc may name us nowhere
        self.trust_env = not is_loopback(base_url)
        self.auth = lambda request: request
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.headers.update({"Accept": "application/json", "User-Agent": "qlib-crypto"})

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """The answer to a public request.

        Raises
        ------
        VenueError
            It is no GET, goes elsewhere than to the list's paths, or names an account; nothing was sent.

        """
        url = urlsplit(request.url or "")
        named = [name for name in request.headers if name.lower() in _PERSONAL]
        path = url.path.removeprefix(self._before) if url.path.startswith(self._before) else ""
        listed = request.method == "GET" and url.netloc == self._host and path in self._paths
        if not listed or named or request.body:
            raise VenueError(
                f"{request.method} {url.netloc}{url.path} is no public market-data request "
                f"({', '.join(named) or 'not on the list'}); qlib-crypto sends no other"
            )
        if self._proxies is not None:
            kwargs["proxies"] = self._proxies  # before what the environment says
        return super().send(request, **{**kwargs, "allow_redirects": False})
