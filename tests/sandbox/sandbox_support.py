"""A small folder of Parquet in the layout of the real one, and clients that know no more than a venue's documents."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import pandas as pd

from qlib_crypto.clock import parse_utc

START = parse_utc("2025-03-01")
MINUTES = 2 * 1440
HOURS = 40 * 24


def candles(start_ms: int, n: int, step_ms: int, price: float, decimals: int, seed: int) -> pd.DataFrame:
    """A random walk on the tick grid; some bars have no trade, as the venues print them."""
    rng = np.random.default_rng(seed)
    close = np.round(price * np.exp(np.cumsum(rng.normal(0, 0.002, n))), decimals)
    opened = np.concatenate([[np.round(price, decimals)], close[:-1]])
    top, bottom = np.maximum(opened, close), np.minimum(opened, close)
    tick = 10.0**-decimals
    high, low = (np.round(v, decimals) for v in (top + tick * rng.integers(0, 9, n), bottom - tick))
    volume = np.round(rng.gamma(2.0, 500.0, n), 4)
    still = rng.random(n) < 0.03
    close[still] = high[still] = low[still] = opened[still]
    volume[still] = 0.0
    opened[1:] = close[:-1]
    high, low = np.maximum.reduce([high, opened, close]), np.minimum.reduce([low, opened, close])
    time = pd.to_datetime(start_ms + step_ms * np.arange(n), unit="ms", utc=True)
    return pd.DataFrame({"timestamp": time, "open": opened, "high": high, "low": low, "close": close, "volume": volume})


def as_klines(bars: pd.DataFrame, step_ms: int) -> pd.DataFrame:
    """The columns of a raw Binance download."""
    quote = np.round(bars.volume * (bars.open + bars.close) / 2, 4)
    return bars.assign(
        quote_volume=quote,
        trades=np.where(bars.volume > 0, 10 + np.arange(len(bars)) % 90, 0),
        close_time=bars.timestamp + pd.Timedelta(step_ms - 1, "ms"),
    )


def settlements(symbol: str, start_ms: int, hours: float, n: int, seed: int, jitter_ms: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    times = start_ms + int(hours * 3_600_000) * np.arange(n) + rng.integers(0, jitter_ms + 1, n)
    rates = np.round(rng.normal(1e-4, 2e-4, n), 8)
    return pd.DataFrame(
        {"symbol": symbol, "funding_time": pd.to_datetime(times, unit="ms", utc=True), "funding_rate": rates}
    )


def write(frame: pd.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path, index=False)
    return path


class Answer(NamedTuple):
    status: int
    body: Any
    headers: dict[str, str]


def get(url: str) -> Answer:
    """One GET without proxies; any status is an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=20) as reply:
            return _answer(reply.status, reply.read(), reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return _answer(error.code, error.read(), error.headers)


def _answer(status: int, raw: bytes, headers: Any) -> Answer:
    try:
        body = json.loads(raw)
    except ValueError:
        body = raw.decode()
    return Answer(status, body, dict(headers))


class Socket:
    """One websocket of a test client, in a session of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> aiohttp.ClientWebSocketResponse:
        self._session = aiohttp.ClientSession()
        try:
            patience = aiohttp.ClientWSTimeout(ws_close=0.3)
            self._ws = await self._session.ws_connect(self._url, autoping=False, max_msg_size=0, timeout=patience)
        except BaseException:
            await self._session.close()
            raise
        return self._ws

    async def __aexit__(self, *_: object) -> None:
        await self._ws.close()
        await self._session.close()


async def read(ws: aiohttp.ClientWebSocketResponse, n: int, seconds: float = 20.0) -> list[Any]:
    """The next `n` messages, JSON where they are."""
    out: list[Any] = []
    async with asyncio.timeout(seconds):
        while len(out) < n:
            message = await ws.receive()
            assert message.type is aiohttp.WSMsgType.TEXT, message
            out.append(message.data if message.data == "pong" else json.loads(message.data))
    return out


async def silent(ws: aiohttp.ClientWebSocketResponse, seconds: float = 0.4) -> bool:
    """True when nothing comes for a while."""
    try:
        async with asyncio.timeout(seconds):
            await ws.receive()
    except TimeoutError:
        return True
    return False


async def close_code(ws: aiohttp.ClientWebSocketResponse, seconds: float = 20.0) -> int | None:
    """The code with which the server closes, whatever it says before."""
    async with asyncio.timeout(seconds):
        async for _ in ws:
            pass
    return ws.close_code


class Renamed:
    """A tape with other specs."""

    def __init__(self, tape, specs):
        self._tape, self.specs = tape, specs
        self.venue, self.span_ms = tape.venue, tape.span_ms

    def __getattr__(self, name):
        return getattr(self._tape, name)
