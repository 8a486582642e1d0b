"""Binance's bulk files, data.binance.vision: candles, mark and index prices, settled funding, open interest, ratios.

Facts about them: a header only from about May 2022 on; monthly files of spring 2022 lack whole days that the daily
ones have; stamps are milliseconds, in files of the spot market microseconds; delisted contracts keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qlib_crypto.clock import DAY_MS, HOUR_MS, MINUTE_MS, day_start, month_start, parse_utc, utc
from qlib_crypto.feeds.bulk_files import BulkFiles, Table, milliseconds
from qlib_crypto.feeds.calendar_files import by_grid, months
from qlib_crypto.feeds.client import kind_of
from qlib_crypto.feeds.fields import confirmed_bar, number, price_bar, wall_ms
from qlib_crypto.feeds.session import PathsLike
from qlib_crypto.feeds.transport import Patience
from qlib_crypto.schemas import PERIOD_MS, Bar, IndexBar, LongShortRatio, MarkBar, OpenInterest, PriceBar, Settlement
from qlib_crypto.settings import VenueSettings
from qlib_crypto.symbols import Instrument, Interval, Venue, venue_bar

_ROOT = "/data/futures/um"
#: Every file that may be asked for.
PATHS = PathsLike(
    rf"{_ROOT}/(daily|monthly)/"
    r"((klines|markPriceKlines|indexPriceKlines)/[A-Z0-9]+/[0-9]+[mhd]|(fundingRate|metrics)/[A-Z0-9]+)"
    r"/[A-Z0-9]+-[A-Za-z0-9]+-[0-9]{4}-[0-9]{2}(-[0-9]{2})?\.zip(\.CHECKSUM)?"
)
_KLINE = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count", "taker_buy_volume",
    "taker_buy_quote_volume", "ignore",
)  # fmt: skip
_BARS = Table(
    [_KLINE],
    [
        ("open_time",), ("open",), ("high",), ("low",), ("close",), ("volume",),
        ("quote_volume", "quote_asset_volume"), ("count", "number_of_trades"),
    ],
)  # fmt: skip
_PRICES = Table([_KLINE], [("open_time",), ("open",), ("high",), ("low",), ("close",)])
_FUNDING = Table(
    [("calc_time", "funding_interval_hours", "last_funding_rate")], [("calc_time",), ("last_funding_rate",)]
)
_METRIC = (
    "create_time", "symbol", "sum_open_interest", "sum_open_interest_value", "count_toptrader_long_short_ratio",
    "sum_toptrader_long_short_ratio", "count_long_short_ratio", "sum_taker_long_short_vol_ratio",
)  # fmt: skip
_METRICS = Table(
    [_METRIC], [("create_time",), ("sum_open_interest",), ("sum_open_interest_value",), ("count_long_short_ratio",)]
)
#: From this day's file on, a metrics row is labelled with the start of its 5 minutes; before, with their end.
RELABELLED_MS = parse_utc("2026-06-25")
_SERVED = ("kline", "mark", "index", "funding", "open_interest", "long_short_ratio")
#: Daily files of a day are there the next morning, monthly ones from the first Monday on.
_DAILY_AFTER_MS = 8 * HOUR_MS + 30 * MINUTE_MS
_MONDAY = 0


class BinanceArchive:
    """The bulk files of Binance USD-M; see `archive.Archive`."""

    def __init__(self, settings: VenueSettings, patience: Patience | None = None) -> None:
        self._files = BulkFiles(Venue.BINANCE, settings, PATHS, patience)

    def serves(self, dataset: str) -> bool:
        """Candles, marks and indexes of every interval, funding, open interest, long/short ratio."""
        return kind_of(dataset) in _SERVED

    def published_until_ms(self, now_ms: int, dataset: str) -> int:
        """Daily files: the end of yesterday from 08:30 UTC on. Funding is by month only: from its next first Monday."""
        if dataset != "funding":
            return day_start(now_ms - _DAILY_AFTER_MS)
        this = month_start(now_ms)
        monday = this + (_MONDAY - utc(this).weekday()) % 7 * DAY_MS + DAY_MS
        return this if now_ms >= monday else month_start(this - 1)

    def bars(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[Bar]]:
        """See `archive.Archive`."""

        def read(path: str) -> Iterator[tuple[int, Bar]]:
            received = wall_ms()
            for stamp, o, h, l, c, volume, quote, count in self._files.rows(path, _BARS, summed=True):
                at = milliseconds(stamp)
                fields = (o, h, l, c, volume, quote)
                yield at, confirmed_bar(instrument, interval, at, fields, count, "archive", received)

        folder = f"klines/{instrument.venue_id}/{venue_bar(Venue.BINANCE, interval)}"
        return by_grid(_by(read, folder, "monthly"), _by(read, folder, "daily"), interval.ms, start_ms, end_ms)

    def marks(self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int) -> Iterator[list[MarkBar]]:
        """See `archive.Archive`."""
        return self._prices(MarkBar, "markPriceKlines", instrument, interval, start_ms, end_ms)

    def indexes(
        self, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int
    ) -> Iterator[list[IndexBar]]:
        """See `archive.Archive`."""
        return self._prices(IndexBar, "indexPriceKlines", instrument, interval, start_ms, end_ms)

    def settlements(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[Settlement]]:
        """See `archive.Archive`; the files have no mark price."""
        for _, _, month in months(start_ms, end_ms):
            received = wall_ms()
            rows = self._files.rows(
                _path(f"fundingRate/{instrument.venue_id}", "monthly", month), _FUNDING, summed=True
            )
            stamped = ((milliseconds(stamp), number(rate)) for stamp, rate in rows)
            rates = {at: rate for at, rate in stamped if start_ms <= at < end_ms and rate is not None}
            if rates:
                yield [Settlement(instrument, at, rates[at], None, "archive", received) for at in sorted(rates)]

    def open_interest(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[OpenInterest]]:
        """See `archive.Archive`."""
        for page, received in self._metrics(instrument, start_ms, end_ms):
            out = [
                OpenInterest(instrument, at, coins, number(value), "archive", received)
                for at, (text, value, _) in page
                if (coins := number(text)) is not None
            ]
            if out:
                yield out

    def long_short_ratio(self, instrument: Instrument, start_ms: int, end_ms: int) -> Iterator[list[LongShortRatio]]:
        """See `archive.Archive`."""
        for page, received in self._metrics(instrument, start_ms, end_ms):
            out = [
                LongShortRatio(instrument, at, ratio, "archive", received)
                for at, (_, _, text) in page
                if (ratio := number(text)) is not None
            ]
            if out:
                yield out

    def close(self) -> None:
        """Close the connections."""
        self._files.close()

    def _prices[B: PriceBar](
        self, kind: type[B], named: str, instrument: Instrument, interval: Interval, start_ms: int, end_ms: int
    ) -> Iterator[list[B]]:
        def read(path: str) -> Iterator[tuple[int, B]]:
            received = wall_ms()
            for stamp, *prices in self._files.rows(path, _PRICES, summed=True):
                at = milliseconds(stamp)
                yield at, price_bar(kind, instrument, interval, at, prices, "archive", received)

        folder = f"{named}/{instrument.index_id}/{venue_bar(Venue.BINANCE, interval)}"
        return by_grid(_by(read, folder, "monthly"), _by(read, folder, "daily"), interval.ms, start_ms, end_ms)

    def _metrics(
        self, instrument: Instrument, start_ms: int, end_ms: int
    ) -> Iterator[tuple[list[tuple[int, list[str]]], int]]:
        """Pages of a day: time and texts of each row in [start, end), by the END of its 5 minutes as over REST.

        The row of 00:00 stands in the file of the day before. Where a time comes twice, the first one counts.
        """
        last = start_ms - 1
        for day in range(day_start(start_ms - 1), end_ms, DAY_MS):
            received = wall_ms()
            later = PERIOD_MS if day >= RELABELLED_MS else 0
            rows: dict[int, list[str]] = {}
            path = _path(f"metrics/{instrument.venue_id}", "daily", day)
            for stamp, *values in self._files.rows(path, _METRICS, summed=True):
                at = milliseconds(stamp) + later
                if last < at < end_ms:
                    rows.setdefault(at, values)
            if rows:
                last = max(rows)
                yield sorted(rows.items()), received


def _by[T](read: Callable[[str], T], folder: str, size: str) -> Callable[[int], T]:
    """`read`, of the file of a month or day instead of a path."""
    return lambda start_ms: read(_path(folder, size, start_ms))


def _path(folder: str, size: str, start_ms: int) -> str:
    kind, symbol, *interval = folder.split("/")
    day = utc(start_ms).strftime("%Y-%m" if size == "monthly" else "%Y-%m-%d")
    return f"{_ROOT}/{size}/{folder}/{symbol}-{interval[0] if interval else kind}-{day}.zip"
