"""OKX's bulk files: candles of one minute, and settled funding, which REST has for three months only.

`market-data-history` lists them; they lie on a host of their own, without checksums (the zip's own CRC is checked).
Facts about them: a file's day and month are those of UTC+8; funding by day is one file for all swaps; old files have
Chinese in the header; the funding of old files has the estimate beside what was paid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from qlib_crypto.clock import DAY_MS, HOUR_MS, day_start, next_month, parse_utc
from qlib_crypto.errors import VenueError
from qlib_crypto.feeds.bulk_files import BulkFiles, Table, milliseconds
from qlib_crypto.feeds.calendar_files import by_grid, months
from qlib_crypto.feeds.fields import confirmed_bar, linear, number, wall_ms
from qlib_crypto.feeds.okx_rest import OkxRest
from qlib_crypto.feeds.session import PathsLike
from qlib_crypto.feeds.transport import Patience
from qlib_crypto.schemas import Bar, Settlement
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue

#: Every file that may be asked for: the host has nothing but files.
PATHS = PathsLike(r"/([A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+(-[A-Za-z0-9_]+)*\.zip")
_CANDLES, _FUNDING = 2, 3
_BARS = Table(
    [("instrument_name", "open", "high", "low", "close", "vol", "vol_ccy", "vol_quote", "open_time", "confirm")],
    [("instrument_name",), ("open_time",), ("open",), ("high",), ("low",), ("close",), ("vol_ccy",), ("vol_quote",)],
)
_RATES = Table(
    [
        ("instrument_name", "funding_rate", "funding_time"),
        ("instrument_name", "funding_rate", "real_funding_rate", "funding_time"),
        ("instrument_name", "contract_type", "funding_rate", "real_funding_rate", "funding_time"),
    ],
    [("instrument_name", "contract_type"), ("funding_time",), ("real_funding_rate", "funding_rate")],
)
#: A file of a day or month begins so long before it does in UTC.
_EARLY_MS = 8 * HOUR_MS
#: Files come on the second day after.
_PUBLISHED_AFTER_MS = 2 * DAY_MS + _EARLY_MS
#: Days asked for in one listing; OKX takes 20.
_LISTED_DAYS = 10
#: Days of all swaps' funding that are remembered, so that they are not downloaded again for the next contract.
_REMEMBERED = 64

type _Rates = dict[str, dict[int, float]]


class OkxArchive:
    """The bulk files of OKX; see `archive.Archive`."""

    def __init__(self, settings: VenueSettings, patience: Patience | None = None) -> None:
        self._rest = OkxRest(settings, patience)
        self._files = BulkFiles(Venue.OKX, settings, PATHS, patience)
        self._host = urlsplit(settings.archive_url).netloc
        self._remembered: dict[str, _Rates] = {}

    def serves(self, dataset: str) -> bool:
        """Candles of one minute, and funding."""
        return dataset in ("kline_1m", "funding")

    def published_until_ms(self, now_ms: int, dataset: str) -> int:  # noqa: ARG002 - both come alike
        """Two days ago, by days of UTC+8."""
        return day_start(now_ms - _PUBLISHED_AFTER_MS)

    def bars(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[Bar]]:
        """See `archive.Archive`."""
        listing = _Listing(self._rest, _CANDLES, _family(instrument))
        near: dict[int, dict[int, Bar]] = {}  # the last two days, for each is needed twice

        def read(url: str) -> Iterator[tuple[int, Bar]]:
            received = wall_ms()
            for name, stamp, *fields in self._rows(url, _BARS):
                if name == instrument.venue_id:
                    at = milliseconds(stamp)
                    yield at, confirmed_bar(instrument, interval, at, fields, None, "archive", received)

        def read_month(month: int) -> Iterator[tuple[int, Bar]]:
            for url in listing.of_month(month):
                yield from read(url)

        def read_day(day: int) -> Iterator[tuple[int, Bar]]:
            for label in (day, day + DAY_MS):
                if label not in near:
                    near[label] = {at: bar for url in listing.of_day(label) for at, bar in read(url)}
                yield from near[label].items()
            for done in [label for label in near if label != day + DAY_MS]:
                del near[done]

        return by_grid(read_month, read_day, interval.ms, start_ms, end_ms)

    def settlements(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[Settlement]]:
        """See `archive.Archive`; the rate is what was paid where the file has it, and OKX states no mark price."""
        listing = _Listing(self._rest, _FUNDING, _family(instrument))
        everybody = _Listing(self._rest, _FUNDING, "ANY")
        for first, end, month in months(start_ms, end_ms):
            received, rates = wall_ms(), {}
            urls = listing.of_month(month)
            for url in urls:
                rates.update(self._rates(url).get(instrument.venue_id, {}))
            rest = max(first, next_month(month) - _EARLY_MS) if urls else first  # the last hours are in the next file
            for day in range(day_start(rest), end, DAY_MS) if rest < end else ():
                for label in (day, day + DAY_MS):
                    for url in everybody.of_day(label):
                        for at, rate in self._of_all(url).get(instrument.venue_id, {}).items():
                            rates.setdefault(at, rate)
            page = [Settlement(instrument, at, rates[at], None, "archive", received) for at in sorted(rates)]
            if page := [row for row in page if first <= row.time_ms < end]:
                yield page

    def _nothing(self, *_asked: Any, **_named: Any) -> Iterator[list[Any]]:
        """No page: OKX publishes no such files, and `serves` says so."""
        return iter(())

    marks = indexes = open_interest = long_short_ratio = _nothing

    def close(self) -> None:
        """Close the connections."""
        self._rest.close()
        self._files.close()

    def _of_all(self, url: str) -> _Rates:
        """The rates of a file of all swaps, remembered."""
        if url not in self._remembered:
            rates = self._rates(url)
            while len(self._remembered) >= _REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)), None)
            self._remembered[url] = rates
        return self._remembered.get(url, {})

    def _rates(self, url: str) -> _Rates:
        rates: _Rates = {}
        for name, stamp, text in self._rows(url, _RATES):
            if linear(Venue.OKX, name) and (rate := number(text)) is not None:
                rates.setdefault(name, {})[milliseconds(stamp)] = rate
        return rates

    def _rows(self, url: str, table: Table) -> Iterator[list[str]]:
        """The rows of a file that OKX linked to."""
        link = urlsplit(url)
        if link.netloc != self._host or link.path not in PATHS:
            raise VenueError(
                f"okx links to {url:.160}, which is no file on {self._host}; nothing was sent, check archive_url"
            )
        return self._files.rows(link.path, table, dict(parse_qsl(link.query)), summed=False)


class _Listing:
    """Where the files of one module and family are, each month and each ten days asked once."""

    def __init__(self, rest: OkxRest, module: int, family: str) -> None:
        self._rest, self._module, self._family = rest, module, family
        self._known: dict[tuple[str, int], dict[int, list[str]]] = {}
        self._now_ms: int | None = None

    def of_month(self, month_ms: int) -> list[str]:
        """Addresses of the files labelled with this month."""
        return self._asked("monthly", month_ms, month_ms, next_month(month_ms)).get(month_ms, [])

    def of_day(self, day_ms: int) -> list[str]:
        """Addresses of the files labelled with this day."""
        span = _LISTED_DAYS * DAY_MS
        first = day_ms - day_ms % span
        return self._asked("daily", first, first, first + span).get(day_ms, [])

    def _asked(self, size: str, key: int, start_ms: int, end_ms: int) -> dict[int, list[str]]:
        """By label; asked with a day to spare on both sides, whichever zone the listing counts in, not beyond now."""
        if self._now_ms is None:
            self._now_ms = self._rest.server_time_ms()
        if start_ms >= self._now_ms:
            return {}
        if (size, key) not in self._known:
            found: dict[int, list[str]] = {}
            listed = self._rest.files(
                module=self._module, instType="SWAP", instFamilyList=self._family, dateAggrType=size,
                begin=start_ms - DAY_MS, end=min(end_ms + DAY_MS, self._now_ms),
            )  # fmt: skip
            for name, url in listed:
                if match := re.search(r"(\d{4}-\d{2})(-\d{2})?\.zip$", name):
                    urls = found.setdefault(parse_utc(f"{match[1]}{match[2] or '-01'}"), [])
                    if bool(match[2]) == (size == "daily") and url not in urls:
                        urls.append(url)
            self._known[size, key] = found
        return self._known[size, key]


def _family(instrument: Instrument) -> str:
    return f"{instrument.base}-{instrument.quote}"
