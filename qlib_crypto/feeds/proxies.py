"""Which way a request goes: through the proxy of the settings, or directly to loopback."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(url: str) -> bool:
    """Whether the URL leads to this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def proxy_for(url: str, proxy: str | None) -> str | None:
    """The proxy to this URL: the given one, or None, always for loopback."""
    return None if is_loopback(url) else proxy
