"""Numbers as a venue writes them, and websocket frames as they go over the wire."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import orjson
from numpy.typing import NDArray

_SHORT = 126
_LONG = 1 << 16


def plain(value: float) -> str:
    """The shortest decimal that reads back as `value`, without exponent; `""`, the wire's missing, for NaN."""
    if math.isnan(value):
        return ""
    text = repr(float(value))
    if "e" in text:
        text = format(Decimal(text), "f")
    return text.removesuffix(".0")


def padded(value: float, decimals: int) -> str:
    """`plain`, with zeros up to `decimals` places, as Binance writes rates; no digit is lost."""
    text = plain(value)
    if not text:
        return text
    whole, _, part = text.partition(".")
    return f"{whole}.{part.ljust(decimals, '0')}"


def texts(values: NDArray[np.float64]) -> list[str]:
    """`plain` of every value, shape (n,); some thirty times faster than one by one."""
    if not len(values):
        return []
    joined = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    if "e" in joined:
        return [plain(value) for value in values.tolist()]
    return (joined[1:-1] + ",").replace(".0,", ",").replace("null", "")[:-1].split(",")


def frame(payload: str | bytes) -> bytes:
    """One unmasked, unfragmented text frame (RFC 6455 section 5.2), as a server sends it."""
    body = payload.encode() if isinstance(payload, str) else payload
    size = len(body)
    if size < _SHORT:
        return b"\x81" + size.to_bytes(1) + body
    if size < _LONG:
        return b"\x81\x7e" + size.to_bytes(2) + body
    return b"\x81\x7f" + size.to_bytes(8) + body


def payload(data: bytes) -> bytes:
    """The text in one frame as `frame` made it."""
    size = data[1]
    return data[2:] if size < _SHORT else data[4:] if size == _SHORT else data[10:]
