"""For the tests of feeds with recorded and documented messages: files of the wire folder, and feeds fed with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from support_feeds import settings_at

from qlib_crypto.feeds.binance_rest import BinanceRest
from qlib_crypto.feeds.okx_rest import OkxRest
from qlib_crypto.feeds.public_feed import STREAMED
from qlib_crypto.feeds.telling import Repeats, StreamCounters
from qlib_crypto.feeds.venues import VENUES
from qlib_crypto.settings import BinanceSettings, OkxSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

M1 = Interval.parse("1m")


class Told:
    """Stands for the HTTP core: gives recorded answers by path."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers, self.asked = answers, []

    def get(self, path: str, **params: Any) -> Any:
        self.asked.append((path, params))
        return self.answers[path]


def client_of(venue: Venue, http: Any) -> OkxRest | BinanceRest:
    """A client on another HTTP core, or on recorded answers by path."""
    client = OkxRest(OkxSettings()) if venue is Venue.OKX else BinanceRest(BinanceSettings())
    client.close()
    client._http = Told(http) if isinstance(http, dict) else http
    return client


def load(path: Path) -> Any:
    return orjson.loads(path.read_bytes())


def example(path: Path) -> Any:
    """The answer of an endpoint example, and what a subscription example pushes."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith(">"):
        return json.loads(text.split("\n=", 1)[1])
    return json.loads(text.split("\n", 3)[3])


def recorded(path: Path) -> list[Any]:
    """The lines of a cryptofeed recording."""
    raw = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd").read()
    return [orjson.loads(line) for line in raw.splitlines()]


class Fed:
    """What a feed made of messages: objects and rows, problems, counters."""

    def __init__(
        self,
        venue: Venue,
        messages: Iterable[Any],
        *instruments: Instrument,
        interval: Interval = M1,
        contract_values: Callable[[Instrument], float | None] = lambda _: 1.0,
        attributes: Mapping[str, Any] | None = None,
        monotonic: Callable[[], float] = lambda: 0.0,
        **settings: Any,
    ) -> None:
        self.got: list[Any] = []
        self.problems: list[str] = []
        self.counters = StreamCounters()
        self._repeats = Repeats(monotonic)
        asyncio.run(self._feed(venue, messages, instruments, interval, contract_values, attributes or {}, settings))

    async def _feed(
        self,
        venue: Venue,
        messages: Iterable[Any],
        instruments: Sequence[Instrument],
        interval: Interval,
        contract_values: Callable[[Instrument], float | None],
        attributes: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        async def take(obj: Any, _at: float) -> None:
            self.got.append(obj)

        feed = VENUES[venue].feed(
            settings_at(venue, "http://127.0.0.1:9", **settings),
            list(instruments),
            interval,
            callbacks=dict.fromkeys(("candles", "funding", "row"), take),
            on_problem=self.problems.append,
            datasets=STREAMED,
            contract_values=contract_values,
            counters=self.counters,
            repeats=self._repeats,
        )
        for name, value in attributes.items():
            setattr(feed, name, value)
        conn, *_ = feed.connect()[0]
        for message in messages:
            text = message if isinstance(message, str) else orjson.dumps(message).decode()
            await feed.message_handler(text, conn, 1750000000.5)
